//! Batches: a directory of numbered archives that is filled on the low side, carried over, and emptied on
//! the high side, run after run. What was done is kept in two small tables, which ace-dt reads and writes
//! as well.
//!
//! Invariant: a row of a table stands for an archive that is whole and verified; digests decide what is
//! done, never names that can move.

pub mod deserialize;
pub mod list;
mod root;
pub mod serialize;
pub mod sync_name;
mod table;
pub mod tracker;

use std::fs::{File, TryLockError};
use std::path::Path;

use serde::Serialize;

use super::{Error, Result};
use crate::store::error::printable;
use sync_name::SyncName;

/// What became of one archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It was written, or read, and recorded.
    Done,
    /// In a dry run: it would be.
    Planned,
    /// It was before, and nothing changed since.
    Unchanged,
}

/// Keeps other runs away from the directory until it is dropped. Where the file system has no locks, there is none.
fn lock(directory: &Path) -> Result<Option<File>> {
    let failed = |source| Error::Io { path: directory.display().to_string(), source };
    let file = File::open(directory).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Error::Refused(format!(
            "another run is at work in {}: wait until it has ended, then run the same command again",
            directory.display()
        ))),
        Err(TryLockError::Error(e)) => {
            tracing::info!("{} cannot be locked: {e}", directory.display());
            Ok(None)
        }
    }
}

/// The archives of the directory in the order of their numbers, and other files but tables, hidden and unfinished ones.
fn archives(directory: &Path) -> Result<(Vec<SyncName>, Vec<String>)> {
    let failed = |source| Error::Io { path: directory.display().to_string(), source };
    let (mut files, mut ignored, mut bad) = (Vec::new(), Vec::new(), Vec::new());
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name.ends_with(".csv") || name.ends_with(".partial") || entry.path().is_dir() {
            continue;
        }
        match name.parse::<SyncName>() {
            // A number may have been written with fewer zeros: the file is asked for by the name that it has.
            Ok(file) if file.to_string() == name => files.push(file),
            Err(reason) if SyncName::is_archive(&name) => bad.push(reason),
            Ok(_) => bad.push(format!("\"{}\" is numbered with other than six digits", printable(&name))),
            Err(_) => ignored.push(name),
        }
    }
    if !bad.is_empty() {
        bad.sort();
        let directory = directory.display();
        return Err(Error::Refused(format!("{directory}: {}: rename or remove them", bad.join("; "))));
    }
    files.sort();
    ignored.sort();
    Ok((files, ignored))
}
