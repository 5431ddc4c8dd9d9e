//! A blob that passes by once: whoever sends it reads it here while it comes in, and may go back as far as its last
//! bytes are kept. That is enough for an upload that broke to go on from where the registry stands.
//!
//! Invariants: never more than `room` bytes are held; the last bytes are only given out when the digest is right.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use tokio::sync::Notify;

use crate::image::{Descriptor, Hasher};
use crate::store::{BlobReader, BlobSource, Error, Result};

/// One blob on its way. Clones are the same blob.
#[derive(Clone)]
pub struct Passing(Arc<Inner>);

struct Inner {
    descriptor: Descriptor,
    place: String,
    /// Bytes that may be held, and of them those that nobody has read yet.
    room: u64,
    ahead: u64,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    /// What is held: the bytes from `start` to `end`. Up to `given` they were read, and hashed.
    chunks: VecDeque<Bytes>,
    start: u64,
    given: u64,
    end: u64,
    hasher: Option<Hasher>,
    /// Why no more is given out.
    failed: Option<String>,
    unwanted: bool,
}

impl Passing {
    /// `room` is in bytes; a blob that fits into it is held whole until it is no longer wanted.
    pub fn new(descriptor: &Descriptor, place: &str, room: u64) -> Self {
        let hasher = Some(Hasher::new(descriptor.digest.algorithm()));
        let ahead = if descriptor.size <= room { room } else { room / 4 };
        let state =
            State { chunks: VecDeque::new(), start: 0, given: 0, end: 0, hasher, failed: None, unwanted: false };
        Passing(Arc::new(Inner {
            descriptor: descriptor.bare(),
            place: place.to_owned(),
            room,
            ahead,
            state: Mutex::new(state),
            changed: Notify::new(),
        }))
    }

