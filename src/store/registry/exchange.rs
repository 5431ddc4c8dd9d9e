//! One question, and asking again. [`Client::once`] sends one request with what authorises it,
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
use url::Url;

use super::answer::{Answer, LARGEST_ERROR_BODY, Verdict, bounded_text, verdict};
use super::auth::{Authorization, Scopes};
use super::pace::{Host, Lane};
use super::retry::{Budget, LONGEST_RETRY_AFTER, TRIES, retry_after};
use super::route::Route;
use super::transport::trouble;
use super::window::Kind;
use super::{Client, Repository};
use crate::store::error::{Trouble, TroubleKind};
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
            let answer = Answer::new(route.clone(), url, response, silence).holding(place, rate);
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
                other if route.is_mirror() && !is_last && is_miss(&other) => {
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
