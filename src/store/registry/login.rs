//! Whether a registry takes a credential, asked where every client begins: `GET /v2/` (distribution-spec,
//! "Determining support").
//!
//! Invariant: only an address of the registry itself is asked, never one that stands in for it.

use std::sync::Arc;

use reqwest::Method;
use reqwest::header::HeaderMap;

use super::Client;
use super::answer::Answer;
use super::auth::Scopes;
use super::exchange::Ask;
use super::pace::Lane;
use super::retry::TRIES;
use super::route::Route;
use crate::config::Access;
use crate::image::reference::is_docker_hub;
use crate::store::{Error, Result};

/// What came of showing a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    Accepted,
    /// The registry asks nobody for a credential, at least not at its door.
    NotAsked,
    /// The configuration leads elsewhere for this registry: there is nobody to ask.
    Elsewhere,
}

impl Client {
    /// Shows the configuration's credential for `registry` (and `repository`, which may be empty) to that
    /// registry. Fails with [`crate::store::Error::Unauthorized`] if it is refused.
    pub async fn check_login(&self, registry: &str, repository: &str) -> Result<Login> {
        let home = if is_docker_hub(registry) { "registry-1.docker.io" } else { registry };
        let policy = self.config.policy(registry, repository, Access::Push)?;
        let own = policy.endpoints.into_iter().filter(|e| e.url.authority().eq_ignore_ascii_case(home));
        let routes: Vec<Arc<Route>> = own.map(|e| Arc::new(Route::new(e, registry.to_owned()))).collect();
        let ask = Ask {
            what: "GET /v2/".into(),
            method: Method::GET,
            path: "",
            headers: HeaderMap::new(),
            body: None,
            scopes: Scopes::none(),
            lane: Lane::Read,
        };
        let mut last = None;
        for route in routes {
            let mut url = route.base().clone();
            url.set_path(&format!("{}/v2/", url.path().trim_end_matches('/')));
            match self.persist(&route, &ask, url, TRIES).await {
                // A registry that may be insecure has an address for either way of asking.
                Err(error @ Error::Transport { .. }) => last = Some(error),
                answer => return self.verdict(&route, answer?, &ask.what).await,
            }
        }
        last.map_or(Ok(Login::Elsewhere), Err)
    }

    async fn verdict(&self, route: &Route, answer: Answer, what: &str) -> Result<Login> {
        match answer.status() {
            200 if self.auth.is_asked(route) => Ok(Login::Accepted),
            200 => Ok(Login::NotAsked),
            _ => Err(answer.into_error(what).await),
        }
    }
}