    /// Takes the next bytes, when there is room for them. They are dropped if nobody wants the blob any more.
    pub async fn push(&self, chunk: Bytes) {
        let inner = &self.0;
        loop {
            let changed = inner.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = inner.state();
                if state.unwanted {
                    return;
                }
                if state.make_room(chunk.len() as u64, inner) {
                    state.end += chunk.len() as u64;
                    state.chunks.push_back(chunk);
                    inner.changed.notify_waiters();
                    return;
                }
            }
            changed.await;
        }
    }

    /// No more bytes will come.
    pub fn cut(&self) {
        self.0.state().failed.get_or_insert_with(|| "the archive was cut".into());
        self.0.changed.notify_waiters();
    }

    /// Nobody will read it any more.
    pub fn leave(&self) {
        let mut state = self.0.state();
        state.unwanted = true;
        state.chunks.clear();
        self.0.changed.notify_waiters();
    }

    /// The bytes at `position`, as many as there are in one piece; `None` at the end.
    async fn read(&self, position: u64) -> Result<Option<Bytes>> {
        let inner = &self.0;
        loop {
            let changed = inner.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let (ready, passed) = {
                let mut state = inner.state();
                let given = state.given;
                (state.read(position, inner)?, state.given > given)
            };
            if passed || ready.is_some() {
                inner.changed.notify_waiters();
            }
            if let Some(ready) = ready {
                return Ok(Some(ready).filter(|chunk| !chunk.is_empty()));
            }
            changed.await;
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unusable(&self, reason: impl std::fmt::Display) -> Error {
        let reason = format!("blob {}: {reason}", self.descriptor.digest);
        Error::Unusable { place: self.place.clone(), reason }
    }
}

impl State {
    /// Forgets bytes that were read, oldest first, as far as it takes. `false`: others must be read first.
    fn make_room(&mut self, length: u64, inner: &Inner) -> bool {
        if self.end > self.given && self.end - self.given + length > inner.ahead {
            return false;
        }
        while self.end - self.start + length > inner.room
            && let Some(oldest) = self.chunks.front()
            && self.start + oldest.len() as u64 <= self.given
        {
            self.start += oldest.len() as u64;
            self.chunks.pop_front();
        }
        true
    }

    /// `None`: not yet. No bytes: the end.
    fn read(&mut self, position: u64, inner: &Inner) -> Result<Option<Bytes>> {
        let size = inner.descriptor.size;
        if position < self.start {
            return Err(inner.unusable(format!(
                "its upload broke off at byte {position}, and the archive is at byte {} of it: run the same command \
                 again (what has arrived is not sent twice), read the archive from a regular, uncompressed file, or \
                 let more of it be kept with --byte-budget",
                self.end
            )));
        }
        if position < self.end {
            let (found, chunk) = self.chunk_at(position);
            self.hash_up_to(found, inner)?;
            return Ok(Some(chunk));
        }
        if let Some(reason) = &self.failed {
            return Err(inner.unusable(reason));
        }
        if position >= size && self.end >= size {
            self.hash_up_to(size, inner)?;
            return Ok(Some(Bytes::new()));
        }
        // Nobody wants what comes before: room for what does.
        self.hash_up_to(self.end, inner)?;
        Ok(None)
    }

    /// What is held from `position` to the end of its chunk, and where that is.
    fn chunk_at(&self, position: u64) -> (u64, Bytes) {
        let mut end = self.start;
        for chunk in &self.chunks {
            let start = end;
            end += chunk.len() as u64;
            if position < end {
                return (end, chunk.slice((position - start) as usize..));
            }
        }
        (end, Bytes::new())
    }

    /// Hashes what nobody has read before; at the end the digest must be right.
    fn hash_up_to(&mut self, to: u64, inner: &Inner) -> Result<()> {
        if let Some(reason) = &self.failed {
            return Err(inner.unusable(reason));
        }
        while self.given < to {
            let (end, chunk) = self.chunk_at(self.given);
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&chunk);
            }
            self.given = end;
        }
        if self.given == inner.descriptor.size
            && let Some(hasher) = self.hasher.take()
        {
            let actual = hasher.finish();
            if actual != inner.descriptor.digest {
                let reason = format!("it is not what its digest says, but {actual}");
                return Err(inner.unusable(self.failed.insert(reason)));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl BlobSource for Passing {
    async fn open(&self, offset: u64) -> Result<BlobReader> {
        let first = self.0.state().start;
        if offset < first {
            // Says why.
            self.read(offset).await?;
        }
        let stream = futures_util::stream::try_unfold((self.clone(), offset), |(passing, position)| async move {
            let chunk = passing.read(position).await?;
            Ok(chunk.map(|chunk| {
                let next = position + chunk.remaining() as u64;
                (chunk, (passing, next))
            }))
        });
        Ok(stream.boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    fn blob(bytes: &[u8]) -> Descriptor {
        Descriptor::new("", Digest::sha256(bytes), bytes.len() as u64)
    }

    async fn read(passing: &Passing, offset: u64) -> Result<Vec<u8>> {
        let mut reader = passing.open(offset).await?;
        let mut all = Vec::new();
        while let Some(chunk) = reader.next().await {
            all.extend_from_slice(&chunk?);
        }
        Ok(all)
    }

    fn feed(passing: &Passing, bytes: &'static [u8], piece: usize) -> tokio::task::JoinHandle<()> {
        let passing = passing.clone();
        tokio::spawn(async move {
            for chunk in bytes.chunks(piece) {
                passing.push(Bytes::from_static(chunk)).await;
            }
        })
    }

    const BYTES: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

    #[tokio::test]
    async fn a_reader_that_begins_far_behind_lets_the_rest_pass() {
        let passing = Passing::new(&blob(BYTES), "pipe", 12);
        let feeding = feed(&passing, BYTES, 3);
        let reading = tokio::time::timeout(std::time::Duration::from_secs(5), read(&passing, 25));
        assert_eq!(reading.await.unwrap().unwrap(), BYTES[25..]);
        feeding.await.unwrap();
    }

    #[tokio::test]
    async fn what_fits_can_be_read_again_from_anywhere() {
        let passing = Passing::new(&blob(BYTES), "pipe", 64);
        feed(&passing, BYTES, 5).await.unwrap();
        for offset in [0, 7, 36] {
            assert_eq!(read(&passing, offset).await.unwrap(), BYTES[offset as usize..]);
        }
    }

    #[tokio::test]
    async fn a_large_one_goes_back_as_far_as_its_window() {
        let passing = Passing::new(&blob(BYTES), "pipe", 16);
        let fed = feed(&passing, BYTES, 4);
        assert_eq!(read(&passing, 0).await.unwrap(), BYTES);
        fed.await.unwrap();
        let held = {
            let state = passing.0.state();
            assert!(state.end - state.start <= 16);
            state.start
        };
        assert_eq!(held, 20);
        assert_eq!(read(&passing, 23).await.unwrap(), BYTES[23..]);
        let error = read(&passing, 19).await.unwrap_err().to_string();
        assert!(error.contains("broke off at byte 19") && error.contains("--byte-budget"), "{error}");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_reader_that_left() {
        let passing = Passing::new(&blob(BYTES), "pipe", 8);
        let fed = feed(&passing, BYTES, 4);
        passing.leave();
        fed.await.unwrap();
    }

    #[tokio::test]
    async fn the_last_bytes_of_a_wrong_blob_are_kept_back() {
        let passing = Passing::new(&blob(b"something else that is as long as it"), "pipe", 64);
        feed(&passing, BYTES, 10).await.unwrap();
        let mut reader = passing.open(0).await.unwrap();
        for _ in 0..3 {
            assert_eq!(reader.next().await.unwrap().unwrap().len(), 10);
        }
        for error in [reader.next().await.unwrap().unwrap_err(), read(&passing, 30).await.unwrap_err()] {
            assert!(error.to_string().contains("not what its digest says"), "{error}");
        }
    }

    #[tokio::test]
    async fn what_was_cut_is_an_error_and_no_end() {
        let passing = Passing::new(&blob(BYTES), "pipe", 64);
        passing.push(Bytes::from_static(b"0123")).await;
        passing.cut();
        assert!(read(&passing, 0).await.unwrap_err().to_string().contains("was cut"));
        let empty = Passing::new(&blob(b""), "pipe", 64);
        assert!(read(&empty, 0).await.unwrap().is_empty());
    }
}
