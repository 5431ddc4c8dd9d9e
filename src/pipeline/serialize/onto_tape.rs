//! An archive onto tapes: begun where the tape stands, gone on with where an interrupted run left it, and read back.
//!
//! Invariant: what is read back is compared with the plan, whether this run wrote it or one before.

use std::io;
use std::path::Path;

use super::failed::Failed;
use super::in_order::{Begun, Stands};
use super::read_back::{compare, cut};
use super::{Work, on_tape, there};
use crate::archive::plan::Plan;
use crate::medium::identity::Identity;
use crate::medium::tape::change::change;
use crate::medium::tape::drive::{Drive, rewinds_on_close};
use crate::medium::tape::reader::TapeReader;
use crate::medium::tape::writer::{Options, TapeUsed};
use crate::medium::tape::{Access, Operator};
use crate::medium::writing::{Begin, Writing};
use crate::pipeline::copy::finished;

/// Begins on the tape, or goes on; `resumed` is told how much of the archive is there.
pub async fn begin(work: &Work<'_>, drive: &Path, archive: Identity, resumed: &mut u64) -> Result<Stands, Failed> {
    let Work { plan, options, .. } = work;
    let medium = &options.medium;
    if rewinds_on_close(drive) {
        tracing::warn!("{} rewinds when it is closed: what is written next writes over this", drive.display());
    }
    let (mut begin, mut from) = (Begin::Here, there::Place::start());
    if options.resume {
        let (drive, plan) = (drive.to_owned(), Plan::clone(plan));
        let (archive, operator) = (archive.clone(), medium.operator.clone());
        let (how, overwrite) = (work.compression(), options.force);
        let left = medium.tape;
        let look = move || {
            let there = on_tape::find(&drive, &plan, how, &archive, &operator, overwrite)?;
            if there.complete {
                leave(&drive, left)?;
            }
            Ok::<_, io::Error>(there)
        };
        let there = finished(tokio::task::spawn_blocking(look).await)?;
        *resumed = there.from.standing.offset;
        if there.complete {
            return Ok(Stands::Complete(there.from.length));
        }
        (begin, from) = (there.begin, there.from);
    }
    // What is to be read back stays in the drive until then.
    let tape = if medium.verify { Options::default() } else { medium.tape };
    let tape = Options { overwrite: options.force, ..tape };
    let output = Writing { tape, ..medium.clone() }.tape(drive, archive, begin);
    Ok(Begun { output, from, watch: None }.into())
}

/// Reads back what is on `tapes`, and leaves the last one as it was to be left.
pub async fn read_back(work: &Work<'_>, drive: &Path, archive: Identity, tapes: &[TapeUsed]) -> io::Result<()> {
    let (first, several) = (tapes.first().map_or(0, |tape| tape.position_before), tapes.iter().any(|t| t.volume > 1));
    let (path, plan, how) = (drive.to_owned(), work.plan.clone(), work.compression());
    let (medium, resumed) = (work.options.medium.clone(), work.options.resume);
    let read = move || {
        let operator = &medium.operator;
        if several {
            Drive::open(&path, Access::Read)?.eject()?;
            let any = |_: &mut Drive| Ok(Ok(()));
            change(&mut operator.ask(), &path, Access::Read, &archive.to_string(), 1, any)?.0.close()?;
        }
        if resumed {
            // It begins where the run before this one began it.
            let there = on_tape::find(&path, &plan, how, &archive, operator, false)?;
            if !there.complete {
                return Err(cut(there.from.standing.offset, &plan));
            }
        } else {
            compare(reader(&path, first, operator)?, &plan)?;
        }
        leave(&path, medium.tape)
    };
    finished(tokio::task::spawn_blocking(read).await)
}

/// Leaves the tape as it was to be left.
fn leave(drive: &Path, options: Options) -> io::Result<()> {
    if options.eject {
        return Drive::open(drive, Access::Read)?.eject();
    }
    if options.rewind {
        let mut drive = Drive::open(drive, Access::Read)?;
        drive.rewind()?;
        drive.close()?;
    }
    Ok(())
}

/// The tapes of an archive, from where it begins on the first, which is in the drive.
fn reader(path: &Path, first: u64, operator: &Operator) -> io::Result<TapeReader> {
    let mut drive = Drive::open(path, Access::Read)?;
    drive.seek(first)?;
    drive.close()?;
    TapeReader::start(path, operator.ask())
}
