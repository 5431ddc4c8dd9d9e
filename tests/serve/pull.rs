//! Workflow "pull": manifests and blobs, whole and in part, and what is not there.

use airgap_mirror::image::{Digest, media_type};
use reqwest::{Method, StatusCode};

use crate::registry::{Registry, header, refusal};

#[tokio::test]
async fn the_root_says_that_the_api_is_there() {
    let r = Registry::new().await;
    for path in ["/v2/", "/v2"] {
        assert_eq!(r.get(path).await.status(), StatusCode::OK);
    }
    assert_eq!(refusal(r.get("/v1/").await).await.0, 404);
}

#[tokio::test]
async fn manifests_come_by_tag_and_by_digest_as_they_were_pushed() {
    let r = Registry::new().await;
    let (manifest, digest) = r.push_image("a/b", "v1", "layer").await;
    for reference in ["v1".to_string(), digest.to_string()] {
        let path = format!("/v2/a/b/manifests/{reference}");
        let head = r.head(&path).await;
        let get = r.get(&path).await;
        for response in [&head, &get] {
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(header(response, "content-type"), media_type::OCI_MANIFEST);
            assert_eq!(header(response, "docker-content-digest"), digest.to_string());
            assert_eq!(header(response, "content-length"), manifest.to_string().len().to_string());
        }
        assert_eq!(head.bytes().await.unwrap().len(), 0);
        assert_eq!(get.bytes().await.unwrap(), manifest.to_string());
    }
}

#[tokio::test]
async fn blobs_come_whole_whatever_their_size() {
    let r = Registry::new().await;
    for size in [0, 1, 1 << 18, (1 << 18) + 1, 3_000_000] {
        let content: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let digest = r.push_blob("a", &content).await;
        let path = format!("/v2/a/blobs/{digest}");
        let head = r.head(&path).await;
        assert_eq!(head.status(), StatusCode::OK);
        assert_eq!(header(&head, "content-length"), size.to_string());
        assert_eq!(header(&head, "docker-content-digest"), digest.to_string());
        let get = r.get(&path).await;
        assert_eq!(header(&get, "content-length"), size.to_string());
        assert_eq!(get.bytes().await.unwrap(), content);
    }
}

#[tokio::test]
async fn a_range_of_a_blob_is_that_range() {
    let r = Registry::new().await;
    let content: Vec<u8> = (0..1_000_000u32).map(|i| (i / 7 % 256) as u8).collect();
    let path = format!("/v2/a/blobs/{}", r.push_blob("a", &content).await);
    let all = content.len();
    for (asked, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=500-1499", 500, 1500),
        ("bytes=500-", 500, all),
        ("bytes=-500", all - 500, all),
        ("bytes=999999-5000000", all - 1, all),
    ] {
        let response = r.send(r.request(Method::GET, &path).header("range", asked)).await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{asked}");
        assert_eq!(header(&response, "content-range"), format!("bytes {start}-{}/{all}", end - 1));
        assert_eq!(response.bytes().await.unwrap(), content[start..end], "{asked}");
    }
    for asked in ["bytes=1000000-", "bytes=500-0"] {
        let response = r.send(r.request(Method::GET, &path).header("range", asked)).await;
        assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE, "{asked}");
        assert_eq!(header(&response, "content-range"), format!("bytes */{all}"));
    }
    // Another version of the file, or several ranges: all of it.
    let other = r.request(Method::GET, &path).header("range", "bytes=0-1").header("if-range", "\"other\"");
    assert_eq!(r.send(other).await.status(), StatusCode::OK);
    let several = r.request(Method::GET, &path).header("range", "bytes=0-1,5-6");
    assert_eq!(r.send(several).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn what_is_not_there_is_said_with_its_code() {
    let r = Registry::new().await;
    r.push_image("a", "v1", "layer").await;
    let absent = Digest::sha256(b"absent");
    for (path, status, code) in [
        ("/v2/a/manifests/v2".to_string(), 404, "MANIFEST_UNKNOWN"),
        ("/v2/a/manifests/.INVALID".to_string(), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/a/manifests/{absent}"), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/a/blobs/{absent}"), 404, "BLOB_UNKNOWN"),
        ("/v2/b/manifests/v1".to_string(), 404, "NAME_UNKNOWN"),
        ("/v2/b/tags/list".to_string(), 404, "NAME_UNKNOWN"),
        ("/v2/a/blobs/sha256:12".to_string(), 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e".to_string(), 400, "DIGEST_INVALID"),
        ("/v2/UPPER/tags/list".to_string(), 400, "NAME_INVALID"),
        ("/v2/a%2F..%2Fb/tags/list".to_string(), 400, "NAME_INVALID"),
        ("/v2/a/blobs/uploads/nothing".to_string(), 404, "BLOB_UPLOAD_UNKNOWN"),
    ] {
        assert_eq!(refusal(r.get(&path).await).await, (status, code.to_string()), "{path}");
    }
    let wrong = r.request(Method::POST, "/v2/a/tags/list");
    assert_eq!(refusal(r.send(wrong).await).await, (405, "UNSUPPORTED".into()));
}

#[tokio::test]
async fn a_blob_is_private_to_its_repositories() {
    let r = Registry::new().await;
    let digest = r.push_blob("a", b"private").await;
    assert_eq!(r.head(&format!("/v2/a/blobs/{digest}")).await.status(), StatusCode::OK);
    assert_eq!(r.head(&format!("/v2/b/blobs/{digest}")).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_blob_whose_file_was_cut_short_is_not_there_until_it_is_pushed_again() {
    let r = Registry::new().await;
    let digest = r.push_blob("a", b"whole content").await;
    let path = format!("/v2/a/blobs/{digest}");
    std::fs::write(r.directory.path().join(digest.blob_path()), b"whole").unwrap();
    assert_eq!(r.head(&path).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(r.get(&path).await.status(), StatusCode::NOT_FOUND);
    r.push_blob("a", b"whole content").await;
    assert_eq!(r.get(&path).await.bytes().await.unwrap(), "whole content");
}
