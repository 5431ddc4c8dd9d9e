//! One way to a repository: an endpoint, the name that the repository has there, and whose credentials may be shown.
//! Invariant: only what has the endpoint's scheme, host and port is home, and home alone gets credentials.

use url::Url;

use super::elsewhere::is_open_to_all;
use crate::config::{Endpoint, Referrers, Tls};

/// How to reach one repository through one endpoint.
pub struct Route {
    endpoint: Endpoint,
    /// Registry whose credentials may be used here.
    pub registry: String,
    /// The repository's name there.
    pub repository: String,
    /// No credential is sent, and no redirect followed to where one could be read.
    is_anonymous: bool,
}

impl Route {
    pub fn new(endpoint: Endpoint, registry: String) -> Self {
        Route { registry, repository: endpoint.repository.clone(), endpoint, is_anonymous: false }
    }

    /// To a place that is no registry of the user's.
    pub fn anonymous(endpoint: Endpoint, place: String) -> Self {
        Route { is_anonymous: true, ..Route::new(endpoint, place) }
    }

    pub fn base(&self) -> &Url {
        &self.endpoint.url
    }

    pub fn referrers(&self) -> Referrers {
        self.endpoint.supports_referrers
    }

    /// It has copies only: what it lacks may be at the next.
    pub fn is_mirror(&self) -> bool {
        self.endpoint.is_mirror
    }

    /// For messages.
    pub fn place(&self) -> String {
        let slash = if self.repository.is_empty() { "" } else { "/" };
        format!("{}{slash}{}", self.registry, self.repository)
    }

    pub fn origin(&self) -> String {
        self.endpoint.url.origin().ascii_serialization()
    }

    /// Whether `url` is at this endpoint (scheme, host and port), and gets its credentials.
    pub fn is_home(&self, url: &Url) -> bool {
        !self.is_anonymous && url.origin() == self.endpoint.url.origin()
    }

    /// Whether a redirect to `url` is followed.
    pub fn leads_to(&self, url: &Url) -> bool {
        matches!(url.scheme(), "http" | "https") && (!self.is_anonymous || is_open_to_all(url))
    }

    /// What is trusted at `url`: elsewhere the client certificate is not shown.
    pub fn tls_for(&self, url: &Url) -> Tls {
        let tls = self.endpoint.tls.clone();
        if self.is_home(url) { tls } else { Tls { client_certificate: None, ..tls } }
    }

    /// `/v2/REPOSITORY/REST` at this endpoint. `rest` is a path with an optional query, already escaped.
    pub fn url(&self, rest: &str) -> Url {
        let mut url = self.endpoint.url.clone();
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        let root = url.path().trim_end_matches('/').trim_end_matches("/v2").to_owned();
        url.set_path(&format!("{root}/v2/{}/{path}", self.repository));
        url.set_query(query);
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(url: &str) -> Route {
        let endpoint = Endpoint {
            url: Url::parse(url).unwrap(),
            repository: "a/b".into(),
            is_mirror: false,
            tls: Tls::default(),
            supports_referrers: Referrers::Auto,
        };
        Route::new(endpoint, "reg".into())
    }

    #[test]
    fn urls_keep_the_endpoints_path() {
        assert_eq!(route("http://h:1").url("tags/list?n=3").as_str(), "http://h:1/v2/a/b/tags/list?n=3");
        assert_eq!(route("http://h/p/").url("blobs/x").as_str(), "http://h/p/v2/a/b/blobs/x");
        assert_eq!(route("http://h/p/v2").url("blobs/x").as_str(), "http://h/p/v2/a/b/blobs/x");
    }

    #[test]
    fn home_is_scheme_host_and_port() {
        let route = route("https://h");
        assert!(route.is_home(&Url::parse("https://h:443/x").unwrap()));
        for other in ["http://h/", "https://h:444/", "https://h.example/"] {
            assert!(!route.is_home(&Url::parse(other).unwrap()), "{other}");
        }
    }
}
