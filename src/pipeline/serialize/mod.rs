//! `serialize`: an image and all that it needs, from a store to an archive.
//!
//! The manifests are walked first; then the archive is written as planned: a regular file by several
//! fetches at once, anything else in order. What is written is verified before the archive is whole.

mod check;
mod concurrent;
mod failed;
mod file;
mod found;
mod graph;
mod in_order;
mod into_object;
mod into_volumes;
mod ledger;
mod on_tape;
mod onto_tape;
mod ordered;
mod packed;
mod read_back;
mod report;
mod there;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::existing::Existing;
use super::{Context, Error, Result};
pub use crate::archive::Compression;
use crate::archive::checkpoint;
use crate::archive::plan::{Plan, Why, Wishes};
use crate::image::{Descriptor, Digest, ImageName};
use crate::medium::Place;
use crate::medium::file::NewFile;
use crate::medium::ordered::{Passage, reader_gone};
use crate::medium::writing::Writing;
use crate::store::{Name, Store};
use check::is_one_file;
pub use check::{check, check_level};
use failed::{Failed, refused};
use ledger::Ledger;
pub use report::{PlannedEntry, Report, SkippedEntry};

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
    /// Go on with what an earlier run left of the same archive.
    pub resume: bool,
    /// Level of the compression; the method's own without.
    pub level: Option<i32>,
    /// `manifest.json` at the end, for `docker load`.
    pub manifest_json: bool,
    /// Ledger to write: what is on the medium.
    pub checkpoint: Option<PathBuf>,
    /// What the user said of tapes and volumes.
    pub medium: Writing,
    /// Ledgers of earlier parts of this archive: what surely reached the medium with them is left out.
    pub earlier: Vec<checkpoint::Part>,
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
    check(destination, options).await?;
    let place = Place::of(destination);
    let file = match &place {
        Place::File(path) if is_one_file(options) => {
            Some(NewFile::open(path, options.force).map_err(|e| refused(path, e))?)
        }
        _ => None,
    };
    // Volumes of one name are written by one run at a time, too. What is there of a single file stays as it is.
    let _alone = match &place {
        Place::File(path) if !options.dry_run && file.is_none() => {
            Some(NewFile::open(path, true).map_err(|e| refused(path, e))?)
        }
        _ => None,
    };
    cx.progress.begin("planning");
    let Subject { store, reference, root, ref_name } = subject;
    let recalled = match &file {
        Some(file) if options.resume && file.is_kept() => file::recall(file).await,
        _ => None,
    };
    let graph = while_read(&place, options, graph::walk(cx, &store, &root, options.recursive, recalled)).await?;
    let earlier = read_earlier(&options.earlier)?;
    let skip = |digest: &Digest, manifest: bool| match earlier.get(digest) {
        Some(ledger) => Some(Why::Earlier(ledger.clone())),
        None if manifest => None,
        None => options.leave_out.place(digest).map(|place| Why::Held(place.to_owned())),
    };
    let (foreign_layers, manifest_json) = (options.foreign_layers, options.manifest_json);
    let wishes = Wishes { foreign_layers, manifest_json, skip: &skip };
    let plan = Plan::new(&graph.root, &ref_name, &graph.graph, &wishes)
        .map_err(|e| Error::Refused(format!("{reference}: {e}")))?;
    let mut report = Report::new(reference, graph.root.digest, destination, &plan);
    if options.dry_run {
        report.tell_skipped(&plan);
        return Ok(report);
    }
    let work = Work { cx, store: &store, plan: &plan, options };
    match file {
        Some(file) => file::write(&work, file, &mut report).await?,
        None => in_order::write(&work, &place, &mut report).await?,
    }
    Ok(report)
}

/// An archive that is to be written.
struct Work<'a> {
    cx: &'a Context,
    store: &'a Arc<dyn Store>,
    plan: &'a Plan,
    options: &'a Options,
}

/// Does `work` as long as somebody reads what is to go to standard output.
async fn while_read<T>(place: &Place, options: &Options, work: impl Future<Output = Result<T>>) -> Result<T> {
    if *place != Place::Standard || options.dry_run {
        return work.await;
    }
    tokio::select! {
        biased;
        done = work => done,
        e = reader_gone(std::io::stdout()) => Err(Failed::Medium(e).at("-")),
    }
}

impl Work<'_> {
    /// How it is compressed, and how much.
    fn compression(&self) -> Option<(Compression, Option<i32>)> {
        self.options.compression.map(|compression| (compression, self.options.level))
    }

    /// What becomes of the bytes; begins the checkpoint.
    fn passage(&self) -> Result<Passage> {
        let options = self.options;
        let mut passage = Passage { compression: options.compression, level: options.level, ..Passage::default() };
        if let Some(path) = &options.checkpoint {
            let io = |source| Error::Io { path: path.display().to_string(), source };
            let ledger = Ledger::create(path, self.plan, options.compression.is_some()).map_err(io)?;
            passage.watcher = Some(Box::new(ledger));
        }
        Ok(passage)
    }

    /// Tells what there is to do.
    fn begin(&self) {
        self.cx.progress.begin("serializing");
        for entry in &self.plan.entries {
            self.cx.progress.expect(u64::from(entry.descriptor.is_some()), entry.size());
        }
    }
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
