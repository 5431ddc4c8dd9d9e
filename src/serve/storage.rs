//! The served directory: an OCI image layout whose blobs all repositories share, with a journal that
//! says what belongs to whom, and uploads under way.
//!
//! Invariant: bytes are renamed into `blobs/` before the journal speaks of them, and the journal speaks
//! of a change before a client does. Memory, journal and the names under `blobs/` change under one lock.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::Notify;

use super::contents::{Contents, Record};
use super::error::{Code, Error, Refusal, Result};
use super::journal::Journal;
use super::layout_index::{self, LayoutIndex};
use super::uploads::Uploads;
use crate::image::{Algorithm, Digest};

const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// Uploads under way, each a file named by its id.
const UPLOADS: &str = "uploads";
/// Held locked while a process serves the directory for writing.
const LOCK: &str = "serve.lock";

/// What the lock protects.
#[derive(Debug)]
struct Inner {
    contents: Contents,
    /// `None`: read-only, or closed.
    journal: Option<Journal>,
}

#[derive(Debug)]
pub(super) struct Storage {
    directory: PathBuf,
    inner: RwLock<Inner>,
    index: LayoutIndex,
    /// Held while `index.json` is written, so that an older one never replaces a newer one.
    writing: Mutex<()>,
    /// Told of each change that `index.json` should show.
    pub changed: Notify,
    pub uploads: Uploads,
    /// Manifests are taken though something that they hold is missing.
    pub sparse: bool,
    /// `None`: read-only.
    lock: Option<File>,
}

impl Storage {
    /// Opens a directory, which is created unless it is only to be read. `repository` is the name of
    /// the repository for images that have none.
    pub fn open(directory: &Path, read_only: bool, sparse: bool, repository: String) -> Result<Storage> {
        let lock = if read_only {
            is_layout(directory)?;
            None
        } else {
            Some(prepare(directory)?)
        };
        let mut contents = Contents::default();
        let records = Journal::load(directory, &mut contents)?;
        let index = LayoutIndex::load(directory, repository)?;
        let mut found = index.news(directory, &contents);
        for record in &found {
            contents.apply(record.clone());
        }
        let mut journal = None;
        if !read_only {
            // A journal that is mostly history is made short; one that is merely long is not.
            if records > 1000 && records > 2 * contents.records().count() {
                Journal::compact(directory, &contents)?;
                found.clear();
            }
            let mut opened = Journal::open(directory)?;
            if !found.is_empty() {
                opened.append(&found).map_err(|e| Error::io(opened.path(), e))?;
            }
            journal = Some(opened);
        }
        let changed = Notify::new();
        // The index is behind the journal where the last process was killed.
        changed.notify_one();
        Ok(Storage {
            uploads: Uploads::new(directory.join(UPLOADS)),
            directory: directory.to_owned(),
            inner: RwLock::new(Inner { contents, journal }),
            index,
            writing: Mutex::default(),
            changed,
            sparse,
            lock,
        })
    }

    pub fn is_read_only(&self) -> bool {
        self.lock.is_none()
    }

