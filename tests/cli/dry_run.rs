//! `--dry-run` on every command that writes: it says what the run then does, and changes nothing.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::program::{Registry, mirror, unpack_samples};

/// Runs it to a good end; what it printed as JSON.
fn run(home: &Path, arguments: &[&str]) -> Value {
    let output = mirror(home).args(["--output", "json"]).args(arguments).output().unwrap();
    let (said, text) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    serde_json::from_str(&text).unwrap()
}

/// Every file below, with its size; but for what a registry writes in its own time: its journal, and the index behind it,
/// under a name with a dot at first.
fn files(directory: &Path) -> BTreeSet<(String, u64)> {
    let mut found = BTreeSet::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
                continue;
            }
            let name = entry.file_name().into_string().unwrap();
            if !["index.json", "repositories.jsonl"].contains(&name.as_str()) && !name.starts_with('.') {
                found.insert((entry.path().display().to_string(), entry.metadata().unwrap().len()));
            }
        }
    }
    found
}

fn entries<'a>(report: &'a Value, member: &str) -> &'a [Value] {
    report[member].as_array().unwrap_or_else(|| panic!("no {member} in {report}"))
}

/// Sizes of what a plan sends, without what is mounted.
fn bytes_to_send(report: &Value) -> u64 {
    let blobs = entries(report, "plan").iter().filter(|entry| {
        entry["mountedFrom"].is_null() && !entry["mediaType"].as_str().unwrap().contains("manifest.v1")
    });
    let blobs = blobs.filter(|entry| !entry["mediaType"].as_str().unwrap().contains("index.v1"));
    blobs.map(|entry| entry["size"].as_u64().unwrap()).sum()
}

/// The dry run of a command says what the run then moves; a dry run after that finds nothing to send.
fn tells_what_is_done(home: &Path, arguments: &[&str]) -> Value {
    let dry = [arguments, &["--dry-run"]].concat();
    let before = files(home);
    let planned = run(home, &dry);
    let changed: Vec<_> = files(home).symmetric_difference(&before).cloned().collect();
    assert!(changed.is_empty(), "{arguments:?}: a dry run changed {changed:?}");
    assert!(!entries(&planned, "plan").is_empty());
    assert_eq!(planned["moved"]["bytesSent"].as_u64(), Some(bytes_to_send(&planned)), "{arguments:?}");
    let done = run(home, arguments);
    assert!(done.get("plan").is_none() && done.get("skipped").is_none());
    assert_eq!(planned["moved"], done["moved"], "{arguments:?}");
    assert_eq!(planned["images"], done["images"]);
    assert_eq!(planned["digest"], done["digest"]);
    let again = run(home, &dry);
    assert!(entries(&again, "plan").is_empty(), "{again}");
    assert!(!entries(&again, "skipped").is_empty(), "{again}");
    planned
}

#[test]
fn every_command_that_writes_to_a_registry_says_beforehand_what_it_does() {
    let home = unpack_samples("images");
    let home = home.path();
    let sources = "oci:images:edge/plain:v1\noci:images:edge/signed:v1\noci:images:team-0/app-000:v1.0\n";
    std::fs::write(home.join("sources.list"), sources).unwrap();
    let (low, high) = (Registry::start(home, "low"), Registry::start(home, "high"));
    let rules = |name: &str| {
        let rules = format!("oci:images:,{0}/{name}/\noci:images:,{0}/{name}-too/\n", high.address);
        std::fs::write(home.join(format!("{name}.csv")), rules).unwrap();
        format!("all-prefix={name}.csv")
    };
    let gathered = format!("{}/gather:x", low.address);
    tells_what_is_done(home, &["gather", "sources.list", &gathered]);
    tells_what_is_done(home, &["clone", "sources.list", &rules("cloned")]);
    run(home, &["serialize", &gathered, "x.tar"]);
    let scattered = format!("{}/scatter:x", high.address);
    let planned = tells_what_is_done(home, &["deserialize", "x.tar", &scattered]);
    let archive = std::fs::read(home.join("x.tar")).unwrap();
    for entry in entries(&planned, "plan") {
        let (start, size) = (entry["offset"].as_u64().unwrap() as usize, entry["size"].as_u64().unwrap() as usize);
        let digest = airgap_mirror::image::Digest::sha256(&archive[start..start + size]);
        assert_eq!(entry["digest"], digest.to_string());
    }
    // Under another name only the tag is new.
    let renamed = run(home, &["deserialize", "x.tar", &format!("{}/scatter:y", high.address), "--dry-run"]);
    assert_eq!((entries(&renamed, "plan").len(), &renamed["plan"][0]["tag"]), (1, &Value::from("y")));
    assert!(renamed["skipped"][0]["why"].as_str().unwrap().ends_with("but for its tag"), "{renamed}");
    let planned = tells_what_is_done(home, &["scatter", &scattered, &rules("scattered")]);
    assert!(entries(&planned, "plan").iter().any(|entry| entry["mountedFrom"].is_string()), "{planned}");
    tells_what_is_done(home, &["unarchive", "x.tar", &rules("unarchived")]);
}

