//! `serialize`: an image and all that it needs, from a store to an archive.
//!
//! The manifests are walked first; then the archive is written as planned: a regular file by several
//! fetches at once, anything else in order. What is written is verified before the archive is whole.

mod concurrent;
mod graph;
mod ordered;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::existing::Existing;
use super::{Context, Error, LeftOut, Moved, Result};
pub use crate::archive::Compression;
use crate::archive::checkpoint;
use crate::archive::plan::{Content, Plan, Why, Wishes};
use crate::image::{Descriptor, Digest, ImageName};
use crate::medium::Place;
use crate::medium::file::{NewFile, free_space, refuse_existing};
use crate::medium::ordered::Output;
use crate::store::{self, Name, Store};

/// How to write the archive.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Take referrers of every manifest along, and cosign's signatures.
    pub recursive: bool,
    /// Replace a file that exists.
    pub force: bool,
    /// Only plan.
    pub dry_run: bool,
    /// Take layers along that registries usually do not hold.
    pub foreign_layers: bool,
    /// Compress the whole archive.
    pub compression: Option<Compression>,
    /// Blobs that the other side has: they are left out, and the archive says so. Manifests always travel.
    pub leave_out: Arc<Existing>,
    /// Ledgers of earlier parts of this archive: what surely reached the medium with them is left out.
    pub earlier: Vec<checkpoint::Part>,
}

/// What was written.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub reference: String,
    pub digest: Digest,
    pub destination: String,
    /// Length of the archive; with compression, of the compressed archive. Planned and uncompressed in a dry run.
    pub bytes: u64,
    /// Blobs in the archive, manifests included.
    pub blobs: u64,
    /// Every blob in the order of the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Vec<PlannedEntry>>,
    /// Blobs that need not travel, and their bytes.
    pub blobs_skipped: u64,
    pub bytes_skipped: u64,
    /// In a dry run, each of them and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<Vec<SkippedEntry>>,
    pub moved: Moved,
    pub left_out: Vec<LeftOut>,
}

/// A blob that is left out because it need not travel.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SkippedEntry {
    pub digest: Digest,
    pub media_type: String,
    /// Size of the blob in bytes.
    pub size: u64,
    pub why: String,
}

/// A blob in a plan.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedEntry {
    pub digest: Digest,
    pub media_type: String,
    /// Size of the blob in bytes.
    pub size: u64,
    /// Where its headers begin in the uncompressed archive, in bytes.
    pub offset: u64,
}

/// Writes `image` to `destination`: a path, or `-` for standard output.
pub async fn serialize(cx: &Context, image: &ImageName, destination: &str, options: &Options) -> Result<Report> {
    let subject = Subject {
        store: cx.stores.open_source(image)?,
        reference: image.to_string(),
        root: image.name(),
        ref_name: image.name().to_string(),
    };
    write(cx, subject, destination, options).await
}

/// Writes what `root` leads to in `store` to `destination`; in the archive, the root is called `ref_name`.
pub async fn write_archive(
    cx: &Context,
    store: Arc<dyn Store>,
    root: &Descriptor,
    ref_name: &str,
    destination: &str,
    options: &Options,
) -> Result<Report> {
    let root = Name::Digest(root.digest);
    let subject = Subject { store, reference: ref_name.into(), root, ref_name: ref_name.into() };
    write(cx, subject, destination, options).await
}

/// What goes into an archive.
struct Subject {
    store: Arc<dyn Store>,
    /// For reports and messages.
    reference: String,
    /// The root in the store.
    root: Name,
    /// Its name in the archive.
    ref_name: String,
}

async fn write(cx: &Context, subject: Subject, destination: &str, options: &Options) -> Result<Report> {
    let place = Place::of(destination);
    if let Place::File(path) = &place
        && !options.dry_run
    {
        refuse_existing(path, options.force).map_err(|e| refused(path, e))?;
    }
    cx.progress.begin("planning");
    let Subject { store, reference, root, ref_name } = subject;
    let graph = graph::walk(cx, &store, &root, options.recursive).await?;
    let earlier = read_earlier(&options.earlier)?;
    let skip = |digest: &Digest, manifest: bool| match earlier.get(digest) {
        Some(ledger) => Some(Why::Earlier(ledger.clone())),
        None if manifest => None,
        None => options.leave_out.place(digest).map(|place| Why::Held(place.to_owned())),
    };
    let wishes = Wishes { foreign_layers: options.foreign_layers, skip: &skip };
    let plan = Plan::new(&graph.root, &ref_name, &graph.graph, &wishes)
        .map_err(|e| Error::Refused(format!("{reference}: {e}")))?;
    let mut report = report(reference, graph.root.digest, destination, &plan);
    report.plan = Some(planned(&plan));
    if options.dry_run {
        report.skipped = Some(skipped(&plan));
        return Ok(report);
    }
    if let Place::File(path) = &place {
        check_space(path, plan.length)?;
    }
    cx.progress.begin("serializing");
    for entry in &plan.entries {
        cx.progress.expect(u64::from(entry.descriptor.is_some()), entry.size());
    }
    report.bytes = match &place {
        Place::File(path) => {
            let file = NewFile::create(path, options.force).map_err(|e| refused(path, e))?;
            let bytes = match options.compression {
                None => concurrent::write(cx, &store, &plan, &file).await.map(|()| plan.length),
                some => {
                    ordered::write(cx, &store, &plan, Output::Open(file.file().clone()), some).await.map(|w| w.bytes)
                }
            };
            let bytes = bytes.map_err(|e| e.at(destination))?;
            finished(tokio::task::spawn_blocking(move || file.finish()).await).map_err(|e| refused(path, e))?;
            bytes
        }
        Place::Ordered(_) | Place::Tape(_) | Place::Standard => {
            let output = if let Place::Ordered(path) | Place::Tape(path) = &place {
                Output::Path(path.clone())
            } else {
                Output::Standard
            };
            let written = ordered::write(cx, &store, &plan, output, options.compression).await;
            written.map_err(|e| e.at(destination))?.bytes
        }
    };
    for entry in &plan.entries {
        if let (Some(_), Content::Blob(descriptor)) = (&entry.descriptor, &entry.content) {
            report.moved.blobs_sent += 1;
            report.moved.bytes_sent += descriptor.size;
        } else if entry.descriptor.is_some() {
            report.moved.manifests_sent += 1;
        }
    }
    Ok(report)
}

