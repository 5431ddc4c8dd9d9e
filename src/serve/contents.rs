//! What is in which repository, in memory: the sum of all records of the journal.
//!
//! Invariant: a file under `blobs/` is counted once for each repository that holds it as a blob and once
//! for each that holds it as a manifest; it goes when the count falls to nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::image::{Descriptor, Digest};

/// One change to the contents, as it stands in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Record {
    /// A repository has a blob.
    Blob {
        repository: String,
        digest: Digest,
        size: u64,
    },
    /// A repository has a manifest. The descriptor of one with a subject is what the referrers API says.
    Manifest {
        repository: String,
        descriptor: Box<Descriptor>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<Digest>,
    },
    /// A tag stands for a manifest.
    Tag {
        repository: String,
        tag: String,
        digest: Digest,
    },
    Untag {
        repository: String,
        tag: String,
    },
    DropBlob {
        repository: String,
        digest: Digest,
    },
    /// The manifest goes, and the tags that stood for it.
    DropManifest {
        repository: String,
        digest: Digest,
    },
    /// `index.json` with that digest was written by this server: it says nothing new.
    Index {
        digest: Digest,
    },
}

/// A manifest of a repository.
#[derive(Clone, Debug)]
pub(super) struct StoredManifest {
    pub descriptor: Descriptor,
    pub subject: Option<Digest>,
}

#[derive(Debug, Default)]
pub(super) struct Repository {
    /// Sizes of the blobs.
    pub blobs: HashMap<Digest, u64>,
    pub manifests: HashMap<Digest, StoredManifest>,
    pub tags: BTreeMap<String, Digest>,
    /// By subject, the manifests that refer to it; the subject itself may be missing.
    pub referrers: HashMap<Digest, BTreeSet<Digest>>,
}

impl Repository {
    fn is_empty(&self) -> bool {
        self.blobs.is_empty() && self.manifests.is_empty() && self.tags.is_empty()
    }

