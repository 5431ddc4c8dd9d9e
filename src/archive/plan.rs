//! The plan of an archive: every entry in the order of the wire format, with its size and offset, known
//! before a byte moves. Pure: a graph of manifests goes in, a list of entries comes out, and the same
//! graph gives the same list.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::{docker, index, layout, tar};
use crate::image::manifest::ManifestError;
use crate::image::{Algorithm, Descriptor, Digest, Hasher, Manifest, annotation};

/// Everything that was read to make a plan.
#[derive(Default)]
pub struct Graph {
    /// By digest. A child of an index whose type is not known is here too, where it is kept as a manifest.
    pub manifests: HashMap<Digest, Manifest>,
    /// What refers to a manifest, in the order in which it is archived.
    pub referrers: HashMap<Digest, Vec<Descriptor>>,
    /// Subjects that are nowhere to be had.
    pub absent: HashSet<Digest>,
}

impl Graph {
    /// All that belongs to `root`, without what refers to any of it, and without subjects.
    fn below(&self, root: &Digest) -> Result<HashSet<Digest>, ManifestError> {
        let (mut seen, mut todo) = (HashSet::new(), vec![*root]);
        while let Some(digest) = todo.pop() {
            if seen.insert(digest)
                && let Some(manifest) = self.manifests.get(&digest)
            {
                let children = manifest.children()?;
                let below = children.config.iter().chain(&children.layers).chain(&children.manifests);
                todo.extend(below.map(|d| d.digest));
            }
        }
        Ok(seen)
    }
}

/// Where an entry's bytes come from.
#[derive(Clone, Debug)]
pub enum Content {
    Directory,
    /// Known already: `index.json`, manifests.
    Bytes(Bytes),
    /// To be fetched.
    Blob(Box<Descriptor>),
}

/// One entry of the archive.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    /// What it is, where it is a blob or a manifest.
    pub descriptor: Option<Descriptor>,
    pub content: Content,
    /// Where its first header begins, in bytes from the start of the archive.
    pub offset: u64,
}

impl Entry {
    /// Size of the content in bytes, without header and padding.
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::Directory => 0,
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Blob(descriptor) => descriptor.size,
        }
    }

    /// Its headers.
    pub fn header(&self) -> Vec<u8> {
        tar::header(&self.name, self.size(), matches!(self.content, Content::Directory))
    }
}

/// An archive as it will be.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub entries: Vec<Entry>,
    /// Length of the archive, trailer included, in bytes.
    pub length: u64,
    /// What need not travel, in the order of the archive.
    pub skipped: Vec<Skipped>,
    /// Foreign layers that were not asked for.
    pub left_out: Vec<Descriptor>,
}

/// Why a blob need not travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The other side has it, because it has what is named here.
    Held(String),
    /// The ledger named here tells that an earlier part of this archive holds it.
    Earlier(String),
}

/// A blob that need not travel.
#[derive(Clone, Debug)]
pub struct Skipped {
    pub descriptor: Descriptor,
    pub why: Why,
}

/// What decides, besides the graph, on what is archived.
pub struct Wishes<'a> {
    /// Layers that registries usually do not hold, too.
    pub foreign_layers: bool,
    /// `manifest.json` at the end, for `docker load`.
    pub manifest_json: bool,
    /// Whether a blob need not travel; the flag says that it is a manifest.
    pub skip: &'a dyn Fn(&Digest, bool) -> Option<Why>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("{digest} is named with two sizes, {first} and {second} bytes: one of the images is damaged")]
    TwoSizes { digest: Digest, first: u64, second: u64 },
    #[error("manifest {0} was not read")]
    Unread(Digest),
    #[error("the archive would be larger than any file can be")]
    TooLarge,
    #[error("index.json: {0}")]
    Json(#[from] serde_json::Error),
}

