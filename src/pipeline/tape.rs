//! What is on a tape: every tape file from the beginning to the end of what was written, each read whole,
//! so that the digest of an archive is that of the bytes that are there.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::Serialize;

use super::{Error, Result};
use crate::archive::contents::read_index;
use crate::archive::reader::{Entries, Input, Name};
use crate::image::digest::Hasher;
use crate::image::{Algorithm, Digest, annotation};
use crate::medium::compression::{Compression, Unpacked};
use crate::medium::tape::drive::{Access, Block as Found, Drive};
use crate::medium::tape::reader::Current;
use crate::medium::tape::record::{After, Record};

/// Bytes that are read at once, about.
const BUFFER: usize = 1 << 20;

/// One tape file.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TapeFile {
    /// Its number on the tape, from 0.
    pub file: u32,
    /// Where it begins, for `mirror tape seek`: blocks and filemarks from the beginning of the tape.
    pub position: u64,
    /// All of its bytes, padding included.
    pub bytes: u64,
    /// Where the block is that cannot be read, if there is one: what follows in this tape file is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<u64>,
    #[serde(flatten)]
    pub content: Content,
}

/// What a tape file is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Content {
    /// An archive of images, whole.
    #[serde(rename_all = "camelCase")]
    Archive {
        /// The name that its index gives the root.
        name: Option<String>,
        /// Digest of the root manifest.
        root: Option<Digest>,
        /// Length in bytes without the padding of the last block, and the sha256 of those bytes: those of the same archive in a file.
        length: u64,
        digest: Digest,
        #[serde(skip_serializing_if = "Option::is_none")]
        compression: Option<Compression>,
        /// Tape files that it is in: more than one where it was interrupted on a tape that cannot be written over.
        pieces: u32,
    },
    /// An archive whose end is not in this tape file: it goes on on another tape, or was cut.
    #[serde(rename_all = "camelCase")]
    Part { name: Option<String>, root: Option<Digest> },
    /// This tape goes on with an archive that another began, or the next one goes on with this.
    #[serde(rename_all = "camelCase")]
    Record(Record),
    /// The rest of an archive that another tape began, or something else.
    Other,
}

/// Reads all of the tape, from its beginning.
pub fn list(path: &Path) -> Result<Vec<TapeFile>> {
    let at = |source| Error::Io { path: path.display().to_string(), source };
    let mut drive = Drive::open(path, Access::Read).map_err(at)?;
    let files = read_all(&mut drive).map_err(at)?;
    drive.close().map_err(at)?;
    Ok(files)
}

fn read_all(drive: &mut Drive) -> io::Result<Vec<TapeFile>> {
    let mut files = Vec::new();
    if drive.is_blank()? {
        return Ok(files);
    }
    let start = Begins { volume: 1, offset: 0 };
    let (mut number, mut begins) = (0, start);
    loop {
        let position = drive.position()?;
        match Record::read(drive) {
            Ok(Some(record)) => {
                begins = Begins { volume: record.volume, offset: record.offset };
                files.push(TapeFile::record(number, position, record));
                number += 1;
                continue;
            }
            Ok(None) => {}
            // What is damaged there is met again.
            Err(_) => drive.seek(position)?,
        }
        let (content, seen) = understand(File::new(drive, std::mem::replace(&mut begins, start)))?;
        let Seen { bytes, unreadable, .. } = seen;
        if bytes > 0 || unreadable.is_some() {
            files.push(TapeFile { file: number, position, bytes, unreadable, content });
        }
        number += 1 + 2 * seen.goes_on;
        if let Some((position, record)) = seen.record {
            files.push(TapeFile::record(number, position, record));
            number += 1;
        }
        if seen.at_end {
            return Ok(files);
        }
    }
}

impl TapeFile {
    fn record(file: u32, position: u64, record: Record) -> Self {
        TapeFile { file, position, bytes: 0, unreadable: None, content: Content::Record(record) }
    }
}

/// Reads a tape file to its end, and says what it is.
fn understand(file: File) -> io::Result<(Content, Seen)> {
    let mut input = BufReader::with_capacity(BUFFER, file);
    let compression = Compression::sniff(input.fill_buf()?);
    // Of a compressed archive, how much of the tape file is padding; of any other, its own length.
    let (described, length, padding) = match compression {
        None => {
            let mut entries = Entries::new(Through(&mut input));
            (describe(&mut entries), entries.length(), None)
        }
        Some(compression) => {
            let mut entries = Entries::new(Through(Unpacked::new(compression, &mut input)?));
            let (described, whole) = (describe(&mut entries), entries.length().is_some());
            let mut unpacked = entries.into_input().0;
            let whole = io::copy(&mut unpacked, &mut io::sink()).is_ok() && whole;
            (described, None, whole.then_some(unpacked.padding()))
        }
    };
    io::copy(&mut input, &mut io::sink())?;
    let file = input.into_inner();
    let bytes = file.seen.bytes;
    let length = match compression {
        None => length,
        Some(_) => padding.map(|padding| bytes - padding),
    };
    let content = match (described, length) {
        (Some((name, root)), Some(length)) if file.seen.unreadable.is_none() => {
            let (digest, pieces) = (file.digest(length), 1 + file.seen.goes_on);
            Content::Archive { name, root, length, digest, compression, pieces }
        }
        (Some((name, root)), _) => Content::Part { name, root },
        (None, _) => Content::Other,
    };
    Ok((content, file.seen))
}

