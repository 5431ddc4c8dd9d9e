//! Running the program for its report, and the lists and rules that runs are given.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::program::{mirror, process};

/// An index of several platforms, one of Docker's, single images that share layers, an artifact.
pub const IMAGES: [&str; 6] = [
    "edge/plain:v1",
    "edge/docker-list:v1",
    "edge/helm-chart:v1",
    "edge/signed:v1",
    "team-0/app-000:v1.0",
    "team-1/app-001:v1.1",
];

/// Runs with `--output json`, which must end with that code and print one object.
pub fn run(home: &Path, arguments: &[&str], code: i32) -> Value {
    let output = mirror(home).args(["--output", "json"]).args(arguments).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["exitCode"], code, "{json}");
    json
}

/// Runs with the bytes on standard input.
pub fn run_on(home: &Path, bytes: &[u8], arguments: &[&str], code: i32) -> Value {
    let mut child = process(home)
        .args(["--output", "json"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(bytes);
    let output = child.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{err}");
    serde_json::from_str(&out).unwrap()
}

/// Writes a list of the images behind a prefix.
pub fn write_list(home: &Path, name: &str, prefix: &str, images: &[&str]) {
    let lines: String = images.iter().map(|image| format!("{prefix}{image}\n")).collect();
    std::fs::write(home.join(name), lines).unwrap();
}

/// Image and digest of each line of a list, as a gather of it sees them.
pub fn digests(home: &Path, list: &str, prefix: &str) -> Vec<(String, String)> {
    let gathered = run(home, &["gather", "--dry-run", list, "oci:nowhere:check"], 0);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let images = gathered["images"].as_array().unwrap().iter();
    images.map(|i| (text(&i["source"]).replacen(prefix, "", 1), text(&i["digest"]))).collect()
}

/// Everything that images of the list lead to is at the destination and is what its digest says.
pub fn whole(home: &Path, list: &str) {
    let gathered = run(home, &["gather", "-r", list, "oci:whole:check"], 0);
    assert_eq!(gathered["failures"], Value::Array(Vec::new()));
}

/// Whether nothing was ever pushed to the registry that has this directory.
pub fn is_empty(directory: &Path) -> bool {
    std::fs::read_to_string(directory.join("index.json")).map_or(true, |index| !index.contains("\"digest\""))
}
