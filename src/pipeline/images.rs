//! The images in what was surveyed, as a user counts them: those that a gather index names, by the reference that
//! each came from, else what a layout or an archive lists, by its name there.

use std::collections::HashSet;

use super::survey::Survey;
use super::walk::MAX_DEPTH;
use crate::image::descriptor::Annotations;
use crate::image::{Descriptor, Digest, Manifest, annotation, media_type};

/// One image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Where it came from, as the gather has it; else its name. A digest where it has none.
    pub reference: String,
    /// With what its parent said of it.
    pub descriptor: Descriptor,
    pub labels: Annotations,
}

/// The images in the order of their roots and gather indexes. `place` names a root without a name, if it is alone.
/// With `expand`, a gather within a gather is replaced by its images.
pub fn of(survey: &Survey, place: &str, expand: bool) -> Vec<Image> {
    let roots = roots(survey);
    let mut found = Vec::new();
    for root in &roots {
        match gathered(survey, &root.digest) {
            Some(children) => children.iter().for_each(|child| add(survey, child, expand, 0, &mut found)),
            None => {
                let alone = roots.len() == 1;
                let name = root.annotation(annotation::REF_NAME).map(str::to_owned);
                let name = name.unwrap_or_else(|| if alone { place.to_owned() } else { root.digest.to_string() });
                found.push(Image { reference: name, descriptor: root.clone(), labels: Annotations::new() });
            }
        }
    }
    found
}

/// What was asked for, without what belongs to others of them: children, and what refers to one that is there.
pub fn roots(survey: &Survey) -> Vec<Descriptor> {
    if let [only] = survey.roots.as_slice() {
        return vec![only.clone()];
    }
    let listed: HashSet<Digest> = survey.roots.iter().map(|d| d.digest).collect();
    let mut owned = HashSet::new();
    for digest in &listed {
        let below = survey.below(digest);
        owned.extend(below.iter().copied().filter(|d| d != digest));
        for manifest in &below {
            owned.extend(survey.referrers.get(manifest).into_iter().flatten().map(|d| d.digest));
        }
    }
    // What has a name was named as an image, whatever else holds it.
    let is_root = |d: &&Descriptor| !owned.contains(&d.digest) || is_named(d);
    let mut roots: Vec<Descriptor> = survey.roots.iter().filter(is_root).cloned().collect();
    roots.dedup_by(|a, b| a.digest == b.digest && a.annotations == b.annotations);
    roots
}

/// The entries of a gather's archive carry their sources' names, which makes them no roots.
fn is_named(descriptor: &Descriptor) -> bool {
    descriptor.annotation(annotation::REF_NAME).is_some() && descriptor.annotation(annotation::SOURCE).is_none()
}

/// The children of a gather index, in its order; `None` for anything else.
pub fn gathered<'a>(survey: &'a Survey, digest: &Digest) -> Option<&'a [Descriptor]> {
    let manifest = survey.manifests.get(digest)?;
    if !is_gather(manifest) {
        return None;
    }
    survey.children.get(digest).map(|children| children.manifests.as_slice())
}

fn is_gather(manifest: &Manifest) -> bool {
    media_type::is_index(manifest.media_type())
        && manifest.view().is_ok_and(|view| view.artifact_type.as_deref() == Some(media_type::GATHER))
}

fn add(survey: &Survey, child: &Descriptor, expand: bool, depth: usize, found: &mut Vec<Image>) {
    if expand
        && depth < MAX_DEPTH
        && let Some(nested) = gathered(survey, &child.digest)
    {
        nested.iter().for_each(|child| add(survey, child, expand, depth + 1, found));
        return;
    }
    let named = child.annotation(annotation::SOURCE).or_else(|| child.annotation(annotation::REF_NAME));
    let labels = child.annotation(annotation::LABELS).and_then(|json| serde_json::from_str(json).ok());
    found.push(Image {
        reference: named.map_or_else(|| child.digest.to_string(), str::to_owned),
        descriptor: child.clone(),
        labels: labels.unwrap_or_default(),
    });
}
