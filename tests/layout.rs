//! OCI layout directories: what is not ours stays, writers do not lose each other's names, and nothing
//! damaged or of another kind is taken for an image.

#[path = "support/low.rs"]
mod low;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use airgap_mirror::image::{Descriptor, Digest, Manifest, media_type};
use airgap_mirror::store::{BytesBlob, Name, Store, layout::Layout};
use low::low_layout;

fn manifest(marker: &str) -> Manifest {
    let json =
        format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[],"x":"{marker}"}}"#, media_type::OCI_INDEX);
    Manifest::new(media_type::OCI_INDEX, json)
}

fn blob(text: &'static str) -> BytesBlob {
    let descriptor = Descriptor::new("text/plain", Digest::sha256(text.as_bytes()), text.len() as u64);
    BytesBlob { descriptor, bytes: text.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_writers_lose_no_name_and_leave_the_rest_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    let other = r#"{"schemaVersion":2,"manifests":[{"mediaType":"x/y","digest":"md5:00","size":1,"odd":true}],"annotations":{"a":"b"}}"#;
    fs::write(dir.path().join("index.json"), other).unwrap();
    // Two stores of one directory know nothing of each other, as two processes do.
    let stores = [Arc::new(Layout::new(dir.path())), Arc::new(Layout::new(dir.path()))];
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..60 {
        let store = stores[n % 2].clone();
        tasks.spawn(async move { store.push_manifest(&manifest(&n.to_string()), Some(&format!("v{n}"))).await });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap().unwrap();
    }
    let store = Layout::new(dir.path());
    assert_eq!(store.tags().await.unwrap().len(), 60);
    let found = store.resolve(&Name::Tag("v17".into())).await.unwrap().unwrap();
    assert_eq!(found.digest, manifest("17").digest());
    let index: serde_json::Value = serde_json::from_slice(&fs::read(dir.path().join("index.json")).unwrap()).unwrap();
    assert_eq!(index["annotations"]["a"], "b");
    assert_eq!(index["manifests"][0]["odd"], true);
    assert_eq!(fs::read(dir.path().join("notes.txt")).unwrap(), b"mine");
    assert_eq!(fs::read(dir.path().join("oci-layout")).unwrap(), br#"{"imageLayoutVersion":"1.0.0"}"#);
    let leftovers =
        |d: &Path| fs::read_dir(d).unwrap().filter(|e| e.as_ref().unwrap().path().extension().is_none()).count();
    assert_eq!(leftovers(dir.path()), 2, "blobs and oci-layout, no temporary file");
}

#[tokio::test]
async fn a_name_moves_and_the_entry_of_the_old_one_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Layout::new(dir.path());
    store.push_manifest(&manifest("a"), Some("v1")).await.unwrap();
    store.push_manifest(&manifest("b"), Some("v1")).await.unwrap();
    assert_eq!(store.tags().await.unwrap(), ["v1"]);
    assert_eq!(store.resolve(&Name::Tag("v1".into())).await.unwrap().unwrap().digest, manifest("b").digest());
    // The only image is what `latest` finds; a second one makes it ambiguous.
    assert!(store.resolve(&Name::Tag("latest".into())).await.unwrap().is_some());
    store.push_manifest(&manifest("c"), Some("v2")).await.unwrap();
    assert!(store.resolve(&Name::Tag("latest".into())).await.unwrap().is_none());
}

#[tokio::test]
async fn names_with_a_repository_are_found_by_their_tag_where_it_is_clear() {
    let dir = low_layout();
    let store = Layout::new(&dir.path().join("low"));
    let by_tag = store.resolve(&Name::Tag("v1.3".into())).await.unwrap().unwrap();
    let by_name = store.resolve(&Name::Tag("team-1/app-003:v1.3".into())).await.unwrap().unwrap();
    assert_eq!(by_tag.digest, by_name.digest);
    assert!(store.resolve(&Name::Tag("v1".into())).await.unwrap().is_none());
}

#[tokio::test]
async fn a_wrong_blob_never_gets_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = Layout::new(dir.path());
    let good = blob("right");
    let bad = BytesBlob { descriptor: good.descriptor.clone(), bytes: "wrong".into() };
    let error = store.push_blob(&good.descriptor, &bad, None).await.unwrap_err();
    assert!(error.is_corruption());
    assert!(!store.has_blob(&good.descriptor).await.unwrap());
    let left: Vec<_> = fs::read_dir(dir.path().join("blobs/sha256")).unwrap().collect();
    assert!(left.is_empty());
    store.push_blob(&good.descriptor, &good, None).await.unwrap();
    assert!(store.has_blob(&good.descriptor).await.unwrap());
    fs::write(dir.path().join(good.descriptor.digest.blob_path()), "cut").unwrap();
    assert!(!store.has_blob(&good.descriptor).await.unwrap());
    assert!(store.open_blob(&good.descriptor).await.err().unwrap().is_corruption());
}

#[tokio::test]
async fn refuses_what_is_no_layout_of_version_1() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    let error = Layout::new(dir.path()).push_manifest(&manifest("a"), Some("v1")).await.unwrap_err().to_string();
    assert!(error.contains("2.0.0"), "{error}");
    let file = dir.path().join("archive.tar");
    fs::write(&file, "").unwrap();
    let error = Layout::new(&file).resolve(&Name::Tag("v1".into())).await.unwrap_err().to_string();
    assert!(error.contains("file"), "{error}");
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(dir.path().join("index.json"), "{").unwrap();
    let error = Layout::new(dir.path()).tags().await.unwrap_err().to_string();
    assert!(error.contains("index.json"), "{error}");
}
