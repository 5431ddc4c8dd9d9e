//! A registry that misbehaves on request: the distribution API over [`Content`], with a [`Fault`] that sees each request
//! before it is served and each answer before it is sent, and an account of all that was asked. Invariant: what it stores
//! is what it was sent; only a fault makes it lie.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine;
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::content::{self, Content};
use super::wire::{Answer, Connection, Delivery, Head};

pub const USER: &str = "robot";
pub const PASSWORD: &str = "s3cret-robot-password";

/// What a fault does with a request before the registry sees it.
pub enum Instead {
    Answer(Answer),
    /// Reads so many bytes of the body, keeps them if an upload is under way, and resets the connection.
    ResetAfter(u64),
    /// Never answers.
    Hang,
}

/// How the registry misbehaves. `nth` counts the requests of the same method for the same thing, from 1.
pub trait Fault: Send + Sync {
    fn before(&self, _head: &Head, _nth: usize) -> Option<Instead> {
        None
    }
    fn after(&self, _head: &Head, _nth: usize, _answer: &mut Answer) {}
}

/// No fault.
pub struct Sound;
impl Fault for Sound {}

#[derive(Clone, Copy, PartialEq)]
pub enum Auth {
    None,
    Basic,
    /// Bearer tokens that promise 300 seconds and live for so long, or so many requests.
    Token {
        life: Duration,
        requests: usize,
    },
}

/// How the URL of an upload looks.
#[derive(Clone, Copy, PartialEq)]
pub enum Location {
    Absolute,
    WithoutHost,
    /// On a path outside of `/v2/`, with a query of its own whose escapes matter.
    OtherPath,
    /// At the storage's address.
    OtherPort,
}

/// Where blobs are.
#[derive(Clone, Copy, PartialEq)]
pub enum Storage {
    Here,
    /// Another port of 127.0.0.1.
    OtherPort,
    /// Another address of the loopback network.
    OtherHost,
}

/// What the registry is like, fault aside.
#[derive(Clone, Copy)]
pub struct Options {
    pub auth: Auth,
    pub location: Location,
    pub storage: Storage,
    /// Whether signed URLs of the storage have expired the first time.
    pub expired_once: bool,
    /// Whether the referrers API is there.
    pub referrers: bool,
    /// Entries a page of lists.
    pub page: usize,
    pub mounts: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            auth: Auth::None,
            location: Location::Absolute,
            storage: Storage::Here,
            expired_once: false,
            referrers: true,
            page: 1000,
            mounts: true,
        }
    }
}

/// One request as it was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    pub head: Head,
    /// Whether it came to the storage's address.
    pub storage: bool,
    pub status: u16,
}

struct Token {
    made: Instant,
    used: usize,
}

#[derive(Default)]
struct State {
    content: Content,
    uploads: HashMap<String, Vec<u8>>,
    tokens: HashMap<String, Token>,
    counts: HashMap<String, usize>,
    /// Signatures given out, and whether each was its blob's first.
    signed: HashMap<String, bool>,
    seen: Vec<Seen>,
    serial: usize,
}

struct Inner {
    options: Options,
    fault: Mutex<Arc<dyn Fault>>,
    state: Mutex<State>,
    address: String,
    storage: String,
}

/// A running registry. It stops with the process.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("a runtime")
    })
}

