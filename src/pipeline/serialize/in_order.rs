//! Writing to anything that takes bytes in order: a tape, volumes, an object, a pipe. The medium is begun, or found
//! as an earlier run left it; then the rest of the archive goes to it; then it is read back, if that was asked for.

use std::io;
use std::path::Path;

use super::failed::{Failed, refused};
use super::{Report, Result, Work, into_object, into_volumes, onto_tape, ordered};
use crate::archive::follow::Standing;
use crate::medium::Place;
use crate::medium::identity::Identity;
use crate::medium::object::writer::Watch;
use crate::medium::ordered::{Output, Passage};

/// A medium that is ready for the archive, or for the rest of it.
pub struct Begun {
    pub output: Output,
    /// What is on it already.
    pub from: Standing,
    /// Tells what a later run can go on with, if this one fails.
    pub watch: Option<Watch>,
}

impl Begun {
    /// Nothing of the archive is on it.
    fn anew(output: Output) -> Self {
        Begun { output, from: Standing::start(), watch: None }
    }
}

/// Writes the archive to `place`, and tells of it.
pub async fn write(work: &Work<'_>, place: &Place, report: &mut Report) -> Result<()> {
    let passage = work.passage()?;
    let written = put(work, place, passage, report).await;
    report.bytes = written.map_err(|e| match e {
        Failed::Medium(e) if matches!(place, Place::Object(_)) => refused(Path::new(&report.destination), e),
        e => e.at(&report.destination),
    })?;
    report.count(work.plan, &[]);
    Ok(())
}

/// Gives the length of the archive on its medium.
async fn put(
    work: &Work<'_>,
    place: &Place,
    passage: Passage,
    report: &mut Report,
) -> std::result::Result<u64, Failed> {
    let Some(Begun { output, from, watch }) = begin(work, place, report).await? else {
        return Ok(work.plan.length);
    };
    work.begin();
    let passage = Passage { before: from.offset, ..passage };
    let written = match (ordered::write(work.cx, work.store, work.plan, &from, output, passage).await, watch) {
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
    if work.options.medium.verify {
        work.cx.progress.begin("reading back");
        read_back(work, place, report).await?;
    }
    Ok(from.offset + written.bytes)
}

/// Begins the medium, or finds where an earlier run left it. `None`: all of the archive is there.
async fn begin(work: &Work<'_>, place: &Place, report: &mut Report) -> std::result::Result<Option<Begun>, Failed> {
    let options = work.options;
    let archive = Identity {
        reference: report.reference.clone(),
        root: report.digest,
        plan: work.plan.digest(),
        compression: options.compression.map(|c| options.level.map_or(c.to_string(), |level| format!("{c}:{level}"))),
    };
    if options.resume && options.compression.is_some() {
        let why = "a compressed archive cannot be gone on with: write it anew, without --resume";
        return Err(io::Error::other(why).into());
    }
    if options.resume {
        work.cx.progress.begin("verifying what is there");
    }
    let resumed = &mut report.bytes_resumed;
    Ok(match place {
        Place::Tape(drive) => onto_tape::begin(work, drive, archive, resumed).await?,
        Place::File(path) => into_volumes::begin(work, path, archive, resumed).await?,
        Place::Object(url) => into_object::begin(work, url, archive, resumed).await?,
        Place::Ordered(path) => Some(Begun::anew(Output::Path(path.clone()))),
        Place::Standard => Some(Begun::anew(Output::Standard)),
    })
}

/// Reads back what was written.
async fn read_back(work: &Work<'_>, place: &Place, report: &Report) -> io::Result<()> {
    match place {
        Place::Tape(drive) => onto_tape::read_back(work, drive, report.tapes.as_deref().unwrap_or_default()).await,
        Place::File(path) => into_volumes::read_back(path).await,
        Place::Object(url) => into_object::read_back(work, url).await,
        Place::Ordered(_) | Place::Standard => Err(io::Error::other("a pipe cannot be read back: leave out --verify")),
    }
}
