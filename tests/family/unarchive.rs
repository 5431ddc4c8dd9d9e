//! `unarchive` brings every image of an archive to its destinations: from a file what is needed, from a pipe in one
//! pass, each blob once to a registry; and never says yes to an archive that is not whole.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::program::{Registry, unpack_samples};
use super::run::{IMAGES, digests, is_empty, run, run_on, whole, write_list};

/// A home with the images in `images`, their list, and their archive, referrers included.
fn archived() -> TempDir {
    let home = unpack_samples("images");
    write_list(home.path(), "sources.list", "oci:images:", &IMAGES);
    run(home.path(), &["archive", "sources.list", "sync.tar", "sync", "-r"], 0);
    home
}

/// The images are there, with all that they need, and are what they were.
fn arrived(home: &Path, prefix: &str, images: &[&str]) {
    write_list(home, "before.list", "oci:images:", images);
    write_list(home, "arrived.list", prefix, images);
    assert_eq!(digests(home, "arrived.list", prefix), digests(home, "before.list", "oci:images:"));
    whole(home, "arrived.list");
}

fn number(report: &Value, name: &str) -> u64 {
    report["moved"][name].as_u64().unwrap()
}

/// To two repositories of a registry each, and some to another one.
fn rules(home: &Path, high: &Registry, other: &Registry) {
    let (high, other) = (&high.address, &other.address);
    let rules = format!("oci:images:,{high}/a/\noci:images:,{high}/b/\noci:images:edge/,{other}/c/\n");
    std::fs::write(home.join("dest.csv"), rules).unwrap();
}

#[test]
fn a_file_and_a_pipe_bring_everything_and_each_blob_once_to_a_registry() {
    let home = archived();
    let home = home.path();
    run(home, &["archive", "sources.list", "sync.tar.zst", "sync", "-r", "--compression", "zstd"], 0);
    let archive = std::fs::read(home.join("sync.tar")).unwrap();
    let unique = run(home, &["gather", "-r", "sources.list", "oci:all:sync"], 0);
    let unique = (number(&unique, "blobsSent"), number(&unique, "bytesSent"));
    for (way, source) in [("file", "sync.tar"), ("pipe", "-"), ("zstd", "sync.tar.zst")] {
        let (high, other) =
            (Registry::start(home, &format!("high-{way}")), Registry::start(home, &format!("other-{way}")));
        rules(home, &high, &other);
        let arguments = ["unarchive", source, "all-prefix=dest.csv", "-r"];
        let check = run_on(home, &archive, &[&arguments[..], &["--check"]].concat(), 0);
        assert!(check["checkedOnly"] == true && is_empty(&home.join(format!("high-{way}"))));
        let report = run_on(home, &archive, &arguments, 0);
        assert_eq!((&report["schema"], &report["images"]), (&"mirror/unarchive/v1".into(), &check["images"]));
        assert!(number(&report, "blobsSent") <= 2 * unique.0, "{way}: {report}");
        assert!(number(&report, "bytesSent") <= 2 * unique.1, "{way}: {report}");
        assert!(number(&report, "blobsMounted") > 0, "{way}: {report}");
        arrived(home, &format!("{}/a/", high.address), &IMAGES);
        arrived(home, &format!("{}/b/", high.address), &IMAGES);
        let edge: String = IMAGES[..4].iter().map(|i| format!("{}/c/{}\n", other.address, &i[5..])).collect();
        std::fs::write(home.join("edge.list"), edge).unwrap();
        whole(home, "edge.list");
        let again = run_on(home, &archive, &arguments, 0);
        assert_eq!((number(&again, "blobsSent"), number(&again, "bytesSent")), (0, 0), "{way}: {again}");
    }
}

#[test]
fn to_layouts_from_a_pipe() {
    let home = archived();
    let home = home.path();
    let archive = std::fs::read(home.join("sync.tar")).unwrap();
    std::fs::write(home.join("dest.csv"), "oci:images:,oci:out:\noci:images:edge/,oci:edge:edge/\n").unwrap();
    run_on(home, &archive, &["unarchive", "-", "all-prefix=dest.csv", "-r"], 0);
    arrived(home, "oci:out:", &IMAGES);
    arrived(home, "oci:edge:", &IMAGES[..4]);
}

#[test]
fn a_choice_reads_only_what_it_needs() {
    let home = archived();
    let home = home.path();
    let archive = std::fs::read(home.join("sync.tar")).unwrap();
    let chosen = &IMAGES[4..5];
    write_list(home, "subset.list", "oci:images:", chosen);
    let alone = run(home, &["gather", "subset.list", "oci:alone:sync"], 0);
    std::fs::write(home.join("dest.csv"), "oci:images:,oci:out:\n").unwrap();
    let arguments = ["unarchive", "sync.tar", "all-prefix=dest.csv", "--subset", "subset.list"];
    let report = run(home, &arguments, 0);
    assert_eq!(number(&report, "bytesSent"), number(&alone, "bytesSent"), "{report}");
    arrived(home, "oci:out:", chosen);

    std::fs::write(home.join("dest.csv"), "oci:images:,oci:piped:\n").unwrap();
    let arguments = ["unarchive", "-", "all-prefix=dest.csv", "--subset", "subset.list"];
    let piped = run_on(home, &archive, &arguments, 0);
    assert_eq!(piped["images"].as_array().unwrap().len(), 1);
    arrived(home, "oci:piped:", chosen);

    let arguments = ["-p", "linux/arm64", "--subset", "subset.list"];
    for source in ["sync.tar", "-"] {
        std::fs::write(home.join("dest.csv"), format!("oci:images:,oci:arm{}:\n", source.len())).unwrap();
        let one = run_on(home, &archive, &[&["unarchive", source, "all-prefix=dest.csv"], &arguments[..]].concat(), 0);
        assert_eq!(one["images"].as_array().unwrap().len(), 1, "{one}");
    }
}

