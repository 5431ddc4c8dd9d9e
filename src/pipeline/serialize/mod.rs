//! `serialize`: an image and all that it needs, from a store to an archive.
//!
//! The manifests are walked first; then the archive is written as planned: a regular file by several
//! fetches at once, anything else in order. What is written is verified before the archive is whole.

mod concurrent;
mod found;
mod graph;
mod ledger;
mod ordered;
mod packed;
mod report;
mod standing;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::copy::finished;
use super::existing::Existing;
use super::{Context, Error, Result};
pub use crate::archive::Compression;
use crate::archive::checkpoint;
use crate::archive::follow::Standing;
use crate::archive::plan::{Plan, Why, Wishes};
use crate::image::{Descriptor, Digest, ImageName};
use crate::medium::Place;
use crate::medium::file::{NewFile, allocated, free_space, refuse_existing};
use crate::medium::identity::Identity;
use crate::medium::object::{self, reader::ObjectReader};
use crate::medium::ordered::{Output, Passage, reader_gone};
use crate::medium::tape::writer::TapeUsed;
use crate::medium::tape::{self, rewinds_on_close};
use crate::medium::volumes::Listing;
use crate::medium::volumes::listing::{drop_cache, listing_path};
use crate::medium::volumes::reader;
use crate::medium::volumes::writer::refuse_volumes;
use crate::medium::writing::{Begin, Writing};
use crate::store::archive::Archive;
use crate::store::{self, Name, Store};
use found::Found;
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
    cx.progress.begin("planning");
    let Subject { store, reference, root, ref_name } = subject;
    let recalled = match &file {
        Some(file) if options.resume && file.is_kept() => recall(file).await,
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
    let mut found = Vec::new();
    report.bytes = match (&place, file) {
        (Place::File(path), Some(file)) => {
            let resumed = &mut report.bytes_resumed;
            let written = match options.compression {
                Some(compression) => {
                    begin_file(&file, options).map_err(|e| refused(path, e))?;
                    packed::write(cx, &store, &plan, &file, (compression, options), resumed).await
                }
                None => write_file(cx, &store, &plan, &file, options, &mut found).await,
            };
            let bytes = written.map_err(|e| unfinished(&file, e.at(destination)))?;
            if options.medium.verify {
                cx.progress.begin("reading back");
                let (path, plan) = (file.partial().to_owned(), plan.clone());
                let read = tokio::task::spawn_blocking(move || read_back(&path, &plan)).await;
                finished(read).map_err(|e| Failed::Medium(e).at(destination))?;
            }
            finished(tokio::task::spawn_blocking(move || file.finish()).await).map_err(|e| refused(path, e))?;
            bytes
        }
        _ => {
            let passage = passage(&plan, options)?;
            let written = write_in_order(cx, &store, &plan, &place, options, passage, &mut report).await;
            written.map_err(|e| match e {
                Failed::Medium(e) if matches!(place, Place::Object(_)) => refused(Path::new(destination), e),
                e => e.at(destination),
            })?
        }
    };
    report.count(&plan, &found);
    Ok(report)
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

/// Writes to a medium that takes bytes in order, and gives the length of the archive on it.
async fn write_in_order(
    cx: &Context,
    store: &Arc<dyn Store>,
    plan: &Plan,
    place: &Place,
    options: &Options,
    passage: Passage,
    report: &mut Report,
) -> std::result::Result<u64, Failed> {
    let archive = Identity {
        reference: report.reference.clone(),
        root: report.digest,
        plan: plan.digest(),
        compression: options.compression.map(|c| options.level.map_or(c.to_string(), |level| format!("{c}:{level}"))),
    };
    let medium = &options.medium;
    let mut from = Standing::start();
    if options.resume && options.compression.is_some() {
        let why = "a compressed archive cannot be gone on with: write it anew, without --resume";
        return Err(std::io::Error::other(why).into());
    }
    if options.resume {
        cx.progress.begin("verifying what is there");
    }
    let mut watched = None;
    let output = match place {
        Place::Tape(drive) => {
            if rewinds_on_close(drive) {
                tracing::warn!("{} rewinds when it is closed: what is written next writes over this", drive.display());
            }
            let mut at = Begin::Here;
            if options.resume {
                let (drive, planned) = (drive.clone(), plan.clone());
                let (archive, operator) = (archive.clone(), medium.operator.clone());
                let look = move || standing::on_tape(&drive, &planned, &archive, &operator);
                let there = finished(tokio::task::spawn_blocking(look).await)?;
                report.bytes_resumed = there.standing.offset;
                if there.complete {
                    return Ok(plan.length);
                }
                (at, from) = (there.begin, there.standing);
            }
            // What is to be read back stays in the drive until then.
            let tape = if medium.verify { Default::default() } else { medium.tape };
            let overwrite = options.force;
            Writing { tape: tape::writer::Options { overwrite, ..tape }, ..medium.clone() }.tape(drive, archive, at)
        }
        Place::File(path) => {
            let volume_size = medium.volume_size.unwrap_or(u64::MAX);
            let mut listing = Listing::new(archive.clone(), volume_size);
            let mut force = options.force;
            if options.resume {
                let (path, planned) = (path.clone(), plan.clone());
                let look = move || standing::in_volumes(&path, &planned, &archive, volume_size);
                if let Some(there) = finished(tokio::task::spawn_blocking(look).await)? {
                    report.bytes_resumed = there.1.offset;
                    if there.0.complete && there.1.offset == plan.length {
                        return Ok(plan.length);
                    }
                    // What lies behind the last volume of an interrupted run is a part of it.
                    (listing, from, force) = (there.0, there.1, true);
                }
            }
            // Nobody knows how long it gets compressed.
            if options.compression.is_none() {
                check_space(path, plan.length - from.offset)?;
            }
            medium.volumes(path, listing, force)
        }
        Place::Object(url) => {
            let (resume, force) = (options.resume, options.force);
            let state = cx.stores.state();
            let wanted = object::writer::Wanted { archive, length: plan.length, resume, force, state };
            let begun = match object::writer::begin(url, &medium.objects, &wanted).await? {
                object::writer::Standing::Begun(begun) => begun,
                object::writer::Standing::Complete => {
                    report.bytes_resumed = plan.length;
                    return Ok(plan.length);
                }
            };
            report.bytes_resumed = begun.offset();
            from = Standing::at(plan, begun.restart(plan));
            let (writer, watch) = begun.start(from.offset);
            watched = Some(watch);
            crate::medium::writing::object(writer)
        }
        Place::Ordered(path) => Output::Path(path.clone()),
        Place::Standard => Output::Standard,
    };
    begin(cx, plan);
    let passage = Passage { before: from.offset, ..passage };
    let written = match (ordered::write(cx, store, plan, &from, output, passage).await, watched) {
        (Ok(written), _) => written,
        (Err(e), Some(watch)) => {
            return Err(match watch.left().await {
                Some(left) => Failed::Kept { left, source: Box::new(e) },
                None => e,
            });
        }
        (Err(e), None) => return Err(e),
    };
    report.tell_medium(written.medium);
    if medium.verify {
        cx.progress.begin("reading back");
        let (place, medium, plan, tapes) = (place.clone(), medium.clone(), plan.clone(), report.tapes.clone());
        finished(tokio::task::spawn_blocking(move || verify(&place, &medium, &plan, tapes)).await)?;
    }
    Ok(from.offset + written.bytes)
}

/// Reads back what was written.
fn verify(place: &Place, medium: &Writing, plan: &Plan, tapes: Option<Vec<TapeUsed>>) -> std::io::Result<()> {
    match place {
        Place::Tape(drive) => {
            let tapes = tapes.unwrap_or_default();
            let first = tapes.first().map_or(0, |tape| tape.position_before);
            standing::read_back(standing::tapes(drive, first, tapes.len() > 1, &medium.operator)?, plan)?;
        }
        // Their digests were computed of what was given to the disk.
        Place::File(path) => match reader::Found::of(&listing_path(path), &[])? {
            Some(reader::Found::Listed(volumes)) => {
                let again = |e| std::io::Error::other(format!("read back, {e}: write it to another medium"));
                volumes.check().map_err(again)?;
            }
            _ => return Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
        },
        Place::Object(url) => {
            let opened = tokio::runtime::Handle::current().block_on(ObjectReader::open(url, &medium.objects))?;
            standing::read_back(opened.in_order(), plan)?;
        }
        Place::Ordered(_) | Place::Standard => {
            return Err(std::io::Error::other("a pipe cannot be read back: leave out --verify"));
        }
    }
    match place {
        Place::Tape(drive) if medium.tape.eject => tape::Drive::open(drive, tape::Access::Read)?.eject(),
        Place::Tape(drive) if medium.tape.rewind => {
            let mut drive = tape::Drive::open(drive, tape::Access::Read)?;
            drive.rewind()?;
            drive.close()
        }
        _ => Ok(()),
    }
}

/// Reads a file back that was written.
fn read_back(path: &Path, plan: &Plan) -> std::io::Result<()> {
    let file = std::fs::File::open(path)?;
    file.sync_data()?;
    drop_cache(&file);
    standing::read_back(file, plan)
}

/// The manifests of an unfinished archive, so that they need not be fetched again; none if there is no such thing.
async fn recall(file: &NewFile) -> Option<Arc<Archive>> {
    let archive = Archive::open(&file.partial().to_string_lossy(), file.file().clone()).await;
    archive.map(Arc::new).inspect_err(|e| tracing::debug!("nothing to go on with: {e}")).ok()
}

/// Gives up what an earlier run left, unless it is to be gone on with.
fn begin_file(file: &NewFile, options: &Options) -> std::io::Result<()> {
    if !options.resume && file.is_kept() {
        tracing::warn!("{} of an earlier run is replaced: --resume would go on with it", file.partial().display());
        file.clear()?;
    }
    Ok(())
}

/// Writes a regular file, and gives its length. What was there of it is told in `found`.
async fn write_file(
    cx: &Context,
    store: &Arc<dyn Store>,
    plan: &Plan,
    file: &NewFile,
    options: &Options,
    found: &mut Vec<Found>,
) -> std::result::Result<u64, Failed> {
    begin_file(file, options)?;
    let passage = passage(plan, options).map_err(std::io::Error::other)?;
    if file.is_kept() {
        cx.progress.begin("verifying what is there");
        *found = found::examine(cx, plan, file.file()).await?;
    }
    check_space(file.partial(), plan.length.saturating_sub(allocated(file.file())?))?;
    begin(cx, plan);
    concurrent::write(cx, store, plan, file, found.clone()).await?;
    if let Some(mut watcher) = passage.watcher {
        // Entries are not written in their order: only now it is known how far the archive reaches.
        let (file, length) = (file.file().clone(), plan.length);
        let sync = move || watcher.reached(length, length, &|| file.sync_data(), true);
        finished(tokio::task::spawn_blocking(sync).await)?;
    }
    Ok(plan.length)
}

/// What becomes of the bytes; begins the checkpoint.
fn passage(plan: &Plan, options: &Options) -> Result<Passage> {
    let mut passage = Passage { compression: options.compression, level: options.level, ..Passage::default() };
    if let Some(path) = &options.checkpoint {
        let io = |source| Error::Io { path: path.display().to_string(), source };
        passage.watcher = Some(Box::new(Ledger::create(path, plan, options.compression.is_some()).map_err(io)?));
    }
    Ok(passage)
}

/// Whether a regular file is to be written, and one only.
fn is_one_file(options: &Options) -> bool {
    !options.dry_run && options.medium.volume_size.is_none()
}

/// Refuses what cannot be meant, and a destination that may not be replaced. For those who have much to do before
/// they write; whoever writes looks again.
pub async fn check(destination: &str, options: &Options) -> Result<()> {
    match Place::of(destination) {
        Place::File(path) if is_one_file(options) => {
            refuse_existing(&path, options.force).map_err(|e| refused(&path, e))?;
        }
        Place::File(path) if !options.dry_run && !options.resume => {
            refuse_volumes(&path, options.force).map_err(|e| refused(&path, e))?;
        }
        Place::Object(url) if !options.dry_run => refuse_object(&url, options).await?,
        Place::Ordered(_) | Place::Standard if options.resume => {
            return Err(Error::Refused(format!(
                "{destination} is no regular file: what it took cannot be read again, so nothing can be resumed; \
                 --checkpoint and --existing-from-checkpoint go on in a second part"
            )));
        }
        _ => {}
    }
    if let (Some(compression), Some(level)) = (options.compression, options.level)
        && !compression.levels().contains(&level)
    {
        let (first, last) = (compression.levels().start().to_owned(), compression.levels().end().to_owned());
        return Err(Error::Refused(format!("{compression} has no level {level}: it has {first} to {last}")));
    }
    let same = |part: &&checkpoint::Part| Some(&part.file) == options.checkpoint.as_ref();
    if let Some(part) = options.earlier.iter().find(same) {
        return Err(Error::Refused(format!(
            "{} tells of the earlier part and would be replaced: name another file for --checkpoint",
            part.file.display()
        )));
    }
    Ok(())
}

fn begin(cx: &Context, plan: &Plan) {
    cx.progress.begin("serializing");
    for entry in &plan.entries {
        cx.progress.expect(u64::from(entry.descriptor.is_some()), entry.size());
    }
}

/// Tells where the unfinished archive is, if it was worth keeping.
fn unfinished(file: &NewFile, error: Error) -> Error {
    if !file.is_kept() {
        return error;
    }
    Error::Unfinished { partial: file.partial().display().to_string(), source: Box::new(error) }
}

/// What can go wrong between a store and a medium.
enum Failed {
    Store(store::Error),
    Medium(std::io::Error),
    /// A later run can go on with what is left.
    Kept {
        left: String,
        source: Box<Failed>,
    },
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
            Failed::Kept { left, source } => {
                Error::Unfinished { partial: left, source: Box::new(source.at(destination)) }
            }
            Failed::Medium(source) => {
                let path = if destination == "-" { "standard output" } else { destination };
                Error::Io { path: path.into(), source }
            }
        }
    }
}

/// Refuses early what would be refused when all is planned.
async fn refuse_object(url: &str, options: &Options) -> Result<()> {
    if options.medium.volume_size.is_some() {
        return Err(Error::Refused(format!("{url} is one object: leave out --volume-size")));
    }
    let looked = async {
        let object = object::Object::new(url, &options.medium.objects, object::access::SILENCE)?;
        if options.force || options.resume { Ok(()) } else { object.refuse_existing().await }
    };
    looked.await.map_err(|e| refused(Path::new(url), e))
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

fn check_space(path: &Path, needed: u64) -> std::io::Result<()> {
    match free_space(path) {
        Some(free) if free < needed => {
            let what =
                format!("the archive needs {needed} bytes and {free} are free there: make space or name another place");
            Err(std::io::Error::new(std::io::ErrorKind::StorageFull, what))
        }
        _ => Ok(()),
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
