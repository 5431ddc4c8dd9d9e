//! An archive as a read-only store. Of one that is seekable and uncompressed, every blob is read from where it is
//! in the file; one that can be read only once has passed, and holds its manifests: its other blobs are known, not
//! to be had.

use std::collections::HashMap;
use std::io::BufRead;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::reader::chunks;
use super::{BlobReader, BlobSource, Error, Name, Pushed, Result, Store, VerifyingReader};
use crate::archive::contents::{Contents, Location};
use crate::archive::pass::{Passed, pass};
use crate::archive::reader::{self, Stream};
use crate::image::manifest::{MAX_MANIFEST_BYTES, sniff_media_type};
use crate::image::{Descriptor, Digest, Manifest, annotation};
use crate::medium::compression::decompress;
use crate::medium::read_at::ReadAt;

/// An archive that is open for reading.
pub struct Archive {
    name: String,
    bytes: Held,
    pub contents: Arc<Contents>,
    /// What ended the reading of its entries before their end.
    pub damage: Option<reader::Error>,
}

/// What can be read of it.
enum Held {
    All(Arc<dyn ReadAt>),
    /// It has passed; this was kept.
    Small(HashMap<Digest, Bytes>),
}

impl Archive {
    /// Reads the headers of an archive that can be read from any place. `name` is for messages. A torn archive
    /// opens: `contents.ending` tells.
    pub async fn open(name: &str, bytes: Arc<dyn ReadAt>) -> Result<Self> {
        Self::open_damaged(name, bytes).await?.sound()
    }

    /// The same, and a damaged one opens too: `damage` tells, and what stands before it can be read.
    pub async fn open_damaged(name: &str, bytes: Arc<dyn ReadAt>) -> Result<Self> {
        let scanned = bytes.clone();
        let opened = tokio::task::spawn_blocking(move || Contents::scan(scanned)).await;
        let (contents, damage) = opened.map_err(|e| Error::io(name, std::io::Error::other(e)))?;
        Ok(Archive { name: name.into(), bytes: Held::All(bytes), contents: Arc::new(contents), damage })
    }

    /// Reads a stream to its end, decompressed if it is compressed. `name` is for messages.
    pub async fn read_through(name: &str, input: Box<dyn BufRead + Send>) -> Result<Self> {
        let at = name.to_owned();
        let read = tokio::task::spawn_blocking(move || {
            let input = decompress(input).map_err(|e| Error::io(&at, e))?;
            Ok(pass(Stream(input), None))
        });
        let read = read.await.unwrap_or_else(|e| Err(Error::io(name, std::io::Error::other(e))));
        let (passed, damage) = read?;
        Self::passed(name, passed, damage).sound()
    }

    /// An archive that has passed, and what ended the pass.
    pub fn passed(name: &str, passed: Passed, damage: Option<reader::Error>) -> Self {
        Archive { name: name.into(), bytes: Held::Small(passed.kept), contents: Arc::new(passed.contents), damage }
    }

    /// The archive, unless it is damaged.
    pub fn sound(mut self) -> Result<Self> {
        match self.damage.take() {
            None => Ok(self),
            Some(reader::Error::Io(e)) => Err(Error::io(&self.name, e)),
            Some(e) => Err(Error::Unusable { place: self.name, reason: e.to_string() }),
        }
    }

    /// Where the content of a blob begins in the uncompressed archive, in bytes.
    pub fn offset(&self, digest: &Digest) -> Option<u64> {
        self.contents.blobs.get(digest).map(|at| at.offset)
    }

    /// An archive that has passed elsewhere; `manifests` are what is at hand of it.
    pub fn passed_by(name: &str, contents: Arc<Contents>, manifests: &[Manifest]) -> Self {
        let kept = manifests.iter().map(|manifest| (manifest.digest(), manifest.bytes.clone())).collect();
        Archive { name: name.into(), bytes: Held::Small(kept), contents, damage: None }
    }

    fn missing(&self, what: impl std::fmt::Display) -> Error {
        Error::Missing { what: what.to_string(), place: self.name.clone() }
    }

    fn listed(&self) -> impl Iterator<Item = &Descriptor> {
        self.contents.indexes.iter().flatten()
    }

    fn read_only<T>(&self) -> Result<T> {
        Err(Error::Unusable { place: self.name.clone(), reason: "an archive can only be read here".into() })
    }

    /// The verified bytes of a blob that is as small as a manifest. `None`: it is not there.
    pub fn small(&self, digest: &Digest) -> Result<Option<Bytes>> {
        let Some(location) = self.contents.blobs.get(digest) else { return Ok(None) };
        if location.size > MAX_MANIFEST_BYTES {
            let reason =
                format!("{digest} has {} bytes, more than the {MAX_MANIFEST_BYTES} of any manifest", location.size);
            return Err(Error::Unusable { place: self.name.clone(), reason });
        }
        let bytes = match &self.bytes {
            Held::All(file) => {
                let mut bytes = vec![0; location.size as usize];
                file.read_exact_at(&mut bytes, location.offset).map_err(|e| Error::io(&self.name, e))?;
                bytes.into()
            }
            Held::Small(kept) => kept.get(digest).cloned().ok_or_else(|| self.gone(digest))?,
        };
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != *digest {
            let (expected, actual) = (Box::new(*digest), Box::new(actual));
            return Err(Error::Digest {
                what: format!("manifest {digest}"),
                place: self.name.clone(),
                expected,
                actual,
            });
        }
        Ok(Some(bytes))
    }

