//! Foreign layers at the addresses that their descriptors name (image-spec, descriptor.md, `urls`), in order, when the
//! registry lacks them.
//!
//! Invariants: no credential and no client certificate goes there, whatever is asked for; only HTTPS is spoken, and plain
//! HTTP on this machine; a redirect leads to no other kind of place. What comes is verified like any blob.

use std::collections::VecDeque;
use std::sync::Arc;

use url::Url;

use super::answer::Answer;
use super::auth::Scopes;
use super::exchange::Ask;
use super::route::Route;
use super::transport::is_loopback;
use super::{Client, Result};
use crate::config::endpoint::authority;
use crate::config::{Endpoint, Referrers, Tls};
use crate::image::Descriptor;
use crate::store::Error;
use crate::store::error::printable;

/// Addresses of one layer that are tried.
const ADDRESSES: usize = 16;
/// Tries at each.
const TRIES: u32 = 3;

/// The addresses of one blob, and what became of those that were tried.
pub struct Elsewhere {
    what: String,
    untried: VecDeque<String>,
    current: Option<(Arc<Route>, Url)>,
    failures: Vec<String>,
}

impl Elsewhere {
    /// None but for a foreign layer: others belong in the registry.
    pub fn of(descriptor: &Descriptor) -> Self {
        let addresses = descriptor.urls.iter().filter(|_| descriptor.is_foreign()).take(ADDRESSES);
        let what = format!("blob {}", descriptor.digest);
        Elsewhere { what, untried: addresses.cloned().collect(), current: None, failures: Vec::new() }
    }

    /// Whether the registry is not asked any more.
    pub fn is_used(&self) -> bool {
        self.current.is_some()
    }

    /// Goes on to the next address, since `error` came of the registry, or of the address before. Fails when there is none.
    pub fn go_on(&mut self, error: Error) -> Result<()> {
        if self.untried.is_empty() && self.failures.is_empty() {
            return Err(error);
        }
        self.failures.push(match error {
            Error::Missing { place, .. } => place,
            other => other.to_string(),
        });
        while let Some(address) = self.untried.pop_front() {
            match permitted(&address) {
                Some(url) => {
                    self.current = Some((Arc::new(route_to(&url)), url));
                    return Ok(());
                }
                None => self.failures.push(format!("{} (only https is followed)", printable(&address))),
            }
        }
        Err(self.nowhere())
    }

    /// Asks the address. Anything but an answer with content is an error.
    pub async fn ask(&self, client: &Client, ask: Ask<'_>) -> Result<Answer> {
        let Some((route, url)) = &self.current else { return Err(self.nowhere()) };
        let ask = Ask { scopes: Scopes::none(), what: format!("{} at {}", ask.what, place_of(url)), ..ask };
        let answer = client.persist(route, &ask, url.clone(), TRIES).await?;
        match answer.status() {
            200 | 206 | 416 => Ok(answer),
            _ => Err(answer.into_error(&ask.what).await),
        }
    }

    fn nowhere(&self) -> Error {
        Error::Missing { what: self.what.clone(), place: self.failures.join(", nor to be had: ") }
    }
}

fn permitted(address: &str) -> Option<Url> {
    Url::parse(address).ok().filter(|url| is_open_to_all(url) && url.username().is_empty() && url.password().is_none())
}

/// Whether what has no credential may be asked for at `url`.
pub fn is_open_to_all(url: &Url) -> bool {
    url.host().is_some() && (url.scheme() == "https" || url.scheme() == "http" && is_loopback(url))
}

/// Without the path: it may be signed.
fn place_of(url: &Url) -> String {
    printable(&authority(url))
}

fn route_to(url: &Url) -> Route {
    let endpoint = Endpoint {
        url: url.clone(),
        repository: String::new(),
        is_mirror: false,
        tls: Tls::default(),
        supports_referrers: Referrers::Auto,
    };
    Route::anonymous(endpoint, place_of(url))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    #[test]
    fn only_encrypted_addresses_without_a_password_are_followed_and_those_of_this_machine() {
        for good in ["https://a.example/x?y", "http://127.0.0.1:8/x", "https://127.0.0.1/"] {
            assert!(permitted(good).is_some(), "{good}");
        }
        for bad in ["http://a.example/x", "file:///etc/passwd", "https://me:pw@a.example/", "ftp://a.example/", "x", ""]
        {
            assert!(permitted(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_tried_in_order_and_all_failures_are_told() {
        let mut layer = Descriptor::new("application/vnd.oci.image.layer.v1.tar", Digest::sha256(b""), 0);
        layer.urls = vec!["https://a.example/1".into(), "http://b.example/2".into(), "https://c.example/3".into()];
        let missing = |place: &str| Error::Missing { what: "blob".into(), place: place.into() };
        assert!(Elsewhere::of(&layer).go_on(missing("reg")).is_err(), "it is not foreign");
        layer.media_type = "application/vnd.oci.image.layer.nondistributable.v1.tar".into();
        let mut elsewhere = Elsewhere::of(&layer);
        assert!(!elsewhere.is_used());
        elsewhere.go_on(missing("reg")).unwrap();
        assert_eq!(elsewhere.current.as_ref().unwrap().1.as_str(), "https://a.example/1");
        elsewhere.go_on(missing("a")).unwrap();
        assert_eq!(elsewhere.current.as_ref().unwrap().1.as_str(), "https://c.example/3");
        let error = elsewhere.go_on(missing("c")).unwrap_err().to_string();
        assert!(error.contains("reg, nor to be had: a, nor to be had: http://b.example/2 (only https"), "{error}");
    }
}
