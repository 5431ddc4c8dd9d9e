//! `inspect`: what an archive, a layout or an image of a registry holds, image by image, from manifests alone.
//!
//! Of an archive that can be read anywhere only headers and manifests are read, however large it is. What is listed
//! was not verified but for its manifests: `verify` does that.

mod runs_on;
mod tree;

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::images::{self, Image};
use super::survey::{Survey, survey};
use super::{Context, Result};
use crate::archive::reader::Ending;
use crate::image::descriptor::Annotations;
use crate::image::{Descriptor, Digest, ImageName, annotation};
use crate::store::archive::Archive;
use crate::store::{self, Location, Opened};
pub use tree::{Node, Role};

/// What to tell besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How everything hangs together.
    pub tree: bool,
}

/// What there is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub source: String,
    pub form: Form,
    /// Every manifest could be read, and an archive was not cut.
    pub complete: bool,
    /// What was asked for, or what `index.json` names that belongs to nothing else there.
    pub roots: Vec<Object>,
    /// In the order of their roots.
    pub images: Vec<Listed>,
    /// Over all images, and with each digest counted once; manifests and referrers included.
    pub size_total: u64,
    pub size_deduplicated: u64,
    /// Those of the deduplicated bytes that more than one image needs.
    pub shared: u64,
    /// What is there, each digest once. In an archive: everything in it, named or not.
    pub manifests: u64,
    pub manifest_bytes: u64,
    pub blobs: u64,
    pub blob_bytes: u64,
    /// What an archive leaves out because the other side is expected to have it, by digest.
    pub expected: Vec<Object>,
    /// What is named and is not there, by digest.
    pub missing: Vec<Object>,
    /// What is in an archive and no image leads to, by digest.
    pub unnamed: Vec<Object>,
    pub problems: Vec<Trouble>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree: Option<Vec<Node>>,
}

/// What the source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Form {
    Archive,
    Layout,
    Registry,
}

/// A manifest or blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    /// Its name in `index.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub digest: Digest,
    pub media_type: String,
    pub size: u64,
}

/// One image.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// Where it came from, as the gather has it; else its name.
    pub reference: String,
    pub digest: Digest,
    pub media_type: String,
    /// As in `linux/arm64`.
    pub platforms: Vec<String>,
    pub labels: Annotations,
    /// All that belongs to it, each digest once.
    pub size: u64,
    /// What of `size` other images need too.
    pub shared: u64,
    /// What of `size` is not there: an archive leaves it out.
    pub absent: u64,
    pub manifests: u64,
    pub blobs: u64,
    /// What refers to any manifest of it: signatures, SBOMs, attestations.
    pub referrers: Vec<ReferredBy>,
}

/// A manifest that refers to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferredBy {
    pub digest: Digest,
    pub media_type: String,
    /// What it says that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What it refers to.
    pub subject: Digest,
    /// The manifest and its blobs.
    pub size: u64,
}

/// A manifest that could not be read, or the end of an archive that was cut.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    pub what: String,
}

