//! The whole road across the gap through the program: over two registries, with no registry at all, and
//! through a pipe. What arrives is compared by digest with what left.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use super::program::{Registry, mirror, process, unpack_samples};
use serde_json::Value;

/// An index of several platforms, one of Docker's, single images, an artifact.
const IMAGES: [&str; 5] =
    ["edge/plain:v1", "edge/docker-list:v1", "edge/helm-chart:v1", "edge/signed:v1", "team-0/app-000:v1.0"];

/// Runs with `--output json`, which must end with that code and print one object.
fn run(home: &Path, arguments: &[&str], code: i32) -> Value {
    let output = mirror(home).args(["--output", "json"]).args(arguments).assert().code(code).get_output().clone();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["exitCode"], code, "{json}");
    json
}

/// Writes a list of the images behind a prefix.
fn write_list(home: &Path, name: &str, prefix: &str) {
    let lines: String = IMAGES.iter().map(|image| format!("{prefix}{image}\n")).collect();
    std::fs::write(home.join(name), lines).unwrap();
}

/// Digest of each image of a gather, by its name without the prefix.
fn digests(report: &Value, prefix: &str) -> BTreeMap<String, String> {
    let images = report["images"].as_array().unwrap().iter();
    images
        .map(|image| {
            let name = image["source"].as_str().unwrap().strip_prefix(prefix).unwrap();
            (name.to_owned(), image["digest"].as_str().unwrap().to_owned())
        })
        .collect()
}

/// Gathers from `from`, carries the archive, scatters to `to`, and compares.
fn cross(home: &Path, from: &str, low: &str, high: &str, to: &str) {
    write_list(home, "sources.list", from);
    let gathered = run(home, &["gather", "-r", "sources.list", low], 0);
    assert_eq!((&gathered["schema"], &gathered["tagged"]), (&"mirror/gather/v1".into(), &true.into()));
    let serialized = run(home, &["serialize", "-r", low, "sync.tar"], 0);
    assert_eq!(serialized["digest"], gathered["digest"]);
    assert_eq!(serialized["bytes"], std::fs::metadata(home.join("sync.tar")).unwrap().len());
    let deserialized = run(home, &["deserialize", "sync.tar", high], 0);
    assert_eq!(deserialized["digest"], gathered["digest"]);
    std::fs::write(home.join("dest.csv"), format!("{from},{to}\n")).unwrap();
    let scattered = run(home, &["scatter", "-r", high, "all-prefix=dest.csv"], 0);
    assert_eq!(scattered["images"].as_array().unwrap().len(), IMAGES.len());
    assert_eq!(scattered["noDestination"], Value::Array(Vec::new()));

    write_list(home, "arrived.list", to);
    let arrived = run(home, &["gather", "arrived.list", "oci:arrived:check"], 0);
    assert_eq!(digests(&arrived, to), digests(&gathered, from));

    // Nothing is sent twice.
    for arguments in [
        &["gather", "-r", "sources.list", low][..],
        &["deserialize", "sync.tar", high],
        &["scatter", "-r", high, "all-prefix=dest.csv"],
    ] {
        let again = run(home, arguments, 0);
        assert_eq!(again["moved"]["blobsSent"], 0, "{arguments:?}: {again}");
    }
}

#[test]
fn from_registry_to_registry() {
    let home = unpack_samples("images");
    let low = Registry::start(home.path(), "images");
    let high = Registry::start(home.path(), "high");
    let (low, high) = (&low.address, &high.address);
    cross(
        home.path(),
        &format!("{low}/"),
        &format!("{low}/gather:sync-45"),
        &format!("{high}/scatter:sync-45"),
        &format!("{high}/from-low/"),
    );
}

#[test]
fn from_layout_to_layout() {
    let home = unpack_samples("images");
    cross(home.path(), "oci:images:", "oci:low:sync-45", "oci:high:sync-45", "oci:out:");
}

#[test]
fn through_a_pipe() {
    let home = unpack_samples("images");
    let home = home.path();
    write_list(home, "sources.list", "oci:images:");
    let gathered = run(home, &["gather", "sources.list", "oci:low:sync"], 0);
    run(home, &["serialize", "oci:low:sync", "sync.tar"], 0);
    let mut writer = process(home)
        .args(["serialize", "oci:low:sync", "-", "--output", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let reader = process(home)
        .args(["deserialize", "-", "oci:high:sync", "--output", "json"])
        .stdin(writer.stdout.take().unwrap())
        .output()
        .unwrap();
    let writer = writer.wait_with_output().unwrap();
    assert!(writer.status.success() && reader.status.success());
    // Standard output was taken, so the report is on standard error.
    let report = String::from_utf8(writer.stderr).unwrap();
    let written: Value = serde_json::from_str(report.lines().last().unwrap()).unwrap();
    let read: Value = serde_json::from_slice(&reader.stdout).unwrap();
    assert_eq!((&written["digest"], &read["digest"]), (&gathered["digest"], &gathered["digest"]));
    // A pipe gets the bytes of a file.
    let piped = mirror(home).args(["serialize", "oci:low:sync", "-"]).assert().success().get_output().stdout.clone();
    assert!(piped == std::fs::read(home.join("sync.tar")).unwrap());
}
