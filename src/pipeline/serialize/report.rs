//! What `serialize` reports: what was written, or in a dry run what would be and why the rest would not.

use serde::Serialize;

use super::found::Found;
use crate::archive::plan::{Content, Plan, Why};
use crate::image::Digest;
use crate::medium::block_buffer::{Finished, RanDry};
use crate::medium::object::writer::ObjectWritten;
use crate::medium::tape::writer::TapeUsed;
use crate::medium::volumes::listing::Volume;
use crate::pipeline::{LeftOut, Moved};

/// What was written.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub reference: String,
    pub digest: Digest,
    pub destination: String,
    /// Length of the archive; with compression, of the compressed archive. Planned and uncompressed in a dry run.
    pub bytes: u64,
    /// Blobs in the archive, manifests included.
    pub blobs: u64,
    /// Every blob in the order of the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Vec<PlannedEntry>>,
    /// Blobs that need not travel, and their bytes.
    pub blobs_skipped: u64,
    pub bytes_skipped: u64,
    /// In a dry run, each of them and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<Vec<SkippedEntry>>,
    /// Bytes of the archive that an earlier run had left, and that were verified instead of fetched.
    pub bytes_resumed: u64,
    /// The tapes that it was written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tapes: Option<Vec<TapeUsed>>,
    /// The volumes that it was written into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<Volume>>,
    /// The object that it was written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectWritten>,
    /// How often the drive had to wait for the source, where there is a buffer in front of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ran_dry: Option<RanDry>,
    pub moved: Moved,
    pub left_out: Vec<LeftOut>,
}

/// A blob that is left out because it need not travel.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SkippedEntry {
    pub digest: Digest,
    pub media_type: String,
    /// Size of the blob in bytes.
    pub size: u64,
    pub why: String,
}

/// A blob in a plan.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedEntry {
    pub digest: Digest,
    pub media_type: String,
    /// Size of the blob in bytes.
    pub size: u64,
    /// Where its headers begin in the uncompressed archive, in bytes.
    pub offset: u64,
}

impl Report {
    pub(super) fn new(reference: String, digest: Digest, destination: &str, plan: &Plan) -> Self {
        let left_out = plan.left_out.iter().map(|layer| LeftOut {
            image: reference.clone(),
            what: layer.digest.to_string(),
            why: "a foreign layer, which registries do not hold; --foreign-layers takes it along".into(),
        });
        Report {
            left_out: left_out.collect(),
            reference,
            digest,
            destination: destination.into(),
            bytes: plan.length,
            blobs: plan.entries.iter().filter(|e| e.descriptor.is_some()).count() as u64,
            plan: Some(planned(plan)),
            blobs_skipped: plan.skipped.len() as u64,
            bytes_skipped: plan.skipped.iter().map(|s| s.descriptor.size).sum(),
            skipped: None,
            bytes_resumed: 0,
            tapes: None,
            volumes: None,
            object: None,
            ran_dry: None,
            moved: Moved::default(),
        }
    }

    /// Tells of every blob that need not travel.
    pub(super) fn tell_skipped(&mut self, plan: &Plan) {
        self.skipped = Some(skipped(plan));
    }

    /// Tells where the archive is.
    pub(super) fn tell_medium(&mut self, medium: Option<(Finished, RanDry)>) {
        match medium {
            Some((Finished::Tapes(tapes), ran_dry)) => (self.tapes, self.ran_dry) = (Some(tapes), Some(ran_dry)),
            Some((Finished::Volumes(volumes), _)) => self.volumes = Some(volumes),
            Some((Finished::Object(object), _)) => self.object = Some(object),
            None => {}
        }
    }

    /// Counts what was moved: all of the plan, but for what was found.
    pub(super) fn count(&mut self, plan: &Plan, found: &[Found]) {
        for (at, entry) in plan.entries.iter().enumerate() {
            if let (Some(_), Content::Blob(descriptor)) = (&entry.descriptor, &entry.content) {
                let there = found.get(at).map_or(0, |found| found.bytes(descriptor));
                self.bytes_resumed += there;
                self.moved.bytes_sent += descriptor.size - there;
                if matches!(found.get(at), Some(Found::Whole)) {
                    self.moved.blobs_existed += 1;
                } else {
                    self.moved.blobs_sent += 1;
                }
            } else if entry.descriptor.is_some() {
                self.moved.manifests_sent += 1;
            }
        }
    }
}

fn planned(plan: &Plan) -> Vec<PlannedEntry> {
    let entries = plan.entries.iter().filter_map(|entry| {
        let descriptor = entry.descriptor.as_ref()?;
        Some(PlannedEntry {
            digest: descriptor.digest,
            media_type: descriptor.media_type.clone(),
            size: descriptor.size,
            offset: entry.offset,
        })
    });
    entries.collect()
}

fn skipped(plan: &Plan) -> Vec<SkippedEntry> {
    let entries = plan.skipped.iter().map(|skipped| SkippedEntry {
        digest: skipped.descriptor.digest,
        media_type: skipped.descriptor.media_type.clone(),
        size: skipped.descriptor.size,
        why: match &skipped.why {
            Why::Held(place) => format!("in {place}"),
            Why::Earlier(ledger) => format!("in the earlier part that {ledger} tells of"),
        },
    });
    entries.collect()
}
