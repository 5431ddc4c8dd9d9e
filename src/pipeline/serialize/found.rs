//! What an earlier run left in a partial file, blob by blob. Blobs are written from their start on, each at its
//! planned place, so that what is there of one ends where zeros begin.
//!
//! Invariant: only what was hashed counts as whole; the start of a blob is a guess, which its hash settles when
//! the rest has come.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use nix::unistd::{Whence, lseek};

use crate::archive::plan::{Content, Entry, Plan};
use crate::image::{Descriptor, Hasher};
use crate::pipeline::{Context, Progress, copy::finished};
use crate::store::Prefix;

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// What is there of a blob.
#[derive(Clone, Default)]
pub enum Found {
    #[default]
    Nothing,
    Start(Prefix),
    Whole,
}

impl Found {
    /// Bytes that need not be fetched.
    pub fn bytes(&self, descriptor: &Descriptor) -> u64 {
        match self {
            Found::Nothing => 0,
            Found::Start(known) => known.length,
            Found::Whole => descriptor.size,
        }
    }
}

/// Looks at the place of every blob of `plan`, on all cores. Gives one answer for each entry of the plan.
pub async fn examine(cx: &Context, plan: &Plan, file: &Arc<File>) -> io::Result<Vec<Found>> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let length = file.metadata()?.len();
    let looking = plan.entries.iter().map(|entry| {
        let (entry, file, progress) = (entry.clone(), file.clone(), cx.progress.clone());
        async move {
            match &entry.content {
                Content::Blob(descriptor) if entry.offset < length => {
                    let descriptor = (**descriptor).clone();
                    let look = move || look(&file, &entry, &descriptor, &progress);
                    finished(tokio::task::spawn_blocking(look).await)
                }
                _ => Ok(Found::Nothing),
            }
        }
    });
    // Collected first: a stream over borrowed plans does not live in a task that may move.
    let looking: Vec<_> = looking.collect();
    stream::iter(looking).buffered(cores).try_collect().await
}

fn look(file: &File, entry: &Entry, descriptor: &Descriptor, progress: &Progress) -> io::Result<Found> {
    let header = entry.header();
    let mut there = vec![0; header.len()];
    if read(file, &mut there, entry.offset)? < there.len() || there != header {
        return Ok(Found::Nothing);
    }
    let start = entry.offset + header.len() as u64;
    let written = written(file, start)?.min(descriptor.size);
    let mut known = Prefix { length: 0, hasher: Hasher::new(descriptor.digest.algorithm()) };
    let mut zeros = 0u64;
    let mut chunk = vec![0; CHUNK.min(written as usize)];
    while known.length + zeros < written {
        let at = known.length + zeros;
        let want = (written - at).min(CHUNK as u64) as usize;
        let n = read(file, &mut chunk[..want], start + at)?;
        progress.add_bytes(n as u64);
        if n < want {
            break;
        }
        match chunk[..n].iter().rposition(|b| *b != 0) {
            None => zeros += n as u64,
            Some(last) => {
                known.hasher.zeros(zeros);
                known.hasher.update(&chunk[..=last]);
                known.length += zeros + last as u64 + 1;
                zeros = (n - last - 1) as u64;
            }
        }
    }
    if known.length + zeros == descriptor.size {
        let mut whole = known.clone();
        whole.hasher.zeros(zeros);
        if whole.hasher.finish() == descriptor.digest {
            return Ok(Found::Whole);
        }
    }
    Ok(if known.length == 0 || known.length == descriptor.size { Found::Nothing } else { Found::Start(known) })
}

/// Bytes from `start` to the first hole, where the file system knows of holes; else to the end of the file.
fn written(file: &File, start: u64) -> io::Result<u64> {
    let length = file.metadata()?.len().saturating_sub(start);
    let from = i64::try_from(start).map_err(io::Error::other)?;
    Ok(match lseek(file.as_fd(), from, Whence::SeekHole) {
        Ok(hole) => (hole as u64).saturating_sub(start).min(length),
        Err(_) => length,
    })
}

/// Reads until `out` is full or the file ends.
fn read(file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut n = 0;
    while n < out.len() {
        match file.read_at(&mut out[n..], offset + n as u64) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    fn found(content: &[u8], write: impl FnOnce(&File, u64)) -> Found {
        let descriptor = Descriptor::new("x", Digest::sha256(content), content.len() as u64);
        let content = Content::Blob(Box::new(descriptor.clone()));
        let entry =
            Entry { name: "blobs/sha256/x".into(), descriptor: Some(descriptor.clone()), content, offset: 1024 };
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 22).unwrap();
        file.write_all_at(&entry.header(), 1024).unwrap();
        write(&file, 1536);
        look(&file, &entry, &descriptor, &Progress::default()).unwrap()
    }

    #[test]
    fn a_start_ends_where_zeros_begin() {
        let mut content = vec![7; 1 << 21];
        content[100_000..400_000].fill(0);
        content[(1 << 21) - 9..].fill(0);
        for (written, expected) in [(0, 0), (1, 1), (100_000, 100_000), (300_000, 100_000), (400_001, 400_001)] {
            match found(&content, |file, at| file.write_all_at(&content[..written], at).unwrap()) {
                Found::Start(known) => {
                    assert_eq!(known.length, expected);
                    assert_eq!(known.hasher.finish(), Digest::sha256(&content[..expected as usize]));
                }
                Found::Nothing => assert_eq!(expected, 0),
                Found::Whole => panic!("it is not whole"),
            }
        }
        assert!(matches!(found(&content, |file, at| file.write_all_at(&content, at).unwrap()), Found::Whole));
    }

    #[test]
    fn what_was_planned_otherwise_is_nothing() {
        let other = |file: &File, at: u64| {
            file.write_all_at(&[1; 600], at).unwrap();
            file.write_all_at(&[1], at - 512).unwrap();
        };
        assert!(matches!(found(&[1; 600], other), Found::Nothing));
    }
}
