//! Workflow "push": every way to upload a blob, mounts, and manifests.

use airgap_mirror::image::manifest::MAX_MANIFEST_BYTES;
use airgap_mirror::image::{Digest, media_type};
use futures_util::{StreamExt, stream};
use reqwest::{Body, Method, StatusCode};
use serde_json::json;

use crate::registry::{Registry, digest_of, header, image, refusal, sha512, with_digest};

#[tokio::test]
async fn a_blob_goes_in_with_one_request() {
    let r = Registry::new().await;
    for content in [&b"in one go"[..], b""] {
        for digest in [Digest::sha256(content), sha512(content)] {
            let post = r.request(Method::POST, &format!("/v2/a/blobs/uploads/?digest={digest}"));
            let response = r.send(post.body(content.to_vec()).header("content-length", content.len())).await;
            assert_eq!(response.status(), StatusCode::CREATED);
            assert_eq!(header(&response, "location"), format!("/v2/a/blobs/{digest}"));
            assert_eq!(header(&response, "docker-content-digest"), digest.to_string());
            assert_eq!(r.get(&format!("/v2/a/blobs/{digest}")).await.bytes().await.unwrap(), content);
        }
    }
}

#[tokio::test]
async fn a_blob_goes_in_with_two_requests() {
    let r = Registry::new().await;
    for content in [&b"in two"[..], b""] {
        for digest in [Digest::sha256(content), sha512(content)] {
            let location = r.begin("a").await;
            let put = r.request(Method::PUT, &with_digest(&location, &digest)).body(content.to_vec());
            let response = r.send(put.header("content-length", content.len())).await;
            assert_eq!(response.status(), StatusCode::CREATED);
            assert_eq!(r.get(&header(&response, "location")).await.bytes().await.unwrap(), content);
            // It is done: the upload is gone.
            assert_eq!(r.get(&location).await.status(), StatusCode::NOT_FOUND);
        }
    }
}

#[tokio::test]
async fn a_blob_goes_in_by_chunks_in_their_order() {
    let r = Registry::new().await;
    let content = b"0123456789abcdefghij";
    for (digest, last_in_put) in [(Digest::sha256(content), false), (sha512(content), true)] {
        let location = r.begin("a").await;
        let chunk = |method, location: &str, from: usize, to: usize| {
            let request = r.request(method, location).header("content-range", format!("{from}-{}", to - 1));
            request.body(content[from..to].to_vec())
        };
        let response = r.send(chunk(Method::PATCH, &location, 0, 5)).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        assert_eq!(header(&response, "range"), "0-4");
        let location = header(&response, "location");
        for (from, to) in [(0, 5), (7, 9), (10, 20)] {
            let response = r.send(chunk(Method::PATCH, &location, from, to)).await;
            assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE);
            assert_eq!(header(&response, "range"), "0-4");
            let put = chunk(Method::PUT, &with_digest(&location, &digest), from, to);
            assert_eq!(r.send(put).await.status(), StatusCode::RANGE_NOT_SATISFIABLE);
        }
        let lying = r.request(Method::PATCH, &location).header("content-range", "5-6").body("too much");
        assert_eq!(refusal(r.send(lying).await).await, (400, "SIZE_INVALID".into()));
        let senseless = r.request(Method::PATCH, &location).header("content-range", "6-5").body("x");
        assert_eq!(refusal(r.send(senseless).await).await, (400, "BLOB_UPLOAD_INVALID".into()));
        let status = r.get(&location).await;
        assert_eq!(status.status(), StatusCode::NO_CONTENT);
        assert_eq!(header(&status, "range"), "0-4");
        let location = header(&status, "location");
        let response = if last_in_put {
            r.send(chunk(Method::PUT, &with_digest(&location, &digest), 5, 20)).await
        } else {
            let response = r.send(chunk(Method::PATCH, &location, 5, 20)).await;
            let location = header(&response, "location");
            r.send(r.request(Method::PUT, &with_digest(&location, &digest)).header("content-length", 0)).await
        };
        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(r.get(&header(&response, "location")).await.bytes().await.unwrap(), &content[..]);
    }
}

#[tokio::test]
async fn a_blob_goes_in_as_a_stream() {
    let r = Registry::new().await;
    let content = vec![7u8; 2_000_000];
    let location = r.begin("a").await;
    let pieces = stream::iter(content.chunks(100_000).map(|c| Ok::<_, std::io::Error>(c.to_vec())).collect::<Vec<_>>());
    let response = r.send(r.request(Method::PATCH, &location).body(Body::wrap_stream(pieces))).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(header(&response, "range"), "0-1999999");
    let digest = Digest::sha256(&content);
    let response = r.send(r.request(Method::PUT, &with_digest(&location, &digest))).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(r.get(&format!("/v2/a/blobs/{digest}")).await.bytes().await.unwrap(), content);
}

