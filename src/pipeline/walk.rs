//! Walking graphs of manifests: reading each manifest once in a run, and finding what refers to one
//! (referrers, and signatures under the tags of cosign). Copying and archiving find the same things,
//! in the same order, because both ask here.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use tokio::sync::OnceCell;

use crate::image::manifest::MAX_MANIFEST_BYTES;
use crate::image::{Descriptor, Digest, Manifest};
use crate::store::reader::read_all;
use crate::store::{self, Error, Name, Store};

/// How deep indexes may nest. Real ones have three levels; a bound keeps a hostile one from the stack.
pub const MAX_DEPTH: usize = 32;
/// Times that content which was not what its digest says is read anew.
pub const CORRUPTION_TRIES: usize = 3;

/// What cosign appends to `sha256-HEX` to name signatures, attestations and SBOMs.
const COSIGN_ENDINGS: [&str; 3] = [".att", ".sbom", ".sig"];

/// A table of things that are made once; who asks for one that is being made waits for it.
pub(super) type Once<K, T> = Mutex<HashMap<K, Arc<OnceCell<T>>>>;

/// Manifests that were read in this run, each fetched once and kept as its bytes.
#[derive(Default)]
pub struct Manifests {
    read: Once<Digest, Manifest>,
}

impl Manifests {
    /// The manifest that `descriptor` names, from `store` if this run has not had it yet. It carries the
    /// media type that its parent gave it.
    pub async fn get(&self, store: &dyn Store, descriptor: &Descriptor) -> store::Result<Manifest> {
        let cell = {
            let mut read = self.read.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            read.entry(descriptor.digest).or_default().clone()
        };
        let mut manifest = cell.get_or_try_init(|| fetch(store, descriptor)).await?.clone();
        let actual = manifest.bytes.len() as u64;
        if actual != descriptor.size {
            let (what, place) = (format!("manifest {}", descriptor.digest), store.describe());
            return Err(Error::Size { what, place, expected: descriptor.size, actual });
        }
        if !descriptor.media_type.is_empty() {
            manifest.descriptor.media_type.clone_from(&descriptor.media_type);
        }
        Ok(manifest)
    }

    /// Whether that manifest was read.
    pub fn has(&self, digest: &Digest) -> bool {
        let read = self.read.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        read.get(digest).is_some_and(|cell| cell.initialized())
    }

    /// Keeps a manifest that was made or read elsewhere.
    pub fn keep(&self, manifest: &Manifest) {
        let mut read = self.read.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        read.entry(manifest.digest()).or_insert_with(|| Arc::new(OnceCell::from(manifest.clone())));
    }
}

async fn fetch(store: &dyn Store, descriptor: &Descriptor) -> store::Result<Manifest> {
    let mut tries = 1;
    loop {
        match store.manifest(&Name::Digest(descriptor.digest)).await {
            Ok(Some(manifest)) => return Ok(manifest),
            // One that waits for what it needs: an archive that was cut leaves such.
            Ok(None) if descriptor.is_manifest() && store.has_blob(descriptor).await? => {
                let reader = store.open_blob(descriptor).await?;
                let bytes = read_all(reader, descriptor.size, MAX_MANIFEST_BYTES).await?;
                return Ok(Manifest { descriptor: descriptor.bare(), bytes });
            }
            Ok(None) => {
                let (what, place) = (format!("manifest {}", descriptor.digest), store.describe());
                return Err(Error::Missing { what, place });
            }
            Err(e) if e.is_corruption() && tries < CORRUPTION_TRIES => {
                tracing::info!("{e}; reading it again");
                tries += 1;
            }
            Err(e) => return Err(e),
        }
    }
}

/// A manifest that refers to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    pub descriptor: Descriptor,
    /// The tag that makes it one, where it is a signature, attestation or SBOM by cosign's tag scheme.
    /// It must have that tag wherever it goes.
    pub tag: Option<String>,
}

/// What a tag of cosign's scheme signs; `None` for any other. Names in a layout may be REPO:TAG.
pub fn signed_by_tag(name: &str) -> Option<Digest> {
    let tag = name.rsplit_once(':').map_or(name, |(_, tag)| tag);
    let subject = COSIGN_ENDINGS.iter().find_map(|ending| tag.strip_suffix(ending))?;
    let (algorithm, hex) = subject.split_once('-')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// Finds referrers in one store.
pub struct ReferrerFinder {
    store: Arc<dyn Store>,
    cosign: bool,
    /// Tags of the store that look like cosign's; `None` where the store does not list tags.
    tags: OnceCell<Option<HashSet<String>>>,
}

impl ReferrerFinder {
    /// `cosign`: also look for cosign's tags.
    pub fn new(store: Arc<dyn Store>, cosign: bool) -> Self {
        ReferrerFinder { store, cosign, tags: OnceCell::new() }
    }

    /// What refers to that manifest: first those that name it as their subject, in the order of their
    /// digests, then those under cosign's tags in the order of their tags. One request, and one more
    /// for each tag found.
    pub async fn of(&self, subject: &Descriptor) -> store::Result<Vec<Referrer>> {
        let mut by_subject = self.store.referrers(subject).await?;
        by_subject.sort_by_key(|d| d.digest);
        by_subject.dedup_by_key(|d| d.digest);
        let mut found: Vec<Referrer> =
            by_subject.into_iter().map(|descriptor| Referrer { descriptor, tag: None }).collect();
        if !self.cosign {
            return Ok(found);
        }
        let tags = self.tags.get_or_init(|| self.cosign_tags()).await;
        for ending in COSIGN_ENDINGS {
            let tag = format!("{}-{}{ending}", subject.digest.algorithm().name(), subject.digest.hex());
            if tags.as_ref().is_some_and(|tags| !tags.contains(&tag)) || tag.len() > 128 {
                continue;
            }
            if let Some(descriptor) = self.store.resolve(&Name::Tag(tag.clone())).await? {
                found.push(Referrer { descriptor: descriptor.bare(), tag: Some(tag) });
            }
        }
        Ok(found)
    }

    async fn cosign_tags(&self) -> Option<HashSet<String>> {
        let tags = match self.store.tags().await {
            Ok(tags) => tags,
            Err(e) => {
                tracing::debug!("{e}; asking for each signature's tag instead");
                return None;
            }
        };
        // Names in a layout may be REPO:TAG.
        let tags = tags.iter().map(|t| t.rsplit_once(':').map_or(t.as_str(), |(_, tag)| tag));
        Some(tags.filter(|t| COSIGN_ENDINGS.iter().any(|e| t.ends_with(e))).map(str::to_owned).collect())
    }
}
