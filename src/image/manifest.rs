//! Manifests and indexes as the bytes that were hashed, and the children that they name.
//! A manifest is never re-serialised; only what it points to is read out of it, leniently.

use bytes::Bytes;
use serde::Deserialize;

use super::descriptor::{Annotations, null_is_empty};
use super::{Descriptor, Digest, annotation, media_type};

/// The largest manifest that is read. Registries refuse more than 4 MiB; a gather index of many
/// filtered sources may be larger, so the bound is generous.
pub const MAX_MANIFEST_BYTES: u64 = 32 << 20;

/// A manifest: its verified bytes and the descriptor that names them.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Media type, digest and size, and what the parent said of it.
    pub descriptor: Descriptor,
    pub bytes: Bytes,
}

/// Why the bytes of a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("manifest {digest} is not valid: {reason}")]
pub struct ManifestError {
    pub digest: Digest,
    pub reason: String,
}

/// The part of a manifest or index that matters to `mirror`. Everything is optional, as it is in the wild.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    #[serde(default)]
    pub media_type: Option<String>,
    #[serde(default)]
    pub artifact_type: Option<String>,
    #[serde(default)]
    pub config: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub layers: Vec<Descriptor>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub manifests: Vec<Descriptor>,
    #[serde(default)]
    pub subject: Option<Descriptor>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub annotations: Annotations,
}

/// What a manifest points to, in the order of the wire format: subject, config, layers, manifests,
/// extra manifests.
#[derive(Clone, Debug, Default)]
pub struct Children {
    pub subject: Option<Descriptor>,
    pub config: Option<Descriptor>,
    pub layers: Vec<Descriptor>,
    /// Children of an index, and after them those of its extra-manifests annotation.
    pub manifests: Vec<Descriptor>,
}

impl Children {
    /// All of them, in the order in which they are visited and archived.
    pub fn all(&self) -> impl Iterator<Item = &Descriptor> {
        self.subject.iter().chain(&self.config).chain(&self.layers).chain(&self.manifests)
    }
}

impl Manifest {
    /// Wraps bytes that were made here; the digest is computed.
    pub fn new(media_type: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let descriptor = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
        Manifest { descriptor, bytes }
    }

    pub fn digest(&self) -> Digest {
        self.descriptor.digest
    }

    pub fn media_type(&self) -> &str {
        &self.descriptor.media_type
    }

    /// Reads the JSON. Fails for bytes that are not a JSON object of the expected shape.
    pub fn view(&self) -> Result<View, ManifestError> {
        serde_json::from_slice(&self.bytes).map_err(|e| ManifestError { digest: self.digest(), reason: e.to_string() })
    }

    /// The children by the rules of the wire format: a Docker type has no subject, only an index has
    /// manifests, a type that is not known is a leaf.
    pub fn children(&self) -> Result<Children, ManifestError> {
        if !media_type::is_manifest(self.media_type()) {
            return Ok(Children::default());
        }
        let view = self.view()?;
        let extra = if media_type::is_index(self.media_type()) { self.extra_manifests(&view)? } else { Vec::new() };
        Ok(match self.media_type() {
            media_type::OCI_MANIFEST => {
                Children { subject: view.subject, config: view.config, layers: view.layers, manifests: Vec::new() }
            }
            media_type::DOCKER_MANIFEST => Children { config: view.config, layers: view.layers, ..Children::default() },
            media_type::OCI_INDEX => Children {
                subject: view.subject,
                manifests: view.manifests.into_iter().chain(extra).collect(),
                ..Children::default()
            },
            _ => Children { manifests: view.manifests.into_iter().chain(extra).collect(), ..Children::default() },
        })
    }

    fn extra_manifests(&self, view: &View) -> Result<Vec<Descriptor>, ManifestError> {
        match view.annotations.get(annotation::EXTRA_MANIFESTS) {
            None => Ok(Vec::new()),
            Some(text) => serde_json::from_str(text).map_err(|e| ManifestError {
                digest: self.digest(),
                reason: format!("annotation {}: {e}", annotation::EXTRA_MANIFESTS),
            }),
        }
    }
}

/// The media type of manifest bytes whose server or tar did not say: the `mediaType` field, else by shape.
pub fn sniff_media_type(bytes: &[u8]) -> Option<String> {
    let view: View = serde_json::from_slice(bytes).ok()?;
    if let Some(media_type) = view.media_type.filter(|m| !m.is_empty()) {
        return Some(media_type);
    }
    if view.config.is_some() {
        Some(media_type::OCI_MANIFEST.into())
    } else if !view.manifests.is_empty() {
        Some(media_type::OCI_INDEX.into())
    } else {
        None
    }
}
