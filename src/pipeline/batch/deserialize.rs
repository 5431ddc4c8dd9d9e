//! `batch-deserialize`: the archives of a directory that were not read yet, in the order of their numbers,
//! each to a tag that is its name.
//!
//! Invariant: an archive is recorded when all of it was verified at its destination and its tag was set; an
//! older archive never takes a tag back from a newer one.

use std::path::Path;

use serde::Serialize;

use super::root::root_of;
use super::sync_name::SyncName;
use super::tracker::{ReadBack, WRITTEN_FILE, Written};
use super::{State, archives, lock};
use crate::image::{Digest, ImageName, Reference};
use crate::pipeline::copy::{self, Copier, Plan, finished};
use crate::pipeline::{Context, Error, Failure, LeftOut, Moved, Result, deserialize};
use crate::store::Name;

/// How to read the archives.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Name of the table in the directory.
    pub tracker: String,
    /// Only say what would be read.
    pub dry_run: bool,
}

/// What arrived.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub directory: String,
    /// In the order of their numbers.
    pub archives: Vec<Entry>,
    /// Files in the directory that are not archives of a batch.
    pub ignored: Vec<String>,
    pub moved: Moved,
    pub left_out: Vec<LeftOut>,
    pub failures: Vec<Failure>,
}

/// One archive of the directory.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub file: String,
    /// Where it went: the tag that is its name, or its digest where a newer archive has that tag.
    pub reference: String,
    pub digest: Digest,
    pub state: State,
    /// In a dry run: what would be done.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
}

/// Reads what is new in `directory` into the repository `destination`, which has neither tag nor digest.
pub async fn batch_deserialize(
    cx: &Context,
    directory: &Path,
    destination: &ImageName,
    options: &Options,
) -> Result<Report> {
    let _lock = if options.dry_run { None } else { lock(directory)? };
    let (files, ignored) = archives(directory)?;
    let mut read = ReadBack::read(&directory.join(&options.tracker))?;
    let written = Written::read(&directory.join(WRITTEN_FILE))?;
    let mut report = Report {
        directory: directory.display().to_string(),
        archives: Vec::new(),
        ignored,
        moved: Moved::default(),
        left_out: Vec::new(),
        failures: Vec::new(),
    };
    // What an archive relies on, an earlier one may bring.
    let rehearsal = options.dry_run.then(|| Copier::planned(cx, copy::Options { dry_run: true, ..Default::default() }));
    for file in &files {
        let tag = at(destination, Name::Tag(file.name.clone()));
        let path = directory.join(file.to_string());
        let outcome = read_one(cx, file, &path, &tag, &written, &mut read, rehearsal.as_ref()).await;
        match outcome {
            Ok((entry, arrived)) => {
                report.archives.push(entry);
                if let Some(arrived) = arrived {
                    report.moved += arrived.moved;
                    report.left_out.extend(arrived.left_out);
                }
            }
            Err(error) => {
                report.failures.push(Failure::new(path.display().to_string(), None, &error));
            }
        }
    }
    if let Some(rehearsal) = rehearsal {
        report.moved = rehearsal.moved();
    }
    Ok(report)
}

/// Reads one archive, unless it was read before. Gives what moved, if something did.
async fn read_one(
    cx: &Context,
    file: &SyncName,
    path: &Path,
    tag: &ImageName,
    written: &Written,
    read: &mut ReadBack,
    rehearsal: Option<&Copier>,
) -> Result<(Entry, Option<deserialize::Report>)> {
    let place = path.to_owned();
    let digest = finished(tokio::task::spawn_blocking(move || root_of(&place)).await)?;
    let promised = written.rows.iter().rfind(|row| row.file == *file).map(|row| row.digest);
    if let Some(promised) = promised.filter(|promised| *promised != digest) {
        return Err(Error::Refused(format!(
            "{} carries {digest}, and {WRITTEN_FILE} says {promised}: carry the directory over again",
            path.display()
        )));
    }
    let destination = if read.has_newer(file, tag) { at(tag, Name::Digest(digest)) } else { tag.clone() };
    let entry = |state, plan| Entry { file: file.to_string(), reference: destination.to_string(), digest, state, plan };
    if read.has(file, tag, &digest) {
        return Ok((entry(State::Unchanged, None), None));
    }
    let source = path.display().to_string();
    if let Some(rehearsal) = rehearsal {
        let mut planned = deserialize::rehearse(cx, rehearsal, &source, &destination).await?;
        return Ok((entry(State::Planned, planned.plan.take()), Some(planned)));
    }
    let arrived = deserialize::deserialize(cx, &source, &destination, &deserialize::Options::default()).await?;
    read.add(file, tag, &digest)?;
    Ok((entry(State::Done, None), Some(arrived)))
}

/// An image of the repository or layout that `place` is in.
fn at(place: &ImageName, name: Name) -> ImageName {
    match place {
        ImageName::Layout { directory, .. } => ImageName::Layout { directory: directory.clone(), name: Some(name) },
        ImageName::Registry(reference) => {
            let (tag, digest) = match name {
                Name::Tag(tag) => (Some(tag), None),
                Name::Digest(digest) => (None, Some(digest)),
            };
            ImageName::Registry(Reference { tag, digest, ..reference.clone() })
        }
    }
}
