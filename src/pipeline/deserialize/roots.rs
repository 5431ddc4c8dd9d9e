//! Which image an archive is an archive of, and what belongs to it.
//!
//! An archive of this format names its root alone in its first `index.json` and lists everything in its last. Other
//! writers list several images, and archives may have been put one after the other: then the user chooses.

use std::collections::HashSet;

use crate::archive::contents::Contents;
use crate::archive::reader::Ending;
use crate::image::{Descriptor, Digest, annotation};
use crate::pipeline::survey::Survey;
use crate::pipeline::{Error, Result};
use crate::store::error::printable;

/// What containerd and `docker save` call an image in an `index.json`.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Images that a message names.
const NAMED: usize = 10;

/// The root, and all manifests that are promised with it, those that could not be read included.
pub fn choose(
    place: &str,
    contents: &Contents,
    survey: &Survey,
    wanted: Option<&str>,
) -> Result<(Descriptor, HashSet<Digest>)> {
    let roots = find(&contents.indexes, survey);
    let chosen: Vec<&Descriptor> = match wanted {
        None => roots.clone(),
        Some(name) => roots.iter().filter(|root| is_called(root, name)).copied().collect(),
    };
    let root = match chosen[..] {
        [root] => root,
        [] if roots.is_empty() => {
            let cut = contents.ending != Ending::Complete;
            let why = if cut { "it was cut before it names an image" } else { "it names no image" };
            return Err(Error::Refused(format!("{place} is no archive of an OCI layout: {why} in index.json")));
        }
        _ => {
            let mut names: Vec<String> = roots.iter().take(NAMED).map(|root| name_of(root)).collect();
            if roots.len() > NAMED {
                names.push(format!("and {} more", roots.len() - NAMED));
            }
            let (count, names) = (roots.len(), names.join(", "));
            return Err(Error::Refused(match wanted {
                None => format!(
                    "{place} holds {count} images: {names}. Choose one by its name or digest, with --root (--reference for unarchive)"
                ),
                Some(name) if chosen.is_empty() => {
                    format!("{place} holds no image {:?}, but {names}: choose one of these", printable(name))
                }
                Some(name) => format!("{place} holds several images {:?}: {names}. Choose by digest", printable(name)),
            }));
        }
    };
    if !root.is_manifest() {
        let media_type = printable(&root.media_type);
        return Err(Error::Refused(format!("{place}: its root has media type {media_type:?}, which is no image")));
    }
    let promised = if roots.len() > 1 {
        belonging(&root.digest, survey)
    } else {
        survey.manifests.keys().copied().chain(survey.problems.iter().map(|p| p.digest)).collect()
    };
    Ok((root.clone(), promised))
}

/// The images that the archive names, each once. An index that begins with one of them lists what belongs to it.
fn find<'a>(indexes: &'a [Vec<Descriptor>], survey: &Survey) -> Vec<&'a Descriptor> {
    let mut roots: Vec<&Descriptor> = Vec::new();
    let mut add = |some: &mut dyn Iterator<Item = &'a Descriptor>| {
        for root in some {
            if !roots.iter().any(|known| known.digest == root.digest) {
                roots.push(root);
            }
        }
        roots.clone()
    };
    let mut known = add(&mut indexes.iter().filter(|index| index.len() == 1).flatten());
    for index in indexes.iter().filter(|index| index.len() > 1) {
        if !index.first().is_some_and(|first| known.iter().any(|root| root.digest == first.digest)) {
            known = add(&mut tops(index, survey).into_iter());
        }
    }
    known
}

/// What of an index belongs to nothing else in it; the first entry, if everything does.
fn tops<'a>(index: &'a [Descriptor], survey: &Survey) -> Vec<&'a Descriptor> {
    let below: HashSet<Digest> = index.iter().flat_map(|d| survey.below(&d.digest).into_iter().skip(1)).collect();
    let refers = |d: &Descriptor| {
        let subject = survey.children.get(&d.digest).and_then(|c| c.subject.as_ref());
        cosign_tag(d).is_some() || subject.is_some_and(|s| survey.manifests.contains_key(&s.digest))
    };
    let tops: Vec<&Descriptor> = index.iter().filter(|d| !below.contains(&d.digest) && !refers(d)).collect();
    if tops.is_empty() { index.first().into_iter().collect() } else { tops }
}

/// A manifest, all below it, and all that refers to any of these.
fn belonging(root: &Digest, survey: &Survey) -> HashSet<Digest> {
    let mut found = HashSet::new();
    let mut todo = vec![*root];
    while let Some(digest) = todo.pop() {
        for below in survey.below(&digest).into_iter().filter(|d| found.insert(*d)).collect::<Vec<_>>() {
            todo.extend(survey.referrers.get(&below).into_iter().flatten().map(|d| d.digest));
            todo.extend(survey.children.get(&below).and_then(|c| c.subject.as_ref()).map(|d| d.digest));
            let tag = format!("{}-{}.", below.algorithm().name(), below.hex());
            let signs = |d: &&Descriptor| cosign_tag(d).is_some_and(|t| t.starts_with(&tag));
            todo.extend(survey.roots.iter().filter(signs).map(|d| d.digest));
        }
        todo.retain(|d| !found.contains(d));
    }
    found.retain(|d| survey.manifests.contains_key(d) || survey.problems.iter().any(|p| p.digest == *d));
    found
}

/// The tag by which cosign finds a signature, attestation or SBOM.
pub fn cosign_tag(descriptor: &Descriptor) -> Option<&str> {
    let tag = descriptor.annotation(annotation::REF_NAME)?;
    let subject = [".sig", ".att", ".sbom"].iter().find_map(|ending| tag.strip_suffix(ending))?;
    let hex = subject.strip_prefix("sha256-")?;
    format!("sha256:{hex}").parse::<Digest>().ok().map(|_| tag)
}

fn names(root: &Descriptor) -> impl Iterator<Item = &str> {
    [CONTAINERD_NAME, annotation::REF_NAME].into_iter().filter_map(|key| root.annotation(key))
}

fn is_called(root: &Descriptor, name: &str) -> bool {
    root.digest.to_string() == name || names(root).any(|n| n == name)
}

fn name_of(root: &Descriptor) -> String {
    match names(root).next() {
        Some(name) => format!("{} ({})", printable(name), root.digest),
        None => root.digest.to_string(),
    }
}
