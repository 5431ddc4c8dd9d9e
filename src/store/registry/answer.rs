//! The registry's answer to one request: its body piece by piece, what it means for asking again, and the error that it is
//! where it is one. Invariant: nothing is read without a bound and a time-out, and nothing of it is printed raw.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Deserialize;
use url::Url;

use super::pace::Place;
use super::rate::Rate;
use super::retry::{LONGEST_RETRY_AFTER, retry_after};
use super::route::Route;
use super::transport::trouble;
use crate::store::Error;
use crate::store::error::{Trouble, printable};

/// What is read of a body for the sake of a message, in bytes.
pub const LARGEST_ERROR_BODY: usize = 64 << 10;

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

    /// The same, with a place that is held until the body has come, at that rate.
    pub fn holding(self, place: Option<Place>, rate: Option<Arc<Rate>>) -> Self {
        Answer { rate, _place: place, ..self }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_the_registrys_words() {
        let body = r#"{"errors":[{"code":"DENIED","message":"no\u001b[31m"},{"code":"X"}]}"#;
        assert_eq!(registry_message(body), "DENIED: no\\u{1b}[31m; X");
        assert_eq!(registry_message("<html>\n<b>"), "<html>…");
        assert_eq!(registry_message(""), "");
    }
}
