//! Following an archive that is read against its plan, to know how much of it is right: what an interrupted
//! run left on a medium that is read in order.
//!
//! Invariant: headers, manifests and padding are compared byte for byte; of a blob, what was read is a guess
//! until its digest has settled it.

use super::plan::{Content, Plan};
use super::tar;
use crate::image::{Digest, Hasher};

/// Where an archive goes on.
#[derive(Clone)]
pub struct Standing {
    /// Number of the entry in the plan; their count once all are there.
    pub entry: usize,
    /// Bytes of that entry that are there, its headers included.
    pub within: u64,
    /// Bytes of the archive that are there.
    pub offset: u64,
    /// Has seen the content of the entry so far, where it is a blob and some of it is there.
    pub hasher: Option<Hasher>,
}

impl Standing {
    /// Nothing is there.
    pub fn start() -> Self {
        Standing { entry: 0, within: 0, offset: 0, hasher: None }
    }

    /// So many bytes are there, which are known to be right. The blob that they end in was not hashed.
    pub fn at(plan: &Plan, offset: u64) -> Self {
        let begun = plan.entries.partition_point(|entry| entry.offset <= offset).saturating_sub(1);
        let mut standing = Standing { entry: begun, within: 0, offset: offset.min(plan.length), hasher: None };
        if let Some(entry) = plan.entries.get(begun) {
            let length = entry.header().len() as u64 + tar::padded(entry.size()).unwrap_or(entry.size());
            standing.within = standing.offset.saturating_sub(entry.offset);
            if standing.within >= length {
                (standing.entry, standing.within) = (begun + 1, 0);
            }
        }
        standing
    }
}

/// What was read is not what the plan says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("at byte {offset} it is not the archive that would be written")]
    Other { offset: u64 },
    #[error("{digest}, which ends at byte {offset}, is damaged")]
    Digest { digest: Digest, offset: u64 },
}

/// Takes the bytes of an archive in order.
#[derive(Clone)]
pub struct Follower<'p> {
    plan: &'p Plan,
    standing: Standing,
    header: Vec<u8>,
}

impl<'p> Follower<'p> {
    pub fn new(plan: &'p Plan) -> Self {
        let header = plan.entries.first().map(|entry| entry.header()).unwrap_or_default();
        Follower { plan, standing: Standing::start(), header }
    }

    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Whether nothing was seen before the last so many bytes: they are the first.
    pub fn is_first(&self, bytes: usize) -> bool {
        self.standing.offset < bytes as u64
    }

    /// Whether all of the entry of that name was seen, and was right.
    pub fn has_seen(&self, name: &str) -> bool {
        self.plan.entries.iter().take(self.standing.entry).any(|entry| entry.name == name)
    }

    /// Whether all of the archive was seen.
    pub fn is_complete(&self) -> bool {
        self.standing.offset >= self.plan.length
    }

    /// Compares the next bytes. After an error, `standing` is where it met them.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), Mismatch> {
        while !bytes.is_empty() {
            let taken = self.step(bytes)?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Compares some of the bytes; gives their number, at least one.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Mismatch> {
        let other = Err(Mismatch::Other { offset: self.standing.offset });
        let Some(entry) = self.plan.entries.get(self.standing.entry) else {
            // The trailer, and the padding of a last block.
            if bytes.iter().any(|byte| *byte != 0) {
                return other;
            }
            self.standing.offset += bytes.len() as u64;
            return Ok(bytes.len());
        };
        let (header, size) = (self.header.len() as u64, entry.size());
        let padded = tar::padded(size).unwrap_or(size);
        let within = self.standing.within;
        let taken;
        if within < header {
            let rest = &self.header[within as usize..];
            taken = rest.len().min(bytes.len());
            if rest[..taken] != bytes[..taken] {
                return other;
            }
        } else if within < header + size {
            let at = within - header;
            taken = usize::try_from(size - at).unwrap_or(usize::MAX).min(bytes.len());
            match &entry.content {
                Content::Bytes(content) => {
                    if content[at as usize..at as usize + taken] != bytes[..taken] {
                        return other;
                    }
                }
                Content::Blob(descriptor) => {
                    let new = || Hasher::new(descriptor.digest.algorithm());
                    self.standing.hasher.get_or_insert_with(new).update(&bytes[..taken]);
                }
                Content::Directory => {}
            }
        } else {
            taken = usize::try_from(header + padded - within).unwrap_or(usize::MAX).min(bytes.len());
            if bytes[..taken].iter().any(|byte| *byte != 0) {
                return other;
            }
        }
        self.standing.within += taken as u64;
        self.standing.offset += taken as u64;
        if self.standing.within == header + size
            && let (Content::Blob(descriptor), Some(hasher)) = (&entry.content, self.standing.hasher.take())
            && hasher.finish() != descriptor.digest
        {
            return Err(Mismatch::Digest { digest: descriptor.digest, offset: self.standing.offset });
        }
        if self.standing.within == header + padded {
            self.standing.entry += 1;
            self.standing.within = 0;
            self.header = self.plan.entries.get(self.standing.entry).map(|next| next.header()).unwrap_or_default();
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::plan::Entry;
    use crate::image::Descriptor;

    /// A plan of a directory, a manifest and two blobs, and its archive.
    fn archive() -> (Plan, Vec<u8>) {
        let blobs: [&[u8]; 2] = [&[7; 700], b""];
        let mut contents =
            vec![("blobs/".to_owned(), Content::Directory), ("index.json".to_owned(), Content::Bytes("{}".into()))];
        for blob in blobs {
            let digest = Digest::sha256(blob);
            let descriptor = Descriptor::new("layer", digest, blob.len() as u64);
            contents.push((digest.blob_path(), Content::Blob(Box::new(descriptor))));
        }
        let (mut plan, mut bytes) = (Plan::default(), Vec::new());
        for (name, content) in contents {
            let entry = Entry { name, descriptor: None, content, offset: bytes.len() as u64 };
            bytes.extend(entry.header());
            match &entry.content {
                Content::Directory => {}
                Content::Bytes(content) => bytes.extend_from_slice(content),
                Content::Blob(descriptor) => bytes.extend_from_slice(&vec![7; descriptor.size as usize]),
            }
            bytes.resize(bytes.len().next_multiple_of(tar::BLOCK), 0);
            plan.entries.push(entry);
        }
        bytes.resize(bytes.len() + tar::TRAILER, 0);
        plan.length = bytes.len() as u64;
        (plan, bytes)
    }

    #[test]
    fn knows_where_any_cut_stands() {
        let (plan, bytes) = archive();
        for cut in 0..=bytes.len() {
            let mut follower = Follower::new(&plan);
            assert_eq!(follower.take(&bytes[..cut]), Ok(()), "{cut}");
            assert_eq!(follower.standing().offset, cut as u64);
            assert_eq!(follower.is_complete(), cut == bytes.len());
            let (seen, told) = (follower.standing(), Standing::at(&plan, cut as u64));
            assert_eq!((seen.entry, seen.within, seen.offset), (told.entry, told.within, told.offset), "{cut}");
            if let Some(hasher) = follower.standing().hasher.clone() {
                let header = plan.entries[follower.standing().entry].header().len() as u64;
                let seen = (follower.standing().within - header) as usize;
                assert_eq!(hasher.finish(), Digest::sha256(&vec![7; seen]));
            }
        }
        let mut padded = bytes.clone();
        padded.resize(padded.len() + 5000, 0);
        assert_eq!(Follower::new(&plan).take(&padded), Ok(()));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let (plan, bytes) = archive();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Follower::new(&plan).take(&changed).is_err(), "{at}");
        }
    }
}
