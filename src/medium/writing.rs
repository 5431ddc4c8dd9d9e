//! How an archive is written to a medium of blocks: what the user said of it, and what is chosen where nothing
//! was said.

use std::path::Path;

use super::block_buffer::{Buffering, Medium};
use super::identity::Identity;
use super::ordered::Output;
use super::volumes::Listing;
use super::volumes::writer::VolumeWriter;
use super::{object, tape};

/// Size of blocks in bytes, where the user gave none: what every drive and every host adapter takes.
const BLOCK_SIZE: usize = 1 << 20;
/// The buffer, where the user gave none: so many bytes, or a quarter of the memory.
const BUFFER: u64 = 1 << 30;
/// Percent of the buffer that are filled before a drive starts, where the user gave none.
const HIGH_WATER_MARK: u8 = 90;
/// Blocks that wait for a medium that can stop at any time.
const FEW: u64 = 4;

/// What the user said of the medium.
#[derive(Clone, Debug, Default)]
pub struct Writing {
    /// Size of blocks in bytes.
    pub block_size: Option<usize>,
    /// Bytes in front of a drive.
    pub buffer: Option<u64>,
    /// Percent of them that are filled before the drive starts, and starts again.
    pub high_water_mark: Option<u8>,
    pub tape: tape::writer::Options,
    /// Puts in the next tape.
    pub operator: tape::Operator,
    /// How the store of an object is reached.
    pub objects: object::Access,
    /// Volumes of at most so many bytes in place of one file.
    pub volume_size: Option<u64>,
    /// Read everything back when it is written.
    pub verify: bool,
}

/// Where on a tape to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Where it stands.
    Here,
    /// At that position of that tape, which is in the drive; `offset` bytes of the archive are before it. `damaged`: what is
    /// there can be read and is wrong, so that it has to be written over.
    At { volume: u32, position: u64, offset: u64, damaged: bool },
    /// At the beginning of that tape, which is in the drive and blank.
    Tape { volume: u32, offset: u64 },
}

impl Writing {
    /// The buffer in front of a drive.
    fn buffering(&self) -> Buffering {
        let block_size = self.block_size.unwrap_or(BLOCK_SIZE);
        let bytes = self.buffer.unwrap_or_else(|| memory().map_or(BUFFER, |memory| BUFFER.min(memory / 4)));
        Buffering::of(block_size, bytes, self.high_water_mark.unwrap_or(HIGH_WATER_MARK))
    }

    /// A tape drive to write `archive` to.
    pub fn tape(&self, drive: &Path, archive: Identity, begin: Begin) -> Output {
        let (writing, drive, buffering) = (self.clone(), drive.to_owned(), self.buffering());
        let open = move || {
            let drive = tape::Drive::open(&drive, tape::Access::Write)?;
            let (options, ask) = (writing.tape, writing.operator.ask());
            let tape = tape::writer::TapeWriter::start(drive, archive, buffering.block_size, begin, options, ask)?;
            Ok(Box::new(tape) as Box<dyn Medium>)
        };
        Output::Blocks(Box::new(open), buffering)
    }

    /// Volumes to write an archive into, which `listing` names; those that it lists already are there.
    pub fn volumes(&self, path: &Path, listing: Listing, force: bool) -> Output {
        let path = path.to_owned();
        let open = move || Ok(Box::new(VolumeWriter::start(&path, listing, force)?) as Box<dyn Medium>);
        Output::Blocks(Box::new(open), Buffering::of(BLOCK_SIZE, FEW * BLOCK_SIZE as u64, 0))
    }
}

/// A store of objects to write an archive to; what it takes at once is none of the blocks.
pub fn object(writer: object::writer::ObjectWriter) -> Output {
    let open = move || Ok(Box::new(writer) as Box<dyn Medium>);
    Output::Blocks(Box::new(open), Buffering::of(BLOCK_SIZE, FEW * BLOCK_SIZE as u64, 0))
}

/// Bytes of memory that the machine has, where it says so.
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
