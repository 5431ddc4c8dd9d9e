//! Whom this machine trusts, how it speaks HTTP, and how long it waits: the same for registries and for stores of objects.
//!
//! Invariant: the certificates of the system are loaded once, and only when somebody asks for them.

use std::sync::OnceLock;
use std::time::Duration;

use reqwest::Certificate;

/// Environment variable with the seconds of silence after which a request is taken for lost.
const SILENCE_VARIABLE: &str = "MIRROR_SILENCE_TIMEOUT";
/// Without it.
const SILENCE: Duration = Duration::from_secs(10);

/// What the system trusts; nothing, on a system without certificates.
pub fn system_roots() -> &'static [Certificate] {
    static ROOTS: OnceLock<Vec<Certificate>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        found.certs.iter().filter_map(|der| Certificate::from_der(der).ok()).collect()
    })
}

/// A client that does what its caller asks, and nothing of its own accord: it follows no redirect, repeats no request and
/// changes no body. Its certificates, proxies and the time that `connect` may take are for the caller to say.
pub fn http_client(connect: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("mirror/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .http1_only()
        .tcp_nodelay(true)
        .pool_idle_timeout(Duration::from_secs(30))
        .connect_timeout(connect)
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
}

/// How long a server may say nothing.
pub fn silence() -> Duration {
    let seconds = std::env::var(SILENCE_VARIABLE).ok().and_then(|s| s.trim().parse::<f64>().ok());
    seconds.filter(|s| *s > 0.0 && *s < 86_400.0).map_or(SILENCE, Duration::from_secs_f64)
}
