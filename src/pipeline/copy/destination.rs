//! What a run knows of one destination: what is in place or on its way there (each digest once), what
//! failed, and whether asking for things before sending them is worth a request.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::sync::OnceCell;

use super::Shared;
use crate::image::Digest;
use crate::pipeline::walk::Once;
use crate::store::Store;

/// Manifests and blobs are different things to a registry, even of one digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Blob,
    Manifest,
}

/// One repository, layout or archive that things are put into.
pub struct Destination {
    pub store: Arc<dyn Store>,
    placed: Once<(Kind, Digest), ()>,
    failed: Mutex<HashMap<(Kind, Digest, String), Shared>>,
    tagged: Mutex<HashMap<String, Digest>>,
    blobs: Luck,
    manifests: Luck,
}

impl Destination {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Destination {
            store,
            placed: Mutex::default(),
            failed: Mutex::default(),
            tagged: Mutex::default(),
            blobs: Luck::new(16, 16),
            manifests: Luck::new(16, 4),
        }
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

    /// Claims a tag for a digest; another digest that has claimed it already is returned.
    pub fn claim(&self, tag: &str, digest: Digest) -> Option<Digest> {
        let mut tagged = self.tagged.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let holder = *tagged.entry(tag.to_owned()).or_insert(digest);
        (holder != digest).then_some(holder)
    }

    /// Whether asking is cheap, or has paid off lately.
    pub fn asks(&self, kind: Kind, size: u64) -> bool {
        /// A blob that is so large is worth a question.
        const LARGE: u64 = 4 << 20;
        self.store.site().is_none() || size >= LARGE || self.luck(kind).try_it()
    }

    pub fn note_answer(&self, kind: Kind, found: bool) {
        self.luck(kind).note(found);
    }

    fn luck(&self, kind: Kind) -> &Luck {
        match kind {
            Kind::Blob => &self.blobs,
            Kind::Manifest => &self.manifests,
        }
    }
}

/// Learns whether a destination has anything: after a streak of misses only a sample is asked for, until
/// something is found. A new repository so costs hardly more than the two requests of each upload.
struct Luck {
    misses: AtomicU32,
    skipped: AtomicU32,
    patience: u32,
    sample: u32,
}

impl Luck {
    fn new(patience: u32, sample: u32) -> Self {
        Luck { misses: AtomicU32::new(0), skipped: AtomicU32::new(0), patience, sample }
    }

    fn try_it(&self) -> bool {
        self.misses.load(Relaxed) < self.patience || self.skipped.fetch_add(1, Relaxed) % self.sample == self.sample - 1
    }

    fn note(&self, found: bool) {
        if found {
            self.misses.store(0, Relaxed);
        } else {
            self.misses.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_a_sample_after_many_misses_and_everything_after_a_hit() {
        let luck = Luck::new(4, 8);
        for _ in 0..4 {
            assert!(luck.try_it());
            luck.note(false);
        }
        let asked = (0..80).filter(|_| luck.try_it()).count();
        assert_eq!(asked, 10);
        luck.note(true);
        assert!((0..20).all(|_| luck.try_it()));
    }
}
