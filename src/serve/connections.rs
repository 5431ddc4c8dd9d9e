//! Connections: taken up to a bound, each under time limits, ended in order when the server stops.
//!
//! Invariant: nobody holds a connection by doing nothing. Waiting for a request, for more of a body
//! ([`Incoming`](super::incoming::Incoming)) and for room to send in ends after a time; an upload or a download
//! that moves at all may take as long as it likes.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use super::storage::Shared;

/// A pause after the system refused a connection, as it does when no file can be opened any more.
const REFUSED: Duration = Duration::from_millis(200);

/// How long the server waits, and how much it takes on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For the whole head of a request; also for the next request on a connection that is kept. Longer than
    /// the 90 s for which most clients keep one, so that they are the ones who let go.
    pub head: Duration,
    /// For the next bytes of a request's body, and for the client to take some of an answer.
    pub silence: Duration,
    /// For requests under way when the server is stopped.
    pub grace: Duration,
    /// An upload that nobody asked for in that time is forgotten.
    pub upload: Duration,
    /// Connections at once; further ones wait to be taken. Each may have a file open, and the usual bound on
    /// files is 1024.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head: Duration::from_secs(100),
            silence: Duration::from_secs(60),
            grace: Duration::from_secs(10),
            upload: Duration::from_secs(3600),
            connections: 400,
        }
    }
}

/// Takes connections until `stop`; ends when all of them have, or when their time is over.
pub(super) async fn take(listener: TcpListener, storage: Shared, limits: Limits, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = room.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let (storage, stop) = (storage.clone(), stop.clone());
                connections.spawn(async move {
                    let _place = place;
                    converse(stream, storage, limits, stop).await;
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "could not take a connection");
                tokio::time::sleep(REFUSED).await;
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.grace, ended).await.is_err() {
        tracing::warn!("some requests did not end in time and were cut off");
        connections.shutdown().await;
    }
}

/// Answers the requests of one connection.
async fn converse(stream: TcpStream, storage: Shared, limits: Limits, stop: CancellationToken) {
    // Answers are whole; waiting for more would only delay them.
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!(error = %e, "could not set TCP_NODELAY");
    }
    let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let storage = storage.clone();
        async move {
            let request: Request = request.map(Body::new);
            Ok::<_, std::convert::Infallible>(super::handle(&storage, request, limits.silence).await)
        }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(limits.head);
    let stream = TokioIo::new(Patient { stream, patience: limits.silence, waiting: None });
    let mut connection = pin!(server.serve_connection(stream, answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "a connection broke");
    }
}

/// A stream whose other side has to take what it is sent within a time.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Set while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    /// Ends the waiting when something moved, or when it took too long.
    fn watch<T>(&mut self, cx: &mut Context<'_>, moved: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            self.waiting = None;
            return moved;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        waiting.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, moved)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, moved)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
