//! Choosing the images of some platforms out of what a name stands for.
//!
//! Out of an index come its matching children, in its order, each a root of its own; indexes within are
//! searched too. A single image is chosen by its config. Artifacts that are no images have no platform
//! and are always chosen.

use std::collections::HashSet;
use std::sync::Arc;

use super::copy::Copier;
use super::walk::MAX_DEPTH;
use crate::image::{Descriptor, Manifest, Platform, media_type};
use crate::store::reader::read_all;
use crate::store::{self, Store};

/// The largest config that is read for its platform.
pub const MAX_CONFIG: u64 = 8 << 20;

/// What was chosen out of one source.
pub struct Chosen {
    /// Type, digest and size; the platform where an index said it.
    pub roots: Vec<Descriptor>,
    /// The index that the roots were taken from, verbatim.
    pub index: Option<String>,
}

/// What of `root` is for one of the platforms; all of it if there are none.
pub async fn choose(
    copier: &Copier,
    store: &Arc<dyn Store>,
    root: &Descriptor,
    platforms: &[Platform],
) -> store::Result<Chosen> {
    if platforms.is_empty() {
        return Ok(Chosen { roots: vec![root.bare()], index: None });
    }
    let manifest = copier.manifest(store, root).await?;
    if !media_type::is_index(manifest.media_type()) {
        let fits = image_fits(copier, store, &manifest, platforms).await?;
        return Ok(Chosen { roots: if fits { vec![root.bare()] } else { Vec::new() }, index: None });
    }
    let mut roots = Vec::new();
    let mut nested_seen = HashSet::new();
    // Depth first, in the order of the index.
    let mut line: Vec<(Descriptor, usize)> = manifest.children()?.manifests.into_iter().rev().map(|d| (d, 1)).collect();
    while let Some((child, depth)) = line.pop() {
        match &child.platform {
            Some(offered) if platforms.iter().any(|wanted| wanted.accepts(offered)) => {
                roots.push(Descriptor { platform: child.platform.clone(), ..child.bare() });
            }
            None if media_type::is_index(&child.media_type)
                && depth < MAX_DEPTH
                && nested_seen.insert(child.digest) =>
            {
                let nested = copier.manifest(store, &child).await?;
                line.extend(nested.children()?.manifests.into_iter().rev().map(|d| (d, depth + 1)));
            }
            _ => {}
        }
    }
    Ok(Chosen { roots, index: Some(String::from_utf8_lossy(&manifest.bytes).into_owned()) })
}

/// Whether a single manifest is for one of the platforms, by its config.
async fn image_fits(
    copier: &Copier,
    store: &Arc<dyn Store>,
    manifest: &Manifest,
    platforms: &[Platform],
) -> store::Result<bool> {
    let Some(config) = manifest.children()?.config else { return Ok(true) };
    if !matches!(config.media_type.as_str(), media_type::OCI_CONFIG | media_type::DOCKER_CONFIG) {
        return Ok(true);
    }
    let bytes = copier.read(store, &config, MAX_CONFIG).await?;
    let platform = platform_of(store.as_ref(), &config, &bytes)?;
    Ok(platforms.iter().any(|wanted| wanted.accepts(&platform)))
}

/// What the config of an image in `store` says that it runs on.
pub fn platform_of(store: &dyn Store, config: &Descriptor, bytes: &[u8]) -> store::Result<Platform> {
    serde_json::from_slice(bytes).map_err(|e| store::Error::Unusable {
        place: store.describe(),
        reason: format!("config {} is not that of an image: {e}", config.digest),
    })
}

impl Copier {
    /// A small blob, in memory.
    async fn read(&self, store: &Arc<dyn Store>, descriptor: &Descriptor, limit: u64) -> store::Result<bytes::Bytes> {
        let _permit = self.permit().await;
        read_all(store.open_blob(descriptor).await?, descriptor.size, limit).await
    }
}