#[test]
fn two_images_for_one_destination_are_refused_before_anything_is_sent() {
    let home = archived();
    let home = home.path();
    let archive = std::fs::read(home.join("sync.tar")).unwrap();
    std::fs::write(home.join("rules.tmpl"), "oci:out:same").unwrap();
    for source in ["sync.tar", "-"] {
        let error = run_on(home, &archive, &["unarchive", source, "go-template=rules.tmpl"], 1);
        assert!(error["error"].as_str().unwrap().contains("two images for oci:out:same"), "{error}");
        assert!(!home.join("out").exists());
    }
}

#[test]
fn an_archive_that_was_cut_is_never_a_success() {
    let home = archived();
    let home = home.path();
    std::fs::write(home.join("dest.csv"), "oci:images:,oci:out:\n").unwrap();
    let archive = std::fs::read(home.join("sync.tar")).unwrap();
    let blocks = archive.len() / 512;
    for block in [1, 5, 9, blocks / 3, blocks / 2, blocks - 12, blocks - 3, blocks - 2, blocks - 1] {
        std::fs::write(home.join("cut.tar"), &archive[..block * 512]).unwrap();
        run(home, &["unarchive", "cut.tar", "all-prefix=dest.csv"], 1);
        run_on(home, &archive[..block * 512], &["unarchive", "-", "all-prefix=dest.csv"], 1);
    }
    // What arrived from parts is not sent again.
    let rest = run(home, &["unarchive", "sync.tar", "all-prefix=dest.csv"], 0);
    assert_eq!(number(&rest, "blobsSent"), 0, "{rest}");
}

#[test]
fn a_part_relies_on_what_an_earlier_one_brought() {
    let home = archived();
    let home = home.path();
    write_list(home, "first.list", "oci:images:", &IMAGES[..5]);
    run(home, &["archive", "first.list", "first.tar", "sync-1"], 0);
    run(home, &["archive", "sources.list", "second.tar", "sync-2", "first.tar"], 0);
    let high = Registry::start(home, "high");
    std::fs::write(home.join("dest.csv"), format!("oci:images:,{}/\n", high.address)).unwrap();
    let refused = run(home, &["unarchive", "second.tar", "all-prefix=dest.csv"], 1);
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("leaves out what it expects") && error.contains("sha256:"), "{error}");
    assert_eq!(std::fs::read_dir(home.join("high/blobs/sha256")).map_or(0, Iterator::count), 0, "nothing was pushed");
    run(home, &["unarchive", "first.tar", "all-prefix=dest.csv"], 0);
    run(home, &["unarchive", "second.tar", "all-prefix=dest.csv"], 0);
    arrived(home, &format!("{}/", high.address), &IMAGES);
}

#[test]
fn other_sources_and_names() {
    let home = archived();
    let home = home.path();
    std::fs::write(home.join("dest.csv"), "oci:images:,oci:out:\n").unwrap();
    run(home, &["unarchive", "sync.tar", "all-prefix=dest.csv", "sync"], 0);
    let error = run(home, &["unarchive", "sync.tar", "all-prefix=dest.csv", "other"], 1);
    assert!(error["error"].as_str().unwrap().contains("\"other\""), "{error}");
    run(home, &["deserialize", "sync.tar", "oci:high:sync"], 0);
    let again = run(home, &["unarchive", "oci:high:sync", "all-prefix=dest.csv"], 0);
    assert_eq!(number(&again, "blobsSent"), 0);
    // What has no destination is said, and is no failure.
    std::fs::write(home.join("dest.csv"), "oci:images:edge/plain,oci:one:plain\n").unwrap();
    let one = run(home, &["unarchive", "sync.tar", "all-prefix=dest.csv"], 0);
    assert_eq!(one["noDestination"].as_array().unwrap().len(), IMAGES.len() - 1);
}

#[test]
fn a_pipe_whose_index_comes_last_is_refused_and_a_file_is_not() {
    let home = archived();
    let home = home.path();
    std::fs::create_dir(home.join("unpacked")).unwrap();
    let tar = |arguments: &[&str]| {
        let tar = std::process::Command::new("tar").args(arguments).current_dir(home.join("unpacked")).status();
        assert!(tar.unwrap().success());
    };
    tar(&["-xf", "../sync.tar"]);
    let index: Value = serde_json::from_slice(&std::fs::read(home.join("unpacked/index.json")).unwrap()).unwrap();
    let root = index["manifests"][0]["digest"].as_str().unwrap().replace(':', "/");
    let root = format!("blobs/{root}");
    tar(&["-cf", "../late.tar", "--exclude", &root, "oci-layout", "blobs"]);
    tar(&["-rf", "../late.tar", &root, "index.json"]);
    std::fs::write(home.join("dest.csv"), "oci:images:,oci:out:\n").unwrap();
    let late = std::fs::read(home.join("late.tar")).unwrap();
    let piped = run_on(home, &late, &["unarchive", "-", "all-prefix=dest.csv"], 1);
    let failures = piped["failures"].as_array().unwrap();
    assert_eq!(failures.len(), IMAGES.len(), "{piped}");
    for failure in failures {
        let error = failure["error"].as_str().unwrap();
        assert!(error.contains("has passed and cannot be read again: use a regular, uncompressed file"), "{error}");
    }
    run(home, &["unarchive", "late.tar", "all-prefix=dest.csv"], 0);
    arrived(home, "oci:out:", &IMAGES);
}
