//! The one engine that copies graphs of images; every verb that moves images uses it.
//!
//! Invariants: children are in place before their parents are sent, and tags come last; each digest is
//! sent once to a destination in a run, however many images share it; `Ok` means that the destination
//! was asked for each manifest, before it was sent or after, and has it.

mod blob;
mod destination;
pub(super) mod luck;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use tokio::task::JoinSet;

use super::walk::{MAX_DEPTH, Manifests, Once, Referrer, ReferrerFinder};
use super::{Context, Error, LeftOut, Moved, Progress};
use crate::image::{Descriptor, Digest, ImageName, Manifest};
use crate::store::{self, Name, Pushed, Store, Stores};
use destination::{Destination, Hopes, Kind};

/// Objects in flight where the user did not say: enough to fill a long line. Each host paces itself.
const DEFAULT_JOBS: usize = 64;

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
        Copier(Arc::new(Run {
            stores: cx.stores.clone(),
            progress: cx.progress.clone(),
            options,
            permits: Semaphore::new(cx.jobs.unwrap_or(DEFAULT_JOBS).clamp(1, Semaphore::MAX_PERMITS)),
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
        let run = &self.0;
        run.manifests.keep(manifest);
        let destination = run.destination(to.clone());
        let way = Way { run: run.clone(), source: to.clone(), destination, image: image.into() };
        let pushed = way.push_manifest(manifest, tag).await;
        pushed.map_err(|source| Error::Copy { image: image.to_owned(), source })
    }

    /// A place in the run's line of requests.
    pub(super) async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.0.permit().await
    }

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
        let hopes = lock(&self.hopes).entry(site).or_default().clone();
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
        let destination = self.destination(destination);
        // A tag that did not move costs one request.
        if tag.is_some() && !self.options.recursive {
            let _permit = self.permit().await;
            if destination.has_image(root.digest, tag.as_deref()).await? {
                return Ok(());
            }
        }
        let way = Way { run: self.clone(), source, destination, image: image.into() };
        if self.options.recursive {
            way.clone().manifest(root.clone(), None, 0).await?;
            way.clone().referrers(&root).await?;
        }
        way.manifest(root, tag, 0).await
    }
}

/// From where to where, for whom.
#[derive(Clone)]
struct Way {
    run: Arc<Run>,
    source: Arc<dyn Store>,
    destination: Arc<Destination>,
    image: Arc<str>,
}