    /// The manifest that a digest or a tag stands for.
    pub fn manifest(&self, reference: &str) -> Option<&StoredManifest> {
        match reference.parse::<Digest>() {
            Ok(digest) => self.manifests.get(&digest),
            Err(_) => self.manifests.get(self.tags.get(reference)?),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Contents {
    pub repositories: BTreeMap<String, Repository>,
    /// For each file the number of its links.
    files: HashMap<Digest, u64>,
    /// Digests of the `index.json` files that this server wrote.
    pub indexes: BTreeSet<Digest>,
}

impl Contents {
    pub fn blob_size(&self, repository: &str, digest: &Digest) -> Option<u64> {
        self.repositories.get(repository)?.blobs.get(digest).copied()
    }

    pub fn is_linked(&self, digest: &Digest) -> bool {
        self.files.contains_key(digest)
    }

    /// Size of a blob that some repository has; asked for mounts without a source, which are rare.
    pub fn blob_anywhere(&self, digest: &Digest) -> Option<u64> {
        self.files.get(digest)?;
        self.repositories.values().find_map(|r| r.blobs.get(digest)).copied()
    }

    /// Applies one change. Gives the digest of a file that no repository has any more.
    pub fn apply(&mut self, record: Record) -> Option<Digest> {
        match record {
            Record::Blob { repository, digest, size } => {
                if self.repositories.entry(repository).or_default().blobs.insert(digest, size).is_none() {
                    *self.files.entry(digest).or_default() += 1;
                }
                None
            }
            Record::Manifest { repository, descriptor, subject } => {
                let digest = descriptor.digest;
                let repository = self.repositories.entry(repository).or_default();
                if let Some(subject) = subject {
                    repository.referrers.entry(subject).or_default().insert(digest);
                }
                if repository.manifests.insert(digest, StoredManifest { descriptor: *descriptor, subject }).is_none() {
                    *self.files.entry(digest).or_default() += 1;
                }
                None
            }
            Record::Tag { repository, tag, digest } => {
                let repository = self.repositories.entry(repository).or_default();
                repository.tags.insert(tag, digest);
                None
            }
            Record::Untag { repository, tag } => self.change(&repository, |r| {
                r.tags.remove(&tag);
                None
            }),
            Record::DropBlob { repository, digest } => {
                self.change(&repository, |r| r.blobs.remove(&digest).map(|_| digest))
            }
            Record::DropManifest { repository, digest } => self.change(&repository, |r| {
                let manifest = r.manifests.remove(&digest)?;
                r.tags.retain(|_, d| *d != digest);
                if let Some(subject) = manifest.subject
                    && let Some(referrers) = r.referrers.get_mut(&subject)
                {
                    referrers.remove(&digest);
                    if referrers.is_empty() {
                        r.referrers.remove(&subject);
                    }
                }
                Some(digest)
            }),
            Record::Index { digest } => {
                self.indexes.insert(digest);
                None
            }
        }
    }

    /// Takes something out of a repository; `change` gives the file that lost a link.
    fn change(&mut self, name: &str, change: impl FnOnce(&mut Repository) -> Option<Digest>) -> Option<Digest> {
        let repository = self.repositories.get_mut(name)?;
        let unlinked = change(repository);
        if repository.is_empty() {
            self.repositories.remove(name);
        }
        let digest = unlinked?;
        let links = self.files.get_mut(&digest)?;
        *links -= 1;
        if *links > 0 {
            return None;
        }
        self.files.remove(&digest);
        Some(digest)
    }

    /// The shortest journal that gives these contents: children before what needs them.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        let repositories = self.repositories.iter().flat_map(|(name, r)| {
            let blobs = r.blobs.iter().map(|(digest, size)| Record::Blob {
                repository: name.clone(),
                digest: *digest,
                size: *size,
            });
            let manifests = r.manifests.values().map(|m| Record::Manifest {
                repository: name.clone(),
                descriptor: Box::new(m.descriptor.clone()),
                subject: m.subject,
            });
            let tags = r.tags.iter().map(|(tag, digest)| Record::Tag {
                repository: name.clone(),
                tag: tag.clone(),
                digest: *digest,
            });
            blobs.chain(manifests).chain(tags)
        });
        repositories.chain(self.indexes.iter().map(|digest| Record::Index { digest: *digest }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(repository: &str, digest: Digest) -> Record {
        Record::Blob { repository: repository.into(), digest, size: 1 }
    }

    fn manifest(repository: &str, digest: Digest, subject: Option<Digest>) -> Record {
        Record::Manifest {
            repository: repository.into(),
            descriptor: Box::new(Descriptor::new("t", digest, 1)),
            subject,
        }
    }

    #[test]
    fn a_file_goes_with_its_last_link() {
        let d = Digest::sha256(b"x");
        let mut c = Contents::default();
        for record in [blob("a", d), blob("a", d), blob("b", d), manifest("b", d, None)] {
            assert_eq!(c.apply(record), None);
        }
        assert_eq!(c.apply(Record::DropBlob { repository: "a".into(), digest: d }), None);
        assert!(!c.repositories.contains_key("a"));
        assert_eq!(c.apply(Record::DropBlob { repository: "a".into(), digest: d }), None);
        assert_eq!(c.apply(Record::DropManifest { repository: "b".into(), digest: d }), None);
        assert_eq!(c.apply(Record::DropBlob { repository: "b".into(), digest: d }), Some(d));
        assert!(!c.is_linked(&d));
    }

    #[test]
    fn a_manifest_takes_its_tags_and_its_place_among_referrers_along() {
        let (subject, d) = (Digest::sha256(b"s"), Digest::sha256(b"x"));
        let mut c = Contents::default();
        c.apply(manifest("a", d, Some(subject)));
        c.apply(Record::Tag { repository: "a".into(), tag: "t".into(), digest: d });
        c.apply(blob("a", subject));
        assert!(c.repositories["a"].referrers[&subject].contains(&d));
        c.apply(Record::DropManifest { repository: "a".into(), digest: d });
        assert!(c.repositories["a"].tags.is_empty() && c.repositories["a"].referrers.is_empty());
    }
}
