//! One question and its answer, and asking again. [`Client::once`] sends one request with what authorises it,
//! follows redirects and answers challenges; [`Client::ask`] repeats it while that can help, and goes on to
//! the next endpoint of the registry when one has failed.
//!
//! Invariants: `Authorization` goes to the origin (scheme, host, port) of the endpoint only; redirects are
//! bounded; nothing is sent to a host that asked to be left alone for a while.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use url::Url;

use super::auth::{Authorization, Scopes};
use super::elsewhere::is_open_to_all;
use super::pace::{Host, Lane, Place};
use super::rate::Rate;
use super::retry::{Budget, LONGEST_RETRY_AFTER, TRIES, retry_after};
use super::transport::trouble;
use super::window::Kind;
use super::{Client, Repository};
use crate::config::{Endpoint, Referrers, Tls};
use crate::store::error::{Trouble, TroubleKind, printable};
use crate::store::{Error, Result};

/// Redirects that one request follows.
const REDIRECTS: usize = 10;
/// Refusals that one request answers although its token was got for it.
const FRESH_REFUSALS: usize = 3;
/// Refusals that one request answers at all: a token that many share may be used up by the others.
const CHALLENGES: usize = 64;
/// Refusals with 429 that one request puts up with; each has been waited out.
pub const REFUSALS: u32 = 30;
/// Tries at an endpoint when there is another one to go to.
const TRIES_BEFORE_NEXT: u32 = 3;
const LARGEST_ERROR_BODY: usize = 64 << 10;

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
    fn leads_to(&self, url: &Url) -> bool {
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

/// A question.
#[derive(Clone)]
pub struct Ask<'a> {
    pub method: Method,
    /// Path after the repository, with an optional query.
    pub path: &'a str,
    pub headers: HeaderMap,
    pub body: Option<Bytes>,
    pub scopes: Scopes,
    pub lane: Lane,
    /// Method and object, for messages.
    pub what: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Asking again may help.
    Broken(Trouble),
    Final(Error),
}

/// An answer whose body has not been read.
pub struct Answer {
    pub route: Arc<Route>,
    /// Where it came from in the end.
    pub url: Url,
    response: reqwest::Response,
    silence: Duration,
    /// How fast the configuration lets the body come.
    pub rate: Option<Arc<Rate>>,
    _place: Option<Place>,
}