impl Way {
    /// Puts a manifest in place after all that it needs, once in a run; then its tag.
    fn manifest(
        self,
        descriptor: Descriptor,
        tag: Option<String>,
        depth: usize,
    ) -> BoxFuture<'static, Result<(), Shared>> {
        Box::pin(async move {
            let cell = self.destination.cell(Kind::Manifest, descriptor.digest);
            let mut mine = false;
            let here = &mut mine;
            cell.get_or_try_init(|| async {
                let (digest, source) = (descriptor.digest, self.source.describe());
                if let Some(error) = self.destination.failure(Kind::Manifest, digest, &source) {
                    return Err(error);
                }
                self.place_manifest(&descriptor, tag.as_deref(), depth).await.inspect_err(|e| {
                    self.destination.note_failure(Kind::Manifest, digest, &source, e);
                })?;
                *here = true;
                Ok(())
            })
            .await?;
            match tag {
                Some(tag) if !mine => {
                    let manifest = self.run.manifest(&self.source, &descriptor).await?;
                    self.push_manifest(&manifest, Some(&tag)).await
                }
                _ => Ok(()),
            }
        })
    }

    async fn place_manifest(&self, descriptor: &Descriptor, tag: Option<&str>, depth: usize) -> Result<(), Shared> {
        if depth > MAX_DEPTH {
            let reason = format!("indexes are nested deeper than {MAX_DEPTH} levels at {}", descriptor.digest);
            return Err(store::Error::Unusable { place: self.image.to_string(), reason }.into());
        }
        let there = {
            let _permit = self.run.permit().await;
            self.destination.has_image(descriptor.digest, None).await?
        };
        if there && !self.run.options.recursive && tag.is_none() {
            return Ok(());
        }
        let manifest = self.run.manifest(&self.source, descriptor).await?;
        if !there || self.run.options.recursive {
            self.children(&manifest, !there, depth).await?;
        }
        if !there || tag.is_some() {
            self.push_manifest(&manifest, tag).await?;
        }
        Ok(())
    }

    /// Puts the children in place, all at once. One that fails does not stop the others, so that the
    /// next run has less to do.
    async fn children(&self, manifest: &Manifest, blobs: bool, depth: usize) -> Result<(), Shared> {
        let children = manifest.children().map_err(store::Error::from)?;
        let mut tasks = JoinSet::new();
        let mut seen = HashSet::new();
        for child in children.config.iter().chain(&children.layers).chain(&children.manifests) {
            if !seen.insert((child.digest, child.is_manifest())) {
                continue;
            }
            let (way, child) = (self.clone(), child.clone());
            if child.is_manifest() {
                tasks.spawn(way.manifest(child, None, depth + 1));
            } else if child.is_foreign() && !self.run.options.foreign_layers {
                self.leave_out(&child);
            } else if blobs {
                tasks.spawn(async move { way.blob(&child).await });
            }
        }
        if let Some(subject) = children.subject {
            let way = self.clone();
            tasks.spawn(async move {
                // A subject may be absent (image-spec, manifest.md): what refers to it is whole without it.
                match way.run.manifest(&way.source, &subject).await {
                    Err(e) if e.is_missing() => Ok(()),
                    _ => way.manifest(subject, None, depth + 1).await,
                }
            });
        }
        join(tasks).await
    }

    fn leave_out(&self, layer: &Descriptor) {
        let place = layer.urls.first().map(|u| format!(", it is at {}", store::error::printable(u)));
        lock(&self.run.left_out).push(LeftOut {
            image: self.image.to_string(),
            what: layer.digest.to_string(),
            why: format!("a foreign layer, which registries do not hold{}", place.unwrap_or_default()),
        });
    }

    async fn push_manifest(&self, manifest: &Manifest, tag: Option<&str>) -> Result<(), Shared> {
        let pushed = {
            let _permit = self.run.permit().await;
            self.destination.store.push_manifest(manifest, tag).await
        };
        match pushed {
            Err(e) if e.is_blob_unknown() && self.source.describe() != self.destination.store.describe() => {
                tracing::warn!("{e}; sending its parts again");
                self.send_again(manifest).await?;
                let _permit = self.run.permit().await;
                self.destination.store.push_manifest(manifest, tag).await?;
            }
            other => other?,
        }
        lock(&self.run.moved).manifests_sent += 1;
        Ok(())
    }

    /// The registry said that it has the parts of a manifest, and then that it has not: it gets them.
    async fn send_again(&self, manifest: &Manifest) -> Result<(), Shared> {
        let children = manifest.children().map_err(store::Error::from)?;
        let mut tasks = JoinSet::new();
        for child in children.config.into_iter().chain(children.layers).chain(children.manifests) {
            let way = self.clone();
            if child.is_foreign() && !self.run.options.foreign_layers {
                continue;
            }
            tasks.spawn(async move {
                if child.is_manifest() {
                    let manifest = way.run.manifest(&way.source, &child).await?;
                    let _permit = way.run.permit().await;
                    way.destination.store.push_manifest(&manifest, None).await?;
                } else {
                    way.push(&child, None).await?;
                }
                Ok(())
            });
        }
        join(tasks).await
    }

    /// Copies what refers to any manifest of the graph, and what refers to that, and so on.
    async fn referrers(self, root: &Descriptor) -> Result<(), Shared> {
        let finder = self.run.finder(&self.source);
        let mut seen = HashSet::new();
        let mut level = vec![root.clone()];
        while !level.is_empty() {
            let mut lookups = JoinSet::new();
            for descriptor in std::mem::take(&mut level) {
                if !seen.insert(descriptor.digest) {
                    continue;
                }
                let (way, finder) = (self.clone(), finder.clone());
                lookups.spawn(async move {
                    let manifest = way.run.manifest(&way.source, &descriptor).await?;
                    let below = manifest.children().map_err(store::Error::from)?.manifests;
                    let _permit = way.run.permit().await;
                    Ok::<_, Shared>((below, finder.of(&descriptor).await?))
                });
            }
            let mut found: Vec<Referrer> = Vec::new();
            while let Some(result) = lookups.join_next().await {
                let (below, referrers) = finished(result)?;
                level.extend(below.into_iter().filter(Descriptor::is_manifest));
                found.extend(referrers);
            }
            let mut copies = JoinSet::new();
            for Referrer { descriptor, tag } in found {
                level.push(descriptor.clone());
                if let Some(tag) = &tag
                    && let Some(other) = self.destination.claim(tag, descriptor.digest)
                {
                    lock(&self.run.left_out).push(LeftOut {
                        image: self.image.to_string(),
                        what: descriptor.digest.to_string(),
                        why: format!("its tag {tag} is taken at the destination by {other} of another source"),
                    });
                    continue;
                }
                copies.spawn(self.clone().manifest(descriptor, tag, 0));
            }
            join(copies).await?;
        }
        Ok(())
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
