//! `mirror diff`: the lists of ace-dt come out the same from archives, layouts and registries; an image counts as held
//! only where all of it is.

use std::path::Path;

use super::program::{Registry, mirror, unpack_samples};
use serde_json::Value;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fixtures");

fn archive(name: &str) -> String {
    format!("{FIXTURES}/archives/{name}")
}

fn expected(name: &str) -> String {
    std::fs::read_to_string(format!("{FIXTURES}/diff/{name}")).unwrap()
}

/// Standard output of a run that succeeds.
fn printed(home: &Path, arguments: &[&str]) -> String {
    let output = mirror(home).arg("diff").args(arguments).assert().success().get_output().clone();
    String::from_utf8(output.stdout).unwrap()
}

fn report(home: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(home, &[arguments, &["--output", "json"]].concat())).unwrap()
}

/// Reads the archives of two gathers into one place.
fn bring(home: &Path, place: &str) {
    for part in ["part1", "part2-blocks"] {
        let tag = part.split('-').next().unwrap();
        mirror(home)
            .args(["deserialize", &archive(&format!("{part}.tar")), &format!("{place}:{tag}")])
            .assert()
            .success();
    }
}

#[test]
fn the_lists_are_those_of_ace_dt() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start(home.path(), "served");
    let in_registry = format!("{}/gather", registry.address);
    bring(home.path(), "oci:layout");
    bring(home.path(), &in_registry);
    let sources = [
        (archive("part2-blocks.tar"), archive("part1.tar")),
        ("oci:layout:part2".into(), "oci:layout:part1".into()),
        (format!("{in_registry}:part2"), format!("{in_registry}:part1")),
        ("oci:layout:part2".into(), format!("{in_registry}:part1")),
        (archive("part2-without-part1.tar"), archive("part1.tar")),
    ];
    for (source, existing) in &sources {
        for form in ["table", "csv", "json"] {
            let list = printed(home.path(), &[source, existing, "-o", form]);
            assert_eq!(list, expected(&format!("part2-minus-part1.{form}")), "{source} {form}");
        }
    }
    // Several lists at once, into files; the report stays on standard output.
    let (source, existing) = &sources[0];
    let told = printed(home.path(), &[source, existing, "-o", "csv=a.csv,table=a.txt", "-o", "json=a.json"]);
    assert!(told.contains("holds 3 images"), "{told}");
    for (file, form) in [("a.csv", "csv"), ("a.txt", "table"), ("a.json", "json")] {
        let list = std::fs::read_to_string(home.path().join(file)).unwrap();
        assert_eq!(list, expected(&format!("part2-minus-part1.{form}")));
    }
}

#[test]
fn images_of_one_digest_are_all_listed() {
    let home = tempfile::tempdir().unwrap();
    let mut wanted: Vec<Value> = serde_json::from_str(&expected("kinds-expanded.json")).unwrap();
    let plain = wanted.iter().position(|row| row["reference"].as_str().unwrap().ends_with("plain:latest")).unwrap();
    let mut twin = wanted[plain].clone();
    twin["reference"] = "reg.low.example/tiny/edge/plain:v1".into();
    wanted.insert(plain + 1, twin);
    for name in ["kinds.tar", "kinds.tar.gz", "kinds.tar.zst", "kinds-fallback.tar"] {
        let list = printed(home.path(), &[&archive(name), "--expand", "-o", "json"]);
        assert_eq!(serde_json::from_str::<Vec<Value>>(&list).unwrap(), wanted, "{name}");
    }
}

