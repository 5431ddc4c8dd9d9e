//! The `index.json` of an archive: the first names the root, the last everything that is to be found.

use serde::{Deserialize, Serialize};

use crate::image::descriptor::{Annotations, null_is_empty};
use crate::image::{Descriptor, annotation, go_json, media_type};

/// The largest `index.json` that is read, in bytes.
pub const MAX_INDEX_BYTES: u64 = 64 << 20;
/// The value of [`annotation::SERIALIZATION_VERSION`].
const SERIALIZATION: &str = "2";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    schema_version: u8,
    media_type: &'a str,
    manifests: &'a [Descriptor],
    annotations: Annotations,
}

/// The bytes of an `index.json`. `deduplicated` is the value of the gather index, `0` where it has none.
pub fn build(manifests: &[Descriptor], deduplicated: &str) -> serde_json::Result<Vec<u8>> {
    go_json::indented(&Wire {
        schema_version: 2,
        media_type: media_type::OCI_INDEX,
        manifests,
        annotations: Annotations::from([
            (annotation::SIZE_DEDUPLICATED.into(), deduplicated.into()),
            (annotation::SERIALIZATION_VERSION.into(), SERIALIZATION.into()),
            (annotation::VERSION.into(), annotation::FORMAT_VERSION.into()),
        ]),
    })
}

#[derive(Deserialize)]
struct Read {
    #[serde(default, deserialize_with = "null_is_empty")]
    manifests: Vec<Descriptor>,
    #[serde(default, deserialize_with = "null_is_empty")]
    annotations: Annotations,
}

/// The descriptors of an `index.json`, the root first. Warns of a format that is newer than ours.
pub fn parse(bytes: &[u8]) -> serde_json::Result<Vec<Descriptor>> {
    let read: Read = serde_json::from_slice(bytes)?;
    if let Some(version) = read.annotations.get(annotation::SERIALIZATION_VERSION).filter(|v| *v != SERIALIZATION) {
        tracing::warn!("the archive has format version {version:?}; {SERIALIZATION} is what is known here");
    }
    Ok(read.manifests)
}
