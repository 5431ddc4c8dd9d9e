//! The distribution client against servers whose answers are written by hand, one misbehaviour a test.

mod server;

use std::sync::Arc;
use std::time::Duration;

use airgap_mirror::config::Config;
use airgap_mirror::config::credentials::{Chain, Credential};
use airgap_mirror::image::{Algorithm, Descriptor, Digest, ImageName, Manifest, media_type};
use airgap_mirror::store::registry::Client;
use airgap_mirror::store::{BlobSource, BytesBlob, Name, Pushed, Result, Store, Stores};
use futures_util::StreamExt;
use server::{Server, reply};

fn open(address: &str) -> Arc<dyn Store> {
    let image: ImageName = format!("{address}/a:latest").parse().unwrap();
    Stores::new(Client::new(Arc::new(Config::default()))).open(&image).unwrap()
}

/// Bytes that do not repeat at any power of two.
fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i % 251) as u8).collect()
}

fn described(bytes: &[u8]) -> Descriptor {
    Descriptor::new("application/octet-stream", Digest::sha256(bytes), bytes.len() as u64)
}

async fn read(store: &dyn Store, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let mut reader = store.open_blob(descriptor).await?;
    let mut out = Vec::new();
    while let Some(chunk) = reader.next().await {
        out.extend_from_slice(&chunk?);
    }
    Ok(out)
}

fn source(bytes: &[u8]) -> BytesBlob {
    BytesBlob { descriptor: described(bytes), bytes: bytes.to_vec().into() }
}

fn first_byte(range: &str) -> usize {
    range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()
}

#[tokio::test]
async fn a_pull_goes_on_from_the_byte_it_stopped_at() {
    let bytes = content(1_000_000);
    let served = bytes.clone();
    let server = Server::start(move |asked, _| {
        let start = asked.header("range").map_or(0, first_byte);
        let rest = served[start..].to_vec();
        let cut = rest.len().min(400_000);
        let status = if start > 0 { 206 } else { 200 };
        let range = format!("bytes {start}-{}/{}", served.len() - 1, served.len());
        let answer = reply(status).header("Content-Range", range).body(rest);
        if cut == 400_000 { answer.cut(cut) } else { answer }
    })
    .await;
    assert_eq!(read(&*open(&server.address), &described(&bytes)).await.unwrap(), bytes);
    let ranges: Vec<_> = server.asked().iter().filter_map(|a| a.header("range").map(first_byte)).collect();
    assert_eq!(ranges, [400_000, 800_000], "nothing is fetched twice");
}

