//! What can go wrong in a store. Every variant names the object and the place; text that came from
//! outside is escaped and cut before it gets in here.

use crate::config::error::io_hint;
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
    #[error("{place}: {what}: {trouble}")]
    Transport { place: String, what: String, trouble: Trouble },

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

/// What kept a connection from carrying a request and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TroubleKind {
    /// Nobody that is trusted has signed the server's certificate.
    UnknownAuthority,
    /// The server's certificate does not do, for another reason.
    Certificate,
    /// What answered does not speak TLS.
    NotTls,
    /// The host's name has no address.
    Name,
    /// Nobody answers there.
    Unreachable,
    /// It broke, or fell silent, on the way.
    Interrupted,
}

/// One such trouble, in the words of the network library.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Trouble {
    pub kind: TroubleKind,
    pub reason: String,
}

impl Trouble {
    pub fn interrupted(reason: impl Into<String>) -> Self {
        Trouble { kind: TroubleKind::Interrupted, reason: reason.into() }
    }

    pub fn unreachable(reason: impl Into<String>) -> Self {
        Trouble { kind: TroubleKind::Unreachable, reason: reason.into() }
    }
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

    /// What to do next, if there is something to do: a sentence, or a command.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Unauthorized { place, .. } => log_in(place),
            Error::Http { place, status: 400, message, .. } if message.contains("HTTPS") => {
                let host = host(place);
                format!("{host} speaks HTTPS: give it the endpoint https://{host} in the configuration file")
            }
            Error::Http { place, status, .. } => return for_status(place, *status),
            Error::Missing { .. } => {
                "check the name and the tag; if it travelled in several parts, bring the part that holds it first"
                    .into()
            }
            Error::Digest { .. } | Error::Size { .. } => {
                "the content was altered or cut on its way: nothing of it was accepted; copy it again from its origin"
                    .into()
            }
            Error::Transport { place, trouble, .. } => for_trouble(host(place), trouble.kind),
            Error::Io { source, .. } => return io_hint(source),
            Error::Config(error) => return error.hint(),
            Error::Protocol { .. } => {
                "is that address a registry? A proxy or a login page may have answered in its place".into()
            }
            Error::Manifest(_) | Error::Unusable { .. } => return None,
        };
        Some(text)
    }

    /// The thing is not there, as opposed to: it could not be had.
    pub fn is_missing(&self) -> bool {
        matches!(self, Error::Missing { .. } | Error::Http { status: 404, .. })
    }
}

/// The host of `host/repository`.
fn host(place: &str) -> &str {
    place.split('/').next().unwrap_or(place)
}

fn log_in(place: &str) -> String {
    format!("mirror login {}", host(place))
}

fn for_status(place: &str, status: u16) -> Option<String> {
    Some(match status {
        401 => log_in(place),
        403 => format!("the account has no right to do that there; with another one: {}", log_in(place)),
        404 => {
            "check the name and the tag; a private repository may look missing to those who are not logged in".into()
        }
        405 => "that registry does not allow it (a read-only or pull-through registry?)".into(),
        407 => "the proxy asks for a password: write it into the proxy's URL, or list the host in $NO_PROXY".into(),
        413 => "the registry, or a proxy before it, limits the size of an upload: raise that limit".into(),
        429 => "the registry limits requests: wait, log in, or lower --jobs".into(),
        507 => "the registry has no space left".into(),
        500..=599 => "the registry is in trouble: try again later; what has arrived is not sent twice".into(),
        _ => return None,
    })
}

fn for_trouble(host: &str, kind: TroubleKind) -> String {
    match kind {
        TroubleKind::UnknownAuthority => format!(
            "name the authority that signed the certificate of {host} in the configuration file (tls.ca), or in certs.d"
        ),
        TroubleKind::Certificate => {
            format!("the certificate of {host} is not accepted: check its names, its dates and this machine's clock")
        }
        TroubleKind::NotTls => {
            format!("{host} seems to speak plain HTTP: say so in the configuration file with an http:// endpoint")
        }
        TroubleKind::Name => format!("check the name {host}, and the resolver of this machine"),
        TroubleKind::Unreachable => format!("is {host} up, and reachable from here (port, firewall, proxy)?"),
        TroubleKind::Interrupted => "run the same command again: what has arrived is not sent twice".into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn transport(kind: TroubleKind) -> String {
        let (place, what) = ("reg.low:5000/a/b".into(), "GET".into());
        Error::Transport { place, what, trouble: Trouble { kind, reason: "…".into() } }.hint().unwrap()
    }

    #[test]
    fn hints_name_the_host_and_the_step() {
        let error = Error::Unauthorized { place: "reg.low:5000/a/b".into(), reason: "no".into() };
        assert_eq!(error.hint().unwrap(), "mirror login reg.low:5000");
        let message = "Client sent an HTTP request to an HTTPS server.".into();
        let error = Error::Http { place: "localhost:5000/a".into(), what: "GET".into(), status: 400, message };
        assert!(error.hint().unwrap().contains("https://localhost:5000"));
        assert!(transport(TroubleKind::UnknownAuthority).contains("tls.ca"));
        assert!(transport(TroubleKind::NotTls).contains("http://"));
        assert!(transport(TroubleKind::Unreachable).contains("is reg.low:5000 up"));
        assert!(transport(TroubleKind::Interrupted).contains("not sent twice"));
    }
}
