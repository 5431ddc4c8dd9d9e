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

use crate::image::{Descriptor, Digest, ImageName, Manifest, annotation, media_type};
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
    /// Something may have been pushed.
    begun: bool,
    /// Where each blob that has begun to pass goes, if anywhere.
    targets: HashMap<Digest, Option<Arc<dyn Store>>>,
    landed: HashMap<Digest, Arc<dyn Store>>,
    /// What the archive leaves out; once the index has passed, only what is at no destination.
    left_out: HashMap<Digest, Descriptor>,
    /// Every destination of the chosen images.
    destinations: Vec<Arc<dyn Store>>,
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

    /// The images with their destinations; those not to take have none.
    fn destinations_of(&self, index: &Manifest) -> Result<Vec<(Digest, Vec<ImageName>)>> {
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
        let mut found: HashMap<Digest, Vec<ImageName>> = HashMap::new();
        for image in &chosen {
            // Which platforms of it go where is known only when it was read: then the mapper is asked again.
            let destinations = self.mapper.destinations(image).unwrap_or_default();
            found.entry(image.digest).or_default().extend(destinations);
        }
        Ok(all.into_iter().map(|d| (d.digest, found.get(&d.digest).cloned().unwrap_or_default())).collect())
    }

    fn route(&self, index: &Manifest) -> Result<()> {
        for (digest, destinations) in self.destinations_of(index)? {
            let stores =
                destinations.iter().map(|name| self.copier.open(name)).collect::<crate::store::Result<Vec<_>>>()?;
            let mut known = self.known();
            match stores.first() {
                Some(store) => {
                    known.first.get_or_insert_with(|| store.clone());
                    known.needed.entry(digest).or_insert_with(|| store.clone());
                    if !known.passed.contains(&digest) {
                        known.awaited.insert(digest);
                    }
                }
                None => {
                    known.unwanted.insert(digest);
                }
            }
            for store in stores {
                // The copier opens each once.
                if !known.destinations.iter().any(|other| Arc::ptr_eq(other, &store)) {
                    known.destinations.push(store);
                }
            }
        }
        Ok(())
    }

    /// Looks for what the archive leaves out. Where all of it is needed, what is nowhere is refused before anything
    /// lands; where images are left out too, when a manifest that needs it passes.
    async fn look_for_base(&self) -> Result<()> {
        let (left_out, destinations, all_needed) = {
            let mut known = self.known();
            let left_out: Vec<Descriptor> = std::mem::take(&mut known.left_out).into_values().collect();
            (left_out, known.destinations.clone(), known.unwanted.is_empty())
        };
        // Which platforms are needed is known in the end.
        if !self.options.platforms.is_empty() {
            return Ok(());
        }
        let needed = |d: &Descriptor| self.options.recursive || d.annotation(annotation::FOR_REFERRERS).is_none();
        let left_out = left_out.into_iter().filter(needed).collect();
        let nowhere = super::nowhere(&self.copier, &self.source, &destinations, left_out).await?;
        if all_needed {
            super::refuse(&self.place, &destinations, nowhere.iter(), true)?;
        }
        self.known().left_out = nowhere.into_iter().map(|d| (d.digest, d)).collect();
        Ok(())
    }

    /// Where a blob goes, if anywhere.
    fn target(&self, known: &Known, digest: &Digest) -> Option<Arc<dyn Store>> {
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

    /// Where images go is known only when their index has passed: that comes next.
    async fn lacking(&self, expected: &[Descriptor]) -> Result<Vec<Digest>> {
        self.known().left_out.extend(expected.iter().map(|d| (d.digest, d.clone())));
        Ok(Vec::new())
    }

    /// What is known now decides, and not how late a task begins: the same archive is sorted the same way again.
    fn comes(&self, digest: Digest) {
        let mut known = self.known();
        let target = self.target(&known, &digest);
        known.targets.insert(digest, target);
    }

    async fn land(&self, descriptor: &Descriptor, bytes: &dyn BlobSource) -> std::result::Result<(), Shared> {
        let target = self.known().targets.get(&descriptor.digest).cloned().flatten();
        let Some(store) = target else {
            // Read to its end all the same: what comes after it must be read.
            let mut reader = bytes.open(0).await?;
            while let Some(chunk) = reader.next().await {
                chunk?;
            }
            return Ok(());
        };
        self.known().begun = true;
        let way = self.copier.way(self.source.clone(), store.clone(), self.place.as_str());
        way.land(descriptor, bytes).await?;
        self.known().landed.insert(descriptor.digest, store);
        Ok(())
    }

    async fn passes(&self, manifest: &Manifest) -> Result<()> {
        let digest = manifest.digest();
        let is_first = !std::mem::replace(&mut self.known().routed, true);
        if is_first && media_type::is_index(manifest.media_type()) {
            self.route(manifest)?;
            return self.look_for_base().await;
        }
        let below = manifest.children().map_err(crate::store::Error::from)?;
        let mut known = self.known();
        known.awaited.remove(&digest);
        known.passed.insert(digest);
        let subject = below.subject.as_ref().filter(|_| self.options.recursive).map(|d| d.digest);
        let store = known.needed.get(&digest).or_else(|| known.needed.get(&subject?)).cloned();
        if store.is_some() {
            let missing = below.all().filter_map(|d| known.left_out.get(&d.digest));
            super::refuse(&self.place, &known.destinations, missing, !known.begun)?;
        }
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
