//! What tells one archive from another, whenever and wherever it was written: no date, no host.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::image::Digest;

/// Names an archive. Two runs that write the same bytes have the same identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// What was archived, as the user named it; not part of what is compared by other programs.
    pub reference: String,
    /// Digest of the root manifest.
    pub root: Digest,
    /// Digest of the plan: the headers of all entries in their order, so their names, sizes and places.
    pub plan: Digest,
    /// Method and level, where the archive is compressed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub compression: Option<String>,
}

impl Identity {
    /// Whether both name the same bytes.
    pub fn is_same(&self, other: &Identity) -> bool {
        (self.root, self.plan, &self.compression) == (other.root, other.plan, &other.compression)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", crate::store::error::printable(&self.reference), self.root)
    }
}
