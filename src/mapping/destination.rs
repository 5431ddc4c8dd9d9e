//! From what a rule made to a name that can be written to. A destination holds no digest but that of the
//! image, and in a layout it leads nowhere but where the rule's own text points.

use std::path::{Component, Path};

use super::Error;
use crate::image::reference::Name;
use crate::image::{Descriptor, ImageName, annotation};
use crate::store::error::printable;

/// What a rule made for an image.
pub struct Candidate {
    /// Where the rule stands, for messages: `FILE:LINE`.
    pub rule: String,
    pub text: String,
    /// Bytes at the start of `text` that the rule itself wrote; what follows came from the image.
    pub own: usize,
}

impl Candidate {
    /// The name, or an error that says which image, which rule and what it made.
    pub fn name(self, image: &Descriptor) -> Result<ImageName, Error> {
        let name: Result<ImageName, String> =
            self.text.parse().map_err(|e: crate::image::reference::ReferenceError| e.reason);
        match name.and_then(|name| self.contained(name)) {
            Ok(name) => Ok(own_digest(name, image)),
            Err(reason) => Err(Error::Destination {
                image: described(image),
                rule: self.rule,
                result: printable(&self.text),
                reason,
            }),
        }
    }

    fn contained(&self, name: ImageName) -> Result<ImageName, String> {
        let ups = |text: &str| {
            let text = text.strip_prefix("oci:").unwrap_or(text);
            let directory = text.split_once(':').map_or(text, |(directory, _)| directory);
            Path::new(directory).components().filter(|c| *c == Component::ParentDir).count()
        };
        let is_layout = matches!(name, ImageName::Layout { .. });
        if is_layout && ups(&self.text) > ups(self.text.get(..self.own).unwrap_or_default()) {
            return Err("a directory made from the name of an image must not contain ..".into());
        }
        Ok(name)
    }
}

/// The image as messages name it: by its source, or by its digest if it has none.
pub fn described(image: &Descriptor) -> String {
    match image.annotation(annotation::SOURCE) {
        Some(source) => printable(source),
        None => image.digest.to_string(),
    }
}

/// The name with no digest but the image's own. A source `repo:tag@DIGEST` of which one platform was
/// taken has the digest of the index, and nothing can be pushed by the digest of something else.
fn own_digest(mut name: ImageName, image: &Descriptor) -> ImageName {
    match &mut name {
        ImageName::Registry(reference) => {
            if reference.digest.is_some_and(|d| d != image.digest) {
                reference.digest = reference.tag.is_none().then_some(image.digest);
            }
        }
        ImageName::Layout { name: Some(Name::Digest(digest)), .. } => *digest = image.digest,
        ImageName::Layout { .. } => {}
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    fn made(text: &str, own: usize) -> Result<String, Error> {
        let image = Descriptor::new("x", Digest::sha256(b"image"), 5);
        Candidate { rule: "rules.csv:7".into(), text: text.into(), own }.name(&image).map(|n| n.to_string())
    }

    #[test]
    fn holds_only_the_digest_of_the_image() {
        let own = Digest::sha256(b"image");
        let other = Digest::sha256(b"index");
        for (text, name) in [
            ("r.example/a:t".into(), "r.example/a:t".into()),
            (format!("r.example/a:t@{own}"), format!("r.example/a:t@{own}")),
            (format!("r.example/a:t@{other}"), "r.example/a:t".to_string()),
            (format!("r.example/a@{other}"), format!("r.example/a@{own}")),
            (format!("oci:dir@{other}"), format!("oci:dir@{own}")),
        ] {
            assert_eq!(made(&text, 0).unwrap(), name);
        }
    }

    #[test]
    fn does_not_lead_out_of_a_layout() {
        assert!(made("oci:../out/a:v1", 11).is_ok());
        assert!(made("oci:out/../../etc:v1", 8).is_err());
        assert!(made("oci:out/../etc:v1", 0).is_err());
        assert!(made("oci:out/../etc:v1", 9).is_err());
        assert!(made("oci:../out:v1", 13).is_ok());
    }

    #[test]
    fn an_error_names_image_rule_and_result() {
        let error = made("r.example/UPPER:v1", 0).unwrap_err().to_string();
        assert!(error.starts_with("rules.csv:7: sha256:"), "{error}");
        assert!(error.contains("would go to \"r.example/UPPER:v1\": "), "{error}");
    }
}
