//! The next step for each thing that can go wrong, as a sentence under the error.

use std::io::ErrorKind;

use crate::config;
use crate::pipeline;
use crate::store;

/// What to do about an error, if there is something to do.
pub fn for_error(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<pipeline::Error>() {
            for_pipeline(error)
        } else if let Some(error) = cause.downcast_ref::<store::Error>() {
            for_store(error)
        } else if let Some(error) = cause.downcast_ref::<config::Error>() {
            for_config(error)
        } else {
            cause.downcast_ref::<std::io::Error>().and_then(for_io)
        }
    })
}

fn for_config(error: &config::Error) -> Option<String> {
    match error {
        config::Error::NoSuchFile { .. } => Some("check the path, or leave it out".into()),
        config::Error::Invalid { .. } => Some("mend that line; a configuration file is never half obeyed".into()),
        config::Error::Helper { program, .. } => Some(format!("try {program} by hand, or: mirror login HOST")),
        config::Error::Io { source, .. } => for_io(source),
        config::Error::Blocked { .. } => Some(
            "take blocked out there, or give the registry endpoints in mirror's own configuration, which goes before it"
                .into(),
        ),
        config::Error::Refused(_) => None,
    }
}

fn for_pipeline(error: &pipeline::Error) -> Option<String> {
    match error {
        pipeline::Error::Store(source) | pipeline::Error::Image { source, .. } => for_store(source),
        pipeline::Error::Copy { source, .. } | pipeline::Error::Shared(source) => for_store(source),
        pipeline::Error::Io { source, .. } => for_io(source),
        // Its message says what to do.
        pipeline::Error::Refused(_) => None,
    }
}

fn for_store(error: &store::Error) -> Option<String> {
    let text = match error {
        store::Error::Unauthorized { place, .. } => log_in(place),
        store::Error::Http { place, status, .. } => return for_status(place, *status),
        store::Error::Missing { .. } => {
            "check the name and the tag; if it travelled in several parts, bring the part that holds it first".into()
        }
        store::Error::Digest { .. } | store::Error::Size { .. } => {
            "the content was altered or cut on its way: nothing of it was accepted; copy it again from its origin"
                .into()
        }
        store::Error::Transport { place, reason, .. } => return for_transport(place, reason),
        store::Error::Io { source, .. } => return for_io(source),
        store::Error::Config(error) => return for_config(error),
        store::Error::Protocol { .. } => {
            "is that address a registry? A proxy or a login page may have answered in its place".into()
        }
        store::Error::Manifest(_) | store::Error::Unusable { .. } => return None,
    };
    Some(text)
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
        413 => "the registry, or a proxy before it, limits the size of an upload: raise that limit".into(),
        429 => "the registry limits requests: wait, log in, or lower --jobs".into(),
        507 => "the registry has no space left".into(),
        500..=599 => "the registry is in trouble: try again later; what has arrived is not sent twice".into(),
        _ => return None,
    })
}

/// The kinds of silence are told apart by their words: the network libraries give no types for them.
fn for_transport(place: &str, reason: &str) -> Option<String> {
    let reason = reason.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    let host = host(place);
    Some(if says(&["unknownissuer", "unknown issuer", "self-signed", "self signed", "unknown ca"]) {
        format!("name the authority that signed the certificate of {host} in the configuration file (tls.ca)")
    } else if says(&["certificate", "notvalidforname"]) {
        format!("the certificate of {host} is not accepted: check its names, its dates and this machine's clock")
    } else if says(&["corrupt message", "invalidcontenttype", "wrong version", "invalid message"]) {
        format!("{host} seems to speak plain HTTP: say so in the configuration file with an http:// endpoint")
    } else if says(&["dns", "name resolution", "resolve", "name or service not known", "lookup address"]) {
        format!("check the name {host}, and the resolver of this machine")
    } else if says(&["refused", "unreachable", "timed out", "timeout", "time-out", "silence"]) {
        format!("is {host} up, and reachable from here (port, firewall, proxy)?")
    } else {
        "run the same command again: what has arrived is not sent twice".into()
    })
}

fn for_io(error: &std::io::Error) -> Option<String> {
    Some(match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "the disk is full: free some space, or write to another disk, then run the same command again".into()
        }
        ErrorKind::FileTooLarge => "the file system cannot hold a file of that size (FAT32 ends at 4 GiB)".into(),
        ErrorKind::AlreadyExists => "choose another name, or overwrite with --force".into(),
        ErrorKind::PermissionDenied => "check who owns it, and its permissions".into(),
        ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only".into(),
        ErrorKind::NotFound => "check the path".into(),
        ErrorKind::BrokenPipe => "the program that read our output went away".into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transport(reason: &str) -> String {
        let error =
            store::Error::Transport { place: "reg.low:5000/a/b".into(), what: "GET".into(), reason: reason.into() };
        for_error(&anyhow::Error::new(pipeline::Error::Store(error))).unwrap()
    }

    #[test]
    fn names_the_host_and_the_step() {
        let error = store::Error::Unauthorized { place: "reg.low:5000/a/b".into(), reason: "no".into() };
        assert_eq!(for_error(&error.into()).unwrap(), "mirror login reg.low:5000");
        assert!(transport("invalid peer certificate: UnknownIssuer").contains("tls.ca"));
        assert!(transport("received corrupt message of type InvalidContentType").contains("http://"));
        assert!(transport("Connection refused (os error 111)").contains("is reg.low:5000 up"));
        assert!(transport("connection reset by peer").contains("not sent twice"));
    }

    #[test]
    fn sees_through_contexts() {
        let full = std::io::Error::from(ErrorKind::StorageFull);
        let error = anyhow::Error::new(pipeline::Error::Io { path: "a.tar".into(), source: full }).context("outer");
        assert!(for_error(&error).unwrap().contains("disk is full"));
    }
}
