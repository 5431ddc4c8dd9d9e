//! A compressed archive in a regular file, and what an interrupted run left of one: it is read back frame by frame
//! against the plan, cut behind the last frame that is right, and goes on there.
//!
//! Invariant: what is gone on from was decompressed and compared, and is byte for byte what would be written now. Of
//! a blob that is there in part, only its end tells whether the part was right: if not, the archive goes on before it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Relaxed;

use super::{Failed, Work, ordered};
use crate::archive::follow::{Follower, Mismatch, Standing};
use crate::archive::plan::Plan;
use crate::medium::compression::{BLOCK, Compression};
use crate::medium::file::NewFile;
use crate::medium::ordered::{Output, Passage};
use crate::pipeline::copy::finished;

/// A place to go on from.
#[derive(Clone)]
struct Place {
    standing: Standing,
    /// Bytes of the file up to there.
    length: u64,
}

impl Place {
    fn start() -> Self {
        Place { standing: Standing::start(), length: 0 }
    }
}

/// Writes a compressed archive, or what is missing of it; gives its length, and tells in `resumed` how many bytes of
/// the archive were there.
pub async fn write(
    work: &Work<'_>,
    compression: Compression,
    file: &NewFile,
    resumed: &mut u64,
) -> Result<u64, Failed> {
    let Work { cx, plan, options, .. } = work;
    let mut places = vec![Place::start()];
    if file.is_kept() {
        cx.progress.begin("verifying what is there");
        let (bytes, planned, level) = (file.file().clone(), Plan::clone(plan), options.level);
        let look = move || examine(&bytes, &planned, compression, level);
        places = finished(tokio::task::spawn_blocking(look).await)?;
    }
    file.keep().store(true, Relaxed);
    for (at, Place { standing, length }) in places.iter().enumerate() {
        let out = file.file();
        out.set_len(*length)?;
        (&**out).seek(SeekFrom::End(0))?;
        *resumed = standing.offset;
        work.begin();
        for entry in &plan.entries[..standing.entry] {
            cx.progress.add_bytes(entry.size());
            cx.progress.add_items(u64::from(entry.descriptor.is_some()));
        }
        let told = work.passage().map_err(io::Error::other)?;
        let mut passage = Passage { before: standing.offset, on_medium: *length, ..told };
        if standing.offset == plan.length {
            if let Some(watcher) = &mut passage.watcher {
                watcher.reached(plan.length, *length, &|| out.sync_data(), true)?;
            }
            return Ok(*length);
        }
        match ordered::write(cx, work.store, plan, standing, Output::Open(out.clone()), passage).await {
            Ok(written) => return Ok(length + written.bytes),
            Err(Failed::Store(e)) if e.is_corruption() && at + 1 < places.len() => {
                tracing::warn!("{e}; what was there of it is written anew");
            }
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other("there is no place to go on from").into())
}

/// The places to go on from, in the order in which they are to be tried: behind the last frame that is right, and
/// before the blob that is cut there.
fn examine(file: &File, plan: &Plan, compression: Compression, level: Option<i32>) -> io::Result<Vec<Place>> {
    (&*file).rewind()?;
    let mut input = Counted { input: BufReader::with_capacity(1 << 20, file), read: 0 };
    let mut follower = Follower::new(plan);
    let (mut best, mut settled) = (Place::start(), Place::start());
    'frames: loop {
        let mut frames = Vec::new();
        let mut end = input.read;
        while frames.len() < compression.threads()
            && let Some(block) = frame(&mut input, compression)
        {
            frames.push((block, end..input.read));
            end = input.read;
        }
        if frames.is_empty() {
            break;
        }
        let packed: Vec<_> = std::thread::scope(|scope| {
            let pack = |block| scope.spawn(move || compression.pack(level, block));
            let threads: Vec<_> = frames.iter().map(|(block, _)| pack(block)).collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        for ((block, place), packed) in frames.into_iter().zip(packed) {
            let packed: Vec<u8> = packed?;
            let mut there = vec![0; packed.len()];
            if place.end - place.start != packed.len() as u64
                || file.read_exact_at(&mut there, place.start).is_err()
                || there != packed
            {
                break 'frames;
            }
            match follower.take(&block) {
                Ok(()) if block.len() == BLOCK || follower.standing().offset == plan.length => {}
                Ok(()) | Err(Mismatch::Other { .. }) => break 'frames,
                Err(Mismatch::Digest { .. }) => {
                    best = settled.clone();
                    break 'frames;
                }
            }
            best = Place { standing: follower.standing().clone(), length: place.end };
            if best.standing.hasher.is_none() {
                settled = best.clone();
            }
            if follower.is_complete() {
                break 'frames;
            }
        }
    }
    let cut = best.standing.hasher.is_some();
    Ok(if cut { vec![best, settled] } else { vec![best] })
}

/// What the next frame holds. `None`: there is none, or none that is whole, or it is none of ours.
fn frame(input: &mut Counted<'_>, compression: Compression) -> Option<Vec<u8>> {
    if input.fill_buf().ok()?.is_empty() {
        return None;
    }
    let mut block = Vec::new();
    compression.unpack(input).ok()?.take(BLOCK as u64 + 1).read_to_end(&mut block).ok()?;
    (!block.is_empty() && block.len() <= BLOCK).then_some(block)
}

/// Counts the bytes that were used.
struct Counted<'f> {
    input: BufReader<&'f File>,
    read: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.read += n as u64;
        Ok(n)
    }
}

impl BufRead for Counted<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.input.consume(n);
        self.read += n as u64;
    }
}
