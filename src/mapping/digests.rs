//! The ruleset `digests`: a table from an image's digest to its destination. A destination that ends in
//! `/` gets the image's path without its registry appended; any other is taken as it stands.

use std::collections::HashMap;

use super::destination::Candidate;
use super::table::{self, Row};
use super::{Error, source_path};
use crate::image::reference::Name;
use crate::image::{Descriptor, Digest, ImageName};

/// The table, by digest; the rows of a digest in file order.
pub struct Digests {
    path: String,
    rows: HashMap<Digest, Vec<Row>>,
}

impl Digests {
    /// Reads the table. A fixed destination that cannot be one is an error here already.
    pub fn load(path: &str) -> Result<Self, Error> {
        let mut rows: HashMap<Digest, Vec<Row>> = HashMap::new();
        for row in table::load(path, |row| check(row).map(|_| ()))? {
            if let Ok(digest) = row.what.parse() {
                rows.entry(digest).or_default().push(row);
            }
        }
        Ok(Digests { path: path.into(), rows })
    }

    /// What the rows of the image's digest make of it.
    pub fn apply(&self, image: &Descriptor, source: Option<&str>) -> Vec<Candidate> {
        let rows = self.rows.get(&image.digest).map(Vec::as_slice).unwrap_or_default();
        rows.iter()
            .map(|row| {
                let rest = match row.destination.ends_with('/') {
                    true => source.map(source_path::without_registry).unwrap_or_default(),
                    false => String::new(),
                };
                Candidate {
                    rule: format!("{}:{}", self.path, row.line),
                    text: format!("{}{rest}", row.destination),
                    own: row.destination.len(),
                }
            })
            .collect()
    }
}

fn check(row: &Row) -> Result<(), String> {
    let digest: Digest = row.what.parse().map_err(|e: crate::image::digest::DigestError| e.to_string())?;
    if row.destination.ends_with('/') {
        return Ok(());
    }
    let name: ImageName =
        row.destination.parse().map_err(|e: crate::image::reference::ReferenceError| e.to_string())?;
    match name {
        ImageName::Registry(r) if r.digest.is_none_or(|d| d == digest) => Ok(()),
        ImageName::Layout { name: Some(Name::Digest(d)), .. } if d != digest => Err(MISMATCH.into()),
        ImageName::Layout { .. } => Ok(()),
        ImageName::Registry(_) => Err(MISMATCH.into()),
    }
}

const MISMATCH: &str = "the destination has another digest than the image it is for";
