//! Descriptors (image-spec, descriptor.md). Field order is that of the wire format, so that what we
//! write is byte-compatible with what the field's tools write.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Digest, Platform, media_type};

/// Annotations, sorted by key as the wire format has them.
pub type Annotations = BTreeMap<String, String>;

/// Names content by type, digest and size, and says where and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    /// Size of the content in bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub annotations: Annotations,
    /// The content itself in base64, where a producer embedded it. Carried, never trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

/// Some writers put `null` where the specification has an empty list or map.
pub(crate) fn null_is_empty<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

impl Descriptor {
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
        }
    }

    /// Type, digest and size only: the descriptor without what a parent said of it.
    pub fn bare(&self) -> Self {
        Descriptor::new(self.media_type.clone(), self.digest, self.size)
    }

    /// [`Descriptor::bare`], and the addresses at which a foreign layer is to be had.
    pub fn with_addresses(&self) -> Self {
        Descriptor { urls: self.urls.clone(), ..self.bare() }
    }

    pub fn is_manifest(&self) -> bool {
        media_type::is_manifest(&self.media_type)
    }

    pub fn is_foreign(&self) -> bool {
        media_type::is_foreign(&self.media_type)
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}
