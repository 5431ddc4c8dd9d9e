//! Reading what an interrupted run left on its medium, against the plan: the archive itself, or frames of it.
//!
//! Invariant: what is gone on from was compared, and is byte for byte what would be written now. Of a blob that is
//! there in part, only its end tells whether the part was right. What is there of a frame that was cut is handed to
//! the writer, which makes it again and compares.

use std::io::{self, Read};

use bytes::Bytes;

use crate::archive::follow::{Follower, Mismatch, Standing};
use crate::archive::plan::Plan;
use crate::medium::compression::{BLOCK, Compression};

/// No frame has more bytes than this: those of a block that does not get smaller, and what packing adds.
const LARGEST: usize = BLOCK + BLOCK / 8 + (64 << 10);

/// A place to go on from.
#[derive(Clone)]
pub struct Place {
    pub standing: Standing,
    /// Bytes of the medium up to there.
    pub length: u64,
    /// What the medium holds behind that: a frame that was cut.
    pub tail: Bytes,
}

impl Place {
    /// Nothing is there.
    pub fn start() -> Self {
        Place { standing: Standing::start(), length: 0, tail: Bytes::new() }
    }

    /// Bytes on the medium.
    pub fn on_medium(&self) -> u64 {
        self.length + self.tail.len() as u64
    }
}

/// Takes the bytes of a medium in their order.
pub struct There<'p> {
    follower: Follower<'p>,
    frames: Option<Frames>,
    /// Behind the last byte, or frame, that is right.
    last: Place,
    /// Behind the last frame that is right and in which no blob is cut.
    settled: Place,
}

/// The frames of a compressed archive.
struct Frames {
    compression: Compression,
    level: Option<i32>,
    /// What was not looked at yet.
    pending: Vec<u8>,
}

impl<'p> There<'p> {
    /// `compression`: how it would be written now.
    pub fn new(plan: &'p Plan, compression: Option<(Compression, Option<i32>)>) -> Self {
        let frames = compression.map(|(compression, level)| Frames { compression, level, pending: Vec::new() });
        There { follower: Follower::new(plan), frames, last: Place::start(), settled: Place::start() }
    }

    /// Whether all of the archive was seen.
    pub fn is_complete(&self) -> bool {
        self.follower.is_complete()
    }

    /// Where the bytes that were taken end, if that is known without looking at frames: `None` of a compressed archive.
    pub fn so_far(&self) -> Option<Place> {
        if self.frames.is_some() {
            return None;
        }
        let standing = self.follower.standing().clone();
        Some(Place { length: standing.offset, standing, tail: Bytes::new() })
    }

    /// Whether what was taken can only be this archive: the index is right, which names the root.
    pub fn is_ours(&self) -> bool {
        if self.frames.is_some() { self.last.length > 0 } else { self.follower.has_seen("index.json") }
    }

    /// Whether nothing was right before the last so many bytes: they are the first.
    pub fn is_first(&self, bytes: usize) -> bool {
        if self.frames.is_some() { self.last.length == 0 } else { self.follower.is_first(bytes) }
    }