    /// Looks at the contents. The lock is never held across an await.
    pub fn contents(&self) -> Reading<'_> {
        Reading(self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Path of a file under `blobs/`.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.blob_path())
    }

    /// Opens the file of a blob or a manifest. `None`: it is gone, or has another size than it had.
    pub fn open_file(&self, digest: &Digest, size: u64) -> Option<File> {
        let file = File::open(self.path(digest)).ok()?;
        let metadata = file.metadata().ok()?;
        (metadata.is_file() && metadata.len() == size).then_some(file)
    }

    /// Whether that file is there, with that size.
    pub fn has_file(&self, digest: &Digest, size: u64) -> bool {
        fs::metadata(self.path(digest)).is_ok_and(|m| m.is_file() && m.len() == size)
    }

    /// Makes changes: puts a finished file in its place, then writes the journal, then memory.
    /// `check` sees the contents as they are before and may refuse.
    pub fn commit(
        &self,
        file: Option<(&Path, &Digest)>,
        records: Vec<Record>,
        check: impl FnOnce(&Contents) -> std::result::Result<(), Refusal>,
    ) -> std::result::Result<(), Refusal> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let Inner { contents, journal } = &mut *inner;
        check(contents)?;
        let Some(journal) = journal else {
            return Err(Refusal::new(Code::Unsupported, "this registry is read-only"));
        };
        if let Some((from, digest)) = file {
            let to = self.path(digest);
            // Over what is there, too: bytes that were just verified are better than bytes that were once.
            fs::rename(from, &to).map_err(|e| Refusal::storage(&to, &e))?;
        }
        journal.append(&records).map_err(|e| Refusal::storage(journal.path(), &e))?;
        let mut shown = false;
        for record in records {
            shown |= !matches!(record, Record::Blob { .. } | Record::DropBlob { .. });
            if let Some(digest) = contents.apply(record) {
                let path = self.path(&digest);
                if let Err(e) = fs::remove_file(&path)
                    && e.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(path = %path.display(), error = %e, "could not remove a file that nobody links");
                }
            }
        }
        drop(inner);
        if shown {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Writes `index.json` as the contents are now.
    pub fn write_index(&self) -> Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.index.render(&self.contents());
        let digest = Digest::sha256(&bytes);
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let Inner { contents, journal } = &mut *inner;
        let Some(journal) = journal else { return Ok(()) };
        if !contents.indexes.contains(&digest) {
            let record = Record::Index { digest };
            // The journal first: a file that it does not know would be taken for another's work.
            journal.append(std::slice::from_ref(&record)).map_err(|e| Error::io(journal.path(), e))?;
            contents.apply(record);
        }
        drop(inner);
        layout_index::write(&self.directory, &bytes)
    }

    /// Writes `index.json` for the last time and lets go of the directory: requests that are still at
    /// work can change nothing any more.
    pub fn close(&self) -> Result<()> {
        let written = self.write_index();
        self.inner.write().unwrap_or_else(PoisonError::into_inner).journal = None;
        if let Some(lock) = &self.lock {
            lock.unlock().map_err(|e| Error::io(&self.directory.join(LOCK), e))?;
        }
        written
    }
}

/// The contents, locked for reading.
pub(super) struct Reading<'a>(RwLockReadGuard<'a, Inner>);

impl std::ops::Deref for Reading<'_> {
    type Target = Contents;

    fn deref(&self) -> &Contents {
        &self.0.contents
    }
}

/// Refuses to serve what is not there, or is something else, as an empty registry.
fn is_layout(directory: &Path) -> Result<()> {
    let held = |name: &str| directory.join(name).is_file();
    let reason = match directory.is_dir() {
        true if held("oci-layout") || held("index.json") => return Ok(()),
        true => "it has neither oci-layout nor index.json",
        false => "there is no such directory",
    };
    Err(Error::Layout { path: directory.display().to_string(), reason: reason.into() })
}

/// Makes a directory a layout that can be written to, and locks it.
fn prepare(directory: &Path) -> Result<File> {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let path = directory.join("blobs").join(algorithm.name());
        fs::create_dir_all(&path).map_err(|e| Error::io(&path, e))?;
    }
    let path = directory.join(UPLOADS);
    fs::create_dir_all(&path).map_err(|e| Error::io(&path, e))?;
    let path = directory.join(LOCK);
    let lock = File::options().create(true).append(true).open(&path).map_err(|e| Error::io(&path, e))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            return Err(Error::Locked { path: directory.display().to_string() });
        }
        Err(fs::TryLockError::Error(e)) => return Err(Error::io(&path, e)),
    }
    let path = directory.join("oci-layout");
    if !path.exists() {
        layout_index::replace(directory, "oci-layout", OCI_LAYOUT.as_bytes()).map_err(|e| Error::io(&path, e))?;
    }
    Ok(lock)
}

/// Shared by all requests.
pub(super) type Shared = Arc<Storage>;
