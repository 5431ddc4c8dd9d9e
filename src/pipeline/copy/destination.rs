//! What a run knows of one destination: what is in place or on its way there (each digest once), what
//! failed, and whether asking for things before sending them is worth a request.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::sync::OnceCell;

use super::interrupted::{Work, Works};
use super::luck::Luck;
use super::{Shared, lock};
use crate::image::{Descriptor, Digest};
use crate::pipeline::walk::Once;
use crate::store::{self, Store};

/// A blob that is so large (in bytes) is always worth a question.
const LARGE: u64 = 4 << 20;

/// Manifests and blobs are different things to a registry, even of one digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Blob,
    Manifest,
}

/// The holder of a tag.
pub type Claim = tokio::sync::Mutex<Option<(Digest, Arc<str>)>>;

/// One repository, layout or archive that things are put into.
pub struct Destination {
    pub store: Arc<dyn Store>,
    placed: Once<(Kind, Digest), ()>,
    failed: Mutex<HashMap<(Kind, Digest, String), Shared>>,
    claims: Mutex<HashMap<String, Arc<Claim>>>,
    hopes: Arc<Hopes>,
}

/// What asking one registry has brought in this run, in whichever of its repositories.
pub struct Hopes {
    blobs: Luck,
    manifests: Luck,
    tags: Luck,
    works: Works,
}

impl Hopes {
    /// Of the registry `site`; `state` is the directory for what runs leave to others. `sure`: nothing is guessed.
    pub fn new(state: Option<&Path>, site: &str, sure: bool) -> Self {
        let works = Works::begin(state, site);
        let luck = || Luck::new(sure || works.goes_on());
        Hopes { blobs: luck(), manifests: luck(), tags: luck(), works }
    }
}

impl Destination {
    pub fn new(store: Arc<dyn Store>, hopes: Arc<Hopes>) -> Self {
        Destination { store, placed: Mutex::default(), failed: Mutex::default(), claims: Mutex::default(), hopes }
    }

    /// To be held while something is put in place.
    pub fn work(&self) -> Work<'_> {
        self.hopes.works.work()
    }

    /// Set once that object is in place. Whoever initialises it puts the object there.
    pub fn cell(&self, kind: Kind, digest: Digest) -> Arc<OnceCell<()>> {
        let mut placed = self.placed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        placed.entry((kind, digest)).or_default().clone()
    }

    /// How putting that object there from that source has failed already.
    pub fn failure(&self, kind: Kind, digest: Digest, source: &str) -> Option<Shared> {
        let failed = self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        failed.get(&(kind, digest, source.to_owned())).cloned()
    }

    pub fn note_failure(&self, kind: Kind, digest: Digest, source: &str, error: &Shared) {
        let mut failed = self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        failed.insert((kind, digest, source.to_owned()), error.clone());
    }

    /// Who has that tag in this run, and for which image. It is locked while the tag is being set.
    pub fn claim(&self, tag: &str) -> Arc<Claim> {
        lock(&self.claims).entry(tag.to_owned()).or_default().clone()
    }

    /// Whether the blob is there, where asking is cheap or has paid off lately; else a guess of no.
    pub async fn has_blob(&self, descriptor: &Descriptor) -> bool {
        // A registry that cannot say so is told the bytes: that is the check.
        let ask = async || self.store.has_blob(descriptor).await.unwrap_or(false);
        if self.store.site().is_none() || descriptor.size >= LARGE {
            return ask().await;
        }
        let Some(question) = self.hopes.blobs.ask().await else { return false };
        let found = ask().await;
        question.answered(found);
        found
    }

    /// Whether the manifest is there, under `tag` if given, and with it all that it needs; a no may be a guess.
    /// (A layout may hold the bytes of a manifest without the rest of the image.)
    pub async fn has_image(&self, digest: Digest, tag: Option<&str>) -> store::Result<bool> {
        if self.store.site().is_none() {
            return Ok(false);
        }
        let luck = if tag.is_some() { &self.hopes.tags } else { &self.hopes.manifests };
        let Some(question) = luck.ask().await else { return Ok(false) };
        let found = self.store.has_manifest(digest, tag).await?;
        question.answered(found);
        Ok(found)
    }
}
