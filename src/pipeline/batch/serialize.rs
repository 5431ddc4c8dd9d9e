//! `batch-serialize`: each image of a list that changed since it was last written, into an archive of its own
//! that leaves out what earlier archives of the directory carry.
//!
//! Invariant: an archive is recorded after it is whole and before the next one is begun; a run that fails
//! leaves nothing that a later one would count.

use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt;
use serde::Serialize;

use super::list::Row;
use super::sync_name::SyncName;
use super::tracker::{Archived, Written};
use super::{State, lock};
use crate::image::{Descriptor, Digest, ImageName, Reference, media_type};
use crate::pipeline::existing::{self, Existing};
use crate::pipeline::{Context, Error, Failure, LeftOut, Moved, Result, serialize};
use crate::store::{self, Location, Name, Store};

/// How to write the archives.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Name of the table in the directory.
    pub tracker: String,
    /// As for one archive. What to leave out is added to it.
    pub archive: serialize::Options,
}

/// What was written.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub directory: String,
    /// In the order of the list.
    pub archives: Vec<Entry>,
    pub moved: Moved,
    pub left_out: Vec<LeftOut>,
    pub failures: Vec<Failure>,
}

/// One image of the list.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub name: String,
    pub reference: String,
    pub digest: Digest,
    /// The archive in the directory; of an unchanged image, the one that it went into.
    pub file: String,
    pub state: State,
    /// Length of the archive in bytes; planned and uncompressed in a dry run, 0 of one that is not written.
    pub bytes: u64,
    /// Blobs in the archive, manifests included.
    pub blobs: u64,
    /// In a dry run: every blob in the order of the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Vec<serialize::PlannedEntry>>,
    /// In a dry run: what need not travel, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<Vec<serialize::SkippedEntry>>,
}

/// Writes what changed of `rows` into `directory`, in their order.
pub async fn batch_serialize(cx: &Context, rows: &[Row], directory: &Path, options: &Options) -> Result<Report> {
    serialize::check_level(&options.archive)?;
    let dry_run = options.archive.dry_run;
    if !dry_run {
        let failed = |source| Error::Io { path: directory.display().to_string(), source };
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let _lock = if dry_run { None } else { lock(directory)? };
    let tracker = Written::read(&directory.join(&options.tracker))?;
    unknown(directory, &tracker, &options.archive)?;
    cx.progress.begin("looking for changes");
    let found = resolve(cx, rows).await;
    let changed = |row: &Row, root: &Descriptor| tracker.last(&row.name).is_none_or(|last| last.digest != root.digest);
    let any_to_write = rows
        .iter()
        .zip(&found)
        .any(|(row, found)| found.as_ref().is_ok_and(|(_, root)| options.archive.recursive || changed(row, root)));
    let sent = if any_to_write { sent(cx, &tracker, directory).await? } else { Existing::default() };
    let mut run = Run { cx, directory, options, next: tracker.next_number(), tracker, sent, report: report(directory) };
    for (row, found) in rows.iter().zip(found) {
        let outcome = match found {
            Ok((store, root)) => run.write(row, store, &root).await,
            Err(e) => Err(e),
        };
        if let Err(error) = outcome {
            run.report.failures.push(Failure::new(row.text.clone(), Some(row.line), &error));
        }
    }
    Ok(run.report)
}

fn report(directory: &Path) -> Report {
    Report {
        directory: directory.display().to_string(),
        archives: Vec::new(),
        moved: Moved::default(),
        left_out: Vec::new(),
        failures: Vec::new(),
    }
}

/// Refuses a directory with archives that its table does not know: nobody can say whether they are whole, and the
/// other side would read them. Removes them where that was asked for.
fn unknown(directory: &Path, tracker: &Written, options: &serialize::Options) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    let files = super::archives(directory)?.0;
    let unknown: Vec<String> =
        files.iter().filter(|file| tracker.rows.iter().all(|row| row.file != **file)).map(|f| f.to_string()).collect();
    if !options.force && !unknown.is_empty() {
        return Err(Error::Refused(format!(
            "{}: {} not in {}, as after a run of another tool that failed: remove what is left of it, by hand or with \
             --force",
            directory.display(),
            if let [one] = &unknown[..] { format!("{one} is") } else { format!("{} are", unknown.join(", ")) },
            tracker.file_name(),
        )));
    }
    for file in unknown.iter().filter(|_| !options.dry_run) {
        let path = directory.join(file);
        std::fs::remove_file(&path).map_err(|source| Error::Io { path: path.display().to_string(), source })?;
    }
    Ok(())
}

/// What each row stands for now.
async fn resolve(cx: &Context, rows: &[Row]) -> Vec<Result<(Arc<dyn Store>, Descriptor)>> {
    let resolving = rows.iter().map(|row| async move {
        let store = cx.stores.open_source(&row.image)?;
        match store.resolve(&row.image.name()).await? {
            Some(root) => Ok((store, root.bare())),
            None => {
                let what = row.image.name().to_string();
                Err(Error::Store(store::Error::Missing { what, place: store.describe() }))
            }
        }
    });
    futures_util::stream::iter(resolving).buffered(cx.jobs()).collect().await
}

