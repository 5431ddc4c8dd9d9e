//! Annotation keys of the wire formats (docs/format.md).

/// The reference a gathered image came from, verbatim from the list.
pub const SOURCE: &str = "vnd.act3-ace.manifest.source";
/// The name of an image in a layout's or archive's `index.json` (image-spec annotations.md).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Labels of a line of the list: a JSON object.
pub const LABELS: &str = "data.act3-ace.io/labels";
/// The index that a platform-filtered image was taken from, verbatim.
pub const SOURCE_INDEX: &str = "data.act3-ace.io/source-index";
/// Version of the writer; ours carries the version of the *format*.
pub const VERSION: &str = "vnd.act3-ace.data.version";
/// Sum of config and layer sizes over every occurrence, decimal bytes.
pub const SIZE_TOTAL: &str = "vnd.act3-ace.data.layer.size.total";
/// The same with each digest counted once.
pub const SIZE_DEDUPLICATED: &str = "vnd.act3-ace.data.layer.size.deduplicated";
/// Indexes left out of `manifests` for registries that refuse an index of indexes: a JSON array in a string.
pub const EXTRA_MANIFESTS: &str = "vnd.act3-ace.data.extra-manifests";
/// Version of the archive format.
pub const SERIALIZATION_VERSION: &str = "vnd.act3-ace.data.serialization.version";
/// Among what an archive expects on the other side: only referrers and subjects of its images need it.
pub const FOR_REFERRERS: &str = "vnd.airgap-mirror.for-referrers";
/// Offset after an entry, in a checkpoint line.
pub const OFFSET: &str = "vnd.act3-ace.data.offset";
/// On which tape an entry ends, in a checkpoint line: `1:0-39118` is tape 1, from position 0 to 39118.
pub const TAPE: &str = "vnd.airgap-mirror.tape";

/// The version that `mirror` writes under [`VERSION`]. It changes with the format, not with the
/// program, so that an upgrade of the program changes no digest.
pub const FORMAT_VERSION: &str = "mirror1";
