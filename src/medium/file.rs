//! A regular file that appears whole or not at all: it is written as `NAME.partial` in the same directory, and
//! gets its own name when all of it is right.
//!
//! Invariants: one process at a time writes a partial file; one that holds something worth keeping stays when its
//! writer does not finish, so that a later run can go on with it; any other goes away.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A file that is being written.
pub struct NewFile {
    file: Arc<File>,
    partial: PathBuf,
    destination: PathBuf,
    force: bool,
    finished: bool,
    keep: Arc<AtomicBool>,
}

impl NewFile {
    /// Makes the partial file, or opens it with what an earlier run left in it. Fails with `AlreadyExists` where the
    /// destination is there and `force` is not, and with `ResourceBusy` where another run is writing it.
    pub fn open(destination: &Path, force: bool) -> io::Result<Self> {
        refuse_existing(destination, force)?;
        let partial = partial(destination)?;
        let file = open_locked(&partial, Locking::WherePossible)?;
        // What somebody left here to go on with is not ours to remove.
        let keep = Arc::new(AtomicBool::new(file.metadata()?.len() > 0));
        let destination = destination.to_owned();
        Ok(NewFile { file: Arc::new(file), partial, destination, force, finished: false, keep })
    }

    /// As `open`, and empty.
    pub fn create(destination: &Path, force: bool) -> io::Result<Self> {
        let new = Self::open(destination, force)?;
        new.clear()?;
        Ok(new)
    }

    /// Gives up what an earlier run left.
    pub fn clear(&self) -> io::Result<()> {
        self.keep.store(false, Relaxed);
        self.file.set_len(0)
    }

    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Its name until it is finished.
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// To be set once there is something in it that a later run can use.
    pub fn keep(&self) -> &Arc<AtomicBool> {
        &self.keep
    }

    /// Whether it stays if it is not finished.
    pub fn is_kept(&self) -> bool {
        self.keep.load(Relaxed)
    }

    /// Brings all of it to the disk, then gives it its name. May take long: not for an async task.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if self.force {
            fs::rename(&self.partial, &self.destination)?;
        } else {
            match fs::hard_link(&self.partial, &self.destination) {
                Ok(()) => fs::remove_file(&self.partial)?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(e),
                // File systems of USB sticks have no links.
                Err(_) => {
                    refuse_existing(&self.destination, false)?;
                    fs::rename(&self.partial, &self.destination)?;
                }
            }
        }
        self.finished = true;
        if let Ok(directory) = File::open(parent(&self.destination)) {
            directory.sync_all().or_else(|e| if e.kind() == io::ErrorKind::InvalidInput { Ok(()) } else { Err(e) })?;
        }
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // A child of this process that is just being started holds the file, too, and with it the lock.
        let _ = self.file.unlock();
        if !self.finished
            && !self.is_kept()
            && let Err(e) = fs::remove_file(&self.partial)
        {
            tracing::warn!("{}: cannot be removed: {e}", self.partial.display());
        }
    }
}

/// `NAME.partial` beside `destination`.
pub fn partial(destination: &Path) -> io::Result<PathBuf> {
    let mut name =
        OsString::from(destination.file_name().ok_or_else(|| io::Error::other("it is not the name of a file"))?);
    name.push(".partial");
    Ok(destination.with_file_name(name))
}

/// What becomes of a file on a file system that has no locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locking {
    WherePossible,
    /// It is not opened.
    Needed,
}

/// Opens a file for reading and writing, made if need be, and locks it until it is closed. Fails with `ResourceBusy` where
/// another has it. No link is followed: the name can be guessed.
pub fn open_locked(path: &Path, locking: Locking) -> io::Result<File> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other(format!("{} is in the way: it is no regular file", path.display())));
        }
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => {
                let busy = format!("another run is writing {}", path.display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, busy));
            }
            Err(fs::TryLockError::Error(e)) if locking == Locking::Needed => return Err(e),
            Ok(()) | Err(fs::TryLockError::Error(_)) => {}
        }
        // The run that held the lock may have finished the file meanwhile: then this is another's by now.
        match fs::symlink_metadata(path) {
            Ok(there) if there.ino() == file.metadata()?.ino() => return Ok(file),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
}

/// Directory of a file; `.` for a bare name.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Fails with `AlreadyExists` where something is there and `force` does not allow to replace it.
pub fn refuse_existing(path: &Path, force: bool) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => Err(io::Error::other("it is a directory")),
        Ok(_) if !force => Err(io::Error::from(io::ErrorKind::AlreadyExists)),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound && path.parent() == Some(Path::new("/dev")) => {
            Err(io::Error::new(e.kind(), "there is no such device, and a file in its place would fill the memory"))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Bytes of the disk that a file has taken: holes take none.
pub fn allocated(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks().saturating_mul(512))
}

/// Bytes that a user may still write where `path` is to be. `None` where the system does not say.
pub fn free_space(path: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(parent(path)).ok()?;
    (stat.blocks_available() as u64).checked_mul(stat.fragment_size() as u64)
}
