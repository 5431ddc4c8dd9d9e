//! Uploads under way: what came so far is in `uploads/ID`, its size and hash state are in memory.
//!
//! Invariant: size and hash state speak of the same bytes, which are the first ones of the file. They
//! change together between two awaits, so that a connection that breaks anywhere leaves an upload that
//! can go on. After a restart the file alone is left, and is hashed anew at the end.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher as _, RandomState};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header, response};
use tempfile::TempPath;

use super::answer::{self, digest_header};
use super::contents::Record;
use super::error::{Answer, Code, Refusal};
use super::incoming::Incoming;
use super::route::Query;
use super::storage::Storage;
use crate::image::{Algorithm, Digest, Hasher};

/// How long a request waits for another one to let go of the same upload.
const PATIENCE: Duration = Duration::from_secs(5);
/// Uploads under way at once; each costs some hundred bytes of memory.
const MOST: usize = 65_536;

#[derive(Debug)]
pub(super) struct Uploads {
    directory: PathBuf,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
}

/// One upload.
#[derive(Debug)]
pub(super) struct Session {
    id: String,
    repository: String,
    path: PathBuf,
    touched: Mutex<Instant>,
    progress: tokio::sync::Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    /// Bytes received.
    size: u64,
    hasher: Option<Hashing>,
    /// Finished or given up: what came is no longer in its file.
    ended: bool,
}

/// Hash state of the bytes received.
struct Hashing(Algorithm, Hasher);

impl std::fmt::Debug for Hashing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hashing").field(&self.0).finish()
    }
}

