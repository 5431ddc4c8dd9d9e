//! OCI image layout directories as a store (image-spec, image-layout.md).
//!
//! Every file appears whole under its final name (written beside it, then renamed), after its digest was
//! verified; files that are not this program's are left alone. Two processes may write one layout at once.
//! What a run that died has left of a large blob is gone on with (`partial`).

mod index;
mod partial;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use tempfile::NamedTempFile;

use super::reader::chunks;
use super::{BlobReader, BlobSource, Error, Name, Pushed, Result, Store, VerifyingReader};
use crate::image::manifest::{MAX_MANIFEST_BYTES, sniff_media_type};
use crate::image::{Algorithm, Descriptor, Digest, Manifest, media_type};
use index::{Entry, Index};
use partial::Partial;

const LAYOUT_FILE: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Referrers by subject, as of one state of `index.json`.
type Referrers = Arc<HashMap<Digest, Vec<Descriptor>>>;

/// One layout directory.
pub struct Layout {
    directory: PathBuf,
    index: Index,
    referrers: Mutex<Option<(Arc<index::Entries>, Referrers)>>,
    swept: Once,
}

impl Layout {
    /// Names a directory; it is created when something is first pushed to it.
    pub fn new(directory: &Path) -> Self {
        Layout {
            directory: directory.to_owned(),
            index: Index::new(directory),
            referrers: Mutex::default(),
            swept: Once::new(),
        }
    }

    /// Everything that `index.json` lists, in its order. Fails where there is no layout.
    pub fn listed(&self) -> Result<Vec<Descriptor>> {
        self.check()?;
        let entries = self.index.read()?;
        if entries.all.is_empty() && !self.directory.join("oci-layout").exists() {
            return Err(self.missing("an OCI layout"));
        }
        Ok(entries.all.clone())
    }

