//! What an interrupted run left on a tape, found by reading it from its beginning against the plan.
//!
//! Invariants: what is gone on from was read and compared; what is something else, or may be, is not written over
//! unless that was allowed.

use std::io;
use std::path::Path;

use super::Compression;
use super::there::{self, There};
use crate::archive::follow::Mismatch;
use crate::archive::plan::Plan;
use crate::medium::identity::Identity;
use crate::medium::tape::change::change;
use crate::medium::tape::drive::{Block as Found, Drive};
use crate::medium::tape::reader::Current;
use crate::medium::tape::record::{After, Place, Record};
use crate::medium::tape::{Access, Operator};
use crate::medium::writing::Begin;

/// Where an archive goes on, on a tape.
pub struct OnTape {
    pub begin: Begin,
    pub from: there::Place,
    /// All of it is there.
    pub complete: bool,
}

/// What is wrong behind the last right block of a tape file.
enum Damage {
    /// A block that cannot be read.
    Unreadable,
    /// Content that is not what its digest says.
    Wrong(Mismatch),
}

/// How a tape file compares with the plan.
enum Piece {
    /// There is none: nothing was written behind this place.
    Nothing,
    /// Something else, perhaps nothing but a filemark. The tape stands behind it.
    Passed,
    /// Something else. The tape stands in it.
    Foreign,
    /// It holds a part of the archive. The tape goes on at `position`, the archive behind `from`.
    Ours { position: u64, from: there::Place, damage: Option<Damage> },
}

/// Reads the tape in the drive from its beginning, and finds the tape file in which `plan` was begun. One that
/// was never begun is written behind everything that is there. `how`: the method and the level of compression.
/// `overwrite`: what lies behind it may be destroyed.
pub fn find(
    path: &Path,
    plan: &Plan,
    how: Option<(Compression, Option<i32>)>,
    archive: &Identity,
    operator: &Operator,
    overwrite: bool,
) -> io::Result<OnTape> {
    let mut drive = Drive::open(path, Access::Read)?;
    drive.rewind()?;
    let mut there = There::new(plan, how);
    let mut volume = 1;
    // What was found of the archive before the tape file that is read, where there is any.
    let mut before: Option<there::Place> = None;
    loop {
        let (position, from, damage) = match (follow(&mut drive, &mut there)?, &before) {
            (Piece::Ours { position, from, damage }, _) => (position, from, damage),
            // A record was written and nothing behind it.
            (Piece::Nothing, Some(from)) => (drive.position()?, from.clone(), None),
            (Piece::Nothing, None) => {
                drive.end_of_data()?;
                drive.close()?;
                return Ok(OnTape { begin: Begin::Here, from: there::Place::start(), complete: false });
            }
            (Piece::Passed, None) => {
                there = There::new(plan, how);
                continue;
            }
            (Piece::Foreign, None) => {
                there = There::new(plan, how);
                if let Err(e) = drive.next_file() {
                    // The last tape file of all may have no filemark.
                    if !is_at_end(&mut drive)? {
                        return Err(e);
                    }
                }
                continue;
            }
            (Piece::Passed | Piece::Foreign, Some(from)) => {
                return Err(differs(&Mismatch::Other { offset: from.standing.offset }));
            }
        };
        let offset = from.on_medium();
        if damage.is_none() && there.is_complete() {
            drive.close()?;
            return Ok(OnTape { begin: Begin::Here, from, complete: true });
        }
        let after = match &damage {
            None => Record::after(&mut drive, volume, offset)?,
            Some(_) => behind_damage(&mut drive, position, volume, offset)?,
        };
        match (after, &damage) {
            (After::Here(record), None | Some(Damage::Unreadable)) if record.archive.is_same(archive) => {
                before = Some(from);
                continue;
            }
            (After::NextTape(record), None) if record.archive.is_same(archive) => {
                drive.put_out()?;
                volume += 1;
                let accept = |drive: &mut Drive| accept(drive, archive, volume, offset);
                let (next, blank) =
                    change(&mut operator.ask(), path, Access::Read, &archive.to_string(), volume, accept)?;
                drive = next;
                if blank {
                    drive.close()?;
                    return Ok(OnTape { begin: Begin::Tape { volume, offset }, from, complete: false });
                }
                before = Some(from);
                continue;
            }
            // What is behind the damage is a part of the archive as well.
            (After::Here(r) | After::NextTape(r) | After::Stray(r), Some(_)) if r.archive.is_same(archive) => {}
            (After::End, _) if is_at_end(&mut drive)? => {}
            _ if overwrite => {}
            _ => {
                return Err(io::Error::other(format!(
                    "what is there of {archive} ends at position {position}, and something else lies behind it, which \
                     going on there would destroy: write it anew behind that (mirror tape end, and without --resume), \
                     or over that with --force"
                )));
            }
        }
        drive.close()?;
        if let Some(Damage::Wrong(mismatch)) = &damage {
            tracing::warn!("{}: {mismatch}: it is written again, and all behind it", path.display());
        }
        let damaged = matches!(damage, Some(Damage::Wrong(_)));
        return Ok(OnTape { begin: Begin::At { volume, position, offset, damaged }, from, complete: false });
    }
}

