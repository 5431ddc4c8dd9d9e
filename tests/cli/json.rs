//! docs/json.md shows each schema as the program prints it: no member is undocumented, and none is made up.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::program::{Registry, mirror, unpack_samples};

/// The samples of docs/json.md by schema.
fn documented() -> BTreeMap<String, Value> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md")).unwrap();
    let samples = page.split("```json\n").skip(1).map(|rest| {
        let sample: Value = serde_json::from_str(rest.split("```").next().unwrap()).unwrap();
        (sample["schema"].as_str().unwrap().to_owned(), sample)
    });
    samples.collect()
}

/// An archive that leaves out what an earlier one held.
const DIFFERENTIAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fixtures/archives/part2-without-part1.tar");

/// An archive that was cut in an entry.
const TORN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fixtures/archives/resume-1-torn.tar");

/// Every member with its path, as in `images[].digest`. A tree has the same members on every level.
fn members(path: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(format!("{path}{name}"));
                match value {
                    Value::Array(nodes) if name == "children" => {
                        nodes.iter().for_each(|node| members(path, node, found));
                    }
                    _ => members(&format!("{path}{name}."), value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| members(&format!("{path}[]."), item, found)),
        _ => {}
    }
}

#[test]
fn the_documented_schemas_are_the_real_ones() {
    let home = unpack_samples("images");
    let home = home.path();
    std::fs::write(home.join("good.list"), "oci:images:edge/plain:v1\noci:images:edge/signed:v1\n").unwrap();
    std::fs::write(home.join("bad.list"), "oci:images:edge/plain:v1\noci:images:gone:v1\n").unwrap();
    std::fs::write(home.join("dest.csv"), "oci:images:edge/plain,oci:out:plain\n").unwrap();
    std::fs::write(home.join("batch.csv"), "name,artifact\na,oci:low:sync\nb,oci:low:gone\n").unwrap();
    std::fs::create_dir(home.join("damaged")).unwrap();
    std::fs::write(home.join("damaged/000001-a.tar"), "no archive").unwrap();
    let registry = Registry::start(home, "served");
    let mut real: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut note = |json: Value| {
        let schema = json["schema"].as_str().unwrap().to_owned();
        members("", &json, real.entry(schema).or_default());
    };
    note(registry.ready.clone());
    for arguments in [
        &["gather", "good.list", "oci:low:sync"][..],
        &["gather", "bad.list", "oci:low:bad"],
        &["serialize", "oci:low:sync", "sync.tar"],
        &["serialize", "oci:low:sync", "sync.tar", "--dry-run"],
        &["serialize", "oci:low:sync", "sync.tar", "oci:low:sync", "--dry-run"],
        &["gather", "good.list", "oci:low:sync", "--dry-run"],
        &["deserialize", "sync.tar", "oci:high:sync", "--dry-run"],
        &["deserialize", "sync.tar", "oci:high:sync"],
        &["scatter", "oci:high:sync", "all-prefix=dest.csv"],
        &["archive", "good.list", "short.tar", "sync"],
        &["archive", "bad.list", "short.tar", "sync", "oci:low:sync", "--dry-run", "--allow-missing"],
        &["unarchive", "short.tar", "all-prefix=dest.csv"],
        &["scatter", "oci:high:sync", "all-prefix=dest.csv", "--dry-run"],
        &["unarchive", "short.tar", "all-prefix=dest.csv", "--dry-run"],
        &["clone", "good.list", "all-prefix=dest.csv", "--dry-run"],
        &["clone", "good.list", "all-prefix=dest.csv"],
        &["clone", "bad.list", "all-prefix=dest.csv", "--continue-on-error"],
        &["serialize", "oci:low:gone", "sync.tar"],
        &["diff", "sync.tar", "oci:images:edge/signed:v1"],
        &["diff", DIFFERENTIAL],
        &["inspect", "sync.tar", "--tree"],
        &["inspect", "oci:images:edge/signed:v1"],
        &["serialize", "oci:low:sync", "differential.tar", "oci:images:edge/plain:v1"],
        &["inspect", "differential.tar"],
        &["inspect", DIFFERENTIAL],
        &["inspect", TORN],
        &["config", "show"],
        &["batch-serialize", "batch.csv", "batch", "--dry-run"],
        &["batch-serialize", "batch.csv", "batch"],
        &["batch-deserialize", "batch", "oci:high", "--dry-run"],
        &["batch-deserialize", "batch", "oci:high"],
        &["batch-deserialize", "damaged", "oci:high"],
        &["verify", "sync.tar", "--against", "oci:high:sync"],
        &["verify", DIFFERENTIAL, "--against", "oci:high:sync"],
        &["verify", TORN],
    ] {
        let output = mirror(home).args(["--output", "json"]).args(arguments).output().unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["exitCode"].as_i64(), output.status.code().map(i64::from), "{json}");
        note(json);
    }

    let mut documented = documented();
    // Needs a drive: scripts/test-tape has one.
    assert!(documented.remove("mirror/tape/v1").is_some());
    assert_eq!(documented.keys().collect::<Vec<_>>(), real.keys().collect::<Vec<_>>());
    // What these runs have no occasion to say.
    let occasional = |schema: &str, member: &str| {
        member.starts_with("leftOut.[]")
            || schema == "mirror/serialize/v1" && (member.starts_with("tapes") || member.starts_with("ranDry"))
            || schema == "mirror/inspect/v1"
                && ["unnamed.[].", "images.[].labels."].iter().any(|start| member.starts_with(start))
            || schema != "mirror/serialize/v1"
                && ["plan", "skipped", "archives.[].plan", "archives.[].skipped"].iter().any(|p| member.starts_with(p))
            || schema == "mirror/config/v1" && member.starts_with("settings.[].origin.")
            || ["mirror/scatter/v1", "mirror/unarchive/v1"].contains(&schema) && member.starts_with("failures.[]")
    };
    for (schema, real) in &real {
        let mut shown = BTreeSet::new();
        members("", &documented[schema], &mut shown);
        let missing: Vec<&String> = real.difference(&shown).collect();
        assert!(missing.is_empty(), "{schema}: docs/json.md lacks {missing:?}");
        let invented: Vec<&String> = shown.difference(real).filter(|member| !occasional(schema, member)).collect();
        assert!(invented.is_empty(), "{schema}: docs/json.md has {invented:?}, which the program does not print");
    }
}