    /// Every file under `blobs/` that has the name of a digest, listed or not.
    pub fn blobs(&self) -> Result<Vec<Descriptor>> {
        self.check()?;
        let mut found = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let directory = self.directory.join("blobs").join(algorithm.name());
            let io = |e| Error::io(directory.display(), e);
            let files = match fs::read_dir(&directory) {
                Ok(files) => files,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(io(e)),
            };
            for file in files {
                let file = file.map_err(io)?;
                let name = format!("{}:{}", algorithm.name(), file.file_name().to_string_lossy());
                if let Ok(digest) = name.parse::<Digest>() {
                    let size = file.metadata().map_err(io)?.len();
                    found.push(Descriptor::new("application/octet-stream", digest, size));
                }
            }
        }
        Ok(found)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.blob_path())
    }

    /// Fails for a directory that says it is something else; one that is not there yet is fine.
    fn check(&self) -> Result<()> {
        #[derive(Deserialize)]
        struct Marker {
            #[serde(rename = "imageLayoutVersion")]
            version: String,
        }
        let path = self.directory.join("oci-layout");
        let reason = match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<Marker>(&bytes) {
                Ok(marker) if marker.version == "1.0.0" => return Ok(()),
                Ok(marker) => format!("oci-layout has version {:?}; 1.0.0 can be used", marker.version),
                Err(e) => format!("oci-layout cannot be read: {e}"),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
                "it is a file, and oci: names a directory".to_owned()
            }
            Err(e) => return Err(Error::io(path.display(), e)),
        };
        Err(Error::Unusable { place: self.describe(), reason })
    }

    /// Makes the directory a layout, if it is none yet, and a place for blobs of that algorithm.
    fn prepare(&self, digest: &Digest) -> Result<()> {
        self.swept.call_once(|| partial::sweep(&self.directory));
        let blobs = self.directory.join("blobs").join(digest.algorithm().name());
        if blobs.is_dir() && self.directory.join("oci-layout").is_file() {
            return self.check();
        }
        self.check()?;
        fs::create_dir_all(&blobs).map_err(|e| Error::io(blobs.display(), e))?;
        let marker = self.directory.join("oci-layout");
        if !marker.exists() {
            write_whole(&self.directory, &marker, LAYOUT_FILE)?;
        }
        Ok(())
    }

    fn missing(&self, what: impl std::fmt::Display) -> Error {
        Error::Missing { what: what.to_string(), place: self.describe() }
    }

    /// Size of a blob's file. `None`: there is none.
    fn size_of(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.blob_path(digest);
        match fs::metadata(&path) {
            Ok(m) if m.is_file() => Ok(Some(m.len())),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(path.display(), e)),
        }
    }

    /// The verified bytes of a manifest-sized blob. `None`: it is not there.
    fn read_manifest(&self, digest: &Digest) -> Result<Option<Bytes>> {
        let path = self.blob_path(digest);
        match self.size_of(digest)? {
            None => return Ok(None),
            Some(size) if size > MAX_MANIFEST_BYTES => {
                let reason = format!("{digest} has {size} bytes, more than a manifest may have");
                return Err(Error::Unusable { place: self.describe(), reason });
            }
            Some(_) => {}
        }
        let bytes: Bytes = fs::read(&path).map_err(|e| Error::io(path.display(), e))?.into();
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != *digest {
            return Err(Error::Digest {
                what: format!("manifest {digest}"),
                place: self.describe(),
                expected: Box::new(*digest),
                actual: Box::new(actual),
            });
        }
        Ok(Some(bytes))
    }

    fn manifest_of(&self, digest: &Digest, media_type: Option<&str>) -> Result<Option<Manifest>> {
        let Some(bytes) = self.read_manifest(digest)? else { return Ok(None) };
        let known = media_type.filter(|m| !m.is_empty()).map(str::to_owned);
        let Some(media_type) = known.or_else(|| sniff_media_type(&bytes)) else { return Ok(None) };
        let descriptor = Descriptor::new(media_type, *digest, bytes.len() as u64);
        Ok(Some(Manifest { descriptor, bytes }))
    }

    fn referrers_by_subject(&self) -> Result<Referrers> {
        let entries = self.index.read()?;
        if let Ok(cache) = self.referrers.lock()
            && let Some((of, referrers)) = cache.as_ref()
            && Arc::ptr_eq(of, &entries)
        {
            return Ok(referrers.clone());
        }
        let mut by_subject: HashMap<Digest, Vec<Descriptor>> = HashMap::new();
        for entry in entries.all.iter().filter(|d| d.is_manifest()) {
            let Some(manifest) = self.manifest_of(&entry.digest, Some(&entry.media_type))? else { continue };
            let view = manifest.view()?;
            let Some(subject) = manifest.children()?.subject else { continue };
            let mut descriptor = entry.bare();
            descriptor.size = manifest.descriptor.size;
            descriptor.artifact_type = view.artifact_type.or_else(|| view.config.map(|c| c.media_type));
            descriptor.annotations = view.annotations;
            by_subject.entry(subject.digest).or_default().push(descriptor);
        }
        for list in by_subject.values_mut() {
            list.sort_by_key(|d| d.digest);
            list.dedup_by_key(|d| d.digest);
        }
        let referrers = Arc::new(by_subject);
        if let Ok(mut cache) = self.referrers.lock() {
            *cache = Some((entries, referrers.clone()));
        }
        Ok(referrers)
    }
}

#[async_trait]
impl Store for Layout {
    fn describe(&self) -> String {
        format!("oci:{}", self.directory.display())
    }

    async fn resolve(&self, name: &Name) -> Result<Option<Descriptor>> {
        self.check()?;
        match name {
            Name::Tag(tag) => {
                let Some(entry) = self.index.read()?.named(tag).cloned() else { return Ok(None) };
                if entry.media_type.is_empty() {
                    return Ok(self.manifest_of(&entry.digest, None)?.map(|m| m.descriptor));
                }
                match self.size_of(&entry.digest)? {
                    Some(size) => Ok(Some(Descriptor { size, ..entry.bare() })),
                    None => Err(self.missing(format!("{}, which index.json calls {tag:?},", entry.digest))),
                }
            }
            Name::Digest(digest) => {
                let known = self.index.read()?.by_digest(digest).map(|d| d.media_type.clone());
                Ok(self.manifest_of(digest, known.as_deref())?.map(|m| m.descriptor))
            }
        }
    }

