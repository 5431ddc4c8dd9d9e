//! `mirror inspect`: the images of an archive in any form, of a layout and of a registry; what of a differential archive
//! is elsewhere; and little is read, however large the archive is.

use std::fs::File;
use std::io::{Read as _, Seek, SeekFrom, Write as _};
use std::path::Path;
use std::process::Stdio;

use airgap_mirror::image::Digest;

use super::program::{Registry, mirror, process, unpack_samples};
use serde_json::{Value, json};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fixtures/archives");

fn archive(name: &str) -> String {
    format!("{FIXTURES}/{name}")
}

/// Runs with `--output json`.
fn inspected(home: &Path, arguments: &[&str], code: i32) -> Value {
    let arguments = [&["inspect", "--output", "json"], arguments].concat();
    let output = mirror(home).args(&arguments).assert().code(code).get_output().clone();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn texts(report: &Value, list: &str, member: &str) -> Vec<String> {
    report[list].as_array().unwrap().iter().map(|entry| entry[member].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_form_of_an_archive_holds_the_same() {
    let home = tempfile::tempdir().unwrap();
    let mut expected = inspected(home.path(), &[&archive("kinds.tar"), "--tree"], 0);
    assert_eq!((&expected["manifests"], &expected["blobs"]), (&27.into(), &37.into()));
    assert_eq!((&expected["missing"], &expected["unnamed"]), (&json!([]), &json!([])));
    for name in ["kinds.tar.gz", "kinds.tar.zst"] {
        let mut report = inspected(home.path(), &[&archive(name), "--tree"], 0);
        report["source"] = expected["source"].clone();
        assert_eq!(report, expected, "{name}");
    }
    // From a repository, it is the same again.
    let registry = Registry::start(home.path(), "served");
    for place in ["oci:high:kinds".to_owned(), format!("{}/gather:kinds", registry.address)] {
        mirror(home.path()).args(["deserialize", &archive("kinds.tar"), &place]).assert().success();
        let report = inspected(home.path(), &[&place, "--tree"], 0);
        expected["roots"][0].as_object_mut().unwrap().remove("name");
        expected["tree"][0].as_object_mut().unwrap().remove("name");
        for member in ["images", "sizeTotal", "sizeDeduplicated", "shared", "manifests", "blobs", "roots", "tree"] {
            assert_eq!(report[member], expected[member], "{place}: {member}");
        }
    }
}

#[test]
fn images_tell_platforms_labels_and_referrers() {
    let home = tempfile::tempdir().unwrap();
    let labels = inspected(home.path(), &[&archive("labels.tar")], 0);
    let app = &labels["images"][3];
    assert_eq!(app["reference"], "reg.low.example/tiny/team-0/app-000:v1.0");
    assert_eq!(app["platforms"], json!(["linux/amd64", "linux/arm64/v8"]));
    assert_eq!(app["labels"], json!({"component": "extra"}));
    let referrers = inspected(home.path(), &[&archive("referrers.tar")], 0);
    let app = referrers["images"].as_array().unwrap().last().unwrap();
    let found = app["referrers"].as_array().unwrap();
    assert_eq!(found.len(), 3, "{app}");
    assert!(found.iter().any(|referrer| referrer["subject"] == app["digest"]));
    assert!(found.iter().all(|referrer| referrer["artifactType"].is_string()), "{app}");
    let output = mirror(home.path()).args(["inspect", &archive("labels.tar")]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["holds 5 images", "linux/amd64, linux/arm64/v8; component=extra", "next: mirror verify"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_images_share_is_counted() {
    let home = tempfile::tempdir().unwrap();
    let report = inspected(home.path(), &[&archive("part1.tar")], 0);
    let image = |at: usize, member: &str| report["images"][at][member].as_u64().unwrap();
    let number = |member: &str| report[member].as_u64().unwrap();
    let sizes: Vec<u64> = (0..4).map(|at| image(at, "size")).collect();
    assert_eq!(number("sizeTotal"), sizes.iter().sum::<u64>());
    // Two names of one image, and another that has its layers: the layers are shared, the manifests are not.
    assert_eq!(image(1, "shared"), image(0, "shared"));
    assert_eq!(image(3, "shared"), 0);
    assert_eq!(number("shared"), image(0, "shared"));
    let own = sizes[0] - image(0, "shared") + sizes[1] - image(1, "shared") + sizes[3];
    assert_eq!(number("sizeDeduplicated"), number("shared") + own);
}

#[test]
fn a_differential_archive_says_what_is_elsewhere() {
    let home = tempfile::tempdir().unwrap();
    for part in ["part1.tar", "part2-blocks.tar"] {
        mirror(home.path())
            .args(["deserialize", &archive(part), &format!("oci:low:{}", &part[..5])])
            .assert()
            .success();
    }
    mirror(home.path()).args(["serialize", "oci:low:part2", "new.tar", "oci:low:part1"]).assert().success();
    let ours = inspected(home.path(), &["new.tar"], 0);
    assert_eq!((texts(&ours, "expected", "digest").len(), &ours["missing"]), (10, &json!([])), "{ours}");
    // ace-dt leaves them out without a word.
    let theirs = inspected(home.path(), &[&archive("part2-without-part1.tar")], 0);
    assert_eq!(
        (texts(&theirs, "missing", "digest"), &theirs["expected"]),
        (texts(&ours, "expected", "digest"), &json!([]))
    );
    assert_eq!(ours["images"][0]["absent"], theirs["images"][0]["absent"]);
    assert!(ours["images"][0]["absent"].as_u64() > Some(0));
}

#[test]
fn a_cut_archive_is_not_said_to_be_whole() {
    let home = tempfile::tempdir().unwrap();
    let report = inspected(home.path(), &[&archive("resume-1-torn.tar")], 1);
    assert_eq!((&report["complete"], report["images"].as_array().unwrap().len()), (&false.into(), 7), "{report}");
    let output = mirror(home.path()).args(["inspect", &archive("resume-1-torn.tar")]).assert().code(1);
    let told = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert!(told.contains("it was cut in the entry at byte 77824"), "{told}");
    mirror(home.path()).args(["inspect", "gone.tar"]).assert().code(1);
    mirror(home.path()).args(["inspect", "oci:gone"]).assert().code(1);
}

#[test]
fn the_tree_shows_each_manifest_once() {
    let home = unpack_samples("low");
    let list = "oci:low:edge/plain:v1 team=a\noci:low:edge/plain:latest\noci:low:team-0/app-000:v1.0\n";
    std::fs::write(home.path().join("list"), list).unwrap();
    mirror(home.path()).args(["gather", "list", "oci:sync:1"]).assert().success();
    let output = mirror(home.path()).args(["inspect", "oci:sync:1", "--tree"]).assert().success();
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let starting = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!((starting("index sha256:"), starting("├── manifest"), starting("└── index")), (1, 2, 1), "{text}");
    assert_eq!(lines.iter().filter(|line| line.ends_with("(see above)")).count(), 1, "{text}");
    assert!(starting("    ├── manifest") + starting("    └── manifest") >= 2, "{text}");
    assert!(text.contains("linux/arm64/v8"), "{text}");
}

/// A header of the tar format, and the content's place behind it.
fn entry(file: &mut File, name: &str, content: &[u8], size: u64) {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    // Sizes of 8 GiB and more are written in binary.
    header[124] = 0x80;
    header[128..136].copy_from_slice(&size.to_be_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    file.write_all(&header).unwrap();
    file.write_all(content).unwrap();
    let rest = size.next_multiple_of(512) - content.len() as u64;
    file.seek(SeekFrom::Current(rest.try_into().unwrap())).unwrap();
}

/// An archive of an image whose layer has so many bytes, none of which is on the disk.
fn huge(path: &Path, size: u64) {
    let mut file = File::create(path).unwrap();
    let digest = |bytes: &[u8]| Digest::sha256(bytes).hex();
    let (layer, stray) = ("1".repeat(64), "2".repeat(64));
    let config = br#"{"os":"linux","architecture":"riscv64"}"#;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{}", digest(config)),
            "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": format!("sha256:{layer}"),
            "size": size,
        }],
    });
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{}", digest(&manifest)),
            "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "huge"},
        }],
    });
    let index = serde_json::to_vec(&index).unwrap();
    let blob = |hex: &str| format!("blobs/sha256/{hex}");
    entry(&mut file, &blob(&stray), &[], size / 2);
    entry(&mut file, &blob(&digest(config)), config, config.len() as u64);
    entry(&mut file, &blob(&layer), &[], size);
    entry(&mut file, &blob(&digest(&manifest)), &manifest, manifest.len() as u64);
    entry(&mut file, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 30);
    entry(&mut file, "index.json", &index, index.len() as u64);
    file.write_all(&[0; 1024]).unwrap();
}

#[test]
fn of_a_huge_archive_little_is_read() {
    let home = tempfile::tempdir().unwrap();
    let size = 100 << 30;
    huge(&home.path().join("huge.tar"), size);
    let mut child = process(home.path())
        .args(["inspect", "huge.tar", "--output", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    // Not waited for yet: what it read is still told.
    let told = std::fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let read = told.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
    assert!(read.parse::<u64>().unwrap() < 8 << 20, "{told}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let image = &report["images"][0];
    assert_eq!((&image["reference"], &image["platforms"]), (&"huge".into(), &json!(["linux/riscv64"])), "{report}");
    assert!(image["size"].as_u64() > Some(size), "{report}");
    assert_eq!((&report["unnamed"][0]["size"], &report["blobs"]), (&(size / 2).into(), &3.into()), "{report}");
}