    /// Compares the next bytes; frames are looked at when some are there, or `place` is asked for.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Mismatch> {
        let Some(frames) = &mut self.frames else { return self.follower.take(bytes) };
        frames.pending.extend_from_slice(bytes);
        if frames.pending.len() >= 4 && !self.is_complete() && !self.starts_a_frame() {
            return Err(self.other());
        }
        while self.pending() >= LARGEST * self.threads() {
            if self.take_frames()? == 0 {
                return Err(self.other());
            }
        }
        Ok(())
    }

    /// Where to go on behind all that was taken.
    pub fn place(&mut self) -> Result<Place, Mismatch> {
        if let Some(place) = self.so_far() {
            return Ok(place);
        }
        while self.take_frames()? > 0 {}
        let Some(frames) = &self.frames else { return Ok(self.last.clone()) };
        if frames.pending.is_empty() {
            return Ok(self.last.clone());
        }
        // What can be read of a frame that was cut tells whether it is ours.
        let mut start = Vec::new();
        if let Ok(frame) = frames.compression.unpack(frames.pending.as_slice()) {
            // It ends with an error, as the frame is not whole.
            let _ = frame.take(BLOCK as u64 + 1).read_to_end(&mut start);
        }
        if frames.pending.len() >= LARGEST || !self.starts_a_frame() || self.follower.clone().take(&start).is_err() {
            return Err(self.other());
        }
        Ok(Place { tail: Bytes::copy_from_slice(&frames.pending), ..self.last.clone() })
    }

    /// The frames that are right, after some that are not: behind the last one, and behind the last one in which no
    /// blob is cut, where that is another place.
    pub fn places(self) -> (Place, Option<Place>) {
        let cut = self.last.standing.hasher.is_some();
        (self.last, cut.then_some(self.settled))
    }

    /// Gives up what is there of a blob that turned out to be wrong.
    pub fn settle(&mut self) {
        self.last = self.settled.clone();
    }

    fn other(&self) -> Mismatch {
        Mismatch::Other { offset: self.last.standing.offset }
    }

    fn pending(&self) -> usize {
        self.frames.as_ref().map_or(0, |frames| frames.pending.len())
    }

    fn threads(&self) -> usize {
        self.frames.as_ref().map_or(1, |frames| frames.compression.threads())
    }

    fn starts_a_frame(&self) -> bool {
        self.frames.as_ref().is_some_and(|f| Compression::sniff(&f.pending).is_none_or(|found| found == f.compression))
    }

    /// Compares some whole frames on all cores; gives the bytes of the medium that were used.
    fn take_frames(&mut self) -> Result<usize, Mismatch> {
        let Some(frames) = &mut self.frames else { return Ok(0) };
        if self.follower.is_complete() {
            // What fills up the last block of a medium.
            let there = frames.pending.len();
            if frames.pending.iter().any(|byte| *byte != 0) {
                return Err(self.other());
            }
            frames.pending.clear();
            return Ok(there);
        }
        let (blocks, used) = frames.unpack();
        let packed = frames.pack(&blocks);
        for ((block, place), packed) in blocks.iter().zip(packed) {
            let is_ours = packed.is_ok_and(|packed| packed == frames.pending[place.clone()]);
            let other = Mismatch::Other { offset: self.last.standing.offset };
            if !is_ours {
                return Err(other);
            }
            self.follower.take(block)?;
            if block.len() < BLOCK && !self.follower.is_complete() {
                return Err(other);
            }
            let standing = self.follower.standing().clone();
            self.last = Place { standing, length: self.last.length + place.len() as u64, tail: Bytes::new() };
            if self.last.standing.hasher.is_none() {
                self.settled = self.last.clone();
            }
        }
        frames.pending.drain(..used);
        Ok(used)
    }
}

type Block = (Vec<u8>, std::ops::Range<usize>);

impl Frames {
    /// What the next whole frames hold, as many as there are cores, with their places; and the bytes that they take.
    fn unpack(&self) -> (Vec<Block>, usize) {
        let mut rest = self.pending.as_slice();
        let mut blocks = Vec::new();
        let mut used = 0;
        while blocks.len() < self.compression.threads()
            && let Some(block) = frame(&mut rest, self.compression)
        {
            let end = self.pending.len() - rest.len();
            blocks.push((block, used..end));
            used = end;
        }
        (blocks, used)
    }

    /// What packing makes of them now.
    fn pack(&self, blocks: &[Block]) -> Vec<io::Result<Vec<u8>>> {
        std::thread::scope(|scope| {
            let pack = |block| scope.spawn(move || self.compression.pack(self.level, block));
            let threads: Vec<_> = blocks.iter().map(|(block, _)| pack(block)).collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }
}

/// What the next frame holds. `None`: there is none, or none that is whole, or it is none of ours.
fn frame(rest: &mut &[u8], compression: Compression) -> Option<Vec<u8>> {
    if rest.is_empty() {
        return None;
    }
    let mut input = *rest;
    let mut block = Vec::new();
    compression.unpack(&mut input).ok()?.take(BLOCK as u64 + 1).read_to_end(&mut block).ok()?;
    *rest = input;
    (!block.is_empty() && block.len() <= BLOCK).then_some(block)
}
