//! Writing to anything that takes bytes in order: a tape, volumes, an object, a pipe. The medium is begun, or found
//! as an earlier run left it; then the rest of the archive goes to it; then it is read back, if that was asked for.

use std::io;
use std::path::Path;

use super::failed::{Failed, refused};
use super::there::Place;
use super::{Report, Result, Work, into_object, into_volumes, onto_tape, ordered};
use crate::medium;
use crate::medium::identity::Identity;
use crate::medium::object::writer::Watch;
use crate::medium::ordered::{Output, Passage};

/// A medium that is ready for the archive, or for the rest of it.
pub struct Begun {
    pub output: Output,
    /// What is on it already.
    pub from: Place,
    /// Tells what a later run can go on with, if this one fails.
    pub watch: Option<Watch>,
}

impl Begun {
    /// Nothing of the archive is on it.
    fn anew(output: Output) -> Self {
        Begun { output, from: Place::start(), watch: None }
    }
}

/// How an archive stands on its medium.
pub enum Stands {
    Begun(Begun),
    /// All of it is there; it has so many bytes.
    Complete(u64),
}

impl From<Begun> for Stands {
    fn from(begun: Begun) -> Self {
        Stands::Begun(begun)
    }
}

/// Writes the archive to `place`, and tells of it.
pub async fn write(work: &Work<'_>, place: &medium::Place, report: &mut Report) -> Result<()> {
    let passage = work.passage()?;
    let written = put(work, place, passage, report).await;
    report.bytes = written.map_err(|e| match e {
        Failed::Medium(e) if matches!(place, medium::Place::Object(_)) => refused(Path::new(&report.destination), e),
        e => e.at(&report.destination),
    })?;
    report.count(work.plan, &[]);
    Ok(())
}

/// Gives the length of the archive on its medium.
async fn put(
    work: &Work<'_>,
    place: &medium::Place,
    passage: Passage,
    report: &mut Report,
) -> std::result::Result<u64, Failed> {
    let Begun { output, from, watch } = match begin(work, place, report).await? {
        Stands::Begun(begun) => begun,
        Stands::Complete(length) => return Ok(length),
    };
    work.begin();
    let Place { standing, length, tail } = from;
    let passage = Passage { before: standing.offset, on_medium: length, tail, ..passage };
    let written = match (ordered::write(work.cx, work.store, work.plan, &standing, output, passage).await, watch) {
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
    Ok(length + written.bytes)
}

/// Begins the medium, or finds where an earlier run left it.
async fn begin(work: &Work<'_>, place: &medium::Place, report: &mut Report) -> std::result::Result<Stands, Failed> {
    let options = work.options;
    let archive = identity(work, report);
    if options.resume {
        work.cx.progress.begin("verifying what is there");
    }
    let resumed = &mut report.bytes_resumed;
    Ok(match place {
        medium::Place::Tape(drive) => onto_tape::begin(work, drive, archive, resumed).await?,
        medium::Place::File(path) => into_volumes::begin(work, path, archive, resumed).await?,
        medium::Place::Object(url) => into_object::begin(work, url, archive, resumed).await?,
        medium::Place::Ordered(path) => Begun::anew(Output::Path(path.clone())).into(),
        medium::Place::Standard => Begun::anew(Output::Standard).into(),
    })
}

/// What is written, as its medium names it.
fn identity(work: &Work<'_>, report: &Report) -> Identity {
    let options = work.options;
    Identity {
        reference: report.reference.clone(),
        root: report.digest,
        plan: work.plan.digest(),
        compression: options.compression.map(|c| options.level.map_or(c.to_string(), |level| format!("{c}:{level}"))),
    }
}

/// Reads back what was written.
async fn read_back(work: &Work<'_>, place: &medium::Place, report: &Report) -> io::Result<()> {
    match place {
        medium::Place::Tape(drive) => {
            let tapes = report.tapes.as_deref().unwrap_or_default();
            onto_tape::read_back(work, drive, identity(work, report), tapes).await
        }
        medium::Place::File(path) => into_volumes::read_back(path).await,
        medium::Place::Object(url) => into_object::read_back(work, url).await,
        medium::Place::Ordered(_) | medium::Place::Standard => {
            Err(io::Error::other("a pipe cannot be read back: leave out --verify"))
        }
    }
}