#[tokio::test]
async fn an_upload_that_broke_goes_on_from_where_it_stands() {
    let r = Registry::new().await;
    let location = r.begin("a").await;
    let cut = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        Err(std::io::Error::other("the line is cut"))
    };
    let broken = stream::iter([Ok(b"first".to_vec())]).chain(stream::once(cut));
    let sent = r.request(Method::PUT, &with_digest(&location, &Digest::sha256(b"first and last")));
    assert!(sent.body(Body::wrap_stream(broken)).send().await.is_err());
    let mut range = String::new();
    for _ in 0..100 {
        range = header(&r.get(&location).await, "range");
        if range == "0-4" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(range, "0-4");
    let rest = r.request(Method::PATCH, &location).header("content-range", "5-13").body(" and last");
    assert_eq!(r.send(rest).await.status(), StatusCode::ACCEPTED);
    let digest = Digest::sha256(b"first and last");
    let response = r.send(r.request(Method::PUT, &with_digest(&location, &digest))).await;
    assert_eq!(response.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart() {
    let r = Registry::new().await;
    let location = r.begin("a").await;
    r.send(r.request(Method::PATCH, &location).body("before ")).await;
    let r = r.restart().await;
    assert_eq!(header(&r.get(&location).await, "range"), "0-6");
    let digest = sha512(b"before and after");
    let put = r.request(Method::PUT, &with_digest(&location, &digest)).body("and after");
    assert_eq!(r.send(put).await.status(), StatusCode::CREATED);
    assert_eq!(r.get(&format!("/v2/a/blobs/{digest}")).await.bytes().await.unwrap(), "before and after");
}

#[tokio::test]
async fn wrong_digests_are_refused_and_store_nothing() {
    let r = Registry::new().await;
    let wrong = Digest::sha256(b"something else");
    let location = r.begin("a").await;
    let put = r.request(Method::PUT, &with_digest(&location, &wrong)).body("content");
    assert_eq!(refusal(r.send(put).await).await, (400, "DIGEST_INVALID".into()));
    let post = r.request(Method::POST, &format!("/v2/a/blobs/uploads/?digest={wrong}")).body("content");
    assert_eq!(refusal(r.send(post).await).await, (400, "DIGEST_INVALID".into()));
    let location = r.begin("a").await;
    let put = r.request(Method::PUT, &location).body("content");
    assert_eq!(refusal(r.send(put).await).await, (400, "DIGEST_INVALID".into()));
    assert_eq!(r.head(&format!("/v2/a/blobs/{wrong}")).await.status(), StatusCode::NOT_FOUND);
    let manifest = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [] });
    let put = r.put_manifest("a", &wrong.to_string(), &manifest);
    assert_eq!(refusal(r.send(put).await).await, (400, "DIGEST_INVALID".into()));
}

