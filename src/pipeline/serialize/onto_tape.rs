//! An archive onto tapes: begun where the tape stands, gone on with where an interrupted run left it, and read back.
//!
//! Invariant: what is gone on from was read and compared; a tape that holds something else is not written over.

use std::io;
use std::path::Path;

use super::failed::Failed;
use super::in_order::{Begun, Stands};
use super::read_back::compare;
use super::there::{self, There};
use super::{Compression, Work};
use crate::archive::follow::Mismatch;
use crate::archive::plan::Plan;
use crate::medium::identity::Identity;
use crate::medium::tape::change::change;
use crate::medium::tape::drive::{Block, Drive, rewinds_on_close};
use crate::medium::tape::reader::{Current, TapeReader};
use crate::medium::tape::record::{Place, Record};
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
        let how = work.compression();
        let look = move || find(&drive, &plan, how, &archive, &operator);
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

/// Where an archive goes on.
struct OnTape {
    begin: Begin,
    from: there::Place,
    /// All of it is there.
    complete: bool,
}

/// How a tape file stands to the archive.
enum TapeFile {
    /// It is the archive, or the part of it that is on this tape, and ends there.
    Ours(u64),
    Other,
    /// There is none: nothing is written from here on.
    Nothing,
}

/// Reads the tape in the drive from its beginning, and finds the tape file in which `plan` was begun. One that
/// was never begun is written behind everything that is there.
fn find(
    path: &Path,
    plan: &Plan,
    how: Option<(Compression, Option<i32>)>,
    archive: &Identity,
    operator: &Operator,
) -> io::Result<OnTape> {
    let mut drive = Drive::open(path, Access::Read)?;
    drive.rewind()?;
    loop {
        let mut there = There::new(plan, how);
        match follow(&mut drive, &mut there)? {
            TapeFile::Ours(end) => return over_all_tapes(drive, there, end, archive, operator),
            TapeFile::Other => drive.next_file()?,
            TapeFile::Nothing => {
                drive.end_of_data()?;
                drive.close()?;
                return Ok(OnTape { begin: Begin::Here, from: there::Place::start(), complete: false });
            }
        }
    }
}

/// Reads the tape file that begins here.
fn follow(drive: &mut Drive, there: &mut There) -> io::Result<TapeFile> {
    let mut current = Current::default();
    let mut end = None;
    let broken = loop {
        match current.advance(drive) {
            Ok(Block::Data(n)) => match there.take(current.bytes()) {
                Ok(()) => end = Some(drive.position()?),
                Err(mismatch) => return not_ours(&mismatch, there.is_first(n)),
            },
            Ok(_) => break None,
            Err(e) if end.is_none() => return Err(e),
            // The last block was not written to its end.
            Err(e) => break Some(e),
        }
    };
    let Some(end) = end else { return Ok(TapeFile::Nothing) };
    if let Err(mismatch) = there.place() {
        drive.seek(end)?;
        return not_ours(&mismatch, there.is_first(0));
    }
    if let Some(e) = broken {
        tracing::info!("{e}");
        drive.seek(end)?;
    }
    Ok(TapeFile::Ours(end))
}

/// Another archive is one from its first block on.
fn not_ours(mismatch: &Mismatch, first: bool) -> io::Result<TapeFile> {
    if first && matches!(mismatch, Mismatch::Other { .. }) { Ok(TapeFile::Other) } else { Err(damaged(mismatch)) }
}

fn damaged(mismatch: &Mismatch) -> io::Error {
    io::Error::other(format!(
        "the tape holds a damaged part of this archive ({mismatch}): write it anew, without --resume"
    ))
}

/// Goes on to the tapes that follow; `end` is where the data on the first ends.
fn over_all_tapes(
    mut drive: Drive,
    mut there: There,
    mut end: u64,
    archive: &Identity,
    operator: &Operator,
) -> io::Result<OnTape> {
    let path = drive.path().to_owned();
    let mut volume = 1;
    loop {
        let from = there.place().map_err(|mismatch| damaged(&mismatch))?;
        let (offset, complete) = (from.on_medium(), there.is_complete());
        let goes_on = !complete
            && Record::read(&mut drive)?.is_some_and(|r| r.place == Place::Ends && r.archive.is_same(archive));
        if !goes_on {
            drive.close()?;
            return Ok(OnTape { begin: Begin::At { volume, position: end, offset }, from, complete });
        }
        drive.put_out()?;
        volume += 1;
        let accept = |drive: &mut Drive| accept(drive, archive, volume, offset);
        let blank;
        (drive, blank) = change(&mut operator.ask(), &path, Access::Read, &archive.to_string(), volume, accept)?;
        if blank {
            drive.close()?;
            return Ok(OnTape { begin: Begin::Tape { volume, offset }, from, complete });
        }
        let begun = drive.position()?;
        end = match follow(&mut drive, &mut there)? {
            TapeFile::Ours(end) => end,
            // It has only the record.
            TapeFile::Nothing => begun,
            TapeFile::Other => return Err(damaged(&Mismatch::Other { offset })),
        };
    }
}

/// The next tape of an archive: the one that was begun, or a blank one (`true`).
fn accept(drive: &mut Drive, archive: &Identity, volume: u32, offset: u64) -> io::Result<Result<bool, String>> {
    if drive.is_blank()? {
        return Ok(Ok(true));
    }
    Ok(match Record::read(drive)? {
        Some(r)
            if r.place == Place::Continues
                && r.archive.is_same(archive)
                && (r.volume, r.offset) == (volume, offset) =>
        {
            Ok(false)
        }
        Some(r) => Err(format!("this is tape {} of {}; wanted is tape {volume} of {archive}", r.volume, r.archive)),
        None => Err(format!("this tape holds something else; wanted is tape {volume} of {archive}, or a blank one")),
    })
}

/// Reads back what is on `tapes`, and leaves the last one as it was to be left.
pub async fn read_back(work: &Work<'_>, drive: &Path, tapes: &[TapeUsed]) -> io::Result<()> {
    let (first, several) = (tapes.first().map_or(0, |tape| tape.position_before), tapes.len() > 1);
    let (path, plan, medium) = (drive.to_owned(), work.plan.clone(), work.options.medium.clone());
    let read = move || {
        compare(reader(&path, first, several, &medium.operator)?, &plan)?;
        if medium.tape.eject {
            return Drive::open(&path, Access::Read)?.eject();
        }
        if medium.tape.rewind {
            let mut drive = Drive::open(&path, Access::Read)?;
            drive.rewind()?;
            drive.close()?;
        }
        Ok(())
    };
    finished(tokio::task::spawn_blocking(read).await)
}

/// The tapes of an archive, from where it begins on the first.
fn reader(path: &Path, first: u64, several: bool, operator: &Operator) -> io::Result<TapeReader> {
    let mut ask = operator.ask();
    if several {
        Drive::open(path, Access::Read)?.eject()?;
        let any = |_: &mut Drive| Ok(Ok(()));
        change(&mut ask, path, Access::Read, "what was written", 1, any)?.0.close()?;
    }
    let mut drive = Drive::open(path, Access::Read)?;
    drive.seek(first)?;
    drive.close()?;
    TapeReader::start(path, ask)
}
