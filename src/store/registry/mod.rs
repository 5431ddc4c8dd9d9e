//! The distribution client (distribution-spec 1.1 and Docker Registry v2), on top of plain HTTP/1.1.
//!
//! `transport` connects, `pace` says how hard a host is asked (`window`: how many at once; `rate`: how fast), `auth` says who asks, `exchange` asks and asks again; over
//! them, one file per thing of the protocol: `manifest`, `blob`, `upload`, `referrers`, `tags`. Invariant of
//! them all: the bytes decide, whatever a header says; a wait has a time-out and a retry a budget.

mod answer;
mod auth;
mod blob;
mod elsewhere;
mod exchange;
mod login;
mod manifest;
mod pace;
mod rate;
mod referrers;
mod retry;
mod route;
mod tags;
mod transport;
mod unfinished;
mod upload;
mod window;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use reqwest::header::HeaderMap;

pub use self::login::Login;

use self::auth::{Authenticator, Scopes};
use self::exchange::Ask;
use self::pace::{Hosts, Lane, locked};
use self::route::Route;
use self::transport::Transport;
use self::unfinished::Unfinished;
use super::{BlobReader, BlobSource, Name, Prefix, Pushed, Result, Store};
use crate::config::endpoint::authority;
use crate::config::{Access, Config};
use crate::image::{Descriptor, Digest, Manifest, Reference};

type SubjectLocks = HashMap<(String, Digest), Arc<tokio::sync::Mutex<()>>>;

/// What all repositories share: configuration, connections, tokens, per-host limits.
pub struct Client {
    config: Arc<Config>,
    transport: Transport,
    auth: Authenticator,
    hosts: Hosts,
    habits: Mutex<HashMap<String, Arc<Habits>>>,
    /// One writer at a time for each list of referrers kept under a tag.
    subjects: Mutex<SubjectLocks>,
    unfinished: Unfinished,
}

impl Client {
    /// Connects to nothing yet.
    pub fn new(config: Arc<Config>) -> Self {
        Client {
            auth: Authenticator::new(config.clone()),
            unfinished: Unfinished::new(config.state().map(|state| state.join("uploads"))),
            config,
            transport: Transport::new(),
            hosts: Hosts::new(None),
            habits: Mutex::default(),
            subjects: Mutex::default(),
        }
    }

    /// Fixes how many reads, and how many writes, are in flight at once to one host. `None`: found out.
    pub fn with_jobs(mut self, jobs: Option<usize>) -> Self {
        self.hosts = Hosts::new(jobs.map(|j| j.max(1)));
        self
    }

    /// See [`Config::state`].
    pub fn state(&self) -> Option<&std::path::Path> {
        self.config.state()
    }

    /// The repository of `reference`, opened for that. Fails where the configuration forbids it or cannot be obeyed.
    pub fn repository(client: &Arc<Client>, reference: &Reference, access: Access) -> Result<Repository> {
        let repository = reference.network_repository();
        let policy = client.config.policy(&reference.registry, &repository, access)?;
        let routes = policy.endpoints.into_iter().map(|endpoint| {
            // A credential belongs to a host: that of the registry, or that of an endpoint which stands in for it.
            let authority = authority(&endpoint.url);
            client.hosts.limit(&endpoint.url, policy.limits);
            let registry = if authority.eq_ignore_ascii_case(reference.network_host()) {
                reference.registry.clone()
            } else {
                authority
            };
            Arc::new(Route::new(endpoint, registry))
        });
        let routes: Arc<[Arc<Route>]> = routes.collect();
        let ways: Vec<String> = routes.iter().map(|route| route.place()).collect();
        let habits = format!("{} {}", reference.registry, if policy.is_away { ways.join(" ") } else { String::new() });
        Ok(Repository {
            client: client.clone(),
            routes,
            habits: locked(&client.habits).entry(habits).or_default().clone(),
            site: reference.registry.clone(),
            name: reference.repository.clone(),
            repository,
            away: policy.is_away.then(|| ways.join(", ")),
        })
    }
}

/// What was learned about a registry.
#[derive(Default)]
struct Habits {
    /// Index of the endpoint that answered last.
    endpoint: AtomicUsize,
    /// A HEAD has answered 200: its 404 can be believed.
    head_works: AtomicBool,
    /// A HEAD said 404 of something that GET has.
    head_lies: AtomicBool,
    /// `Docker-Content-Digest` was there and what the bytes say.
    digest_header_true: AtomicBool,
    /// It was another, or missing.
    digest_header_false: AtomicBool,
    /// It refuses uploads in one piece; bytes in a chunk. 0: it does not.
    chunk: AtomicU64,
}

/// One repository of a registry.
#[derive(Clone)]
pub struct Repository {
    client: Arc<Client>,
    /// Tried in order.
    routes: Arc<[Arc<Route>]>,
    habits: Arc<Habits>,
    /// The registry as the user wrote it.
    site: String,
    /// The repository as the user wrote it.
    name: String,
    /// The repository as the network knows it.
    repository: String,
    /// Where it is read, if that is not (only) where its name says.
    away: Option<String>,
}

impl Repository {
    fn place(&self) -> String {
        format!("{}/{}", self.site, self.name)
    }

    /// A question without a body, in the lane of its kind.
    fn asking<'a>(&self, method: reqwest::Method, path: &'a str, object: &str) -> Ask<'a> {
        let reads = method == reqwest::Method::GET || method == reqwest::Method::HEAD;
        Ask {
            what: format!("{method} {object}"),
            method,
            path,
            headers: HeaderMap::new(),
            body: None,
            scopes: if reads { Scopes::pull(&self.repository) } else { Scopes::push(&self.repository) },
            lane: if reads { Lane::Read } else { Lane::Write },
        }
    }
}

#[async_trait]
impl Store for Repository {
    fn describe(&self) -> String {
        match &self.away {
            Some(ways) => format!("{} (by way of {ways})", self.place()),
            None => self.place(),
        }
    }

    /// None for what is read elsewhere: what is there cannot be mounted.
    fn site(&self) -> Option<&str> {
        self.away.is_none().then_some(&self.site)
    }

    fn repository(&self) -> Option<&str> {
        self.away.is_none().then_some(&self.repository)
    }

    async fn resolve(&self, name: &Name) -> Result<Option<Descriptor>> {
        self.resolve_manifest(name).await
    }

    async fn has_manifest(&self, digest: Digest, tag: Option<&str>) -> Result<bool> {
        self.manifest_exists(digest, tag).await
    }

    async fn manifest(&self, name: &Name) -> Result<Option<Manifest>> {
        self.fetch_manifest(name).await
    }

    async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        self.blob_exists(descriptor).await
    }

    async fn open_blob(&self, descriptor: &Descriptor) -> Result<BlobReader> {
        self.fetch_blob(descriptor).await
    }

    async fn open_blob_after(&self, descriptor: &Descriptor, known: Prefix) -> Result<BlobReader> {
        self.fetch_rest(descriptor, known).await
    }

    async fn open_blob_at(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobReader> {
        self.fetch_from(descriptor, offset).await
    }

    async fn push_blob(
        &self,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        mount_from: Option<&str>,
    ) -> Result<Pushed> {
        self.upload(descriptor, source, mount_from).await
    }

    async fn push_manifest(&self, manifest: &Manifest, tag: Option<&str>) -> Result<()> {
        self.put_manifest(manifest, tag).await
    }

    async fn referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        self.list_referrers(subject).await
    }

    async fn tags(&self) -> Result<Vec<String>> {
        self.list_tags().await
    }
}