/// Looks at `location`.
pub async fn inspect(cx: &Context, location: &Location, options: &Options) -> Result<Report> {
    cx.progress.begin("looking");
    let opened = cx.stores.open_location(location).await?;
    let survey = survey(cx, &opened, true).await?;
    let absent = absent(cx, &opened, location, &survey).await?;
    let runs_on = runs_on::platforms(cx, &opened.store, &survey, &absent).await;
    let mut images = images::of(&survey, &location.to_string(), true);
    let mut known = HashSet::new();
    images.retain(|image| known.insert((image.reference.clone(), image.descriptor.digest)));
    let parts: Vec<Parts> = images.iter().map(|image| survey.parts(&image.descriptor.digest)).collect();
    let users = users(&images, &parts);
    let shared = |digest: &Digest| users.get(digest).is_some_and(|users| *users > 1);
    let sum = |parts: &Parts, of: &dyn Fn(&Digest) -> bool| -> u64 {
        let counted = parts.iter().filter(|(digest, _)| of(digest)).map(|(_, (size, _))| *size);
        counted.fold(0, u64::saturating_add)
    };
    let list = |image: &Image, parts: &Parts| {
        let manifests = parts.values().filter(|(_, manifest)| *manifest).count() as u64;
        Listed {
            reference: image.reference.clone(),
            digest: image.descriptor.digest,
            media_type: image.descriptor.media_type.clone(),
            platforms: runs_on::of(&survey, &runs_on, image),
            labels: image.labels.clone(),
            size: sum(parts, &|_| true),
            shared: sum(parts, &shared),
            absent: sum(parts, &|digest| absent.contains(digest)),
            manifests,
            blobs: parts.len() as u64 - manifests,
            referrers: referrers(&survey, &image.descriptor.digest),
        }
    };
    let listed: Vec<Listed> = images.iter().zip(&parts).map(|(image, parts)| list(image, parts)).collect();
    let all: Parts = parts.into_iter().flatten().collect();
    let mut report = Report {
        source: location.to_string(),
        form: Form::of(location),
        complete: true,
        roots: images::roots(&survey).iter().map(Object::of).collect(),
        size_total: listed.iter().map(|image| image.size).fold(0, u64::saturating_add),
        size_deduplicated: sum(&all, &|_| true),
        shared: sum(&all, &shared),
        images: listed,
        manifests: 0,
        manifest_bytes: 0,
        blobs: 0,
        blob_bytes: 0,
        expected: Vec::new(),
        missing: Vec::new(),
        unnamed: Vec::new(),
        problems: Vec::new(),
        tree: options.tree.then(|| tree::grow(&survey, &runs_on, &absent)),
    };
    report.contents(opened.archive.as_deref(), &survey, &absent);
    report.problems(opened.archive.as_deref(), &survey);
    Ok(report)
}

/// Size of each digest that belongs to an image, and whether it is a manifest.
type Parts = HashMap<Digest, (u64, bool)>;

/// How many images need each digest; one image under several names is one.
fn users(images: &[Image], parts: &[Parts]) -> HashMap<Digest, usize> {
    let (mut users, mut counted) = (HashMap::new(), HashSet::new());
    for (image, parts) in images.iter().zip(parts) {
        if counted.insert(image.descriptor.digest) {
            parts.keys().for_each(|digest| *users.entry(*digest).or_default() += 1);
        }
    }
    users
}

/// Blobs that are named and not there. A registry is not asked: it refuses manifests whose blobs it lacks.
async fn absent(cx: &Context, opened: &Opened, location: &Location, survey: &Survey) -> store::Result<HashSet<Digest>> {
    let mut named: HashMap<Digest, &Descriptor> = HashMap::new();
    for manifest in survey.manifests.keys() {
        named.extend(survey.blobs_of(manifest).map(|blob| (blob.digest, blob)));
    }
    if Form::of(location) == Form::Registry {
        return Ok(HashSet::new());
    }
    let asked = stream::iter(named.into_values().map(|blob| async {
        let there = opened.store.has_blob(blob).await?;
        Ok::<_, store::Error>((blob.digest, there))
    }));
    let asked: Vec<(Digest, bool)> = asked.buffer_unordered(cx.jobs()).try_collect().await?;
    Ok(asked.into_iter().filter(|(_, there)| !there).map(|(digest, _)| digest).collect())
}

/// What refers to the image, or to what refers to it, in the order in which they are met.
fn referrers(survey: &Survey, image: &Digest) -> Vec<ReferredBy> {
    let mut found = Vec::new();
    for subject in survey.with_referrers(image) {
        for referrer in survey.referrers.get(&subject).into_iter().flatten() {
            let blobs = survey.blobs_of(&referrer.digest).map(|blob| blob.size);
            found.push(ReferredBy {
                digest: referrer.digest,
                media_type: referrer.media_type.clone(),
                artifact_type: artifact_type(survey, &referrer.digest),
                subject,
                size: blobs.fold(referrer.size, u64::saturating_add),
            });
        }
    }
    found
}

