//! The one engine that copies graphs of images; every verb that moves images uses it.
//!
//! Invariants: children are in place before their parents are sent, and tags come last; each digest is
//! sent once to a destination in a run, however many images share it; `Ok` means that the destination
//! was asked for each manifest, before it was sent or after, and has it.

mod blob;
mod destination;
mod graph;
mod interrupted;
mod luck;
mod referrers;
mod rehearsal;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use tokio::task::JoinSet;

use super::walk::{Manifests, Once, ReferrerFinder};
use super::{Context, Error, LeftOut, Moved, Progress};
use crate::image::{Descriptor, Digest, ImageName, Manifest};
use crate::store::{self, Name, Pushed, Store, Stores};
use destination::{Destination, Hopes};
pub use graph::Way;
use rehearsal::Rehearsal;
pub use rehearsal::{Plan, Planned, Skipped, WHOLE};

/// A failure that several images may share.
#[derive(Clone, Debug)]
pub struct Shared(Arc<store::Error>);

impl From<store::Error> for Shared {
    fn from(error: store::Error) -> Self {
        Shared(Arc::new(error))
    }
}

impl std::ops::Deref for Shared {
    type Target = store::Error;

    fn deref(&self) -> &store::Error {
        &self.0
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Shared {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.0.as_ref())
    }
}

/// What to take along.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Referrers of every manifest, their referrers, and cosign's signatures.
    pub recursive: bool,
    /// Layers that registries usually do not hold. Without this they are left out, and reported.
    pub foreign_layers: bool,
    /// Send nothing, and write down what would be sent: [`Copier::rehearsed`] gives it.
    pub dry_run: bool,
}

impl Options {
    /// Whether an image that is in place may lack something that is wanted now.
    fn looks_below(self) -> bool {
        self.recursive || self.foreign_layers
    }
}

/// One image to copy.
pub struct Job {
    pub source: Arc<dyn Store>,
    pub root: Descriptor,
    pub destination: Arc<dyn Store>,
    /// Tag at the destination; `None` leaves it to be found by its digest.
    pub tag: Option<String>,
    /// What to call it in reports: the reference that the user knows.
    pub image: String,
}

/// Copies images within one run. Cheap to clone; all clones share what they know.
#[derive(Clone)]
pub struct Copier(Arc<Run>);

/// What all copies of a run share.
struct Run {
    stores: Stores,
    progress: Arc<Progress>,
    options: Options,
    /// What will move was counted beforehand.
    planned: bool,
    /// In a dry run.
    rehearsal: Option<Rehearsal>,
    permits: Semaphore,
    manifests: Manifests,
    opened: Mutex<HashMap<String, Arc<dyn Store>>>,
    destinations: Mutex<HashMap<String, Arc<Destination>>>,
    /// For each registry.
    hopes: Mutex<HashMap<String, Arc<Hopes>>>,
    finders: Mutex<HashMap<String, Arc<ReferrerFinder>>>,
    /// The repository of a registry that got a blob first.
    sites: Once<(String, Digest), String>,
    moved: Mutex<Moved>,
    left_out: Mutex<Vec<LeftOut>>,
}

impl Copier {
    pub fn new(cx: &Context, options: Options) -> Self {
        Copier::make(cx, options, false)
    }

    /// For a caller that has told the progress what to expect.
    pub fn planned(cx: &Context, options: Options) -> Self {
        Copier::make(cx, options, true)
    }

    fn make(cx: &Context, options: Options, planned: bool) -> Self {
        Copier(Arc::new(Run {
            stores: cx.stores.clone(),
            progress: cx.progress.clone(),
            options,
            planned,
            rehearsal: options.dry_run.then(Rehearsal::default),
            permits: Semaphore::new(cx.jobs()),
            manifests: Manifests::default(),
            opened: Mutex::default(),
            destinations: Mutex::default(),
            hopes: Mutex::default(),
            finders: Mutex::default(),
            sites: Mutex::default(),
            moved: Mutex::default(),
            left_out: Mutex::default(),
        }))
    }

    /// The store that `image` is in; the same one for every image of a repository or layout.
    pub fn open(&self, image: &ImageName) -> store::Result<Arc<dyn Store>> {
        let store = self.0.stores.open(image)?;
        Ok(lock(&self.0.opened).entry(store.describe()).or_insert(store).clone())
    }

    /// The store to read `image` from: see [`Stores::open_source`].
    pub fn open_source(&self, image: &ImageName) -> store::Result<Arc<dyn Store>> {
        let store = self.0.stores.open_source(image)?;
        Ok(lock(&self.0.opened).entry(store.describe()).or_insert(store).clone())
    }

    /// What a name stands for in a store, which must have it. One request.
    pub async fn resolve(&self, store: &Arc<dyn Store>, name: &Name) -> store::Result<Descriptor> {
        let _permit = self.0.permit().await;
        match store.resolve(name).await? {
            Some(descriptor) => Ok(descriptor),
            None => Err(store::Error::Missing { what: name.to_string(), place: store.describe() }),
        }
    }

    /// The same, with the manifest itself, which the run keeps. One request.
    pub async fn fetch(&self, store: &Arc<dyn Store>, name: &Name) -> store::Result<Descriptor> {
        let _permit = self.0.permit().await;
        match store.manifest(name).await? {
            Some(manifest) => {
                self.0.manifests.keep(&manifest);
                Ok(manifest.descriptor)
            }
            None => Err(store::Error::Missing { what: name.to_string(), place: store.describe() }),
        }
    }

