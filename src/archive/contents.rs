//! What a seekable archive holds, found by reading its headers alone.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::index::{self, MAX_INDEX_BYTES};
use super::layout::{self, MAX_LAYOUT_BYTES};
use super::reader::{Ending, Entries, Entry, Error, Input, Name, Seekable};
use crate::image::{Descriptor, Digest};
use crate::medium::read_at::ReadAt;

/// Name and largest size of the files that say what there is.
const INDEX: (&str, u64) = ("index.json", MAX_INDEX_BYTES);
const LAYOUT: (&str, u64) = ("oci-layout", MAX_LAYOUT_BYTES);

/// Where the bytes of a blob are.
#[derive(Clone, Copy, Debug)]
pub struct Location {
    pub offset: u64,
    pub size: u64,
}

/// Blobs and indexes of an archive. A blob that was cut is not among them; of several copies the last counts.
#[derive(Debug, Default)]
pub struct Contents {
    pub blobs: HashMap<Digest, Location>,
    /// Copies of blobs that came before the one that counts.
    pub earlier: Vec<(Digest, Location)>,
    /// The descriptors of each `index.json`, in their order.
    pub indexes: Vec<Vec<Descriptor>>,
    /// What is left out, and expected to be on the other side.
    pub expected: Vec<Descriptor>,
    /// The same as their bytes were: no digest protects them.
    pub texts: Vec<Text>,
    pub ending: Ending,
}

/// An `index.json` or `oci-layout`.
#[derive(Clone, Debug)]
pub struct Text {
    pub name: Name,
    pub offset: u64,
    pub bytes: Bytes,
}

impl Contents {
    /// Reads the headers to their end, or to where they are damaged: what stands before that, and the damage. Blocks on
    /// the disk: not for an async task.
    pub fn scan(bytes: Arc<dyn ReadAt>) -> (Self, Option<Error>) {
        let mut contents = Contents::default();
        let damage = contents.read(bytes).err();
        (contents, damage)
    }

    fn read(&mut self, bytes: Arc<dyn ReadAt>) -> Result<(), Error> {
        let mut entries = Entries::new(Seekable::new(bytes)?);
        let mut last: Option<(Digest, Location)> = None;
        loop {
            match entries.advance()? {
                Ok(entry) => {
                    // Only now it is known that the one before is whole.
                    self.enter(last.take());
                    match entry.name {
                        Name::Blob(digest) => {
                            last = Some((digest, Location { offset: entry.offset, size: entry.size }))
                        }
                        Name::Index | Name::Layout => {
                            if !self.list(&mut entries, entry)? {
                                self.ending = Ending::Torn { offset: entry.offset };
                                return Ok(());
                            }
                        }
                        Name::Other => {}
                    }
                }
                Err(ending) => {
                    // It was cut in the content of the last entry, or in a header behind it.
                    self.enter(last.filter(|(_, at)| match ending {
                        Ending::Torn { offset } => offset >= at.offset + at.size,
                        Ending::Complete | Ending::NoTrailer => true,
                    }));
                    self.ending = ending;
                    return Ok(());
                }
            }
        }
    }

    /// Reads the `index.json` or `oci-layout` that `entries` stands at. `false`: it was cut.
    pub fn list<R: Input>(&mut self, entries: &mut Entries<R>, entry: Entry) -> Result<bool, Error> {
        let layout = entry.name == Name::Layout;
        let (name, max) = if layout { LAYOUT } else { INDEX };
        let Some(bytes) = read_text(entries, entry, name, max)? else { return Ok(false) };
        let json = |source| Error::Json { name, source };
        if layout {
            self.expected.extend(layout::parse(&bytes).map_err(json)?);
        } else {
            self.indexes.push(index::parse(&bytes).map_err(json)?);
        }
        self.texts.push(Text { name: entry.name, offset: entry.offset, bytes: bytes.into() });
        Ok(true)
    }

    /// Enters a blob that is whole.
    pub fn enter(&mut self, blob: Option<(Digest, Location)>) {
        if let Some((digest, at)) = blob
            && let Some(earlier) = self.blobs.insert(digest, at)
        {
            self.earlier.push((digest, earlier));
        }
    }
}

/// The descriptors of the `index.json` that `entries` stands at; `None` where it was cut.
pub fn read_index<R: Input>(entries: &mut Entries<R>, entry: Entry) -> Result<Option<Vec<Descriptor>>, Error> {
    let (name, max) = INDEX;
    let Some(bytes) = read_text(entries, entry, name, max)? else { return Ok(None) };
    index::parse(&bytes).map(Some).map_err(|source| Error::Json { name, source })
}

fn read_text<R: Input>(
    entries: &mut Entries<R>,
    entry: Entry,
    name: &'static str,
    max: u64,
) -> Result<Option<Vec<u8>>, Error> {
    if entry.size > max {
        return Err(Error::TooLarge { name, size: entry.size, max });
    }
    let mut bytes = vec![0; entry.size as usize];
    let whole = entries.read(&mut bytes)? == bytes.len();
    Ok(whole.then_some(bytes))
}
