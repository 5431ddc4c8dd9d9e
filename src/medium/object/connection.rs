//! HTTP to a store of objects, and to the services that give out credentials for it.
//!
//! Invariants: a request ends by silence and never by its length; no redirect is followed, as the next host would get
//! what is meant for this one; this machine and what is linked to it are never asked through a proxy; plain HTTP is
//! spoken with nobody else, unless the endpoint says so itself.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use reqwest::Method;
use tokio::time::{Instant, Sleep};
use url::Url;

use crate::config::trust::{http_client, silence, system_roots};
use crate::store::error::printable;

const CONNECT: Duration = Duration::from_secs(10);
/// What is near answers at once, or is not there.
const CONNECT_NEAR: Duration = Duration::from_secs(2);
/// Each try that met silence doubles it for the next one, up to so many times. Putting the parts of an object together
/// may take a store as long.
const LONGEST: u32 = 6;
/// So often in a row silence is met, and a store asked that never answered.
const TRIES: u32 = 3;
/// Errors of the store, and connections that break, are met again so often.
const RETRIES: usize = 7;
/// Longer than this, nothing is sent again with its old signature.
const SIGNED: Duration = Duration::from_secs(300);
/// So many bytes of a body at once: silence is noticed between them.
const FRAME: usize = 64 << 10;

/// How often, and after which time, a request is sent again.
pub fn retries() -> RetryConfig {
    let (init_backoff, max_backoff) = (silence() / 100, silence() * 2 / 5);
    // Each wait is by chance between the first and four times the one before.
    let backoff = BackoffConfig { init_backoff, max_backoff, base: 4.0 };
    RetryConfig { backoff, max_retries: RETRIES, retry_timeout: SIGNED }
}

/// Makes the connections of one store.
#[derive(Clone, Debug)]
pub struct Connector(Arc<Service>);