impl Hashing {
    fn new(algorithm: Algorithm) -> Self {
        Hashing(algorithm, Hasher::new(algorithm))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name that nobody guesses: 32 hexadecimal digits.
fn new_id() -> String {
    let word = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", word(), word())
}

fn not_under_way() -> Refusal {
    Refusal::new(Code::BlobUploadUnknown, "this upload is not under way: begin a new one")
}

fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl Uploads {
    pub fn new(directory: PathBuf) -> Self {
        Uploads { directory, sessions: Mutex::default() }
    }

    fn begin(&self, repository: &str, algorithm: Algorithm) -> Result<Arc<Session>, Refusal> {
        let mut sessions = lock(&self.sessions);
        if sessions.len() >= MOST {
            return Err(Refusal::new(Code::TooManyRequests, format!("{MOST} uploads are under way"))
                .with_header(header::RETRY_AFTER, "60"));
        }
        let session = self.session(new_id(), repository, 0, Some(Hashing::new(algorithm)));
        sessions.insert(session.id.clone(), session.clone());
        Ok(session)
    }

    fn session(&self, id: String, repository: &str, size: u64, hasher: Option<Hashing>) -> Arc<Session> {
        Arc::new(Session {
            path: self.directory.join(&id),
            id,
            repository: repository.to_owned(),
            touched: Mutex::new(Instant::now()),
            progress: tokio::sync::Mutex::new(Progress { size, hasher, ended: false }),
        })
    }

    /// The upload of that name: in memory, or left on disk by an earlier process.
    fn find(&self, repository: &str, id: &str) -> Result<Arc<Session>, Refusal> {
        let mut sessions = lock(&self.sessions);
        let session = match sessions.get(id) {
            Some(session) => session.clone(),
            None if is_id(id) => {
                let metadata = fs::metadata(self.directory.join(id)).map_err(|_| not_under_way())?;
                let session = self.session(id.to_owned(), repository, metadata.len(), None);
                sessions.insert(id.to_owned(), session.clone());
                session
            }
            None => return Err(not_under_way()),
        };
        if session.repository != repository {
            return Err(not_under_way());
        }
        *lock(&session.touched) = Instant::now();
        Ok(session)
    }

    /// Ends an upload. A request that waits for it gets to know: it would write behind bytes that are gone.
    fn forget(&self, session: &Session, progress: &mut Progress) {
        progress.ended = true;
        // Nothing is there when nothing came, or when it was finished.
        let _ = fs::remove_file(&session.path);
        lock(&self.sessions).remove(&session.id);
    }

    /// Writes small content to a file that goes away unless it is renamed.
    pub fn keep(&self, bytes: &[u8]) -> Result<TempPath, Refusal> {
        let path = self.directory.join(format!("manifest-{}", new_id()));
        let refuse = |e: io::Error| Refusal::storage(&path, &e);
        let kept = TempPath::try_from_path(&path).map_err(refuse)?;
        fs::write(&path, bytes).map_err(refuse)?;
        Ok(kept)
    }

    /// Forgets uploads that nobody asked for in that time, and what earlier processes left behind for so long.
    pub fn expire(&self, expiry: Duration) {
        let idle: Vec<Arc<Session>> =
            lock(&self.sessions).values().filter(|s| lock(&s.touched).elapsed() > expiry).cloned().collect();
        for session in idle {
            if let Ok(mut progress) = session.progress.try_lock() {
                self.forget(&session, &mut progress);
            }
        }
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let ours =
                is_id(name.strip_prefix("manifest-").unwrap_or(name)) && !lock(&self.sessions).contains_key(name);
            let age = |m: fs::Metadata| SystemTime::now().duration_since(m.modified().ok()?).ok();
            if ours && entry.metadata().ok().and_then(age).is_some_and(|age| age > expiry) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl Session {
    /// Waits for another request that is at work on this upload: one whose client is gone ends soon.
    async fn lock(&self) -> Result<tokio::sync::MutexGuard<'_, Progress>, Refusal> {
        let progress = tokio::time::timeout(PATIENCE, self.progress.lock()).await.map_err(|_| {
            Refusal::new(Code::BlobUploadInvalid, "another request is at work on this upload: try again")
                .with_status(StatusCode::CONFLICT)
        })?;
        if progress.ended { Err(not_under_way()) } else { Ok(progress) }
    }

    fn location(&self) -> String {
        format!("/v2/{}/blobs/uploads/{}", self.repository, self.id)
    }

    /// An answer that says where the upload is and how far it came.
    fn describe(&self, status: StatusCode, size: u64) -> response::Builder {
        answer::builder(status)
            .header(header::LOCATION, self.location())
            .header("docker-upload-uuid", &self.id)
            .header(header::RANGE, format!("0-{}", size.saturating_sub(1)))
    }

    /// Takes a body in, behind what came before it; at most up to `end`. Where the disk takes no more the upload
    /// is given up, so that what came does not fill it.
    async fn receive(
        &self,
        uploads: &Uploads,
        progress: &mut Progress,
        body: &mut Incoming,
        end: Option<u64>,
    ) -> Result<(), Refusal> {
        let mut file = None;
        while let Some(chunk) = body.next().await? {
            if end.is_some_and(|end| progress.size + chunk.len() as u64 > end) {
                return Err(Refusal::new(Code::SizeInvalid, "more bytes came than Content-Range says"));
            }
            if let Err(e) = self.write(&mut file, &chunk, progress.size) {
                uploads.forget(self, progress);
                return Err(Refusal::storage(&self.path, &e));
            }
            if let Some(Hashing(_, hasher)) = &mut progress.hasher {
                hasher.update(&chunk);
            }
            progress.size += chunk.len() as u64;
        }
        *lock(&self.touched) = Instant::now();
        Ok(())
    }

    /// Writes a piece at its place; opens the file for the first one.
    fn write(&self, file: &mut Option<File>, chunk: &[u8], at: u64) -> io::Result<()> {
        let file = match file {
            Some(file) => file,
            none => none.insert(File::options().write(true).create(true).truncate(false).open(&self.path)?),
        };
        file.write_all_at(chunk, at)
    }

    /// The digest of all that came.
    async fn digest(&self, progress: &mut Progress, algorithm: Algorithm) -> Result<Digest, Refusal> {
        if let Some(Hashing(kept, hasher)) = progress.hasher.take()
            && kept == algorithm
        {
            return Ok(hasher.finish());
        }
        let (path, size) = (self.path.clone(), progress.size);
        let hashed = tokio::task::spawn_blocking(move || hash_file(&path, size, algorithm)).await;
        hashed.map_err(io::Error::other).and_then(|r| r).map_err(|e| Refusal::storage(&self.path, &e))
    }

    /// Makes the upload a blob of the repository, if it is what the client says.
    async fn finish(&self, storage: &Storage, progress: &mut Progress, expected: Digest) -> Answer {
        let actual = self.digest(progress, expected.algorithm()).await?;
        if actual != expected {
            storage.uploads.forget(self, progress);
            return Err(Refusal::new(Code::DigestInvalid, format!("expected {expected}, what came is {actual}")));
        }
        let exact = || {
            let file = File::options().write(true).create(true).truncate(false).open(&self.path)?;
            if file.metadata()?.len() != progress.size {
                file.set_len(progress.size)?;
            }
            Ok(())
        };
        exact().map_err(|e: io::Error| Refusal::storage(&self.path, &e))?;
        let repository = self.repository.clone();
        let record = Record::Blob { repository, digest: expected, size: progress.size };
        storage.commit(Some((&self.path, &expected)), vec![record], |_| Ok(()))?;
        storage.uploads.forget(self, progress);
        created(&self.repository, &expected)
    }
}

fn hash_file(path: &Path, size: u64, algorithm: Algorithm) -> io::Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    if size > 0 {
        let mut file = File::open(path)?.take(size);
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
    }
    Ok(hasher.finish())
}

/// 201: the repository has that blob.
fn created(repository: &str, digest: &Digest) -> Answer {
    answer::builder(StatusCode::CREATED)
        .header(header::LOCATION, format!("/v2/{repository}/blobs/{digest}"))
        .header(digest_header(), digest.to_string())
        .header(header::CONTENT_LENGTH, 0)
        .body(Body::empty())
        .map_err(answer::unwritable)
}

/// POST: mounts, takes a whole blob, or begins an upload.
pub(super) async fn start(storage: &Storage, repository: &str, query: &Query, body: &mut Incoming) -> Answer {
    let mount = query.digest("mount")?;
    if let Some(digest) = mount
        && mount_blob(storage, repository, digest, query.get("from"))?
    {
        return created(repository, &digest);
    }
    let whole = query.digest("digest")?;
    let named = match query.get("digest-algorithm") {
        None => None,
        Some(name) => Some(Algorithm::from_name(name).ok_or_else(|| {
            Refusal::new(Code::DigestInvalid, "this digest-algorithm is not supported: sha256 and sha512 are")
        })?),
    };
    let algorithm = whole.or(mount).map(|d| d.algorithm()).or(named).unwrap_or(Algorithm::Sha256);
    let session = storage.uploads.begin(repository, algorithm)?;
    let Some(digest) = whole.filter(|_| mount.is_none()) else {
        return session.describe(StatusCode::ACCEPTED, 0).body(Body::empty()).map_err(answer::unwritable);
    };
    let mut progress = session.lock().await?;
    let done = match session.receive(&storage.uploads, &mut progress, body, None).await {
        Ok(()) => session.finish(storage, &mut progress, digest).await,
        Err(refusal) => Err(refusal),
    };
    if done.is_err() {
        // Its client was never told a name by which it could go on.
        storage.uploads.forget(&session, &mut progress);
    }
    done
}

/// Links a blob of another repository: of the named one, or of any.
fn mount_blob(storage: &Storage, repository: &str, digest: Digest, from: Option<&str>) -> Result<bool, Refusal> {
    let size = match from {
        Some(from) => storage.contents().blob_size(from, &digest),
        None => storage.contents().blob_anywhere(&digest),
    };
    let Some(size) = size.filter(|size| storage.has_file(&digest, *size)) else { return Ok(false) };
    let record = Record::Blob { repository: repository.to_owned(), digest, size };
    // The bytes may be gone by now, if the last repository that had them let them go.
    let gone = || Refusal::new(Code::BlobUnknown, format!("blob {digest} was deleted just now"));
    match storage.commit(None, vec![record], |contents| contents.is_linked(&digest).then_some(()).ok_or_else(gone)) {
        Ok(()) => Ok(true),
        Err(refusal) if refusal.is(Code::BlobUnknown) => Ok(false),
        Err(refusal) => Err(refusal),
    }
}

/// GET: how far an upload came.
pub(super) async fn status(storage: &Storage, repository: &str, id: &str) -> Answer {
    let session = storage.uploads.find(repository, id)?;
    let size = session.lock().await?.size;
    session.describe(StatusCode::NO_CONTENT, size).body(Body::empty()).map_err(answer::unwritable)
}

/// DELETE: gives an upload up.
pub(super) async fn cancel(storage: &Storage, repository: &str, id: &str) -> Answer {
    let session = storage.uploads.find(repository, id)?;
    let mut progress = session.lock().await?;
    storage.uploads.forget(&session, &mut progress);
    answer::builder(StatusCode::NO_CONTENT).body(Body::empty()).map_err(answer::unwritable)
}

/// PATCH: takes a piece.
pub(super) async fn patch(
    storage: &Storage,
    repository: &str,
    id: &str,
    headers: &HeaderMap,
    body: &mut Incoming,
) -> Answer {
    let session = storage.uploads.find(repository, id)?;
    let mut progress = session.lock().await?;
    let end = range_end(&session, &progress, headers)?;
    session.receive(&storage.uploads, &mut progress, body, end).await?;
    session.describe(StatusCode::ACCEPTED, progress.size).body(Body::empty()).map_err(answer::unwritable)
}

/// PUT: takes the last piece, or all of it, and finishes.
pub(super) async fn put(
    storage: &Storage,
    repository: &str,
    id: &str,
    query: &Query,
    headers: &HeaderMap,
    body: &mut Incoming,
) -> Answer {
    let session = storage.uploads.find(repository, id)?;
    let digest = query
        .digest("digest")?
        .ok_or_else(|| Refusal::new(Code::DigestInvalid, "an upload is finished with ?digest=ALGORITHM:HEX"))?;
    let mut progress = session.lock().await?;
    let end = range_end(&session, &progress, headers)?;
    if progress.size == 0 {
        progress.hasher = Some(Hashing::new(digest.algorithm()));
    }
    session.receive(&storage.uploads, &mut progress, body, end).await?;
    session.finish(storage, &mut progress, digest).await
}

/// Checks Content-Range, if there is one: it has to begin where the upload stands. Gives its end.
fn range_end(session: &Session, progress: &Progress, headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(range) = headers.get(header::CONTENT_RANGE) else { return Ok(None) };
    let Some((start, end)) = range.to_str().ok().and_then(parse_range) else {
        return Err(Refusal::new(Code::BlobUploadInvalid, "Content-Range is START-END, both included"));
    };
    if start != progress.size {
        let message = format!("the upload stands at {}, Content-Range begins at {start}", progress.size);
        return Err(Refusal::new(Code::BlobUploadInvalid, message)
            .with_status(StatusCode::RANGE_NOT_SATISFIABLE)
            .with_header(header::LOCATION, &session.location())
            .with_header(header::RANGE, &format!("0-{}", progress.size.saturating_sub(1))));
    }
    if answer::content_length(headers).is_some_and(|length| length != end - start) {
        return Err(Refusal::new(Code::SizeInvalid, "Content-Length and Content-Range do not agree"));
    }
    Ok(Some(end))
}

/// `START-END` (RFC 9110's form, `bytes START-END/…`, too) as the half-open range that it means.
fn parse_range(text: &str) -> Option<(u64, u64)> {
    let text = text.strip_prefix("bytes ").unwrap_or(text);
    let (start, end) = text.split('/').next()?.split_once('-')?;
    let (start, end) = (start.parse::<u64>().ok()?, end.parse::<u64>().ok()?.checked_add(1)?);
    (start < end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_content_range() {
        assert_eq!(parse_range("0-0"), Some((0, 1)));
        assert_eq!(parse_range("10-19"), Some((10, 20)));
        assert_eq!(parse_range("bytes 10-19/*"), Some((10, 20)));
        for bad in ["", "-", "5", "5-", "-5", "9-3", "a-b", "0-18446744073709551615", "0--1"] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_are_new_and_are_no_paths() {
        assert_ne!(new_id(), new_id());
        assert!(is_id(&new_id()));
        for bad in ["", "..", "../../../../../../../../../etc/pw", "0123456789abcdef0123456789abcde/"] {
            assert!(!is_id(bad), "{bad}");
        }
    }
}
