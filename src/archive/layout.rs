//! The `oci-layout` entry, which is the first of an archive. The layout specification lets it have more fields
//! than the version: in a differential archive it lists what is expected to be on the other side already, so
//! that a reader knows before anything else has passed, and other readers never notice.

use serde::{Deserialize, Serialize};

use crate::image::Descriptor;
use crate::image::descriptor::null_is_empty;

/// The version that the specification has.
const VERSION: &str = "1.0.0";

/// The largest `oci-layout` that is read, in bytes.
pub const MAX_LAYOUT_BYTES: u64 = 64 << 20;

#[derive(Deserialize, Serialize)]
struct Wire {
    #[serde(rename = "imageLayoutVersion", default)]
    version: String,
    #[serde(
        rename = "vnd.airgap-mirror.expects",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    expects: Vec<Descriptor>,
}

/// The bytes of `oci-layout`, for an archive that leaves `expects` out.
pub fn build(expects: Vec<Descriptor>) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Wire { version: VERSION.into(), expects })
}

/// What the archive leaves out and expects on the other side: media type, digest and size of each.
pub fn parse(bytes: &[u8]) -> serde_json::Result<Vec<Descriptor>> {
    let wire: Wire = serde_json::from_slice(bytes)?;
    if wire.version != VERSION {
        let version: String = wire.version.chars().take(40).collect();
        tracing::warn!("the archive has layout version {version:?}; {VERSION} is what is known here");
    }
    Ok(wire.expects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    #[test]
    fn a_whole_archive_has_the_usual_entry() {
        assert_eq!(build(Vec::new()).unwrap(), br#"{"imageLayoutVersion":"1.0.0"}"#);
        assert!(parse(br#"{"imageLayoutVersion":"1.0.0","other":[1]}"#).unwrap().is_empty());
    }

    #[test]
    fn what_is_left_out_is_listed() {
        let layer = Descriptor::new("application/vnd.oci.image.layer.v1.tar", Digest::sha256(b"x"), 1);
        let bytes = build(vec![layer.clone()]).unwrap();
        assert!(bytes.starts_with(br#"{"imageLayoutVersion":"1.0.0","#));
        assert_eq!(parse(&bytes).unwrap(), [layer]);
    }
}
