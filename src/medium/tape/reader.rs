//! Reading an archive from a tape, over as many tapes as it has. Blocks may have any size.
//!
//! Invariant: the bytes of one archive come out, in order; the wrong tape is refused by name.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::change::{NextTape, change};
use super::drive::{Access, Block as Found, Drive};
use super::record::{After, Place, Record};
use crate::medium::block::Block;

/// Memory for a block before a larger one is met, and the largest that is tried, in bytes.
const USUAL: usize = 1 << 20;
const LARGEST: usize = 64 << 20;

/// The block that is being given out, read as large as it was written.
pub struct Current {
    block: Block,
    given: usize,
}

impl Default for Current {
    fn default() -> Self {
        Current { block: Block::new(USUAL), given: 0 }
    }
}

impl Current {
    /// Whether all of it was given out.
    pub fn is_spent(&self) -> bool {
        self.given == self.block.len()
    }

    /// Reads the next block, or what is in its place; never [`Found::Larger`].
    pub fn advance(&mut self, drive: &mut Drive) -> io::Result<Found> {
        self.given = 0;
        self.block.clear();
        loop {
            match drive.read(self.block.memory())? {
                Found::Data(n) => {
                    self.block.set_len(n);
                    return Ok(Found::Data(n));
                }
                Found::Larger if self.block.capacity() < LARGEST => self.block = Block::new(self.block.capacity() * 2),
                Found::Larger => {
                    return Err(io::Error::other(format!("no archive has blocks of more than {LARGEST} bytes")));
                }
                other => return Ok(other),
            }
        }
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        self.block.bytes()
    }

    /// Gives out as much as there is room for.
    pub fn give(&mut self, out: &mut [u8]) -> usize {
        let rest = &self.block.bytes()[self.given..];
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        self.given += n;
        n
    }
}

/// An archive on its way from a tape.
pub struct TapeReader {
    drive: Drive,
    path: PathBuf,
    ask: NextTape,
    current: Current,
    /// Bytes of the archive that were read from all tapes.
    offset: u64,
    /// Number of the tape in the drive.
    volume: u32,
    ended: bool,
}

impl TapeReader {
    /// Begins where the tape stands.
    pub fn start(path: &Path, ask: NextTape) -> io::Result<Self> {
        let mut drive = Drive::open(path, Access::Read)?;
        if let Some(Record { place, archive, volume, .. }) = Record::read(&mut drive)? {
            let place = if place == Place::Continues { "goes on" } else { "ends" };
            return Err(io::Error::other(format!(
                "tape {volume} of {archive} {place} here: put in tape 1, and wind it to where the archive begins"
            )));
        }
        let path = path.to_owned();
        Ok(TapeReader { drive, path, ask, current: Current::default(), offset: 0, volume: 1, ended: false })
    }

    fn next_block(&mut self) -> io::Result<()> {
        let found = match self.current.advance(&mut self.drive) {
            Err(e) if self.offset > 0 => return self.behind_damage(e),
            found => found?,
        };
        match found {
            Found::Data(n) => self.offset += n as u64,
            Found::Filemark if self.offset == 0 => {
                return Err(io::Error::other(
                    "nothing but a filemark is where the tape stands: `mirror tape list` tells where archives begin",
                ));
            }
            Found::Filemark => self.at_filemark()?,
            Found::EndOfData if self.offset == 0 => {
                return Err(io::Error::other(
                    "nothing was written behind where the tape stands: wind it to an archive with \
                     `mirror tape rewind` or `mirror tape seek`",
                ));
            }
            Found::EndOfData | Found::Larger => self.ended = true,
        }
        Ok(())
    }

    /// The last block of an interrupted run may be damaged, and the rest of the archive follow all the same.
    fn behind_damage(&mut self, damage: io::Error) -> io::Result<()> {
        let behind = self.drive.next_file().and_then(|()| Record::after(&mut self.drive, self.volume, self.offset));
        match behind {
            Ok(After::Here(_)) => Ok(()),
            _ => Err(damage),
        }
    }

    /// An archive ends at a filemark, unless a record behind it says where it goes on.
    fn at_filemark(&mut self) -> io::Result<()> {
        let archive = match Record::after(&mut self.drive, self.volume, self.offset)? {
            After::End => {
                self.ended = true;
                return Ok(());
            }
            After::Here(_) => return Ok(()),
            After::NextTape(record) => record.archive,
            After::Stray(record) => {
                return Err(io::Error::other(format!(
                    "the record behind the data is of byte {} of tape {} of {}, and {} bytes were read: \
                     this tape was written over in part",
                    record.offset, record.volume, record.archive, self.offset
                )));
            }
        };
        let (wanted, offset) = (self.volume + 1, self.offset);
        let accept = |drive: &mut Drive| {
            drive.rewind()?;
            Ok(match Record::read(drive)? {
                Some(r)
                    if r.place == Place::Continues
                        && r.archive.is_same(&archive)
                        && r.volume == wanted
                        && r.offset == offset =>
                {
                    Ok(())
                }
                Some(r) if r.place == Place::Continues => Err(format!(
                    "this is tape {} of {}, from byte {}; wanted is tape {wanted} of {archive}, from byte {offset}",
                    r.volume, r.archive, r.offset
                )),
                _ => Err(format!("this tape does not continue anything; wanted is tape {wanted} of {archive}")),
            })
        };
        self.drive.put_out()?;
        let (drive, ()) = change(&mut self.ask, &self.path, Access::Read, &archive.to_string(), wanted, accept)?;
        self.drive = drive;
        self.volume = wanted;
        Ok(())
    }
}

impl Read for TapeReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_spent() && !self.ended {
            self.next_block()?;
        }
        Ok(self.current.give(out))
    }
}
