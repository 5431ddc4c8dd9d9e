//! The commit object: written when all of an archive is there and compared, so that no reader takes half of one.

use std::io;

use serde::{Deserialize, Serialize};

use crate::image::Digest;
use crate::medium::identity::Identity;

/// What the first version of it is called.
const SCHEMA: &str = "mirror/object/v1";

/// Says what an object holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    pub schema: String,
    pub archive: Identity,
    /// Bytes of the object.
    pub length: u64,
    /// Bytes of each part but the last, which may have fewer.
    pub part_size: u64,
    /// The digest of each part, in order.
    pub parts: Vec<Digest>,
}

impl Commit {
    pub fn new(archive: Identity, length: u64, part_size: u64, parts: Vec<Digest>) -> Self {
        Commit { schema: SCHEMA.into(), archive, length, part_size, parts }
    }

    /// Reads one, and says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let commit: Commit =
            serde_json::from_slice(bytes).map_err(|e| crate::store::error::printable(&e.to_string()))?;
        if commit.schema != SCHEMA {
            return Err("it has another form than this program knows: use a newer one".into());
        }
        if commit.part_size == 0 || commit.length.div_ceil(commit.part_size) != commit.parts.len() as u64 {
            return Err(format!("{} parts do not make {} bytes", commit.parts.len(), commit.length));
        }
        Ok(commit)
    }

    pub fn to_json(&self) -> io::Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_refused_where_it_contradicts_itself() {
        let digest = Digest::sha256(b"");
        let archive = Identity { reference: "a".into(), root: digest, plan: digest, compression: None };
        let commit = Commit::new(archive, 25, 10, vec![digest; 3]);
        assert_eq!(Commit::parse(&commit.to_json().unwrap()), Ok(commit.clone()));
        for wrong in [
            Commit { length: 31, ..commit.clone() },
            Commit { length: 20, ..commit.clone() },
            Commit { part_size: 0, ..commit.clone() },
            Commit { schema: "mirror/object/v2".into(), ..commit.clone() },
        ] {
            assert!(Commit::parse(&wrong.to_json().unwrap()).is_err());
        }
        assert!(Commit::parse(b"{").is_err());
    }
}
