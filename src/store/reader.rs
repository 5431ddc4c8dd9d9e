//! Reading blobs: a stream of chunks that is hashed as it passes, in the task that asks for it.
//! The last chunk is held back until digest and size are known to be right, so that whoever forwards
//! the chunks can never complete a wrong blob.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};

use super::{Error, Result};
use crate::image::{Descriptor, Hasher};
use crate::medium::read_at::ReadAt;

/// Chunks of a blob, in order.
pub type BlobReader = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// The start of a blob that is at hand already: its length in bytes, and the hash as it stands after it.
#[derive(Clone)]
pub struct Prefix {
    pub length: u64,
    pub hasher: Hasher,
}

/// What comes after `known` in a blob that is read from its start.
pub fn pass_over(whole: BlobReader, descriptor: &Descriptor, place: impl Into<String>, known: Prefix) -> BlobReader {
    let mut skip = known.length;
    let rest = whole.map(move |chunk| {
        let mut chunk = chunk?;
        let known = skip.min(chunk.len() as u64);
        skip -= known;
        Ok(chunk.split_off(known as usize))
    });
    VerifyingReader::after(known, descriptor, place, rest.boxed()).into_reader()
}

/// Hashes and counts what passes; gives an error in place of the last chunk when it was wrong.
pub struct VerifyingReader {
    inner: BlobReader,
    hasher: Option<Hasher>,
    descriptor: Descriptor,
    place: String,
    seen: u64,
    held: Option<Bytes>,
}

impl VerifyingReader {
    /// `inner` gives the bytes of `descriptor` from its start; `place` is for messages.
    pub fn new(descriptor: &Descriptor, place: impl Into<String>, inner: BlobReader) -> Self {
        let none = Prefix { length: 0, hasher: Hasher::new(descriptor.digest.algorithm()) };
        Self::after(none, descriptor, place, inner)
    }

    /// As `new`, where `inner` gives what comes after `known`.
    pub fn after(known: Prefix, descriptor: &Descriptor, place: impl Into<String>, inner: BlobReader) -> Self {
        VerifyingReader {
            inner,
            hasher: Some(known.hasher),
            descriptor: descriptor.bare(),
            place: place.into(),
            seen: known.length,
            held: None,
        }
    }

    pub fn into_reader(self) -> BlobReader {
        Box::pin(self)
    }

    fn what(&self) -> String {
        format!("blob {}", self.descriptor.digest)
    }

    fn finish(&mut self) -> Option<Result<Bytes>> {
        let hasher = self.hasher.take()?;
        if self.seen != self.descriptor.size {
            return Some(Err(self.wrong_size()));
        }
        let actual = hasher.finish();
        if actual != self.descriptor.digest {
            let (expected, actual) = (Box::new(self.descriptor.digest), Box::new(actual));
            return Some(Err(Error::Digest { what: self.what(), place: self.place.clone(), expected, actual }));
        }
        self.held.take().map(Ok)
    }

    fn wrong_size(&self) -> Error {
        Error::Size { what: self.what(), place: self.place.clone(), expected: self.descriptor.size, actual: self.seen }
    }
}

impl Stream for VerifyingReader {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.hasher.is_none() {
                return Poll::Ready(None);
            }
            match self.inner.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(self.finish()),
                Poll::Ready(Some(Err(e))) => {
                    self.hasher = None;
                    return Poll::Ready(Some(Err(e)));
                }
                Poll::Ready(Some(Ok(chunk))) if chunk.is_empty() => {}
                Poll::Ready(Some(Ok(chunk))) => {
                    self.seen += chunk.len() as u64;
                    if self.seen > self.descriptor.size {
                        self.hasher = None;
                        let error = self.wrong_size();
                        return Poll::Ready(Some(Err(error)));
                    }
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&chunk);
                    }
                    if let Some(previous) = self.held.replace(chunk) {
                        return Poll::Ready(Some(Ok(previous)));
                    }
                }
            }
        }
    }
}

/// Bytes that are read of a file at once.
const CHUNK: usize = 256 << 10;
/// Chunks of one blob that are under way when it is read as fast as it is taken. Where more are, they are held elsewhere,
/// and nothing is waited for.
const UNDER_WAY: usize = 3;