impl Answer {
    /// An answer to a request whose place in its lane is held elsewhere.
    pub fn new(route: Arc<Route>, url: Url, response: reqwest::Response, silence: Duration) -> Self {
        Answer { route, url, response, silence, rate: None, _place: None }
    }

    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub fn header(&self, name: impl reqwest::header::AsHeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// Length of the body, where the server says it.
    pub fn length(&self) -> Option<u64> {
        self.header(reqwest::header::CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// It came from another place than the registry.
    pub fn is_redirected(&self) -> bool {
        !self.route.is_home(&self.url)
    }

    /// The next piece of the body; `None` at its end. Fails on silence and on a broken connection.
    pub async fn chunk(&mut self) -> std::result::Result<Option<Bytes>, Trouble> {
        match tokio::time::timeout(self.silence, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(e)) => Err(trouble(&e)),
            Err(_) => Err(Trouble::interrupted(format!("nothing came for {} s", self.silence.as_secs_f64()))),
        }
    }

    /// The whole body. Fails for more than `limit` bytes.
    pub async fn body(&mut self, limit: u64) -> std::result::Result<Vec<u8>, BodyError> {
        if let Some(length) = self.length().filter(|l| *l > limit) {
            return Err(BodyError::TooLarge(length));
        }
        let mut out = Vec::new();
        while let Some(chunk) = self.chunk().await.map_err(BodyError::Broken)? {
            out.extend_from_slice(&chunk);
            if out.len() as u64 > limit {
                return Err(BodyError::TooLarge(out.len() as u64));
            }
            if let Some(rate) = &self.rate {
                rate.take(chunk.len() as f64).await;
            }
        }
        Ok(out)
    }

    /// The error that this answer is.
    pub async fn into_error(self, what: &str) -> Error {
        let (status, place) = (self.status(), self.route.place());
        let text = bounded_text(self.response, LARGEST_ERROR_BODY, self.silence).await.unwrap_or_default();
        let message = registry_message(&text);
        match status {
            401 => Error::Unauthorized { place, reason: format!("{what}: HTTP 401: {message}") },
            _ => Error::Http { place, what: what.into(), status, message },
        }
    }

    /// The error for a page where something else was asked for: its first line says whose it is.
    pub async fn into_page_error(self, what: &str) -> Error {
        let (status, place) = (self.status(), self.route.place());
        let text = bounded_text(self.response, LARGEST_ERROR_BODY, self.silence).await.unwrap_or_default();
        Error::Protocol {
            place,
            what: what.into(),
            reason: format!("HTTP {status}, but the answer is a page: {}", printable(&text)),
        }
    }

    /// Whether the server calls the body HTML.
    pub fn is_page(&self) -> bool {
        self.header(reqwest::header::CONTENT_TYPE).is_some_and(|t| t.trim_start().starts_with("text/html"))
    }
}

/// Why a body could not be read.
pub enum BodyError {
    TooLarge(u64),
    Broken(Trouble),
}

/// At most `limit` bytes of a body as text; `None` when it breaks before the first.
pub async fn bounded_text(mut response: reqwest::Response, limit: usize, silence: Duration) -> Option<String> {
    let mut out = Vec::new();
    while out.len() < limit {
        match tokio::time::timeout(silence, response.chunk()).await {
            Ok(Ok(Some(chunk))) => out.extend_from_slice(&chunk[..chunk.len().min(limit - out.len())]),
            Ok(Ok(None)) => break,
            _ if out.is_empty() => return None,
            _ => break,
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

/// The registry's own words (distribution-spec, "Error codes"), or the first line of what it sent, escaped.
pub fn registry_message(body: &str) -> String {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: Option<String>,
    }
    match serde_json::from_str::<Envelope>(body) {
        Ok(envelope) if !envelope.errors.is_empty() => {
            let say = |e: &Entry| match e.message.as_deref().filter(|m| !m.is_empty()) {
                Some(message) => format!("{}: {}", printable(&e.code), printable(message)),
                None => printable(&e.code),
            };
            envelope.errors.iter().take(3).map(say).collect::<Vec<_>>().join("; ")
        }
        _ => printable(body),
    }
}

impl Client {
    /// Sends one request. Any status but a redirect and an answerable 401 is an answer.
    pub(super) async fn once(
        &self,
        route: &Arc<Route>,
        ask: &Ask<'_>,
        mut url: Url,
        silence: Duration,
    ) -> std::result::Result<Answer, Failure> {
        let (mut hops, mut challenges, mut fresh) = (0, 0, 0);
        loop {
            let host = self.hosts.of(&url);
            let place = host.admit(ask.lane).await;
            let (request, authorization) = self.prepare(route, &ask.method, &url, &ask.headers, &ask.scopes).await?;
            let rate = self.hosts.of(route.base()).bytes();
            let request = match &ask.body {
                Some(body) => {
                    if let Some(rate) = &rate {
                        rate.take(body.len() as f64).await;
                    }
                    request.body(body.clone())
                }
                None => request,
            };
            host.ready().await;
            let begun = Instant::now();
            let response = match tokio::time::timeout(silence, request.send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(e)) => return Err(self.broken(route, &ask.what, &e)),
                Err(_) => {
                    let reason = format!("no answer in {} s", silence.as_secs_f64());
                    return Err(Failure::Broken(Trouble::unreachable(reason)));
                }
            };
            note(&host, &response, Some((Kind::of(&ask.method), begun.elapsed())));
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && route.is_home(&url) {
                challenges += 1;
                fresh += usize::from(authorization.as_ref().is_some_and(|a| a.fresh));
                if challenges <= CHALLENGES
                    && fresh <= FRESH_REFUSALS
                    && self.auth.refused(route, authorization.as_ref(), response.headers()).await
                {
                    // Read to its end, so that the connection can be used again.
                    drop(bounded_text(response, LARGEST_ERROR_BODY, silence).await);
                    continue;
                }
            }
            let answer = Answer { route: route.clone(), url, response, silence, rate, _place: place };
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let Some(next) = answer.header(LOCATION).and_then(|l| answer.url.join(l).ok()) else {
                return Ok(answer);
            };
            hops += 1;
            let protocol = |reason: &str| {
                let (place, what) = (route.place(), ask.what.clone());
                Err(Failure::Final(Error::Protocol { place, what, reason: reason.into() }))
            };
            if hops > REDIRECTS {
                return protocol("redirected more than ten times");
            }
            if !route.leads_to(&next) {
                return protocol("redirected to an address that is not followed");
            }
            url = next;
        }
    }

    /// A request with its headers and what authorises it, if it goes to the registry itself.
    pub(super) async fn prepare(
        &self,
        route: &Arc<Route>,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        scopes: &Scopes,
    ) -> std::result::Result<(reqwest::RequestBuilder, Option<Authorization>), Failure> {
        let authorization = match route.is_home(url) {
            true => self.auth.authorization(&self.transport, &self.hosts, route, scopes).await?,
            false => None,
        };
        let pool = self.transport.pool(url, &route.tls_for(url));
        let pool = pool.map_err(|reason| Failure::Final(Error::Unusable { place: route.place(), reason }))?;
        let mut request = pool.request(method.clone(), url.clone()).headers(headers.clone());
        if let Some(authorization) = &authorization {
            request = request.header(AUTHORIZATION, authorization.header.clone());
        }
        Ok((request, authorization))
    }

    /// Sorts what a connection can die of.
    pub(super) fn broken(&self, route: &Route, what: &str, error: &reqwest::Error) -> Failure {
        let trouble = trouble(error);
        let is_final = matches!(trouble.kind, TroubleKind::UnknownAuthority | TroubleKind::Certificate);
        if error.is_builder() || is_final || trouble.reason.contains("certificate") {
            return Failure::Final(Error::Transport { place: route.place(), what: what.into(), trouble });
        }
        Failure::Broken(trouble)
    }
}

impl Repository {
    /// Asks until there is an answer that is worth having: one that is neither 429 nor a server's trouble nor
    /// a refusal by a place that the registry redirected to (a signed address may have expired).
    pub(super) async fn ask(&self, ask: &Ask<'_>) -> Result<Answer> {
        let first = self.habits.endpoint.load(std::sync::atomic::Ordering::Relaxed);
        let (mut last, mut missed) = (None, false);
        for step in 0..self.routes.len() {
            let index = (first + step) % self.routes.len();
            let route = &self.routes[index];
            let is_last = step + 1 == self.routes.len();
            let tries = if is_last { TRIES } else { TRIES_BEFORE_NEXT };
            let renamed = (route.repository != self.repository).then(|| {
                // Only what is read has another name elsewhere.
                Ask { scopes: Scopes::pull(&route.repository), ..ask.clone() }
            });
            let ask = renamed.as_ref().unwrap_or(ask);
            match self.client.persist(route, ask, route.url(ask.path), tries).await {
                Err(e) if is_endpoint_trouble(&e) => last = Some(e),
                other if route.endpoint.is_mirror && !is_last && is_miss(&other) => {
                    missed = true;
                    last = other.err();
                }
                other => {
                    // An endpoint that only lacks something is asked first again.
                    if !missed {
                        self.habits.endpoint.store(index, std::sync::atomic::Ordering::Relaxed);
                    }
                    return other;
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::Unusable {
            place: self.place(),
            reason: "the configuration gives it no endpoint".into(),
        }))
    }
}

impl Client {
    /// Asks one endpoint until it answers or `tries` tries in a row have failed.
    pub(super) async fn persist(&self, route: &Arc<Route>, ask: &Ask<'_>, url: Url, tries: u32) -> Result<Answer> {
        let mut budget = Budget::new(tries);
        let mut refusals = 0;
        // A server may take long over a write.
        let patience = if ask.method == Method::GET || ask.method == Method::HEAD { 1 } else { 2 };
        loop {
            let silence = self.transport.silence(budget.failures()) * patience;
            match self.once(route, ask, url.clone(), silence).await {
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Broken(trouble)) => match budget.fail() {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => {
                        return Err(Error::Transport { place: route.place(), what: ask.what.clone(), trouble });
                    }
                },
                Ok(answer) => {
                    let wait = match verdict(&answer) {
                        Verdict::Final => return Ok(answer),
                        Verdict::Refused => {
                            refusals += 1;
                            (refusals < REFUSALS).then_some(Duration::ZERO)
                        }
                        Verdict::Trouble => budget.fail(),
                    };
                    match wait {
                        Some(wait) => {
                            drop(answer);
                            tokio::time::sleep(wait).await;
                        }
                        None => return Err(answer.into_error(&ask.what).await),
                    }
                }
            }
        }
    }
}

/// What an answer means for asking again.
pub enum Verdict {
    Final,
    /// Too many requests: the host is paused already.
    Refused,
    Trouble,
}

pub fn verdict(answer: &Answer) -> Verdict {
    let pause = retry_after(answer.response.headers(), SystemTime::now());
    if pause.is_some_and(|p| p > LONGEST_RETRY_AFTER) {
        return Verdict::Final;
    }
    match answer.status() {
        429 => Verdict::Refused,
        408 | 425 | 500 | 502 | 503 | 504 => Verdict::Trouble,
        400..=499 if answer.is_redirected() && answer.status() != 416 => Verdict::Trouble,
        _ => Verdict::Final,
    }
}

/// Lets the host's pace learn from an answer, and from how long it took where that is the host's own doing. Every answer
/// that asks to be left alone pauses the whole host.
pub fn note(host: &Arc<Host>, response: &reqwest::Response, took: Option<(Kind, Duration)>) {
    let status = response.status().as_u16();
    let pause = retry_after(response.headers(), SystemTime::now()).filter(|p| *p <= LONGEST_RETRY_AFTER);
    match status {
        429 => {
            host.refused();
            // Without a word on how long, or with one that is over: a second.
            host.pause(pause.filter(|p| !p.is_zero()).unwrap_or(Duration::from_secs(1)));
        }
        503 => {
            host.refused();
            if let Some(pause) = pause {
                host.pause(pause);
            }
        }
        _ => {
            if let Some((kind, took)) = took {
                host.answered(kind, took);
            }
        }
    }
}

/// Whether a mirror's answer leaves it to the next endpoint.
fn is_miss(answer: &Result<Answer>) -> bool {
    match answer {
        Ok(answer) => matches!(answer.status(), 400..=499) && answer.status() != 416,
        Err(Error::Config(_)) => false,
        Err(_) => true,
    }
}

/// Whether another endpoint of the same registry may do better.
fn is_endpoint_trouble(error: &Error) -> bool {
    match error {
        Error::Transport { .. } => true,
        Error::Http { status, .. } => *status >= 500 || *status == 429,
        _ => false,
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

    #[test]
    fn repeats_the_registrys_words() {
        let body = r#"{"errors":[{"code":"DENIED","message":"no\u001b[31m"},{"code":"X"}]}"#;
        assert_eq!(registry_message(body), "DENIED: no\\u{1b}[31m; X");
        assert_eq!(registry_message("<html>\n<b>"), "<html>…");
        assert_eq!(registry_message(""), "");
    }
}
