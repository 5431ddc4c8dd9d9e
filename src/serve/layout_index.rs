//! `index.json` of the served directory, read and written: the images as other tools see them.
//!
//! An image named `REPO:TAG` is that tag of that repository; one named `TAG`, or not named at all, is in
//! the repository for images without one (an unnamed one with a subject: wherever its subject is).
//! Written are all tags in these forms, and unnamed what only a subject leads to. Entries that this
//! server cannot name are carried along as they were.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::contents::{Contents, Record};
use super::error::{Error, Result};
use super::manifests::{kind_of_child, manifest_record};
use crate::image::reference::{is_repository, is_tag};
use crate::image::{Descriptor, Digest, Manifest, annotation, media_type};

const FILE: &str = "index.json";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// What `index.json` said when the server started.
#[derive(Debug)]
pub(super) struct LayoutIndex {
    /// For images without a repository.
    repository: String,
    roots: Vec<Descriptor>,
    digest: Option<Digest>,
}

impl LayoutIndex {
    pub fn load(directory: &Path, repository: String) -> Result<LayoutIndex> {
        let path = directory.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(LayoutIndex { repository, roots: Vec::new(), digest: None });
            }
            Err(e) => return Err(Error::io(&path, e)),
        };
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Layout { path: directory.display().to_string(), reason: format!("index.json: {e}") })?;
        Ok(LayoutIndex { repository, roots: index.manifests, digest: Some(Digest::sha256(&bytes)) })
    }

    /// What the index says that the contents do not: nothing, if this server wrote it.
    pub fn news(&self, directory: &Path, contents: &Contents) -> Vec<Record> {
        if self.digest.is_none_or(|d| contents.indexes.contains(&d)) {
            return Vec::new();
        }
        let mut walk = Walk { directory, seen: HashSet::new(), homes: BTreeMap::new(), records: Vec::new() };
        let (mut refers, mut unnamed) = (Vec::new(), Vec::new());
        for root in &self.roots {
            match self.name(root) {
                Some((repository, tag)) => {
                    if walk.add(repository, root) {
                        walk.records.push(Record::Tag {
                            repository: repository.to_owned(),
                            tag: tag.to_owned(),
                            digest: root.digest,
                        });
                    }
                }
                None => match walk.subject(root) {
                    Some(subject) => refers.push((root, subject)),
                    None => unnamed.push(root),
                },
            }
        }
        for root in unnamed {
            walk.add(&self.repository, root);
        }
        // Each round may find the subjects of the next: a signature of a signature.
        while !refers.is_empty() {
            let before = refers.len();
            refers.retain(|(root, subject)| {
                let homes = walk.homes.get(subject).cloned().unwrap_or_default();
                for home in &homes {
                    walk.add(home, root);
                }
                homes.is_empty()
            });
            if refers.len() == before {
                for (root, _) in refers.drain(..) {
                    walk.add(&self.repository, root);
                }
            }
        }
        walk.records
    }

    /// The repository and the tag that a root's name gives. `None`: it has no name that could be served.
    fn name<'a>(&'a self, root: &'a Descriptor) -> Option<(&'a str, &'a str)> {
        let name = root.annotation(annotation::REF_NAME)?;
        let (repository, tag) = name.rsplit_once(':').unwrap_or((&self.repository, name));
        (is_repository(repository) && is_tag(tag)).then_some((repository, tag))
    }

    /// The index of these contents.
    pub fn render(&self, contents: &Contents) -> Vec<u8> {
        let originals: BTreeMap<&str, &Descriptor> =
            self.roots.iter().filter_map(|r| Some((r.annotation(annotation::REF_NAME)?, r))).collect();
        let mut manifests = Vec::new();
        let mut unnamed = BTreeMap::new();
        for (repository, held) in &contents.repositories {
            let mut tagged = HashSet::new();
            for (tag, digest) in &held.tags {
                let Some(manifest) = held.manifests.get(digest) else { continue };
                tagged.insert(*digest);
                let name = if *repository == self.repository { tag.clone() } else { format!("{repository}:{tag}") };
                manifests.push(match originals.get(name.as_str()) {
                    Some(original) if original.digest == *digest => (*original).clone(),
                    _ => {
                        let mut root = manifest.descriptor.bare();
                        root.artifact_type = manifest.descriptor.artifact_type.clone();
                        root.annotations.insert(annotation::REF_NAME.into(), name);
                        root
                    }
                });
            }
            let referrers = held.manifests.values().filter(|m| m.subject.is_some());
            for referrer in referrers.filter(|m| !tagged.contains(&m.descriptor.digest)) {
                let mut root = referrer.descriptor.clone();
                // What the referrers API says of it, but for a name that would make it a tag here.
                root.annotations.remove(annotation::REF_NAME);
                unnamed.insert(root.digest, root);
            }
        }
        for root in &self.roots {
            if self.name(root).is_none() && contents.is_linked(&root.digest) {
                unnamed.insert(root.digest, root.clone());
            }
        }
        manifests.extend(unnamed.into_values());
        let index = Index { schema_version: 2, media_type: media_type::OCI_INDEX.into(), manifests };
        serde_json::to_vec(&index).unwrap_or_default()
    }
}