    /// A manifest, fetched at most once in a run.
    pub async fn manifest(&self, store: &Arc<dyn Store>, descriptor: &Descriptor) -> store::Result<Manifest> {
        self.0.manifest(store, descriptor).await
    }

    /// Keeps a manifest that was read elsewhere.
    pub fn keep(&self, manifest: &Manifest) {
        self.0.manifests.keep(manifest);
    }

    /// Things of one image, from one store to another, put in place one by one.
    pub fn way(&self, source: Arc<dyn Store>, destination: Arc<dyn Store>, image: impl Into<Arc<str>>) -> Way {
        let destination = self.0.destination(destination);
        Way { run: self.0.clone(), source, destination, image: image.into() }
    }

    /// Copies an image with all that it needs (and, recursively, all that refers to it), tags it, and
    /// asks the destination for it. What it shares with other images of the run is sent once.
    pub async fn copy(&self, job: Job) -> super::Result<()> {
        let image = job.image.clone();
        self.0.clone().copy(job).await.map_err(|source| Error::Copy { image, source })
    }

    /// Puts a manifest that was made here in place, its children being there.
    pub async fn put(
        &self,
        manifest: &Manifest,
        to: &Arc<dyn Store>,
        tag: Option<&str>,
        image: &str,
    ) -> super::Result<()> {
        self.keep(manifest);
        let way = self.way(to.clone(), to.clone(), image);
        let pushed = way.push_manifest(manifest, tag).await;
        pushed.map_err(|source| Error::Copy { image: image.to_owned(), source })
    }

    /// A place in the run's line of requests.
    pub(super) async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.0.permit().await
    }

    /// Whether this is a dry run.
    pub fn is_rehearsal(&self) -> bool {
        self.0.rehearsal.is_some()
    }

    /// What the copies so far moved, or in a dry run would have moved.
    pub fn moved(&self) -> Moved {
        *lock(&self.0.moved)
    }

    /// What the copies so far left out, in a stable order.
    pub fn left_out(&self) -> Vec<LeftOut> {
        let mut left_out = lock(&self.0.left_out).clone();
        left_out.sort_by(|a, b| (&a.image, &a.what).cmp(&(&b.image, &b.what)));
        left_out.dedup();
        left_out
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Run {
    /// A place in the line of requests. Held over requests only, never while waiting for other work.
    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok()
    }

    async fn manifest(&self, store: &Arc<dyn Store>, descriptor: &Descriptor) -> store::Result<Manifest> {
        let _permit = self.permit().await;
        self.manifests.get(store.as_ref(), descriptor).await
    }

    fn first_in_site(&self, site: &str, digest: Digest) -> Arc<OnceCell<String>> {
        lock(&self.sites).entry((site.to_owned(), digest)).or_default().clone()
    }

    fn destination(&self, store: Arc<dyn Store>) -> Arc<Destination> {
        let (name, site) = (store.describe(), store.site().unwrap_or_default().to_owned());
        // A dry run does no work that a later one could go on with, and guesses nothing.
        let state = self.stores.state().filter(|_| self.rehearsal.is_none());
        let new = || Arc::new(Hopes::new(state, &site, self.rehearsal.is_some()));
        let hopes = lock(&self.hopes).entry(site.clone()).or_insert_with(new).clone();
        lock(&self.destinations).entry(name).or_insert_with(|| Arc::new(Destination::new(store, hopes))).clone()
    }

    fn finder(&self, store: &Arc<dyn Store>) -> Arc<ReferrerFinder> {
        let new = || Arc::new(ReferrerFinder::new(store.clone(), true));
        lock(&self.finders).entry(store.describe()).or_insert_with(new).clone()
    }

    fn count(&self, pushed: Pushed, size: u64) {
        lock(&self.moved).count(pushed, size);
    }

    async fn copy(self: Arc<Self>, job: Job) -> Result<(), Shared> {
        let Job { source, root, destination, tag, image } = job;
        if !root.is_manifest() {
            let reason = format!("media type {:?} is none whose parts can be found; leave it out", root.media_type);
            return Err(store::Error::Unusable { place: image, reason }.into());
        }
        let way = Way { run: self.clone(), source, destination: self.destination(destination), image: image.into() };
        // A tag that did not move costs one request.
        if tag.is_some() && !self.options.looks_below() {
            let there = {
                let _permit = self.permit().await;
                way.destination.has_image(root.digest, tag.as_deref()).await?
            };
            if there {
                way.note_there(&root, WHOLE);
                way.pass_over(&root).await;
                return Ok(());
            }
        }
        if self.options.recursive {
            way.clone().manifest(root.clone(), None).await?;
            way.clone().referrers(&root).await?;
        }
        way.manifest(root, tag).await
    }
}

/// Waits for all, then gives the first failure.
async fn join(mut tasks: JoinSet<Result<(), Shared>>) -> Result<(), Shared> {
    let mut outcome = Ok(());
    while let Some(result) = tasks.join_next().await {
        let result = finished(result);
        if outcome.is_ok() {
            outcome = result;
        }
    }
    outcome
}

/// A task's own result; its panic goes on here.
pub(super) fn finished<T>(result: Result<T, tokio::task::JoinError>) -> T {
    match result {
        Ok(value) => value,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}
