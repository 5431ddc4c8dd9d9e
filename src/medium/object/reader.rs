//! Reading an object: a few bytes from anywhere (headers, manifests), a range as a stream (a blob), or all of it in
//! order, compared part by part with what its commit object says.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;

use super::{Access, Commit, Object, wait};
use crate::image::{Algorithm, Hasher};
use crate::medium::read_at::{Chunks, ReadAt};

/// Small reads fetch pages of so many bytes; the last so many pages are kept.
const PAGE: u64 = 128 << 10;
const PAGES: usize = 64;

/// An object that is read. It stays the same one: a reader notices when it is replaced.
pub struct ObjectReader {
    object: Object,
    length: u64,
    e_tag: Option<String>,
    commit: Option<Commit>,
    runtime: Handle,
    pages: Mutex<VecDeque<(u64, Bytes)>>,
}

impl ObjectReader {
    /// One without a commit object is read with a warning: its blobs are verified all the same.
    pub async fn open(url: &str, access: &Access) -> io::Result<Self> {
        let object = Object::new(url, access)?;
        let there = object.store.head(&object.path).await.map_err(|e| object.failed(e))?;
        // A writer removes the commit object before it replaces the object. So what is asked for last is of the object
        // that was there, or of a later one, whose bytes have another ETag; it is never of an earlier one.
        let commit = object.commit().await?;
        match &commit {
            Some(commit) if commit.length != there.size => {
                return Err(io::Error::other(format!(
                    "it has {} bytes, and its commit object tells of {}: it was replaced or is being written",
                    there.size, commit.length
                )));
            }
            Some(_) => {}
            None => tracing::warn!(
                "{url} has no commit object ({url}{}): another program wrote it, or its writing has not ended",
                super::COMMIT
            ),
        }
        let (length, e_tag) = (there.size, there.e_tag);
        Ok(ObjectReader { object, length, e_tag, commit, runtime: Handle::current(), pages: Mutex::default() })
    }

    /// All of it, in order.
    pub fn in_order(self) -> InOrder {
        let chunks = self.chunks(0..self.length);
        InOrder { runtime: self.runtime, chunks, current: Bytes::new(), comparison: Comparison::new(self.commit) }
    }

    /// A range of it. A connection that breaks is made again where it broke, as long as something comes.
    fn chunks(&self, range: Range<u64>) -> Chunks {
        let (object, e_tag) = (self.object.clone(), self.e_tag.clone());
        Box::pin(stream(object, e_tag, range))
    }

    /// A page, fetched or kept.
    fn page(&self, number: u64) -> io::Result<Bytes> {
        let pages = || self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, page)) = pages().iter().find(|(at, _)| *at == number) {
            return Ok(page.clone());
        }
        let start = number * PAGE;
        let mut chunks = self.chunks(start..self.length.min(start + PAGE));
        let page = wait(&self.runtime, async move {
            let mut page = Vec::with_capacity(PAGE as usize);
            while let Some(chunk) = chunks.next().await {
                page.extend_from_slice(&chunk?);
            }
            Ok(Bytes::from(page))
        })?;
        let mut pages = pages();
        pages.truncate(PAGES - 1);
        pages.push_front((number, page.clone()));
        Ok(page)
    }
}

