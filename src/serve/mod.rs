//! The embedded registry: an OCI image layout directory over the distribution API 1.1, in all four
//! workflows (pull, push, discovery, management).
//!
//! Besides what every layout has (`oci-layout`, `index.json`, `blobs/`) the directory holds
//! `repositories.jsonl`, the journal that says which repository has what, `uploads/` and `serve.lock`.
//! `index.json` follows the changes within a fraction of a second and at the end; until then the journal
//! is ahead of it, and it is the journal that counts. While a directory is served, write to it through
//! the registry alone.
//!
//! Invariant: what a client was told is stored is stored though the process be killed: files first, the
//! journal second, the answer last. Nothing is forced to the disk, so a power failure may take the last
//! seconds; blobs that it cut short are not offered, and pushing them again mends them.

mod answer;
mod blobs;
mod connections;
mod contents;
mod error;
mod incoming;
mod journal;
mod layout_index;
mod manifests;
mod referrers;
mod route;
mod storage;
mod tags;
mod uploads;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use connections::Limits;
pub use error::{Error, Result};

use crate::image::reference::is_repository;
use error::{Answer, Code, Refusal};
use incoming::Incoming;
use route::{Query, Route};
use storage::{Shared, Storage};

/// `index.json` is written at most so often, and takes at most a tenth of the time.
const INDEX_EVERY: Duration = Duration::from_millis(200);

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The layout directory; it is created if it is not there, unless it is only to be read.
    pub directory: PathBuf,
    /// Port 0: any that is free.
    pub listen: SocketAddr,
    /// Refuses every write, and writes nothing to the directory.
    pub read_only: bool,
    /// Repository for the images of a layout whose names have none; else the directory's own name.
    pub repository: Option<String>,
    /// Takes manifests whose blobs or manifests are missing, too.
    pub sparse: bool,
    pub limits: Limits,
}

impl Options {
    /// To serve a directory for reading and writing.
    pub fn new(directory: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        let (directory, limits) = (directory.into(), Limits::default());
        Options { directory, listen, read_only: false, repository: None, sparse: false, limits }
    }
}

/// A registry at work in tasks of this runtime.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, lets those under way end, and writes `index.json`.
    pub async fn shutdown(self) -> Result<()> {
        self.stop.cancel();
        match self.task.await {
            Ok(result) => result,
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Ok(()),
            },
        }
    }
}

/// Starts a registry. It ends with [`Server::shutdown`], or with the runtime.
pub async fn spawn(options: Options) -> Result<Server> {
    let storage: Shared = Arc::new(open(&options)?);
    let refuse = |source| Error::Listen { address: options.listen, source };
    let listener = TcpListener::bind(options.listen).await.map_err(refuse)?;
    let address = listener.local_addr().map_err(refuse)?;
    let stop = CancellationToken::new();
    let task = tokio::spawn(run(storage, listener, options.limits, stop.clone()));
    Ok(Server { address, stop, task })
}

fn open(options: &Options) -> Result<Storage> {
    let repository = match &options.repository {
        Some(name) if is_repository(name) => name.clone(),
        Some(name) => return Err(Error::Repository { name: name.clone() }),
        None => directory_name(options),
    };
    Storage::open(&options.directory, options.read_only, options.sparse, repository)
}

/// The directory's last component where that is a repository's name, else `layout`.
fn directory_name(options: &Options) -> String {
    let directory = std::path::absolute(&options.directory).unwrap_or_else(|_| options.directory.clone());
    let name = directory.file_name().and_then(|n| n.to_str()).map(str::to_ascii_lowercase);
    name.filter(|n| is_repository(n)).unwrap_or_else(|| "layout".into())
}

async fn run(storage: Shared, listener: TcpListener, limits: Limits, stop: CancellationToken) -> Result<()> {
    let upkeep = tokio::spawn(keep_up(storage.clone(), limits.upload, stop.clone()));
    connections::take(listener, storage.clone(), limits, stop).await;
    upkeep.abort();
    // Cancelled or not: it writes no more.
    let _ = upkeep.await;
    storage.close()
}

