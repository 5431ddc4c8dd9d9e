//! Reading every manifest that an image, an archive or a layout leads to, each once and many at the same time.
//! What cannot be had is noted and does not end the survey: whoever asked decides what that means.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::copy::finished;
use super::walk::{MAX_DEPTH, Manifests, ReferrerFinder, signed_by_tag};
use super::{Context, Result};
use crate::image::manifest::{Children, MAX_MANIFEST_BYTES};
use crate::image::{Descriptor, Digest, Manifest, annotation};
use crate::store::{self, Opened, Roots, Store};

/// All that was read.
#[derive(Default)]
pub struct Survey {
    /// What was asked for, in its order: one image, or what an `index.json` lists first.
    pub roots: Vec<Descriptor>,
    pub manifests: HashMap<Digest, Manifest>,
    /// Children of those manifests.
    pub children: HashMap<Digest, Children>,
    /// What refers to a manifest: manifests that name it as their subject, and signatures under cosign's tags.
    pub referrers: HashMap<Digest, Vec<Descriptor>>,
    /// Children of indexes that are blobs of no known type, with their sizes.
    pub leaves: HashMap<Digest, u64>,
    /// Manifests that could not be read.
    pub problems: Vec<Problem>,
}

/// A manifest that could not be read, or not be understood.
#[derive(Debug)]
pub struct Problem {
    pub digest: Digest,
    /// What named it; `None` for a root.
    pub parent: Option<Digest>,
    pub error: store::Error,
}

/// A manifest to read.
struct Wanted {
    descriptor: Descriptor,
    parent: Option<Digest>,
    /// A subject need not be there.
    optional: bool,
}

/// Reads all manifests of `opened`. `recursive`: ask a store of single images for referrers as well; what an archive
/// or a layout lists is always read.
pub async fn survey(cx: &Context, opened: &Opened, recursive: bool) -> Result<Survey> {
    let store = &opened.store;
    let kept = Arc::new(Manifests::default());
    let mut survey = Survey::default();
    let mut listed = Vec::new();
    let mut finder = None;
    match &opened.roots {
        Roots::Named(name) => {
            let Some(root) = store.manifest(name).await? else {
                return Err(store::Error::Missing { what: name.to_string(), place: store.describe() }.into());
            };
            kept.keep(&root);
            survey.roots.push(root.descriptor.bare());
            finder = recursive.then(|| Arc::new(ReferrerFinder::new(store.clone(), true)));
        }
        Roots::Listed(roots) => {
            survey.roots.clone_from(roots);
            if let Some(archive) = &opened.archive {
                listed.extend(archive.contents.indexes.iter().skip(1).flatten().cloned());
            }
        }
    }
    let permits = Arc::new(Semaphore::new(cx.jobs()));
    let mut seen = HashSet::new();
    let begin = survey.roots.iter().cloned().chain(listed);
    let mut level: Vec<Wanted> = begin.map(|descriptor| Wanted { descriptor, parent: None, optional: false }).collect();
    level.retain(|wanted| seen.insert(wanted.descriptor.digest));
    for _ in 0..4 * MAX_DEPTH {
        let mut reading = JoinSet::new();
        for wanted in std::mem::take(&mut level) {
            let (store, kept, finder, permits) = (store.clone(), kept.clone(), finder.clone(), permits.clone());
            reading.spawn(async move {
                let _permit = permits.acquire().await;
                let read = read(&store, &kept, finder.as_deref(), &wanted.descriptor).await;
                (wanted, read)
            });
        }
        while let Some(read) = reading.join_next().await {
            let (wanted, read) = finished(read);
            survey.settle(wanted, read, &mut |next: Wanted| {
                if seen.insert(next.descriptor.digest) {
                    level.push(next);
                }
            });
        }
        if level.is_empty() {
            break;
        }
    }
    for wanted in level {
        let reason = format!("manifests are nested deeper than {} levels", 4 * MAX_DEPTH);
        let error = store::Error::Unusable { place: store.describe(), reason };
        survey.problems.push(Problem { digest: wanted.descriptor.digest, parent: wanted.parent, error });
    }
    survey.find_subjects();
    survey.find_signatures(opened.archive.iter().flat_map(|archive| archive.contents.indexes.iter().flatten()));
    survey.referrers.values_mut().for_each(|referrers| referrers.sort_by_key(|d| d.digest));
    survey.problems.sort_by_key(|p| p.digest);
    Ok(survey)
}

/// What one manifest gave.
struct Found {
    manifest: Manifest,
    children: Children,
    referrers: Vec<Descriptor>,
}

/// `None`: it is a child of no known type, and a blob.
async fn read(
    store: &Arc<dyn Store>,
    kept: &Manifests,
    finder: Option<&ReferrerFinder>,
    descriptor: &Descriptor,
) -> store::Result<Option<Found>> {
    if descriptor.is_manifest() && descriptor.size > MAX_MANIFEST_BYTES {
        let reason = format!(
            "manifest {} is said to have {} bytes, more than the {MAX_MANIFEST_BYTES} of any manifest",
            descriptor.digest, descriptor.size
        );
        return Err(store::Error::Unusable { place: store.describe(), reason });
    }
    let manifest = match kept.get(store.as_ref(), descriptor).await {
        // A cache of BuildKit names blobs in its index, as large as they may be.
        Err(_) if !descriptor.is_manifest() && store.has_blob(descriptor).await? => return Ok(None),
        other => other?,
    };
    let children = manifest.children()?;
    let referrers = match finder {
        Some(finder) if descriptor.is_manifest() => finder.of(descriptor).await?,
        _ => Vec::new(),
    };
    let referrers = referrers.into_iter().map(|r| r.descriptor).collect();
    Ok(Some(Found { manifest, children, referrers }))
}

