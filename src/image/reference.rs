//! References: `host/repo:tag`, `host/repo@digest`, and images in a layout directory, `oci:DIR[:TAG]`.
//! A `Reference` keeps the words of its writer; the network's view of it (`docker.io`'s real host, the
//! implied `library/`) is computed, never stored.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::Digest;

/// An image in a registry. Grammar: distribution-spec, "Pulling manifests".
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Host, with its port if it has one, as written.
    pub registry: String,
    /// Path of the repository in the registry, as written.
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

/// What a name stands for within one repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    Tag(String),
    Digest(Digest),
}

/// Where an image is: wherever a command takes IMAGE.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageName {
    Registry(Reference),
    /// An OCI image layout directory. The name is looked for in `org.opencontainers.image.ref.name`.
    Layout {
        directory: PathBuf,
        name: Option<Name>,
    },
}

/// Why a text is not a reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a reference: {reason}")]
pub struct ReferenceError {
    pub text: String,
    pub reason: String,
}

fn bad(text: &str, reason: impl Into<String>) -> ReferenceError {
    ReferenceError { text: text.chars().take(200).collect(), reason: reason.into() }
}

impl Reference {
    /// What to ask the repository for: the digest if there is one, else the tag, else `latest`.
    pub fn name(&self) -> Name {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Name::Digest(*digest),
            (None, Some(tag)) => Name::Tag(tag.clone()),
            (None, None) => Name::Tag("latest".into()),
        }
    }

    /// Host that the network knows: `docker.io` and `index.docker.io` are `registry-1.docker.io`.
    pub fn network_host(&self) -> &str {
        if is_docker_hub(&self.registry) { "registry-1.docker.io" } else { &self.registry }
    }

    /// Repository that the network knows: on Docker Hub a name of one component is under `library/`.
    pub fn network_repository(&self) -> String {
        if is_docker_hub(&self.registry) && !self.repository.contains('/') {
            format!("library/{}", self.repository)
        } else {
            self.repository.clone()
        }
    }
}

/// The names under which Docker Hub is known.
pub fn is_docker_hub(registry: &str) -> bool {
    matches!(registry, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub fn is_tag(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 128
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// A repository path: components of lower-case letters and digits, joined by `/`, each with single
/// `.`, one or two `_`, or any number of `-` inside.
pub fn is_repository(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && text.split('/').all(is_component)
}

fn is_component(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().copied().is_some_and(alnum) || !bytes.last().copied().is_some_and(alnum) {
        return false;
    }
    text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|sep| sep.is_empty() || matches!(sep, "." | "_" | "__") || sep.bytes().all(|b| b == b'-'))
}

fn is_registry(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else { return false };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        ("ipv6", if after.is_empty() { None } else { after.strip_prefix(':').or(Some("")) })
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let host_ok = !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        });
    host_ok && port.is_none_or(|p| p.parse::<u16>().is_ok())
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if let Some(c) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
            return Err(bad(text, format!("it contains {c:?}")));
        }
        let Some((registry, rest)) = text.split_once('/') else {
            return Err(bad(text, "it has no registry: write host/repository:tag, for Docker Hub docker.io/NAME"));
        };
        if !is_registry(registry) {
            return Err(bad(text, format!("{registry:?} is not a host with an optional port")));
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|e| bad(text, e.to_string()))?)),
            None => (rest, None),
        };
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if !is_repository(repository) {
            return Err(bad(
                text,
                format!("{repository:?} is not a repository (lower-case letters, digits, . _ - and /)"),
            ));
        }
        if let Some(tag) = tag.filter(|t| !is_tag(t)) {
            return Err(bad(text, format!("{tag:?} is not a tag (letters, digits, . _ -, at most 128)")));
        }
        Ok(Reference { registry: registry.into(), repository: repository.into(), tag: tag.map(Into::into), digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Tag(tag) => f.write_str(tag),
            Name::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

impl FromStr for ImageName {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let Some(rest) = text.strip_prefix("oci:") else {
            return text.parse().map(ImageName::Registry);
        };
        if let Some((directory, digest)) = rest.rsplit_once('@')
            && let Ok(digest) = digest.parse::<Digest>()
            && !directory.is_empty()
        {
            return Ok(ImageName::Layout { directory: directory.into(), name: Some(Name::Digest(digest)) });
        }
        // The name in a layout may itself be REPO:TAG, so it begins at the first colon; a path with a
        // colon is written with a trailing slash before the name, or without a name as DIR/.
        let (directory, name) = match rest.split_once(':') {
            Some((directory, name)) if !name.contains('\\') => (directory, Some(name)),
            _ => (rest, None),
        };
        if directory.is_empty() {
            return Err(bad(text, "oci: needs a directory, as in oci:DIR:TAG"));
        }
        if let Some(name) = name
            && (name.is_empty() || name.len() > 512 || name.chars().any(|c| c.is_whitespace() || c.is_control()))
        {
            return Err(bad(text, "the name after the directory is empty or has blanks"));
        }
        Ok(ImageName::Layout { directory: directory.into(), name: name.map(|n| Name::Tag(n.into())) })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageName::Registry(reference) => reference.fmt(f),
            ImageName::Layout { directory, name } => {
                write!(f, "oci:{}", directory.display())?;
                match name {
                    Some(Name::Tag(tag)) => write!(f, ":{tag}"),
                    Some(Name::Digest(digest)) => write!(f, "@{digest}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl ImageName {
    /// What to ask the store for.
    pub fn name(&self) -> Name {
        match self {
            ImageName::Registry(reference) => reference.name(),
            ImageName::Layout { name, .. } => name.clone().unwrap_or_else(|| Name::Tag("latest".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_forms() {
        let r: Reference = "docker.io/busybox:1.36".parse().unwrap();
        assert_eq!(r.network_host(), "registry-1.docker.io");
        assert_eq!(r.network_repository(), "library/busybox");
        assert_eq!(r.to_string(), "docker.io/busybox:1.36");
        let r: Reference = "[::1]:5000/a/b__c/d-e.f".parse().unwrap();
        assert_eq!((r.registry.as_str(), r.name()), ("[::1]:5000", Name::Tag("latest".into())));
        let d = Digest::sha256(b"");
        let r: Reference = format!("localhost:5000/a:t@{d}").parse().unwrap();
        assert_eq!(r.name(), Name::Digest(d));
        let i: ImageName = "oci:dir/x:repo:tag".parse().unwrap();
        assert_eq!(i, ImageName::Layout { directory: "dir/x".into(), name: Some(Name::Tag("repo:tag".into())) });
        assert_eq!("oci:dir".parse::<ImageName>().unwrap().name(), Name::Tag("latest".into()));
    }

    #[test]
    fn refuses_what_is_not_a_reference() {
        for bad in [
            "busybox",
            "reg/UPPER",
            "reg/a//b",
            "reg/a:é",
            "reg/a@sha256:12",
            "reg/../a",
            "reg:x/a",
            "/a",
            "reg/",
            "reg/a:",
            "reg/a b",
            "reg/a_-b",
            "reg/a___b",
            "oci:",
            "https://reg/a",
        ] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad}");
        }
    }
}
