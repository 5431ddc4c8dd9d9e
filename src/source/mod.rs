//! What to take: the list of sources ([`list`]) and the labels by which a part of it is chosen
//! ([`selector`]). A [`Source`] that exists has a reference that parses and labels that Kubernetes
//! would accept; its text is kept verbatim, since that is what travels in annotations.

pub mod label;
pub mod list;
pub mod selector;

pub use selector::Selector;

use std::fmt;

use crate::image::descriptor::Annotations;
use crate::image::{Descriptor, ImageName, annotation};
use crate::store::error::printable;

/// One image to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Line of the list it stands on, from 1.
    pub line: usize,
    /// The reference as it was written: the wire format keeps it verbatim.
    pub text: String,
    pub image: ImageName,
    /// Labels of the line; empty if it has none.
    pub labels: Annotations,
}

/// A line that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// From 1.
    pub line: usize,
    pub reason: String,
}

/// Why a list, a selector or labels cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Every bad line of a list, in file order; printed one a line as `NAME:LINE: REASON`.
    #[error("{}", Lines(name, lines))]
    Lines { name: String, lines: Vec<BadLine> },
    #[error("{name}: {reason}")]
    List { name: String, reason: String },
    #[error("{name}: {source}")]
    Io { name: String, source: std::io::Error },
    #[error("selector {text:?}: {reason}")]
    Selector { text: String, reason: String },
    #[error("{image}: its annotation {key} does not hold labels: {reason}", key = annotation::LABELS)]
    Labels { image: String, reason: String },
}

struct Lines<'a>(&'a str, &'a [BadLine]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, bad) in self.1.iter().enumerate() {
            write!(f, "{}{}:{}: {}", if i == 0 { "" } else { "\n" }, self.0, bad.line, bad.reason)?;
        }
        Ok(())
    }
}

/// Whether one of the selectors matches. No selectors at all choose everything.
pub fn matches_any(selectors: &[Selector], labels: &Annotations) -> bool {
    selectors.is_empty() || selectors.iter().any(|s| s.matches(labels))
}

/// The labels that a gathered image carries in its annotation; none if it has no such annotation.
/// An annotation that is not a JSON object of strings is an error: to ignore it could leave an image behind.
pub fn labels_of(descriptor: &Descriptor) -> Result<Annotations, Error> {
    match descriptor.annotation(annotation::LABELS) {
        None => Ok(Annotations::new()),
        Some(text) => serde_json::from_str(text).map_err(|e| Error::Labels {
            image: printable(descriptor.annotation(annotation::SOURCE).unwrap_or(&descriptor.digest.to_string())),
            reason: e.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    #[test]
    fn labels_come_from_the_annotation() {
        let mut d = Descriptor::new("x", Digest::sha256(b""), 0);
        assert!(labels_of(&d).unwrap().is_empty());
        d.annotations.insert(annotation::LABELS.into(), r#"{"component":"core"}"#.into());
        let labels = labels_of(&d).unwrap();
        assert_eq!(labels["component"], "core");
        let selectors = [Selector::parse("component=extra").unwrap(), Selector::parse("component=core").unwrap()];
        assert!(matches_any(&selectors, &labels));
        assert!(!matches_any(&selectors[..1], &labels));
        assert!(matches_any(&[], &labels));
        d.annotations.insert(annotation::LABELS.into(), "core".into());
        assert!(labels_of(&d).unwrap_err().to_string().contains("data.act3-ace.io/labels"));
    }
}
