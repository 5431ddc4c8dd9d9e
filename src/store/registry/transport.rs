//! Connections: one pool for each way of trusting a server, built when it is first needed.
//!
//! Invariants: no pool follows redirects, retries or decompresses by itself, and none has a total time-out;
//! system certificates are loaded once, and only when TLS is spoken; a host that is not the registry never
//! sees its client certificate.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use reqwest::{Certificate, Identity};
use url::Url;

use super::pace::locked;
use crate::config::Tls;
use crate::config::trust::{http_client, silence, system_roots};
use crate::store::error::{Trouble, TroubleKind};

/// Each try that met silence doubles it for the next one, up to so many times.
const LONGEST_SILENCE: u32 = 6;
const CONNECT: Duration = Duration::from_secs(15);

/// The pools.
pub struct Transport {
    pools: Mutex<HashMap<(Option<Tls>, bool), reqwest::Client>>,
    silence: Duration,
}

impl Transport {
    /// Connects to nothing. Settles on the one TLS implementation for the process, if nobody has.
    pub fn new() -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        Transport { pools: Mutex::default(), silence: silence() }
    }

    /// How long to wait for the next sign of life, after `failures` tries that met none.
    pub fn silence(&self, failures: u32) -> Duration {
        self.silence * (1 << failures.min(3)).min(LONGEST_SILENCE)
    }

    /// The pool for `url`. Loopback is never reached through a proxy. Fails with the reason when a
    /// certificate file cannot be used.
    pub fn pool(&self, url: &Url, tls: &Tls) -> Result<reqwest::Client, String> {
        let direct = is_loopback(url);
        let key = ((url.scheme() == "https").then(|| tls.clone()), direct);
        if let Some(pool) = locked(&self.pools).get(&key) {
            return Ok(pool.clone());
        }
        let mut builder = http_client(CONNECT);
        if direct {
            builder = builder.no_proxy();
        }
        builder = match &key.0 {
            // Plain HTTP: no certificate is needed, and none is loaded.
            None => builder.tls_certs_only([]),
            Some(tls) => with_tls(builder, tls)?,
        };
        let pool = builder.build().map_err(|e| chain(&e))?;
        Ok(locked(&self.pools).entry(key).or_insert(pool).clone())
    }
}

fn with_tls(builder: reqwest::ClientBuilder, tls: &Tls) -> Result<reqwest::ClientBuilder, String> {
    let mut roots = system_roots().to_vec();
    for file in &tls.ca {
        let found =
            Certificate::from_pem_bundle(&read(file)?).map_err(|e| format!("{}: {}", file.display(), chain(&e)))?;
        if found.is_empty() {
            return Err(format!("{}: holds no PEM certificate", file.display()));
        }
        roots.extend(found);
    }
    let mut builder = builder.tls_certs_only(roots).tls_danger_accept_invalid_certs(tls.insecure_skip_verify);
    if let Some((certificate, key)) = &tls.client_certificate {
        let mut pem = read(certificate)?;
        pem.push(b'\n');
        pem.extend(read(key)?);
        let identity = Identity::from_pem(&pem).map_err(|e| {
            format!("client certificate {} with {}: {}", certificate.display(), key.display(), chain(&e))
        })?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|e| format!("{}: {e}", file.display()))
}

/// Whether the URL's host is this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// What a request died of. Certificates and addresses are told by the types of the causes; a name without an address
/// by the connector's word for it, since that cause has no type.
pub fn trouble(error: &reqwest::Error) -> Trouble {
    let reason = chain(error);
    let mut kind = None;
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = next {
        let io = e.downcast_ref::<std::io::Error>();
        if let Some(error) = e.downcast_ref::<rustls::Error>().or_else(|| wrapped(io?)) {
            kind = tls_trouble(error);
        } else if let Some(io) = io {
            kind = kind.or(io_trouble(io));
        } else if e.to_string() == "dns error" {
            kind = Some(TroubleKind::Name);
        }
        next = e.source();
    }
    let unknown = if error.is_connect() { TroubleKind::Unreachable } else { TroubleKind::Interrupted };
    Trouble { kind: kind.unwrap_or(unknown), reason }
}

/// The TLS error in I/O errors that wrap each other, which their `source` passes over.
fn wrapped(mut io: &std::io::Error) -> Option<&rustls::Error> {
    loop {
        let inner = io.get_ref()?;
        match inner.downcast_ref() {
            Some(outer) => io = outer,
            None => return inner.downcast_ref(),
        }
    }
}

fn tls_trouble(error: &rustls::Error) -> Option<TroubleKind> {
    use rustls::{AlertDescription, CertificateError, Error};
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => Some(TroubleKind::UnknownAuthority),
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Some(TroubleKind::Certificate),
        // What the server says of our own certificate.
        Error::AlertReceived(AlertDescription::UnknownCA) => Some(TroubleKind::Certificate),
        Error::InvalidMessage(_) => Some(TroubleKind::NotTls),
        _ => None,
    }
}

fn io_trouble(error: &std::io::Error) -> Option<TroubleKind> {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::AddrNotAvailable
        | ErrorKind::TimedOut => Some(TroubleKind::Unreachable),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => Some(TroubleKind::Interrupted),
        _ => None,
    }
}

/// An error with its causes, without the URL (a signed one is a secret).
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(e) = next {
        let this = match e.downcast_ref::<reqwest::Error>() {
            // Its own words repeat the URL; the kind and the causes say enough.
            Some(e) if e.is_builder() => "cannot be used".to_owned(),
            Some(_) => String::new(),
            None => e.to_string(),
        };
        if !this.is_empty() && !text.ends_with(&this) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&this);
        }
        next = e.source();
    }
    if text.is_empty() { "the request failed".into() } else { crate::store::error::printable(&text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_grows_and_is_bounded() {
        let transport = Transport { pools: Mutex::default(), silence: Duration::from_secs(1) };
        assert_eq!(transport.silence(0).as_secs(), 1);
        assert_eq!(transport.silence(1).as_secs(), 2);
        assert_eq!(transport.silence(30).as_secs(), 6);
    }

    #[test]
    fn knows_this_machine() {
        let is = |text: &str| is_loopback(&Url::parse(text).unwrap());
        assert!(is("http://127.9.0.1:5000/") && is("http://[::1]/") && is("http://a.localhost/"));
        assert!(!is("http://example.com/") && !is("http://10.0.0.1/") && !is("http://localhost.example.com/"));
    }
}