struct Service {
    client: reqwest::Client,
    /// For what is near: without a proxy.
    near: reqwest::Client,
    /// The endpoint says that its store is spoken to in plain HTTP.
    is_plain: bool,
    silence: Duration,
    /// How often in a row silence was met, of several tries at once only one.
    silent: AtomicU32,
    /// Tries that met nobody, before the first that did.
    unanswered: AtomicU32,
    answered: AtomicBool,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

impl Connector {
    /// Connects to nothing yet. `authorities` are certificates to trust besides those of the system, in PEM.
    pub fn new(is_plain: bool, authorities: Option<&[u8]>) -> io::Result<Self> {
        let unusable = |e: reqwest::Error| io::Error::other(printable(&deepest(&e).to_string()));
        let mut roots = if is_plain { Vec::new() } else { system_roots().to_vec() };
        if let Some(pem) = authorities {
            roots.extend(reqwest::Certificate::from_pem_bundle(pem).map_err(unusable)?);
        }
        let client = |connect| http_client(connect).tls_certs_only(roots.clone());
        Ok(Connector(Arc::new(Service {
            client: client(CONNECT).build().map_err(unusable)?,
            near: client(CONNECT_NEAR).no_proxy().build().map_err(unusable)?,
            is_plain,
            silence: silence(),
            silent: AtomicU32::new(0),
            unanswered: AtomicU32::new(0),
            answered: AtomicBool::new(false),
        })))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let service = &self.0;
        let (parts, body) = request.into_parts();
        let url = Url::parse(&parts.uri.to_string()).map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let near = is_near(&url);
        if url.scheme() != "https" && !near && !service.is_plain {
            let host = url.host_str().unwrap_or_default();
            return Err(last(format!("{} is not asked over plain HTTP", printable(host))));
        }
        let completes = parts.method == Method::POST && url.query_pairs().any(|(key, _)| key == "uploadId");
        let patience = service.patience();
        // After that silence it is better asked for the object than for its parts.
        let patience =
            if completes { Patience { length: service.silence * LONGEST, met: TRIES - 1 } } else { patience };
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        let moved = Arc::new(AtomicBool::new(false));
        if body.content_length() > 0 {
            let body = Outgoing { body, rest: Bytes::new(), moved: moved.clone() };
            *request.body_mut() = Some(reqwest::Body::wrap(body));
        }
        let client = if near { &service.near } else { &service.client };
        let mut answering = std::pin::pin!(client.execute(request));
        let response = loop {
            match tokio::time::timeout(patience.length, &mut answering).await {
                Ok(Ok(response)) => break response,
                Ok(Err(e)) => return Err(service.failed(&e)),
                // A part of the body went out.
                Err(_) if moved.swap(false, Relaxed) => {}
                Err(_) => return Err(service.silent(patience)),
            }
        };
        service.answered.store(true, Relaxed);
        service.silent.store(0, Relaxed);
        let status = response.status();
        if status.is_redirection() && status != reqwest::StatusCode::NOT_MODIFIED {
            let region = response.headers().get("x-amz-bucket-region").and_then(|region| region.to_str().ok());
            let region = region.map_or("NAME".into(), printable);
            return Err(last(format!(
                "the store answers {status}, as the bucket is in another place: say where with --s3-region {region}"
            )));
        }
        let (parts, body) = hyper::Response::<reqwest::Body>::from(response).into_parts();
        let body =
            Incoming { body, patience, alarm: Box::pin(tokio::time::sleep(patience.length)), service: self.clone() };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

impl Service {
    fn patience(&self) -> Patience {
        let met = self.silent.load(Relaxed);
        Patience { met, length: self.silence * (1 << met.min(3)).min(LONGEST) }
    }

    fn silent(&self, patience: Patience) -> HttpError {
        // Others that began as this one did say the same.
        let _ = self.silent.compare_exchange(patience.met, patience.met + 1, Relaxed, Relaxed);
        let what = format!("the store says nothing for {} s", patience.length.as_secs_f64());
        if patience.met + 1 >= TRIES { last(what) } else { self.again(what.into()) }
    }

    /// What a request died of. All that are sent here may be sent again.
    fn failed(&self, error: &reqwest::Error) -> HttpError {
        let cause = deepest(error);
        if let Some(e) = cause.downcast_ref::<rustls::Error>() {
            use rustls::{CertificateError, Error};
            let next = match e {
                Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                    "; name the authority that signed the certificate of the store with AWS_CA_BUNDLE=FILE"
                }
                Error::InvalidMessage(_) => "; does the store speak plain HTTP? Then its endpoint is http://…",
                _ => "",
            };
            return last(printable(&format!("{e}{next}")));
        }
        let what = if error.is_connect() { format!("it cannot be connected to: {cause}") } else { cause.to_string() };
        self.again(printable(&what).into())
    }

    /// Asking again may help, unless nobody ever was there.
    fn again(&self, cause: Box<dyn std::error::Error + Send + Sync>) -> HttpError {
        let gone = !self.answered.load(Relaxed) && self.unanswered.fetch_add(1, Relaxed) + 1 >= TRIES;
        HttpError::new_boxed(if gone { HttpErrorKind::Unknown } else { HttpErrorKind::Request }, cause)
    }
}

/// How long silence may last, after so many times that it was met.
#[derive(Clone, Copy)]
struct Patience {
    met: u32,
    length: Duration,
}

/// An error that asking again does not mend.
fn last(what: String) -> HttpError {
    HttpError::new_boxed(HttpErrorKind::Unknown, what.into())
}

/// What lies at the bottom of an error, also of those that I/O errors wrap and do not name as their sources.
fn deepest(error: &reqwest::Error) -> &(dyn std::error::Error + 'static) {
    let mut last: &(dyn std::error::Error + 'static) = error;
    loop {
        let inner = last.downcast_ref::<io::Error>().and_then(|e| e.get_ref());
        match inner.map(|e| e as &(dyn std::error::Error + 'static)).or_else(|| last.source()) {
            Some(next) => last = next,
            None => return last,
        }
    }
}

/// Whether it is this machine, or the place that gives out credentials on a link of it.
fn is_near(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback() || address.is_link_local(),
        Some(url::Host::Ipv6(address)) => address.is_loopback() || address.segments()[..2] == [0xfd00, 0xec2],
        Some(url::Host::Domain(name)) => crate::config::endpoint::is_loopback(name),
        None => false,
    }
}

/// What is sent, in pieces that tell that they went out.
struct Outgoing {
    body: HttpRequestBody,
    rest: Bytes,
    moved: Arc<AtomicBool>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
                ended => return Poll::Ready(ended),
            }
        }
        self.moved.store(true, Relaxed);
        let length = self.rest.len().min(FRAME);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.body.size_hint().exact().unwrap_or_default() + self.rest.len() as u64;
        SizeHint::with_exact(length)
    }
}

/// What is received, with an end to silence.
struct Incoming {
    body: reqwest::Body,
    patience: Patience,
    alarm: Pin<Box<Sleep>>,
    service: Connector,
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let patience = self.patience;
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.alarm.as_mut().reset(Instant::now() + patience.length);
                Poll::Ready(frame.map(|frame| frame.map_err(|e| self.service.0.failed(&e))))
            }
            Poll::Pending => {
                ready!(self.alarm.as_mut().poll(cx));
                Poll::Ready(Some(Err(self.service.0.silent(patience))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_linked_to_this_machine_is_near() {
        let near = |text: &str| is_near(&Url::parse(text).unwrap());
        for url in
            ["http://127.0.0.1:9000/", "http://b.localhost/", "http://169.254.169.254/", "http://[fd00:ec2::254]/"]
        {
            assert!(near(url), "{url}");
        }
        for url in
            ["http://10.0.0.1/", "https://s3.low.example/", "http://[fd00:1::254]/", "http://169.254.evil.example/"]
        {
            assert!(!near(url), "{url}");
        }
    }
}
