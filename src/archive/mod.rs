//! How images travel: the tar form of an OCI image layout (docs/format.md, "Archive").
//!
//! Invariants: the same plan gives the same bytes on any machine; nothing that a header says is used as a
//! path or as a size to allocate.

pub mod checkpoint;
pub mod contents;
pub mod docker;
pub mod follow;
pub mod index;
pub mod layout;
pub mod pass;
pub mod plan;
pub mod reader;
pub mod tar;

pub use crate::medium::compression::Compression;
