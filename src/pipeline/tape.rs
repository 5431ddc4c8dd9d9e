//! What is on a tape: every tape file from the beginning to the end of what was written, each read whole,
//! so that the digest of an archive is that of the bytes that are there.

use std::io::{self, Read};
use std::path::Path;

use serde::Serialize;

use super::{Error, Result};
use crate::archive::contents::read_index;
use crate::archive::reader::{self, Entries, Input, Name};
use crate::image::digest::Hasher;
use crate::image::{Algorithm, Digest, annotation};
use crate::medium::tape::drive::{Access, Block as Found, Drive};
use crate::medium::tape::reader::Current;
use crate::medium::tape::record::Record;

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
    loop {
        let position = drive.position()?;
        let file = files.len() as u32;
        if let Some(record) = Record::read(drive)? {
            files.push(TapeFile { file, position, bytes: 0, content: Content::Record(record) });
            continue;
        }
        let mut entries = Entries::new(File::new(drive));
        let content = understand(&mut entries)?;
        let (length, mut input) = (entries.length(), entries.into_input());
        io::copy(&mut input, &mut io::sink())?;
        if input.seen == 0 {
            return Ok(files);
        }
        let (bytes, ended) = (input.seen, input.at_end_of_data);
        let content = match (content, length) {
            (Some((name, root)), Some(length)) => Content::Archive { name, root, length, digest: input.digest(length) },
            (Some((name, root)), None) => Content::Part { name, root },
            (None, _) => Content::Other,
        };
        files.push(TapeFile { file, position, bytes, content });
        if ended {
            return Ok(files);
        }
    }
}

/// Reads entries to their end. Gives the name and the digest of the root, where it is an archive of images.
fn understand(entries: &mut Entries<File>) -> io::Result<Option<(Option<String>, Option<Digest>)>> {
    let mut found = None;
    loop {
        let entry = match entries.advance() {
            Ok(Ok(entry)) => entry,
            Ok(Err(_)) => return Ok(found),
            Err(reader::Error::Io(e)) => return Err(e),
            Err(_) => return Ok(None),
        };
        if entry.name != Name::Index || found.is_some() {
            continue;
        }
        match read_index(entries, entry) {
            Ok(Some(index)) => {
                let root = index.first();
                let name = root.and_then(|root| root.annotation(annotation::REF_NAME)).map(str::to_owned);
                found = Some((name, root.map(|root| root.digest)));
            }
            Ok(None) => {}
            Err(reader::Error::Io(e)) => return Err(e),
            Err(_) => return Ok(None),
        }
    }
}

/// The bytes of one tape file, hashed as they pass. Zeros are hashed when something follows them: those at
/// the end may be padding.
struct File<'a> {
    drive: &'a mut Drive,
    current: Current,
    ended: bool,
    at_end_of_data: bool,
    seen: u64,
    hasher: Hasher,
    zeros: u64,
}

impl<'a> File<'a> {
    fn new(drive: &'a mut Drive) -> Self {
        File {
            drive,
            current: Current::default(),
            ended: false,
            at_end_of_data: false,
            seen: 0,
            hasher: Hasher::new(Algorithm::Sha256),
            zeros: 0,
        }
    }

    /// The digest of the first `length` bytes, of which all that are left out of the hash so far are zeros.
    fn digest(mut self, length: u64) -> Digest {
        self.hasher.zeros(length.saturating_sub(self.seen - self.zeros));
        self.hasher.finish()
    }
}

impl Read for File<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_spent() && !self.ended {
            match self.current.advance(self.drive)? {
                Found::Data(_) => {}
                Found::Filemark => self.ended = true,
                Found::EndOfData | Found::Larger => (self.ended, self.at_end_of_data) = (true, true),
            }
        }
        let n = self.current.give(out);
        let out = &out[..n];
        self.seen += n as u64;
        let trailing = out.iter().rev().take_while(|byte| **byte == 0).count();
        if trailing < n {
            self.hasher.zeros(std::mem::take(&mut self.zeros));
            self.hasher.update(&out[..n - trailing]);
        }
        self.zeros += trailing as u64;
        Ok(n)
    }
}

impl Input for File<'_> {
    fn skip(&mut self, bytes: u64) -> io::Result<bool> {
        Ok(io::copy(&mut self.take(bytes), &mut io::sink())? == bytes)
    }
}
