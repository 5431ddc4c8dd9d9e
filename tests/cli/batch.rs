//! Batches through the program: the tables and names of ace-dt in both directions, and what that tool gets
//! wrong done right.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use airgap_mirror::archive::contents::Contents;
use airgap_mirror::config::Config;
use airgap_mirror::image::{Digest, Manifest, media_type};
use airgap_mirror::store::layout::Layout;
use airgap_mirror::store::registry::Client;
use airgap_mirror::store::{Store, Stores};
use serde_json::Value;
use tempfile::TempDir;

use super::program::{Registry, mirror, unpack_samples};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/fixtures").join(name)
}

/// The sample images and the gathers of the fixtures in a registry called reg.low.example.
struct Low {
    home: TempDir,
    registry: Registry,
}

impl Low {
    fn new() -> Self {
        let home = unpack_samples("images");
        for name in ["part1", "part2", "labels"] {
            push(&Layout::new(&home.path().join("images")), &format!("gather:{name}"), name);
        }
        let registry = Registry::start(home.path(), "images");
        let config = format!("registryConfig:\n  reg.low.example:\n    endpoints: [\"http://{}\"]\n", registry.address);
        std::fs::write(home.path().join("mirror.yaml"), config).unwrap();
        Low { home, registry }
    }

    fn home(&self) -> &Path {
        self.home.path()
    }

    fn sync(&self, file: &str) -> PathBuf {
        self.home().join("sync").join(file)
    }

    /// Puts files of the fixtures' batch into the directory.
    fn bring(&self, files: &[(&str, &str)]) {
        std::fs::create_dir_all(self.sync("")).unwrap();
        for (from, to) in files {
            std::fs::copy(fixture("batch").join(from), self.sync(to)).unwrap();
        }
    }

    /// Moves a tag of the low side.
    fn tag(&self, tag: &str, gather: &str) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let stores = Stores::new(Client::new(Arc::new(Config::default())));
        let image = format!("{}/gather:{tag}", self.registry.address).parse().unwrap();
        push(stores.open(&image).unwrap().as_ref(), tag, gather);
    }

    fn write(&self, list: &str, more: &[&str], code: i32) -> Value {
        let list = fixture(&format!("batch/{list}.csv"));
        self.write_list(list.to_str().unwrap(), more, code)
    }

    fn write_list(&self, list: &str, more: &[&str], code: i32) -> Value {
        run(self.home(), &[&["batch-serialize", list, "sync"], more].concat(), code)
    }

    fn read(&self, more: &[&str], code: i32) -> Value {
        run(self.home(), &[&["batch-deserialize", "sync", "oci:high"], more].concat(), code)
    }

    fn files(&self) -> Vec<String> {
        let mut files: Vec<String> =
            std::fs::read_dir(self.sync("")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        files
    }

    /// Digest behind each tag of the high side.
    fn tags(&self) -> BTreeMap<String, String> {
        let Ok(index) = std::fs::read(self.home().join("high/index.json")) else { return BTreeMap::new() };
        let index: Value = serde_json::from_slice(&index).unwrap();
        let named = index["manifests"].as_array().unwrap().iter().filter_map(|m| {
            let name = m["annotations"]["org.opencontainers.image.ref.name"].as_str()?;
            Some((name.to_owned(), m["digest"].as_str().unwrap().to_owned()))
        });
        named.collect()
    }
}

/// Names a gather of the fixtures in a store.
fn push(store: &dyn Store, name: &str, gather: &str) {
    let index = std::fs::read(fixture(&format!("gather/{gather}.index.json"))).unwrap();
    let index = Manifest::new(media_type::OCI_INDEX, index);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(store.push_manifest(&index, Some(name))).unwrap();
}

/// Runs with `--output json`, which must end with that code and print one object.
fn run(home: &Path, arguments: &[&str], code: i32) -> Value {
    let output = mirror(home).args(["--output", "json"]).args(arguments).assert().code(code).get_output().clone();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["exitCode"], code, "{json}");
    json
}

fn digest_of(gather: &str) -> String {
    Digest::sha256(&std::fs::read(fixture(&format!("gather/{gather}.index.json"))).unwrap()).to_string()
}

fn states(report: &Value) -> Vec<(&str, &str)> {
    let archives = report["archives"].as_array().unwrap().iter();
    archives.map(|a| (a["file"].as_str().unwrap(), a["state"].as_str().unwrap())).collect()
}

fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Digests in an archive.
fn holds(path: impl AsRef<Path>) -> Vec<Digest> {
    let mut digests: Vec<Digest> =
        Contents::scan(std::sync::Arc::new(std::fs::File::open(path).unwrap())).0.blobs.into_keys().collect();
    digests.sort();
    digests
}

