//! `mirror verify`: yes only for what is whole, in an archive of any form, a layout and a registry; else the digest, its
//! offset, the images that it spoils, and what to do.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use super::program::{Registry, mirror, process};
use serde_json::Value;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fixtures/archives");
/// A layer that three of the four images of part1 share, and those.
const LAYER: &str = "sha256:7eb13f48f67a7585b3f28ea67db009690c679f78febe71811119ec154822bd16";
const SPOILED: [&str; 3] = [
    "reg.low.example/tiny/edge/docker:v1",
    "reg.low.example/tiny/edge/plain:latest",
    "reg.low.example/tiny/edge/plain:v1",
];

fn archive(name: &str) -> String {
    format!("{FIXTURES}/{name}")
}

/// Runs with `--output json`.
fn verified(home: &Path, arguments: &[&str], code: i32) -> Value {
    let arguments = [&["verify", "--output", "json"], arguments].concat();
    let output = mirror(home).args(&arguments).assert().code(code).get_output().clone();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Flips a bit in the midst of the layer. Gives the offset of its content.
fn damage(bytes: &mut [u8]) -> usize {
    let name = format!("blobs/{}", LAYER.replace(':', "/"));
    let header = bytes.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
    bytes[header + 512 + 3000] ^= 0x10;
    header + 512
}

fn compressed(program: &str, bytes: &[u8]) -> Vec<u8> {
    let mut child =
        std::process::Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.stdout
}

#[test]
fn everything_that_is_whole_is_said_to_be() {
    let home = tempfile::tempdir().unwrap();
    for name in [
        "kinds.tar",
        "kinds-fallback.tar",
        "kinds.tar.gz",
        "kinds.tar.zst",
        "labels.tar",
        "part1-manifest-json.tar",
        "part2-blocks.tar",
        "platforms-two.tar",
        "referrers.tar",
        "sha512.tar",
        "archive-part1.tar",
    ] {
        let report = verified(home.path(), &[&archive(name)], 0);
        assert_eq!((&report["whole"], &report["findings"]), (&true.into(), &Value::Array(Vec::new())), "{name}");
    }
    let counts = |report: &Value| ["manifests", "blobs", "bytes"].map(|member| report[member].as_u64().unwrap());
    let expected = counts(&verified(home.path(), &[&archive("kinds.tar")], 0));
    assert_eq!(expected[..2], [27, 37]);
    let registry = Registry::start(home.path(), "served");
    let image = format!("{}/gather:kinds", registry.address);
    for place in ["oci:high:kinds", &image] {
        mirror(home.path()).args(["deserialize", &archive("kinds.tar"), place]).assert().success();
        assert_eq!(counts(&verified(home.path(), &[place], 0)), expected, "{place}");
    }
    assert_eq!(counts(&verified(home.path(), &["oci:high"], 0)), expected);
}

#[test]
fn one_wrong_byte_is_found_in_every_form() {
    let home = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(archive("part1.tar")).unwrap();
    let offset = damage(&mut bytes);
    std::fs::write(home.path().join("plain.tar"), &bytes).unwrap();
    std::fs::write(home.path().join("packed.tar.gz"), compressed("gzip", &bytes)).unwrap();
    let check = |report: Value| {
        let [finding] = report["findings"].as_array().unwrap().as_slice() else { panic!("{report}") };
        assert_eq!((&finding["kind"], &finding["digest"]), (&"damaged".into(), &LAYER.into()), "{report}");
        assert_eq!((&finding["offset"], &finding["images"]), (&offset.into(), &SPOILED.to_vec().into()), "{report}");
        let whole = report["images"].as_array().unwrap().iter().filter(|image| image["whole"] == true).count();
        assert_eq!((whole, &report["blobs"]), (1, &9.into()), "{report}");
    };
    check(verified(home.path(), &["plain.tar"], 1));
    check(verified(home.path(), &["packed.tar.gz"], 1));
    let output = mirror(home.path()).args(["verify", "-", "--output", "json"]).write_stdin(bytes).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    check(serde_json::from_slice(&output.stdout).unwrap());

    let output = mirror(home.path()).args(["verify", "plain.tar"]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    for part in [LAYER, &format!("at byte {offset}"), SPOILED[0], SPOILED[1], "hint: copy the archive again"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn a_layout_and_a_registry_are_read_too() {
    let home = tempfile::tempdir().unwrap();
    mirror(home.path()).args(["deserialize", &archive("part1.tar"), "oci:high:gather:sync"]).assert().success();
    let file = home.path().join("high/blobs").join(LAYER.replace(':', "/"));
    let right = std::fs::read(&file).unwrap();
    let registry = Registry::start(home.path(), "high");
    let image = format!("{}/gather:sync", registry.address);
    verified(home.path(), &[&image], 0);

    let mut wrong = right.clone();
    wrong[77] ^= 1;
    std::fs::write(&file, &wrong).unwrap();
    for place in ["oci:high", "oci:high:gather:sync", &image] {
        let report = verified(home.path(), &[place], 1);
        assert_eq!(report["findings"][0]["digest"], LAYER, "{place}: {report}");
        assert_eq!(report["findings"][0]["images"], Value::from(SPOILED.to_vec()), "{place}");
    }
    std::fs::remove_file(&file).unwrap();
    for place in ["oci:high", "oci:high:gather:sync", &image] {
        let report = verified(home.path(), &[place], 1);
        assert_eq!(
            (&report["findings"][0]["kind"], &report["findings"][0]["digest"]),
            (&"missing".into(), &LAYER.into())
        );
    }
    std::fs::write(&file, &right).unwrap();
    // A stray file would be taken for what its name says, some day.
    let stray = home.path().join("high/blobs/sha256").join("0".repeat(64));
    std::fs::write(&stray, "stray").unwrap();
    verified(home.path(), &["oci:high:gather:sync"], 0);
    verified(home.path(), &["oci:high"], 1);
}

#[test]
fn against_tells_what_has_not_arrived() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::start(home.path(), "served");
    let image = format!("{}/scatter:part2", registry.address);
    // What ace-dt left out is missing, unless the other side has it.
    let differential = archive("part2-without-part1.tar");
    let alone = verified(home.path(), &[&differential], 1);
    assert!(alone["findings"].as_array().unwrap().iter().all(|f| f["kind"] == "missing"), "{alone}");
    let early = verified(home.path(), &[&differential, "--against", &image], 1);
    assert!(early["findings"].as_array().unwrap().iter().all(|f| f["kind"] == "notArrived"), "{early}");

    for (name, tag) in [("part1.tar", "part1"), ("part2-without-part1.tar", "part2")] {
        let to = format!("{}/scatter:{tag}", registry.address);
        mirror(home.path()).args(["deserialize", &archive(name), &to]).assert().success();
    }
    let arrived = verified(home.path(), &[&differential, "--against", &image], 0);
    assert_eq!((&arrived["against"]["absent"], arrived["expected"].as_array().unwrap().len()), (&0.into(), 10));
    verified(home.path(), &[&archive("part2-blocks.tar"), "--against", &image], 0);
    // The tag is another gather's.
    let other = format!("{}/scatter:part1", registry.address);
    let told = verified(home.path(), &[&archive("part2-blocks.tar"), "--against", &other], 1);
    assert_eq!((&told["against"]["absent"], told["findings"].as_array().unwrap().len()), (&1.into(), 1), "{told}");
}

#[test]
fn our_differential_archives_say_what_they_expect() {
    let home = tempfile::tempdir().unwrap();
    for part in ["part1.tar", "part2-blocks.tar"] {
        let to = format!("oci:low:{}", &part[..5]);
        mirror(home.path()).args(["deserialize", &archive(part), &to]).assert().success();
    }
    mirror(home.path()).args(["serialize", "oci:low:part2", "new.tar", "oci:low:part1"]).assert().success();
    let report = verified(home.path(), &["new.tar"], 0);
    assert_eq!((&report["blobs"], report["expected"].as_array().unwrap().len()), (&8.into(), 10), "{report}");
    verified(home.path(), &["new.tar", "--against", "oci:high:part2"], 1);
    for archive in [archive("part1.tar"), "new.tar".into()] {
        mirror(home.path()).args(["deserialize", &archive, "oci:high:part2"]).assert().success();
    }
    verified(home.path(), &["new.tar", "--against", "oci:high:part2"], 0);
}

#[test]
fn a_torn_stream_ends_with_what_is_whole() {
    let home = tempfile::tempdir().unwrap();
    let report = verified(home.path(), &[&archive("resume-1-torn.tar")], 1);
    assert_eq!((&report["findings"][0]["kind"], &report["findings"][0]["offset"]), (&"cut".into(), &77824.into()));
    let bytes = compressed("gzip", &std::fs::read(archive("part1.tar")).unwrap());
    std::fs::write(home.path().join("cut.tar.gz"), &bytes[..bytes.len() / 2]).unwrap();
    let report = verified(home.path(), &["cut.tar.gz"], 1);
    assert_eq!(report["findings"][0]["kind"], "cut", "{report}");
    let whole: Vec<_> = report["images"].as_array().unwrap().iter().map(|image| image["whole"] == true).collect();
    assert!(whole.contains(&true) && whole.contains(&false), "{report}");
    // No archive at all.
    std::fs::write(home.path().join("text.tar"), "no archive").unwrap();
    verified(home.path(), &["text.tar"], 1);
    let status = process(home.path()).args(["verify", "gone.tar"]).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}
