//! Reading all manifests of an image, level by level, many at once.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::archive::plan::Graph;
use crate::image::{Descriptor, Manifest, annotation};
use crate::pipeline::copy::finished;
use crate::pipeline::walk::{MAX_DEPTH, Manifests, Referrer, ReferrerFinder};
use crate::pipeline::{Context, Result};
use crate::store::archive::Archive;
use crate::store::{self, Name, Store};

/// All that was read.
pub struct Walked {
    pub root: Descriptor,
    pub graph: Graph,
}

/// Manifests that need not be fetched.
struct Kept {
    manifests: Manifests,
    /// What an earlier run left. Nothing in it is believed before it was verified.
    recalled: Option<Arc<Archive>>,
}

impl Kept {
    async fn root(&self, store: &dyn Store, name: &Name) -> store::Result<Option<Manifest>> {
        if let Some(recalled) = &self.recalled
            && let Some(descriptor) = store.resolve(name).await?
            && let Ok(Some(bytes)) = recalled.small(&descriptor.digest)
        {
            let descriptor = Descriptor::new(descriptor.media_type, descriptor.digest, bytes.len() as u64);
            let root = Manifest { descriptor, bytes };
            self.manifests.keep(&root);
            return Ok(Some(root));
        }
        let root = store.manifest(name).await?;
        root.iter().for_each(|root| self.manifests.keep(root));
        Ok(root)
    }

    async fn get(&self, store: &dyn Store, descriptor: &Descriptor) -> store::Result<Manifest> {
        if let Some(Ok(Some(bytes))) = self.recalled.as_ref().map(|r| r.small(&descriptor.digest)) {
            self.manifests.keep(&Manifest { descriptor: descriptor.bare(), bytes });
        }
        self.manifests.get(store, descriptor).await
    }
}

/// What one manifest gave.
struct Found {
    descriptor: Descriptor,
    manifest: Option<Manifest>,
    referrers: Vec<Descriptor>,
}

/// Reads the manifest of that name and every one that it leads to; with `recursive`, what refers to any
/// of them as well. Manifests that are in `recalled` are not fetched.
pub async fn walk(
    cx: &Context,
    store: &Arc<dyn Store>,
    name: &Name,
    recursive: bool,
    recalled: Option<Arc<Archive>>,
) -> Result<Walked> {
    let kept = Arc::new(Kept { manifests: Manifests::default(), recalled });
    let root = kept.root(store.as_ref(), name).await?;
    let Some(root) = root else {
        return Err(store::Error::Missing { what: name.to_string(), place: store.describe() }.into());
    };
    let root = root.descriptor.bare();
    if !root.is_manifest() {
        let reason = format!(
            "{name} has media type {:?}, whose parts are not known: it cannot be archived",
            store::error::printable(&root.media_type)
        );
        return Err(store::Error::Unusable { place: store.describe(), reason }.into());
    }
    let finder = recursive.then(|| Arc::new(ReferrerFinder::new(store.clone(), true)));
    let permits = Arc::new(Semaphore::new(cx.jobs()));
    let mut graph = Graph::default();
    let mut seen = HashSet::from([root.digest]);
    // The flag says whether it may be absent, as a subject may.
    let mut level = vec![(root.clone(), false)];
    let mut depth = 0;
    while !level.is_empty() {
        depth += 1;
        if depth > 4 * MAX_DEPTH {
            let reason = format!("manifests of {name} are nested deeper than {} levels", 4 * MAX_DEPTH);
            return Err(store::Error::Unusable { place: store.describe(), reason }.into());
        }
        let mut reading = JoinSet::new();
        for (descriptor, optional) in std::mem::take(&mut level) {
            let (store, kept, finder, permits) = (store.clone(), kept.clone(), finder.clone(), permits.clone());
            reading.spawn(async move {
                let _permit = permits.acquire().await;
                // A cache of BuildKit names blobs in its index.
                if !descriptor.is_manifest() && store.has_blob(&descriptor).await? {
                    return Ok(None);
                }
                let manifest = match kept.get(store.as_ref(), &descriptor).await {
                    Err(e) if optional && e.is_missing() => None,
                    other => Some(other?),
                };
                let referrers = match &finder {
                    Some(finder) if manifest.is_some() && descriptor.is_manifest() => finder.of(&descriptor).await?,
                    _ => Vec::new(),
                };
                // A tag is carried as the name that the index gives the manifest.
                let named = |mut r: Referrer| {
                    r.descriptor.annotations.extend(r.tag.map(|tag| (annotation::REF_NAME.to_owned(), tag)));
                    r.descriptor
                };
                let referrers = referrers.into_iter().map(named).collect();
                Ok::<_, store::Error>(Some(Found { descriptor, manifest, referrers }))
            });
        }
        while let Some(found) = reading.join_next().await {
            let Some(Found { descriptor, manifest, referrers }) = finished(found)? else { continue };
            let Some(manifest) = manifest else {
                tracing::info!(
                    "subject {} is not in {}: what refers to it goes without it",
                    descriptor.digest,
                    store.describe()
                );
                graph.absent.insert(descriptor.digest);
                continue;
            };
            cx.progress.add_items(1);
            let children = manifest.children().map_err(store::Error::from)?;
            let mut next = |descriptor: &Descriptor, optional: bool| {
                if seen.insert(descriptor.digest) {
                    level.push((descriptor.clone(), optional));
                }
            };
            children.subject.iter().filter(|d| d.is_manifest()).for_each(|d| next(d, true));
            // Whatever an index names is kept as a manifest by registries, whether its type is known or not.
            children.manifests.iter().for_each(|d| next(d, false));
            children.config.iter().chain(&children.layers).filter(|d| d.is_manifest()).for_each(|d| next(d, false));
            referrers.iter().for_each(|d| next(d, false));
            if !referrers.is_empty() {
                graph.referrers.insert(descriptor.digest, referrers);
            }
            graph.manifests.insert(descriptor.digest, manifest);
        }
    }
    Ok(Walked { root, graph })
}