/// Bytes of an object that has this ETag.
fn stream(object: Object, e_tag: Option<String>, range: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let begun: (Range<u64>, Option<BoxStream<'static, object_store::Result<Bytes>>>) = (range, None);
    futures_util::stream::try_unfold(begun, move |(mut rest, mut open)| {
        let (object, if_match) = (object.clone(), e_tag.clone());
        async move {
            let mut again = false;
            while !rest.is_empty() {
                let chunks = match &mut open {
                    Some(chunks) => chunks,
                    None => {
                        let range = Some(GetRange::Bounded(rest.clone()));
                        let options = GetOptions { range, if_match: if_match.clone(), ..GetOptions::default() };
                        let found = object.store.get_opts(&object.path, options).await.map_err(|e| object.failed(e))?;
                        open.insert(found.into_stream())
                    }
                };
                match chunks.next().await {
                    Some(Ok(chunk)) => {
                        rest.start += chunk.len() as u64;
                        return Ok(Some((chunk, (rest, open))));
                    }
                    Some(Err(e)) if again => return Err(object.failed(e)),
                    // The store was asked again for as long as it may be; what came since then counts.
                    Some(Err(e)) => tracing::debug!("{}: {e}", object.url),
                    None if again => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                    None => {}
                }
                (open, again) = (None, true);
            }
            Ok(None)
        }
    })
}

impl ReadAt for ObjectReader {
    fn length(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.length {
            return Ok(0);
        }
        let page = self.page(offset / PAGE)?;
        let rest = page.get((offset % PAGE) as usize..).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn stream(&self, range: Range<u64>) -> Option<Chunks> {
        Some(self.chunks(range))
    }
}

/// An object from its beginning to its end.
pub struct InOrder {
    runtime: Handle,
    chunks: Chunks,
    current: Bytes,
    comparison: Comparison,
}

impl Read for InOrder {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let mut chunks = std::mem::replace(&mut self.chunks, Box::pin(futures_util::stream::empty()));
            let (chunk, rest) = wait(&self.runtime, async move { Ok((chunks.next().await, chunks)) })?;
            self.chunks = rest;
            match chunk {
                Some(chunk) => self.current = chunk?,
                None => {
                    self.comparison.end()?;
                    return Ok(0);
                }
            }
            self.comparison.take(&self.current)?;
        }
        let n = out.len().min(self.current.len());
        out[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

/// Compares the bytes of an object with what its commit object says, part by part.
struct Comparison {
    commit: Option<Commit>,
    offset: u64,
    hasher: Hasher,
}

impl Comparison {
    fn new(commit: Option<Commit>) -> Self {
        Comparison { commit, offset: 0, hasher: Hasher::new(Algorithm::Sha256) }
    }

    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(commit) = &self.commit
            && !bytes.is_empty()
        {
            let room = commit.part_size - self.offset % commit.part_size;
            let (now, later) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            self.hasher.update(now);
            self.offset += now.len() as u64;
            bytes = later;
            if now.len() as u64 == room {
                self.end_part()?;
            }
        }
        Ok(())
    }

    fn end_part(&mut self) -> io::Result<()> {
        let Some(commit) = &self.commit else { return Ok(()) };
        let number = (self.offset.div_ceil(commit.part_size)).saturating_sub(1) as usize;
        let digest = std::mem::replace(&mut self.hasher, Hasher::new(Algorithm::Sha256)).finish();
        if commit.parts.get(number) == Some(&digest) {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "part {} of {} is altered: it is not what was written; write the archive again",
                number + 1,
                commit.parts.len()
            ),
        ))
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(commit) = &self.commit else { return Ok(()) };
        if self.offset != commit.length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let whole = commit.length.is_multiple_of(commit.part_size);
        if whole { Ok(()) } else { self.end_part() }
    }
}

/// What was written a moment ago cannot be read as it should be: it is removed if the store holds other bytes.
pub async fn withdraw(url: &str, access: &Access, why: io::Error) -> io::Error {
    let checked = async {
        let object = Object::new(url, access)?;
        match object.commit().await? {
            Some(commit) => Ok((check(object.clone(), None, commit).await, object)),
            None => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    };
    match checked.await {
        Ok((Err(altered), object)) if altered.kind() == io::ErrorKind::InvalidData => object.discard(&altered).await,
        _ => why,
    }
}

/// Reads all of an object and compares it. Fails with `InvalidData` where it holds other bytes.
pub(super) async fn check(object: Object, e_tag: Option<String>, commit: Commit) -> io::Result<()> {
    let length = commit.length;
    let mut comparison = Comparison::new(Some(commit));
    let mut chunks = std::pin::pin!(stream(object, e_tag, 0..length));
    while let Some(chunk) = chunks.next().await {
        comparison.take(&chunk?)?;
    }
    comparison.end()
}