/// Follows the roots of a layout into repositories.
struct Walk<'a> {
    directory: &'a Path,
    seen: HashSet<(String, Digest)>,
    /// The repositories that a manifest is in.
    homes: BTreeMap<Digest, Vec<String>>,
    records: Vec<Record>,
}

impl Walk<'_> {
    /// The bytes of a manifest, if they are there and are what the digest says.
    fn read(&self, descriptor: &Descriptor) -> Option<Manifest> {
        let path = self.directory.join(descriptor.digest.blob_path());
        if descriptor.size > crate::image::manifest::MAX_MANIFEST_BYTES
            || fs::metadata(&path).ok()?.len() != descriptor.size
        {
            return None;
        }
        let bytes = fs::read(&path).ok()?;
        (Digest::of(descriptor.digest.algorithm(), &bytes) == descriptor.digest)
            .then(|| Manifest { descriptor: descriptor.clone(), bytes: bytes.into() })
    }

    fn subject(&self, root: &Descriptor) -> Option<Digest> {
        let children = self.read(root)?.children().ok()?;
        children.subject.map(|s| s.digest)
    }

    /// Puts a manifest with all that it holds into a repository. False: it is not in the layout.
    fn add(&mut self, repository: &str, root: &Descriptor) -> bool {
        let Some(manifest) = self.read(root) else {
            tracing::warn!(digest = %root.digest, "index.json names a manifest that is missing or damaged: not served");
            return false;
        };
        if !self.seen.insert((repository.to_owned(), root.digest)) {
            return true;
        }
        self.homes.entry(root.digest).or_default().push(repository.to_owned());
        let Ok(view) = manifest.view() else { return false };
        for child in view.manifests.iter().chain(&view.config).chain(&view.layers) {
            if kind_of_child(child).is_manifest() {
                self.add(repository, child);
            } else if self.seen.insert((repository.to_owned(), child.digest)) {
                let path = self.directory.join(child.digest.blob_path());
                if fs::metadata(path).is_ok_and(|m| m.len() == child.size) {
                    let repository = repository.to_owned();
                    self.records.push(Record::Blob { repository, digest: child.digest, size: child.size });
                }
            }
        }
        self.records.push(manifest_record(repository, &manifest, &view));
        true
    }
}

/// Replaces `index.json` at once.
pub(super) fn write(directory: &Path, bytes: &[u8]) -> Result<()> {
    replace(directory, FILE, bytes).map_err(|e| Error::io(&directory.join(FILE), e))
}

/// Replaces a file of the directory at once.
pub(super) fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    // Readable by whom the umask lets, as everything else here is, and not by its owner alone.
    let mut builder = tempfile::Builder::new();
    let mut file = builder.permissions(fs::Permissions::from_mode(0o666)).tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.persist(directory.join(name))?;
    Ok(())
}
