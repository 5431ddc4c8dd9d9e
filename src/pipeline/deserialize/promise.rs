//! What an archive promises: everything that its indexes lead to. It is kept when all of it is at the
//! destination; until then nothing is tagged, and what is missing is named.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::landing::Landing;
use crate::archive::reader::Ending;
use crate::image::manifest::MAX_MANIFEST_BYTES;
use crate::image::{Descriptor, Digest, Manifest, annotation};
use crate::pipeline::walk::MAX_DEPTH;
use crate::pipeline::{Context, Error, LeftOut, Result};
use crate::store::archive::Archive;
use crate::store::{self, BytesBlob, Name, StoredBlob};

/// Digests that a message names.
const NAMED: usize = 10;

/// What is at hand of the archive.
#[derive(Clone)]
pub enum Held {
    /// All of it.
    Archive(Arc<Archive>),
    /// What may be manifests; the rest has passed.
    Kept(Arc<HashMap<Digest, Bytes>>),
}

impl Held {
    fn manifest(&self, digest: &Digest) -> store::Result<Option<Bytes>> {
        match self {
            Held::Archive(archive) => archive.small(digest),
            Held::Kept(kept) => Ok(kept.get(digest).cloned()),
        }
    }

    /// Puts a blob in place from what is at hand. `false`: it is not at hand.
    async fn land(&self, landing: &Landing, descriptor: &Descriptor) -> store::Result<bool> {
        match self {
            Held::Archive(archive) if archive.contents.blobs.contains_key(&descriptor.digest) => {
                let source = StoredBlob { store: archive.clone(), descriptor: descriptor.bare() };
                landing.blob(descriptor, &source, false).await?;
            }
            Held::Kept(kept) if kept.contains_key(&descriptor.digest) => {
                let bytes = kept.get(&descriptor.digest).cloned().unwrap_or_default();
                landing.blob(descriptor, &BytesBlob { descriptor: descriptor.bare(), bytes }, false).await?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// A promise that was kept.
pub struct Settled {
    pub root: Descriptor,
    pub left_out: Vec<LeftOut>,
}

/// A manifest of the graph.
struct Node {
    manifest: Manifest,
    /// It is at the destination already.
    there: bool,
    /// What must be in place before it.
    blobs: Vec<Descriptor>,
    manifests: Vec<Digest>,
    tag: Option<String>,
}

#[derive(Default)]
struct Graph {
    nodes: HashMap<Digest, Node>,
    /// Manifests that are neither in the archive nor at the destination.
    missing: HashSet<Digest>,
    left_out: Vec<LeftOut>,
}

/// Puts in place what is not there yet, and tags the root when everything is.
pub async fn settle(
    cx: &Context,
    landing: &Arc<Landing>,
    held: Held,
    place: &str,
    root: Descriptor,
    indexes: &[Vec<Descriptor>],
    ending: Ending,
) -> Result<Settled> {
    let mut graph = walk(landing, &held, place, indexes.iter().flatten()).await?;
    let (missing_blobs, failed) = land_blobs(cx, landing, &held, &graph).await;
    let mut missing: Vec<Digest> = graph.missing.iter().chain(&missing_blobs).copied().collect();
    let (placed, failure) = land_manifests(cx, landing, &graph, root.digest, &missing_blobs).await;
    if !missing.is_empty() || ending != Ending::Complete {
        leave_for_later(landing, &graph, &placed).await?;
    }
    if let Some(error) = failed.or(failure) {
        return Err(error.into());
    }
    missing.sort();
    missing.dedup();
    refuse_incomplete(place, &missing, ending)?;
    let Some(node) = graph.nodes.get(&root.digest) else {
        return Err(Error::Refused(format!("{place} does not hold its root {}", root.digest)));
    };
    if !landing.dry_run {
        land_root(landing, &node.manifest).await?;
    }
    Ok(Settled { root, left_out: std::mem::take(&mut graph.left_out) })
}

async fn land_root(landing: &Landing, manifest: &Manifest) -> Result<()> {
    let name = landing.name.clone();
    let tag = if let Name::Tag(tag) = &name { Some(tag.as_str()) } else { None };
    landing.manifest(manifest, tag).await?;
    match landing.store.resolve(&name).await? {
        Some(there) if there.digest == manifest.digest() => Ok(()),
        _ => {
            let what = format!("{}, pushed as {name} and accepted,", manifest.digest());
            Err(store::Error::Missing { what, place: landing.store.describe() }.into())
        }
    }
}

fn refuse_incomplete(place: &str, missing: &[Digest], ending: Ending) -> Result<()> {
    let cut = match ending {
        Ending::Complete => None,
        Ending::NoTrailer => Some("it ends without the trailer of a whole archive".to_owned()),
        Ending::Torn { offset } => Some(format!("it was cut in the entry at byte {offset}")),
    };
    let mut names: Vec<String> = missing.iter().take(NAMED).map(Digest::to_string).collect();
    if missing.len() > NAMED {
        names.push(format!("and {} more", missing.len() - NAMED));
    }
    let what = match (cut, missing.is_empty()) {
        (None, true) => return Ok(()),
        (Some(cut), true) => format!("{cut}; all that it names is at the destination, untagged"),
        (None, false) => format!("{} missing: {}", missing.len(), names.join(", ")),
        (Some(cut), false) => format!("{cut}; {} missing: {}", missing.len(), names.join(", ")),
    };
    Err(Error::Refused(format!(
        "{place} is not complete: {what}. What arrived stays at the destination, nothing was tagged: read the rest \
         of it into the same place, or the whole archive again"
    )))
}

/// Reads the manifests that the indexes lead to, from the archive or else from the destination.
async fn walk(landing: &Landing, held: &Held, place: &str, listed: impl Iterator<Item = &Descriptor>) -> Result<Graph> {
    let mut graph = Graph::default();
    let mut seen = HashSet::new();
    let mut todo: Vec<(Descriptor, bool, usize)> = listed.map(|d| (d.clone(), true, 0)).collect();
    todo.reverse();
    while let Some((descriptor, needed, depth)) = todo.pop() {
        let tag = descriptor.annotation(annotation::REF_NAME).filter(|t| is_cosign_tag(t)).map(str::to_owned);
        if !seen.insert(descriptor.digest) {
            if let (Some(tag), Some(node)) = (tag, graph.nodes.get_mut(&descriptor.digest)) {
                node.tag = Some(tag);
            }
            continue;
        }
        if depth > MAX_DEPTH {
            return Err(Error::Refused(format!("{place}: indexes are nested deeper than {MAX_DEPTH} levels")));
        }
        if descriptor.size > MAX_MANIFEST_BYTES {
            let (digest, size) = (descriptor.digest, descriptor.size);
            return Err(Error::Refused(format!(
                "{place}: manifest {digest} is said to have {size} bytes, more than the {MAX_MANIFEST_BYTES} of any manifest"
            )));
        }
        let (mut manifest, there) = match held.manifest(&descriptor.digest)? {
            Some(bytes) => (Manifest { descriptor: descriptor.bare(), bytes }, false),
            None => match at_destination(landing, &descriptor).await? {
                Some(found) => found,
                None => {
                    if needed {
                        graph.missing.insert(descriptor.digest);
                    } else {
                        seen.remove(&descriptor.digest);
                    }
                    continue;
                }
            },
        };
        if manifest.bytes.len() as u64 != descriptor.size {
            let (what, expected) = (format!("manifest {}", descriptor.digest), descriptor.size);
            let actual = manifest.bytes.len() as u64;
            return Err(store::Error::Size { what, place: place.into(), expected, actual }.into());
        }
        manifest.descriptor.media_type.clone_from(&descriptor.media_type);
        let children = manifest.children().map_err(store::Error::from)?;
        let mut node = Node { manifest, there, blobs: Vec::new(), manifests: Vec::new(), tag };
        for child in children.config.iter().chain(&children.layers) {
            let at_hand = || match held {
                Held::Archive(archive) => archive.contents.blobs.contains_key(&child.digest),
                Held::Kept(kept) => kept.contains_key(&child.digest) || landing.has_landed(&child.digest),
            };
            if child.is_foreign() && !at_hand() {
                graph.left_out.push(LeftOut {
                    image: descriptor.digest.to_string(),
                    what: child.digest.to_string(),
                    why: "a foreign layer that is not in the archive".into(),
                });
            } else {
                node.blobs.push(child.bare());
            }
        }
        for child in &children.manifests {
            node.manifests.push(child.digest);
            todo.push((child.clone(), true, depth + 1));
        }
        if let Some(subject) = children.subject {
            todo.push((subject, false, depth + 1));
        }
        graph.nodes.insert(descriptor.digest, node);
    }
    Ok(graph)
}

/// A manifest that is at the destination, and whether as one: an earlier part may have left it as a blob.
async fn at_destination(landing: &Landing, descriptor: &Descriptor) -> Result<Option<(Manifest, bool)>> {
    if let Some(manifest) = landing.store.manifest(&Name::Digest(descriptor.digest)).await? {
        return Ok(Some((manifest, true)));
    }
    if !landing.store.has_blob(descriptor).await? {
        return Ok(None);
    }
    let reader = landing.store.open_blob(descriptor).await?;
    let bytes = store::reader::read_all(reader, descriptor.size, MAX_MANIFEST_BYTES).await?;
    Ok(Some((Manifest { descriptor: descriptor.bare(), bytes }, false)))
}

/// Stores manifests that miss something as blobs, so that a later part of the archive finds them.
async fn leave_for_later(landing: &Landing, graph: &Graph, placed: &HashSet<Digest>) -> Result<()> {
    for node in graph.nodes.values().filter(|node| !node.there && !placed.contains(&node.manifest.digest())) {
        let (descriptor, bytes) = (node.manifest.descriptor.clone(), node.manifest.bytes.clone());
        landing.blob(&descriptor, &BytesBlob { descriptor: descriptor.clone(), bytes }, false).await?;
    }
    Ok(())
}

/// A tag by which cosign finds what belongs to an image.
fn is_cosign_tag(tag: &str) -> bool {
    let ending = [".sig", ".att", ".sbom"].iter().find_map(|ending| tag.strip_suffix(ending));
    ending.and_then(|t| t.strip_prefix("sha256-")).is_some_and(|hex| format!("sha256:{hex}").parse::<Digest>().is_ok())
}

/// Puts all blobs of the graph in place. Gives those that are nowhere, and the first failure.
async fn land_blobs(
    cx: &Context,
    landing: &Arc<Landing>,
    held: &Held,
    graph: &Graph,
) -> (HashSet<Digest>, Option<store::Error>) {
    let permits = Arc::new(Semaphore::new(cx.jobs()));
    let mut tasks = JoinSet::new();
    let mut seen = HashSet::new();
    for blob in graph.nodes.values().flat_map(|node| &node.blobs) {
        if !seen.insert((blob.digest, blob.size)) || landing.has_landed(&blob.digest) {
            continue;
        }
        let (landing, held, blob, permits) = (landing.clone(), held.clone(), blob.clone(), permits.clone());
        tasks.spawn(async move {
            let _permit = permits.acquire().await;
            let there = match held.land(&landing, &blob).await {
                Ok(true) => Ok(true),
                Ok(false) => landing.store.has_blob(&blob).await,
                Err(e) => Err(e),
            };
            (blob.digest, there)
        });
    }
    let (mut missing, mut failed) = (HashSet::new(), None);
    while let Some(done) = tasks.join_next().await {
        let (digest, there) = done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        match there {
            Ok(true) => {}
            Ok(false) => {
                missing.insert(digest);
            }
            Err(e) => {
                missing.insert(digest);
                failed.get_or_insert(e);
            }
        }
    }
    (missing, failed)
}

/// Puts every manifest but the root in place whose children are all there, children first.
async fn land_manifests(
    cx: &Context,
    landing: &Arc<Landing>,
    graph: &Graph,
    root: Digest,
    missing_blobs: &HashSet<Digest>,
) -> (HashSet<Digest>, Option<store::Error>) {
    let permits = Arc::new(Semaphore::new(cx.jobs()));
    let mut placed: HashSet<Digest> = HashSet::new();
    let mut left: Vec<&Node> = graph.nodes.values().filter(|node| node.manifest.digest() != root).collect();
    left.sort_by_key(|node| node.manifest.digest());
    let mut failed = None;
    loop {
        let is_ready = |node: &&Node| {
            node.manifests.iter().all(|child| placed.contains(child))
                && !node.blobs.iter().any(|blob| missing_blobs.contains(&blob.digest))
        };
        let (ready, rest): (Vec<&Node>, Vec<&Node>) = left.into_iter().partition(is_ready);
        left = rest;
        if ready.is_empty() {
            return (placed, failed);
        }
        let mut tasks = JoinSet::new();
        for node in ready {
            let digest = node.manifest.digest();
            if node.there && node.tag.is_none() {
                placed.insert(digest);
                continue;
            }
            let (landing, permits) = (landing.clone(), permits.clone());
            let (manifest, tag) = (node.manifest.clone(), node.tag.clone());
            tasks.spawn(async move {
                let _permit = permits.acquire().await;
                (digest, landing.manifest(&manifest, tag.as_deref()).await)
            });
        }
        while let Some(done) = tasks.join_next().await {
            match done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())) {
                (digest, Ok(())) => {
                    placed.insert(digest);
                }
                (_, Err(e)) => {
                    failed.get_or_insert(e);
                }
            }
        }
    }
}