/// Reads entries to their end. Gives the name and the digest of the root, where it is an archive of images.
fn describe(entries: &mut Entries<impl Input>) -> Option<(Option<String>, Option<Digest>)> {
    let mut found = None;
    loop {
        let entry = match entries.advance() {
            Ok(Ok(entry)) => entry,
            // Cut, or damaged: what was found may be a part of an archive.
            Ok(Err(_)) | Err(_) => return found,
        };
        if entry.name != Name::Index || found.is_some() {
            continue;
        }
        let index = read_index(entries, entry).ok().flatten()?;
        let root = index.first();
        let name = root.and_then(|root| root.annotation(annotation::REF_NAME)).map(str::to_owned);
        found = Some((name, root.map(|root| root.digest)));
    }
}

/// What is read in order to be passed over.
struct Through<R>(R);

impl<R: Read> Read for Through<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl<R: Read> Input for Through<R> {
    fn skip(&mut self, bytes: u64) -> io::Result<bool> {
        Ok(io::copy(&mut self.take(bytes), &mut io::sink())? == bytes)
    }
}

/// What a tape file goes on with: byte `offset` of an archive, on its tape `volume`.
#[derive(Clone, Copy)]
struct Begins {
    volume: u32,
    offset: u64,
}

/// What was read of a tape file, and of those that go on with it on the same tape.
struct Seen {
    bytes: u64,
    /// How often it goes on.
    goes_on: u32,
    unreadable: Option<u64>,
    /// A record that was met behind it, and where.
    record: Option<(u64, Record)>,
    /// Nothing follows on the tape, or nothing that can be read.
    at_end: bool,
}

/// The bytes of an archive on one tape, hashed as they pass. Zeros are hashed when something follows them: those at
/// the end may be padding. A block that cannot be read is the end.
struct File<'a> {
    drive: &'a mut Drive,
    begins: Begins,
    current: Current,
    ended: bool,
    seen: Seen,
    hasher: Hasher,
    zeros: u64,
}

impl<'a> File<'a> {
    fn new(drive: &'a mut Drive, begins: Begins) -> Self {
        let seen = Seen { bytes: 0, goes_on: 0, unreadable: None, record: None, at_end: false };
        let (current, hasher) = (Current::default(), Hasher::new(Algorithm::Sha256));
        File { drive, begins, current, ended: false, seen, hasher, zeros: 0 }
    }

    /// The digest of the first `length` bytes, of which all that are left out of the hash so far are zeros.
    fn digest(&self, length: u64) -> Digest {
        let mut hasher = self.hasher.clone();
        hasher.zeros(length.saturating_sub(self.seen.bytes - self.zeros));
        hasher.finish()
    }

    /// Reads the next block, or learns that there is none.
    fn advance(&mut self) -> io::Result<()> {
        let at = self.drive.position()?;
        match self.current.advance(self.drive) {
            Ok(Found::Data(_)) => {}
            Ok(Found::Filemark) => self.follow(None)?,
            Ok(Found::EndOfData | Found::Larger) => (self.ended, self.seen.at_end) = (true, true),
            Err(e) => {
                tracing::warn!("{}, at position {at}: {e}", self.drive.path().display());
                self.drive.seek(at)?;
                match self.drive.next_file() {
                    Ok(()) => self.follow(Some(at))?,
                    Err(_) => (self.ended, self.seen.at_end, self.seen.unreadable) = (true, true, Some(at)),
                }
            }
        }
        Ok(())
    }

    /// Behind a filemark: goes on there if the archive does.
    fn follow(&mut self, unreadable: Option<u64>) -> io::Result<()> {
        let position = self.drive.position()?;
        match Record::after(self.drive, self.begins.volume, self.begins.offset + self.seen.bytes)? {
            After::Here(_) => {
                self.seen.goes_on += 1;
                return Ok(());
            }
            After::End => {}
            After::NextTape(record) | After::Stray(record) => self.seen.record = Some((position, record)),
        }
        (self.ended, self.seen.unreadable) = (true, unreadable);
        Ok(())
    }
}

impl Read for File<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_spent() && !self.ended {
            self.advance()?;
        }
        let n = self.current.give(out);
        let out = &out[..n];
        self.seen.bytes += n as u64;
        let trailing = out.iter().rev().take_while(|byte| **byte == 0).count();
        if trailing < n {
            self.hasher.zeros(std::mem::take(&mut self.zeros));
            self.hasher.update(&out[..n - trailing]);
        }
        self.zeros += trailing as u64;
        Ok(n)
    }
}