impl Registry {
    pub fn start(content: Content, options: Options) -> Registry {
        runtime().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let host = if options.storage == Storage::OtherHost { "127.0.0.2" } else { "127.0.0.1" };
            let storage = TcpListener::bind((host, 0)).await.expect("a free port");
            let registry = Registry(Arc::new(Inner {
                options,
                fault: Mutex::new(Arc::new(Sound)),
                state: Mutex::new(State { content, ..State::default() }),
                address: listener.local_addr().expect("it is bound").to_string(),
                storage: storage.local_addr().expect("it is bound").to_string(),
            }));
            tokio::spawn(registry.clone().accept(listener, false));
            tokio::spawn(registry.clone().accept(storage, true));
            registry
        })
    }

    /// Begins to misbehave, and forgets what it has seen.
    pub fn inject(&self, fault: Arc<dyn Fault>) {
        *self.0.fault.lock().expect("no panic holds it") = fault;
        let mut state = self.state();
        state.seen.clear();
        state.counts.clear();
    }

    pub fn address(&self) -> &str {
        &self.0.address
    }

    pub fn content(&self) -> Content {
        self.state().content.clone()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn accept(self, listener: TcpListener, storage: bool) {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(self.clone().connection(stream, storage));
        }
    }

    async fn connection(self, stream: TcpStream, storage: bool) {
        let _ = stream.set_nodelay(true);
        let mut connection = Connection::new(stream);
        while let Ok(Some(head)) = connection.head().await {
            let nth = {
                let mut state = self.state();
                let count = state.counts.entry(thing(&head)).or_default();
                *count += 1;
                *count
            };
            let fault = self.0.fault.lock().expect("no panic holds it").clone();
            let at = Instant::now();
            let see = |status| {
                self.state().seen.push(Seen { at, head: head.clone(), storage, status });
            };
            let mut answer = match fault.before(&head, nth) {
                Some(Instead::Hang) => {
                    see(0);
                    connection.hang().await;
                    return;
                }
                Some(Instead::ResetAfter(n)) => {
                    see(0);
                    let part = connection.body(&head, n).await.unwrap_or_default();
                    if let Some(upload) = self.state().uploads.get_mut(&upload_id(&head)) {
                        upload.extend(part);
                    }
                    connection.reset();
                    return;
                }
                Some(Instead::Answer(answer)) => {
                    if connection.body(&head, u64::MAX).await.is_err() {
                        return;
                    }
                    answer
                }
                None => {
                    let Ok(body) = connection.body(&head, u64::MAX).await else { return };
                    let mut answer = if storage { self.stored(&head, body) } else { self.answer(&head, body) };
                    fault.after(&head, nth, &mut answer);
                    answer
                }
            };
            see(answer.status);
            if answer.delivery == Delivery::ThenClose && answer.status == 204 {
                answer.delivery = Delivery::Whole;
            }
            match connection.send(&head.method, &answer).await {
                Ok(Some(next)) => connection = next,
                _ => return,
            }
        }
    }

    /// A blob from the storage, for a signed URL: `/DIGEST?signature=…`, or the bytes of an upload.
    fn stored(&self, head: &Head, body: Vec<u8>) -> Answer {
        if let Some((repository, _)) = head.path().trim_start_matches("/v2/").split_once("/blobs/uploads/") {
            return self.upload(head, repository, body);
        }
        let digest = head.path().trim_start_matches('/').to_string();
        let state = self.state();
        let signature = head.query("signature").unwrap_or_default();
        let Some(first) = state.signed.get(&signature).copied() else {
            return Answer::new(403).body("<Error><Code>SignatureDoesNotMatch</Code></Error>");
        };
        if self.0.options.expired_once && first {
            return Answer::new(403).body("<Error><Message>Request has expired</Message></Error>");
        }
        match state.content.blobs.get(&digest) {
            Some(bytes) => ranged(head, bytes),
            None => Answer::new(404),
        }
    }

    fn answer(&self, head: &Head, body: Vec<u8>) -> Answer {
        if head.path() == "/token" {
            return self.token(head);
        }
        if !self.authorized(head) {
            let challenge = match self.0.options.auth {
                Auth::Basic => "Basic realm=\"faulty\"".into(),
                _ => {
                    let scope = scope(head);
                    format!("Bearer realm=\"http://{}/token\",service=\"faulty\"{scope}", self.0.address)
                }
            };
            return error(401, "UNAUTHORIZED", "authentication required").with("WWW-Authenticate", challenge);
        }
        let path = head.path().to_string();
        if path.starts_with("/elsewhere/") {
            if head.query("state").as_deref() != Some("a/b=c+d&e") || !head.target.contains("state=a%2Fb%3Dc%2Bd%26e") {
                return error(400, "BLOB_UPLOAD_INVALID", "the upload's URL was altered");
            }
            let repository = head.query("repository").unwrap_or_default();
            return self.upload(head, &repository, body);
        }
        let Some(path) = path.strip_prefix("/v2/") else { return error(404, "UNSUPPORTED", "no such path") };
        for (marker, handler) in [
            ("/blobs/uploads/", Registry::upload as fn(&Registry, &Head, &str, Vec<u8>) -> Answer),
            ("/blobs/", |r, head, repository, _| r.blob(head, repository)),
            ("/manifests/", Registry::manifest),
            ("/referrers/", |r, head, repository, _| r.referrers(head, repository)),
            ("/tags/list", |r, head, repository, _| r.tags(head, repository)),
        ] {
            if let Some((repository, _)) = path.split_once(marker) {
                return handler(self, head, repository, body);
            }
        }
        Answer::new(200).body("{}")
    }

    fn token(&self, head: &Head) -> Answer {
        let expected = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
        if head.header("authorization") != Some(&format!("Basic {expected}")) {
            return error(401, "UNAUTHORIZED", "wrong user or password");
        }
        let mut state = self.state();
        state.serial += 1;
        let token = format!("token-{}", state.serial);
        state.tokens.insert(token.clone(), Token { made: Instant::now(), used: 0 });
        Answer::new(200)
            .with("Content-Type", "application/json")
            .body(serde_json::json!({"token": token, "expires_in": 300}).to_string())
    }

    fn authorized(&self, head: &Head) -> bool {
        let given = head.header("authorization").unwrap_or_default();
        match self.0.options.auth {
            Auth::None => true,
            Auth::Basic => {
                let expected = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
                given == format!("Basic {expected}")
            }
            Auth::Token { life, requests } => {
                let mut state = self.state();
                let Some(token) = given.strip_prefix("Bearer ").and_then(|t| state.tokens.get_mut(t)) else {
                    return false;
                };
                token.used += 1;
                token.made.elapsed() < life && token.used <= requests
            }
        }
    }

    fn blob(&self, head: &Head, repository: &str) -> Answer {
        let digest = last(head);
        let mut state = self.state();
        if !state.content.repositories.get(repository).is_some_and(|r| r.blobs.contains(&digest)) {
            return error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        }
        let bytes = state.content.blobs[&digest].clone();
        if self.0.options.storage != Storage::Here && head.method == "GET" {
            let first = !state.signed.keys().any(|k| k.starts_with(&digest[7..]));
            let signature = format!("{}-{}", &digest[7..], state.signed.len());
            state.signed.insert(signature.clone(), first);
            return Answer::new(307)
                .with("Location", format!("http://{}/{digest}?signature={signature}", self.0.storage));
        }
        ranged(head, &bytes).with("Docker-Content-Digest", digest)
    }

    fn upload(&self, head: &Head, repository: &str, body: Vec<u8>) -> Answer {
        let mut state = self.state();
        let id = upload_id(head);
        let location = |id: &str| match self.0.options.location {
            Location::Absolute => format!("http://{}/v2/{repository}/blobs/uploads/{id}", self.0.address),
            Location::WithoutHost => format!("/v2/{repository}/blobs/uploads/{id}"),
            Location::OtherPort => format!("http://{}/v2/{repository}/blobs/uploads/{id}", self.0.storage),
            Location::OtherPath => format!("/elsewhere/{id}?state=a%2Fb%3Dc%2Bd%26e&repository={repository}"),
        };
        let under_way = |status, id: &str, length: usize| {
            Answer::new(status)
                .with("Location", location(id))
                .with("Range", format!("0-{}", length.saturating_sub(1)))
                .with("Docker-Upload-UUID", id)
        };
        let done = |digest: &str| {
            Answer::new(201)
                .with("Location", format!("/v2/{repository}/blobs/{digest}"))
                .with("Docker-Content-Digest", digest)
        };
        if head.method == "POST" {
            if let (Some(digest), Some(from)) = (head.query("mount"), head.query("from"))
                && self.0.options.mounts
                && state.content.repositories.get(&from).is_some_and(|r| r.blobs.contains(&digest))
            {
                state.content.repositories.entry(repository.into()).or_default().blobs.insert(digest.clone());
                return done(&digest);
            }
            state.serial += 1;
            let id = format!("upload-{}", state.serial);
            state.uploads.insert(id.clone(), Vec::new());
            return under_way(202, &id, 0);
        }
        let Some(upload) = state.uploads.get_mut(&id) else {
            return error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
        };
        match head.method.as_str() {
            "GET" => under_way(204, &id, upload.len()),
            "DELETE" => {
                state.uploads.remove(&id);
                Answer::new(204)
            }
            "PATCH" | "PUT" => {
                let start = head.header("content-range").and_then(|r| r.split('-').next()?.parse::<usize>().ok());
                if start.is_some_and(|start| start != upload.len()) {
                    return under_way(416, &id, upload.len());
                }
                upload.extend(body);
                if head.method == "PATCH" {
                    return under_way(202, &id, upload.len());
                }
                let bytes = Bytes::from(state.uploads.remove(&id).unwrap_or_default());
                let digest = head.query("digest").unwrap_or_default();
                if !content::is(&digest, &bytes) {
                    return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
                }
                state.content.blobs.insert(digest.clone(), bytes);
                state.content.repositories.entry(repository.into()).or_default().blobs.insert(digest.clone());
                done(&digest)
            }
            _ => error(405, "UNSUPPORTED", "method not allowed"),
        }
    }

    fn manifest(&self, head: &Head, repository: &str, body: Vec<u8>) -> Answer {
        let reference = last(head);
        let mut state = self.state();
        if head.method == "PUT" {
            let (blobs, manifests) = content::children(&body);
            let into = state.content.repositories.entry(repository.into()).or_default();
            if let Some(missing) = blobs.iter().find(|b| !into.blobs.contains(*b)) {
                return error(400, "MANIFEST_BLOB_UNKNOWN", &format!("blob unknown to registry: {missing}"));
            }
            if let Some(missing) = manifests.iter().find(|m| !into.manifests.contains_key(*m)) {
                return error(400, "MANIFEST_BLOB_UNKNOWN", &format!("manifest unknown to registry: {missing}"));
            }
            let digest = airgap_mirror::image::Digest::sha256(&body).to_string();
            if reference.contains(':') && !content::is(&reference, &body) {
                return error(400, "DIGEST_INVALID", "the manifest is not what its digest says");
            }
            let media_type = head.header("content-type").unwrap_or_default().to_string();
            let subject = content::subject(&body);
            into.manifests.insert(digest.clone(), (media_type, body.into()));
            if !reference.contains(':') {
                into.tags.insert(reference, digest.clone());
            }
            let mut answer = Answer::new(201)
                .with("Location", format!("/v2/{repository}/manifests/{digest}"))
                .with("Docker-Content-Digest", digest);
            if let Some(subject) = subject.filter(|_| self.0.options.referrers) {
                answer.set("OCI-Subject", subject);
            }
            return answer;
        }
        let found = state.content.repositories.get(repository).and_then(|r| {
            let digest = r.tags.get(&reference).unwrap_or(&reference);
            r.manifests.get(digest).map(|(media_type, bytes)| (digest.clone(), media_type.clone(), bytes.clone()))
        });
        match found {
            Some((digest, media_type, bytes)) => {
                Answer::new(200).with("Content-Type", media_type).with("Docker-Content-Digest", digest).body(bytes)
            }
            None => error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        }
    }

    fn referrers(&self, head: &Head, repository: &str) -> Answer {
        if !self.0.options.referrers {
            return error(404, "NOT_FOUND", "404 page not found");
        }
        let subject = last(head);
        let all = self.state().content.repositories.get(repository).map(|r| r.referrers(&subject)).unwrap_or_default();
        let start: usize = head.query("start").and_then(|s| s.parse().ok()).unwrap_or(0);
        let page: Vec<_> = all.iter().skip(start).take(self.0.options.page).cloned().collect();
        let next = start + page.len();
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": page});
        let mut answer =
            Answer::new(200).with("Content-Type", "application/vnd.oci.image.index.v1+json").body(index.to_string());
        if next < all.len() {
            answer.set("Link", format!("<{}?start={next}>; rel=\"next\"", head.path()));
        }
        answer
    }

    fn tags(&self, head: &Head, repository: &str) -> Answer {
        let state = self.state();
        let Some(found) = state.content.repositories.get(repository) else {
            return error(404, "NAME_UNKNOWN", "repository name not known to registry");
        };
        let after = head.query("last").unwrap_or_default();
        let rest: Vec<_> = found.tags.keys().filter(|t| **t > after).collect();
        let page: Vec<_> = rest.iter().take(self.0.options.page).collect();
        let mut answer = Answer::new(200)
            .with("Content-Type", "application/json")
            .body(serde_json::json!({"name": repository, "tags": page}).to_string());
        if let (true, Some(last)) = (rest.len() > page.len(), page.last()) {
            // Relative, as some registries write it.
            answer.set("Link", format!("<list?last={last}&n={}>; rel=\"next\"", self.0.options.page));
        }
        answer
    }
}