impl Survey {
    fn settle(&mut self, wanted: Wanted, read: store::Result<Option<Found>>, next: &mut dyn FnMut(Wanted)) {
        let digest = wanted.descriptor.digest;
        let Found { manifest, children, referrers } = match read {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.leaves.insert(digest, wanted.descriptor.size);
                return;
            }
            Err(e) if wanted.optional && e.is_missing() => return,
            Err(error) => {
                self.problems.push(Problem { digest, parent: wanted.parent, error });
                return;
            }
        };
        let mut want = |descriptor: &Descriptor, optional| {
            next(Wanted { descriptor: descriptor.clone(), parent: Some(digest), optional });
        };
        children.subject.iter().filter(|d| d.is_manifest()).for_each(|d| want(d, true));
        // Whatever an index names is kept as a manifest by registries, whether its type is known or not.
        children.manifests.iter().for_each(|d| want(d, false));
        children.config.iter().chain(&children.layers).filter(|d| d.is_manifest()).for_each(|d| want(d, false));
        referrers.iter().for_each(|d| want(d, false));
        if !referrers.is_empty() {
            self.referrers.insert(digest, referrers);
        }
        self.manifests.insert(digest, manifest);
        self.children.insert(digest, children);
    }

    /// Enters every manifest that was read among the referrers of its subject.
    fn find_subjects(&mut self) {
        for (digest, children) in &self.children {
            let (Some(subject), Some(manifest)) = (&children.subject, self.manifests.get(digest)) else { continue };
            let referrers = self.referrers.entry(subject.digest).or_default();
            if !referrers.iter().any(|r| r.digest == *digest) {
                referrers.push(manifest.descriptor.bare());
            }
        }
    }

    /// Enters what an archive lists under a tag of cosign among the referrers of what that tag names.
    fn find_signatures<'a>(&mut self, listed: impl Iterator<Item = &'a Descriptor>) {
        for signature in listed {
            let Some(subject) = signature.annotation(annotation::REF_NAME).and_then(signed_by_tag) else { continue };
            // What a gather names by such a tag was asked for as an image.
            let is_source = signature.annotation(annotation::SOURCE).is_some();
            if is_source || !self.manifests.contains_key(&subject) || !self.manifests.contains_key(&signature.digest) {
                continue;
            }
            let referrers = self.referrers.entry(subject).or_default();
            if !referrers.iter().any(|r| r.digest == signature.digest) {
                referrers.push(signature.bare());
            }
        }
    }

    /// Configs and layers that the manifest names itself.
    pub fn blobs_of(&self, digest: &Digest) -> impl Iterator<Item = &Descriptor> {
        let children = self.children.get(digest);
        children.into_iter().flat_map(|c| c.config.iter().chain(&c.layers)).filter(|d| !d.is_manifest())
    }

    /// Size of each digest that belongs to an image, what refers to it included, and whether it is a manifest.
    pub fn parts(&self, root: &Digest) -> HashMap<Digest, (u64, bool)> {
        self.with_referrers(root).iter().flat_map(|digest| self.parts_of(digest)).collect()
    }

    /// A manifest with the blobs that it names itself, but for those that are to be had elsewhere.
    pub fn parts_of(&self, digest: &Digest) -> impl Iterator<Item = (Digest, (u64, bool))> {
        let manifest = self.manifests.get(digest).map(|m| (m.digest(), (m.bytes.len() as u64, true)));
        let leaf = self.leaves.get_key_value(digest).map(|(digest, size)| (*digest, (*size, false)));
        let blobs = self.blobs_of(digest).filter(|d| !d.is_foreign()).map(|d| (d.digest, (d.size, false)));
        blobs.chain(manifest).chain(leaf)
    }

    /// The manifest and all below it, each once, parents first; without what refers to it, and without subjects.
    pub fn below(&self, root: &Digest) -> Vec<Digest> {
        self.reach(root, false)
    }

    /// The same with what refers to any of them.
    pub fn with_referrers(&self, root: &Digest) -> Vec<Digest> {
        self.reach(root, true)
    }

    fn reach(&self, root: &Digest, referrers: bool) -> Vec<Digest> {
        let (mut seen, mut found, mut todo) = (HashSet::new(), Vec::new(), vec![*root]);
        while let Some(digest) = todo.pop() {
            if !seen.insert(digest) {
                continue;
            }
            found.push(digest);
            let children = self.children.get(&digest).into_iter();
            let within = children.clone().flat_map(|c| c.config.iter().chain(&c.layers)).filter(|d| d.is_manifest());
            let mut next: Vec<Digest> = within.chain(children.flat_map(|c| &c.manifests)).map(|d| d.digest).collect();
            if referrers {
                next.extend(self.referrers.get(&digest).into_iter().flatten().map(|d| d.digest));
            }
            todo.extend(next.into_iter().rev());
        }
        found
    }
}

impl Problem {
    /// The manifest is not there, as opposed to: it is damaged or could not be had.
    pub fn is_missing(&self) -> bool {
        self.error.is_missing()
    }
}