#[test]
fn the_tables_and_names_are_those_of_the_field() {
    let low = Low::new();
    let report = low.write("first", &[], 0);
    assert_eq!(states(&report), [("000001-tools.tar", "done"), ("000002-apps.tar", "done")]);
    assert_eq!(text(low.sync("record-keeping.csv")), text(fixture("batch/record-keeping-after-first.csv")));
    let report = low.write("second", &[], 0);
    assert_eq!(states(&report), [("000003-tools.tar", "done"), ("000002-apps.tar", "unchanged")]);
    assert_eq!(text(low.sync("record-keeping.csv")), text(fixture("batch/sync/record-keeping.csv")));
    assert_eq!(low.files(), ["000001-tools.tar", "000002-apps.tar", "000003-tools.tar", "record-keeping.csv"]);
    assert_eq!(holds(low.sync("000001-tools.tar")), holds(fixture("batch/sync/000001-tools.tar")));
    // The name in the archive is the whole reference.
    let archive = std::fs::read(low.sync("000003-tools.tar")).unwrap();
    let start = String::from_utf8_lossy(&archive[..4096]).into_owned();
    assert!(start.contains("\"org.opencontainers.image.ref.name\": \"reg.low.example/gather:part2\""), "{start}");

    let report = low.read(&[], 0);
    assert_eq!(states(&report).iter().filter(|(_, state)| *state == "done").count(), 3);
    let expected = [("apps", "labels"), ("tools", "part2")].map(|(name, of)| (name.to_owned(), digest_of(of)));
    assert_eq!(low.tags(), BTreeMap::from(expected));
    let syncs = text(low.sync("successful-syncs.csv"));
    let lines: Vec<&str> = syncs.lines().collect();
    assert_eq!(lines[0], "filename,artifact,timestamp");
    assert!(lines[1].starts_with("000001-tools.tar,oci:high:tools@sha256:") && lines[1].ends_with(" +0000 UTC"));
    assert_eq!(lines.len(), 4);
}

#[test]
fn what_names_share_travels_once() {
    for compression in [&[][..], &["--compression=zstd"]] {
        let low = Low::new();
        let planned = low.write("first", &[&["--dry-run"], compression].concat(), 0);
        let report = low.write("first", compression, 0);
        assert_eq!(planned["archives"][1]["blobs"], report["archives"][1]["blobs"]);
        let (tools, apps) = ("batch/sync/000001-tools.tar", "batch/sync/000002-apps.tar");
        if compression.is_empty() {
            let (first, second) = (holds(low.sync("000001-tools.tar")), holds(low.sync("000002-apps.tar")));
            assert_eq!(first, holds(fixture(tools)));
            // Manifests always travel, and those two have one image in common.
            let twice = second.iter().filter(|digest| first.contains(digest)).count();
            let theirs = holds(fixture(apps));
            let theirs_twice = theirs.iter().filter(|digest| first.contains(digest)).count();
            assert!(twice < theirs_twice, "{twice} of {theirs_twice}");
            assert!(theirs.iter().all(|digest| first.contains(digest) || second.contains(digest)));
        }
        // It is not asked for that the archives are still there, nor the tags.
        std::fs::remove_file(low.sync(report["archives"][0]["file"].as_str().unwrap())).unwrap();
        low.tag("part1", "labels");
        let report = low.write("second", compression, 0);
        let sent = report["archives"][0]["blobs"].as_u64().unwrap() as usize;
        assert!(sent <= holds(fixture("batch/sync/000003-tools.tar")).len(), "{sent}");
    }
}

#[test]
fn archives_are_compressed_as_hard_as_was_asked() {
    let low = Low::new();
    let mut sizes = Vec::new();
    for level in ["1", "9"] {
        let report = low.write("first", &["--compression", "gzip", "--compression-level", level], 0);
        sizes.push(report["archives"][0]["bytes"].as_u64().unwrap());
        low.read(&[], 0);
        std::fs::remove_dir_all(low.sync("")).unwrap();
    }
    assert!(sizes[0] > sizes[1], "{sizes:?}");
    let list = fixture("batch/first.csv");
    let gzip = ["--compression", "gzip", "--compression-level", "10"];
    let refused = mirror(low.home()).arg("batch-serialize").arg(list).arg("sync").args(gzip).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("gzip has no level 10"));
    assert!(!low.sync("").exists());
}

