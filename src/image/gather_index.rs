//! The gather index: one OCI index that names every gathered root with the reference it came from.
//! Byte-compatible with the field's format (docs/format.md, "Gather index").

use serde::Serialize;

use super::descriptor::Annotations;
use super::{Descriptor, Manifest, annotation, go_json, media_type};

/// What goes into a gather index besides the roots.
#[derive(Clone, Debug, Default)]
pub struct GatherIndex {
    /// Roots with their annotations. Those of one source must come in the order of its index.
    pub roots: Vec<Descriptor>,
    /// Bytes over every occurrence of a config or layer.
    pub size_total: u64,
    /// Bytes with each digest counted once.
    pub size_deduplicated: u64,
    /// The user's annotations.
    pub annotations: Annotations,
    /// Keep indexes out of `manifests`, in the extra-manifests annotation, for registries that refuse
    /// an index of indexes.
    pub index_fallback: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    schema_version: u8,
    media_type: &'a str,
    artifact_type: &'a str,
    /// `null` for no roots, `[]` for no roots but extra ones: as the format has it.
    manifests: Option<&'a [Descriptor]>,
    annotations: &'a Annotations,
}

/// The descriptor of a gathered root: annotations replaced by those of the format.
pub fn root(mut descriptor: Descriptor, source: &str, labels: &Annotations, source_index: Option<&str>) -> Descriptor {
    descriptor.annotations =
        Annotations::from([(annotation::SOURCE.into(), source.into()), (annotation::REF_NAME.into(), source.into())]);
    if !labels.is_empty() {
        let json = go_json::compact(labels).unwrap_or_default();
        descriptor.annotations.insert(annotation::LABELS.into(), String::from_utf8_lossy(&json).into_owned());
    }
    if let Some(index) = source_index {
        descriptor.annotations.insert(annotation::SOURCE_INDEX.into(), index.into());
    } else {
        descriptor.platform = None;
    }
    descriptor
}

impl GatherIndex {
    /// The manifest to push. The same roots give the same bytes, whatever order they came in.
    pub fn build(mut self) -> serde_json::Result<Manifest> {
        // Stable: the platforms of one source stay in the order of its index.
        self.roots.sort_by(|a, b| {
            let key = |d: &Descriptor| d.annotation(annotation::SOURCE).unwrap_or("zz").to_owned();
            key(a).cmp(&key(b))
        });
        let mut annotations = self.annotations;
        annotations.insert(annotation::VERSION.into(), annotation::FORMAT_VERSION.into());
        annotations.insert(annotation::SIZE_TOTAL.into(), self.size_total.to_string());
        annotations.insert(annotation::SIZE_DEDUPLICATED.into(), self.size_deduplicated.to_string());
        let empty = self.roots.is_empty();
        let (extra, manifests): (Vec<_>, Vec<_>) =
            self.roots.into_iter().partition(|d| self.index_fallback && media_type::is_index(&d.media_type));
        if !extra.is_empty() {
            let json = go_json::compact(&extra)?;
            annotations.insert(annotation::EXTRA_MANIFESTS.into(), String::from_utf8_lossy(&json).into_owned());
        }
        let wire = Wire {
            schema_version: 2,
            media_type: media_type::OCI_INDEX,
            artifact_type: media_type::GATHER,
            manifests: if empty && !self.index_fallback { None } else { Some(&manifests) },
            annotations: &annotations,
        };
        Ok(Manifest::new(media_type::OCI_INDEX, go_json::compact(&wire)?))
    }
}
