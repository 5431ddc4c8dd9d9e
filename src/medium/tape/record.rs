//! The records by which the tapes of one archive know each other. Each is a tape file of its own, one
//! block, and a small tar archive, so that any reader shows what a tape is.

use std::io;

use serde::{Deserialize, Serialize};

use super::drive::{Block as Found, Drive};
use crate::archive::tar::{self, Header, Headers, Kind};
use crate::medium::block::Block;
use crate::medium::identity::Identity;

/// The name of its only entry.
const NAME: &str = "mirror-volume.json";
/// A record has no more bytes than this.
const MAX: usize = 64 << 10;

/// Which end of a tape a record is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// The archive goes on behind this: first on a tape, where the tape before ended; elsewhere on a tape, where the
    /// tape file before was interrupted.
    Continues,
    /// Last on a tape: the next one goes on.
    Ends,
}

/// What a tape says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub place: Place,
    pub archive: Identity,
    /// Number of the tape, from 1.
    pub volume: u32,
    /// Bytes of the archive before this place, over all tapes.
    pub offset: u64,
}

/// What follows the filemark behind some bytes of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing of it.
    End,
    /// On this tape, the rest of it: the drive could not write over what was there when it was gone on with.
    Here(Record),
    /// The rest of it is on the next tape.
    NextTape(Record),
    /// A record that does not belong there.
    Stray(Record),
}

impl Record {
    /// The record as one block, with a size that is a multiple of `fixed`, where the drive has such a size.
    pub fn block(&self, fixed: Option<u32>) -> io::Result<Block> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        let mut bytes = tar::header(NAME, json.len() as u64, false);
        bytes.extend_from_slice(&json);
        bytes.resize(bytes.len().next_multiple_of(tar::BLOCK) + tar::TRAILER, 0);
        let unit = fixed.map_or(tar::BLOCK, |size| size as usize);
        let mut block = Block::new(bytes.len().next_multiple_of(unit));
        block.fill(&bytes);
        block.pad();
        Ok(block)
    }

    /// Understands what a tape file begins with; `None` where it is no record.
    pub fn parse(bytes: &[u8]) -> Option<Record> {
        let (first, rest) = bytes.split_first_chunk::<{ tar::BLOCK }>()?;
        match Headers::default().block(first) {
            Ok(Header::Entry { name, size, kind: Kind::File }) if name == NAME => {
                serde_json::from_slice(rest.get(..usize::try_from(size).ok()?)?).ok()
            }
            _ => None,
        }
    }

    /// Looks behind a filemark: `offset` bytes of the archive are before it, and this is its tape `volume`. The tape stands
    /// behind the record then, where there is one.
    pub fn after(drive: &mut Drive, volume: u32, offset: u64) -> io::Result<After> {
        Ok(match Record::read(drive)? {
            None => After::End,
            Some(record) if (record.volume, record.offset) != (volume, offset) => After::Stray(record),
            Some(record) => match record.place {
                Place::Continues => After::Here(record),
                Place::Ends => After::NextTape(record),
            },
        })
    }

    /// Reads the tape file that begins here as a record. Where it is one, the tape stands behind its
    /// filemark afterwards; where it is none, the tape stands where it stood.
    pub fn read(drive: &mut Drive) -> io::Result<Option<Record>> {
        let start = drive.position()?;
        let mut memory = Block::new(MAX);
        let mut bytes = Vec::new();
        // Written in a fixed size, it lies in several blocks.
        let whole = loop {
            match drive.read(memory.memory())? {
                Found::Data(n) => {
                    memory.set_len(n);
                    bytes.extend_from_slice(memory.bytes());
                    if bytes.len() > MAX || !could_be(&bytes) {
                        break false;
                    }
                }
                Found::Filemark => break !bytes.is_empty(),
                Found::EndOfData => break !bytes.is_empty(),
                Found::Larger => break false,
            }
        };
        let record = if whole { Record::parse(&bytes) } else { None };
        if record.is_none() {
            drive.seek(start)?;
        }
        Ok(record)
    }
}

fn could_be(bytes: &[u8]) -> bool {
    bytes.starts_with(NAME.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Algorithm, Digest};

    fn record() -> Record {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let archive =
            Identity { reference: "reg.low/gather:sync-45".into(), root: digest, plan: digest, compression: None };
        Record { place: Place::Ends, archive, volume: 1, offset: 12 << 40 }
    }

    #[test]
    fn is_read_from_the_block_it_was_written_as() -> io::Result<()> {
        for fixed in [None, Some(512), Some(4096), Some(1 << 20)] {
            let block = record().block(fixed)?;
            assert_eq!(block.len() % fixed.unwrap_or(512) as usize, 0);
            assert_eq!(Record::parse(block.bytes()), Some(record()));
        }
        Ok(())
    }

    #[test]
    fn nothing_else_is_taken_for_one() {
        assert_eq!(Record::parse(b""), None);
        assert_eq!(Record::parse(&[0; 4096]), None);
        let mut other = tar::header("index.json", 2, false);
        other.extend_from_slice(b"{}");
        other.resize(4096, 0);
        assert_eq!(Record::parse(&other), None);
    }
}