/// What can go wrong between a store and a medium.
enum Failed {
    Store(store::Error),
    Medium(std::io::Error),
}

impl From<store::Error> for Failed {
    fn from(error: store::Error) -> Self {
        Failed::Store(error)
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Failed::Medium(error)
    }
}

impl Failed {
    fn at(self, destination: &str) -> Error {
        match self {
            Failed::Store(error) => error.into(),
            Failed::Medium(source) => {
                let path = if destination == "-" { "standard output" } else { destination };
                Error::Io { path: path.into(), source }
            }
        }
    }
}

/// The result of a task; its panic goes on here.
fn finished<T>(joined: std::result::Result<T, tokio::task::JoinError>) -> T {
    joined.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}

fn refused(path: &Path, source: std::io::Error) -> Error {
    if source.kind() == std::io::ErrorKind::AlreadyExists {
        let path = path.display();
        return Error::Refused(format!(
            "{path} exists and is left as it is: name another file, or replace it with --force"
        ));
    }
    Error::Io { path: path.display().to_string(), source }
}

fn check_space(path: &Path, needed: u64) -> Result<()> {
    match free_space(path) {
        Some(free) if free < needed => Err(Error::Refused(format!(
            "{}: the archive needs {needed} bytes and {free} are free there: make space or name another place",
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn report(reference: String, digest: Digest, destination: &str, plan: &Plan) -> Report {
    let left_out = plan.left_out.iter().map(|layer| LeftOut {
        image: reference.clone(),
        what: layer.digest.to_string(),
        why: "a foreign layer, which registries do not hold; --foreign-layers takes it along".into(),
    });
    Report {
        left_out: left_out.collect(),
        reference,
        digest,
        destination: destination.into(),
        bytes: plan.length,
        blobs: plan.entries.iter().filter(|e| e.descriptor.is_some()).count() as u64,
        plan: None,
        blobs_skipped: plan.skipped.len() as u64,
        bytes_skipped: plan.skipped.iter().map(|s| s.descriptor.size).sum(),
        skipped: None,
        moved: Moved::default(),
    }
}

fn planned(plan: &Plan) -> Vec<PlannedEntry> {
    let entries = plan.entries.iter().filter_map(|entry| {
        let descriptor = entry.descriptor.as_ref()?;
        Some(PlannedEntry {
            digest: descriptor.digest,
            media_type: descriptor.media_type.clone(),
            size: descriptor.size,
            offset: entry.offset,
        })
    });
    entries.collect()
}

fn skipped(plan: &Plan) -> Vec<SkippedEntry> {
    let entries = plan.skipped.iter().map(|skipped| SkippedEntry {
        digest: skipped.descriptor.digest,
        media_type: skipped.descriptor.media_type.clone(),
        size: skipped.descriptor.size,
        why: match &skipped.why {
            Why::Held(place) => format!("in {place}"),
            Why::Earlier(ledger) => format!("in the earlier part that {ledger} tells of"),
        },
    });
    entries.collect()
}

/// What earlier parts of the archive hold, each with the ledger that tells.
fn read_earlier(parts: &[checkpoint::Part]) -> Result<HashMap<Digest, String>> {
    let mut held = HashMap::new();
    for part in parts {
        let name = part.file.display().to_string();
        let ledger = std::fs::read(&part.file).map_err(|source| Error::Io { path: name.clone(), source })?;
        let digests = checkpoint::before(&ledger, part.offset)
            .map_err(|e| Error::Refused(format!("{name} is not a checkpoint of an archive: {e}")))?;
        held.extend(digests.into_iter().map(|digest| (digest, name.clone())));
    }
    Ok(held)
}

/// What every fetch needs.
#[derive(Clone)]
struct Fetching {
    store: Arc<dyn Store>,
    progress: Arc<super::Progress>,
}
