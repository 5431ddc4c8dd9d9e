//! Reading the entries of an archive in the order in which they come, from a file or a stream.
//!
//! Invariant: an archive that was cut anywhere does not end as [`Ending::Complete`], and no name in it is
//! ever used as a path.

use std::io::{self, Read};
use std::sync::Arc;

use super::tar::{self, BLOCK, Header, Headers, Kind, TarError};
use crate::image::{Algorithm, Digest};
use crate::medium::read_at::ReadAt;

/// What an entry is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// `oci-layout`
    Layout,
    /// `index.json`
    Index,
    Blob(Digest),
    /// Something that is passed over.
    Other,
}

/// The start of an entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub name: Name,
    /// Bytes of content.
    pub size: u64,
    /// Where the content begins.
    pub offset: u64,
}

/// How the entries ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// With the trailer that tells that nothing was cut.
    Complete,
    /// After an entry, with no trailer.
    #[default]
    NoTrailer,
    /// In the midst of something.
    Torn { offset: u64 },
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it is not a tar archive")]
    NotTar,
    #[error("it is empty: an archive has at least its trailer")]
    Empty,
    #[error("it is damaged at byte {offset}: {source}")]
    Damaged { offset: u64, source: TarError },
    #[error("it has an entry named {0:?}, which points out of the archive: it is not used")]
    Unsafe(String),
    #[error("it holds {size} bytes of {name}, more than the {max} that are read")]
    TooLarge { name: &'static str, size: u64, max: u64 },
    #[error("its {name} cannot be read: {source}")]
    Json { name: &'static str, source: serde_json::Error },
    #[error("its manifests have more than {max} bytes: read it from a regular, uncompressed file")]
    Manifests { max: u64 },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Bytes of an archive that are read at once to find its headers.
const AHEAD: usize = 4 * BLOCK;

/// Bytes that can be passed over.
pub trait Input: Read {
    /// Passes over that many bytes. `false`: there are not so many.
    fn skip(&mut self, bytes: u64) -> io::Result<bool>;
}

/// Bytes whose content need not be read to be passed over.
pub struct Seekable {
    bytes: Arc<dyn ReadAt>,
    offset: u64,
    length: u64,
    /// What was read ahead: a few headers lie together. It ends before `offset` or begins at it.
    ahead: Vec<u8>,
}

impl Seekable {
    pub fn new(bytes: Arc<dyn ReadAt>) -> io::Result<Self> {
        let length = bytes.length()?;
        Ok(Seekable { bytes, offset: 0, length, ahead: Vec::new() })
    }
}

impl Read for Seekable {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.ahead.is_empty() {
            let mut ahead = vec![0; AHEAD];
            let n = self.bytes.read_at(&mut ahead, self.offset)?;
            ahead.truncate(n);
            self.ahead = ahead;
        }
        let n = out.len().min(self.ahead.len());
        out[..n].copy_from_slice(&self.ahead[..n]);
        self.ahead.drain(..n);
        self.offset += n as u64;
        Ok(n)
    }
}

impl Input for Seekable {
    fn skip(&mut self, bytes: u64) -> io::Result<bool> {
        if bytes > self.length.saturating_sub(self.offset) {
            return Ok(false);
        }
        self.offset += bytes;
        let passed = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.ahead.len());
        self.ahead.drain(..passed);
        if (passed as u64) < bytes {
            self.ahead.clear();
        }
        Ok(true)
    }
}

/// A stream, which is read to the end whatever is wanted of it.
pub struct Stream(pub Box<dyn Read + Send>);

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl Input for Stream {
    fn skip(&mut self, bytes: u64) -> io::Result<bool> {
        Ok(io::copy(&mut (&mut self.0).take(bytes), &mut io::sink())? == bytes)
    }
}

/// The entries of an archive.
pub struct Entries<R> {
    input: R,
    headers: Headers,
    offset: u64,
    /// Bytes of content that were not read yet, and of the padding after it.
    content: u64,
    padding: u64,
    zeros: u32,
    any: bool,
    /// The input ended before its own end: a compressed stream that was cut.
    cut: bool,
    /// Where the trailer ends.
    length: Option<u64>,
}

impl<R: Input> Entries<R> {
    pub fn new(input: R) -> Self {
        Entries {
            input,
            headers: Headers::default(),
            offset: 0,
            content: 0,
            padding: 0,
            zeros: 0,
            any: false,
            cut: false,
            length: None,
        }
    }

