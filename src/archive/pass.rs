//! One pass over an archive that cannot be read twice: where everything is, and the bytes of what may be
//! manifests. What else passes is shown to whoever wants to see it, else skipped.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;

use super::contents::{Contents, Location, read_expected, read_index};
use super::reader::{Ending, Entries, Entry, Error, Input, Name};
use crate::image::manifest::MAX_MANIFEST_BYTES;
use crate::image::{Descriptor, Digest};

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;
/// All that may be manifests together, in bytes.
pub const MAX_KEPT: u64 = 512 << 20;

/// What passes.
pub enum Passing {
    /// What the archive expects on the other side; before anything else.
    Expected(Vec<Descriptor>),
    /// A blob begins.
    Blob { digest: Digest, at: Location },
    /// Its next bytes.
    Data(Bytes),
    /// It is whole: as many bytes as its header says have passed.
    End,
}

/// An archive that has passed.
pub struct Passed {
    pub contents: Contents,
    /// The bytes of blobs that may be manifests or configs, as they came: not verified.
    pub kept: HashMap<Digest, Bytes>,
}

/// Reads to the end and keeps what may be a manifest. `see` is given every blob; what it fails with ends the pass.
/// Blocks: not for an async task.
pub fn pass(input: impl Input, see: Option<&mut dyn FnMut(Passing) -> io::Result<()>>) -> Result<Passed, Error> {
    keeping(input, Some(MAX_KEPT), see)
}

/// The same, and keeps nothing.
pub fn watch(input: impl Input, see: &mut dyn FnMut(Passing) -> io::Result<()>) -> Result<Contents, Error> {
    Ok(keeping(input, None, Some(see))?.contents)
}

fn keeping(
    input: impl Input,
    mut budget: Option<u64>,
    mut see: Option<&mut dyn FnMut(Passing) -> io::Result<()>>,
) -> Result<Passed, Error> {
    let mut entries = Entries::new(input);
    let contents =
        Contents { blobs: HashMap::new(), indexes: Vec::new(), expected: Vec::new(), ending: Ending::NoTrailer };
    let mut passed = Passed { contents, kept: HashMap::new() };
    loop {
        let entry = match entries.advance()? {
            Ok(entry) => entry,
            Err(ending) => {
                passed.contents.ending = ending;
                return Ok(passed);
            }
        };
        let whole = match entry.name {
            Name::Other => true,
            Name::Layout => match read_expected(&mut entries, entry)? {
                Some(expected) => {
                    if let Some(see) = &mut see
                        && !expected.is_empty()
                    {
                        see(Passing::Expected(expected.clone()))?;
                    }
                    passed.contents.expected.extend(expected);
                    true
                }
                None => false,
            },
            Name::Index => match read_index(&mut entries, entry)? {
                Some(index) => {
                    passed.contents.indexes.push(index);
                    true
                }
                None => false,
            },
            Name::Blob(digest) => blob(&mut entries, entry, digest, &mut passed, &mut budget, &mut see)?,
        };
        if !whole {
            passed.contents.ending = Ending::Torn { offset: entry.offset };
            return Ok(passed);
        }
    }
}

/// Reads one blob. `false`: it was cut.
fn blob<R: Input>(
    entries: &mut Entries<R>,
    entry: Entry,
    digest: Digest,
    passed: &mut Passed,
    budget: &mut Option<u64>,
    see: &mut Option<&mut dyn FnMut(Passing) -> io::Result<()>>,
) -> Result<bool, Error> {
    let at = Location { offset: entry.offset, size: entry.size };
    if let Some(see) = see {
        see(Passing::Blob { digest, at })?;
    }
    let mut keeping = (budget.is_some() && entry.size <= MAX_MANIFEST_BYTES).then(Vec::new);
    let mut left = entry.size;
    while left > 0 && (see.is_some() || keeping.is_some()) {
        let mut chunk = vec![0; left.min(CHUNK as u64) as usize];
        if entries.read(&mut chunk)? < chunk.len() {
            return Ok(false);
        }
        left -= chunk.len() as u64;
        keeping = keeping.filter(|kept| !kept.is_empty() || chunk.trim_ascii_start().starts_with(b"{"));
        if let Some(kept) = &mut keeping {
            kept.extend_from_slice(&chunk);
        }
        if let Some(see) = see {
            see(Passing::Data(chunk.into()))?;
        }
    }
    if left > 0 && !entries.skip_content()? {
        return Ok(false);
    }
    if let Some(see) = see {
        see(Passing::End)?;
    }
    passed.contents.blobs.insert(digest, at);
    if let Some(kept) = keeping.filter(|kept| !kept.is_empty()) {
        let left = budget.and_then(|b| b.checked_sub(kept.len() as u64)).ok_or(Error::Manifests { max: MAX_KEPT })?;
        *budget = Some(left);
        passed.kept.insert(digest, kept.into());
    }
    Ok(true)
}
