//! The verbs: what a user asks for, one file each, over the one graph-copy engine in [`copy`].
//!
//! A verb takes a [`Context`], its options and returns a report that says what moved, what was left out
//! and what failed. `Ok` with no failures means that every promised digest is at its destination.
//! Dropping a verb's future stops it cleanly: nothing unfinished looks complete.

pub mod archiving;
pub mod batch;
pub mod clone;
pub mod copy;
pub mod deserialize;
pub mod diff;
pub mod existing;
pub mod gather;
pub mod images;
pub mod inspect;
mod platforms;
pub mod progress;
mod routes;
pub mod scatter;
pub mod serialize;
mod sizes;
mod sources;
pub mod survey;
pub mod tape;
mod together;
pub mod unarchive;
pub mod verify;
pub mod walk;

use std::sync::Arc;

use serde::Serialize;

pub use progress::Progress;

use crate::config::error::io_hint;
use crate::image::{Descriptor, Digest};
use crate::store::{self, Stores};

/// What every verb needs.
#[derive(Clone)]
pub struct Context {
    /// Opens registries, layouts and archives by name.
    pub stores: Stores,
    pub progress: Arc<Progress>,
    /// Objects in flight at once, if the user fixed it.
    pub jobs: Option<usize>,
    /// Bytes that may be held in memory between a source and an ordered medium. Default 64 MiB.
    pub byte_budget: u64,
}

impl Context {
    /// Objects in flight at once. Where the user did not say, enough to fill a long line: each host paces itself.
    pub fn jobs(&self) -> usize {
        self.jobs.unwrap_or(64).clamp(1, 1024)
    }
}

/// Why a verb failed. The message names the object and the next step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An image could not be copied; names the image around the object that failed.
    #[error("{image}: {source}")]
    Image { image: String, source: store::Error },
    /// The same for a failure that several images may share.
    #[error("{image}: {source}")]
    Copy { image: String, source: copy::Shared },
    #[error(transparent)]
    Shared(copy::Shared),
    /// What the user gave cannot be used: two images for one destination, no free space, not a gather…
    #[error("{0}")]
    Refused(String),
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    /// An archive could not be finished, and what there is of it was kept.
    #[error("{source}")]
    Unfinished { partial: String, source: Box<Error> },
}

impl Error {
    /// What to do next, if there is something to do that the message does not say.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Store(source) | Error::Image { source, .. } => source.hint(),
            Error::Copy { source, .. } | Error::Shared(source) => source.hint(),
            Error::Io { source, .. } => io_hint(source),
            Error::Unfinished { partial, source } => {
                let first = source.hint().map(|hint| hint + "; ").unwrap_or_default();
                Some(format!("{first}the same command with --resume goes on with {partial}"))
            }
            Error::Refused(_) => None,
        }
    }

    /// The failure itself, for lists that name the image already.
    fn without_image(self) -> Self {
        match self {
            Error::Copy { source, .. } => Error::Shared(source),
            other => other,
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// Blobs and bytes that a verb moved or did not need to move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Moved {
    pub blobs_sent: u64,
    pub bytes_sent: u64,
    pub blobs_mounted: u64,
    pub blobs_existed: u64,
    pub manifests_sent: u64,
}

impl Moved {
    /// Counts a blob of `size` bytes that is in place now.
    pub fn count(&mut self, pushed: store::Pushed, size: u64) {
        match pushed {
            store::Pushed::Existed => self.blobs_existed += 1,
            store::Pushed::Mounted => self.blobs_mounted += 1,
            store::Pushed::Sent => {
                self.blobs_sent += 1;
                self.bytes_sent += size;
            }
        }
    }
}

impl std::ops::AddAssign for Moved {
    fn add_assign(&mut self, other: Self) {
        self.blobs_sent += other.blobs_sent;
        self.bytes_sent += other.bytes_sent;
        self.blobs_mounted += other.blobs_mounted;
        self.blobs_existed += other.blobs_existed;
        self.manifests_sent += other.manifests_sent;
    }
}

/// Something that was left out where the user allowed it, or that the wire format cannot carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// The image it belongs to.
    pub image: String,
    pub what: String,
    pub why: String,
}

/// An image that failed, in a run that went on with the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub image: String,
    /// Line of the list, where it came from one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    pub error: String,
    /// What to do next, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(image: String, line: Option<usize>, error: &Error) -> Self {
        Failure { image, line, error: error.to_string(), hint: error.hint() }
    }
}

/// An image that is in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Placed {
    pub source: String,
    pub digest: Digest,
    pub media_type: String,
    /// Size of the manifest in bytes.
    pub size: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<String>,
}

impl Placed {
    pub fn new(source: impl Into<String>, descriptor: &Descriptor, destinations: Vec<String>) -> Self {
        Placed {
            source: source.into(),
            digest: descriptor.digest,
            media_type: descriptor.media_type.clone(),
            size: descriptor.size,
            destinations,
        }
    }
}