#[test]
fn a_list_for_docker_is_in_each_archive_that_is_to_have_one() {
    let low = Low::new();
    low.write("first", &["--manifest-json"], 0);
    let archives: Vec<String> = low.files().into_iter().filter(|file| file.ends_with(".tar")).collect();
    assert!(!archives.is_empty());
    for file in archives {
        let archive = std::fs::read(low.sync(&file)).unwrap();
        assert!(archive.windows(14).any(|w| w == b"manifest.json\0"), "{file}");
    }
    low.read(&[], 0);
}

#[test]
fn goes_on_where_the_field_left_off() {
    let low = Low::new();
    low.bring(&[
        ("record-keeping-after-first.csv", "record-keeping.csv"),
        ("sync/000001-tools.tar", "000001-tools.tar"),
        ("sync/000002-apps.tar", "000002-apps.tar"),
    ]);
    low.write("first", &[], 0);
    let report = low.write("second", &[], 0);
    assert_eq!(states(&report), [("000003-tools.tar", "done"), ("000002-apps.tar", "unchanged")]);
    assert_eq!(text(low.sync("record-keeping.csv")), text(fixture("batch/sync/record-keeping.csv")));
    low.read(&[], 0);
    assert_eq!(low.tags()["tools"], digest_of("part2"));
}

#[test]
fn reads_the_directory_of_the_field() {
    let low = Low::new();
    low.bring(&[
        ("sync/record-keeping.csv", "record-keeping.csv"),
        ("sync/000001-tools.tar", "000001-tools.tar"),
        ("sync/000002-apps.tar", "000002-apps.tar"),
        ("sync/000003-tools.tar", "000003-tools.tar"),
    ]);
    // That tool sets no tags, and its table says nothing of the content: what it lists is looked at again.
    let theirs = "filename,artifact,timestamp\n\
                  000001-tools.tar,reg.high.example/scatter,2025-11-07 15:04:05.99 -0500 EST m=+1.2\n";
    std::fs::write(low.sync("successful-syncs.csv"), theirs).unwrap();
    low.read(&[], 0);
    assert_eq!(low.tags()["tools"], digest_of("part2"));
    assert_eq!(low.tags()["apps"], digest_of("labels"));
    assert!(text(low.sync("successful-syncs.csv")).starts_with(theirs));
    // Everything that the gathers need is there.
    for (name, of) in [("tools", "part2"), ("apps", "labels")] {
        let plan = run(low.home(), &["serialize", &format!("oci:high:{name}"), "x.tar", "--dry-run"], 0);
        assert_eq!(plan["digest"], digest_of(of));
        run(low.home(), &["serialize", &format!("oci:high:{name}"), &format!("{name}.tar")], 0);
    }
}

#[test]
fn a_second_run_does_nothing_and_says_so() {
    let low = Low::new();
    low.write("first", &[], 0);
    let before = (text(low.sync("record-keeping.csv")), low.files());
    let report = low.write("first", &[], 0);
    assert_eq!(states(&report), [("000001-tools.tar", "unchanged"), ("000002-apps.tar", "unchanged")]);
    let list = fixture("batch/first.csv");
    let out = mirror(low.home()).args(["batch-serialize", list.to_str().unwrap(), "sync"]).assert().success();
    assert!(String::from_utf8_lossy(&out.get_output().stdout).contains("nothing to write to sync"));
    assert_eq!((text(low.sync("record-keeping.csv")), low.files()), before);

    low.read(&[], 0);
    let table = text(low.sync("successful-syncs.csv"));
    let report = low.read(&[], 0);
    assert!(states(&report).iter().all(|(_, state)| *state == "unchanged"));
    let out = mirror(low.home()).args(["batch-deserialize", "sync", "oci:high"]).assert().success();
    assert!(String::from_utf8_lossy(&out.get_output().stdout).contains("nothing to read from sync"));
    assert_eq!(text(low.sync("successful-syncs.csv")), table);
    // Another destination was read to by nobody.
    let report = run(low.home(), &["batch-deserialize", "sync", "oci:higher"], 0);
    assert!(states(&report).iter().all(|(_, state)| *state == "done"));
}

#[test]
fn a_dry_run_changes_nothing() {
    let low = Low::new();
    let report = low.write("first", &["--dry-run"], 0);
    assert_eq!(states(&report), [("000001-tools.tar", "planned"), ("000002-apps.tar", "planned")]);
    assert!(!low.sync("").exists());
    low.write("first", &[], 0);
    for entry in report["archives"].as_array().unwrap() {
        let file = low.sync(entry["file"].as_str().unwrap());
        assert_eq!(entry["bytes"], std::fs::metadata(file).unwrap().len());
    }
    let files = low.files();
    let report = low.read(&["--dry-run"], 0);
    assert_eq!(states(&report), [("000001-tools.tar", "planned"), ("000002-apps.tar", "planned")]);
    assert_eq!(low.files(), files);
    assert!(!low.home().join("high").exists());
}