#[tokio::test]
async fn an_upload_can_be_cancelled() {
    let r = Registry::new().await;
    let location = r.begin("a").await;
    r.send(r.request(Method::PATCH, &location).body("half")).await;
    assert_eq!(r.delete(&location).await.status(), StatusCode::NO_CONTENT);
    assert_eq!(refusal(r.get(&location).await).await, (404, "BLOB_UPLOAD_UNKNOWN".into()));
    assert_eq!(std::fs::read_dir(r.directory.path().join("uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn blobs_are_mounted_from_a_repository_or_from_any() {
    let r = Registry::new().await;
    let digest = r.push_blob("a", b"shared").await;
    for (to, from) in [("b", "&from=a"), ("c", "")] {
        let response = r.post(&format!("/v2/{to}/blobs/uploads/?mount={digest}{from}")).await;
        assert_eq!(response.status(), StatusCode::CREATED, "{to}");
        assert_eq!(header(&response, "location"), format!("/v2/{to}/blobs/{digest}"));
        assert_eq!(r.get(&format!("/v2/{to}/blobs/{digest}")).await.bytes().await.unwrap(), "shared");
    }
    // Not there: an upload begins, and it can be used.
    let absent = sha512(b"absent");
    let mut location = String::new();
    for query in [format!("mount={digest}&from=nowhere"), format!("mount={absent}&from=a"), format!("mount={absent}")] {
        let response = r.post(&format!("/v2/d/blobs/uploads/?{query}")).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED, "{query}");
        location = header(&response, "location");
    }
    let put = r.request(Method::PUT, &with_digest(&location, &absent)).body("absent");
    assert_eq!(r.send(put).await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn manifests_need_what_they_hold() {
    let r = Registry::new().await;
    let config = r.push_blob("a", b"{}").await;
    let elsewhere = r.push_blob("b", b"layer").await;
    let manifest = image(&config, &[(elsewhere, 5)]);
    let put = r.put_manifest("a", "v1", &manifest);
    assert_eq!(refusal(r.send(put).await).await, (400, "MANIFEST_BLOB_UNKNOWN".into()));
    let child = json!({ "mediaType": media_type::OCI_MANIFEST, "digest": digest_of(&manifest), "size": 1 });
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [child] });
    let put = r.put_manifest("a", "v1", &index);
    assert_eq!(refusal(r.send(put).await).await, (400, "MANIFEST_BLOB_UNKNOWN".into()));
    assert!(r.get("/v2/a/manifests/v1").await.status() == StatusCode::NOT_FOUND);
    // A layer that registries do not hold may be missing.
    let mut manifest = manifest;
    manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into();
    assert_eq!(r.send(r.put_manifest("a", "v1", &manifest)).await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn sparse_manifests_are_taken_where_they_are_asked_for() {
    let r = Registry::sparse().await;
    let config = r.push_blob("a", b"{}").await;
    let manifest = image(&config, &[(Digest::sha256(b"missing"), 7)]);
    assert_eq!(r.send(r.put_manifest("a", "image", &manifest)).await.status(), StatusCode::CREATED);
    let child = |digest: Digest| json!({ "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": 1 });
    let children = [child(digest_of(&manifest)), child(Digest::sha256(b"another platform"))];
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": children });
    assert_eq!(r.send(r.put_manifest("a", "index", &index)).await.status(), StatusCode::CREATED);
    let r = r.restart().await;
    assert_eq!(r.get("/v2/a/manifests/index").await.bytes().await.unwrap(), index.to_string());
    let missing = r.get(&format!("/v2/a/blobs/{}", Digest::sha256(b"missing"))).await;
    assert_eq!(refusal(missing).await, (404, "BLOB_UNKNOWN".into()));
}

#[tokio::test]
async fn manifests_that_make_no_sense_are_refused() {
    let r = Registry::new().await;
    let put = |body: &str, media_type: &str| {
        r.request(Method::PUT, "/v2/a/manifests/v1").header("content-type", media_type).body(body.to_owned())
    };
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [] }).to_string();
    for (body, media_type) in [
        ("not json", media_type::OCI_MANIFEST),
        ("[]", media_type::OCI_MANIFEST),
        ("{}", media_type::OCI_MANIFEST),
        (r#"{"config": 5}"#, media_type::OCI_MANIFEST),
        (index.as_str(), media_type::OCI_MANIFEST),
    ] {
        assert_eq!(refusal(r.send(put(body, media_type)).await).await, (400, "MANIFEST_INVALID".into()), "{body}");
    }
    let bare = r.request(Method::PUT, "/v2/a/manifests/v1").body("{}");
    assert_eq!(refusal(r.send(bare).await).await, (400, "MANIFEST_INVALID".into()));
    let bad_tag = r.request(Method::PUT, "/v2/a/manifests/-v1").header("content-type", media_type::OCI_INDEX);
    assert_eq!(refusal(r.send(bad_tag.body(index.clone())).await).await, (400, "TAG_INVALID".into()));
    let huge = Body::from(vec![b' '; MAX_MANIFEST_BYTES as usize + 1]);
    let huge = r.request(Method::PUT, "/v2/a/manifests/v1").header("content-type", media_type::OCI_INDEX).body(huge);
    if let Ok(response) = huge.send().await {
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    assert_eq!(r.get("/v2/a/manifests/v1").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn manifests_are_pushed_by_sha512_with_tags_beside_it() {
    let r = Registry::new().await;
    let config = r.push_blob("a", b"{}").await;
    let manifest = image(&config, &[]);
    let digest = sha512(manifest.to_string().as_bytes());
    let response = r.send(r.put_manifest("a", &format!("{digest}?tag=v1&tag=v2"), &manifest)).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(header(&response, "docker-content-digest"), digest.to_string());
    assert_eq!(header(&response, "oci-tag"), "v1, v2");
    for reference in ["v1".to_string(), "v2".into(), digest.to_string()] {
        let response = r.get(&format!("/v2/a/manifests/{reference}")).await;
        assert_eq!(header(&response, "docker-content-digest"), digest.to_string());
        assert_eq!(response.bytes().await.unwrap(), manifest.to_string());
    }
}