/// What a manifest says that it is, by its artifact type or by that of its config; nothing of what is just an image.
fn artifact_type(survey: &Survey, digest: &Digest) -> Option<String> {
    let view = survey.manifests.get(digest)?.view().ok()?;
    let config = || view.config.filter(|config| !runs_on::is_image(config)).map(|config| config.media_type);
    view.artifact_type.filter(|kind| !kind.is_empty()).or_else(config).filter(|kind| !kind.is_empty())
}

impl Report {
    /// Counts what is there, and names what is not.
    fn contents(&mut self, archive: Option<&Archive>, survey: &Survey, absent: &HashSet<Digest>) {
        let mut named: HashMap<Digest, (Descriptor, bool)> = HashMap::new();
        for digest in survey.manifests.keys() {
            named.extend(survey.blobs_of(digest).map(|blob| (blob.digest, (blob.bare(), false))));
        }
        let leaf = |(digest, size): (&Digest, &u64)| (*digest, (Descriptor::new("", *digest, *size), false));
        named.extend(survey.leaves.iter().map(leaf));
        named.extend(survey.manifests.values().map(|m| (m.digest(), (m.descriptor.bare(), true))));
        let expected: HashSet<Digest> =
            archive.iter().flat_map(|archive| &archive.contents.expected).map(|blob| blob.digest).collect();
        for (digest, (descriptor, manifest)) in &named {
            if !absent.contains(digest) {
                self.count(descriptor.size, *manifest);
            } else if expected.contains(digest) {
                self.expected.push(Object::of(descriptor));
            } else if !descriptor.is_foreign() {
                self.missing.push(Object::of(descriptor));
            }
        }
        for (digest, at) in archive.iter().flat_map(|archive| &archive.contents.blobs) {
            // One that is there with another size than was said is absent, and counts here.
            if !named.contains_key(digest) || absent.contains(digest) {
                self.count(at.size, false);
                self.unnamed.push(Object::of(&Descriptor::new("", *digest, at.size)));
            }
        }
        for list in [&mut self.expected, &mut self.missing, &mut self.unnamed] {
            list.sort_by_key(|object| object.digest);
        }
    }

    fn count(&mut self, size: u64, manifest: bool) {
        let (number, bytes) = if manifest {
            (&mut self.manifests, &mut self.manifest_bytes)
        } else {
            (&mut self.blobs, &mut self.blob_bytes)
        };
        *number += 1;
        *bytes = bytes.saturating_add(size);
    }

    fn problems(&mut self, archive: Option<&Archive>, survey: &Survey) {
        let what = match archive.map(|archive| archive.contents.ending) {
            None | Some(Ending::Complete) => None,
            Some(Ending::NoTrailer) => Some("it ends without the trailer of a whole archive".to_owned()),
            Some(Ending::Torn { offset }) => {
                Some(format!("it was cut in the entry at byte {offset}; what followed is not listed"))
            }
        };
        self.problems.extend(what.map(|what| Trouble { digest: None, what }));
        let unread = survey.problems.iter();
        self.problems.extend(unread.map(|p| Trouble { digest: Some(p.digest), what: p.error.to_string() }));
        self.complete = self.problems.is_empty();
    }
}

impl Form {
    fn of(location: &Location) -> Form {
        match location {
            Location::Archive(_) => Form::Archive,
            Location::Image(ImageName::Layout { .. }) => Form::Layout,
            Location::Image(ImageName::Registry(_)) => Form::Registry,
        }
    }
}

impl Object {
    fn of(descriptor: &Descriptor) -> Object {
        Object {
            name: descriptor.annotation(annotation::REF_NAME).map(str::to_owned),
            digest: descriptor.digest,
            media_type: descriptor.media_type.clone(),
            size: descriptor.size,
        }
    }
}
