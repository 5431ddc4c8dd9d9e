//! What ace-dt made of the sample images, made again through the program and registries: gather indexes, archives,
//! destinations; and its archives read. testdata/fixtures/README.md says what must come out the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use airgap_mirror::archive::contents::Contents;
use airgap_mirror::config::Config;
use airgap_mirror::image::{Manifest, media_type};
use airgap_mirror::store::Stores;
use airgap_mirror::store::registry::Client;
use serde_json::Value;
use tempfile::TempDir;

use super::entries::entries;
use super::program::{Registry, mirror, unpack_samples};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fixtures");

/// Each gather of the fixtures: its name, its list, and how it was made.
const GATHERS: [(&str, &str, &[&str]); 10] = [
    ("kinds", "kinds", &[]),
    ("kinds-fallback", "kinds", &["--index-fallback"]),
    ("annotated", "part1", &["-a", "org.opencontainers.image.title=monthly sync,example.com/ticket=A-17"]),
    ("labels", "labels", &[]),
    ("platforms", "platforms", &["-p", "linux/amd64"]),
    ("platforms-two", "platforms", &["-p", "linux/amd64,linux/arm64"]),
    ("referrers", "referrers", &["-r"]),
    ("sha512", "sha512", &[]),
    ("part1", "part1", &[]),
    ("part2", "part2", &[]),
];

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(FIXTURES).join(name)).unwrap()
}

/// Both sides of the gap, each a registry with the name that the fixtures have for it.
struct Sides {
    home: TempDir,
    low: Registry,
    _high: Registry,
}

impl Sides {
    /// With the sample images on the low side.
    fn new() -> Self {
        let home = unpack_samples("samples");
        let (low, high) = (Registry::start(home.path(), "low"), Registry::start(home.path(), "high"));
        let config = format!(
            "registryConfig:\n  reg.low.example:\n    endpoints: [\"http://{}\"]\n  reg.high.example:\n    \
             endpoints: [\"http://{}\"]\n",
            low.address, high.address
        );
        fs::write(home.path().join("mirror.yaml"), config).unwrap();
        let samples: Value =
            serde_json::from_slice(&fs::read(home.path().join("samples/index.json")).unwrap()).unwrap();
        let names = samples["manifests"].as_array().unwrap().iter();
        let names = names.filter_map(|m| m["annotations"]["org.opencontainers.image.ref.name"].as_str());
        let list: String = names.map(|name| format!("oci:samples:{name}\n")).collect();
        fs::write(home.path().join("seed.list"), list).unwrap();
        fs::write(home.path().join("seed.csv"), "oci:samples:,reg.low.example/tiny/\n").unwrap();
        let sides = Sides { home, low, _high: high };
        sides.run(&["clone", "-r", "seed.list", "all-prefix=seed.csv"]);
        sides
    }

    fn home(&self) -> &Path {
        self.home.path()
    }

    fn run(&self, arguments: &[&str]) -> Value {
        let output = mirror(self.home()).args(["--output", "json"]).args(arguments).assert().success();
        serde_json::from_slice(&output.get_output().stdout).unwrap()
    }

    /// Gathers as ace-dt did; gives the index.
    fn gather(&self, (name, list, more): (&str, &str, &[&str])) -> Vec<u8> {
        let list = format!("{FIXTURES}/lists/{list}.list");
        let report = self.run(&[&["gather", &list, &format!("reg.low.example/gather:{name}")], more].concat());
        let digest = report["digest"].as_str().unwrap().replace(':', "/");
        fs::read(self.home().join("low/blobs").join(digest)).unwrap()
    }

    /// Gives the tag to the index that ace-dt made: its archives carry that one.
    fn tag_theirs(&self, name: &str) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let stores = Stores::new(Client::new(Arc::new(Config::default())));
        let image = format!("{}/gather:{name}", self.low.address).parse().unwrap();
        let index = Manifest::new(media_type::OCI_INDEX, fixture(&format!("gather/{name}.index.json")));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(stores.open(&image).unwrap().push_manifest(&index, Some(name))).unwrap();
    }
}

/// The index without the version of the program that wrote it.
fn without_version(index: &[u8]) -> Value {
    let mut index: Value = serde_json::from_slice(index).unwrap();
    index["annotations"].as_object_mut().unwrap().remove("vnd.act3-ace.data.version").unwrap();
    index
}

/// The JSON of an `index.json` entry.
fn index_of(entry: &[u8]) -> Value {
    let json: Vec<u8> = entry[512..].iter().copied().take_while(|byte| *byte != 0).collect();
    without_version(&json)
}

/// Equal but for the version, and for what `oci-layout` says of blobs that were left out.
fn same_archive(name: &str, ours: &[u8], theirs: &[u8]) {
    let (ours, theirs) = (entries(ours), entries(theirs));
    let names = |entries: &[(String, Vec<u8>)]| entries.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs), "{name}");
    for ((entry, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        match entry.as_str() {
            "index.json" => assert_eq!(index_of(ours), index_of(theirs), "{name}"),
            "oci-layout" => {}
            _ => assert!(ours == theirs, "{name}: {entry}"),
        }
    }
}