/// What the archives of the tracker carried: from the archive where it is still in the directory, else from where it
/// was made. What is in neither place any more is sent again.
async fn sent(cx: &Context, tracker: &Written, directory: &Path) -> Result<Existing> {
    cx.progress.begin("looking at what was sent");
    let looking = tracker.rows.iter().map(|row| async move {
        for place in places(row, directory) {
            match existing::digests(cx, std::slice::from_ref(&place)).await {
                Ok(_) => return Some(place),
                Err(e) => tracing::info!("{place}: {e}"),
            }
        }
        tracing::warn!("{} is in {} no more, nor its archive: what it shares is sent again", row.digest, row.artifact);
        None
    });
    let places: Vec<Option<Location>> = futures_util::stream::iter(looking).buffered(4).collect().await;
    existing::digests(cx, &places.into_iter().flatten().collect::<Vec<_>>()).await
}

/// Where to look for what an archive carried, the cheapest place first.
fn places(row: &Archived, directory: &Path) -> Vec<Location> {
    let path = directory.join(row.file.to_string());
    let file = path.is_file().then(|| Location::Archive(path.display().to_string()));
    let image = match row.artifact.parse::<ImageName>() {
        Ok(ImageName::Registry(reference)) => {
            Some(ImageName::Registry(Reference { digest: Some(row.digest), ..reference }))
        }
        Ok(ImageName::Layout { directory, .. }) => {
            Some(ImageName::Layout { directory, name: Some(Name::Digest(row.digest)) })
        }
        // Written by hand, or by a later version.
        Err(_) => None,
    };
    let mut places: Vec<Location> = file.into_iter().chain(image.map(Location::Image)).collect();
    if row.file.is_compressed() {
        places.reverse();
    }
    places
}

struct Run<'a> {
    cx: &'a Context,
    directory: &'a Path,
    options: &'a Options,
    next: u64,
    tracker: Written,
    sent: Existing,
    report: Report,
}

impl Run<'_> {
    /// Writes and records the archive of one row, if it is needed.
    async fn write(&mut self, row: &Row, store: Arc<dyn Store>, root: &Descriptor) -> Result<()> {
        let same = self.tracker.last(&row.name).filter(|last| last.digest == root.digest).cloned();
        if let Some(last) = &same
            && !self.is_more(row, &store, root).await?
        {
            self.enter(row, root, last.file.to_string(), State::Unchanged, None);
            return Ok(());
        }
        let options = self.archive_options();
        let file = SyncName::new(self.next, &row.name, options.compression);
        let path = self.directory.join(file.to_string());
        let destination = path.display().to_string();
        let written = serialize::write_archive(self.cx, store, root, &row.text, &destination, &options).await?;
        let state = if options.dry_run { State::Planned } else { State::Done };
        if !options.dry_run {
            self.tracker.add(Archived { file: file.clone(), artifact: row.text.clone(), digest: root.digest })?;
        }
        self.sent.add(&destination, carried(&written));
        self.next += 1;
        self.report.left_out.extend(written.left_out.iter().cloned());
        self.report.moved += written.moved;
        self.enter(row, root, file.to_string(), state, Some(written));
        Ok(())
    }

    /// Whether there is more to send of an image whose own digest was sent: with referrers, they may have come since.
    async fn is_more(&self, row: &Row, store: &Arc<dyn Store>, root: &Descriptor) -> Result<bool> {
        if !self.options.archive.recursive {
            return Ok(false);
        }
        let plan = serialize::Options { dry_run: true, ..self.archive_options() };
        let planned = serialize::write_archive(self.cx, store.clone(), root, &row.text, "-", &plan).await?;
        Ok(carried(&planned).any(|(digest, ..)| !self.sent.contains(&digest)))
    }

    fn archive_options(&self) -> serialize::Options {
        serialize::Options { leave_out: Arc::new(self.sent.clone()), ..self.options.archive.clone() }
    }

    /// Tells of one row; `written` is its archive, where there is a new one.
    fn enter(&mut self, row: &Row, root: &Descriptor, file: String, state: State, written: Option<serialize::Report>) {
        let (bytes, blobs) = written.as_ref().map_or((0, 0), |written| (written.bytes, written.blobs));
        let planned = written.filter(|_| self.options.archive.dry_run);
        let (plan, skipped) = planned.map_or((None, None), |planned| (planned.plan, planned.skipped));
        let (name, reference, digest) = (row.name.clone(), row.text.clone(), root.digest);
        self.report.archives.push(Entry { name, reference, digest, file, state, bytes, blobs, plan, skipped });
    }
}

/// Digest and size of each blob in an archive, and whether it is a manifest.
fn carried(report: &serialize::Report) -> impl Iterator<Item = (Digest, u64, bool)> {
    let plan = report.plan.iter().flatten();
    plan.map(|entry| (entry.digest, entry.size, media_type::is_manifest(&entry.media_type)))
}