#[test]
fn a_gather_in_a_gather_is_taken_apart() {
    let home = unpack_samples("low");
    let gather = |list: &str, name: &str| {
        std::fs::write(home.path().join("list"), list).unwrap();
        mirror(home.path()).args(["gather", "list", name]).assert().success();
    };
    gather("oci:low:edge/plain:v1\noci:low:edge/helm-chart:v1\n", "oci:low:inner");
    gather("oci:low:inner\noci:low:edge/docker:v1\n", "oci:low:outer");
    let names = |arguments: &[&str]| -> Vec<String> {
        let report = report(home.path(), arguments);
        report["images"].as_array().unwrap().iter().map(|i| i["reference"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&["oci:low:outer"]), ["oci:low:edge/docker:v1", "oci:low:inner"]);
    let apart = ["oci:low:edge/docker:v1", "oci:low:edge/helm-chart:v1", "oci:low:edge/plain:v1"];
    assert_eq!(names(&["oci:low:outer", "--expand"]), apart);
    assert_eq!(names(&["oci:low:outer", "oci:low:edge/plain:v1", "--expand"]), apart[..2]);
    assert_eq!(names(&["oci:low:outer", "oci:low:outer", "--expand"]), [""; 0]);
}

#[test]
fn what_would_travel_is_counted_once() {
    let home = tempfile::tempdir().unwrap();
    let told = report(home.path(), &[&archive("part2-blocks.tar"), &archive("part1.tar")]);
    assert_eq!((&told["held"], &told["manifests"], &told["blobs"]), (&4.into(), &4.into(), &8.into()), "{told}");
    // The archive that was made for exactly this holds those blobs, and all manifests.
    let differential = report(home.path(), &[&archive("part2-without-part1.tar"), &archive("part1.tar")]);
    assert_eq!(differential["digests"], told["digests"]);
    assert_eq!(differential["nowhere"], Value::Array(Vec::new()));
    assert_eq!(told["blobBytes"], differential["blobBytes"]);
    // Alone, it lacks what it left out, and says so.
    let alone = report(home.path(), &[&archive("part2-without-part1.tar")]);
    assert_eq!((&alone["blobs"], alone["nowhere"].as_array().unwrap().len()), (&8.into(), 10), "{alone}");
    // A manifest alone is no image: all manifests of part1 are in the differential archive, its blobs are not.
    let back = report(home.path(), &[&archive("part1.tar"), &archive("part2-without-part1.tar")]);
    assert_eq!((&back["held"], back["images"].as_array().unwrap().len()), (&0.into(), 4), "{back}");
}

#[test]
fn standard_output_takes_one_result() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [&["-o", "csv", "-o", "json"][..], &["-o", "csv", "--output", "json"], &["-o", "xml"]] {
        mirror(home.path()).args(["diff", &archive("part1.tar")]).args(arguments).assert().code(2);
    }
    mirror(home.path()).args(["diff", "nowhere.tar"]).assert().code(1);
    mirror(home.path()).args(["diff", &archive("part1.tar"), "oci:nowhere"]).assert().code(1);
    mirror(home.path()).args(["diff", "part1"]).assert().code(2);
}

#[test]
fn diff_lists_the_blobs_that_serialize_takes_along() {
    let home = unpack_samples("low");
    let registry = Registry::start(home.path(), "low");
    let in_registry = |name: &str| format!("{}/{name}", registry.address);
    let pairs = [
        (in_registry("edge/signed:v1"), in_registry("edge/signed:v1")),
        (in_registry("edge/signed:v1"), "oci:low:edge/signed:v1".into()),
        ("oci:low:edge/signed:v1".into(), in_registry("edge/signed:v1")),
        ("oci:low:edge/signed:v1".into(), "oci:low".into()),
        (in_registry("team-0/app-004:v1.4"), in_registry("team-0/app-000:v1.0")),
    ];
    for (image, existing) in &pairs {
        for recursive in [&[][..], &["--recursive"]] {
            let told = report(home.path(), &[&[image.as_str(), existing], recursive].concat());
            let plan = [&["serialize", image, "x.tar", existing, "--dry-run", "--output", "json"], recursive].concat();
            let output = mirror(home.path()).args(&plan).assert().success().get_output().clone();
            let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
            let what = format!("{plan:?} {told}");
            let carried = told["blobs"].as_u64().unwrap() + told["manifestsCarried"].as_u64().unwrap();
            assert_eq!(plan["blobs"], carried, "{what}");
            let entries = || plan["plan"].as_array().unwrap().iter();
            let bytes: u64 = entries().map(|entry| entry["size"].as_u64().unwrap()).sum();
            let told_bytes = [&told["blobBytes"], &told["manifestBytesCarried"]].map(|n| n.as_u64().unwrap());
            assert_eq!(bytes, told_bytes.iter().sum::<u64>(), "{what}");
            let new = told["digests"].as_array().unwrap();
            assert!(new.iter().all(|digest| entries().any(|entry| entry["digest"] == *digest)), "{what}");
        }
    }
    // A signature may be newer than what was sent: it travels, though the registry has it now. A layout as a whole is
    // all that is in it.
    let lacking = |image: &str, existing: &str| report(home.path(), &[image, existing, "-r"])["blobs"].clone();
    assert_ne!(lacking(&pairs[0].0, &pairs[0].1), 0);
    assert_eq!(lacking(&pairs[3].0, &pairs[3].1), 0);
}