#[test]
fn gathers_and_archives_are_those_of_the_field() {
    let sides = Sides::new();
    let out = sides.home().join("out.tar");
    let write = |arguments: &[&str]| {
        sides.run(arguments);
        let archive = fs::read(&out).unwrap();
        fs::remove_file(&out).unwrap();
        archive
    };
    for gather in GATHERS {
        let name = gather.0;
        let ours = sides.gather(gather);
        let theirs = fixture(&format!("gather/{name}.index.json"));
        assert_eq!(without_version(&ours), without_version(&theirs), "{name}");
        sides.tag_theirs(name);
        let image = format!("reg.low.example/gather:{name}");
        match name {
            "annotated" | "part2" => {}
            "referrers" => {
                // A registry lists them in any order, and those of an index's children are found here alone.
                let ours = entries(&write(&["serialize", "-r", &image, "out.tar"]));
                let theirs = entries(&fixture("archives/referrers.tar"));
                let ours: BTreeMap<_, _> = ours.into_iter().collect();
                for (entry, bytes) in theirs.iter().filter(|(name, _)| name.starts_with("blobs/")) {
                    assert!(ours.get(entry) == Some(bytes), "{entry}");
                }
            }
            _ => {
                let theirs = fixture(&format!("archives/{name}.tar"));
                same_archive(name, &write(&["serialize", &image, "out.tar"]), &theirs);
            }
        }
    }
    let (part1, part2) = ("reg.low.example/gather:part1", "reg.low.example/gather:part2");
    let ledger = format!("{FIXTURES}/checkpoints/resume-1.jsonl");
    let offset = String::from_utf8(fixture("checkpoints/resume-1.offset")).unwrap();
    let resumed = format!("{ledger}:{}", offset.trim());
    for (theirs, arguments) in [
        ("part2-blocks", &["serialize", part2, "out.tar"][..]),
        ("part2-without-part1", &["serialize", part2, "out.tar", part1]),
        ("resume-2", &["serialize", part2, "out.tar", "--existing-from-checkpoint", &resumed]),
        (
            "resume-2",
            &[
                "serialize",
                part2,
                "out.tar",
                "--resume-from-checkpoint",
                &ledger,
                "--resume-from-offset",
                offset.trim(),
            ],
        ),
    ] {
        same_archive(theirs, &write(arguments), &fixture(&format!("archives/{theirs}.tar")));
    }
    // Straight from the list, all but the index of the gather is the same: the version is inside that.
    let list = format!("{FIXTURES}/lists/part1.list");
    let ours = entries(&write(&["archive", &list, "out.tar", "--reference", "sync-9"]));
    let theirs = entries(&fixture("archives/archive-part1.tar"));
    assert_eq!(ours.len(), theirs.len());
    let differ = ours.iter().zip(&theirs).filter(|(ours, theirs)| ours != theirs).map(|(ours, _)| &ours.0);
    let differ: Vec<_> = differ.filter(|name| *name != "index.json").collect();
    assert_eq!(differ.len(), 1, "{differ:?}");
    assert_eq!(
        index_of(&ours[1].1)["manifests"][0]["annotations"],
        index_of(&theirs[1].1)["manifests"][0]["annotations"]
    );
}

#[test]
fn images_are_scattered_to_where_the_field_puts_them() {
    let sides = Sides::new();
    sides.gather(GATHERS[0]);
    for kind in ["nest", "all-prefix", "first-prefix", "longest-prefix", "digests", "template"] {
        let mapper = match kind {
            "nest" => "nest=reg.high.example/nested".to_owned(),
            "template" => format!("go-template={FIXTURES}/scatter/template.tmpl"),
            _ => format!("{kind}={FIXTURES}/scatter/{kind}.csv"),
        };
        sides.run(&["scatter", "reg.low.example/gather:kinds", &mapper]);
        // What the registry holds now, asked for by name.
        let expected = String::from_utf8(fixture(&format!("scatter/{kind}.expected"))).unwrap();
        let expected: BTreeMap<&str, &str> = expected.lines().map(|line| line.split_once(' ').unwrap()).collect();
        let list: String = expected.keys().map(|name| format!("{name}\n")).collect();
        fs::write(sides.home().join("arrived.list"), list).unwrap();
        let arrived = sides.run(&["gather", "arrived.list", "oci:check:arrived", "--dry-run"]);
        let arrived = arrived["images"].as_array().unwrap().iter();
        let arrived: BTreeMap<&str, &str> =
            arrived.map(|i| (i["source"].as_str().unwrap(), i["digest"].as_str().unwrap())).collect();
        assert_eq!(arrived, expected, "{kind}");
    }
}

