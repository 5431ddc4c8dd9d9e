//! What is held elsewhere already, and so need not travel: every manifest, config and layer of the images,
//! layouts and archives that a user names. An archive holds what it holds, whatever its manifests name.
//!
//! Invariant: an image of a registry or layout stands for itself alone, without what refers to it. It may be there as the
//! record of what was sent once, and somebody may have signed it since: that signature has not travelled.

use std::collections::HashMap;

use super::survey::{Problem, survey};
use super::together::together;
use super::{Context, Error, Result};
use crate::archive::reader::Ending;
use crate::image::{Digest, ImageName};
use crate::store::Location;

/// Digests that are held, and by whom.
#[derive(Clone, Debug, Default)]
pub struct Existing {
    held: HashMap<Digest, Held>,
    places: Vec<String>,
}

/// One digest that is held.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Size of the content in bytes.
    pub size: u64,
    /// It is held as a manifest, not only as a blob.
    pub manifest: bool,
    place: usize,
}

impl Existing {
    pub fn get(&self, digest: &Digest) -> Option<&Held> {
        self.held.get(digest)
    }

    pub fn contains(&self, digest: &Digest) -> bool {
        self.held.contains_key(digest)
    }

    /// Where it is held, as the user named it; the first of several places.
    pub fn place(&self, digest: &Digest) -> Option<&str> {
        self.held.get(digest).and_then(|held| self.places.get(held.place)).map(String::as_str)
    }

    /// Enters what `place` holds. What another place holds already stays as it is.
    pub fn add(&mut self, place: &str, held: impl IntoIterator<Item = (Digest, u64, bool)>) {
        let at = self.places.iter().position(|p| p == place).unwrap_or_else(|| {
            self.places.push(place.to_owned());
            self.places.len() - 1
        });
        for (digest, size, manifest) in held {
            let entry = self.held.entry(digest).or_insert(Held { size, manifest, place: at });
            entry.manifest |= manifest;
        }
    }

    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// All digests that the locations hold. Fails for one that cannot be read; what merely is not there is not held.
pub async fn digests(cx: &Context, locations: &[Location]) -> Result<Existing> {
    let reading = locations.iter().cloned().map(|location| {
        let cx = cx.clone();
        async move { (location.to_string(), held_by(&cx, &location).await) }
    });
    let mut existing = Existing::default();
    for (place, held) in together(reading).await {
        let held = held.map_err(|e| match e {
            Error::Store(source) => Error::Image { image: place.clone(), source },
            other => other,
        })?;
        existing.add(&place, held);
    }
    Ok(existing)
}

/// Digest, size, and whether it is a manifest.
async fn held_by(cx: &Context, location: &Location) -> Result<Vec<(Digest, u64, bool)>> {
    let opened = cx.stores.open_location(location).await?;
    let survey = survey(cx, &opened, false).await?;
    if let Some(Problem { error, .. }) = survey.problems.into_iter().find(|p| !p.is_missing()) {
        return Err(error.into());
    }
    if let Some(archive) = &opened.archive {
        if archive.contents.ending != Ending::Complete {
            tracing::warn!("{location} is cut: only what is whole in it counts as existing");
        }
        let blobs = archive.contents.blobs.iter();
        return Ok(blobs.map(|(d, at)| (*d, at.size, survey.manifests.contains_key(d))).collect());
    }
    let mut held: Vec<(Digest, u64, bool)> =
        survey.manifests.values().map(|m| (m.digest(), m.bytes.len() as u64, true)).collect();
    let files = matches!(location, Location::Image(ImageName::Layout { .. }));
    held.extend(survey.leaves.iter().map(|(digest, size)| (*digest, *size, false)));
    for children in survey.children.values() {
        for blob in children.config.iter().chain(&children.layers) {
            // A registry seldom holds what its manifest says is to be had elsewhere. The rest was needed to push the
            // manifest; only in a directory may it have gone since, and looking costs nothing there.
            if !blob.is_manifest() && !blob.is_foreign() && (!files || opened.store.has_blob(blob).await?) {
                held.push((blob.digest, blob.size, false));
            }
        }
    }
    Ok(held)
}
