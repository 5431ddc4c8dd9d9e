//! inspect, diff and verify of what a docker-registry holds.

use std::fs;

use serde_json::Value;

use crate::programs::{are_here, mirror, output, run, work_directory};
use crate::registries::Registry;

#[test]
fn what_a_docker_registry_holds_is_seen_and_proved() {
    if !are_here(&["docker-registry", "python3"]) {
        return;
    }
    let work = work_directory();
    let work = work.path();
    let registry = Registry::docker(work, "registry");
    let loaded = registry.load(work, "tiny", "from/");
    let report = |arguments: &[&str]| -> Value {
        serde_json::from_str(&run(mirror(work).args(["--output", "json"]).args(arguments))).expect("a report")
    };
    let gathered = format!("{}/gather:sync", registry.address);
    let names = fs::read_to_string(&loaded.sources).expect("the loader wrote a list");
    // A signature that is asked for by its tag is an image, and in the registry a referrer too.
    let names: Vec<&str> = names.lines().filter(|name| !name.contains(":sha256-")).collect();
    fs::write(work.join("sync.list"), names.join("\n")).expect("it can be written");
    report(&["gather", "sync.list", &gathered, "-r"]);
    report(&["serialize", &gathered, "sync.tar", "-r"]);

    // The registry and the archive say the same of every image.
    let (there, archive) = (report(&["inspect", &gathered]), report(&["inspect", "sync.tar"]));
    assert_eq!(there["images"].as_array().map(Vec::len), Some(names.len()));
    let images = |report: &Value| report["images"].as_array().cloned().unwrap_or_default();
    for (a, b) in images(&there).iter().zip(images(&archive)) {
        assert_eq!(*a, b);
    }
    for member in ["sizeTotal", "sizeDeduplicated", "shared", "manifests"] {
        assert_eq!(there[member], archive[member], "{member}");
    }
    assert!(there["images"].as_array().is_some_and(|images| images.iter().any(|i| i["referrers"][0].is_object())));

    let told = report(&["diff", &gathered, "sync.tar", "-r"]);
    assert_eq!((&told["images"], &told["blobs"]), (&Value::Array(Vec::new()), &0.into()));
    let told = report(&["diff", &gathered, names[0]]);
    assert!(told["held"].as_u64() > Some(0) && told["blobs"].as_u64() > Some(0), "{told}");

    assert_eq!(report(&["verify", &gathered, "-r"])["whole"], true);
    assert_eq!(report(&["verify", "sync.tar", "--against", &gathered])["against"]["absent"], 0);
    // A byte of a layer turns on the registry's disk.
    let layer = there["images"][0]["digest"].as_str().expect("a digest");
    let tree = report(&["inspect", &format!("{}/gather@{layer}", registry.address), "--tree"]);
    let layer = find_layer(&tree["tree"]).expect("it has a layer");
    let (algorithm, hex) = layer.split_once(':').expect("a digest");
    let file = work.join("registry/docker/registry/v2/blobs").join(algorithm).join(&hex[..2]).join(hex).join("data");
    let mut bytes = fs::read(&file).expect("the registry's file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("it can be written");
    let told = output(mirror(work).args(["verify", &gathered, "--output", "json"]));
    assert_eq!(told.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&told.stdout).expect("a report");
    assert_eq!((&told["findings"][0]["kind"], &told["findings"][0]["digest"]), (&"damaged".into(), &layer.into()));
}

/// Digest of the first layer in a tree.
fn find_layer(nodes: &Value) -> Option<String> {
    nodes.as_array()?.iter().find_map(|node| {
        if node["role"] == "layer" { node["digest"].as_str().map(str::to_owned) } else { find_layer(&node["children"]) }
    })
}
