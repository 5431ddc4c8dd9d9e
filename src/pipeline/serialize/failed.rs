//! What can go wrong while an archive is written, and what is said of it.

use std::path::Path;

use crate::medium::file::NewFile;
use crate::pipeline::Error;
use crate::store;

/// What can go wrong between a store and a medium.
pub(super) enum Failed {
    Store(store::Error),
    Medium(std::io::Error),
    /// A later run can go on with what is left.
    Kept {
        left: String,
        source: Box<Failed>,
    },
}

impl From<store::Error> for Failed {
    fn from(error: store::Error) -> Self {
        Failed::Store(error)
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Failed::Medium(error)
    }
}

impl Failed {
    pub(super) fn at(self, destination: &str) -> Error {
        match self {
            Failed::Store(error) => error.into(),
            Failed::Kept { left, source } => {
                Error::Unfinished { partial: left, source: Box::new(source.at(destination)) }
            }
            Failed::Medium(source) => {
                let path = if destination == "-" { "standard output" } else { destination };
                Error::Io { path: path.into(), source }
            }
        }
    }
}

/// Tells where the unfinished archive is, if it was worth keeping.
pub(super) fn unfinished(file: &NewFile, error: Error) -> Error {
    if !file.is_kept() {
        return error;
    }
    Error::Unfinished { partial: file.partial().display().to_string(), source: Box::new(error) }
}

pub(super) fn refused(path: &Path, source: std::io::Error) -> Error {
    if source.kind() == std::io::ErrorKind::AlreadyExists {
        let path = path.display();
        return Error::Refused(format!(
            "{path} exists and is left as it is: name another file, or replace it with --force"
        ));
    }
    Error::Io { path: path.display().to_string(), source }
}
