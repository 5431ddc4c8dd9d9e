//! What each verb asks of a registry, counted on the wire between the program and `mirror serve`, and the limits and
//! proxies that it keeps to. Invariant: a limit here is what the work cannot do without, and a few questions more while
//! the program learns what is there.

mod limits;
mod middle;
mod pace;
mod proxies;

use std::path::Path;

use airgap_mirror::image::Digest;
use airgap_mirror::serve::{self, Server};
use assert_cmd::Command;
use middle::{Asked, Middle};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Images, and blobs of each that no other has.
const IMAGES: usize = 120;
const BLOBS: usize = 3;

/// Keeps bytes in the layout `images` and gives their descriptor.
fn keep(home: &Path, media_type: &str, bytes: Vec<u8>) -> Value {
    let digest = Digest::sha256(&bytes);
    std::fs::write(home.join("images/blobs/sha256").join(digest.hex()), &bytes).unwrap();
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
}

/// An image of those layers, by that name.
fn image(home: &Path, name: &str, layers: Vec<Vec<u8>>) -> Value {
    let config = keep(home, "application/vnd.oci.image.config.v1+json", json!({"author": name}).to_string().into());
    let layer = |layer| keep(home, "application/vnd.oci.image.layer.v1.tar", layer);
    let layers: Vec<_> = layers.into_iter().map(layer).collect();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
    let mut root = keep(home, media_type, manifest.to_string().into());
    root["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    root
}

/// Gives an image a manifest of 128 KiB.
fn widen(home: &Path, root: &mut Value) {
    let blobs = home.join("images/blobs/sha256");
    let hex = root["digest"].as_str().unwrap().trim_start_matches("sha256:");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(blobs.join(hex)).unwrap()).unwrap();
    manifest["annotations"] = json!({"filler": "x".repeat(128 << 10)});
    let kept = keep(home, manifest["mediaType"].as_str().unwrap(), manifest.to_string().into());
    root["digest"] = kept["digest"].clone();
    root["size"] = kept["size"].clone();
}

/// A home with a layout of small images, which `images.list` names, a large one, which `large.list` does, and two with large
/// manifests, which `wide.list` does.
fn home() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    std::fs::create_dir_all(home.join("images/blobs/sha256")).unwrap();
    // Two images a repository.
    let names: Vec<String> = (0..IMAGES).map(|image| format!("app-{}:v{}", image / 2, image % 2)).collect();
    let layers = |name: &str| (1..BLOBS).map(|n| format!("layer {n} of {name}").into()).collect();
    let mut roots: Vec<Value> = names.iter().map(|name| image(home, name, layers(name))).collect();
    roots.push(image(home, "large:v0", vec![vec![7; 1 << 20]]));
    roots.extend(["wide:v0", "wide:v1"].map(|name| image(home, name, Vec::new())));
    for root in roots.iter_mut().rev().take(2) {
        widen(home, root);
    }
    let index = json!({"schemaVersion": 2, "manifests": roots}).to_string();
    std::fs::write(home.join("images/index.json"), index).unwrap();
    std::fs::write(home.join("images/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let list: String = names.iter().map(|name| format!("oci:images:{name}\n")).collect();
    std::fs::write(home.join("images.list"), list).unwrap();
    std::fs::write(home.join("large.list"), "oci:images:large:v0\n").unwrap();
    std::fs::write(home.join("wide.list"), "oci:images:wide:v0\noci:images:wide:v1\n").unwrap();
    directory
}

/// The program, in an empty environment as far as its configuration and its credentials go.
fn mirror(home: &Path) -> Command {
    let mut command = Command::cargo_bin("mirror").unwrap();
    let home_of = ["HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"];
    command.current_dir(home).envs(home_of.map(|variable| (variable, home)));
    for variable in ["MIRROR_CONFIG", "REGISTRY_AUTH_FILE", "http_proxy", "https_proxy", "no_proxy", "all_proxy"] {
        command.env_remove(variable).env_remove(variable.to_uppercase());
    }
    command
}

fn run(home: &Path, arguments: &[&str]) {
    mirror(home).arg("--quiet").args(arguments).assert().success();
}

async fn registry(home: &Path) -> Server {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listen = ([127, 0, 0, 1], 0).into();
    let options = serve::Options::new(home.join("registry"), listen);
    serve::spawn(options).await.unwrap()
}

/// Requests for things of that kind, for each of `count`. Nothing else is asked for, and nothing is sent in pieces.
fn per(asked: &[Asked], kind: &str, count: usize) -> f64 {
    let stray = |a: &&Asked| !a.target.contains("/blobs/") && !a.target.contains("/manifests/") || a.method == "PATCH";
    let stray = asked.iter().find(stray);
    assert!(stray.is_none(), "{stray:?}");
    asked.iter().filter(|a| a.target.contains(kind)).count() as f64 / count as f64
}

fn at_most(what: &str, found: f64, limit: f64) {
    assert!(found <= limit, "{found:.2} requests {what}, and at most {limit} are needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_takes_two_requests_a_mount_one_and_an_image_three() {
    let home = home();
    let home = home.path();
    let registry = registry(home).await;
    let middle = Middle::before(&registry.address().to_string());
    let to = |name: &str| format!("{}/{name}", middle.address);

    run(home, &["gather", "images.list", &to("low/gathered:x")]);
    let asked = middle.take();
    at_most("an uploaded blob", per(&asked, "/blobs/", IMAGES * BLOBS), 2.1);
    at_most("a manifest sent", per(&asked, "/manifests/", IMAGES), 2.3);

    run(home, &["serialize", &to("low/gathered:x"), "x.tar"]);
    let asked = middle.take();
    at_most("a blob read", per(&asked, "/blobs/", IMAGES * BLOBS), 1.0);
    at_most("a manifest read", per(&asked, "/manifests/", IMAGES), 1.05);

    run(home, &["deserialize", "x.tar", &to("high/gathered:x")]);
    let asked = middle.take();
    at_most("a blob sent from an archive", per(&asked, "/blobs/", IMAGES * BLOBS), 2.1);
    at_most("a manifest sent from an archive", per(&asked, "/manifests/", IMAGES), 2.3);

    std::fs::write(home.join("rules.csv"), format!("oci:images:,{}/\n", to("apps"))).unwrap();
    run(home, &["scatter", &to("high/gathered:x"), "all-prefix=rules.csv"]);
    let asked = middle.take();
    at_most("a mounted blob", per(&asked, "/blobs/", IMAGES * BLOBS), 1.1);
    at_most("an image scattered", per(&asked, "/manifests/", IMAGES), 3.5);

    let list = std::fs::read_to_string(home.join("images.list")).unwrap();
    std::fs::write(home.join("apps.list"), list.replace("oci:images:", &to("apps/"))).unwrap();
    for (time, blobs, manifests) in [("a first", 1.1, 3.3), ("a second", 0.0, 1.05)] {
        run(home, &["gather", "apps.list", &to("within/gathered:x")]);
        let asked = middle.take();
        at_most(&format!("a mounted blob, {time} time"), per(&asked, "/blobs/", IMAGES * BLOBS), blobs);
        at_most(&format!("an image gathered {time} time"), per(&asked, "/manifests/", IMAGES), manifests);
    }
}
