//! The two sums that a gather index carries: bytes of configs and layers over every occurrence, and
//! with each digest counted once. Manifests are not counted, and neither are referrers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio::task::JoinSet;

use super::copy::{Copier, finished};
use super::routes::Located;
use super::together::together;
use super::walk::MAX_DEPTH;
use super::{Error, Result};
use crate::image::{Descriptor, Digest, Manifest, annotation};
use crate::store::{self, Store};

/// Both sums over images whose manifests lie below these roots: in total, and deduplicated. `read` gets every
/// root's manifests with the store that they are in.
pub async fn sum(
    copier: &Copier,
    roots: &[(Arc<dyn Store>, Descriptor)],
    mut read: impl FnMut(&Arc<dyn Store>, &[Manifest]),
) -> Result<(u64, u64)> {
    let mut tasks = JoinSet::new();
    for (at, (store, root)) in roots.iter().enumerate() {
        let (copier, store, root) = (copier.clone(), store.clone(), root.clone());
        tasks.spawn(async move { (at, read_below(&copier, &store, &root).await) });
    }
    let mut sizes = Sizes::default();
    while let Some(result) = tasks.join_next().await {
        let (at, manifests) = finished(result);
        let (store, root) = &roots[at];
        let image = || root.annotation(annotation::SOURCE).unwrap_or_default().to_owned();
        let failed = |source| Error::Image { image: image(), source };
        let manifests = manifests.map_err(failed)?;
        sizes.add(&root.digest, &manifests).map_err(failed)?;
        read(store, &manifests);
    }
    Ok((sizes.total, sizes.deduplicated))
}

/// Which of the images cannot be read whole: their places in the list, and why. What was read is not read again.
pub async fn unreadable(copier: &Copier, images: &[Located]) -> Vec<(usize, store::Error)> {
    let reading = images.iter().map(|Located { store, image, .. }| {
        let (copier, store, image) = (copier.clone(), store.clone(), image.clone());
        async move { read_below(&copier, &store, &image).await.err() }
    });
    let problems = together(reading).await.into_iter().enumerate();
    problems.filter_map(|(at, problem)| Some((at, problem?))).collect()
}

/// Every manifest below `root`, itself included, each once; those that the run has had cost nothing.
/// Level by level, so that a level's manifests are fetched at once.
async fn read_below(copier: &Copier, store: &Arc<dyn Store>, root: &Descriptor) -> store::Result<Vec<Manifest>> {
    let mut seen = HashSet::from([root.digest]);
    let mut level = vec![root.clone()];
    let mut all = Vec::new();
    for _ in 0..=MAX_DEPTH {
        let read = try_join_all(level.iter().map(|d| copier.manifest(store, d))).await?;
        level.clear();
        for manifest in &read {
            let below = manifest.children()?.manifests.into_iter();
            level.extend(below.filter(|d| d.is_manifest() && seen.insert(d.digest)));
        }
        all.extend(read);
    }
    Ok(all)
}

/// Sums over roots whose manifests were all read.
#[derive(Default)]
struct Sizes {
    totals: HashMap<Digest, u64>,
    counted: HashSet<Digest>,
    total: u64,
    deduplicated: u64,
}

impl Sizes {
    /// Counts one root; `manifests` are all that lie below it, itself included.
    fn add(&mut self, root: &Digest, manifests: &[Manifest]) -> store::Result<()> {
        let by_digest: HashMap<Digest, &Manifest> = manifests.iter().map(|m| (m.digest(), m)).collect();
        let total = self.total_of(root, &by_digest)?;
        self.total = self.total.saturating_add(total);
        Ok(())
    }

    /// Each digest's own sum is computed once: an index may name the same child many times.
    fn total_of(&mut self, digest: &Digest, manifests: &HashMap<Digest, &Manifest>) -> store::Result<u64> {
        if let Some(total) = self.totals.get(digest) {
            return Ok(*total);
        }
        let Some(manifest) = manifests.get(digest) else { return Ok(0) };
        let children = manifest.children()?;
        let mut total = 0u64;
        for blob in children.config.iter().chain(&children.layers) {
            total = total.saturating_add(blob.size);
            if self.counted.insert(blob.digest) {
                self.deduplicated = self.deduplicated.saturating_add(blob.size);
            }
        }
        for child in &children.manifests {
            total = total.saturating_add(self.total_of(&child.digest, manifests)?);
        }
        self.totals.insert(*digest, total);
        Ok(total)
    }
}
