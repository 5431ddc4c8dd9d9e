//! `verify`: reading an archive, a layout or an image of a registry from end to end.
//!
//! A yes means that every digest was computed and is right, and that nothing is missing which the source names; for
//! an archive, that it was not cut either. A no names each finding, and the images that it spoils.

mod against;
mod content;
mod listing;
mod passing;
mod source;
mod volume;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use super::images::{self, Image};
use super::survey::{Survey, survey};
use super::{Context, LeftOut, Result};
use crate::archive::reader::Ending;
use crate::image::{Descriptor, Digest, ImageName};
use crate::store::archive::Archive;
use crate::store::overlay::Overlay;
use crate::store::{self, Location, Opened, Store};
use source::{Source, cores};

/// What to verify besides.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where all of it must have arrived.
    pub against: Option<ImageName>,
    /// In a registry: what refers to the images as well.
    pub recursive: bool,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub source: String,
    /// Where only one volume of an archive was read, which one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<OneVolume>,
    /// Nothing is wrong, and nothing is missing.
    pub whole: bool,
    pub images: Vec<Verified>,
    /// Manifests and blobs whose digests are right, and the bytes of both.
    pub manifests: u64,
    pub blobs: u64,
    pub bytes: u64,
    pub findings: Vec<Finding>,
    /// Blobs that an archive leaves out, because the other side is expected to have them.
    pub expected: Vec<Digest>,
    /// Where it must have arrived, and how many digests are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<Arrived>,
    pub left_out: Vec<LeftOut>,
}

/// A volume that was compared with its listing.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OneVolume {
    pub sequence: u32,
    /// Volumes that the listing names.
    pub of: usize,
    /// What the archive holds.
    pub reference: String,
}

/// One image.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    pub reference: String,
    pub digest: Digest,
    /// All of it is there and right, what is expected on the other side aside; and has arrived, where that was asked.
    pub whole: bool,
}

/// What is there of the source, where it was to arrive.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Arrived {
    pub reference: String,
    pub present: u64,
    pub absent: u64,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// In the uncompressed archive, in bytes: where the content begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The images that it belongs to.
    pub images: Vec<String>,
    pub what: String,
}

/// Kinds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// The archive ends too early.
    Cut,
    /// Content is not what its digest says, or cannot be understood.
    Damaged,
    /// Something that is named is not there.
    Missing,
    /// It could not be read.
    Unreadable,
    /// It is not where it was to arrive.
    NotArrived,
}

/// Verifies `location`.
pub async fn verify(cx: &Context, location: &Location, options: &Options) -> Result<Report> {
    cx.progress.begin("verifying");
    if let (Location::Archive(file), None) = (location, &options.against)
        && let Some(report) = volume::verify(cx, file).await?
    {
        return Ok(report);
    }
    let Source { mut opened, hashed } = source::open(cx, location).await?;
    let there = options.against.as_ref().map(|image| cx.stores.open(image)).transpose()?;
    let own = opened.store.clone();
    if let (Some(there), Some(_)) = (&there, &opened.archive) {
        // What an archive leaves out may be read on the other side.
        opened.store = Arc::new(Overlay::new(own.describe(), vec![own.clone(), there.clone()]));
    }
    let survey = survey(cx, &opened, options.recursive).await?;
    let mut check = Check::new(location, &survey);
    if let Some(archive) = &opened.archive {
        check.ending(archive);
        listing::check(archive, &survey, &mut check.findings);
    }
    check.manifests(&opened);
    match (&opened.archive, hashed) {
        (Some(archive), Some(bad)) => {
            for bad in bad {
                let what = format!("blob {} has the content of {}", bad.digest, bad.actual);
                check.find(Kind::Damaged, Some(bad.digest), Some(bad.at.offset), what);
            }
            check.count(archive.contents.blobs.iter().map(|(d, at)| (*d, at.size)));
        }
        _ => check.content(cx, &own, &opened, location).await?,
    }
    check.promises(&opened, there.is_some());
    if let (Some(there), Some(image)) = (&there, &options.against) {
        let arrived = against::arrived(cx, there, image, &survey, images::roots(&survey)).await?;
        check.arrived(image, arrived);
    }
    Ok(check.finish())
}

/// Findings, as they come together.
struct Check<'a> {
    location: String,
    survey: &'a Survey,
    images: Vec<Image>,
    findings: Vec<Finding>,
    /// Digests that are right.
    right: HashMap<Digest, u64>,
    /// Digests that something is wrong with.
    wrong: HashSet<Digest>,
    /// Digests that did not arrive.
    absent: HashSet<Digest>,
    expected: Vec<Digest>,
    against: Option<Arrived>,
    left_out: Vec<LeftOut>,
}

