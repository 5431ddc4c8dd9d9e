//! An archive as an object of S3 or of a store that speaks its protocol: `s3://bucket/prefix/name.tar`, and beside it
//! `name.tar.commit.json`, which is written last and says what the object holds.
//!
//! Invariants: an archive is written by parts, each of which is compared with what the store says it stored; where the
//! store does not say it, all is read back; a commit object never stands beside an object that it does not describe,
//! unless another program put it there.

pub mod access;
pub mod commit;
mod connection;
mod credentials;
pub mod journal;
mod part;
mod profile;
pub mod reader;
mod schedule;
pub mod writer;

use std::io;
use std::sync::Arc;

use futures_util::StreamExt;
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};

pub use access::Access;
pub use commit::Commit;

use crate::store::error::printable;

/// How the name of an object begins.
pub const SCHEME: &str = "s3://";
/// What follows the name of an object in that of its commit object.
const COMMIT: &str = ".commit.json";
/// Longest commit object that is read, in bytes: 10,000 parts have less than 1 MiB.
const MAX_COMMIT: u64 = 4 << 20;

/// Whether the name is that of an object.
pub fn is_object(name: &str) -> bool {
    name.starts_with(SCHEME)
}

/// Bucket and key of `s3://bucket/key`.
fn parse(url: &str) -> io::Result<(&str, Path)> {
    let wrong = |why: &str| {
        let what = format!("{why}: write s3://BUCKET/NAME.tar, where the name may have slashes");
        io::Error::new(io::ErrorKind::InvalidInput, what)
    };
    let rest = url.strip_prefix(SCHEME).ok_or_else(|| wrong("it is no name of an object"))?;
    let (bucket, key) = rest.split_once('/').ok_or_else(|| wrong("it names no object"))?;
    let of_bucket = |c: char| c.is_ascii_alphanumeric() || ['.', '-', '_'].contains(&c);
    if bucket.is_empty() || !bucket.chars().all(of_bucket) {
        return Err(wrong("its bucket has no proper name"));
    }
    if key.is_empty() || key.ends_with('/') {
        return Err(wrong("it names no object"));
    }
    let path = Path::parse(key).map_err(|e| wrong(&printable(&e.to_string())))?;
    Ok((bucket, path))
}

/// An object, with a connection to its store. Cheap to clone.
#[derive(Clone)]
pub struct Object {
    store: Arc<AmazonS3>,
    path: Path,
    url: Arc<str>,
    /// What tells its store from others.
    site: Arc<str>,
}

impl Object {
    /// Nothing is contacted yet.
    pub fn new(url: &str, access: &Access) -> io::Result<Self> {
        let (bucket, path) = parse(url)?;
        let (store, site) = access.connect(bucket)?;
        Ok(Object { store: Arc::new(store), path, url: url.into(), site: site.into() })
    }

    fn commit_path(&self) -> Path {
        Path::from(format!("{}{COMMIT}", self.path))
    }

    /// Fails with `AlreadyExists` where the object or its commit object is there.
    pub async fn refuse_existing(&self) -> io::Result<()> {
        for path in [self.commit_path(), self.path.clone()] {
            match self.store.head(&path).await {
                Ok(_) => return Err(io::Error::from(io::ErrorKind::AlreadyExists)),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(self.failed(e)),
            }
        }
        Ok(())
    }

