//! A dry run of the engine: it asks what it always asks, sends nothing, and writes down what it would have sent.
//!
//! Invariant: of every destination, each object that a run would see to is in the plan or among what is skipped, or
//! below something that is there with all it consists of.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Mutex;

use serde::Serialize;

use super::graph::Way;
use super::{Copier, lock};
use crate::archive::contents::Location;
use crate::image::{Descriptor, Digest, media_type};
use crate::store::{self, Pushed};

/// Why an image need not be looked into.
pub const WHOLE: &str = "there already, with all it consists of";
/// Why only a tag is set.
pub(super) const UNTAGGED: &str = "there already, with all it consists of, but for its tag";
pub(super) const THERE: &str = "there already";

/// What a run would do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Plan {
    /// By destination, blobs before manifests.
    plan: Vec<Planned>,
    skipped: Vec<Skipped>,
}

/// Something that would be put in place.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Planned {
    pub digest: Digest,
    pub media_type: String,
    /// In bytes.
    pub size: u64,
    /// Where its bytes begin in the archive that it comes from, uncompressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    pub destination: String,
    /// The tag that it would have there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The repository of the same registry that it would be mounted from; no bytes travel then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounted_from: Option<String>,
}

/// Something that need not be put in place.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Skipped {
    pub digest: Digest,
    pub media_type: String,
    /// In bytes.
    pub size: u64,
    pub destination: String,
    pub why: String,
}

impl Plan {
    pub fn planned(&self) -> &[Planned] {
        &self.plan
    }

    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Adds where everything is in the archive that holds `blobs`, and has it in that order.
    pub fn locate(&mut self, blobs: &HashMap<Digest, Location>) {
        for planned in &mut self.plan {
            planned.offset = blobs.get(&planned.digest).map(|at| at.offset);
        }
        self.plan.sort_by_key(|planned| planned.offset);
        self.plan.sort_by(|a, b| a.destination.cmp(&b.destination));
    }
}

/// What was found out so far.
#[derive(Debug, Default)]
pub struct Rehearsal(Mutex<Plan>);

impl Rehearsal {
    fn plan(&self, planned: Planned) {
        lock(&self.0).plan.push(planned);
    }

    fn skip(&self, descriptor: &Descriptor, destination: String, why: &str) {
        let Descriptor { digest, media_type, size, .. } = descriptor;
        let (digest, media_type, size, why) = (*digest, media_type.clone(), *size, why.to_owned());
        lock(&self.0).skipped.push(Skipped { digest, media_type, size, destination, why });
    }
}

impl Copier {
    /// What the copies since the last question would have done, if this is a dry run.
    pub fn rehearsed(&self) -> Option<Plan> {
        let mut plan = std::mem::take(&mut *lock(&self.0.rehearsal.as_ref()?.0));
        plan.plan.sort_by_cached_key(|p| {
            let manifest = media_type::is_manifest(&p.media_type);
            // What names others goes after them.
            (p.destination.clone(), manifest, p.tag.is_some(), Reverse(p.size), p.digest, p.tag.clone())
        });
        plan.skipped.sort_by_cached_key(|s| (s.destination.clone(), Reverse(s.size), s.digest));
        plan.skipped.dedup_by(|a, b| a.digest == b.digest && a.destination == b.destination);
        Some(plan)
    }
}

impl Way {
    /// Nothing is sent, and this says whether a dry run is why.
    pub(super) fn is_rehearsal(&self) -> bool {
        self.run.rehearsal.is_some()
    }

    /// In a dry run, notes that something is there already.
    pub fn note_there(&self, descriptor: &Descriptor, why: &str) {
        if let Some(rehearsal) = &self.run.rehearsal {
            rehearsal.skip(descriptor, self.describe(), why);
        }
    }

    /// In a dry run, notes that a manifest would be sent. `false`: this is none.
    pub(super) fn rehearses_manifest(&self, descriptor: &Descriptor, tag: Option<&str>) -> bool {
        let Some(rehearsal) = &self.run.rehearsal else { return false };
        rehearsal.plan(self.planned(descriptor, tag, None));
        true
    }

    /// What sending a blob would come to.
    pub(super) async fn rehearse_blob(&self, blob: &Descriptor, mount_from: Option<&str>) -> store::Result<Pushed> {
        let (from, to) = (&self.source, &self.destination.store);
        let pushed = match mount_from {
            Some(_) if to.has_blob(blob).await.unwrap_or(false) => Pushed::Existed,
            Some(_) => Pushed::Mounted,
            // A registry would have to be asked for each one.
            None if from.site().is_none() && blob.urls.is_empty() && !from.has_blob(blob).await? => {
                return Err(store::Error::Missing { what: format!("blob {}", blob.digest), place: from.describe() });
            }
            None => Pushed::Sent,
        };
        self.run.progress.add_bytes(blob.size);
        if let Some(rehearsal) = self.run.rehearsal.as_ref().filter(|_| pushed != Pushed::Existed) {
            rehearsal.plan(self.planned(blob, None, mount_from));
        }
        Ok(pushed)
    }

    fn planned(&self, descriptor: &Descriptor, tag: Option<&str>, mounted_from: Option<&str>) -> Planned {
        Planned {
            digest: descriptor.digest,
            media_type: descriptor.media_type.clone(),
            size: descriptor.size,
            offset: None,
            destination: self.describe(),
            tag: tag.map(str::to_owned),
            mounted_from: mounted_from.map(str::to_owned),
        }
    }
}
