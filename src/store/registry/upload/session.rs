//! What the registry says of an upload: where its bytes go (opened anew, or in the place of a mount), and how many of them
//! it has. Invariant: its addresses are used as they came, whatever they look like.

use std::sync::Arc;

use reqwest::Method;
use reqwest::header::{LOCATION, RANGE};
use url::Url;

use super::Push;
use crate::image::{Algorithm, Descriptor};
use crate::store::registry::answer::Answer;
use crate::store::registry::auth::Scopes;
use crate::store::registry::retry::TRIES;
use crate::store::registry::route::Route;
use crate::store::{Error, Result};

const UPLOADS: &str = "blobs/uploads/";

/// An upload that the registry has opened.
pub struct Session {
    pub route: Arc<Route>,
    pub url: Url,
    /// Smallest chunk that the registry takes, in bytes.
    pub smallest_chunk: u64,
}

/// What came of asking for a mount.
pub enum Mount {
    Done,
    /// An upload takes its place.
    Opened(Session),
    Refused,
}

/// Where the upload stands, by the registry's word.
pub enum Standing {
    At(u64),
    Gone,
}

impl Session {
    /// Goes on where the registry says.
    pub fn moved(&mut self, answer: &Answer) {
        let next = answer.header(LOCATION).and_then(|l| answer.url.join(l).ok());
        if let Some(next) = next.filter(|u| matches!(u.scheme(), "http" | "https")) {
            self.url = next;
        }
    }
}

impl Push<'_> {
    /// Asks for the blob to be mounted from that repository of the same registry.
    pub(super) async fn mount(&mut self, from: &str) -> Result<Mount> {
        let path = format!("{UPLOADS}?mount={}&from={from}", self.descriptor.digest);
        match self.repository.ask(&self.ask(Method::POST, &path)).await {
            Ok(answer) if answer.status() == 201 => {
                // Some registries mount a sha512 blob under its sha256 name only.
                let plain = self.descriptor.digest.algorithm() == Algorithm::Sha256;
                if plain || self.repository.blob_exists(self.descriptor).await? {
                    return Ok(Mount::Done);
                }
            }
            Ok(answer) if answer.status() == 202 => return self.session(answer).map(Mount::Opened),
            // It does not mount, or not from there; perhaps not even a token was to be had for that.
            Ok(_) | Err(Error::Unauthorized { .. }) => self.scopes = Scopes::push(&self.repository.repository),
            Err(e) => return Err(e),
        }
        Ok(Mount::Refused)
    }

    pub(super) async fn open(&self) -> Result<Session> {
        let ask = self.ask(Method::POST, UPLOADS);
        let answer = self.repository.ask(&ask).await?;
        match answer.status() {
            202 => self.session(answer),
            // Only a mount is answered so, and none was asked for.
            200..=399 => Err(answer.into_page_error(&ask.what).await),
            _ => Err(answer.into_error(&ask.what).await),
        }
    }

    /// A new session in the place of one that leads nowhere.
    pub(super) async fn begin_again(&mut self) -> Result<Session> {
        self.goes_on = false;
        let session = self.open().await?;
        self.remember(&session);
        Ok(session)
    }

    pub(super) fn session(&self, answer: Answer) -> Result<Session> {
        let url = answer.header(LOCATION).and_then(|l| answer.url.join(l).ok());
        let url = url.filter(|u| matches!(u.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| self.protocol("the registry does not say where to send it (Location)"))?;
        let smallest = answer.header("oci-chunk-min-length").and_then(|h| h.trim().parse().ok()).unwrap_or(0);
        Ok(Session { route: answer.route.clone(), url, smallest_chunk: smallest })
    }

    /// Asks the registry how much it has.
    pub(super) async fn standing(&self, session: &mut Session) -> Result<Standing> {
        let ask = self.ask(Method::GET, "");
        let answer = self.repository.client.persist(&session.route, &ask, session.url.clone(), TRIES).await;
        let answer = match answer {
            Ok(answer) if matches!(answer.status(), 200 | 202 | 204) && !answer.is_page() => answer,
            Err(e @ (Error::Transport { .. } | Error::Unauthorized { .. })) => return Err(e),
            // It cannot be asked, or has no such upload.
            _ => return Ok(Standing::Gone),
        };
        session.moved(&answer);
        let last =
            answer.header(RANGE).and_then(|r| r.trim().rsplit_once('-')).and_then(|(_, l)| l.parse::<u64>().ok());
        // `0-0` is one byte by the specification, and nothing by registries of old: sending from the start is
        // right for the second, and for the first the registry refuses it, and it begins anew.
        Ok(Standing::At(last.filter(|l| *l > 0).map_or(0, |l| l.saturating_add(1))))
    }
}

/// The session's address with the digest; its own query stays as it came.
pub fn with_digest(url: &Url, descriptor: &Descriptor) -> Url {
    let mut url = url.clone();
    let digest = descriptor.digest;
    let query = match url.query().filter(|q| !q.is_empty()) {
        Some(query) => format!("{query}&digest={digest}"),
        None => format!("digest={digest}"),
    };
    url.set_query(Some(&query));
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    #[test]
    fn the_digest_joins_the_query_as_it_came() {
        let digest = Digest::sha256(b"");
        let descriptor = Descriptor::new("", digest, 0);
        let of = |url: &str| with_digest(&Url::parse(url).unwrap(), &descriptor).to_string();
        assert_eq!(of("http://h/u/1"), format!("http://h/u/1?digest={digest}"));
        assert_eq!(of("http://h/u/1?a=%2Fx%3D&b"), format!("http://h/u/1?a=%2Fx%3D&b&digest={digest}"));
    }
}
