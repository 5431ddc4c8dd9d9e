//! Files that one run leaves to the next, below the user's directory for state: readable by their owner alone, and
//! each in the hands of one run at a time.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Such a file, held by this run until it is dropped.
#[derive(Debug)]
pub struct OwnFile {
    pub file: File,
    path: PathBuf,
}

impl OwnFile {
    /// Opens `name` in `directory`, which is made if need be. `None`: another run holds it. Fails for what is not a
    /// regular file of its owner alone; no link is followed.
    pub fn hold(directory: &Path, name: &str) -> io::Result<Option<OwnFile>> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let path = directory.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(&path)?;
        let there = file.metadata()?;
        if !there.is_file() || there.mode() & 0o077 != 0 {
            return Err(io::Error::other("it is no regular file that is its owner's alone"));
        }
        match file.try_lock() {
            Ok(()) => Ok(Some(OwnFile { file, path })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(e)) => Err(e),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Nothing is left to the next run.
    pub fn remove(&self) {
        // It may be gone already.
        let _ = fs::remove_file(&self.path);
    }
}
