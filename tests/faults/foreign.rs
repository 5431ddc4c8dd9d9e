//! Foreign layers, which the registry lacks, from the addresses that their descriptors name.

use std::process::Stdio;
use std::sync::Arc;

use airgap_mirror::image::Digest;
use serde_json::{Value, json};

use super::content::{Content, Repository};
use super::registry::{Auth, Fault, Instead, Options, PASSWORD, Registry, USER};
use super::trial::{Ended, mirror, write_auth};
use super::wire::{Answer, Head};

const LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// Holds the layer at `/layer`, and leads from `/moved` to it and from `/away` to where nothing is encrypted.
struct Outside(Vec<u8>);

impl Fault for Outside {
    fn before(&self, head: &Head, _: usize) -> Option<Instead> {
        let answer = match head.path() {
            "/layer" => Answer::new(200).body(self.0.clone()),
            "/wrong" => Answer::new(200).body("something else"),
            "/moved" => Answer::new(302).with("Location", "/layer"),
            "/away" => Answer::new(302).with("Location", "http://layers.invalid/layer"),
            // As if it wanted the password.
            _ => Answer::new(401).with("WWW-Authenticate", "Basic realm=\"x\""),
        };
        Some(Instead::Answer(answer))
    }
}

/// An image with that layer in the repository `a`, under the tag `v1`.
fn image(layer: &[u8], urls: &[String]) -> Content {
    let mut content = Content::default();
    let mut into = Repository::default();
    let config = b"{}".to_vec();
    let describe = |media_type: &str, bytes: &[u8]| -> Value {
        json!({"mediaType": media_type, "digest": Digest::sha256(bytes).to_string(), "size": bytes.len()})
    };
    let mut foreign = describe(LAYER, layer);
    foreign["urls"] = json!(urls);
    let media_type = "application/vnd.docker.distribution.manifest.v2+json";
    let config_type = "application/vnd.docker.container.image.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": describe(config_type, &config),
        "layers": [foreign]})
    .to_string();
    let digest = Digest::sha256(manifest.as_bytes()).to_string();
    into.blobs.insert(Digest::sha256(&config).to_string());
    content.blobs.insert(Digest::sha256(&config).to_string(), config.into());
    into.manifests.insert(digest.clone(), (media_type.into(), manifest.into()));
    into.tags.insert("v1".into(), digest);
    content.repositories.insert("a".into(), into);
    content
}

/// Gathers the image into a layout from a registry that wants a password: how that ended, and the digests that arrived.
fn gather(layer: &[u8], paths: &[&str], more: &[&str]) -> (Ended, Vec<String>, Registry) {
    let work = tempfile::tempdir().expect("a temporary directory");
    let outside = Registry::start(Content::default(), Options::default());
    outside.inject(Arc::new(Outside(layer.to_vec())));
    let address = |path: &&str| match path.strip_prefix('/') {
        Some(_) => format!("http://{}{path}", outside.address()),
        None => path.to_string(),
    };
    let urls: Vec<String> = paths.iter().map(address).collect();
    let registry = Registry::start(image(layer, &urls), Options { auth: Auth::Basic, ..Options::default() });
    let auth = work.path().join("auth.json");
    // The password is good for both, were it sent.
    write_auth(&auth, &[registry.address(), outside.address()]);
    std::fs::write(work.path().join("images.list"), format!("{}/a:v1\n", registry.address())).expect("written");
    let arguments = [&["gather", "images.list", "oci:layout:x"], more].concat();
    let ended = mirror(&arguments, work.path(), &auth, Stdio::null());
    let blobs = std::fs::read_dir(work.path().join("layout/blobs/sha256")).into_iter().flatten().flatten();
    let arrived = blobs.map(|file| format!("sha256:{}", file.file_name().to_string_lossy())).collect();
    for asked in outside.seen() {
        assert!(asked.head.header("authorization").is_none(), "{USER}:{PASSWORD} went outside: {:?}", asked.head);
    }
    (ended, arrived, outside)
}

#[test]
fn a_foreign_layer_comes_from_the_first_of_its_addresses_that_has_it() {
    let layer = vec![7; 700_000];
    let digest = Digest::sha256(&layer).to_string();
    let paths = ["http://layers.invalid/layer", "/gone", "/wrong", "/away", "/moved"];
    let (ended, arrived, _) = gather(&layer, &paths, &["--foreign-layers"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(arrived.contains(&digest), "{arrived:?}");

    // Nobody is asked unless the user wants it.
    let (ended, arrived, outside) = gather(&layer, &["/layer"], &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(!arrived.contains(&digest) && outside.seen().is_empty(), "{arrived:?}");
}

#[test]
fn a_foreign_layer_that_is_nowhere_is_an_error_with_all_places() {
    let (ended, _, _) = gather(b"layer", &["http://layers.invalid/layer", "/gone", "/wrong"], &["--foreign-layers"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for said in ["HTTP 404", "http://layers.invalid/layer (only https is followed)", "HTTP 401", "wrong size"] {
        assert!(ended.stderr.contains(said), "{said:?} is not said: {}", ended.stderr);
    }
}
