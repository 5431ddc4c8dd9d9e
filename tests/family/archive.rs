//! `archive` writes what gather and serialize write, byte for byte, with nothing else on the disk.

use std::path::Path;

use serde_json::Value;

use super::program::{Registry, mirror, unpack_samples};
use super::run::{IMAGES, run, write_list};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fixtures");

fn bytes(home: &Path, name: &str) -> Vec<u8> {
    std::fs::read(home.join(name)).unwrap()
}

fn tar(home: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = std::process::Command::new("tar").args(arguments).current_dir(home).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// The blobs of an archive: name and content.
fn entries(home: &Path, archive: &str) -> Vec<(String, Vec<u8>)> {
    let names = String::from_utf8(tar(home, &["-tf", archive])).unwrap();
    let files = names.lines().filter(|name| name.starts_with("blobs/sha256/") && name.len() > 13);
    files.map(|name| (name.to_owned(), tar(home, &["-xOf", archive, name]))).collect()
}

#[test]
fn is_the_archive_of_the_field_from_the_same_list() {
    let home = unpack_samples("images");
    let home = home.path();
    let index = String::from_utf8(bytes(home, "images/index.json")).unwrap();
    let mut index: Value = serde_json::from_str(&index).unwrap();
    for image in index["manifests"].as_array_mut().unwrap() {
        if let Some(name) = image.pointer_mut("/annotations/org.opencontainers.image.ref.name") {
            *name = format!("tiny/{}", name.as_str().unwrap()).into();
        }
    }
    std::fs::write(home.join("images/index.json"), index.to_string()).unwrap();
    let low = Registry::start(home, "images");
    let config =
        format!("registryConfig:\n  registries:\n    reg.low.example:\n      endpoints: [http://{}]\n", low.address);
    std::fs::write(home.join("mirror.yaml"), config).unwrap();
    let list = format!("{FIXTURES}/lists/part1.list");
    let report = run(home, &["archive", &list, "ours.tar", "sync-9"], 0);
    assert_eq!((&report["schema"], &report["reference"]), (&"mirror/archive/v1".into(), &"sync-9".into()));

    let theirs = std::fs::read(format!("{FIXTURES}/archives/archive-part1.tar")).unwrap();
    std::fs::write(home.join("theirs.tar"), &theirs).unwrap();
    // The gather index names the version, so its digest differs. From the blob after it to the last one all is equal.
    let (mine, other) = (entries(home, "ours.tar"), entries(home, "theirs.tar"));
    assert_eq!(mine[1].0, other[1].0);
    let middle = |archive: &[u8]| {
        let find = |name: &str| archive.windows(name.len()).rposition(|w| w == name.as_bytes()).unwrap();
        archive[find(&mine[1].0)..find("index.json\0")].to_vec()
    };
    assert!(middle(&bytes(home, "ours.tar")) == middle(&theirs));
    let ours = |text: &[u8]| String::from_utf8_lossy(text).replace("(devel)", "mirror1");
    assert_eq!(ours(&mine[0].1), ours(&other[0].1));
    let indexes =
        |archive: &str, root: &str| ours(&tar(home, &["-xOf", archive, "index.json"])).replace(&root[13..], "");
    assert_eq!(indexes("ours.tar", &mine[0].0), indexes("theirs.tar", &other[0].0));
    assert_eq!(report["bytes"], theirs.len());
}

/// Gathers and serializes with the same flags, and compares.
fn same_as_the_longer_road(home: &Path, list: &str, gather: &[&str], both: &[&str]) {
    let low: &[&str] = &["oci:longer:sync"];
    let gathered = run(home, &[&["gather", list], low, gather, both].concat(), 0);
    let recursive: Vec<&str> = both.iter().copied().filter(|flag| *flag == "-r").collect();
    run(home, &[&["serialize"], low, &["longer.tar", "--force"], &recursive[..]].concat(), 0);
    let archived = run(home, &[&["archive", list, "short.tar", "sync", "--force"], gather, both].concat(), 0);
    assert_eq!(archived["digest"], gathered["digest"]);
    assert_eq!(
        (&archived["sizeTotal"], &archived["sizeDeduplicated"]),
        (&gathered["sizeTotal"], &gathered["sizeDeduplicated"])
    );
    assert!(bytes(home, "short.tar") == bytes(home, "longer.tar"), "{gather:?} {both:?}");
    let piped = mirror(home).args([&["archive", list, "-", "--reference", "sync"], gather, both].concat()).output();
    assert!(piped.unwrap().stdout == bytes(home, "longer.tar"), "{gather:?} {both:?}");
}

#[test]
fn is_what_gather_and_serialize_make() {
    let home = unpack_samples("images");
    let home = home.path();
    let low = Registry::start(home, "images");
    write_list(home, "layout.list", "oci:images:", &IMAGES);
    write_list(home, "registry.list", &format!("{}/", low.address), &IMAGES);
    for list in ["layout.list", "registry.list"] {
        same_as_the_longer_road(home, list, &[], &[]);
        same_as_the_longer_road(home, list, &["-p", "linux/amd64", "-a", "ticket=A-17"], &[]);
        same_as_the_longer_road(home, list, &["--index-fallback"], &["-r"]);
    }
    // Nothing but the archives was written.
    let mut names: Vec<_> = std::fs::read_dir(home).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["images", "layout.list", "longer", "longer.tar", "registry.list", "short.tar"]);
}