#[test]
fn digests_decide_and_not_names() {
    let low = Low::new();
    std::fs::write(low.home().join("batch.csv"), "name,artifact\ntools,reg.low.example/gather:now\n").unwrap();
    low.tag("now", "part1");
    low.write_list("batch.csv", &[], 0);
    low.tag("now", "part2");
    assert_eq!(states(&low.write_list("batch.csv", &[], 0)), [("000002-tools.tar", "done")]);
    // Back again: the other side has the other one by now.
    low.tag("now", "part1");
    assert_eq!(states(&low.write_list("batch.csv", &[], 0)), [("000003-tools.tar", "done")]);
    assert_eq!(states(&low.write_list("batch.csv", &[], 0)), [("000003-tools.tar", "unchanged")]);
    // Under another reference it is what it was.
    std::fs::write(low.home().join("batch.csv"), "name,artifact\ntools,reg.low.example/gather:part1\n").unwrap();
    assert_eq!(states(&low.write_list("batch.csv", &[], 0)), [("000003-tools.tar", "unchanged")]);
    low.read(&[], 0);
    assert_eq!(low.tags()["tools"], digest_of("part1"));
}

#[test]
fn an_older_archive_does_not_take_the_tag() {
    let low = Low::new();
    low.write("first", &[], 0);
    low.write("second", &[], 0);
    let late = std::fs::read(low.sync("000001-tools.tar")).unwrap();
    low.read(&[], 0);
    // The table forgot the first archive, as where it arrives late or again.
    let table = text(low.sync("successful-syncs.csv"));
    let without: String = table.lines().filter(|l| !l.starts_with("000001")).map(|l| format!("{l}\n")).collect();
    std::fs::write(low.sync("successful-syncs.csv"), without).unwrap();
    std::fs::write(low.sync("000001-tools.tar"), late).unwrap();
    let report = low.read(&[], 0);
    assert_eq!(states(&report)[0], ("000001-tools.tar", "done"));
    assert_eq!(report["archives"][0]["reference"], format!("oci:high@{}", digest_of("part1")));
    assert_eq!(low.tags()["tools"], digest_of("part2"));
}

#[test]
fn one_that_fails_stops_no_other_and_leaves_nothing() {
    let low = Low::new();
    let list = "name,artifact\ngone,reg.low.example/gather:gone\napps,reg.low.example/gather:labels\n";
    std::fs::write(low.home().join("batch.csv"), list).unwrap();
    let report = low.write_list("batch.csv", &[], 1);
    assert_eq!(states(&report), [("000001-apps.tar", "done")]);
    assert_eq!(
        (&report["failures"][0]["line"], &report["failures"][0]["image"]),
        (&Value::from(2), &Value::from("reg.low.example/gather:gone"))
    );
    assert_eq!(low.files(), ["000001-apps.tar", "record-keeping.csv"]);
    low.tag("gone", "part1");
    assert_eq!(
        states(&low.write_list("batch.csv", &[], 0)),
        [("000002-gone.tar", "done"), ("000001-apps.tar", "unchanged")]
    );
}

