//! Where the blobs of an archive go while it passes. A manifest comes before what it names, in the usual order: so
//! a blob goes to the first destination of each image that is known to need it when it passes, and to the others
//! from there.
//!
//! Invariant: a blob that a chosen image may need does not pass by. While a chosen manifest is still to come, a
//! blob that nothing needs yet goes to the first destination of all; it might be shared.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::StreamExt;

use crate::image::{Descriptor, Digest, ImageName, Manifest, media_type};
use crate::mapping::Mapper;
use crate::pipeline::Result;
use crate::pipeline::copy::{Copier, Shared};
use crate::pipeline::deserialize::stream::Landing;
use crate::pipeline::routes::{Located, plan};
use crate::pipeline::scatter::{Options, children};
use crate::store::overlay::Overlay;
use crate::store::{BlobSource, Store};

/// One archive that passes.
pub struct Sorting {
    copier: Copier,
    place: String,
    /// Names the archive to the copier; nothing is read from it.
    source: Arc<dyn Store>,
    mapper: Arc<Mapper>,
    options: Options,
    known: Mutex<Known>,
}

/// What is known so far.
#[derive(Default)]
struct Known {
    /// The index of the images has passed.
    routed: bool,
    /// Where something is needed: the first destination of an image that names it.
    needed: HashMap<Digest, Arc<dyn Store>>,
    /// Belongs to images that were not chosen.
    unwanted: HashSet<Digest>,
    passed: HashSet<Digest>,
    /// Manifests of chosen images that have not passed yet.
    awaited: HashSet<Digest>,
    /// Where to put what may be needed.
    first: Option<Arc<dyn Store>>,
    landed: HashMap<Digest, Arc<dyn Store>>,
}

impl Sorting {
    pub fn new(copier: Copier, place: &str, mapper: Arc<Mapper>, options: Options) -> Self {
        let source = Arc::new(Overlay::new(place, Vec::new()));
        Sorting { copier, place: place.into(), source, mapper, options, known: Mutex::default() }
    }

    /// What has landed, and where.
    pub fn landed(&self) -> HashMap<Digest, Arc<dyn Store>> {
        self.known().landed.clone()
    }

    /// The stores that something landed in.
    pub fn destinations(&self) -> Vec<Arc<dyn Store>> {
        let mut stores: Vec<Arc<dyn Store>> = Vec::new();
        for store in self.known().landed.values() {
            if !stores.iter().any(|known| Arc::ptr_eq(known, store)) {
                stores.push(store.clone());
            }
        }
        stores
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The images to take, with their first destinations; the others have none.
    fn first_destinations(&self, index: &Manifest) -> Result<Vec<(Digest, Option<ImageName>)>> {
        let all = children(index, &self.place)?;
        let fits = |d: &Descriptor| {
            let platforms = &self.options.platforms;
            platforms.is_empty() || d.platform.as_ref().is_none_or(|p| platforms.iter().any(|w| w.accepts(p)))
        };
        let chosen: Vec<Descriptor> = self.options.select(all.clone())?.into_iter().filter(fits).collect();
        if self.options.platforms.is_empty() {
            // Refuses what cannot be right before anything is sent.
            let located = |image: &Descriptor| Located { store: self.source.clone(), image: image.clone(), line: None };
            plan(chosen.iter().map(located).collect(), &self.mapper)?;
        }
        let mut first = HashMap::new();
        for image in &chosen {
            // Which platforms of it go where is known only when it was read: then the mapper is asked again.
            let destination = self.mapper.destinations(image).unwrap_or_default().into_iter().next();
            if let Some(destination) = destination {
                first.entry(image.digest).or_insert(destination);
            }
        }
        Ok(all.into_iter().map(|d| (d.digest, first.get(&d.digest).cloned())).collect())
    }

    fn route(&self, index: &Manifest) -> Result<()> {
        for (digest, destination) in self.first_destinations(index)? {
            let store = destination.map(|name| self.copier.open(&name)).transpose()?;
            let mut known = self.known();
            match store {
                Some(store) => {
                    known.first.get_or_insert_with(|| store.clone());
                    known.needed.entry(digest).or_insert(store);
                    if !known.passed.contains(&digest) {
                        known.awaited.insert(digest);
                    }
                }
                None => {
                    known.unwanted.insert(digest);
                }
            }
        }
        Ok(())
    }

    /// Where a blob goes, if anywhere.
    fn target(&self, digest: &Digest) -> Option<Arc<dyn Store>> {
        let known = self.known();
        match known.needed.get(digest) {
            Some(store) => Some(store.clone()),
            // It may be shared with an image that is still to come; or belong to what refers to one.
            None if !known.awaited.is_empty() => known.first.clone(),
            None if self.options.recursive && !known.unwanted.contains(digest) => known.first.clone(),
            None => None,
        }
    }
}

#[async_trait]
impl Landing for Sorting {
    fn describe(&self) -> String {
        self.place.clone()
    }

    /// Where images go is known only when their index has passed: what is missing there fails with its image.
    async fn lacking(&self, _: &[Descriptor]) -> Result<Vec<Digest>> {
        Ok(Vec::new())
    }

    async fn land(&self, descriptor: &Descriptor, bytes: &dyn BlobSource) -> std::result::Result<(), Shared> {
        let Some(store) = self.target(&descriptor.digest) else {
            // Read to its end all the same: what comes after it must be read.
            let mut reader = bytes.open(0).await?;
            while let Some(chunk) = reader.next().await {
                chunk?;
            }
            return Ok(());
        };
        let way = self.copier.way(self.source.clone(), store.clone(), self.place.as_str());
        way.land(descriptor, bytes).await?;
        self.known().landed.insert(descriptor.digest, store);
        Ok(())
    }

    fn passes(&self, manifest: &Manifest) -> Result<()> {
        let digest = manifest.digest();
        if !std::mem::replace(&mut self.known().routed, true) && media_type::is_index(manifest.media_type()) {
            return self.route(manifest);
        }
        let below = manifest.children().map_err(crate::store::Error::from)?;
        let mut known = self.known();
        known.awaited.remove(&digest);
        known.passed.insert(digest);
        let subject = below.subject.as_ref().filter(|_| self.options.recursive).map(|d| d.digest);
        let store = known.needed.get(&digest).or_else(|| known.needed.get(&subject?)).cloned();
        let unwanted = known.unwanted.contains(&digest);
        for child in below.config.iter().chain(&below.layers).chain(&below.manifests) {
            match &store {
                Some(store) => {
                    known.needed.entry(child.digest).or_insert_with(|| store.clone());
                    if child.is_manifest() && !known.passed.contains(&child.digest) {
                        known.awaited.insert(child.digest);
                    }
                }
                None if unwanted => {
                    known.unwanted.insert(child.digest);
                }
                None => {}
            }
        }
        if let Some(store) = store {
            // What refers to it is looked for by its digest.
            known.needed.entry(digest).or_insert(store);
        }
        Ok(())
    }
}