#[test]
fn a_dry_run_tells_the_same_and_writes_nothing() {
    let home = unpack_samples("images");
    let home = home.path();
    write_list(home, "sources.list", "oci:images:", &IMAGES);
    let planned = run(home, &["archive", "sources.list", "sync.tar", "sync", "--dry-run"], 0);
    assert!(!home.join("sync.tar").exists());
    let written = run(home, &["archive", "sources.list", "sync.tar", "sync"], 0);
    assert_eq!((&planned["digest"], &planned["bytes"]), (&written["digest"], &written["bytes"]));
    assert_eq!(planned["plan"].as_array().unwrap().len() as u64, written["blobs"].as_u64().unwrap());
    // What is there stays.
    let refused = run(home, &["archive", "sources.list", "sync.tar", "other"], 1);
    assert!(refused["error"].as_str().unwrap().contains("--force"), "{refused}");
}

#[test]
fn one_that_is_missing_hides_no_other_and_nothing_is_written() {
    let home = unpack_samples("images");
    let home = home.path();
    write_list(home, "sources.list", "oci:images:", &["edge/plain:v1", "gone:v1", "edge/signed:v1", "gone:v2"]);
    let failed = run(home, &["archive", "sources.list", "sync.tar", "sync"], 1);
    let lines: Vec<_> = failed["failures"].as_array().unwrap().iter().map(|f| f["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [2, 4]);
    assert!(!home.join("sync.tar").exists());
    let allowed = run(home, &["archive", "sources.list", "sync.tar", "sync", "--allow-missing"], 3);
    assert_eq!(allowed["images"].as_array().unwrap().len(), 2);
    run(home, &["deserialize", "sync.tar", "oci:high:sync"], 0);

    // One whose parts are missing is one that is missing.
    write_list(home, "sources.list", "oci:images:", &["edge/plain:v1", "edge/docker-list:v1"]);
    let index = run(home, &["gather", "--dry-run", "sources.list", "oci:none:sync"], 0);
    let list = index["images"].as_array().unwrap().iter().find(|i| i["source"].as_str().unwrap().contains("list"));
    let blob = |digest: &str| home.join("images/blobs").join(digest.replace(':', "/"));
    let list: Value =
        serde_json::from_slice(&std::fs::read(blob(list.unwrap()["digest"].as_str().unwrap())).unwrap()).unwrap();
    std::fs::remove_file(blob(list["manifests"][0]["digest"].as_str().unwrap())).unwrap();
    let partly = run(home, &["archive", "sources.list", "partly.tar", "sync", "--allow-missing"], 3);
    assert_eq!((partly["images"].as_array().unwrap().len(), &partly["failures"][0]["line"]), (1, &2.into()));
}

#[test]
fn what_the_other_side_has_is_left_out() {
    let home = unpack_samples("images");
    let home = home.path();
    write_list(home, "first.list", "oci:images:", &IMAGES[..4]);
    write_list(home, "second.list", "oci:images:", &IMAGES);
    run(home, &["archive", "first.list", "first.tar", "sync-1"], 0);
    let second = run(home, &["archive", "second.list", "second.tar", "sync-2", "first.tar"], 0);
    let same = run(home, &["archive", "second.list", "same.tar", "--reference", "sync-2", "first.tar"], 0);
    assert!(second["blobsSkipped"].as_u64() > Some(0), "{second}");
    assert_eq!((&second["bytes"], &second["bytesSkipped"]), (&same["bytes"], &same["bytesSkipped"]));
    run(home, &["deserialize", "first.tar", "oci:high:sync-1"], 0);
    run(home, &["deserialize", "second.tar", "oci:high:sync-2"], 0);
    // A file where the TAG belongs would be a strange name for a gather.
    let usage = run(home, &["archive", "second.list", "third.tar", "first.tar"], 2);
    assert!(usage["error"].as_str().unwrap().contains("--reference TAG"), "{usage}");
}

#[test]
fn a_destination_that_is_there_is_refused_before_anything_is_asked_for() {
    let home = unpack_samples("images");
    let home = home.path();
    // Nobody listens there: to ask would fail otherwise, and later.
    std::fs::write(home.join("sources.list"), "127.0.0.1:1/gone:v1\n").unwrap();
    std::fs::write(home.join("sync.tar"), "precious").unwrap();
    let refused = run(home, &["archive", "sources.list", "sync.tar", "sync"], 1);
    assert!(refused["error"].as_str().unwrap().contains("--force"), "{refused}");
    let refused = run(home, &["archive", "sources.list", "/dev/null", "sync", "--resume"], 1);
    assert!(refused["error"].as_str().unwrap().contains("no regular file"), "{refused}");
    assert_eq!(bytes(home, "sync.tar"), b"precious");
}

#[test]
fn a_checkpoint_and_a_list_for_docker_are_those_of_serialize() {
    let home = unpack_samples("images");
    let home = home.path();
    write_list(home, "sources.list", "oci:images:", &IMAGES);
    run(home, &["gather", "sources.list", "oci:longer:sync"], 0);
    let both = ["--manifest-json", "--compression", "zstd", "--compression-level", "5", "--checkpoint"];
    run(home, &[&["serialize", "oci:longer:sync", "longer.tar"], &both[..], &["longer.jsonl"]].concat(), 0);
    run(home, &[&["archive", "sources.list", "short.tar", "sync"], &both[..], &["short.jsonl"]].concat(), 0);
    assert!(bytes(home, "short.tar") == bytes(home, "longer.tar"));
    let ledger = bytes(home, "short.jsonl");
    assert!(ledger == bytes(home, "longer.jsonl"));
    assert!(String::from_utf8(tar(home, &["-tf", "short.tar"])).unwrap().lines().any(|name| name == "manifest.json"));
    // And what it lists is what a second part leaves out.
    let written = std::fs::metadata(home.join("short.tar")).unwrap().len();
    let earlier = format!("short.jsonl:{}", written + 1);
    let second = run(home, &["archive", "sources.list", "2.tar", "sync", "--existing-from-checkpoint", &earlier], 0);
    let listed = String::from_utf8(ledger).unwrap().lines().count() as u64;
    assert_eq!((&second["blobs"], second["blobsSkipped"].as_u64()), (&0.into(), Some(listed)));
}
