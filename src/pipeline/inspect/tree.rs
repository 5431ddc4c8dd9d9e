//! How everything hangs together: roots, indexes, manifests, blobs, and what refers to them.
//!
//! Invariant: each manifest is unfolded once, so that the tree is no larger than what was read.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::{artifact_type, runs_on};
use crate::image::{Descriptor, Digest, Platform, annotation, media_type};
use crate::pipeline::images;
use crate::pipeline::survey::Survey;

/// A manifest or a blob, and what it leads to.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub role: Role,
    /// The source that a gather has for it, else its name in `index.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub digest: Digest,
    pub media_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// As in `linux/arm64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    pub size: u64,
    /// It is named, and not there.
    pub absent: bool,
    /// What it leads to stands where it was met first.
    pub repeated: bool,
    pub children: Vec<Node>,
}

/// What something is to what names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    Index,
    Manifest,
    Config,
    Layer,
    /// It names the manifest above it as its subject, or signs it under a tag of cosign.
    Referrer,
    /// A child of an index whose type is not known.
    Other,
}

/// The trees of all roots.
pub fn grow(survey: &Survey, platforms: &HashMap<Digest, Platform>, absent: &HashSet<Digest>) -> Vec<Node> {
    let mut growing = Growing { survey, platforms, absent, unfolded: HashSet::new() };
    images::roots(survey).iter().map(|root| growing.node(root, None)).collect()
}

struct Growing<'a> {
    survey: &'a Survey,
    platforms: &'a HashMap<Digest, Platform>,
    absent: &'a HashSet<Digest>,
    unfolded: HashSet<Digest>,
}

impl Growing<'_> {
    fn node(&mut self, descriptor: &Descriptor, role: Option<Role>) -> Node {
        let (digest, survey) = (descriptor.digest, self.survey);
        let manifest = survey.manifests.get(&digest);
        let is_blob = matches!(role, Some(Role::Config | Role::Layer)) && !descriptor.is_manifest();
        let own = match &descriptor.media_type {
            kind if media_type::is_index(kind) => Role::Index,
            kind if media_type::is_manifest(kind) => Role::Manifest,
            _ => Role::Other,
        };
        let platform = descriptor.platform.as_ref().or_else(|| self.platforms.get(&digest));
        let name = descriptor.annotation(annotation::SOURCE).or_else(|| descriptor.annotation(annotation::REF_NAME));
        let repeated = !is_blob && !self.unfolded.insert(digest);
        Node {
            role: role.unwrap_or(own),
            name: name.map(str::to_owned),
            digest,
            media_type: descriptor.media_type.clone(),
            artifact_type: manifest.and_then(|_| artifact_type(survey, &digest)),
            platform: platform.filter(|p| runs_on::is_real(p)).map(Platform::to_string),
            size: descriptor.size,
            absent: if is_blob { self.absent.contains(&digest) } else { !self.is_there(&digest) },
            repeated,
            children: if is_blob || repeated { Vec::new() } else { self.children(&digest) },
        }
    }

    fn is_there(&self, digest: &Digest) -> bool {
        self.survey.manifests.contains_key(digest) || self.survey.leaves.contains_key(digest)
    }

    /// Children in the order of the manifest, then what refers to it.
    fn children(&mut self, digest: &Digest) -> Vec<Node> {
        let survey = self.survey;
        let mut nodes = Vec::new();
        if let Some(children) = survey.children.get(digest) {
            nodes.extend(children.manifests.iter().map(|child| self.node(child, None)));
            nodes.extend(children.config.iter().map(|config| self.node(config, Some(Role::Config))));
            nodes.extend(children.layers.iter().map(|layer| self.node(layer, Some(Role::Layer))));
        }
        let referrers = survey.referrers.get(digest).into_iter().flatten();
        nodes.extend(referrers.map(|referrer| self.node(referrer, Some(Role::Referrer))));
        nodes
    }
}
