//! One pass over an archive that cannot be read twice: where everything is, and the bytes of what may be
//! manifests. What else passes is shown to whoever wants to see it, else skipped.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;

use super::contents::{Contents, Location};
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
#[derive(Default)]
pub struct Passed {
    pub contents: Contents,
    /// The bytes of blobs that may be manifests or configs, as they came: not verified.
    pub kept: HashMap<Digest, Bytes>,
}

/// What is given everything that passes. What it fails with ends the pass.
pub type Watcher<'a> = &'a mut dyn FnMut(Passing) -> io::Result<()>;

/// Reads to the end, or to where it is damaged, and keeps what may be a manifest: what passed until then, and the
/// damage. Blocks: not for an async task.
pub fn pass(input: impl Input, watcher: Option<Watcher>) -> (Passed, Option<Error>) {
    let mut passed = Passed::default();
    let damage = read(input, Some(MAX_KEPT), watcher, &mut passed).err();
    (passed, damage)
}

/// The same, and keeps nothing; damage is an error.
pub fn watch(input: impl Input, watcher: Watcher) -> Result<Contents, Error> {
    let mut passed = Passed::default();
    read(input, None, Some(watcher), &mut passed)?;
    Ok(passed.contents)
}

fn read(
    input: impl Input,
    mut budget: Option<u64>,
    mut watcher: Option<Watcher>,
    passed: &mut Passed,
) -> Result<(), Error> {
    let mut entries = Entries::new(input);
    loop {
        let entry = match entries.advance()? {
            Ok(entry) => entry,
            Err(ending) => {
                passed.contents.ending = ending;
                return Ok(());
            }
        };
        let whole = match entry.name {
            Name::Other => true,
            Name::Index => passed.contents.list(&mut entries, entry)?,
            Name::Layout => {
                let before = passed.contents.expected.len();
                let whole = passed.contents.list(&mut entries, entry)?;
                if let Some(see) = &mut watcher
                    && let Some(expected) = passed.contents.expected.get(before..).filter(|e| !e.is_empty())
                {
                    see(Passing::Expected(expected.to_vec()))?;
                }
                whole
            }
            Name::Blob(digest) => blob(&mut entries, entry, digest, passed, &mut budget, &mut watcher)?,
        };
        if !whole {
            passed.contents.ending = Ending::Torn { offset: entry.offset };
            return Ok(());
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
    watcher: &mut Option<Watcher>,
) -> Result<bool, Error> {
    let at = Location { offset: entry.offset, size: entry.size };
    if let Some(see) = watcher {
        see(Passing::Blob { digest, at })?;
    }
    let mut keeping = (budget.is_some() && entry.size <= MAX_MANIFEST_BYTES).then(Vec::new);
    let mut left = entry.size;
    while left > 0 && (watcher.is_some() || keeping.is_some()) {
        let mut chunk = vec![0; left.min(CHUNK as u64) as usize];
        if entries.read(&mut chunk)? < chunk.len() {
            return Ok(false);
        }
        left -= chunk.len() as u64;
        keeping = keeping.filter(|kept| !kept.is_empty() || chunk.trim_ascii_start().starts_with(b"{"));
        if let Some(kept) = &mut keeping {
            kept.extend_from_slice(&chunk);
        }
        if let Some(see) = watcher {
            see(Passing::Data(chunk.into()))?;
        }
    }
    if left > 0 && !entries.skip_content()? {
        return Ok(false);
    }
    if let Some(see) = watcher {
        see(Passing::End)?;
    }
    passed.contents.enter(Some((digest, at)));
    if let Some(kept) = keeping.filter(|kept| !kept.is_empty()) {
        let left = budget.and_then(|b| b.checked_sub(kept.len() as u64)).ok_or(Error::Manifests { max: MAX_KEPT })?;
        *budget = Some(left);
        passed.kept.insert(digest, kept.into());
    }
    Ok(true)
}