/// Reads one tape file, or what is right of it.
fn follow(drive: &mut Drive, there: &mut There) -> io::Result<Piece> {
    let mut current = Current::default();
    let mut position = drive.position()?;
    let mut any = false;
    // Before the blob that is being read, the last place that is surely right.
    let mut settled = None;
    loop {
        if let Some(place) = there.so_far().filter(|place| place.standing.hasher.is_none()) {
            settled = Some((position, place));
        }
        let damage = match current.advance(drive) {
            Ok(Found::Data(n)) => {
                any = true;
                match (there.take(current.bytes()), settled.take()) {
                    (Ok(()), before) => {
                        (position, settled) = (drive.position()?, before);
                        continue;
                    }
                    // Which of its blocks is damaged is not known.
                    (Err(e @ Mismatch::Digest { .. }), Some((position, from))) if there.is_ours() => {
                        return Ok(Piece::Ours { position, from, damage: Some(Damage::Wrong(e)) });
                    }
                    // Another archive, from its first block on.
                    (Err(Mismatch::Other { .. }), _) if there.is_first(n) || !there.is_ours() => {
                        return Ok(Piece::Foreign);
                    }
                    (Err(e), _) => return Err(differs(&e)),
                }
            }
            Ok(Found::EndOfData) if !any => return Ok(Piece::Nothing),
            Ok(_) if !any => return Ok(Piece::Passed),
            Ok(_) => None,
            Err(e) if !any => return Err(e),
            Err(e) => {
                tracing::info!("{e}");
                Some(Damage::Unreadable)
            }
        };
        return match there.place() {
            // Too little of it is there to tell whose it is: it is left, unless it is the last of all.
            Ok(_) if !there.is_ours() && damage.is_some() => Ok(Piece::Foreign),
            Ok(_) if !there.is_ours() && !ends_tape(drive)? => Ok(Piece::Passed),
            Ok(from) => Ok(Piece::Ours { position, from, damage }),
            Err(Mismatch::Other { .. }) if there.is_first(0) => {
                drive.seek(position)?;
                Ok(Piece::Foreign)
            }
            Err(e) => Err(differs(&e)),
        };
    }
}

/// It cannot be told what is there: a damaged archive, or another one.
fn differs(mismatch: &Mismatch) -> io::Error {
    io::Error::other(format!(
        "the tape holds an archive that begins like this one and is damaged or another ({mismatch}): write this one \
         behind it (mirror tape end), without --resume"
    ))
}

/// What follows the tape file whose block at `position` cannot be read, or is wrong.
fn behind_damage(drive: &mut Drive, position: u64, volume: u32, offset: u64) -> io::Result<After> {
    drive.seek(position)?;
    match drive.next_file() {
        Ok(()) => Record::after(drive, volume, offset),
        // There is no filemark any more, or it cannot be reached: then the tape does not stand at its end.
        Err(_) => Ok(After::End),
    }
}

/// Whether nothing was written behind where the tape stands.
fn ends_tape(drive: &mut Drive) -> io::Result<bool> {
    let stands = drive.position()?;
    let ends = is_at_end(drive)?;
    drive.seek(stands)?;
    Ok(ends)
}

/// The same; the tape goes to its end.
fn is_at_end(drive: &mut Drive) -> io::Result<bool> {
    let stands = drive.position()?;
    drive.end_of_data()?;
    Ok(drive.position()? == stands)
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