impl Plan {
    /// Digest of the headers of all entries in their order: equal plans give equal archives.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        self.entries.iter().for_each(|entry| hasher.update(&entry.header()));
        hasher.finish()
    }

    /// Plans the archive of `root`, which is called `name` in it.
    pub fn new(root: &Descriptor, name: &str, graph: &Graph, wishes: &Wishes) -> Result<Plan, PlanError> {
        let mut first = root.bare();
        first.annotations.insert(annotation::REF_NAME.into(), name.into());
        let deduplicated = match graph.manifests.get(&root.digest) {
            Some(manifest) => manifest.view()?.annotations.remove(annotation::SIZE_DEDUPLICATED),
            None => None,
        };
        let deduplicated = deduplicated.unwrap_or_else(|| "0".into());
        let only_root = index::build(std::slice::from_ref(&first), &deduplicated)?;
        let mut plan = Plan::default();
        let met = plan.visit(first, graph, wishes)?;
        plan.add("index.json", None, Content::Bytes(index::build(&met, &deduplicated)?.into()));
        if wishes.manifest_json {
            let archived = plan.entries.iter().filter_map(|e| Some(e.descriptor.as_ref()?.digest)).collect();
            let json = docker::build(root, graph, &archived).map_err(|e| match e {
                docker::BuildError::Manifest(e) => PlanError::Manifest(e),
                docker::BuildError::Json(e) => PlanError::Json(e),
            })?;
            plan.add("manifest.json", None, Content::Bytes(json.into()));
        }
        let bytes = |bytes: Vec<u8>| Content::Bytes(bytes.into());
        let start = [
            ("oci-layout", bytes(layout::build(plan.expected(&root.digest, graph)?)?)),
            ("index.json", bytes(only_root)),
        ];
        let start = start.map(|(name, content)| Entry { name: name.into(), descriptor: None, content, offset: 0 });
        plan.entries.splice(0..0, start);
        plan.place()?;
        Ok(plan)
    }

    /// What the other side is expected to have, in the order of digests; what the images themselves do not need is
    /// marked. What an earlier part of the archive holds is not among it: the parts belong together, and offsets are
    /// those of the field.
    fn expected(&self, root: &Digest, graph: &Graph) -> Result<Vec<Descriptor>, ManifestError> {
        let held = self.skipped.iter().filter(|s| matches!(s.why, Why::Held(_)));
        let mut expected: Vec<Descriptor> = held.map(|s| s.descriptor.bare()).collect();
        expected.sort_by_key(|d| d.digest);
        if !expected.is_empty() {
            let needed = graph.below(root)?;
            for blob in expected.iter_mut().filter(|d| !needed.contains(&d.digest)) {
                blob.annotations.insert(annotation::FOR_REFERRERS.into(), "true".into());
            }
        }
        Ok(expected)
    }

    /// Adds blobs depth first, parents before children, referrers after them. Gives the manifests met.
    fn visit(&mut self, root: Descriptor, graph: &Graph, wishes: &Wishes) -> Result<Vec<Descriptor>, PlanError> {
        let mut met = Vec::new();
        let mut visited = HashSet::new();
        let mut sizes: HashMap<Digest, u64> = HashMap::new();
        let mut directories: HashSet<Algorithm> = HashSet::new();
        let mut todo = vec![root];
        while let Some(descriptor) = todo.pop() {
            let is_manifest = descriptor.is_manifest();
            if is_manifest && !visited.insert((descriptor.media_type.clone(), descriptor.digest, descriptor.size)) {
                continue;
            }
            if descriptor.is_foreign() && !wishes.foreign_layers {
                self.left_out.push(descriptor);
                continue;
            }
            let manifest = graph.manifests.get(&descriptor.digest);
            match sizes.insert(descriptor.digest, descriptor.size) {
                None => match (wishes.skip)(&descriptor.digest, manifest.is_some()) {
                    Some(why) => self.skipped.push(Skipped { descriptor: descriptor.clone(), why }),
                    None => {
                        self.directories(descriptor.digest.algorithm(), &mut directories);
                        let content = match manifest {
                            Some(manifest) => Content::Bytes(manifest.bytes.clone()),
                            None => Content::Blob(Box::new(descriptor.with_addresses())),
                        };
                        self.add(&descriptor.digest.blob_path(), Some(descriptor.clone()), content);
                    }
                },
                Some(first) if first != descriptor.size => {
                    let (digest, second) = (descriptor.digest, descriptor.size);
                    return Err(PlanError::TwoSizes { digest, first, second });
                }
                Some(_) => {}
            }
            if is_manifest {
                let manifest = manifest.ok_or(PlanError::Unread(descriptor.digest))?;
                let mut manifest = manifest.clone();
                manifest.descriptor.media_type.clone_from(&descriptor.media_type);
                if let Some(referrers) = graph.referrers.get(&descriptor.digest) {
                    todo.extend(referrers.iter().rev().cloned());
                }
                let children = manifest.children()?;
                let children: Vec<_> = children.all().filter(|d| !graph.absent.contains(&d.digest)).cloned().collect();
                todo.extend(children.into_iter().rev());
                met.push(descriptor);
            }
        }
        self.left_out.sort_by_key(|d| d.digest);
        self.left_out.dedup_by_key(|d| d.digest);
        Ok(met)
    }

    fn directories(&mut self, algorithm: Algorithm, known: &mut HashSet<Algorithm>) {
        if known.is_empty() {
            self.add("blobs", None, Content::Directory);
        }
        if known.insert(algorithm) {
            self.add(&format!("blobs/{}", algorithm.name()), None, Content::Directory);
        }
    }

    fn add(&mut self, name: &str, descriptor: Option<Descriptor>, content: Content) {
        self.entries.push(Entry { name: name.into(), descriptor, content, offset: 0 });
    }

    /// Gives every entry its offset, and the archive its length.
    fn place(&mut self) -> Result<(), PlanError> {
        let mut length = 0u64;
        for entry in &mut self.entries {
            entry.offset = length;
            let size = tar::padded(entry.size()).and_then(|s| s.checked_add(entry.header().len() as u64));
            let next = size.and_then(|s| length.checked_add(s)).filter(|l| *l <= i64::MAX as u64 - tar::TRAILER as u64);
            length = next.ok_or(PlanError::TooLarge)?;
        }
        self.length = length + tar::TRAILER as u64;
        Ok(())
    }
}
