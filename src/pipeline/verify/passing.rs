//! Hashing an archive that can be read only once: one thread reads, several hash, each a blob at a time.
//! Memory is bounded by the queues between them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;

use crate::archive::contents::Location;
use crate::archive::pass::{Passed, Passing, pass};
use crate::archive::reader::{self, Input};
use crate::image::{Digest, Hasher};
use crate::pipeline::Progress;

/// Bytes of one piece that passes, for the bound of the queues.
const PIECE: u64 = 256 << 10;

/// A blob whose content is not what its name says.
#[derive(Clone, Copy, Debug)]
pub struct Bad {
    pub digest: Digest,
    pub at: Location,
    pub actual: Digest,
}

/// An archive that has passed, hashed.
pub struct Hashed {
    pub passed: Passed,
    /// What ended the pass before the end.
    pub damage: Option<reader::Error>,
    pub bad: Vec<Bad>,
}

/// Reads and hashes all of it with so many threads and about so many bytes of memory. Blocks: not for an async task.
pub fn hash(input: impl Input, threads: usize, memory: u64, progress: &Arc<Progress>) -> Hashed {
    let threads = threads.max(1);
    let queue = usize::try_from(memory / PIECE / threads as u64).unwrap_or(usize::MAX).clamp(2, 256);
    thread::scope(|scope| {
        let mut workers: Vec<Worker> = Vec::new();
        let mut results = Vec::new();
        for _ in 0..threads {
            let (sender, receiver) = sync_channel(queue);
            let waiting = Arc::new(AtomicU64::new(0));
            workers.push(Worker { sender, waiting: waiting.clone() });
            results.push(scope.spawn(move || work(&receiver, &waiting, progress)));
        }
        let mut current = 0;
        let mut watch = |passing: Passing| {
            if let Passing::Blob { at, .. } = &passing {
                // The one with the least to do.
                current = (0..workers.len()).min_by_key(|i| workers[*i].waiting.load(Relaxed)).unwrap_or(0);
                progress.expect(1, at.size);
            }
            let worker = &workers[current];
            if let Passing::Data(bytes) = &passing {
                worker.waiting.fetch_add(bytes.len() as u64, Relaxed);
            }
            worker.sender.send(passing).map_err(|_| io::Error::other("a thread that hashes has ended"))
        };
        let (passed, damage) = pass(input, Some(&mut watch));
        drop(workers);
        let joined = results.into_iter().map(|r| r.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
        Hashed { passed, damage, bad: joined.flatten().collect() }
    })
}

struct Worker {
    sender: SyncSender<Passing>,
    /// Bytes that wait for it.
    waiting: Arc<AtomicU64>,
}

fn work(receiver: &Receiver<Passing>, waiting: &AtomicU64, progress: &Progress) -> Vec<Bad> {
    let mut bad = Vec::new();
    let mut current: Option<(Digest, Location, Hasher)> = None;
    for passing in receiver {
        match passing {
            Passing::Blob { digest, at } => current = Some((digest, at, Hasher::new(digest.algorithm()))),
            Passing::Data(bytes) => hash_piece(&mut current, &bytes, waiting, progress),
            Passing::Expected(_) => {}
            Passing::End => {
                if let Some((digest, at, hasher)) = current.take() {
                    progress.add_items(1);
                    let actual = hasher.finish();
                    if actual != digest {
                        bad.push(Bad { digest, at, actual });
                    }
                }
            }
        }
    }
    bad
}

fn hash_piece(
    current: &mut Option<(Digest, Location, Hasher)>,
    bytes: &Bytes,
    waiting: &AtomicU64,
    progress: &Progress,
) {
    if let Some((_, _, hasher)) = current {
        hasher.update(bytes);
    }
    waiting.fetch_sub(bytes.len() as u64, Relaxed);
    progress.add_bytes(bytes.len() as u64);
}
