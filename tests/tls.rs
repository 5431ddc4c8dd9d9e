//! Certificates and passwords, shown to a registry over TLS by `mirror login`.

use std::path::Path;
use std::sync::Arc;

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use predicates::prelude::*;
use predicates::str::contains;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A registry that lets `user` with `password` in; with a verifier, only over a certificate of that authority.
async fn registry(authority: &Authority, clients: Option<&Authority>) -> String {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, authority).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => request.push(byte),
                        Err(_) => return,
                    }
                }
                let request = String::from_utf8_lossy(&request).to_lowercase();
                // user:password
                let status = if request.contains("authorization: basic dxnlcjpwyxnzd29yza==") {
                    "200 OK"
                } else {
                    "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"test\""
                };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

/// Logs in with a configuration that has those TLS settings for the registry.
async fn login(home: &Path, registry: &str, tls: &str, password: &str) -> Assert {
    configure(home, registry, &format!("  endpointConfig:\n    https://{registry}: {{tls: {{{tls}}}}}\n"));
    log_in(home, registry, password).await
}

/// A configuration that goes to the registry over TLS, and more of it.
fn configure(home: &Path, registry: &str, more: &str) {
    let config = format!("registryConfig:\n  {registry}: {{endpoints: [\"https://{registry}\"]}}\n{more}");
    std::fs::write(home.join("mirror.yaml"), config).unwrap();
}

/// The program in `home`, with nothing of the user's own.
fn mirror(home: &Path) -> Command {
    let mut command = Command::cargo_bin("mirror").unwrap();
    command.current_dir(home).env("HOME", home).timeout(std::time::Duration::from_secs(60));
    for variable in ["MIRROR_CONFIG", "XDG_CONFIG_HOME", "CONTAINERS_REGISTRIES_CONF", "REGISTRY_AUTH_FILE"] {
        command.env_remove(variable);
    }
    command
}