/// An error in the distribution API's form.
pub fn error(status: u16, code: &str, message: &str) -> Answer {
    let json = serde_json::json!({"errors": [{"code": code, "message": message}]});
    Answer::new(status).with("Content-Type", "application/json").body(json.to_string())
}

/// A body, or the part of it that `Range` asks for.
fn ranged(head: &Head, bytes: &Bytes) -> Answer {
    let whole = Answer::new(200).with("Content-Type", "application/octet-stream").with("Accept-Ranges", "bytes");
    let Some(range) = head.header("range").and_then(|r| r.strip_prefix("bytes=")) else {
        return whole.body(bytes.clone());
    };
    let (start, end) = range.split_once('-').unwrap_or((range, ""));
    let start: usize = start.parse().unwrap_or(0);
    let end = end.parse::<usize>().map_or(bytes.len(), |end| (end + 1).min(bytes.len()));
    if start >= bytes.len() || start >= end {
        return Answer::new(416).with("Content-Range", format!("bytes */{}", bytes.len()));
    }
    let mut answer = whole.body(bytes.slice(start..end));
    answer.status = 206;
    answer.with("Content-Range", format!("bytes {start}-{}/{}", end - 1, bytes.len()))
}

/// The last part of the path: a digest, a tag or an upload.
pub fn last(head: &Head) -> String {
    head.path().rsplit('/').next().unwrap_or_default().replace("%3A", ":").replace("%3a", ":")
}

fn upload_id(head: &Head) -> String {
    last(head)
}

/// What a request is about, so that a second try is known as such even if it goes to another upload.
fn thing(head: &Head) -> String {
    let what = head.query("digest").or_else(|| head.query("mount")).unwrap_or_default();
    if head.path().contains("upload") && !what.is_empty() {
        format!("{} {what}", head.method)
    } else {
        format!("{} {}", head.method, head.path())
    }
}

fn scope(head: &Head) -> String {
    let path = head.path().trim_start_matches("/v2/");
    let action = if matches!(head.method.as_str(), "GET" | "HEAD") { "pull" } else { "pull,push" };
    for marker in ["/blobs/", "/manifests/", "/referrers/", "/tags/"] {
        if let Some((repository, _)) = path.split_once(marker) {
            return format!(",scope=\"repository:{repository}:{action}\"");
        }
    }
    String::new()
}