#[test]
fn archives_of_the_field_end_as_the_gather_had_it() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let registry = Registry::start(home, "high");
    let image = |name: &str| format!("{}/scatter:{name}", registry.address);
    let read = |archive: &str, name: &str, code: i32| {
        let archive = format!("{FIXTURES}/archives/{archive}");
        mirror(home).args(["deserialize", &archive, &image(name), "--quiet"]).assert().code(code);
    };
    let out = home.join("out.tar");
    let write = |name: &str, more: &[&str]| -> Value {
        let image = image(name);
        let arguments = [&["serialize", &image, "out.tar", "--force", "--output", "json"], more].concat();
        let output = mirror(home).args(&arguments).assert().success();
        serde_json::from_slice(&output.get_output().stdout).unwrap()
    };
    let digest_of = |name: &str| {
        let gather = Manifest::new(media_type::OCI_INDEX, fixture(&format!("gather/{name}.index.json")));
        gather.descriptor.digest.to_string()
    };
    // A part that was cut fails, and its successor completes it; what one leaves out came with the other.
    read("resume-1-torn.tar", "torn", 1);
    read("resume-2.tar", "resumed", 0);
    for (archive, gather) in [
        ("part1.tar", "part1"),
        ("part2-without-part1.tar", "part2"),
        ("kinds.tar", "kinds"),
        ("kinds.tar.zst", "kinds"),
        ("kinds.tar.gz", "kinds"),
        ("kinds-fallback.tar", "kinds-fallback"),
        ("labels.tar", "labels"),
        ("part1-manifest-json.tar", "part1"),
        ("archive-part1.tar", "part1"),
        ("part2-blocks.tar", "part2"),
        ("platforms.tar", "platforms"),
        ("platforms-two.tar", "platforms-two"),
        ("referrers.tar", "referrers"),
        ("sha512.tar", "sha512"),
    ] {
        let name = archive.replace('.', "-");
        read(archive, &name, 0);
        // All of it can be read back: a plan names every blob, and writing verifies each.
        let recursive: &[&str] = if gather == "referrers" { &["-r"] } else { &[] };
        let report = write(&name, recursive);
        assert_eq!(report["digest"], digest_of(gather), "{archive}");
        let scan = |path: &Path| Contents::scan(Arc::new(fs::File::open(path).unwrap())).0.blobs;
        if archive.ends_with(".tar") && archive != "part2-without-part1.tar" {
            let (ours, theirs) = (scan(&out), scan(&Path::new(FIXTURES).join("archives").join(archive)));
            assert!(theirs.keys().all(|digest| ours.contains_key(digest)), "{archive}");
        }
    }
    assert_eq!(write("resumed", &[])["digest"], digest_of("part2"));
    // The torn one was not tagged.
    mirror(home).args(["serialize", &image("torn"), "torn.tar"]).assert().code(1);
}

#[test]
fn parts_with_referrers_end_as_the_whole_wherever_the_first_was_cut() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let registry = Registry::start(home, "high");
    let run = |arguments: &[&str], code: i32| mirror(home).args(arguments).args(["-q"]).assert().code(code);
    let theirs = format!("{FIXTURES}/archives/referrers.tar");
    run(&["deserialize", &theirs, "oci:low:referrers"], 0);
    run(&["serialize", "oci:low:referrers", "whole.tar", "-r", "--checkpoint", "whole.jsonl"], 0);
    let whole = fs::read(home.join("whole.tar")).unwrap();
    let ledger = fs::read_to_string(home.join("whole.jsonl")).unwrap();
    let end = |line: &str| -> usize {
        let line: Value = serde_json::from_str(line).unwrap();
        line["annotations"]["vnd.act3-ace.data.offset"].as_str().unwrap().parse().unwrap()
    };
    let ends: Vec<usize> = ledger.lines().map(end).collect();
    // In a header, and in what follows it.
    let cuts = [ends[ends.len() / 4] + 100, ends[ends.len() / 2] + 700, ends[ends.len() - 2] + 1];
    for (cut, pipe) in cuts.into_iter().flat_map(|cut| [(cut, false), (cut, true)]) {
        fs::write(home.join("first.tar"), &whole[..cut]).unwrap();
        let before = format!("whole.jsonl:{cut}");
        let rest = ["rest.tar", "-r", "--force", "--existing-from-checkpoint", &before];
        run(&[&["serialize", "oci:low:referrers"], &rest[..]].concat(), 0);
        let image = format!("{}/parts-{cut}-{pipe}:referrers", registry.address);
        for (part, code) in [("first.tar", 1), ("rest.tar", 0)] {
            let mut command = mirror(home);
            let source = if pipe { "-" } else { part };
            command.args(["deserialize", source, &image, "-q"]).write_stdin(fs::read(home.join(part)).unwrap());
            command.assert().code(code);
        }
        run(&["serialize", &image, "back.tar", "-r", "--force"], 0);
        assert!(fs::read(home.join("back.tar")).unwrap() == whole, "cut at {cut}, pipe: {pipe}");
    }
}
