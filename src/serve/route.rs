//! What a request is about: the path of a URL taken apart into a repository and a thing in it.
//!
//! Invariant: a repository in a `Route` satisfies the grammar of names, so that it cannot be mistaken
//! for anything else wherever it is written.

use url::form_urlencoded;

use super::error::{Code, Refusal};
use crate::image::Digest;
use crate::image::reference::is_repository;

/// One resource of the distribution API.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/v2/`
    Ping,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/NAME/tags/list`
    Tags(String),
    /// `/v2/NAME/manifests/REFERENCE`; the reference is a digest, a tag, or neither.
    Manifest(String, String),
    /// `/v2/NAME/blobs/DIGEST`
    Blob(String, Digest),
    /// `/v2/NAME/blobs/uploads/`
    Uploads(String),
    /// `/v2/NAME/blobs/uploads/ID`
    Upload(String, String),
    /// `/v2/NAME/referrers/DIGEST`
    Referrers(String, Digest),
}

impl Route {
    /// Takes a path apart. `None`: it is no resource of this API.
    pub fn parse(path: &str) -> Result<Option<Route>, Refusal> {
        let Some(path) = percent_decode(path) else { return Ok(None) };
        let rest = match path.strip_prefix("/v2") {
            Some("" | "/") => return Ok(Some(Route::Ping)),
            Some("/_catalog") => return Ok(Some(Route::Catalog)),
            Some(rest) if rest.starts_with('/') => &rest[1..],
            _ => return Ok(None),
        };
        // Names may themselves have components such as `blobs`, so the path is read from its end.
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Ok(Some(Route::Tags(repository(name)?)));
        }
        let Some((head, last)) = rest.rsplit_once('/') else { return Ok(None) };
        if let Some(name) = head.strip_suffix("/blobs/uploads") {
            let name = repository(name)?;
            return Ok(Some(if last.is_empty() { Route::Uploads(name) } else { Route::Upload(name, last.into()) }));
        }
        let Some((name, kind)) = head.rsplit_once('/') else { return Ok(None) };
        Ok(match kind {
            "manifests" => Some(Route::Manifest(repository(name)?, last.into())),
            "blobs" if last == "uploads" => Some(Route::Uploads(repository(name)?)),
            "blobs" => Some(Route::Blob(repository(name)?, digest(last)?)),
            "referrers" => Some(Route::Referrers(repository(name)?, digest(last)?)),
            _ => None,
        })
    }
}

fn repository(name: &str) -> Result<String, Refusal> {
    if is_repository(name) {
        return Ok(name.to_owned());
    }
    Err(Refusal::new(Code::NameInvalid, "the repository's name is not valid: lower-case letters, digits, . _ - and /"))
}

/// A digest from a request.
pub(super) fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|e: crate::image::digest::DigestError| Refusal::new(Code::DigestInvalid, e.to_string()))
}

/// Decodes `%xx`. `None`: it is not well-formed, or not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || (bytes.next()? as char).to_digit(16);
            out.push((digit()? * 16 + digit()?) as u8);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// The query of a URL.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: Option<&str>) -> Self {
        Query(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// All values of a key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The digest under a key, if the key is there.
    pub fn digest(&self, key: &str) -> Result<Option<Digest>, Refusal> {
        self.get(key).map(digest).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_resource() {
        let d = Digest::sha256(b"");
        let r = |path: &str| Route::parse(path).unwrap();
        assert_eq!(r("/v2"), Some(Route::Ping));
        assert_eq!(r("/v2/"), Some(Route::Ping));
        assert_eq!(r("/v2/_catalog"), Some(Route::Catalog));
        assert_eq!(r("/v2/a/b/tags/list"), Some(Route::Tags("a/b".into())));
        assert_eq!(r("/v2/a/manifests/v1"), Some(Route::Manifest("a".into(), "v1".into())));
        assert_eq!(r(&format!("/v2/a/blobs/{d}")), Some(Route::Blob("a".into(), d)));
        assert_eq!(r(&format!("/v2/a/blobs/sha256%3A{}", d.hex())), Some(Route::Blob("a".into(), d)));
        assert_eq!(r("/v2/a/blobs/uploads"), Some(Route::Uploads("a".into())));
        assert_eq!(r("/v2/a/blobs/uploads/"), Some(Route::Uploads("a".into())));
        assert_eq!(r("/v2/a/blobs/uploads/x"), Some(Route::Upload("a".into(), "x".into())));
        assert_eq!(r(&format!("/v2/a/referrers/{d}")), Some(Route::Referrers("a".into(), d)));
    }

    #[test]
    fn names_may_have_the_words_of_the_api_in_them() {
        let d = Digest::sha256(b"");
        let r = |path: &str| Route::parse(path).unwrap();
        assert_eq!(r(&format!("/v2/blobs/manifests/blobs/{d}")), Some(Route::Blob("blobs/manifests".into(), d)));
        assert_eq!(r("/v2/a/tags/list/manifests/v1"), Some(Route::Manifest("a/tags/list".into(), "v1".into())));
        assert_eq!(r("/v2/a/blobs/uploads/tags/list"), Some(Route::Tags("a/blobs/uploads".into())));
    }

    #[test]
    fn refuses_names_that_could_lead_elsewhere() {
        for bad in ["/v2/../tags/list", "/v2/a/../../etc/manifests/x", "/v2/A/tags/list", "/v2/a%2f..%2fb/tags/list"] {
            assert!(Route::parse(bad).is_err(), "{bad}");
        }
        assert!(Route::parse("/v2/a/blobs/sha256:00").is_err());
        for other in ["/", "/v1/", "/v2x/a/tags/list", "/v2/a", "/v2/a/b", "/v2/a/tags/lists", "/v2/%zz/tags/list"] {
            assert_eq!(Route::parse(other).unwrap(), None, "{other}");
        }
    }
}
