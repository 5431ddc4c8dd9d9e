//! Reading an archive from a tape, over as many tapes as it has. Blocks may have any size.
//!
//! Invariant: the bytes of one archive come out, in order; the wrong tape is refused by name.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::change::{NextTape, change};
use super::drive::{Access, Block as Found, Drive};
use super::record::{Place, Record};
use crate::medium::block::Block;

/// Memory for a block before a larger one is met, and the largest that is tried, in bytes.
const USUAL: usize = 1 << 20;
const LARGEST: usize = 64 << 20;

/// An archive on its way from a tape.
pub struct TapeReader {
    drive: Drive,
    path: PathBuf,
    ask: NextTape,
    block: Block,
    /// Bytes of the block that were given out.
    given: usize,
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
            let place = if place == Place::Continues { "begins" } else { "ends" };
            return Err(io::Error::other(format!(
                "{}: tape {volume} of {archive} {place} here: put in tape 1, and wind it to where the archive begins",
                path.display()
            )));
        }
        let block = Block::new(USUAL);
        Ok(TapeReader { drive, path: path.to_owned(), ask, block, given: 0, offset: 0, volume: 1, ended: false })
    }

    /// Reads the next block; at the end of the archive there is none.
    fn next_block(&mut self) -> io::Result<()> {
        self.given = 0;
        self.block.clear();
        while self.block.is_empty() && !self.ended {
            match self.drive.read(self.block.memory())? {
                Found::Data(n) => {
                    self.block.set_len(n);
                    self.offset += n as u64;
                }
                Found::Larger if self.block.capacity() < LARGEST => self.block = Block::new(self.block.capacity() * 2),
                Found::Larger => {
                    let path = self.path.display();
                    return Err(io::Error::other(format!(
                        "{path}: a block of more than {LARGEST} bytes is no archive's"
                    )));
                }
                Found::Filemark => self.at_filemark()?,
                Found::EndOfData if self.offset == 0 => {
                    let path = self.path.display();
                    return Err(io::Error::other(format!(
                        "{path}: nothing was written behind where the tape stands: wind it to an archive with `mirror tape rewind` \
                         or `mirror tape seek`"
                    )));
                }
                Found::EndOfData => self.ended = true,
            }
        }
        Ok(())
    }

    /// An archive ends at a filemark, unless a record behind it says that another tape goes on.
    fn at_filemark(&mut self) -> io::Result<()> {
        let archive = match Record::read(&mut self.drive)? {
            Some(Record { place: Place::Ends, archive, volume, offset })
                if volume == self.volume && offset == self.offset =>
            {
                archive
            }
            Some(record) => {
                return Err(io::Error::other(format!(
                    "{}: the record behind the data is of byte {} of tape {} of {}, and {} bytes were read: \
                     this tape was written over in part",
                    self.path.display(),
                    record.offset,
                    record.volume,
                    record.archive,
                    self.offset
                )));
            }
            None => {
                self.ended = true;
                return Ok(());
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
        if self.given == self.block.len() {
            self.next_block()?;
        }
        let rest = &self.block.bytes()[self.given..];
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        self.given += n;
        Ok(n)
    }
}
