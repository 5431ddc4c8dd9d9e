//! What an interrupted run left on a medium that is written in order: found by reading it against the plan.
//!
//! Invariant: what is gone on from was read and compared; a tape that holds something else is not written over.

use std::io::{self, Read};
use std::path::Path;

use crate::archive::follow::{Follower, Mismatch, Standing};
use crate::archive::plan::Plan;
use crate::medium::identity::Identity;
use crate::medium::tape::change::change;
use crate::medium::tape::drive::{Block as Found, Drive};
use crate::medium::tape::reader::{Current, TapeReader};
use crate::medium::tape::record::{Place, Record};
use crate::medium::tape::{Access, Operator};
use crate::medium::volumes::listing::{self, Listing};
use crate::medium::writing::Begin;
use crate::store::archive::CHUNK;

/// Where an archive goes on, on a tape.
pub struct OnTape {
    pub begin: Begin,
    pub standing: Standing,
    /// All of it is there.
    pub complete: bool,
}

/// Reads the tape in the drive from its beginning, and finds the tape file in which `plan` was begun. One that
/// was never begun is written behind everything that is there.
pub fn on_tape(path: &Path, plan: &Plan, archive: &Identity, operator: &Operator) -> io::Result<OnTape> {
    let mut drive = Drive::open(path, Access::Read)?;
    drive.rewind()?;
    let mut follower = Follower::new(plan);
    let mut volume = 1;
    loop {
        let mut position = drive.position()?;
        let mut current = Current::default();
        let mut any = false;
        let ours = loop {
            match current.advance(&mut drive) {
                Ok(Found::Data(n)) => {
                    any = true;
                    match follower.take(current.bytes()) {
                        Ok(()) => position = drive.position()?,
                        // Another archive, from its first block on.
                        Err(Mismatch::Other { .. }) if follower.is_first(n) => break false,
                        Err(e) => return Err(damaged(&e)),
                    }
                }
                Ok(_) => break any,
                // The last block was not written to its end.
                Err(e) if any => {
                    tracing::info!("{e}");
                    drive.seek(position)?;
                    break true;
                }
                Err(e) => return Err(e),
            }
        };
        if ours && follower.is_complete() {
            drive.close()?;
            let standing = follower.standing().clone();
            return Ok(OnTape { begin: Begin::Here, standing, complete: true });
        }
        if ours {
            match Record::read(&mut drive)? {
                Some(record) if record.place == Place::Ends && record.archive.is_same(archive) => {
                    drive.put_out()?;
                    volume += 1;
                    let accept = |drive: &mut Drive| accept(drive, archive, volume, follower.standing().offset);
                    let (next, blank) =
                        change(&mut operator.ask(), path, Access::Read, &archive.to_string(), volume, accept)?;
                    drive = next;
                    if blank {
                        drive.close()?;
                        let standing = follower.standing().clone();
                        let begin = Begin::Tape { volume, offset: standing.offset };
                        return Ok(OnTape { begin, standing, complete: false });
                    }
                    continue;
                }
                _ => {}
            }
            drive.close()?;
            let standing = follower.standing().clone();
            let begin = Begin::At { volume, position, offset: standing.offset };
            return Ok(OnTape { begin, standing, complete: false });
        }
        if !any {
            drive.end_of_data()?;
            drive.close()?;
            return Ok(OnTape { begin: Begin::Here, standing: Standing::start(), complete: false });
        }
        follower = Follower::new(plan);
        drive.next_file()?;
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

/// The volumes of an archive that are whole, and where it goes on behind them.
pub fn in_volumes(
    path: &Path,
    plan: &Plan,
    archive: &Identity,
    volume_size: u64,
) -> io::Result<Option<(Listing, Standing)>> {
    let Some(mut listing) = Listing::read(&listing::listing_path(path))? else { return Ok(None) };
    if !listing.archive.is_same(archive) {
        let name = listing.archive.to_string();
        return Err(io::Error::other(format!(
            "its volumes are of {name}: name another place, or replace them: --force in place of --resume"
        )));
    }
    if listing.volume_size != volume_size {
        let size = listing.volume_size;
        return Err(io::Error::other(format!(
            "its volumes are of {size} bytes: go on with --volume-size {size}, or replace them: --force in place of --resume"
        )));
    }
    let mut follower = Follower::new(plan);
    for at in 0..listing.volumes.len() {
        let volume = &listing.volumes[at];
        let part = listing::volume_path(path, volume.sequence);
        let before = follower.standing().clone();
        if listing::check(&part, volume)?.is_some() || follow(std::fs::File::open(&part)?, &mut follower).is_err() {
            tracing::warn!("{} is not as it was written: it is written again", part.display());
            listing.volumes.truncate(at);
            listing.complete = false;
            return Ok(Some((listing, before)));
        }
    }
    let standing = follower.standing().clone();
    Ok(Some((listing, standing)))
}

fn follow(mut bytes: impl Read, follower: &mut Follower) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match bytes.read(&mut chunk)? {
            0 => return Ok(()),
            n => follower.take(&chunk[..n]).map_err(io::Error::other)?,
        }
    }
}

/// Reads an archive back that was just written, and compares it with the plan.
pub fn read_back(bytes: impl Read + Send + 'static, plan: &Plan) -> io::Result<()> {
    let mut follower = Follower::new(plan);
    let input = io::BufReader::with_capacity(1 << 20, bytes);
    follow(crate::medium::compression::decompress(input)?, &mut follower)?;
    if follower.is_complete() {
        return Ok(());
    }
    let offset = follower.standing().offset;
    Err(io::Error::other(format!(
        "read back, it ends after {offset} of {} bytes: write it to another medium",
        plan.length
    )))
}

/// The tapes of an archive, from where it begins on the first.
pub fn tapes(path: &Path, first: u64, several: bool, operator: &Operator) -> io::Result<TapeReader> {
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

fn damaged(mismatch: &Mismatch) -> io::Error {
    io::Error::other(format!(
        "the tape holds a damaged part of this archive ({mismatch}): write it anew, without --resume"
    ))
}