#[test]
fn a_damaged_archive_stops_no_other_and_is_read_when_it_is_mended() {
    let low = Low::new();
    low.write("first", &[], 0);
    let whole = std::fs::read(low.sync("000001-tools.tar")).unwrap();
    std::fs::write(low.sync("000001-tools.tar"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(low.sync("README.txt"), "read me").unwrap();
    let report = low.read(&[], 1);
    assert!(!states(&report).contains(&("000001-tools.tar", "done")));
    assert_eq!(report["failures"][0]["image"], "sync/000001-tools.tar");
    assert_eq!(report["ignored"], serde_json::json!(["README.txt"]));
    assert!(low.tags().keys().all(|name| name != "tools"));
    std::fs::write(low.sync("000001-tools.tar"), &whole).unwrap();
    low.read(&[], 0);
    assert_eq!(
        low.tags(),
        BTreeMap::from([("apps".into(), digest_of("labels")), ("tools".into(), digest_of("part1"))])
    );
}

#[test]
fn names_with_dashes_and_dots() {
    for (compression, suffix) in [("", ".tar"), ("zstd", ".tar.zst"), ("gzip", ".tar.gz")] {
        let low = Low::new();
        let list =
            "name,artifact\nbase-images-v1.2,reg.low.example/gather:part1\nx.tar,reg.low.example/gather:labels\n";
        std::fs::write(low.home().join("batch.csv"), list).unwrap();
        let option = format!("--compression={compression}");
        let more: &[&str] = if compression.is_empty() { &[] } else { &[&option] };
        low.write_list("batch.csv", more, 0);
        let files = [format!("000001-base-images-v1.2{suffix}"), format!("000002-x.tar{suffix}")];
        assert_eq!(low.files(), [&files[0], &files[1], "record-keeping.csv"]);
        low.read(&[], 0);
        assert_eq!(low.tags().into_keys().collect::<Vec<_>>(), ["base-images-v1.2", "x.tar"]);
        assert_eq!(states(&low.write_list("batch.csv", more, 0))[1].1, "unchanged");
    }
}

#[test]
fn what_the_table_does_not_know_is_left_as_it_is() {
    let low = Low::new();
    low.bring(&[]);
    std::fs::write(low.sync("000001-tools.tar"), "half an archive").unwrap();
    std::fs::write(low.sync("README.txt"), "read me").unwrap();
    let report = low.write("first", &[], 1);
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("000001-tools.tar") && error.contains("--force"), "{error}");
    assert_eq!(low.files(), ["000001-tools.tar", "README.txt"]);
    assert_eq!(text(low.sync("000001-tools.tar")), "half an archive");
    low.write("first", &["--force"], 0);
    assert_eq!(holds(low.sync("000001-tools.tar")), holds(fixture("batch/sync/000001-tools.tar")));
    assert_eq!(low.files(), ["000001-tools.tar", "000002-apps.tar", "README.txt", "record-keeping.csv"]);
}

#[test]
fn an_interrupted_archive_is_gone_on_with() {
    let low = Low::new();
    low.write("first", &[], 0);
    let whole = std::fs::read(low.sync("000001-tools.tar")).unwrap();
    for left in [&whole[..whole.len() / 2], &[whole.clone(), whole.clone()].concat(), b"something else"] {
        std::fs::remove_dir_all(low.sync("")).unwrap();
        std::fs::create_dir(low.sync("")).unwrap();
        std::fs::write(low.sync("000001-tools.tar.partial"), left).unwrap();
        std::fs::write(
            low.sync("record-keeping.csv.partial"),
            "a row that was cut, and much longer than the table is".repeat(9),
        )
        .unwrap();
        low.write("first", &[], 0);
        assert!(std::fs::read(low.sync("000001-tools.tar")).unwrap() == whole);
        assert_eq!(low.files(), ["000001-tools.tar", "000002-apps.tar", "record-keeping.csv"]);
        assert_eq!(text(low.sync("record-keeping.csv")), text(fixture("batch/record-keeping-after-first.csv")));
    }
}

#[test]
fn an_archive_that_is_not_the_recorded_one_is_refused() {
    let low = Low::new();
    low.write("first", &[], 0);
    std::fs::copy(low.sync("000002-apps.tar"), low.sync("000001-tools.tar")).unwrap();
    let report = low.read(&[], 1);
    let error = report["failures"][0]["error"].as_str().unwrap();
    assert!(error.contains("record-keeping.csv says"), "{error}");
    assert!(!low.tags().contains_key("tools"));
    std::fs::rename(low.sync("000001-tools.tar"), low.sync("tools.tar")).unwrap();
    let report = low.read(&[], 1);
    assert!(report["error"].as_str().unwrap().contains("tools.tar"), "{report}");
}

#[test]
fn two_runs_at_once_do_not_mix() {
    let low = Low::new();
    low.bring(&[]);
    let held = std::fs::File::open(low.sync("")).unwrap();
    held.lock().unwrap();
    for report in [low.write("first", &[], 1), low.read(&[], 1)] {
        assert!(report["error"].as_str().unwrap().contains("another run is at work"), "{report}");
    }
    drop(held);
    low.write("first", &[], 0);
}

#[test]
fn bad_tables_and_lists_are_refused_whole() {
    let low = Low::new();
    std::fs::write(low.home().join("batch.csv"), "name,artifact\ntools\na/b,reg.low.example/gather:part1\n").unwrap();
    let report = low.write_list("batch.csv", &[], 2);
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("batch.csv:2: ") && error.contains("batch.csv:3: "), "{error}");
    low.bring(&[]);
    std::fs::write(low.sync("record-keeping.csv"), "sync_name,artifact,digest\n000001-tools.tar,x\n").unwrap();
    let report = low.write("first", &[], 1);
    assert!(report["error"].as_str().unwrap().contains("record-keeping.csv:2: "), "{report}");
    assert_eq!(low.files(), ["record-keeping.csv"]);
}
