//! Clients that do nothing, uploads that nobody comes back for, a server that is told to stop: each waits for a time
//! and no longer.

use std::time::{Duration, Instant};

use airgap_mirror::image::Digest;
use airgap_mirror::serve::Limits;
use reqwest::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::registry::{Registry, header, refusal, with_digest};

const SOON: Duration = Duration::from_millis(150);
/// What should end soon is given up after that time.
const LATE: Duration = Duration::from_secs(20);

async fn connect(r: &Registry, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(r.server.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// What comes until the server closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = tokio::time::timeout(LATE, stream.read_to_end(&mut answer)).await.expect("the server lets go");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_client_that_sends_no_request_is_let_go() {
    let r = Registry::with_limits(Limits { head: SOON, ..Limits::default() }).await;
    for begun in ["", "GET /v2/ HT", "GET /v2/ HTTP/1.1\r\nhost: x\r\n"] {
        assert_eq!(rest(&mut connect(&r, begun).await).await, "", "{begun:?}");
    }
    // And one that sent a request and then no other.
    let answer = rest(&mut connect(&r, "GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n").await).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn a_body_that_stops_is_given_up_and_the_upload_goes_on_later() {
    let r = Registry::with_limits(Limits { silence: SOON, ..Limits::default() }).await;
    let location = r.begin("a").await;
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nfirst");
    let answer = rest(&mut connect(&r, &head).await).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("nothing came for 0.15 s"), "{answer}");
    assert_eq!(header(&r.get(&location).await, "range"), "0-4");
    let digest = Digest::sha256(b"first and last");
    let put = r.request(Method::PUT, &with_digest(&location, &digest)).body(" and last");
    assert_eq!(r.send(put).await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_let_go() {
    let r = Registry::with_limits(Limits { silence: SOON, connections: 1, ..Limits::default() }).await;
    // More than both sides' buffers hold.
    let digest = r.push_blob("a", &vec![7; 32 << 20]).await;
    // The only connection: the client's own is given back first.
    let r = r.reconnected();
    let request = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nhost: x\r\n\r\n");
    let stuck = connect(&r, &request).await;
    // It is taken back from the one who sits on it.
    let next = tokio::time::timeout(LATE, r.head(&format!("/v2/a/blobs/{digest}"))).await.expect("there is room again");
    assert_eq!(next.status(), StatusCode::OK);
    drop(stuck);
}

#[tokio::test]
async fn more_connections_than_are_taken_wait_their_turn() {
    let r = Registry::with_limits(Limits { connections: 2, ..Limits::default() }).await;
    let mut held = vec![connect(&r, "").await, connect(&r, "").await];
    let mut third = connect(&r, "GET /v2/ HTTP/1.0\r\n\r\n").await;
    let mut byte = [0];
    assert!(tokio::time::timeout(SOON, third.read(&mut byte)).await.is_err(), "the bound is kept");
    held.pop();
    assert!(rest(&mut third).await.starts_with("HTTP/1.0 200 OK"));
}

#[tokio::test]
async fn an_upload_that_nobody_asks_for_is_forgotten() {
    let r = Registry::with_limits(Limits { upload: SOON, ..Limits::default() }).await;
    let location = r.begin("a").await;
    r.send(r.request(Method::PATCH, &location).body("half")).await;
    let uploads = r.directory.path().join("uploads");
    // What an earlier process left behind goes, too; what is not an upload stays.
    std::fs::write(uploads.join("0123456789abcdef0123456789abcdef"), "left").unwrap();
    std::fs::write(uploads.join("notes.txt"), "mine").unwrap();
    let begun = Instant::now();
    while std::fs::read_dir(&uploads).unwrap().count() > 1 {
        assert!(begun.elapsed() < LATE, "uploads are still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(refusal(r.get(&location).await).await, (404, "BLOB_UPLOAD_UNKNOWN".into()));
    assert!(uploads.join("notes.txt").exists());
}

#[tokio::test]
async fn an_upload_that_was_given_up_takes_no_more_from_whoever_waits() {
    let r = std::sync::Arc::new(Registry::new().await);
    let location = r.begin("a").await;
    r.send(r.request(Method::PATCH, &location).body("first")).await;
    // One request at work, a cancellation and a closing PUT behind it.
    let mut working = connect(&r, &format!("PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n-")).await;
    while !std::fs::read_dir(r.directory.path().join("uploads"))
        .unwrap()
        .any(|e| e.unwrap().metadata().unwrap().len() == 6)
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let cancel = tokio::spawn({
        let (r, location) = (r.clone(), location.clone());
        async move { r.delete(&location).await.status() }
    });
    tokio::time::sleep(SOON).await;
    let put = tokio::spawn({
        let (r, location) = (r.clone(), location.clone());
        let digest = Digest::sha256(b"first--last");
        async move { refusal(r.send(r.request(Method::PUT, &with_digest(&location, &digest)).body("last")).await).await }
    });
    tokio::time::sleep(SOON).await;
    working.write_all(b"-").await.unwrap();
    assert_eq!(cancel.await.unwrap(), StatusCode::NO_CONTENT);
    assert_eq!(put.await.unwrap(), (404, "BLOB_UPLOAD_UNKNOWN".into()));
    assert_eq!(std::fs::read_dir(r.directory.path().join("uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn stopping_lets_requests_end_but_not_for_ever() {
    let r = Registry::with_limits(Limits { grace: Duration::from_secs(2), ..Limits::default() }).await;
    let (quick, stuck) = (r.begin("a").await, r.begin("a").await);
    let digest = Digest::sha256(b"whole");
    let put = |location: &str| {
        format!("PUT {} HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nwho", with_digest(location, &digest))
    };
    let mut quick = connect(&r, &put(&quick)).await;
    let mut stuck = connect(&r, &put(&stuck)).await;
    let idle = connect(&r, "").await;
    tokio::time::sleep(SOON).await;
    let (directory, address) = (r.directory, r.server.address());
    let stopping = tokio::spawn(r.server.shutdown());
    // No new ones are taken from now on.
    let begun = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(begun.elapsed() < LATE, "it still listens");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    quick.write_all(b"le").await.unwrap();
    let answer = rest(&mut quick).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(rest(&mut stuck).await, "");
    drop(idle);
    tokio::time::timeout(LATE, stopping).await.expect("it stops").unwrap().unwrap();
    let r = Registry::open(directory, false).await;
    assert_eq!(r.head(&format!("/v2/a/blobs/{digest}")).await.status(), StatusCode::OK);
}