    /// A verifying reader of one of several copies of a blob.
    pub fn open_at(&self, digest: &Digest, at: &Location) -> Result<BlobReader> {
        self.read(&Descriptor::new("application/octet-stream", *digest, at.size), at)
    }

    fn read(&self, descriptor: &Descriptor, at: &Location) -> Result<BlobReader> {
        let file = match &self.bytes {
            Held::All(file) => file.clone(),
            Held::Small(kept) => {
                let bytes = kept.get(&descriptor.digest).cloned().ok_or_else(|| self.gone(&descriptor.digest))?;
                let chunks = Box::pin(futures_util::stream::iter([Ok(bytes)]));
                return Ok(VerifyingReader::new(descriptor, self.name.clone(), chunks).into_reader());
            }
        };
        let name = self.name.clone();
        if let Some(chunks) = file.stream(at.offset..at.offset.saturating_add(at.size)) {
            let at = name.clone();
            let chunks = chunks.map_err(move |e| Error::io(&at, e));
            return Ok(VerifyingReader::new(descriptor, name, Box::pin(chunks)).into_reader());
        }
        let chunks = chunks(file, at.offset..at.offset.saturating_add(at.size), name.clone());
        Ok(VerifyingReader::new(descriptor, name, chunks).into_reader())
    }

    fn gone(&self, digest: &Digest) -> Error {
        let reason = format!("{digest} has passed and cannot be read again: use a regular, uncompressed file");
        Error::Unusable { place: self.name.clone(), reason }
    }
}

#[async_trait]
impl Store for Archive {
    fn describe(&self) -> String {
        self.name.clone()
    }

    async fn resolve(&self, name: &Name) -> Result<Option<Descriptor>> {
        let found = match name {
            Name::Tag(tag) => self.listed().find(|d| d.annotation(annotation::REF_NAME) == Some(tag)),
            Name::Digest(digest) => self.listed().find(|d| d.digest == *digest),
        };
        match (found, name) {
            (Some(descriptor), _) => Ok(Some(descriptor.clone())),
            (None, Name::Digest(_)) => Ok(self.manifest(name).await?.map(|m| m.descriptor)),
            (None, Name::Tag(_)) => Ok(None),
        }
    }

    async fn manifest(&self, name: &Name) -> Result<Option<Manifest>> {
        let listed = match name {
            Name::Tag(tag) => self.listed().find(|d| d.annotation(annotation::REF_NAME) == Some(tag)),
            Name::Digest(digest) => self.listed().find(|d| d.digest == *digest),
        };
        let digest = match (listed, name) {
            (Some(descriptor), _) => descriptor.digest,
            (None, Name::Digest(digest)) => *digest,
            (None, Name::Tag(_)) => return Ok(None),
        };
        let Some(bytes) = self.small(&digest)? else { return Ok(None) };
        let known = listed.map(|d| d.media_type.clone()).filter(|m| !m.is_empty());
        let Some(media_type) = known.or_else(|| sniff_media_type(&bytes)) else { return Ok(None) };
        Ok(Some(Manifest { descriptor: Descriptor::new(media_type, digest, bytes.len() as u64), bytes }))
    }

    async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(self.contents.blobs.get(&descriptor.digest).is_some_and(|l| l.size == descriptor.size))
    }

    async fn open_blob(&self, descriptor: &Descriptor) -> Result<BlobReader> {
        let location = self.contents.blobs.get(&descriptor.digest);
        let location = location.ok_or_else(|| self.missing(format!("blob {}", descriptor.digest)))?;
        self.read(descriptor, location)
    }

    async fn push_blob(&self, _: &Descriptor, _: &dyn BlobSource, _: Option<&str>) -> Result<Pushed> {
        self.read_only()
    }

    async fn push_manifest(&self, _: &Manifest, _: Option<&str>) -> Result<()> {
        self.read_only()
    }

    async fn referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        let mut found = Vec::new();
        for descriptor in self.listed() {
            let Some(manifest) = self.manifest(&Name::Digest(descriptor.digest)).await? else { continue };
            if manifest.children()?.subject.is_some_and(|s| s.digest == subject.digest) {
                found.push(descriptor.bare());
            }
        }
        found.sort_by_key(|d| d.digest);
        found.dedup_by_key(|d| d.digest);
        Ok(found)
    }

    async fn tags(&self) -> Result<Vec<String>> {
        let mut tags: Vec<String> =
            self.listed().filter_map(|d| d.annotation(annotation::REF_NAME)).map(str::to_owned).collect();
        tags.sort();
        tags.dedup();
        Ok(tags)
    }
}