#[test]
fn a_pipe_tells_the_same_as_the_file() {
    let home = unpack_samples("images");
    let home = home.path();
    std::fs::write(home.join("sources.list"), "oci:images:edge/plain:v1\noci:images:team-0/app-000:v1.0\n").unwrap();
    std::fs::write(home.join("dest.csv"), "oci:images:,oci:high:\n").unwrap();
    run(home, &["archive", "sources.list", "x.tar", "x"]);
    for arguments in [&["deserialize", "SOURCE", "oci:high:x"][..], &["unarchive", "SOURCE", "all-prefix=dest.csv"]] {
        let plan = |source: &str| {
            let arguments = arguments.iter().map(|a| if *a == "SOURCE" { source } else { a });
            let mut command = mirror(home);
            command.args(["--output", "json"]);
            command.args(arguments).arg("--dry-run").pipe_stdin(home.join("x.tar")).unwrap();
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            (report["plan"].clone(), report["moved"].clone())
        };
        assert_eq!(plan("-"), plan("x.tar"));
        assert!(!home.join("high").exists());
    }
}

#[test]
fn a_blob_that_the_archive_lacks_is_missed_by_a_dry_run_too() {
    let home = unpack_samples("images");
    let home = home.path();
    std::fs::write(home.join("sources.list"), "oci:images:edge/plain:v1\n").unwrap();
    std::fs::write(home.join("dest.csv"), "oci:images:,oci:high:\n").unwrap();
    let report = run(home, &["gather", "sources.list", "oci:low:x", "--dry-run"]);
    run(home, &["gather", "sources.list", "oci:low:x"]);
    let layer = entries(&report, "plan").iter().find(|e| e["mediaType"].as_str().unwrap().contains("layer")).unwrap();
    let hex = layer["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    std::fs::remove_file(home.join("low/blobs/sha256").join(hex)).unwrap();
    let output = mirror(home).args(["scatter", "oci:low:x", "all-prefix=dest.csv", "--dry-run"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(hex));
}

#[test]
fn a_batch_is_planned_archive_by_archive() {
    let home = unpack_samples("images");
    let home = home.path();
    let list =
        "name,artifact\na,oci:images:edge/plain:v1\nb,oci:images:edge/plain-copy:v1\nc,oci:images:edge/signed:v1\n";
    std::fs::write(home.join("batch.csv"), list).unwrap();
    let planned = run(home, &["batch-serialize", "batch.csv", "sync", "--dry-run"]);
    let written = run(home, &["batch-serialize", "batch.csv", "sync"]);
    for (planned, written) in entries(&planned, "archives").iter().zip(entries(&written, "archives")) {
        assert_eq!(entries(planned, "plan").len() as u64, written["blobs"].as_u64().unwrap());
        assert_eq!(planned["bytes"], written["bytes"]);
        assert!(written.get("plan").is_none());
    }
    let skipped = entries(&planned["archives"][1], "skipped");
    assert!(skipped.iter().all(|s| s["why"] == "in sync/000001-a.tar") && !skipped.is_empty(), "{planned}");

    // The second archive relies on the first, which is not there yet either.
    let planned = run(home, &["batch-deserialize", "sync", "oci:high", "--dry-run"]);
    assert!(!home.join("high").exists());
    let read = run(home, &["batch-deserialize", "sync", "oci:high"]);
    assert_eq!(planned["moved"], read["moved"]);
    let sent: Vec<usize> = entries(&planned, "archives").iter().map(|a| entries(a, "plan").len()).collect();
    assert!(sent[0] > sent[1] && sent[1] > 0, "{sent:?}");
}
