//! `diff`: what an image, a layout or an archive holds that others do not, and how much of it would travel.
//!
//! An image counts as held only where every digest of it is held: a manifest alone is not an image. What is held is
//! decided where `serialize` decides what to leave out, so that both give the same answer.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::existing::{self, Existing};
use super::images;
use super::survey::{Survey, survey};
use super::{Context, Error, Result};
use crate::image::Digest;
use crate::store::Location;

/// What to compare.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// List the images of gathers within the gather in place of those gathers.
    pub expand: bool,
    /// In a registry, count what refers to the images as well.
    pub recursive: bool,
}

/// What the others do not hold.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub source: String,
    pub existing: Vec<String>,
    /// Images of which something is not held, by reference.
    pub images: Vec<Lacking>,
    /// Images of which everything is held.
    pub held: u64,
    /// Manifests and blobs of the source that the others do not hold, each once: what is new.
    pub manifests: u64,
    pub manifest_bytes: u64,
    pub blobs: u64,
    pub blob_bytes: u64,
    /// Manifests that an archive carries: all of them, held or not.
    pub manifests_carried: u64,
    pub manifest_bytes_carried: u64,
    /// Each of those that are new, sorted.
    pub digests: Vec<Digest>,
    /// What neither holds, sorted: the source is an archive that left it out.
    pub nowhere: Vec<Digest>,
}

/// An image of which something is not held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lacking {
    pub reference: String,
    pub digest: Digest,
    /// Bytes of all that belongs to it, each digest once.
    pub size: u64,
    /// Those of them that are not held. Images that share something count it each.
    pub lacking: u64,
}

/// Compares `source` with `others`.
pub async fn diff(cx: &Context, source: &Location, others: &[Location], options: &Options) -> Result<Report> {
    cx.progress.begin("comparing");
    let opened = cx.stores.open_location(source).await?;
    let (mut survey, existing) =
        futures_util::try_join!(survey(cx, &opened, options.recursive), existing::digests(cx, others))?;
    // A list with holes would say that less travels than does.
    if let Some(problem) = survey.problems.pop() {
        return Err(Error::Image { image: source.to_string(), source: problem.error });
    }
    let holds = |digest: &Digest| opened.archive.as_ref().is_none_or(|a| a.contents.blobs.contains_key(digest));
    Ok(compare(source, others, &survey, &existing, &holds, options))
}

fn compare(
    source: &Location,
    others: &[Location],
    survey: &Survey,
    existing: &Existing,
    holds: &dyn Fn(&Digest) -> bool,
    options: &Options,
) -> Report {
    let mut report = Report {
        source: source.to_string(),
        existing: others.iter().map(Location::to_string).collect(),
        images: Vec::new(),
        held: 0,
        manifests: 0,
        manifest_bytes: 0,
        blobs: 0,
        blob_bytes: 0,
        manifests_carried: 0,
        manifest_bytes_carried: 0,
        digests: Vec::new(),
        nowhere: Vec::new(),
    };
    let mut listed = HashSet::new();
    let mut found = images::of(survey, &source.to_string(), options.expand);
    found.retain(|image| listed.insert((image.reference.clone(), image.descriptor.digest)));
    for image in &found {
        let one = survey.parts(&image.descriptor.digest);
        let gone: Vec<_> = one.iter().filter(|(digest, _)| !existing.contains(digest)).collect();
        if gone.is_empty() {
            report.held += 1;
            continue;
        }
        report.images.push(Lacking {
            reference: image.reference.clone(),
            digest: image.descriptor.digest,
            size: one.values().map(|(size, _)| size).sum(),
            lacking: gone.iter().map(|(_, (size, _))| size).sum(),
        });
    }
    // The gather index travels too, and whatever else stands beside the images.
    let everything = survey.manifests.keys().chain(survey.leaves.keys()).flat_map(|digest| survey.parts_of(digest));
    for (digest, (size, manifest)) in everything.collect::<HashMap<Digest, (u64, bool)>>() {
        if manifest {
            report.manifests_carried += 1;
            report.manifest_bytes_carried += size;
        }
        if existing.contains(&digest) {
            continue;
        }
        if !holds(&digest) {
            report.nowhere.push(digest);
            continue;
        }
        report.digests.push(digest);
        if manifest {
            report.manifests += 1;
            report.manifest_bytes += size;
        } else {
            report.blobs += 1;
            report.blob_bytes += size;
        }
    }
    report.digests.sort();
    report.nowhere.sort();
    report.images.sort_by(|a, b| (&a.reference, a.digest).cmp(&(&b.reference, b.digest)));
    report
}
