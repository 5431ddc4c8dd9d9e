//! Blobs: pull, whole or in part, and delete. A blob goes out in pieces of bounded size.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;

use super::answer::{self, digest_header};
use super::contents::Record;
use super::error::{Answer, Code, Refusal};
use super::storage::Storage;
use crate::image::Digest;

/// Bytes read and sent at a time.
const CHUNK: u64 = 1 << 18;

fn unknown(digest: &Digest) -> Refusal {
    Refusal::new(Code::BlobUnknown, format!("blob {digest} is not in this repository"))
}

pub(super) fn get(storage: &Storage, repository: &str, digest: &Digest, headers: &HeaderMap, head: bool) -> Answer {
    let size = storage.contents().blob_size(repository, digest).ok_or_else(|| unknown(digest))?;
    let etag = format!("\"{digest}\"");
    let answer = |status| {
        answer::builder(status)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::ACCEPT_RANGES, "bytes")
            .header(header::ETAG, &etag)
            .header(digest_header(), digest.to_string())
    };
    if head {
        if !storage.has_file(digest, size) {
            return Err(unknown(digest));
        }
        let answer = answer(StatusCode::OK).header(header::CONTENT_LENGTH, size);
        return answer.body(Body::empty()).map_err(answer::unwritable);
    }
    let mut file = storage.open_file(digest, size).ok_or_else(|| unknown(digest))?;
    let same = headers.get(header::IF_RANGE).is_none_or(|v| v.as_bytes() == etag.as_bytes());
    let range = headers.get(header::RANGE).filter(|_| same).and_then(|v| v.to_str().ok());
    let (status, start, end) = match range.map_or(Wanted::All, |text| wanted(text, size)) {
        Wanted::All => (StatusCode::OK, 0, size),
        Wanted::Part(start, end) => (StatusCode::PARTIAL_CONTENT, start, end),
        Wanted::Nothing => {
            return Err(Refusal::new(Code::SizeInvalid, format!("the blob has {size} bytes"))
                .with_status(StatusCode::RANGE_NOT_SATISFIABLE)
                .with_header(header::CONTENT_RANGE, &format!("bytes */{size}")));
        }
    };
    let refuse = |e: io::Error| Refusal::storage(&storage.path(digest), &e);
    let mut answer = answer(status).header(header::CONTENT_LENGTH, end - start);
    if status == StatusCode::PARTIAL_CONTENT {
        answer = answer.header(header::CONTENT_RANGE, format!("bytes {start}-{}/{size}", end - 1));
        file.seek(SeekFrom::Start(start)).map_err(refuse)?;
    }
    let body = if end - start <= CHUNK {
        Body::from(read_chunk(&mut file, end - start).map_err(refuse)?)
    } else {
        stream(file, end - start)
    };
    answer.body(body).map_err(answer::unwritable)
}

/// The next `length` bytes of a file. They are read in the task that sends them: the page cache has
/// them more often than not, and a hand-over to another thread costs more than the copy.
fn read_chunk(file: &mut File, length: u64) -> io::Result<Bytes> {
    let mut chunk = Vec::with_capacity(length as usize);
    file.take(length).read_to_end(&mut chunk)?;
    if (chunk.len() as u64) < length {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
    }
    Ok(chunk.into())
}

fn stream(file: File, length: u64) -> Body {
    Body::from_stream(futures_util::stream::try_unfold((file, length), async |(mut file, left)| {
        if left == 0 {
            return Ok(None);
        }
        let chunk = read_chunk(&mut file, left.min(CHUNK))?;
        let left = left - chunk.len() as u64;
        Ok::<_, io::Error>(Some((chunk, (file, left))))
    }))
}

/// What a Range header asks for, as a half-open range.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part(u64, u64),
    /// Nothing that the blob has.
    Nothing,
}

/// Reads a Range header (RFC 9110, section 14): one range of bytes; other forms mean the whole blob.
fn wanted(text: &str, size: u64) -> Wanted {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|r| r.trim().split_once('-')) else {
        return Wanted::All;
    };
    let (first, last) = (first.trim(), last.trim());
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => (first, last.saturating_add(1).min(size)),
        (Ok(first), Err(_)) if last.is_empty() => (first, size),
        (Err(_), Ok(count)) if first.is_empty() => (size.saturating_sub(count), size),
        _ => return Wanted::All,
    };
    if range.0 < range.1 { Wanted::Part(range.0, range.1) } else { Wanted::Nothing }
}

pub(super) fn delete(storage: &Storage, repository: &str, digest: &Digest) -> Answer {
    let record = Record::DropBlob { repository: repository.to_owned(), digest: *digest };
    storage.commit(None, vec![record], |contents| {
        contents.blob_size(repository, digest).map(|_| ()).ok_or_else(|| unknown(digest))
    })?;
    Ok(answer::accepted())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ranges() {
        for (text, expected) in [
            ("bytes=0-9", Wanted::Part(0, 10)),
            ("bytes=5-", Wanted::Part(5, 100)),
            ("bytes=-5", Wanted::Part(95, 100)),
            ("bytes=-500", Wanted::Part(0, 100)),
            ("bytes=90-500", Wanted::Part(90, 100)),
            ("bytes=99-18446744073709551615", Wanted::Part(99, 100)),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=100-200", Wanted::Nothing),
            ("bytes=50-0", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=0-1,5-6", Wanted::All),
            ("bytes=a-b", Wanted::All),
            ("bytes=-", Wanted::All),
            ("lines=1-2", Wanted::All),
        ] {
            assert_eq!(wanted(text, 100), expected, "{text}");
        }
        assert_eq!(wanted("bytes=0-", 0), Wanted::Nothing);
    }
}
