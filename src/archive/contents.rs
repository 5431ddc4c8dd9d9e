//! What a seekable archive holds, found by reading its headers alone.

use std::collections::HashMap;
use std::sync::Arc;

use super::index::{self, MAX_INDEX_BYTES};
use super::layout::{self, MAX_LAYOUT_BYTES};
use super::reader::{Ending, Entries, Entry, Error, Input, Name, Seekable};
use crate::image::{Descriptor, Digest};
use crate::medium::read_at::ReadAt;

/// Where the bytes of a blob are.
#[derive(Clone, Copy, Debug)]
pub struct Location {
    pub offset: u64,
    pub size: u64,
}

/// Blobs and indexes of an archive. A blob that was cut is not among them; of several copies the last counts.
#[derive(Debug)]
pub struct Contents {
    pub blobs: HashMap<Digest, Location>,
    /// The descriptors of each `index.json`, in their order.
    pub indexes: Vec<Vec<Descriptor>>,
    /// What is left out, and expected to be on the other side.
    pub expected: Vec<Descriptor>,
    pub ending: Ending,
}

impl Contents {
    /// Reads the headers. Blocks on the disk: not for an async task.
    pub fn scan(bytes: Arc<dyn ReadAt>) -> Result<Self, Error> {
        let mut entries = Entries::new(Seekable::new(bytes)?);
        let mut contents =
            Contents { blobs: HashMap::new(), indexes: Vec::new(), expected: Vec::new(), ending: Ending::NoTrailer };
        let mut last: Option<(Digest, Location)> = None;
        loop {
            match entries.advance()? {
                Ok(entry) => {
                    // Only now it is known that the one before is whole.
                    contents.blobs.extend(last.take());
                    match entry.name {
                        Name::Blob(digest) => {
                            last = Some((digest, Location { offset: entry.offset, size: entry.size }))
                        }
                        Name::Index => match read_index(&mut entries, entry)? {
                            Some(index) => contents.indexes.push(index),
                            None => {
                                contents.ending = Ending::Torn { offset: entry.offset };
                                return Ok(contents);
                            }
                        },
                        Name::Layout => match read_expected(&mut entries, entry)? {
                            Some(expected) => contents.expected.extend(expected),
                            None => {
                                contents.ending = Ending::Torn { offset: entry.offset };
                                return Ok(contents);
                            }
                        },
                        Name::Other => {}
                    }
                }
                Err(ending) => {
                    if !matches!(ending, Ending::Torn { .. }) {
                        contents.blobs.extend(last);
                    }
                    contents.ending = ending;
                    return Ok(contents);
                }
            }
        }
    }
}

/// The descriptors of the `index.json` that `entries` stands at; `None` where it was cut.
pub fn read_index<R: Input>(entries: &mut Entries<R>, entry: Entry) -> Result<Option<Vec<Descriptor>>, Error> {
    read_json(entries, entry, "index.json", MAX_INDEX_BYTES, index::parse)
}

/// What the `oci-layout` that `entries` stands at says that the archive leaves out; `None` where it was cut.
pub fn read_expected<R: Input>(entries: &mut Entries<R>, entry: Entry) -> Result<Option<Vec<Descriptor>>, Error> {
    read_json(entries, entry, "oci-layout", MAX_LAYOUT_BYTES, layout::parse)
}

fn read_json<R: Input>(
    entries: &mut Entries<R>,
    entry: Entry,
    name: &'static str,
    max: u64,
    parse: fn(&[u8]) -> serde_json::Result<Vec<Descriptor>>,
) -> Result<Option<Vec<Descriptor>>, Error> {
    if entry.size > max {
        return Err(Error::TooLarge { name, size: entry.size, max });
    }
    let mut bytes = vec![0; entry.size as usize];
    if entries.read(&mut bytes)? < bytes.len() {
        return Ok(None);
    }
    parse(&bytes).map(Some).map_err(|source| Error::Json { name, source })
}
