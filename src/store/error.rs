//! What can go wrong in a store. Every variant names the object and the place; text that came from
//! outside is escaped and cut before it gets in here.

use crate::image::Digest;
use crate::image::manifest::ManifestError;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} is not in {place}")]
    Missing { what: String, place: String },

    #[error("{what} in {place} is not what its digest says: expected {expected}, got {actual}")]
    Digest { what: String, place: String, expected: Box<Digest>, actual: Box<Digest> },

    #[error("{what} in {place} has the wrong size: expected {expected} bytes, got {actual}")]
    Size { what: String, place: String, expected: u64, actual: u64 },

    #[error(transparent)]
    Manifest(#[from] ManifestError),

    /// The registry answered, and the answer is final.
    #[error("{place}: {what}: HTTP {status}{}{message}", if message.is_empty() { "" } else { ": " })]
    Http {
        place: String,
        /// Method and object, as in `PUT blob sha256:…`.
        what: String,
        status: u16,
        /// The registry's own code and message, or the first line of what it sent, escaped.
        message: String,
    },

    /// No usable answer: connection refused, reset, silence, TLS, DNS. Retries are used up.
    #[error("{place}: {what}: {reason}")]
    Transport { place: String, what: String, reason: String },

    #[error("{place}: not authorised: {reason}")]
    Unauthorized { place: String, reason: String },

    /// The configuration or a credential file cannot be used, or forbids it.
    #[error(transparent)]
    Config(#[from] crate::config::Error),

    /// The answer breaks the protocol.
    #[error("{place}: {what}: {reason}")]
    Protocol { place: String, what: String, reason: String },

    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },

    /// Something cannot be done with this kind of store, or what it holds cannot be used.
    #[error("{place}: {reason}")]
    Unusable { place: String, reason: String },
}

impl Error {
    pub fn io(path: impl std::fmt::Display, source: std::io::Error) -> Self {
        Error::Io { path: path.to_string(), source }
    }

    /// The content that was read is not the content that was named: reading it anew may help.
    pub fn is_corruption(&self) -> bool {
        matches!(self, Error::Digest { .. } | Error::Size { .. })
    }

    /// A registry refuses a manifest because it misses something that the manifest names.
    pub fn is_blob_unknown(&self) -> bool {
        let unknown = |m: &str| m.contains("BLOB_UNKNOWN") || m.contains("MANIFEST_UNKNOWN");
        matches!(self, Error::Http { status: 400..=499, message, .. } if unknown(message))
    }

    /// The thing is not there, as opposed to: it could not be had.
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Missing { .. } | Error::Http { status: 404, .. })
    }
}

/// Text from outside, safe to print: control characters escaped, one line, at most 200 characters.
pub fn printable(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let mut out: String = line.chars().take(200).flat_map(char::escape_debug).collect();
    if line.chars().count() > 200 || text.trim().lines().count() > 1 {
        out.push('…');
    }
    out.replace("\\'", "'").replace("\\\"", "\"")
}