    /// What the commit object says; `None`: there is none.
    pub async fn commit(&self) -> io::Result<Option<Commit>> {
        let found = match self.store.get(&self.commit_path()).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            found => found.map_err(|e| self.failed(e))?,
        };
        let damaged =
            |why: String| io::Error::other(format!("its commit object {}{COMMIT} is damaged: {why}", self.url));
        if found.meta.size > MAX_COMMIT {
            return Err(damaged(format!("it has {} bytes", found.meta.size)));
        }
        let mut bytes = Vec::new();
        let mut chunks = found.into_stream();
        while let Some(chunk) = chunks.next().await {
            bytes.extend_from_slice(&chunk.map_err(|e| self.failed(e))?);
            if bytes.len() as u64 > MAX_COMMIT {
                return Err(damaged("it is too long".into()));
            }
        }
        Commit::parse(&bytes).map(Some).map_err(damaged)
    }

    async fn put_commit(&self, commit: &Commit) -> io::Result<()> {
        let bytes = commit.to_json()?;
        self.store.put(&self.commit_path(), PutPayload::from(bytes)).await.map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// Removes the commit object, if there is one: what it describes is about to change.
    async fn remove_commit(&self) -> io::Result<()> {
        match self.store.delete(&self.commit_path()).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.failed(e)),
        }
    }

    /// Removes what the store holds in place of what was sent, so that nobody takes it for the archive, and tells.
    async fn discard(&self, why: &io::Error) -> io::Error {
        let removed = async {
            self.remove_commit().await?;
            self.store.delete(&self.path).await.map_err(|e| self.failed(e))
        };
        let state = match removed.await {
            Ok(()) => "it was removed".to_owned(),
            Err(e) => format!("it could not be removed ({e}): remove it"),
        };
        io::Error::other(format!(
            "read back, {why}; {state}. Something between here and the store, or the store itself, alters what is sent"
        ))
    }

    /// An error in words, without what a server added that is not for a terminal.
    fn failed(&self, error: object_store::Error) -> io::Error {
        use object_store::Error::{NotFound, PermissionDenied, Precondition, Unauthenticated};
        let (kind, next) = match &error {
            NotFound { .. } => (io::ErrorKind::NotFound, "look at the names of the bucket and of the object"),
            PermissionDenied { .. } | Unauthenticated { .. } => {
                (io::ErrorKind::Other, "look at the credentials, and at what they may do with this bucket")
            }
            _ => (io::ErrorKind::Other, access::NEXT),
        };
        tracing::debug!("{}: {error}", self.url);
        if matches!(&error, Precondition { .. }) {
            return io::Error::other("it was replaced while it was read: run the same command again");
        }
        let causes = std::iter::successors(Some(&error as &(dyn std::error::Error + 'static)), |e| e.source());
        if let Some(missing) = causes.filter_map(|e| e.downcast_ref::<credentials::Missing>()).next() {
            return io::Error::other(missing.to_string());
        }
        let cause = match (&error, cause(&error)) {
            // A question for a size alone is answered without words.
            (NotFound { .. }, cause) if !cause.starts_with(ANSWERS) => "there is no such object".into(),
            (PermissionDenied { .. } | Unauthenticated { .. }, cause) if !cause.starts_with(ANSWERS) => {
                "the store refuses it".into()
            }
            (_, cause) => cause,
        };
        io::Error::new(kind, format!("{cause}: {next}"))
    }
}

/// A variable of the environment that is not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Waits on this thread, whether it is one of the runtime's or not. What is waited for is a task of its own: when the
/// program is interrupted it ends with the runtime, while this thread may go on for a moment.
pub fn wait<T: Send + 'static>(
    runtime: &tokio::runtime::Handle,
    future: impl Future<Output = io::Result<T>> + Send + 'static,
) -> io::Result<T> {
    let task = runtime.spawn(future);
    let ended = tokio::task::block_in_place(|| runtime.block_on(task));
    // Not `Interrupted`, after which readers try again.
    ended.unwrap_or_else(|e| Err(io::Error::other(e)))
}

/// How an error begins that the store explains.
const ANSWERS: &str = "the store answers";

/// What lies at the bottom of an error: `500 Internal Server Error: InternalError`, or `connection refused`.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    let mut answer = None;
    loop {
        if let Some(e) = last.downcast_ref::<object_store::Error>() {
            answer = Some(e.to_string());
        }
        match last.source() {
            Some(next) => last = next,
            None => break,
        }
    }
    let text = last.to_string();
    // The XML of an S3 error: its code and message say it all.
    let within = |tag: &str| {
        let from = text.find(&format!("<{tag}>"))? + tag.len() + 2;
        let to = text[from..].find(&format!("</{tag}>"))? + from;
        Some(printable(&text[from..to]))
    };
    match (within("Code"), within("Message")) {
        (Some(code), Some(message)) => format!("{ANSWERS} {code}: {message}"),
        (Some(code), None) => format!("{ANSWERS} {code}"),
        _ if text.is_empty() => printable(&answer.unwrap_or_default()),
        _ => printable(&text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_bucket_and_a_key() {
        let (bucket, path) = parse("s3://low-side/2026/sync 45.tar").unwrap();
        assert_eq!((bucket, path.as_ref()), ("low-side", "2026/sync 45.tar"));
        for bad in
            ["s3://", "s3://b", "s3://b/", "s3:///a", "s3://b/dir/", "s3://b/a//c", "s3://b/../c", "s3://u:p@h/a"]
        {
            assert_eq!(parse(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{bad}");
        }
    }
}