    /// The next entry, or how they ended. What was not read of the last one is passed over.
    pub fn advance(&mut self) -> Result<Result<Entry, Ending>, Error> {
        let rest = self.content + self.padding;
        (self.content, self.padding) = (0, 0);
        if rest > 0 && !torn_as_false(self.input.skip(rest))? {
            return Ok(Err(Ending::Torn { offset: self.offset }));
        }
        self.offset += rest;
        loop {
            let mut block = [0; BLOCK];
            match self.fill(&mut block)? {
                _ if self.cut && self.any => return Ok(Err(Ending::Torn { offset: self.offset })),
                0 if self.zeros >= 2 => return Ok(Err(Ending::Complete)),
                0 if !self.any && self.zeros == 0 => return Err(Error::Empty),
                0 if !self.any => return Err(Error::NotTar),
                0 => return Ok(Err(Ending::NoTrailer)),
                BLOCK => {}
                n if self.zeros >= 2 && block[..n].iter().all(|b| *b == 0) => return Ok(Err(Ending::Complete)),
                _ if !self.any => return Err(Error::NotTar),
                _ => return Ok(Err(Ending::Torn { offset: self.offset })),
            }
            let start = self.offset - BLOCK as u64;
            let damaged = |source| Error::Damaged { offset: start, source };
            let header = match self.headers.block(&block) {
                Err(TarError::Checksum) if !self.any => return Err(Error::NotTar),
                other => other.map_err(damaged)?,
            };
            self.any = true;
            match header {
                Header::Zeros => {
                    self.zeros = self.zeros.saturating_add(1);
                    if self.zeros == 2 {
                        self.length = Some(self.offset);
                    }
                }
                Header::Extension { kind, size } => {
                    let mut body = vec![0; tar::padded(size).unwrap_or(size) as usize];
                    if self.fill(&mut body)? < body.len() {
                        return Ok(Err(Ending::Torn { offset: start }));
                    }
                    self.headers.extension(kind, &body[..size as usize]).map_err(damaged)?;
                }
                Header::Entry { name, size, kind } => {
                    self.zeros = 0;
                    let name =
                        if kind == Kind::File { understand(&name)? } else { understand(&name).map(|_| Name::Other)? };
                    self.content = size;
                    self.padding = tar::padded(size).unwrap_or(size) - size;
                    return Ok(Ok(Entry { name, size, offset: self.offset }));
                }
            }
        }
    }

    /// Length of the archive with its trailer, without what follows (the padding of a tape's last block), in bytes.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// What the entries are read from, to ask it what it saw.
    pub fn into_input(self) -> R {
        self.input
    }

    /// Reads content of the current entry. Fewer bytes than the buffer holds: its end, or a torn archive.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        let want = out.len().min(usize::try_from(self.content).unwrap_or(usize::MAX));
        let n = self.fill(&mut out[..want])?;
        self.content -= n as u64;
        Ok(n)
    }

    /// Passes over what is left of the current entry's content. `false`: a torn archive.
    pub fn skip_content(&mut self) -> Result<bool, Error> {
        let rest = std::mem::take(&mut self.content);
        if !torn_as_false(self.input.skip(rest))? {
            return Ok(false);
        }
        self.offset += rest;
        Ok(true)
    }

    /// Reads until `out` is full or the input ends.
    fn fill(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        let mut n = 0;
        while n < out.len() {
            match self.input.read(&mut out[n..]) {
                Ok(0) => break,
                Ok(more) => n += more,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    self.cut = true;
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
        self.offset += n as u64;
        Ok(n)
    }
}

fn torn_as_false(skipped: io::Result<bool>) -> io::Result<bool> {
    match skipped {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        other => other,
    }
}

/// What a name means. Names that no honest archive has are refused.
fn understand(name: &str) -> Result<Name, Error> {
    if name.starts_with('/') || name.split('/').any(|part| part == "..") {
        return Err(Error::Unsafe(name.chars().take(200).collect()));
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    Ok(match parts[..] {
        ["oci-layout"] => Name::Layout,
        ["index.json"] => Name::Index,
        ["blobs", algorithm, hex] if Algorithm::from_name(algorithm).is_some() => {
            format!("{algorithm}:{hex}").parse().map_or(Name::Other, Name::Blob)
        }
        _ => Name::Other,
    })
}
