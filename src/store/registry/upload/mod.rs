//! Blobs on their way out: two requests a blob, a POST that also tries the mount and a PUT with all of it.
//!
//! Here is where an upload begins: by a mount, from what an earlier run has left (`left_at`), or anew. `session` is what the
//! registry says of an upload, `persistence` brings it to its end whatever breaks, `request` is one request with bytes,
//! `body` what is known of them on their way. Invariants: a session that is known to hold wrong bytes is not used again; the
//! last chunk of a wrong source never leaves (the source's reader sees to that), but where the start came from an earlier
//! run: there the registry's check of the digest decides, and if it says no, the blob goes from its start; `Sent` means that
//! the registry confirmed it.

mod body;
mod persistence;
mod request;
mod session;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use reqwest::Method;
use reqwest::header::HeaderMap;

use self::session::{Mount, Session, Standing};
use super::Repository;
use super::auth::Scopes;
use super::exchange::Ask;
use super::pace::Lane;
use super::route::Route;
use super::unfinished::Note;
use crate::image::Descriptor;
use crate::store::{BlobSource, Error, Pushed, Result};

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
        let mut push = Push {
            repository: self,
            descriptor,
            source,
            what: format!("blob {}", descriptor.digest),
            scopes: match mount_from {
                Some(from) if from != self.repository => Scopes::push(&self.repository).and_pull(from),
                _ => Scopes::push(&self.repository),
            },
            note: None,
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

/// One blob on its way.
struct Push<'a> {
    repository: &'a Repository,
    descriptor: &'a Descriptor,
    source: &'a dyn BlobSource,
    what: String,
    scopes: Scopes,
    /// Where the upload is, for the next run; taken when bytes are about to move.
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

    async fn put(&mut self, mount_from: Option<&str>, route: Option<&Arc<Route>>) -> Result<Pushed> {
        // A mount moves nothing: even where the half is there already it is tried first.
        let opened = match mount_from {
            Some(from) => match self.mount(from).await? {
                Mount::Done => return Ok(Pushed::Mounted),
                Mount::Opened(session) => Some(session),
                Mount::Refused => None,
            },
            None => None,
        };
        let left = match route {
            Some(route) => {
                self.note = self.repository.client.unfinished.note(route, self.descriptor);
                self.left(route).await
            }
            None => None,
        };
        let (session, offset) = match (left, opened) {
            // What the mount has opened stays empty, and the registry throws it away some day.
            (Some(left), _) => left,
            (None, Some(session)) => (session, 0),
            (None, None) => (self.open().await?, 0),
        };
        self.remember(&session);
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

    /// Writes down for the next run where the upload is.
    fn remember(&self, session: &Session) {
        if let Some(note) = &self.note {
            note.write(&session.route, &session.url);
        }
    }
}
