//! How a registry is reached: its endpoints, and the TLS settings of each.
//!
//! Invariant: an endpoint is plain HTTP only when its host is loopback or its URL says `http://`; it never
//! carries credentials, a query or a fragment.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use url::Url;

/// What a repository is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read an image from it, named by a digest or not: mirrors may stand in for it.
    Pull { by_digest: bool },
    /// To write to it, and to ask whether it has something: it itself, nothing else.
    Push,
}

/// What the configuration says of one repository of a registry.
#[derive(Clone, Debug, PartialEq)]
pub struct RegistryPolicy {
    /// Tried in order: the next one when one cannot be reached or keeps answering 5xx, and after a mirror also when
    /// that does not have it. Empty only for a text that is no host.
    pub endpoints: Vec<Endpoint>,
    /// What is read there need not be in the repository of that name: writes go elsewhere.
    pub is_away: bool,
    pub limits: Limits,
}

/// How hard a registry may be asked at most, over all its endpoints' hosts each. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Above zero.
    pub requests_per_second: Option<f64>,
    /// Content in both directions together. Above zero.
    pub bytes_per_second: Option<u64>,
    /// Requests in flight at once. Above zero.
    pub connections: Option<usize>,
}

/// One address of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Scheme, host, port, and a path prefix if the registry is not at the root: `/v2/…` comes after it.
    pub url: Url,
    /// The repository's name there.
    pub repository: String,
    /// It need not have everything: what it refuses, the next endpoint is asked for.
    pub is_mirror: bool,
    pub tls: Tls,
    pub supports_referrers: Referrers,
}

/// TLS settings of one endpoint. Files are PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Certificate authorities to trust besides the system's.
    pub ca: Vec<PathBuf>,
    /// Certificate chain and private key that the client shows.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Takes any certificate. Anyone between here and there can then read and change everything but
    /// what a digest protects.
    pub insecure_skip_verify: bool,
}

/// How the referrers of a manifest are found and recorded (distribution-spec 1.1, "Listing referrers").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Referrers {
    /// The API where the registry has it, else the tag schema.
    #[default]
    Auto,
    Api,
    Tag,
}

impl Referrers {
    /// As the configuration file has it.
    pub fn name(self) -> &'static str {
        match self {
            Referrers::Auto => "auto",
            Referrers::Api => "api",
            Referrers::Tag => "tag",
        }
    }
}

/// Whether `host` (with or without a port) is this machine: `localhost`, `*.localhost`, 127.0.0.0/8, `[::1]`.
pub fn is_loopback(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().and_then(|a| a.parse::<Ipv6Addr>().ok()).is_some_and(|a| a.is_loopback());
    }
    let name = host.split(':').next().unwrap_or_default().to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || name.parse::<Ipv4Addr>().is_ok_and(|a| a.is_loopback())
}

/// Reads an endpoint as a configuration file gives it: a URL, or a host with an optional port and path.
/// The error says what is wrong, without the text itself (it may hold a password).
pub(super) fn parse_url(text: &str) -> Result<Url, String> {
    let with_scheme;
    let text = text.trim();
    let full = if text.contains("://") {
        text
    } else {
        let scheme = if is_loopback(text.split('/').next().unwrap_or_default()) { "http" } else { "https" };
        with_scheme = format!("{scheme}://{text}");
        &with_scheme
    };
    let mut url = Url::parse(full).map_err(|e| format!("not a URL: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("scheme {:?} is not http or https", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL must not hold credentials: use `mirror login`".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a registry's URL has no query or fragment".into());
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("the URL has no host".into());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// The host of an endpoint, with its port where the URL has one.
pub fn authority(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    }
}

/// The endpoint of a host of which no configuration speaks.
pub(super) fn default_url(host: &str) -> Option<Url> {
    let host = if crate::image::reference::is_docker_hub(host) { "registry-1.docker.io" } else { host };
    parse_url(host).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "LOCALHOST:5000", "a.localhost", "127.0.0.1:80", "127.9.9.9", "[::1]", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in
            ["localhost.example.org", "127.0.0.1.nip.io", "notlocalhost", "[::2]:5000", "10.0.0.1", "128.0.0.1", ""]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_bare_host_is_https_unless_it_is_this_machine() {
        for (text, url) in [
            ("reg.low", "https://reg.low/"),
            ("reg.low:5000/prefix/", "https://reg.low:5000/prefix"),
            ("localhost:5000", "http://localhost:5000/"),
            ("[::1]:5000", "http://[::1]:5000/"),
            ("https://localhost:5000", "https://localhost:5000/"),
            ("HTTP://reg.low", "http://reg.low/"),
        ] {
            assert_eq!(parse_url(text).unwrap().as_str(), url);
        }
        assert_eq!(default_url("docker.io").unwrap().as_str(), "https://registry-1.docker.io/");
    }

    #[test]
    fn what_is_no_endpoint_is_refused_without_repeating_it() {
        for text in [
            "",
            "ftp://a",
            "https://",
            "https://user:geheim@a",
            "https://geheim@a",
            "https://a#geheim",
            "file:///etc/passwd",
            "https://a b",
        ] {
            let said = parse_url(text).unwrap_err();
            assert!(!said.contains("geheim"), "{said}");
        }
    }
}