impl<'a> Check<'a> {
    fn new(location: &Location, survey: &'a Survey) -> Self {
        Check {
            location: location.to_string(),
            survey,
            images: images::of(survey, &location.to_string(), true),
            findings: Vec::new(),
            right: HashMap::new(),
            wrong: HashSet::new(),
            absent: HashSet::new(),
            expected: Vec::new(),
            against: None,
            left_out: Vec::new(),
        }
    }

    fn find(&mut self, kind: Kind, digest: Option<Digest>, offset: Option<u64>, what: String) {
        self.wrong.extend(digest);
        self.findings.push(Finding { kind, digest, offset, images: Vec::new(), what });
    }

    fn count(&mut self, right: impl Iterator<Item = (Digest, u64)>) {
        let wrong = &self.wrong;
        self.right.extend(right.filter(|(digest, _)| !wrong.contains(digest)));
    }

    /// How the archive ended.
    fn ending(&mut self, archive: &Archive) {
        if let Some(damage) = &archive.damage {
            self.find(Kind::Damaged, None, None, format!("{damage}; what follows cannot be read"));
            return;
        }
        match archive.contents.ending {
            Ending::Complete => {}
            Ending::NoTrailer => {
                self.find(Kind::Cut, None, None, "it ends without the trailer of a whole archive".into());
            }
            Ending::Torn { offset } => {
                let what = format!("it was cut in the entry at byte {offset}; what followed is missing");
                self.find(Kind::Cut, None, Some(offset), what);
            }
        }
        if archive.contents.indexes.first().is_none_or(Vec::is_empty) {
            self.find(Kind::Missing, None, None, "no index.json names an image".into());
        }
    }

    /// What was found while the manifests were read.
    fn manifests(&mut self, opened: &Opened) {
        for problem in &self.survey.problems {
            let offset = opened.archive.as_ref().and_then(|a| a.offset(&problem.digest));
            let kind = match &problem.error {
                e if e.is_missing() => Kind::Missing,
                store::Error::Digest { .. } | store::Error::Size { .. } | store::Error::Manifest(_) => Kind::Damaged,
                _ => Kind::Unreadable,
            };
            self.find(kind, Some(problem.digest), offset, problem.error.to_string());
        }
        let held = |digest: &Digest| opened.archive.as_ref().is_none_or(|a| a.offset(digest).is_some());
        let manifests = self.survey.manifests.values().map(|m| (m.digest(), m.bytes.len() as u64));
        self.count(manifests.filter(|(digest, _)| held(digest)));
    }

    /// Hashes everything that can be read anywhere and was not read yet.
    async fn content(
        &mut self,
        cx: &Context,
        own: &Arc<dyn Store>,
        opened: &Opened,
        location: &Location,
    ) -> Result<()> {
        let known: HashSet<Digest> = self.right.keys().chain(&self.wrong).copied().collect();
        let mut blobs: HashMap<Digest, Descriptor> = HashMap::new();
        if let Some(archive) = &opened.archive {
            let held = archive.contents.blobs.iter();
            blobs.extend(held.map(|(d, at)| (*d, Descriptor::new("application/octet-stream", *d, at.size))));
        } else {
            for digest in self.survey.manifests.keys() {
                for blob in self.survey.blobs_of(digest) {
                    if blob.is_foreign() && !own.has_blob(blob).await? {
                        let (image, what) = (digest.to_string(), format!("layer {}", blob.digest));
                        self.left_out.push(LeftOut { image, what, why: "not distributable".into() });
                    } else {
                        blobs.insert(blob.digest, blob.bare());
                    }
                }
            }
            let leaf = |(d, size): (&Digest, &u64)| (*d, Descriptor::new("application/octet-stream", *d, *size));
            blobs.extend(self.survey.leaves.iter().map(leaf));
            if let Location::Image(ImageName::Layout { directory, name: None }) = location {
                // A stray file with a wrong content would be taken for that content some day.
                let strays = store::layout::Layout::new(directory).blobs()?;
                for stray in strays {
                    blobs.entry(stray.digest).or_insert(stray);
                }
            }
        }
        blobs.retain(|digest, _| !known.contains(digest));
        let at_once = if own.site().is_some() { cx.jobs() } else { cx.jobs.unwrap_or_else(cores) };
        let mut all: Vec<Descriptor> = blobs.into_values().collect();
        all.sort_by_key(|d| d.digest);
        let failed = content::hash_all(cx, own, all.clone(), at_once).await;
        let mut failures: Vec<(Digest, store::Error)> = failed.into_iter().collect();
        failures.sort_by_key(|(digest, _)| *digest);
        for (digest, error) in failures {
            let offset = opened.archive.as_ref().and_then(|a| a.offset(&digest));
            let kind = match &error {
                e if e.is_missing() => Kind::Missing,
                e if e.is_corruption() => Kind::Damaged,
                _ => Kind::Unreadable,
            };
            self.find(kind, Some(digest), offset, error.to_string());
        }
        self.count(all.into_iter().map(|d| (d.digest, d.size)));
        for (digest, at) in opened.archive.iter().flat_map(|a| &a.contents.earlier) {
            let Some(archive) = &opened.archive else { break };
            if let Err(error) = content::read(cx, archive.open_at(digest, at)?).await {
                self.find(Kind::Damaged, Some(*digest), Some(at.offset), error.to_string());
            }
        }
        Ok(())
    }

