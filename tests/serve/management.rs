//! Workflow "management": deleting tags, manifests and blobs; read-only.

use reqwest::{Method, StatusCode};

use crate::registry::{Registry, refusal};

#[tokio::test]
async fn a_tag_goes_alone_and_a_manifest_takes_its_tags_along() {
    let r = Registry::new().await;
    let (manifest, digest) = r.push_image("a", "v1", "layer").await;
    r.send(r.put_manifest("a", "v2", &manifest)).await;
    r.send(r.put_manifest("a", "v3", &manifest)).await;
    assert_eq!(r.delete("/v2/a/manifests/v1").await.status(), StatusCode::ACCEPTED);
    assert_eq!(r.tags("a").await, ["v2", "v3"]);
    assert_eq!(refusal(r.delete("/v2/a/manifests/v1").await).await, (404, "MANIFEST_UNKNOWN".into()));
    let by_digest = format!("/v2/a/manifests/{digest}");
    assert_eq!(r.get(&by_digest).await.status(), StatusCode::OK);
    assert_eq!(r.delete(&by_digest).await.status(), StatusCode::ACCEPTED);
    assert_eq!(r.get(&by_digest).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(r.get("/v2/a/manifests/v2").await.status(), StatusCode::NOT_FOUND);
    assert!(r.tags("a").await.is_empty());
    assert_eq!(refusal(r.delete(&by_digest).await).await, (404, "MANIFEST_UNKNOWN".into()));
    // And it can come back.
    r.send(r.put_manifest("a", "v1", &manifest)).await;
    assert_eq!(r.get("/v2/a/manifests/v1").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_blob_goes_from_one_repository_and_its_file_with_the_last() {
    let r = Registry::new().await;
    let digest = r.push_blob("a", b"shared").await;
    r.push_blob("b", b"shared").await;
    let file = r.directory.path().join(digest.blob_path());
    assert_eq!(r.delete(&format!("/v2/a/blobs/{digest}")).await.status(), StatusCode::ACCEPTED);
    assert_eq!(refusal(r.get(&format!("/v2/a/blobs/{digest}")).await).await, (404, "BLOB_UNKNOWN".into()));
    assert_eq!(r.get(&format!("/v2/b/blobs/{digest}")).await.bytes().await.unwrap(), "shared");
    assert!(file.exists());
    assert_eq!(refusal(r.delete(&format!("/v2/a/blobs/{digest}")).await).await, (404, "BLOB_UNKNOWN".into()));
    assert_eq!(r.delete(&format!("/v2/b/blobs/{digest}")).await.status(), StatusCode::ACCEPTED);
    assert!(!file.exists());
    let mount = r.post(&format!("/v2/c/blobs/uploads/?mount={digest}")).await;
    assert_eq!(mount.status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn read_only_refuses_every_write_and_leaves_the_directory_alone() {
    let r = Registry::new().await;
    let (manifest, digest) = r.push_image("a", "v1", "layer").await;
    r.server.shutdown().await.unwrap();
    let files = |r: &tempfile::TempDir| {
        let mut names: Vec<_> = std::fs::read_dir(r.path()).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        let read =
            |p: &std::path::PathBuf| (p.clone(), std::fs::read(p).ok(), p.metadata().unwrap().modified().unwrap());
        names.iter().map(read).collect::<Vec<_>>()
    };
    let before = files(&r.directory);
    let r = Registry::open(r.directory, true).await;
    assert_eq!(r.get("/v2/a/manifests/v1").await.bytes().await.unwrap(), manifest.to_string());
    for request in [
        r.request(Method::POST, "/v2/a/blobs/uploads/"),
        r.request(Method::POST, &format!("/v2/b/blobs/uploads/?mount={digest}&from=a")),
        r.put_manifest("a", "v2", &manifest),
        r.request(Method::DELETE, "/v2/a/manifests/v1"),
        r.request(Method::DELETE, &format!("/v2/a/manifests/{digest}")),
        r.request(Method::DELETE, &format!("/v2/a/blobs/{digest}")),
        r.request(Method::PATCH, "/v2/a/blobs/uploads/0123456789abcdef0123456789abcdef"),
    ] {
        assert_eq!(refusal(r.send(request).await).await, (405, "UNSUPPORTED".into()));
    }
    r.server.shutdown().await.unwrap();
    assert_eq!(files(&r.directory), before);
}