#[tokio::test]
async fn a_pull_begins_again_where_ranges_are_ignored() {
    let bytes = content(1_000_000);
    let served = bytes.clone();
    let server = Server::start(move |_, before| {
        let answer = reply(200).body(served.clone());
        if before.is_empty() { answer.cut(500_000) } else { answer }
    })
    .await;
    assert_eq!(read(&*open(&server.address), &described(&bytes)).await.unwrap(), bytes);
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_small_blob_with_a_wrong_byte_is_fetched_again() {
    let bytes = content(1000);
    let served = bytes.clone();
    let server = Server::start(move |_, before| {
        let mut body = served.clone();
        body[7] ^= u8::from(before.is_empty());
        reply(200).body(body)
    })
    .await;
    assert_eq!(read(&*open(&server.address), &described(&bytes)).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_blob_that_is_always_wrong_is_an_error_with_both_digests() {
    let bytes = content(1000);
    let mut wrong = bytes.clone();
    wrong[7] ^= 1;
    let served = wrong.clone();
    let server = Server::start(move |_, _| reply(200).body(served.clone())).await;
    let error = read(&*open(&server.address), &described(&bytes)).await.unwrap_err().to_string();
    assert!(error.contains(&Digest::sha256(&bytes).hex()) && error.contains(&Digest::sha256(&wrong).hex()), "{error}");
}

#[tokio::test]
async fn a_page_in_place_of_a_blob_shows_its_first_line_escaped() {
    let server = Server::start(|_, _| {
        reply(200).header("Content-Type", "text/html").body("<html>please \u{1b}[31mlog in\n<body>")
    })
    .await;
    let error = read(&*open(&server.address), &described(&content(1000))).await.unwrap_err().to_string();
    assert!(error.contains("<html>please") && !error.contains('\u{1b}'), "{error}");
}

#[tokio::test]
async fn nobody_asks_a_host_before_it_wants_to_be_asked() {
    let server = Server::start(|_, before| match before.len() {
        0 => reply(429).header("Retry-After", 1),
        _ => reply(200).header("Content-Length", 1),
    })
    .await;
    let store = open(&server.address);
    let blobs: Vec<_> = (0..8u8).map(|i| described(&[i])).collect();
    assert!(store.has_blob(&blobs[0]).await.unwrap());
    let asked = server.asked();
    assert!(asked[1].at.duration_since(asked[0].at) >= Duration::from_secs(1));
    let all = futures_util::future::join_all(blobs.iter().map(|b| store.has_blob(b))).await;
    assert!(all.into_iter().all(|r| r.unwrap()));
}

#[tokio::test]
async fn a_token_that_dies_early_is_asked_for_again() {
    // Each token is good for two requests, and promises five minutes.
    let server = Server::start(|asked, before| {
        if asked.target.starts_with("/token") {
            assert!(asked.target.contains("scope=repository%3Aa%3Apull"), "{}", asked.target);
            let serial = before.iter().filter(|a| a.is("GET", "/token")).count();
            return reply(200).body(format!(r#"{{"token":"t{serial}","expires_in":300}}"#));
        }
        let token = asked.header("authorization").unwrap_or_default();
        let used = before.iter().filter(|a| a.header("authorization") == Some(token)).count();
        if token.is_empty() || used >= 2 {
            return reply(401).header("WWW-Authenticate", r#"Bearer realm="/token",service="s""#);
        }
        reply(200).header("Content-Length", 1)
    })
    .await;
    let store = open(&server.address);
    for i in 0..6u8 {
        assert!(store.has_blob(&described(&[i])).await.unwrap());
    }
    assert_eq!(server.count("GET", "/token"), 3);
}

#[tokio::test]
async fn an_identity_token_is_traded_for_access() {
    let server = Server::start(|asked, _| match asked.header("authorization") {
        _ if asked.is("POST", "/token") => reply(200).body(r#"{"access_token":"access","expires_in":300}"#),
        Some("Bearer access") => reply(200).header("Content-Length", 1),
        _ => reply(401).header("WWW-Authenticate", r#"Bearer realm="/token",service="s""#),
    })
    .await;
    let credential = Credential::Identity("id+entity".to_owned().into());
    let config = Config::default().with_credentials(Chain::fixed(credential));
    let image: ImageName = format!("{}/a:latest", server.address).parse().unwrap();
    let store = Stores::new(Client::new(Arc::new(config))).open(&image).unwrap();
    assert!(store.has_blob(&described(b"x")).await.unwrap());
    let asked = server.asked();
    let trade = asked.iter().find(|a| a.is("POST", "/token")).unwrap();
    let form = String::from_utf8_lossy(&trade.body);
    for field in ["grant_type=refresh_token", "refresh_token=id%2Bentity", "service=s", "scope=repository%3Aa%3Apull"] {
        assert!(form.contains(field), "{form}");
    }
    let shown = |a: &server::Asked| a.header("authorization").is_some_and(|h| h.contains("id+entity"));
    assert!(!asked.iter().any(shown), "it goes to the token endpoint alone");
}

#[tokio::test]
async fn a_redirect_takes_no_token_along() {
    let bytes = content(1000);
    let served = bytes.clone();
    let storage = Server::start(move |_, before| match before.len() {
        // The first signed address has expired.
        0 => reply(403),
        _ => reply(200).body(served.clone()),
    })
    .await;
    let elsewhere = format!("http://{}/signed?x=1", storage.address);
    let server = Server::start(move |asked, _| {
        if asked.target.starts_with("/token") {
            return reply(200).body(r#"{"access_token":"secret"}"#);
        }
        match asked.header("authorization") {
            Some("Bearer secret") => reply(307).header("Location", &elsewhere),
            _ => reply(401).header("WWW-Authenticate", r#"Bearer realm="/token""#),
        }
    })
    .await;
    assert_eq!(read(&*open(&server.address), &described(&bytes)).await.unwrap(), bytes);
    assert_eq!(storage.asked().len(), 2);
    assert!(storage.asked().iter().all(|a| a.header("authorization").is_none()));
}

#[tokio::test]
async fn a_redirect_to_itself_ends() {
    let server = Server::start(|asked, _| reply(302).header("Location", &asked.target)).await;
    let error = read(&*open(&server.address), &described(b"x")).await.unwrap_err().to_string();
    assert!(error.contains("ten times"), "{error}");
    assert_eq!(server.asked().len(), 11);
}

#[tokio::test]
async fn a_blob_takes_two_requests_and_its_location_is_used_as_it_came() {
    let bytes = content(600_000);
    let server = Server::start(|asked, _| match asked.method.as_str() {
        "POST" => reply(202).header("Location", "/elsewhere/1?state=a%2Fb%3D"),
        _ => reply(201),
    })
    .await;
    let store = open(&server.address);
    let pushed = store.push_blob(&described(&bytes), &source(&bytes), Some("other")).await.unwrap();
    assert_eq!(pushed, Pushed::Sent);
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    let digest = Digest::sha256(&bytes);
    assert_eq!(asked[0].target, format!("/v2/a/blobs/uploads/?mount={digest}&from=other"));
    assert_eq!(asked[1].target, format!("/elsewhere/1?state=a%2Fb%3D&digest={digest}"));
    assert_eq!(asked[1].header("content-length"), Some("600000"));
    assert_eq!(asked[1].body, bytes);
}

#[tokio::test]
async fn a_refused_mount_becomes_an_upload() {
    let server = Server::start(|asked, _| match asked.method.as_str() {
        "POST" if asked.target.contains("mount=") => reply(403),
        "POST" => reply(202).header("Location", "u1"),
        _ => reply(201),
    })
    .await;
    let bytes = Vec::new();
    let pushed = open(&server.address).push_blob(&described(&bytes), &source(&bytes), Some("other")).await.unwrap();
    assert_eq!(pushed, Pushed::Sent);
    assert_eq!(server.count("PUT", "/v2/a/blobs/uploads/u1?digest="), 1);
}

#[tokio::test]
async fn a_broken_push_goes_on_from_what_the_registry_has() {
    let bytes = content(3_000_000);
    let server = Server::start(|asked, before| match asked.method.as_str() {
        "POST" => reply(202).header("Location", "/u/1"),
        "PUT" if !before.iter().any(|a| a.method == "PUT") => reply(0).drop_after(1_000_000),
        "GET" => reply(204).header("Location", "/u/2").header("Range", "0-999999"),
        "PATCH" => reply(202).header("Location", "/u/3"),
        _ => reply(201),
    })
    .await;
    open(&server.address).push_blob(&described(&bytes), &source(&bytes), None).await.unwrap();
    let asked = server.asked();
    let patch = asked.iter().find(|a| a.method == "PATCH").unwrap();
    assert_eq!(patch.target, "/u/2");
    assert_eq!(patch.header("content-range"), Some("1000000-2999999"));
    assert_eq!(patch.body, bytes[1_000_000..]);
    let last = asked.last().unwrap();
    assert!(last.is("PUT", "/u/3?digest=") && last.body.is_empty());
}

/// What an earlier run has left is looked at where a mount is refused, too.
#[tokio::test]
async fn an_upload_of_an_earlier_run_goes_on_where_the_mount_is_refused() {
    let bytes = content(16 << 20);
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(|asked, before| {
        let posts = before.iter().filter(|a| a.method == "POST").count();
        match asked.method.as_str() {
            "POST" => reply(202).header("Location", format!("/u/{posts}")),
            "PUT" if posts == 1 => reply(0).drop_after(1_000_000),
            "GET" if posts == 1 => reply(503),
            "GET" => reply(204).header("Location", &asked.target).header("Range", "0-999999"),
            "PATCH" => reply(202).header("Location", &asked.target),
            _ => reply(201),
        }
    })
    .await;
    let image: ImageName = format!("{}/a:latest", server.address).parse().unwrap();
    let open = || {
        let config = Config::default().with_state(home.path().to_owned());
        Stores::new(Client::new(Arc::new(config))).open(&image).unwrap()
    };
    let (store, blob, from) = (open(), described(&bytes), source(&bytes));
    let first = tokio::spawn(async move { store.push_blob(&blob, &from, Some("other")).await });
    while server.count("GET", "/u/0") == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());

    let pushed = open().push_blob(&described(&bytes), &source(&bytes), Some("other")).await.unwrap();
    assert_eq!(pushed, Pushed::Sent);
    let asked = server.asked();
    let patch = asked.iter().find(|a| a.method == "PATCH").unwrap();
    assert_eq!((patch.target.as_str(), patch.body.len()), ("/u/0", bytes.len() - 1_000_000));
    assert!(asked.last().unwrap().is("PUT", "/u/0?digest="));
    assert_eq!(server.count("POST", "/v2/a/blobs/uploads/?mount="), 2, "a mount would have moved nothing");
    assert_eq!(std::fs::read_dir(home.path().join("uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_session_that_is_gone_is_replaced() {
    let bytes = content(1000);
    let server = Server::start(|asked, before| match asked.method.as_str() {
        "POST" => reply(202).header("Location", format!("/u/{}", before.len())),
        "PUT" if !before.iter().any(|a| a.method == "PUT") => reply(404),
        _ => reply(201),
    })
    .await;
    open(&server.address).push_blob(&described(&bytes), &source(&bytes), None).await.unwrap();
    assert_eq!(server.count("POST", "/v2/a/blobs/uploads/"), 2);
}

#[tokio::test]
async fn chunks_are_for_a_registry_that_takes_nothing_larger() {
    let bytes = content(20_000_000);
    let server = Server::start(|asked, _| match asked.method.as_str() {
        "POST" => reply(202).header("Location", "/u/1").header("OCI-Chunk-Min-Length", 9_000_000),
        "PUT" if asked.header("content-length") != Some("0") => reply(413),
        "PATCH" => reply(202).header("Location", "/u/1"),
        _ => reply(201),
    })
    .await;
    open(&server.address).push_blob(&described(&bytes), &source(&bytes), None).await.unwrap();
    let patches: Vec<_> = server.asked().into_iter().filter(|a| a.method == "PATCH").collect();
    let sizes: Vec<_> = patches.iter().map(|p| p.body.len()).collect();
    assert_eq!(sizes, [9_000_000, 9_000_000, 2_000_000]);
    assert_eq!(patches.concat_bodies(), bytes);
}

trait Bodies {
    fn concat_bodies(&self) -> Vec<u8>;
}

impl Bodies for Vec<server::Asked> {
    fn concat_bodies(&self) -> Vec<u8> {
        self.iter().flat_map(|a| a.body.clone()).collect()
    }
}

/// A source that is wrong the first time it is read.
struct WrongOnce {
    right: BytesBlob,
    reads: std::sync::atomic::AtomicUsize,
}

#[async_trait::async_trait]
impl BlobSource for WrongOnce {
    async fn open(&self, offset: u64) -> Result<airgap_mirror::store::BlobReader> {
        if self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0 {
            return self.right.open(offset).await;
        }
        let mut bytes = self.right.bytes.to_vec();
        bytes[0] ^= 1;
        BytesBlob { descriptor: self.right.descriptor.clone(), bytes: bytes.into() }.open(offset).await
    }
}

#[tokio::test]
async fn a_source_that_was_wrong_is_read_again_into_a_new_session() {
    let bytes = content(1000);
    let server = Server::start(|asked, before| match asked.method.as_str() {
        "POST" => reply(202).header("Location", format!("/u/{}", before.len())),
        _ => reply(201),
    })
    .await;
    let source = WrongOnce { right: source(&bytes), reads: Default::default() };
    open(&server.address).push_blob(&described(&bytes), &source, None).await.unwrap();
    let asked = server.asked();
    assert_eq!(asked.last().unwrap().body, bytes);
    assert_eq!(server.count("POST", "/v2/a/blobs/uploads/"), 2);
}

#[tokio::test]
async fn the_bytes_decide_what_a_tag_stands_for() {
    let text = format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, media_type::OCI_INDEX);
    let body = text.clone();
    let server = Server::start(move |asked, _| {
        let answer = reply(200).header("Docker-Content-Digest", Digest::sha256(b"a lie")).body(body.clone());
        if asked.method == "HEAD" { answer.header("Content-Type", media_type::OCI_INDEX) } else { answer }
    })
    .await;
    let store = open(&server.address);
    let digest = Digest::sha256(text.as_bytes());
    for _ in 0..3 {
        let found = store.resolve(&Name::Tag("latest".into())).await.unwrap().unwrap();
        assert_eq!((found.digest, found.media_type.as_str()), (digest, media_type::OCI_INDEX));
    }
    // By digest, the header does not matter; other bytes do.
    let long = Digest::of(Algorithm::Sha512, text.as_bytes());
    assert_eq!(store.manifest(&Name::Digest(long)).await.unwrap().unwrap().digest(), long);
    assert!(store.manifest(&Name::Digest(Digest::sha256(b"a lie"))).await.unwrap_err().is_corruption());
}

#[tokio::test]
async fn a_huge_manifest_is_refused_unread() {
    let server = Server::start(|_, _| reply(200).header("Content-Length", 4u64 << 30).cut(0)).await;
    let error = open(&server.address).manifest(&Name::Tag("latest".into())).await.unwrap_err().to_string();
    assert!(error.contains("at most 32 MiB"), "{error}");
}

#[tokio::test]
async fn a_manifest_that_was_not_kept_is_an_error() {
    let server = Server::start(|asked, _| reply(if asked.method == "PUT" { 201 } else { 404 })).await;
    let manifest = Manifest::new(media_type::OCI_INDEX, &b"{}"[..]);
    let error = open(&server.address).push_manifest(&manifest, Some("x")).await.unwrap_err().to_string();
    assert!(error.contains("not there afterwards"), "{error}");
}

#[tokio::test]
async fn a_refused_manifest_tells_that_a_blob_is_unknown() {
    let server = Server::start(|_, _| {
        reply(400).body(r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#)
    })
    .await;
    let manifest = Manifest::new(media_type::OCI_INDEX, &b"{}"[..]);
    let error = open(&server.address).push_manifest(&manifest, Some("x")).await.unwrap_err();
    assert!(error.is_blob_unknown(), "{error}");
    assert!(error.to_string().contains("blob unknown to registry"), "{error}");
}

#[tokio::test]
async fn tags_come_in_pages_and_loops_end() {
    let server = Server::start(|asked, _| match asked.target.contains("last=") {
        false => reply(200)
            .header("Link", "</v2/a/tags/list?n=2&last=b>; rel=\"next\"")
            .body(r#"{"name":"a","tags":["b","a"]}"#),
        true => reply(200).body(r#"{"name":"a","tags":["c"]}"#),
    })
    .await;
    assert_eq!(open(&server.address).tags().await.unwrap(), ["a", "b", "c"]);
    let server =
        Server::start(|asked, _| reply(200).header("Link", format!("<{}>; rel=next", asked.target)).body("{}")).await;
    assert!(open(&server.address).tags().await.unwrap_err().to_string().contains("does not end"));
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn trouble_with_referrers_is_never_an_empty_list() {
    let server = Server::start(|_, _| reply(403)).await;
    assert!(open(&server.address).referrers(&described(b"x")).await.is_err());
    let server = Server::start(|_, _| reply(404)).await;
    assert!(open(&server.address).referrers(&described(b"x")).await.unwrap().is_empty());
    assert_eq!(server.count("GET", &format!("/v2/a/manifests/{}", Digest::sha256(b"x").referrers_tag())), 1);
}