/// What a file has at `range`, into buffers that are used again when nobody holds them any more: fresh memory costs page
/// faults. `name` is for messages.
pub fn chunks(file: Arc<dyn ReadAt>, range: Range<u64>, name: String) -> BlobReader {
    let given: VecDeque<Bytes> = VecDeque::new();
    Box::pin(stream::try_unfold((range, given), move |(mut range, mut given)| {
        let read = read_chunk(file.as_ref(), &mut range, &mut given).map_err(|e| Error::io(&name, e));
        std::future::ready(read.map(|chunk| chunk.map(|chunk| (chunk, (range, given)))))
    }))
}

/// The next chunk. The page cache gives one in less time than a hand-over to another thread takes.
fn read_chunk(
    file: &dyn ReadAt,
    range: &mut Range<u64>,
    given: &mut VecDeque<Bytes>,
) -> std::io::Result<Option<Bytes>> {
    let left = range.end.saturating_sub(range.start);
    if left == 0 {
        return Ok(None);
    }
    let length = left.min(CHUNK as u64) as usize;
    let come_back = given.front().is_some_and(Bytes::is_unique).then(|| given.pop_front()).flatten();
    let mut chunk = match come_back.and_then(|chunk| chunk.try_into_mut().ok()) {
        Some(chunk) => chunk,
        None => BytesMut::zeroed(length),
    };
    chunk.truncate(length);
    file.read_exact_at(&mut chunk, range.start)?;
    range.start += length as u64;
    let chunk = chunk.freeze();
    if range.start < range.end {
        if given.len() == UNDER_WAY {
            given.clear();
        }
        given.push_back(chunk.clone());
    }
    Ok(Some(chunk))
}

/// The rest of a blob after `offset` bytes; what comes before is read and verified with it.
pub fn skip(reader: BlobReader, offset: u64) -> BlobReader {
    if offset == 0 {
        return reader;
    }
    let mut left = offset;
    Box::pin(reader.filter_map(move |chunk| {
        let rest = match chunk {
            Ok(mut chunk) => {
                let known = left.min(chunk.len() as u64);
                left -= known;
                chunk.advance(known as usize);
                (!chunk.is_empty()).then_some(Ok(chunk))
            }
            Err(e) => Some(Err(e)),
        };
        std::future::ready(rest)
    }))
}

/// Reads a small blob into memory; fails for one larger than `limit` bytes.
pub async fn read_all(mut reader: BlobReader, size: u64, limit: u64) -> Result<Bytes> {
    if size > limit {
        return Err(Error::Unusable { place: "memory".into(), reason: format!("{size} bytes, more than {limit}") });
    }
    let mut out = Vec::with_capacity(size as usize);
    while let Some(chunk) = reader.next().await {
        out.extend_from_slice(&chunk?);
    }
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn chunks_are_what_the_file_has_whether_their_memory_comes_back_or_not() {
        let bytes: Vec<u8> = (0..20 * CHUNK + 12_345).map(|at| (at / 7) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let file = Arc::new(file);
        for range in [0..bytes.len(), 7..bytes.len() - 7, 5..5, 5..6] {
            let of = range.start as u64..range.end as u64;
            for kept in [0, 1, UNDER_WAY, usize::MAX] {
                let mut reader = chunks(file.clone(), of.clone(), "file".into());
                let (mut read, mut held) = (Vec::new(), VecDeque::new());
                while let Some(chunk) = reader.next().await {
                    held.push_back(chunk.unwrap());
                    if held.len() > kept {
                        read.extend(held.pop_front().unwrap());
                    }
                }
                held.into_iter().for_each(|chunk| read.extend(chunk));
                assert!(read == bytes[range.clone()], "{range:?}, {kept} held");
            }
        }
    }

    #[tokio::test]
    async fn memory_that_comes_back_is_used_again() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100 * CHUNK as u64).unwrap();
        let mut reader = chunks(Arc::new(file), 0..100 * CHUNK as u64, "file".into());
        let mut places = std::collections::HashSet::new();
        while let Some(chunk) = reader.next().await {
            places.insert(chunk.unwrap().as_ptr());
        }
        assert_eq!(places.len(), 1);
    }
}