    async fn manifest(&self, name: &Name) -> Result<Option<Manifest>> {
        self.check()?;
        match name {
            Name::Tag(tag) => {
                let Some(entry) = self.index.read()?.named(tag).cloned() else { return Ok(None) };
                self.manifest_of(&entry.digest, Some(&entry.media_type))
            }
            Name::Digest(digest) => {
                let known = self.index.read()?.by_digest(digest).map(|d| d.media_type.clone());
                self.manifest_of(digest, known.as_deref())
            }
        }
    }

    async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        self.check()?;
        Ok(self.size_of(&descriptor.digest)? == Some(descriptor.size))
    }

    async fn open_blob(&self, descriptor: &Descriptor) -> Result<BlobReader> {
        self.check()?;
        let path = self.blob_path(&descriptor.digest);
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(self.missing(format!("blob {}", descriptor.digest)));
            }
            Err(e) => return Err(Error::io(path.display(), e)),
        };
        let length = file.metadata().map_err(|e| Error::io(path.display(), e))?.len();
        if length != descriptor.size {
            return Err(Error::Size {
                what: format!("blob {}", descriptor.digest),
                place: self.describe(),
                expected: descriptor.size,
                actual: length,
            });
        }
        let chunks = chunks(Arc::new(file), 0..length, path.display().to_string());
        Ok(VerifyingReader::new(descriptor, self.describe(), chunks).into_reader())
    }

    async fn push_blob(&self, descriptor: &Descriptor, source: &dyn BlobSource, _: Option<&str>) -> Result<Pushed> {
        self.prepare(&descriptor.digest)?;
        if let Some(partial) = Partial::open(&self.directory, descriptor) {
            partial.fill(&self.describe(), source, &self.blob_path(&descriptor.digest)).await?;
            return Ok(Pushed::Sent);
        }
        let mut file = temporary(&self.directory)?;
        let mut reader = source.open(0).await?;
        while let Some(chunk) = reader.next().await {
            let chunk = chunk?;
            file.write_all(&chunk).map_err(|e| Error::io(file.path().display(), e))?;
        }
        keep(file, &self.blob_path(&descriptor.digest))?;
        Ok(Pushed::Sent)
    }

    async fn push_manifest(&self, manifest: &Manifest, tag: Option<&str>) -> Result<()> {
        self.prepare(&manifest.digest())?;
        if self.size_of(&manifest.digest())? != Some(manifest.bytes.len() as u64) {
            write_whole(&self.directory, &self.blob_path(&manifest.digest()), &manifest.bytes)?;
        }
        let view = if media_type::is_manifest(manifest.media_type()) { manifest.view()? } else { Default::default() };
        if tag.is_none() && view.subject.is_none() {
            return Ok(());
        }
        let mut descriptor = manifest.descriptor.bare();
        descriptor.artifact_type = view.artifact_type;
        self.index.enter(Entry { descriptor, name: tag.map(str::to_owned) }).await
    }

    async fn referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        self.check()?;
        Ok(self.referrers_by_subject()?.get(&subject.digest).cloned().unwrap_or_default())
    }

    async fn tags(&self) -> Result<Vec<String>> {
        self.check()?;
        Ok(self.index.read()?.names())
    }
}

/// A file beside the final one, with the permissions of an ordinary file, deleted unless it is kept.
fn temporary(directory: &Path) -> Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(partial::TEMPORARY)
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(directory)
        .map_err(|e| Error::io(directory.display(), e))
}

fn keep(file: NamedTempFile, path: &Path) -> Result<()> {
    file.persist(path).map(drop).map_err(|e| Error::io(path.display(), e.error))
}

/// Writes a small file so that a reader sees the old one or the new one.
fn write_whole(directory: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = temporary(directory)?;
    file.write_all(bytes).map_err(|e| Error::io(file.path().display(), e))?;
    keep(file, path)
}
