//! Blobs on their way out: two requests a blob, a POST that also tries the mount and a PUT with all of it.
//!
//! A push that broke goes on from the offset that the registry names, or begins again; that of a large blob also in
//! another run. Chunks are for registries that refuse a blob in one piece. Invariants: a session that is known to hold
//! wrong bytes is not used again; the last chunk of a wrong source never leaves (the source's reader sees to that), but
//! where the start came from an earlier run: there the registry's check of the digest decides, and if it says no, the
//! blob goes from its start; `Sent` means that the registry confirmed it.

use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE};
use url::Url;

use super::Repository;
use super::auth::Scopes;
use super::exchange::{Answer, Ask, Failure, REFUSALS, Route, Verdict, note, verdict};
use super::pace::{Lane, locked};
use super::retry::{Budget, TRIES};
use super::unfinished::Note;
use crate::image::{Algorithm, Descriptor};
use crate::store::error::Trouble;
use crate::store::{BlobReader, BlobSource, Error, Pushed, Result};

/// Times a source is read that turns out wrong, and that a registry gets a blob which it says is wrong.
const WRONG: u32 = 3;
/// Size of a chunk, in bytes, for a registry that takes no blob in one piece and names no larger minimum.
const CHUNK: u64 = 8 << 20;
/// The largest minimum that a registry may ask for: a chunk is held in memory.
const LARGEST_CHUNK: u64 = 128 << 20;
/// A registry may work on a finished upload for the usual silence, and once more for each so many bytes of it.
const FINISHING: u64 = 64 << 20;
const LONGEST_FINISHING: u64 = 30;
/// Times a token may die while one blob is sent.
const CHALLENGES: u32 = 50;

/// An upload that the registry has opened.
struct Session {
    route: Arc<Route>,
    url: Url,
    /// Smallest chunk that the registry takes, in bytes.
    smallest_chunk: u64,
}

/// How one sending ended.
enum Sending {
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

/// Where the upload stands, by the registry's word.
enum Standing {
    At(u64),
    Gone,
}

impl Repository {
    /// Sends a blob, or mounts it.
    pub(super) async fn upload(
        &self,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        mount_from: Option<&str>,
    ) -> Result<Pushed> {
        // The place is taken before the source is opened, and held to the end.
        let endpoint = self.habits.endpoint.load(Relaxed);
        let route = self.routes.get(endpoint);
        let place = match route {
            Some(route) => self.client.hosts.of(route.base()).admit(Lane::Write).await,
            None => None,
        };
        let note = route.and_then(|route| self.client.unfinished.note(route, descriptor));
        let mut push = Push {
            repository: self,
            descriptor,
            source,
            what: format!("blob {}", descriptor.digest),
            scopes: match mount_from {
                Some(from) if from != self.repository => Scopes::push(&self.repository).and_pull(from),
                _ => Scopes::push(&self.repository),
            },
            note,
            goes_on: false,
        };
        let mount = mount_from.filter(|from| *from != self.repository);
        let pushed = push.put(mount, route).await;
        drop(place);
        let over = match &pushed {
            Ok(_) => true,
            Err(Error::Http { status, .. }) => *status < 500 && *status != 429,
            // What is known to be wrong is not gone on with.
            Err(e) => e.is_corruption(),
        };
        if let Some(note) = push.note.filter(|_| over) {
            note.remove();
        }
        pushed
    }
}

struct Push<'a> {
    repository: &'a Repository,
    descriptor: &'a Descriptor,
    source: &'a dyn BlobSource,
    what: String,
    scopes: Scopes,
    /// Where the upload is, for the next run.
    note: Option<Note>,
    /// The start was sent by an earlier run: only the registry knows whether it was right.
    goes_on: bool,
}

