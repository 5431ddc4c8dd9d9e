//! Bytes of a blob in requests: all that is missing in one, or in chunks for registries that refuse a blob in one piece.
//! Invariant: silence counts only while it is the registry's turn.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue};
use url::Url;

use super::Push;
use super::body::{Tap, Tapped};
use super::session::{Session, with_digest};
use crate::store::error::Trouble;
use crate::store::registry::answer::Answer;
use crate::store::registry::exchange::{Failure, note};
use crate::store::registry::pace::locked;
use crate::store::{BlobReader, Error, Result};

/// The largest minimum that a registry may ask for: a chunk is held in memory.
pub const LARGEST_CHUNK: u64 = 128 << 20;
/// A registry may work on a finished upload for the usual silence, and once more for each so many bytes of it.
const FINISHING: u64 = 64 << 20;
const LONGEST_FINISHING: u64 = 30;

/// How one sending ended.
pub enum Sending {
    Answered(Answer),
    /// No answer. `complete`: the registry may have got all of it.
    Broken {
        trouble: Trouble,
        complete: bool,
    },
    /// The source could not give its bytes.
    Source(Error),
    Final(Error),
}

impl Push<'_> {
    /// Everything from `offset` on, and the closing PUT.
    pub(super) async fn send_rest(&self, session: &mut Session, offset: &mut u64, failures: u32) -> Sending {
        let size = self.descriptor.size;
        if *offset > 0 && *offset < size {
            // Going on where an earlier try ended.
            let sending = self.stream(session, Method::PATCH, session.url.clone(), *offset, failures).await;
            match sending {
                Sending::Answered(answer) if matches!(answer.status(), 200..=204) => {
                    session.moved(&answer);
                    *offset = size;
                }
                other => return other,
            }
        }
        let url = with_digest(&session.url, self.descriptor);
        self.stream(session, Method::PUT, url, *offset, failures).await
    }

    /// The source from `offset` on, as fast as the host may be sent to.
    async fn read(&self, session: &Session, offset: u64) -> Result<BlobReader> {
        let reader = match self.goes_on {
            true => self.source.open_unverified(offset).await?,
            false => self.source.open(offset).await?,
        };
        let Some(rate) = self.repository.client.hosts.of(session.route.base()).bytes() else { return Ok(reader) };
        Ok(Box::pin(reader.then(move |chunk| {
            let rate = rate.clone();
            async move {
                if let Ok(chunk) = &chunk {
                    rate.take(chunk.len() as f64).await;
                }
                chunk
            }
        })))
    }

    /// One request whose body is the source from `offset` to its end.
    async fn stream(&self, session: &Session, method: Method, url: Url, offset: u64, failures: u32) -> Sending {
        let length = self.descriptor.size - offset;
        let tap = Arc::new(Tap::default());
        let body = if length == 0 {
            reqwest::Body::from(Bytes::new())
        } else {
            match self.read(session, offset).await {
                Ok(reader) => reqwest::Body::wrap_stream(Tapped { reader, tap: tap.clone() }),
                Err(e) => return Sending::Source(e),
            }
        };
        let mut headers = octets();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        if method == Method::PATCH
            && let Ok(range) = HeaderValue::try_from(format!("{offset}-{}", self.descriptor.size.saturating_sub(1)))
        {
            headers.insert(CONTENT_RANGE, range);
        }
        let sending = self.dispatch(session, method, url, headers, body, &tap, length, failures).await;
        // A body that failed here looks like a broken connection there.
        match locked(&tap.error).take() {
            Some(error) => Sending::Source(error),
            None => sending,
        }
    }

    /// Sends one request and watches over it: silence counts only while it is the registry's turn.
    #[expect(clippy::too_many_arguments, reason = "one request in all its parts")]
    async fn dispatch(
        &self,
        session: &Session,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: reqwest::Body,
        tap: &Tap,
        length: u64,
        failures: u32,
    ) -> Sending {
        let client = &self.repository.client;
        let prepared = client.prepare(&session.route, &method, &url, &headers, &self.scopes).await;
        let broken = |trouble, complete| Sending::Broken { trouble, complete };
        let (request, authorization) = match prepared {
            Ok(prepared) => prepared,
            Err(Failure::Final(e)) => return Sending::Final(e),
            Err(Failure::Broken(trouble)) => return broken(trouble, false),
        };
        let host = client.hosts.of(&url);
        host.ready().await;
        let silence = client.transport.silence(failures);
        let mut sending = std::pin::pin!(request.body(body).send());
        let (mut seen, mut quiet_since) = (0, Instant::now());
        let response = loop {
            match tokio::time::timeout(silence / 4, &mut sending).await {
                Ok(Ok(response)) => break response,
                Ok(Err(e)) => {
                    return match client.broken(&session.route, &format!("{method} {}", self.what), &e) {
                        Failure::Final(e) => Sending::Final(e),
                        Failure::Broken(trouble) => broken(trouble, tap.sent() >= length),
                    };
                }
                Err(_) => {
                    let sent = tap.sent();
                    if sent != seen || tap.waits_for_source() {
                        (seen, quiet_since) = (sent, Instant::now());
                    }
                    let complete = sent >= length;
                    let longer = if complete { (sent / FINISHING).min(LONGEST_FINISHING) as u32 } else { 0 };
                    let patience = silence * (1 + longer);
                    if quiet_since.elapsed() >= patience {
                        let reason = format!("nothing moved for {} s after {sent} bytes", patience.as_secs_f64());
                        return broken(Trouble::interrupted(reason), complete);
                    }
                }
            }
        };
        // What the source took is not the registry's delay.
        note(&host, &response, None);
        if response.status() == 401 && session.route.is_home(&url) {
            let again = client.auth.refused(&session.route, authorization.as_ref(), response.headers()).await;
            if !again {
                let answer = Answer::new(session.route.clone(), url, response, silence);
                return Sending::Final(answer.into_error(&format!("{method} {}", self.what)).await);
            }
        }
        Sending::Answered(Answer::new(session.route.clone(), url, response, silence))
    }

    /// The blob from `offset` on in pieces of `chunk` bytes, each held in memory, and the closing PUT.
    pub(super) async fn send_chunks(&self, session: &mut Session, offset: &mut u64, chunk: u64) -> Sending {
        let size = self.descriptor.size;
        let mut reader = match self.read(session, *offset).await {
            Ok(reader) => reader,
            Err(e) => return Sending::Source(e),
        };
        let mut piece = BytesMut::new();
        while *offset < size {
            let wanted = chunk.max(session.smallest_chunk).min(LARGEST_CHUNK).min(size - *offset) as usize;
            while piece.len() < wanted {
                match reader.next().await {
                    Some(Ok(bytes)) => piece.extend_from_slice(&bytes),
                    Some(Err(e)) => return Sending::Source(e),
                    None => return Sending::Final(self.protocol("its source ended early")),
                }
            }
            let body = piece.split_to(wanted).freeze();
            let mut headers = octets();
            headers.insert(CONTENT_LENGTH, HeaderValue::from(wanted));
            if let Ok(range) = HeaderValue::try_from(format!("{offset}-{}", *offset + wanted as u64 - 1)) {
                headers.insert(CONTENT_RANGE, range);
            }
            let tap = Tap::default();
            let url = session.url.clone();
            // The body is in memory: it is the registry's turn from the start.
            let sending = self.dispatch(session, Method::PATCH, url, headers, body.into(), &tap, u64::MAX, 1).await;
            match sending {
                Sending::Answered(answer) if matches!(answer.status(), 200..=204) => {
                    session.moved(&answer);
                    self.remember(session);
                    *offset += wanted as u64;
                }
                other => return other,
            }
        }
        // The last piece was only given out because the whole was right; see the reader's end, too.
        if let Some(Err(e)) = reader.next().await {
            return Sending::Source(e);
        }
        self.stream(session, Method::PUT, with_digest(&session.url, self.descriptor), size, 0).await
    }
}

fn octets() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers
}