/// Writes `index.json` after changes and forgets old uploads, until the server is stopped.
async fn keep_up(storage: Shared, expiry: Duration, stop: CancellationToken) {
    let mut expire = tokio::time::interval((expiry / 12).max(Duration::from_millis(1)));
    let mut pause = INDEX_EVERY;
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = expire.tick() => {
                if !storage.is_read_only() {
                    storage.uploads.expire(expiry);
                }
            }
            () = storage.changed.notified() => {
                tokio::time::sleep(pause).await;
                let storage = storage.clone();
                let begun = Instant::now();
                let written = tokio::task::spawn_blocking(move || storage.write_index()).await;
                if let Ok(Err(e)) = written {
                    tracing::error!(error = %e, "could not write index.json");
                }
                pause = INDEX_EVERY.max(begun.elapsed() * 10);
            }
        }
    }
}

/// One request: taken apart, answered, and signed with the API's version.
async fn handle(storage: &Storage, request: Request, silence: Duration) -> Response {
    let (parts, body) = request.into_parts();
    let mut body = Incoming::new(body, silence);
    let mut response = match answer_to(storage, &parts, &mut body).await {
        Ok(response) => response,
        Err(refusal) => {
            // A client that waits for leave to send its body is not given it.
            if !parts.headers.contains_key(header::EXPECT) {
                body.drain().await;
            }
            refusal.into_response()
        }
    };
    tracing::debug!(method = %parts.method, path = parts.uri.path(), status = response.status().as_u16(), "request");
    let (name, value) = answer::VERSION;
    response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    response
}

async fn answer_to(storage: &Storage, parts: &axum::http::request::Parts, body: &mut Incoming) -> Answer {
    let Some(route) = Route::parse(parts.uri.path())? else {
        return Err(Refusal::new(Code::Unsupported, "this is no resource of the distribution API")
            .with_status(axum::http::StatusCode::NOT_FOUND));
    };
    let head = parts.method == Method::HEAD;
    let method = if head { &Method::GET } else { &parts.method };
    if storage.is_read_only() && method != Method::GET {
        return Err(
            Refusal::new(Code::Unsupported, "this registry is read-only").with_header(header::ALLOW, "GET, HEAD")
        );
    }
    let (headers, query) = (&parts.headers, Query::parse(parts.uri.query()));
    match (&route, method.as_str()) {
        (Route::Ping, "GET") => Ok(answer::json(&serde_json::json!({}))),
        (Route::Catalog, "GET") => tags::catalog(storage, &query),
        (Route::Tags(name), "GET") => tags::list(storage, name, &query),
        (Route::Manifest(name, reference), "GET") => manifests::get(storage, name, reference, head),
        (Route::Manifest(name, reference), "PUT") => {
            manifests::put(storage, name, reference, &query, headers, body).await
        }
        (Route::Manifest(name, reference), "DELETE") => manifests::delete(storage, name, reference),
        (Route::Blob(name, digest), "GET") => blobs::get(storage, name, digest, headers, head),
        (Route::Blob(name, digest), "DELETE") => blobs::delete(storage, name, digest),
        (Route::Uploads(name), "POST") => uploads::start(storage, name, &query, body).await,
        (Route::Upload(name, id), "GET") => uploads::status(storage, name, id).await,
        (Route::Upload(name, id), "PATCH") => uploads::patch(storage, name, id, headers, body).await,
        (Route::Upload(name, id), "PUT") => uploads::put(storage, name, id, &query, headers, body).await,
        (Route::Upload(name, id), "DELETE") => uploads::cancel(storage, name, id).await,
        (Route::Referrers(name, digest), "GET") => referrers::list(storage, name, digest, &query),
        _ => {
            let allowed = match route {
                Route::Ping | Route::Catalog | Route::Tags(_) | Route::Referrers(..) => "GET, HEAD",
                Route::Manifest(..) => "GET, HEAD, PUT, DELETE",
                Route::Blob(..) => "GET, HEAD, DELETE",
                Route::Uploads(_) => "POST",
                Route::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
            };
            let message = format!("{} is not possible here", parts.method);
            Err(Refusal::new(Code::Unsupported, message).with_header(header::ALLOW, allowed))
        }
    }
}
