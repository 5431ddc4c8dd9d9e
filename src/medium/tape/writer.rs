//! Writing an archive to a tape, and on to the next one where it ends. What an interrupted run left is gone on with in
//! its place, or, where the drive cannot write over anything, in a second part behind it.
//!
//! Invariants: a tape that holds anything is never begun anew unless that was allowed; what an early
//! warning refused is the first of the next tape; after [`TapeWriter::finish`] all of it is on the tapes.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::change::{NextTape, change};
use super::drive::{Access, Drive, WORM, Written};
use super::record::{Place, Record};
use crate::medium::block_buffer::{Finished, Medium};
use crate::medium::identity::Identity;
use crate::medium::writing::Begin;

/// Blocks are not made smaller than this for a drive that refuses them.
const SMALLEST: usize = 4096;

/// What to do with tapes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Begin a next tape anew even if something is on it.
    pub overwrite: bool,
    /// Put the last tape out when all is written.
    pub eject: bool,
    /// Rewind the last tape when all is written.
    pub rewind: bool,
}

/// What is on one tape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TapeUsed {
    /// Number of the tape, from 1.
    pub volume: u32,
    /// Where the tape stood before the first block: blocks and filemarks from its beginning.
    pub position_before: u64,
    /// Where it stands behind the last filemark.
    pub position_after: u64,
    /// Bytes of the archive on it, padding included.
    pub bytes: u64,
    /// Size of its blocks in bytes, the last one perhaps excepted.
    pub block_size: usize,
}

/// An archive on its way to a tape.
pub struct TapeWriter {
    drive: Drive,
    path: PathBuf,
    archive: Identity,
    ask: NextTape,
    options: Options,
    block_size: usize,
    /// The size that was asked for.
    asked: usize,
    offset: u64,
    tape: TapeUsed,
    full: Vec<TapeUsed>,
}

impl TapeWriter {
    /// Begins there. Blocks have `block_size` bytes, unless the drive takes only smaller ones; where it is
    /// set to a fixed size, `block_size` must be a multiple of that.
    pub fn start(
        mut drive: Drive,
        archive: Identity,
        block_size: usize,
        begin: Begin,
        options: Options,
        ask: NextTape,
    ) -> io::Result<Self> {
        if let Some(fixed) = drive.fixed_block_size()
            && !block_size.is_multiple_of(fixed as usize)
        {
            return Err(io::Error::other(format!(
                "the drive is set to blocks of {fixed} bytes, and {block_size} is no multiple of that: give \
                 another --block-size, or set the drive to 0"
            )));
        }
        refuse_large_blocks(&drive, block_size)?;
        // Whether a record has to tell what goes on.
        let (volume, offset, apart) = match begin {
            Begin::Here => {
                if !options.overwrite || drive.is_write_once() == Some(true) {
                    refuse_to_write_over(&mut drive)?;
                }
                (1, 0, false)
            }
            Begin::At { volume, position, offset, damaged } => {
                drive.seek(position)?;
                let in_place = drive.cut()?;
                if !in_place && damaged {
                    return Err(io::Error::other(
                        "the tape holds a damaged part of this archive, and the drive cannot write over it: write the \
                         archive to another tape, without --resume",
                    ));
                }
                if !in_place {
                    tracing::warn!(
                        "{}: nothing can be written over on this tape: the rest of the archive becomes a second part \
                         behind what is there, and both are read as one",
                        drive.path().display()
                    );
                }
                (volume, offset, !in_place)
            }
            Begin::Tape { volume, offset } => {
                drive.rewind()?;
                (volume, offset, true)
            }
        };
        let tape = TapeUsed { volume, position_before: drive.position()?, position_after: 0, bytes: 0, block_size };
        let path = drive.path().to_owned();
        let mut writer = TapeWriter {
            drive,
            path,
            archive,
            ask,
            options,
            block_size,
            asked: block_size,
            offset,
            tape,
            full: Vec::new(),
        };
        if apart {
            writer.put_record(Place::Continues, volume)?;
        }
        Ok(writer)
    }

    fn count(&mut self, bytes: usize) {
        self.offset += bytes as u64;
        self.tape.bytes += bytes as u64;
    }

    fn make_smaller(&mut self) -> io::Result<()> {
        let half = self.block_size / 2;
        let fits = self.drive.fixed_block_size().is_none_or(|fixed| half.is_multiple_of(fixed as usize));
        if self.tape.bytes > 0 || half < SMALLEST || !fits {
            let (size, limits) = (self.block_size, limits(&self.drive)?);
            return Err(io::Error::other(format!(
                "the drive takes no blocks of {size} bytes{limits}: give a smaller --block-size"
            )));
        }
        self.block_size = half;
        self.tape.block_size = half;
        Ok(())
    }

    /// Tells, once it is known, that other blocks are written than were asked for.
    fn tell_smaller(&mut self) -> io::Result<()> {
        let (asked, size) = (std::mem::replace(&mut self.asked, self.block_size), self.block_size);
        if asked != size {
            let (path, limits) = (self.path.display(), limits(&self.drive)?);
            tracing::warn!("{path}: no blocks of {asked} bytes can be written{limits}: blocks of {size} are written");
        }
        Ok(())
    }

