//! Proxies of the environment: asked for the names that are theirs, and never for this machine.

use std::path::Path;
use std::sync::Arc;

use assert_cmd::Command;
use rcgen::{CertificateParams, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::{home, middle::Middle, mirror, registry, run};

/// A name that only the proxy can lead anywhere.
const NAME: &str = "reg.test";

fn serialize(home: &Path, image: &str) -> Command {
    let mut command = mirror(home);
    command.args(["--quiet", "serialize", "--force", image, "x.tar"]).env("MIRROR_SILENCE_TIMEOUT", "1");
    command
}

/// Speaks TLS as that name, and passes on what it hears.
async fn tls_before(server: String, ca: &Path) -> String {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![NAME.into()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(ca, certificate.pem()).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                let mut client = acceptor.accept(stream).await.ok()?;
                let mut server = tokio::net::TcpStream::connect(server).await.ok()?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await.ok()
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_asked_for_what_is_not_this_machine() {
    let home = home();
    let home = home.path();
    let registry = registry(home).await;
    let local = format!("{}/gathered:x", registry.address());
    run(home, &["gather", "images.list", &local]);
    let proxy = Middle::before(&registry.address().to_string());
    let url = format!("http://{}", proxy.address);
    let image = format!("{NAME}/gathered:x");
    let endpoint = |scheme: &str, tls: &str| {
        let url = format!("{scheme}://{NAME}");
        let config = format!(
            "registryConfig:\n  registries:\n    {NAME}: {{endpoints: [\"{url}\"]}}\n  endpointConfig:\n    {url}: {{{tls}}}\n"
        );
        std::fs::write(home.join("mirror.yaml"), config).unwrap();
    };

    endpoint("http", "");
    serialize(home, &image).env("HTTP_PROXY", &url).assert().success();
    let asked = proxy.take();
    assert!(!asked.is_empty() && asked.iter().all(|a| a.target.starts_with("http://reg.test/v2/")), "{asked:?}");
    // This machine is reached without it, and so is what NO_PROXY names (which here leads nowhere).
    serialize(home, &local).env("HTTP_PROXY", &url).env("ALL_PROXY", &url).assert().success();
    serialize(home, &image).env("HTTP_PROXY", &url).env("NO_PROXY", NAME).assert().code(1);
    assert!(proxy.take().is_empty());

    endpoint("https", "tls: {ca: ca.pem}");
    let tls = tls_before(registry.address().to_string(), &home.join("ca.pem")).await;
    let proxy = Middle::before(&tls);
    serialize(home, &image).env("HTTPS_PROXY", format!("http://{}", proxy.address)).assert().success();
    let asked = proxy.take();
    assert!(
        !asked.is_empty() && asked.iter().all(|a| a.method == "CONNECT" && a.target == "reg.test:443"),
        "{asked:?}"
    );
}