    /// What is named is there, and has the size that was said; or the other side is expected to have it.
    fn promises(&mut self, opened: &Opened, asked_there: bool) {
        let Some(archive) = &opened.archive else { return };
        let expected: HashSet<Digest> = archive.contents.expected.iter().map(|d| d.digest).collect();
        let mut left_out = Vec::new();
        let mut named: HashMap<Digest, (Descriptor, Digest)> = HashMap::new();
        for parent in self.survey.manifests.keys() {
            for blob in self.survey.blobs_of(parent) {
                named.entry(blob.digest).or_insert_with(|| (blob.clone(), *parent));
            }
        }
        let mut named: Vec<(Descriptor, Digest)> = named.into_values().collect();
        named.sort_by_key(|(blob, _)| blob.digest);
        for (blob, parent) in named {
            match archive.contents.blobs.get(&blob.digest) {
                Some(at) if at.size == blob.size => {}
                Some(at) => {
                    let what = format!("{} has {} bytes, and {parent} says {}", blob.digest, at.size, blob.size);
                    self.find(Kind::Damaged, Some(blob.digest), Some(at.offset), what);
                }
                None if blob.is_foreign() => {
                    let (image, what) = (parent.to_string(), format!("layer {}", blob.digest));
                    self.left_out.push(LeftOut { image, what, why: "not distributable".into() });
                }
                None if expected.contains(&blob.digest) || asked_there => left_out.push(blob.digest),
                None => {
                    let what = format!("{} is not in it, and {parent} names it", blob.digest);
                    self.find(Kind::Missing, Some(blob.digest), None, what);
                }
            }
        }
        self.expected = left_out;
    }

    fn arrived(&mut self, image: &ImageName, arrived: against::Outcome) {
        self.against = Some(Arrived {
            reference: image.to_string(),
            present: arrived.present,
            absent: arrived.absent.len() as u64,
        });
        for (digest, what) in arrived.absent {
            self.absent.extend(digest);
            self.findings.push(Finding { kind: Kind::NotArrived, digest, offset: None, images: Vec::new(), what });
        }
    }

    fn finish(mut self) -> Report {
        let mut images = Vec::new();
        let mut spoiled: HashMap<Digest, Vec<String>> = HashMap::new();
        for image in &self.images {
            let mut whole = true;
            for digest in self.survey.with_referrers(&image.descriptor.digest) {
                let blobs = self.survey.blobs_of(&digest).map(|d| d.digest);
                for wrong in blobs.chain([digest]).filter(|d| self.wrong.contains(d) || self.absent.contains(d)) {
                    whole = false;
                    let names = spoiled.entry(wrong).or_default();
                    if names.last() != Some(&image.reference) {
                        names.push(image.reference.clone());
                    }
                }
            }
            images.push(Verified { reference: image.reference.clone(), digest: image.descriptor.digest, whole });
        }
        for finding in &mut self.findings {
            if let Some(names) = finding.digest.and_then(|d| spoiled.get(&d)) {
                finding.images.clone_from(names);
            }
        }
        self.findings.sort_by_key(|f| (f.kind, f.offset, f.digest));
        self.findings.dedup_by(|a, b| a.kind == b.kind && a.digest.is_some() && a.digest == b.digest);
        self.right.retain(|digest, _| !self.wrong.contains(digest));
        let manifests = self.right.keys().filter(|d| self.survey.manifests.contains_key(d)).count() as u64;
        Report {
            volume: None,
            source: self.location,
            whole: self.findings.is_empty(),
            images,
            manifests,
            blobs: self.right.len() as u64 - manifests,
            bytes: self.right.values().sum(),
            findings: self.findings,
            expected: self.expected,
            against: self.against,
            left_out: self.left_out,
        }
    }
}