    /// Ends this tape, and begins the next one.
    fn next_tape(&mut self) -> io::Result<()> {
        self.drive.filemark()?;
        let volume = self.tape.volume;
        self.put_record(Place::Ends, volume)?;
        self.tape.position_after = self.drive.position()?;
        let (archive, offset, overwrite) = (self.archive.clone(), self.offset, self.options.overwrite);
        tracing::info!("tape {volume} of {archive} is full after {} bytes of it", self.tape.bytes);
        let full = std::mem::replace(
            &mut self.tape,
            TapeUsed {
                volume: volume + 1,
                position_before: 0,
                position_after: 0,
                bytes: 0,
                block_size: self.block_size,
            },
        );
        self.full.push(full);
        let accept = |drive: &mut Drive| {
            let worm = drive.is_write_once() == Some(true);
            if overwrite && !worm || drive.is_blank()? {
                drive.rewind()?;
                return Ok(Ok(()));
            }
            Ok(Err(match Record::read(drive)? {
                Some(found) if found.archive.is_same(&archive) && found.volume <= volume => {
                    format!("this is tape {} of the same archive: it is left as it is", found.volume)
                }
                _ if worm => format!("this tape is not empty; {WORM}"),
                _ => "this tape is not empty, and left as it is: erase it first, or allow that with --force".into(),
            }))
        };
        let (drive, ()) = {
            // The tape must be out of the drive before another is asked for.
            let path = self.path.clone();
            let ask = &mut self.ask;
            let old = &mut self.drive;
            old.put_out()?;
            change(ask, &path, Access::Write, &archive.to_string(), volume + 1, accept)?
        };
        self.drive = drive;
        self.offset = offset;
        self.put_record(Place::Continues, volume + 1)
    }

    /// Writes a record and a filemark. At the early warning the first try may be refused and the second taken.
    fn put_record(&mut self, place: Place, volume: u32) -> io::Result<()> {
        let record = Record { place, archive: self.archive.clone(), volume, offset: self.offset };
        let block = record.block(self.drive.fixed_block_size())?;
        for _ in 0..2 {
            match self.drive.write(block.bytes())? {
                Written::Yes => return self.drive.filemark(),
                Written::EndOfMedium(0) => {}
                Written::EndOfMedium(_) | Written::TooLarge => break,
            }
        }
        let what = if place == Place::Ends { "end" } else { "beginning" };
        Err(io::Error::other(format!("there is no room for the record at the {what} of tape {volume}")))
    }
}

/// What is known of the blocks that can be written, for messages.
fn limits(drive: &Drive) -> io::Result<String> {
    let (largest, at_once) = drive.largest_block()?;
    let drive = largest.map(|size| format!("the drive takes up to {size} bytes"));
    let adapter = at_once.map(|size| format!("its adapter surely {size} at once"));
    let known: Vec<String> = drive.into_iter().chain(adapter).collect();
    Ok(if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) })
}

/// Fails where the drive says itself that it takes no such blocks.
fn refuse_large_blocks(drive: &Drive, block_size: usize) -> io::Result<()> {
    match drive.largest_block()? {
        (Some(largest), _) if block_size as u64 > u64::from(largest) => Err(io::Error::other(format!(
            "the drive takes no blocks of {block_size} bytes{}: give a smaller --block-size",
            limits(drive)?
        ))),
        _ => Ok(()),
    }
}

/// Fails where something was written behind the place at which the tape stands. At the end of the tape, a tape file
/// may begin afterwards.
fn refuse_to_write_over(drive: &mut Drive) -> io::Result<()> {
    let position = drive.position()?;
    if position == 0 && drive.is_blank()? {
        return Ok(());
    }
    drive.end_of_data()?;
    let end = drive.position()?;
    if end == position {
        return drive.end_file();
    }
    drive.seek(position)?;
    let path = drive.path().display();
    if drive.is_write_once() == Some(true) {
        return Err(io::Error::other(format!(
            "the tape stands at position {position} and was written up to {end}; {WORM}"
        )));
    }
    Err(io::Error::other(format!(
        "the tape stands at position {position}, and what is written there destroys what is behind it, up to \
         {end}: go to its end with `mirror tape end {path}`, or write over it with --force"
    )))
}

impl Medium for TapeWriter {
    fn write(&mut self, block: &[u8]) -> io::Result<()> {
        let mut rest = block;
        while !rest.is_empty() {
            let piece = &rest[..rest.len().min(self.block_size)];
            match self.drive.write(piece)? {
                Written::Yes => {
                    self.tell_smaller()?;
                    self.count(piece.len());
                    rest = &rest[piece.len()..];
                }
                Written::TooLarge => self.make_smaller()?,
                Written::EndOfMedium(taken) => {
                    self.count(taken);
                    rest = &rest[taken..];
                    self.next_tape()?;
                }
            }
        }
        Ok(())
    }

    fn pads(&self) -> bool {
        true
    }

    /// Brings everything to the tape, and says what is on which.
    fn finish(mut self: Box<Self>) -> io::Result<Finished> {
        self.drive.filemark()?;
        self.tape.position_after = self.drive.position()?;
        let TapeWriter { mut drive, options, tape, full: mut tapes, .. } = *self;
        if options.eject {
            drive.eject()?;
        } else {
            if options.rewind {
                drive.rewind()?;
            }
            drive.close()?;
        }
        tapes.push(tape);
        Ok(Finished::Tapes(tapes))
    }
}
