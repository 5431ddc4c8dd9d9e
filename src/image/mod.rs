//! The nouns of OCI content: references, digests, descriptors, manifests, platforms, annotations.
//!
//! Pure values, no I/O. Every other room speaks in these.

pub mod annotation;
pub mod descriptor;
pub mod digest;
pub mod gather_index;
pub mod go_json;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod reference;
pub mod size;

pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, Hasher};
pub use manifest::{Children, Manifest};
pub use platform::Platform;
pub use reference::{ImageName, Reference};
