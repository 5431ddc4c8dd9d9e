//! A cache of BuildKit: an index that names blobs, which are no manifests and may be larger than any.

use std::fs;
use std::path::Path;

use airgap_mirror::image::Digest;
use serde_json::{Value, json};

use super::program::{Registry, mirror};

/// Writes a blob into the layout, and gives its descriptor.
fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let digest = Digest::sha256(bytes);
    fs::write(layout.join(digest.blob_path()), bytes).unwrap();
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
}

/// A layout with a cache named `build/cache:v1`, whose larger layer is larger than any manifest.
fn layout(layout: &Path) {
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    let children = [
        blob(layout, layer, b"a layer"),
        blob(layout, layer, &vec![7; (32 << 20) + 1]),
        blob(layout, "application/vnd.buildkit.cacheconfig.v0", br#"{"layers":[],"records":[]}"#),
    ];
    let index = "application/vnd.oci.image.index.v1+json";
    let cache = json!({"schemaVersion": 2, "mediaType": index, "manifests": children});
    let mut cache = blob(layout, index, &serde_json::to_vec(&cache).unwrap());
    cache["annotations"] = json!({"org.opencontainers.image.ref.name": "build/cache:v1"});
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let listed = json!({"schemaVersion": 2, "manifests": [cache]});
    fs::write(layout.join("index.json"), listed.to_string()).unwrap();
}

#[test]
fn a_cache_crosses_as_images_do() {
    let home = tempfile::tempdir().unwrap();
    layout(&home.path().join("low"));
    let registry = Registry::start(home.path(), "low");
    let there = format!("{}/build/cache:v1", registry.address);
    let report = |arguments: &[&str]| -> Value {
        let output = mirror(home.path()).args(["--output", "json"]).args(arguments).assert().success();
        serde_json::from_slice(&output.get_output().stdout).unwrap()
    };
    report(&["serialize", "oci:low:build/cache:v1", "layout.tar"]);
    report(&["serialize", &there, "registry.tar"]);
    let (a, b) =
        (fs::read(home.path().join("layout.tar")).unwrap(), fs::read(home.path().join("registry.tar")).unwrap());
    // But for the name of the image, which is that of its place.
    assert_eq!(a.len(), b.len());
    for place in ["oci:low:build/cache:v1", &there, "layout.tar"] {
        let told = report(&["inspect", place]);
        assert_eq!(
            (&told["manifests"], &told["blobs"], &told["missing"]),
            (&1.into(), &3.into(), &json!([])),
            "{place}"
        );
        assert_eq!(report(&["verify", place])["blobs"], 3, "{place}");
        assert_eq!(report(&["diff", place, &there])["blobs"], 0, "{place}");
    }
    report(&["deserialize", "registry.tar", "oci:high:cache"]);
    report(&["verify", "layout.tar", "--against", "oci:high:cache"]);
    // What the other side has need not travel.
    let second = report(&["serialize", &there, "second.tar", "oci:high:cache"]);
    assert_eq!((&second["blobsSkipped"], &second["blobs"]), (&3.into(), &1.into()), "{second}");
}
