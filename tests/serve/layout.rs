//! What stays in the directory: an OCI layout that other tools read, and a journal that a crash does
//! not harm; and layouts that other tools wrote.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use airgap_mirror::image::{Digest, media_type};
use airgap_mirror::serve::{Error, Options, spawn};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::registry::{Registry, digest_of, image, options};

fn index(directory: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(directory.join("index.json")).unwrap()).unwrap()
}

/// Names in `index.json`, with their digests; `""` for entries without a name.
fn names(directory: &Path) -> BTreeMap<String, String> {
    let name = |m: &Value| m["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap_or("").to_owned();
    let index = index(directory);
    index["manifests"].as_array().unwrap().iter().map(|m| (name(m), m["digest"].as_str().unwrap().to_owned())).collect()
}

#[tokio::test]
async fn index_json_follows_the_tags() {
    let r = Registry::new().await;
    let (_, first) = r.push_image("a/b", "v1", "one").await;
    let (_, second) = r.push_image("local", "v2", "two").await;
    let expected = BTreeMap::from([("a/b:v1".to_string(), first.to_string()), ("v2".into(), second.to_string())]);
    for _ in 0..200 {
        if r.directory.path().join("index.json").exists() && names(r.directory.path()) == expected {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(names(r.directory.path()), expected);
    r.delete("/v2/a/b/manifests/v1").await;
    r.server.shutdown().await.unwrap();
    assert_eq!(names(r.directory.path()), BTreeMap::from([("v2".to_string(), second.to_string())]));
    let layout = std::fs::read_to_string(r.directory.path().join("oci-layout")).unwrap();
    assert_eq!(layout, r#"{"imageLayoutVersion":"1.0.0"}"#);
}

#[test]
fn a_server_that_was_killed_has_kept_what_it_promised() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let first = runtime();
    let (directory, digest) = first.block_on(async {
        let r = Registry::new().await;
        let (_, digest) = r.push_image("a", "v1", "layer").await;
        r.push_image("a", "v2", "other").await;
        // The index on disk is now older than the journal.
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        r.push_image("a", "v1", "newer").await;
        assert_eq!(r.delete("/v2/a/manifests/v2").await.status(), StatusCode::ACCEPTED);
        (r.directory, digest)
    });
    first.shutdown_timeout(std::time::Duration::ZERO);
    // The last line of the journal is torn.
    let journal = directory.path().join("repositories.jsonl");
    std::fs::OpenOptions::new().append(true).open(journal).unwrap().write_all(b"{\"tag\":{\"reposi").unwrap();
    runtime().block_on(async {
        let mut opened = spawn(options(directory.path())).await;
        for _ in 0..100 {
            if !matches!(opened, Err(Error::Locked { .. })) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            opened = spawn(options(directory.path())).await;
        }
        opened.unwrap().shutdown().await.unwrap();
        let r = Registry::open(directory, false).await;
        assert_eq!(r.tags("a").await, ["v1"]);
        let newer = r.get("/v2/a/manifests/v1").await.bytes().await.unwrap();
        assert_ne!(Digest::sha256(&newer), digest);
        assert_eq!(r.get(&format!("/v2/a/manifests/{digest}")).await.status(), StatusCode::OK);
        // And it goes on behind the torn line.
        r.push_image("a", "v3", "after").await;
        let r = r.restart().await;
        assert_eq!(r.tags("a").await, ["v1", "v3"]);
    });
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let r = Registry::new().await;
    let (manifest, digest) = r.push_image("a", "v1", "layer").await;
    let mut signature = image(&r.push_blob("a", b"{}").await, &[]);
    signature["subject"] = json!({ "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": 1 });
    signature["artifactType"] = "application/signature".into();
    let path = digest_of(&signature).to_string();
    r.send(r.put_manifest("a", &path, &signature)).await;
    let before = r.json(&format!("/v2/a/referrers/{digest}")).await;
    let blob = r.push_blob("b", b"alone").await;
    let r = r.restart().await;
    assert_eq!(r.get("/v2/a/manifests/v1").await.bytes().await.unwrap(), manifest.to_string());
    assert_eq!(r.json(&format!("/v2/a/referrers/{digest}")).await, before);
    assert_eq!(r.head(&format!("/v2/b/blobs/{blob}")).await.status(), StatusCode::OK);
    assert_eq!(r.head(&format!("/v2/a/blobs/{blob}")).await.status(), StatusCode::NOT_FOUND);
    // Without the journal, the layout alone gives the images and what refers to them.
    r.server.shutdown().await.unwrap();
    std::fs::remove_file(r.directory.path().join("repositories.jsonl")).unwrap();
    let r = Registry::open(r.directory, false).await;
    assert_eq!(r.get("/v2/a/manifests/v1").await.bytes().await.unwrap(), manifest.to_string());
    assert_eq!(r.json(&format!("/v2/a/referrers/{digest}")).await, before);
}

#[tokio::test]
async fn two_servers_do_not_write_one_directory() {
    let r = Registry::new().await;
    let second = spawn(options(r.directory.path())).await;
    assert!(matches!(second, Err(Error::Locked { .. })));
}

/// Every root of the tiny corpus, as a layout that this server did not write.
fn low_layout() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let tar = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fixtures/low-layout.tar");
    assert!(Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(directory.path()).status().unwrap().success());
    directory
}

#[tokio::test]
async fn a_layout_that_another_tool_wrote_is_served_whole() {
    let directory = low_layout();
    let roots = index(directory.path())["manifests"].as_array().unwrap().clone();
    let r = Registry::open(directory, true).await;
    let (mut named, mut referring) = (0, 0);
    for root in &roots {
        let digest = root["digest"].as_str().unwrap();
        if let Some(name) = root["annotations"]["org.opencontainers.image.ref.name"].as_str() {
            let (repository, tag) = name.rsplit_once(':').unwrap();
            let bytes = r.get(&format!("/v2/{repository}/manifests/{tag}")).await.bytes().await.unwrap();
            assert_eq!(Digest::sha256(&bytes).to_string(), digest, "{name}");
            let manifest: Value = serde_json::from_slice(&bytes).unwrap();
            let layers = manifest["layers"].as_array().into_iter().flatten().filter(|l| l.get("urls").is_none());
            for blob in layers.chain(manifest.get("config")) {
                let blob = r.head(&format!("/v2/{repository}/blobs/{}", blob["digest"].as_str().unwrap())).await;
                assert_eq!(blob.status(), StatusCode::OK, "{name}");
            }
            for child in manifest["manifests"].as_array().into_iter().flatten() {
                let child = r.head(&format!("/v2/{repository}/manifests/{}", child["digest"].as_str().unwrap())).await;
                assert_eq!(child.status(), StatusCode::OK, "{name}");
            }
            named += 1;
        } else {
            // Where its subject is, and not in the repository for things without a name.
            assert_eq!(r.get(&format!("/v2/local/manifests/{digest}")).await.status(), StatusCode::NOT_FOUND);
            referring += 1;
        }
    }
    assert_eq!((named, referring), (31, 13));
}

#[tokio::test]
async fn names_without_a_repository_are_in_the_one_for_them_and_stay_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let blob = |content: &[u8]| {
        let path = directory.path().join(Digest::sha256(content).blob_path());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    blob(b"{}");
    let root = |n: usize, annotations: Value| {
        let mut manifest = image(&Digest::sha256(b"{}"), &[]);
        manifest["annotations"] = json!({ "n": n.to_string() });
        blob(manifest.to_string().as_bytes());
        json!({
            "mediaType": media_type::OCI_MANIFEST, "digest": digest_of(&manifest),
            "size": manifest.to_string().len(), "annotations": annotations,
        })
    };
    let name = |name: &str| json!({ "org.opencontainers.image.ref.name": name });
    let roots = [
        root(1, name("sync-45")),
        root(2, name("not a name!")),
        root(3, json!({})),
        root(4, json!({ "org.opencontainers.image.ref.name": "a/b:v1", "other": "kept" })),
    ];
    let index_json = json!({ "schemaVersion": 2, "manifests": roots }).to_string();
    std::fs::write(directory.path().join("index.json"), index_json).unwrap();
    std::fs::write(directory.path().join("notes.txt"), "mine").unwrap();
    let r = Registry::open(directory, false).await;
    assert_eq!(r.tags("local").await, ["sync-45"]);
    assert_eq!(r.tags("a/b").await, ["v1"]);
    for root in &roots[..3] {
        let path = format!("/v2/local/manifests/{}", root["digest"].as_str().unwrap());
        assert_eq!(r.get(&path).await.status(), StatusCode::OK);
    }
    let (_, pushed) = r.push_image("c", "v1", "new").await;
    let r = r.restart().await;
    assert_eq!(r.tags("local").await, ["sync-45"]);
    r.server.shutdown().await.unwrap();
    let after = index(r.directory.path());
    let after = after["manifests"].as_array().unwrap();
    assert_eq!(after.len(), 5);
    for root in &roots {
        let kept = after.iter().find(|m| m["digest"] == root["digest"]).unwrap();
        assert_eq!(kept.get("annotations").unwrap_or(&json!({})), &root["annotations"]);
    }
    assert_eq!(names(r.directory.path())["c:v1"], pushed.to_string());
    assert_eq!(std::fs::read_to_string(r.directory.path().join("notes.txt")).unwrap(), "mine");
}

#[tokio::test]
async fn what_another_tool_adds_between_two_runs_is_found() {
    let r = Registry::new().await;
    let (_, digest) = r.push_image("a", "v1", "layer").await;
    r.server.shutdown().await.unwrap();
    let mut index = index(r.directory.path());
    let mut entry = index["manifests"][0].clone();
    entry["annotations"]["org.opencontainers.image.ref.name"] = "b/c:v9".into();
    index["manifests"].as_array_mut().unwrap().push(entry);
    std::fs::write(r.directory.path().join("index.json"), index.to_string()).unwrap();
    let r = Registry::open(r.directory, false).await;
    assert_eq!(r.tags("a").await, ["v1"]);
    assert_eq!(r.tags("b/c").await, ["v9"]);
    let layer = Digest::sha256(b"layer");
    assert_eq!(r.head(&format!("/v2/b/c/blobs/{layer}")).await.status(), StatusCode::OK);
    assert_eq!(r.head(&format!("/v2/b/c/manifests/{digest}")).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn many_pushes_at_once_all_count() {
    let r = std::sync::Arc::new(Registry::new().await);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..60 {
        let r = r.clone();
        tasks.spawn(
            async move { r.push_image(&format!("many/{}", n % 7), &format!("v{n}"), &format!("{}", n % 5)).await },
        );
    }
    assert_eq!(tasks.join_all().await.len(), 60);
    let mut tags = 0;
    for n in 0..7 {
        tags += r.tags(&format!("many/{n}")).await.len();
    }
    assert_eq!(tags, 60);
    let unfinished = r.request(Method::GET, "/v2/").send().await.unwrap();
    assert_eq!(unfinished.status(), StatusCode::OK);
    let left = std::fs::read_dir(r.directory.path().join("uploads")).unwrap().count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_reader_does_not_serve_what_is_no_layout() {
    let directory = tempfile::tempdir().unwrap();
    for (path, said) in [("absent", "there is no such directory"), ("", "it has neither oci-layout nor index.json")] {
        let path = directory.path().join(path);
        let refused = spawn(Options { read_only: true, ..options(&path) }).await.unwrap_err().to_string();
        assert!(refused.ends_with(&format!("is not an OCI layout that can be served: {said}")), "{refused}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
