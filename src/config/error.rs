//! What can be wrong with the configuration or with credentials. Every message names the file, and the
//! line and key where there is one; no message holds a secret.

use std::io::ErrorKind;
use std::path::Path;

use super::Origin;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that the user named does not exist.
    #[error("{path}: no such configuration file (named by {named_by})")]
    NoSuchFile { path: String, named_by: String },

    /// A file is there and cannot be read or written.
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },

    /// A file is there and is not what it has to be.
    #[error("{path}{}: {reason}", position(*line, *column))]
    Invalid {
        path: String,
        /// Line and column count from 1; `None` where the fault is in no particular place.
        line: Option<u64>,
        column: Option<u64>,
        reason: String,
    },

    /// `docker-credential-NAME` could not be run, or failed.
    #[error("credential helper {program} for {server}: {reason}")]
    Helper { program: String, server: String, reason: String },

    /// A registry that must not be used.
    #[error("{name} is blocked by {file}:{line}")]
    Blocked { name: String, file: String, line: u64 },

    /// What the user asked for cannot be done.
    #[error("{0}")]
    Refused(String),
}

fn position(line: Option<u64>, column: Option<u64>) -> String {
    match (line, column) {
        (Some(line), Some(column)) => format!(":{line}:{column}"),
        (Some(line), None) => format!(":{line}"),
        _ => String::new(),
    }
}

impl Error {
    /// What to do next, if there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::NoSuchFile { .. } => Some("check the path, or leave it out".into()),
            Error::Invalid { .. } => Some("mend that file; it is never half obeyed".into()),
            Error::Helper { program, .. } => Some(format!("try {program} by hand, or: mirror login HOST")),
            Error::Io { source, .. } => io_hint(source),
            Error::Blocked { .. } => Some(
                "take blocked out there, or give the registry endpoints in mirror's own configuration, which goes before it"
                    .into(),
            ),
            Error::Refused(_) => None,
        }
    }

    /// A fault on that line of a file; `None`: in no particular place.
    pub(super) fn invalid(path: &Path, line: Option<u64>, reason: impl Into<String>) -> Self {
        Error::Invalid { path: path.display().to_string(), line, column: None, reason: reason.into() }
    }

    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Error::Io { path: path.display().to_string(), source }
    }

    pub(super) fn no_such_file(path: &Path, named_by: &Origin) -> Self {
        Error::NoSuchFile { path: path.display().to_string(), named_by: named_by.to_string() }
    }
}

/// What to do about a file or a stream, if there is something to do.
pub fn io_hint(error: &std::io::Error) -> Option<String> {
    Some(match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "the disk is full: free some space, or write to another disk, then run the same command again \
             (serialize and archive with --resume)"
                .into()
        }
        ErrorKind::FileTooLarge => "the file system cannot hold a file of that size (FAT32 ends at 4 GiB)".into(),
        ErrorKind::AlreadyExists => "choose another name, or overwrite with --force".into(),
        ErrorKind::PermissionDenied => "check who owns it, and its permissions".into(),
        ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only".into(),
        ErrorKind::NotFound => "check the path".into(),
        ErrorKind::IsADirectory => {
            "a layout is named oci:DIR; of an archive in volumes, name one of its files, and directories by --volumes-in"
                .into()
        }
        ErrorKind::BrokenPipe => "the program that read our output went away".into(),
        _ => return None,
    })
}