async fn log_in(home: &Path, registry: &str, password: &str) -> Assert {
    let mut command = mirror(home);
    command.args(["login", registry, "-u", "user", "--password-stdin", "--authfile", "auth.json"]);
    command.write_stdin(format!("{password}\n"));
    tokio::task::spawn_blocking(move || command.assert()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_the_configuration_is_trusted_and_a_wrong_password_is_not_kept() {
    let home = tempfile::tempdir().unwrap();
    let authority = authority();
    let registry = registry(&authority, None).await;
    std::fs::write(home.path().join("ca.pem"), authority.pem()).unwrap();
    login(home.path(), &registry, "ca: ca.pem", "wrong")
        .await
        .code(1)
        .stderr(contains("not authorised").and(contains("wrong").not()).and(contains("needs an access token")));
    assert!(!home.path().join("auth.json").exists());
    login(home.path(), &registry, "ca: ca.pem", "password").await.success().stdout(contains("not checked").not());
    let kept = std::fs::read_to_string(home.path().join("auth.json")).unwrap();
    assert!(kept.contains(&registry) && kept.contains("dXNlcjpwYXNzd29yZA=="), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_authority_is_refused_with_the_way_out_unless_the_configuration_says_so() {
    let home = tempfile::tempdir().unwrap();
    let registry = registry(&authority(), None).await;
    login(home.path(), &registry, "", "password").await.code(1).stderr(contains("certificate").and(contains("tls.ca")));
    login(home.path(), &registry, "ca: none.pem", "password").await.code(1).stderr(contains("none.pem"));
    login(home.path(), &registry, "insecureSkipVerify: true", "password").await.success();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown() {
    let home = tempfile::tempdir().unwrap();
    let (servers, clients) = (authority(), authority());
    let registry = registry(&servers, Some(&clients)).await;
    std::fs::write(home.path().join("ca.pem"), servers.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["client".into()]).unwrap().signed_by(&key, &clients).unwrap();
    std::fs::write(home.path().join("client.pem"), certificate.pem()).unwrap();
    std::fs::write(home.path().join("client-key.pem"), key.serialize_pem()).unwrap();
    login(home.path(), &registry, "ca: ca.pem", "password").await.code(1);
    let tls = "ca: ca.pem, cert: client.pem, key: client-key.pem";
    login(home.path(), &registry, tls, "password").await.success();
}

#[tokio::test(flavor = "multi_thread")]
async fn certs_d_has_authorities_and_the_clients_certificate() {
    let home = tempfile::tempdir().unwrap();
    let (servers, clients) = (authority(), authority());
    let registry = registry(&servers, Some(&clients)).await;
    configure(home.path(), &registry, "");
    let directory = home.path().join(".config/containers/certs.d").join(&registry);
    std::fs::create_dir_all(&directory).unwrap();
    log_in(home.path(), &registry, "password").await.code(1).stderr(contains("certs.d"));
    std::fs::write(directory.join("low.crt"), servers.pem()).unwrap();
    log_in(home.path(), &registry, "password").await.code(1);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["client".into()]).unwrap().signed_by(&key, &clients).unwrap();
    std::fs::write(directory.join("me.cert"), certificate.pem()).unwrap();
    log_in(home.path(), &registry, "password")
        .await
        .code(1)
        .stderr(contains("me.cert: its key").and(contains("hint: ")));
    std::fs::write(directory.join("me.key"), key.serialize_pem()).unwrap();
    log_in(home.path(), &registry, "password").await.success();
}

#[tokio::test(flavor = "multi_thread")]
async fn insecure_in_registries_conf_takes_any_certificate() {
    let home = tempfile::tempdir().unwrap();
    let registry = registry(&authority(), None).await;
    let conf = home.path().join("registries.conf");
    let table = |insecure: bool| format!("[[registry]]\nlocation = \"{registry}\"\ninsecure = {insecure}\n");
    let run = async |insecure: bool| {
        std::fs::write(&conf, table(insecure)).unwrap();
        let mut command = mirror(home.path());
        command.env("CONTAINERS_REGISTRIES_CONF", &conf).args(["login", &registry, "-u", "user", "--password-stdin"]);
        command.args(["--authfile", "auth.json"]).write_stdin("password");
        tokio::task::spawn_blocking(move || command.assert()).await.unwrap()
    };
    run(true).await.success().stdout(contains("kept the credential").and(contains("not checked").not()));
    run(false).await.code(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_fails_comes_with_the_next_step() {
    let home = tempfile::tempdir().unwrap();
    let secure = registry(&authority(), None).await;
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = plain.local_addr().unwrap();
    drop(plain);
    configure(home.path(), &secure, "");
    let list = format!("{secure}/a:1\nnowhere.invalid/a:1\n{closed}/a:1\n");
    std::fs::write(home.path().join("sources.list"), list).unwrap();
    let mut command = mirror(home.path());
    command.args(["gather", "sources.list", "oci:out:sync", "--output", "json"]);
    let output = tokio::task::spawn_blocking(move || command.assert().code(1)).await.unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let hints: Vec<&str> = json["failures"].as_array().unwrap().iter().map(|f| f["hint"].as_str().unwrap()).collect();
    assert!(hints[0].contains("tls.ca"), "{hints:?}");
    assert!(hints[1].contains("check the name nowhere.invalid"), "{hints:?}");
    assert!(hints[2].contains(&format!("is {closed} up")), "{hints:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_keeps_the_password_and_gives_it_back() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let authority = authority();
    let registry = registry(&authority, None).await;
    std::fs::write(home.path().join("ca.pem"), authority.pem()).unwrap();
    configure(home.path(), &registry, &format!("  endpointConfig:\n    https://{registry}: {{tls: {{ca: ca.pem}}}}\n"));
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let helper = bin.join("docker-credential-test");
    let script = "#!/bin/sh\necho $1 >> \"$HOME/asked\"\n\
                  case $1 in store) cat > \"$HOME/kept\" ;; get) cat > /dev/null; cat \"$HOME/kept\" ;; esac\n";
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let auth = format!(r#"{{"credHelpers": {{"{registry}": "test"}}}}"#);
    std::fs::write(home.path().join("auth.json"), auth).unwrap();
    std::fs::write(home.path().join("sources.list"), format!("{registry}/a:1\n")).unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = mirror(home.path());
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("REGISTRY_AUTH_FILE", "auth.json").args(arguments).write_stdin("password");
        tokio::task::spawn_blocking(move || command.assert()).await.unwrap()
    };
    let kept = run(&["login", &registry, "-u", "user", "--password-stdin"]).await.success();
    kept.stdout(contains("in docker-credential-test"));
    let file = std::fs::read_to_string(home.path().join("auth.json")).unwrap();
    assert!(!file.contains("dXNlcjpwYXNzd29yZA"), "{file}");
    // That registry has no image, but it says so to those only that it knows.
    let gathered = run(&["gather", "sources.list", "oci:out:sync"]).await.code(1);
    gathered.stderr(contains("not authorised").not());
    assert_eq!(std::fs::read_to_string(home.path().join("asked")).unwrap(), "store\nget\n");
}
