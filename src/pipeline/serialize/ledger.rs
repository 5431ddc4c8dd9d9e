//! The checkpoint of a run: what is on the medium, written down after it is there.
//!
//! Invariant: a blob has its line only when its bytes were written, and synchronised where the medium can be.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::archive::checkpoint;
use crate::archive::plan::Plan;
use crate::archive::tar;
use crate::image::{Descriptor, annotation};
use crate::medium::block_buffer::Finished;
use crate::medium::ordered::Watcher;
use crate::medium::tape::writer::TapeUsed;

/// How often lines are written, each time after the medium was synchronised.
const INTERVAL: Duration = Duration::from_secs(1);

/// A checkpoint that is being written.
pub struct Ledger {
    out: File,
    /// What is not on the medium yet: the end of its entry in the uncompressed archive.
    waiting: VecDeque<(u64, Descriptor)>,
    /// What was written, with the length of the medium then.
    ready: Vec<(u64, Descriptor)>,
    compressed: bool,
    /// Tapes that were written: which bytes of the medium each has, and what a line says of it.
    tapes: Vec<(Range<u64>, String)>,
    /// When lines were written last.
    written: Option<Instant>,
}

impl Ledger {
    /// Begins an empty file at `path`.
    pub fn create(path: &Path, plan: &Plan, compressed: bool) -> io::Result<Self> {
        let end = |entry: &crate::archive::plan::Entry| {
            entry.offset + entry.header().len() as u64 + tar::padded(entry.size()).unwrap_or_default()
        };
        let waiting = plan.entries.iter().filter_map(|e| Some((end(e), e.descriptor.clone()?))).collect();
        let out = File::create(path)?;
        Ok(Ledger { out, waiting, ready: Vec::new(), compressed, tapes: Vec::new(), written: None })
    }
}

impl Watcher for Ledger {
    fn reached(&mut self, archive: u64, medium: u64, sync: &dyn Fn() -> io::Result<()>, last: bool) -> io::Result<()> {
        while let Some((end, _)) = self.waiting.front()
            && *end <= archive
            && let Some((end, descriptor)) = self.waiting.pop_front()
        {
            self.ready.push((if self.compressed { medium } else { end }, descriptor));
        }
        let waits = self.ready.is_empty() || self.written.is_some_and(|written| written.elapsed() < INTERVAL);
        if waits && !last {
            return Ok(());
        }
        sync()?;
        let mut lines = Vec::new();
        for (offset, mut descriptor) in self.ready.drain(..) {
            if let Some((_, tape)) = self.tapes.iter().find(|(there, _)| there.start < offset && offset <= there.end) {
                descriptor.annotations.insert(annotation::TAPE.into(), tape.clone());
            }
            lines.extend(checkpoint::line(&descriptor, offset)?);
        }
        self.out.write_all(&lines)?;
        if last {
            self.out.sync_all()?;
        }
        self.written = Some(Instant::now());
        Ok(())
    }

    fn finished(&mut self, medium: &Finished, before: u64) {
        let Finished::Tapes(tapes) = medium else { return };
        let mut start = before;
        for TapeUsed { volume, position_before, position_after, bytes, .. } in tapes {
            let there = start..start + bytes;
            start = there.end;
            self.tapes.push((there, format!("{volume}:{position_before}-{position_after}")));
        }
    }
}