impl Push<'_> {
    fn ask<'b>(&self, method: Method, path: &'b str) -> Ask<'b> {
        Ask {
            what: format!("{method} {}", self.what),
            method,
            path,
            headers: HeaderMap::new(),
            body: None,
            scopes: self.scopes.clone(),
            lane: Lane::Held,
        }
    }

    fn protocol(&self, reason: impl Into<String>) -> Error {
        Error::Protocol { place: self.repository.place(), what: format!("upload {}", self.what), reason: reason.into() }
    }

    /// Opens a session; `None` where the mount made it unnecessary.
    async fn begin(&mut self, mount_from: Option<&str>) -> Result<Option<Session>> {
        let plain = "blobs/uploads/";
        if let Some(from) = mount_from {
            let path = format!("{plain}?mount={}&from={from}", self.descriptor.digest);
            let answer = self.repository.ask(&self.ask(Method::POST, &path)).await;
            match answer {
                Ok(answer) if answer.status() == 201 => {
                    // Some registries mount a sha512 blob under its sha256 name only.
                    let plain = self.descriptor.digest.algorithm() == Algorithm::Sha256;
                    if plain || self.repository.blob_exists(self.descriptor).await? {
                        return Ok(None);
                    }
                }
                Ok(answer) if answer.status() == 202 => return self.session(answer).map(Some),
                // It does not mount, or not from there; perhaps not even a token was to be had for that.
                Ok(_) | Err(Error::Unauthorized { .. }) => self.scopes = Scopes::push(&self.repository.repository),
                Err(e) => return Err(e),
            }
        }
        let ask = self.ask(Method::POST, plain);
        let answer = self.repository.ask(&ask).await?;
        match answer.status() {
            202 => self.session(answer).map(Some),
            // Only a mount is answered so, and none was asked for.
            200..=399 => Err(answer.into_page_error(&ask.what).await),
            _ => Err(answer.into_error(&ask.what).await),
        }
    }

    async fn put(&mut self, mount_from: Option<&str>, route: Option<&Arc<Route>>) -> Result<Pushed> {
        let left = match (mount_from, route) {
            (None, Some(route)) => self.left(route).await,
            _ => None,
        };
        let begun = match left {
            Some(left) => Some(left),
            None => self.begin(mount_from).await?.map(|session| (session, 0)),
        };
        let Some((session, offset)) = begun else { return Ok(Pushed::Mounted) };
        self.send(session, offset).await.map(|()| Pushed::Sent)
    }

    /// The upload that an earlier run has left, and the bytes that the registry has of it. Nothing that is odd about
    /// it is an error: then the blob goes from its start.
    async fn left(&mut self, route: &Arc<Route>) -> Option<(Session, u64)> {
        let url = self.note.as_ref()?.left_at(route)?;
        let mut session = Session { route: route.clone(), url, smallest_chunk: 0 };
        match self.standing(&mut session).await {
            Ok(Standing::At(at)) if at > 0 && at <= self.descriptor.size && route.is_home(&session.url) => {
                tracing::info!("{}: going on after {at} bytes that an earlier run has sent", self.what);
                self.goes_on = true;
                Some((session, at))
            }
            _ => None,
        }
    }

    async fn begin_again(&mut self) -> Result<Session> {
        self.goes_on = false;
        match self.begin(None).await? {
            Some(session) => Ok(session),
            None => Err(self.protocol("the registry opened no upload")),
        }
    }

    fn session(&self, answer: Answer) -> Result<Session> {
        let url = answer.header(LOCATION).and_then(|l| answer.url.join(l).ok());
        let url = url.filter(|u| matches!(u.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| self.protocol("the registry does not say where to send it (Location)"))?;
        let smallest = answer.header("oci-chunk-min-length").and_then(|h| h.trim().parse().ok()).unwrap_or(0);
        if let Some(note) = &self.note {
            note.write(&answer.route, &url);
        }
        Ok(Session { route: answer.route.clone(), url, smallest_chunk: smallest })
    }

    /// Sends the bytes after the first `offset`, whatever happens on the way.
    async fn send(&mut self, mut session: Session, mut offset: u64) -> Result<()> {
        let size = self.descriptor.size;
        let mut budget = Budget::new(TRIES + 2);
        let (mut wrong_source, mut wrong_there) = (Budget::new(WRONG), Budget::new(WRONG));
        let (mut challenges, mut refusals) = (0, 0);
        let mut furthest = offset;
        // All of it may be there, though the registry did not say so.
        let mut complete_once = false;
        loop {
            let chunk = self.repository.habits.chunk.load(Relaxed);
            let sending = if chunk > 0 && offset < size {
                self.send_chunks(&mut session, &mut offset, chunk).await
            } else {
                self.send_rest(&mut session, &mut offset, budget.failures()).await
            };
            let (reason, wait) = match sending {
                Sending::Final(error) => return Err(error),
                Sending::Source(error) if error.is_corruption() => {
                    let Some(wait) = wrong_source.fail() else { return Err(error) };
                    tokio::time::sleep(wait).await;
                    (session, offset) = (self.begin_again().await?, 0);
                    continue;
                }
                Sending::Source(error) => return Err(error),
                Sending::Broken { trouble, complete } => {
                    complete_once |= complete;
                    let what = format!("upload {}", self.what);
                    (Error::Transport { place: self.repository.place(), what, trouble }, budget.fail())
                }
                Sending::Answered(answer) => {
                    let status = answer.status();
                    match status {
                        200 if answer.is_page() => return Err(answer.into_page_error(&self.what).await),
                        200..=204 => return Ok(()),
                        401 if challenges < CHALLENGES => {
                            // The token died: the session goes on with a new one.
                            challenges += 1;
                            (answer.into_error(&format!("PUT {}", self.what)).await, Some(Duration::ZERO))
                        }
                        404 => {
                            drop(answer);
                            let Some(wait) = budget.fail() else {
                                return Err(self.protocol("the registry forgets the upload again and again"));
                            };
                            tokio::time::sleep(wait).await;
                            if complete_once && self.repository.blob_exists(self.descriptor).await.unwrap_or(false) {
                                return Ok(());
                            }
                            (session, offset) = (self.begin_again().await?, 0);
                            continue;
                        }
                        400 | 405 | 411 | 413 | 416 | 501 => {
                            let error = answer.into_error(&format!("PUT {}", self.what)).await;
                            let mistaken = error.to_string().contains("DIGEST_INVALID") || status == 416 || offset > 0;
                            if !mistaken && chunk == 0 && size > 0 {
                                let chunk = session.smallest_chunk.max(CHUNK);
                                if chunk > LARGEST_CHUNK {
                                    return Err(self.protocol(format!("the registry wants chunks of {chunk} bytes")));
                                }
                                self.repository.habits.chunk.store(chunk, Relaxed);
                            } else {
                                let Some(wait) = wrong_there.fail() else { return Err(error) };
                                tokio::time::sleep(wait).await;
                            }
                            (session, offset) = (self.begin_again().await?, 0);
                            continue;
                        }
                        _ => match verdict(&answer) {
                            Verdict::Final if !(300..400).contains(&status) => {
                                return Err(answer.into_error(&format!("PUT {}", self.what)).await);
                            }
                            Verdict::Refused => {
                                refusals += 1;
                                let wait = (refusals < REFUSALS).then_some(Duration::ZERO);
                                (answer.into_error(&format!("PUT {}", self.what)).await, wait)
                            }
                            _ => (answer.into_error(&format!("PUT {}", self.what)).await, budget.fail()),
                        },
                    }
                }
            };
            let Some(wait) = wait else { return Err(reason) };
            tokio::time::sleep(wait).await;
            match self.standing(&mut session).await? {
                Standing::At(at) if at <= size => {
                    if at > furthest {
                        furthest = at;
                        budget.progressed();
                    }
                    offset = at;
                }
                Standing::At(_) => (session, offset) = (self.begin_again().await?, 0),
                Standing::Gone => {
                    if complete_once && self.repository.blob_exists(self.descriptor).await.unwrap_or(false) {
                        return Ok(());
                    }
                    (session, offset) = (self.begin_again().await?, 0);
                }
            }
        }
    }

    /// Everything from `offset` on, and the closing PUT.
    async fn send_rest(&self, session: &mut Session, offset: &mut u64, failures: u32) -> Sending {
        let size = self.descriptor.size;
        if *offset > 0 && *offset < size {
            // Going on where an earlier try ended.
            let sending = self.stream(session, Method::PATCH, session.url.clone(), *offset, failures).await;
            match sending {
                Sending::Answered(answer) if matches!(answer.status(), 200..=204) => {
                    moved(session, &answer);
                    *offset = size;
                }
                other => return other,
            }
        }
        let url = with_digest(&session.url, self.descriptor);
        self.stream(session, Method::PUT, url, *offset, failures).await
    }

    /// The source from `offset` on, as fast as the host may be sent to.
    async fn open(&self, session: &Session, offset: u64) -> Result<BlobReader> {
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
            match self.open(session, offset).await {
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
    async fn send_chunks(&self, session: &mut Session, offset: &mut u64, chunk: u64) -> Sending {
        let size = self.descriptor.size;
        let mut reader = match self.open(session, *offset).await {
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
                    moved(session, &answer);
                    if let Some(note) = &self.note {
                        note.write(&session.route, &session.url);
                    }
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

    /// Asks the registry how much it has.
    async fn standing(&self, session: &mut Session) -> Result<Standing> {
        let ask = self.ask(Method::GET, "");
        let answer = self.repository.client.persist(&session.route, &ask, session.url.clone(), TRIES).await;
        let answer = match answer {
            Ok(answer) if matches!(answer.status(), 200 | 202 | 204) && !answer.is_page() => answer,
            Err(e @ (Error::Transport { .. } | Error::Unauthorized { .. })) => return Err(e),
            // It cannot be asked, or has no such upload.
            _ => return Ok(Standing::Gone),
        };
        moved(session, &answer);
        let last =
            answer.header(RANGE).and_then(|r| r.trim().rsplit_once('-')).and_then(|(_, l)| l.parse::<u64>().ok());
        // `0-0` is one byte by the specification, and nothing by registries of old: sending from the start is
        // right for the second, and for the first the registry refuses it, and it begins anew.
        Ok(Standing::At(last.filter(|l| *l > 0).map_or(0, |l| l.saturating_add(1))))
    }
}

fn octets() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers
}

/// Goes on where the registry says.
fn moved(session: &mut Session, answer: &Answer) {
    let next = answer.header(LOCATION).and_then(|l| answer.url.join(l).ok());
    if let Some(next) = next.filter(|u| matches!(u.scheme(), "http" | "https")) {
        session.url = next;
    }
}

/// The session's address with the digest; its own query stays as it came.
fn with_digest(url: &Url, descriptor: &Descriptor) -> Url {
    let mut url = url.clone();
    let digest = descriptor.digest;
    let query = match url.query().filter(|q| !q.is_empty()) {
        Some(query) => format!("{query}&digest={digest}"),
        None => format!("digest={digest}"),
    };
    url.set_query(Some(&query));
    url
}

/// What is known of a body on its way.
#[derive(Default)]
struct Tap {
    progress: Mutex<(u64, bool)>,
    error: Mutex<Option<Error>>,
}

impl Tap {
    /// Bytes handed over.
    fn sent(&self) -> u64 {
        locked(&self.progress).0
    }

    fn waits_for_source(&self) -> bool {
        locked(&self.progress).1
    }
}

/// The rest of a source as a request's body.
struct Tapped {
    reader: BlobReader,
    tap: Arc<Tap>,
}

impl Stream for Tapped {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.reader.poll_next_unpin(cx);
        let mut progress = locked(&self.tap.progress);
        progress.1 = polled.is_pending();
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Ok(chunk))) => {
                progress.0 += chunk.len() as u64;
                Poll::Ready(Some(Ok(chunk)))
            }
            Poll::Ready(Some(Err(e))) => {
                *locked(&self.tap.error) = Some(e);
                Poll::Ready(Some(Err(std::io::Error::other("the source failed"))))
            }
        }
    }
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
