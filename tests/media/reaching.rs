//! How a store of objects is reached: by whose credentials, through which proxy, trusting whom, under which name.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use tokio_rustls::TlsAcceptor;

use crate::home::Home;
use crate::store::{Action, Store, ended};

async fn home() -> Home {
    let home = Home::empty();
    home.add_image("a", 1, &[700, 9_000]).await;
    home
}

/// The program without credentials in its environment.
fn nobody(store: &Store, home: &Home, arguments: &[&str]) -> Command {
    let mut command = store.command(home, arguments);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    // Nobody listens there.
    command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1");
    command
}

/// Writes down a header of all requests that come to the store.
fn watch(store: &Store, header: &'static str) -> Arc<Mutex<Vec<String>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let all = seen.clone();
    store.set(move |request| {
        all.lock().unwrap().push(request.header(header).to_owned());
        Action::Pass
    });
    seen
}

/// Answers GET and PUT on a free port, with what `answer` makes of the path; `None`: says nothing, ever.
fn service(answer: impl Fn(&str) -> Option<String> + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let mut lines = BufReader::new(connection.try_clone().unwrap()).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            match answer(first.split(' ').nth(1).unwrap_or_default()) {
                Some(body) => {
                    let head =
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                    let _ = connection.write_all((head + &body).as_bytes());
                }
                None => drop(connection.read(&mut [0; 1])),
            }
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_it_says_at_once_where_it_looked() {
    let Some(store) = Store::new("nobody") else { return };
    let home = home().await;
    let silent = format!("http://127.0.0.1:{}", service(|_| None));
    let url = store.url("a.tar");
    let arguments = ["serialize", "oci:low:a", &url];
    for (name, value, cause) in [
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1", "refused"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &silent, "nothing came for 2 s"),
        ("AWS_EC2_METADATA_DISABLED", "true", "AWS_EC2_METADATA_DISABLED"),
    ] {
        let mut command = nobody(&store, &home, &arguments);
        command.env(name, value);
        let begun = Instant::now();
        let places = ["AWS_ACCESS_KEY_ID", "~/.aws/credentials", "WEB_IDENTITY", "AWS_CONTAINER", "--s3-anonymous"];
        ended(command).says(1, &[&places[..], &[&url, cause]].concat());
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    }
    let mut half = nobody(&store, &home, &arguments);
    half.env("AWS_ACCESS_KEY_ID", "key");
    ended(half).says(1, &["AWS_SECRET_ACCESS_KEY is not set"]);
    // Others know how; they are named.
    home.write(".aws-config", "[profile low]\nsso_session = ours\n[profile bare]\nregion = eu-central-1\n");
    let profile = |name: &str| {
        let mut command = nobody(&store, &home, &arguments);
        command.env("AWS_CONFIG_FILE", home.path(".aws-config")).env("AWS_PROFILE", name);
        ended(command)
    };
    profile("low").says(1, &["sso_session", "aws configure export-credentials --profile low"]);
    profile("bare").says(1, &["in the profile bare"]);
    profile("high").says(1, &["no profile high", "AWS_PROFILE"]);
    // Nobody was asked.
    let mut anonymous = nobody(&store, &home, &["inspect", &url, "--s3-anonymous"]);
    anonymous.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &silent);
    ended(anonymous).says(1, &["no such object"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_a_profile_or_from_a_service() {
    let Some(store) = Store::new("credentials") else { return };
    let home = home().await;
    let endpoint = format!("http://127.0.0.1:{}", store.port);
    std::fs::create_dir(home.path(".aws")).unwrap();
    home.write(".aws/credentials", "[low]\naws_access_key_id = ours\naws_secret_access_key = a-secret\n");
    let config =
        format!("[profile low]\nendpoint_url = {endpoint}\nregion = eu-central-1\naws_session_token = session\n");
    home.write(".aws/config", config);
    let url = store.url("profile.tar");
    let write = |command: &mut Command| {
        let seen = watch(&store, "authorization");
        let ended = ended(std::mem::replace(command, Command::new("false")));
        ended.says(0, &[]);
        let seen = seen.lock().unwrap().clone();
        assert!(!seen.is_empty());
        seen
    };
    let mut command = nobody(&store, &home, &["serialize", "oci:low:a", &url]);
    let seen = write(command.env_remove("AWS_ENDPOINT_URL").env("AWS_PROFILE", "low"));
    assert!(seen.iter().all(|a| a.contains("Credential=ours/") && a.contains("/eu-central-1/s3/")), "{seen:?}");
    assert!(seen.iter().all(|a| a.contains("x-amz-security-token")));
    let tokens = watch(&store, "x-amz-security-token");
    let mut command = nobody(&store, &home, &["inspect", &url]);
    command.env("AWS_PROFILE", "low");
    ended(command).says(0, &[]);
    assert!(tokens.lock().unwrap().iter().all(|token| token == "session"));

    let keys = |id: &str| {
        serde_json::json!({"AccessKeyId": id, "SecretAccessKey": "a-secret", "Token": "t", "Expiration": "2100-01-01T00:00:00Z"})
            .to_string()
    };
    let port = service(move |path| {
        Some(match path {
            "/latest/api/token" => "token".into(),
            "/latest/meta-data/iam/security-credentials/" => "role".into(),
            "/latest/meta-data/iam/security-credentials/role" => keys("instance"),
            "/container" => keys("container"),
            path if path.contains("Action=AssumeRoleWithWebIdentity") && path.contains("WebIdentityToken=jwt") => {
                "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
                 <SessionToken>t</SessionToken><SecretAccessKey>a-secret</SecretAccessKey><AccessKeyId>web</AccessKeyId>\
                 <Expiration>2100-01-01T00:00:00Z</Expiration></Credentials>\
                 </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
                    .into()
            }
            _ => String::new(),
        })
    });
    home.write("token", "jwt");
    let (at, token) = (format!("http://127.0.0.1:{port}"), home.path("token").display().to_string());
    let services: [(&str, Vec<(&str, String)>); 3] = [
        ("instance", vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", at.clone())]),
        (
            "container",
            vec![
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{at}/container")),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.clone()),
            ],
        ),
        (
            "web",
            vec![
                ("AWS_WEB_IDENTITY_TOKEN_FILE", token),
                ("AWS_ROLE_ARN", "arn:aws:iam::1:role/low".into()),
                ("AWS_ENDPOINT_URL_STS", at),
            ],
        ),
    ];
    for (name, variables) in services {
        let url = store.url(&format!("{name}.tar"));
        let mut command = nobody(&store, &home, &["serialize", "oci:low:a", &url]);
        let seen = write(command.envs(variables));
        assert!(seen.iter().all(|a| a.contains(&format!("Credential={name}/"))), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_asked_for_others_and_never_for_this_machine() {
    let Some(store) = Store::new("proxied") else { return };
    let home = home().await;
    let (url, proxy) = (store.url("a.tar"), format!("http://127.0.0.1:{}", store.port));
    // Nobody listens there: this machine is asked directly.
    let mut command = store.command(&home, &["serialize", "oci:low:a", &url]);
    command.env("HTTP_PROXY", "http://127.0.0.1:1").env("http_proxy", "http://127.0.0.1:1");
    ended(command).says(0, &[]);
    let targets = Arc::new(Mutex::new(Vec::new()));
    let all = targets.clone();
    store.set(move |request| {
        all.lock().unwrap().push(request.target.clone());
        Action::Pass
    });
    let elsewhere = |arguments: &[&str]| {
        let mut command = store.command(&home, arguments);
        command.env("AWS_ENDPOINT_URL", "http://s3.low.example").env("http_proxy", &proxy);
        command
    };
    ended(elsewhere(&["inspect", &url])).says(0, &["plain HTTP"]);
    ended(elsewhere(&["verify", &url, "--s3-virtual-host"])).says(0, &[]);
    let seen = std::mem::take(&mut *targets.lock().unwrap());
    assert!(seen.iter().any(|target| target.starts_with("http://s3.low.example/proxied/a.tar")), "{seen:?}");
    assert!(seen.iter().any(|target| target.starts_with("http://proxied.s3.low.example/a.tar")), "{seen:?}");
    // Where no proxy is to be asked, none is.
    let mut command = elsewhere(&["inspect", &url]);
    command.env("NO_PROXY", "low.example").env("no_proxy", "low.example");
    ended(command).says(1, &["cannot be connected to"]);
    assert_eq!(targets.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_trusted_by_the_authority_that_is_named() {
    let Some(store) = Store::new("trusted") else { return };
    let home = home().await;
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".into()]).unwrap().self_signed(&key).unwrap();
    home.write("ca.pem", certificate.pem());
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (endpoint, port) = (format!("https://localhost:{}", listener.local_addr().unwrap().port()), store.port);
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut inner = acceptor.accept(connection).await.ok()?;
                let mut outer = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
                tokio::io::copy_bidirectional(&mut inner, &mut outer).await.ok()
            });
        }
    });
    let url = store.url("a.tar");
    let arguments = ["serialize", "oci:low:a", &url, "--s3-endpoint", &endpoint];
    ended(store.command(&home, &arguments)).says(1, &["UnknownIssuer", "AWS_CA_BUNDLE"]);
    let mut command = store.command(&home, &arguments);
    command.env("AWS_CA_BUNDLE", home.path("no.pem"));
    ended(command).says(1, &["no.pem", "AWS_CA_BUNDLE"]);
    let mut command = store.command(&home, &arguments);
    command.env("AWS_CA_BUNDLE", home.path("ca.pem"));
    ended(command).says(0, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed() {
    let Some(store) = Store::new("moved") else { return };
    let home = home().await;
    store.set(|_| Action::Error(301, "PermanentRedirect"));
    store.mirror(&home, &["serialize", "oci:low:a", &store.url("a.tar")]).says(1, &["301", "--s3-region"]);
}
