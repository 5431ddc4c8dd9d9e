//! A regular file that appears whole or not at all: it is written under a temporary name in the same
//! directory, and gets its own when all of it is right. Dropped before that, it leaves nothing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that is being written.
pub struct NewFile {
    file: Arc<File>,
    temporary: PathBuf,
    destination: PathBuf,
    force: bool,
    finished: bool,
}

impl NewFile {
    /// Makes the temporary file. Fails with `AlreadyExists` where the destination is there and `force` is not.
    pub fn create(destination: &Path, force: bool) -> io::Result<Self> {
        refuse_existing(destination, force)?;
        let name = destination.file_name().ok_or_else(|| io::Error::other("it is not the name of a file"))?;
        let prefix = format!(".{}.", name.to_string_lossy());
        let temporary = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".partial")
            .make_in(parent(destination), |path| OpenOptions::new().write(true).create_new(true).open(path))?;
        let (file, path) = temporary.into_parts();
        // This guard removes the file, not tempfile's, so that renaming it is ours too.
        let temporary = path.keep().map_err(|e| e.error)?;
        Ok(NewFile { file: Arc::new(file), temporary, destination: destination.to_owned(), force, finished: false })
    }

    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Brings all of it to the disk, then gives it its name. May take long: not for an async task.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if self.force {
            fs::rename(&self.temporary, &self.destination)?;
        } else {
            match fs::hard_link(&self.temporary, &self.destination) {
                Ok(()) => fs::remove_file(&self.temporary)?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(e),
                // File systems of USB sticks have no links.
                Err(_) => {
                    refuse_existing(&self.destination, false)?;
                    fs::rename(&self.temporary, &self.destination)?;
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
        if !self.finished
            && let Err(e) = fs::remove_file(&self.temporary)
        {
            tracing::warn!("{}: cannot be removed: {e}", self.temporary.display());
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
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Bytes that a user may still write where `path` is to be. `None` where the system does not say.
pub fn free_space(path: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(parent(path)).ok()?;
    (stat.blocks_available() as u64).checked_mul(stat.fragment_size() as u64)
}
