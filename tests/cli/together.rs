//! Two runs at the same time: into one repository, one layout, one archive. Both are right, or one is refused and says
//! why; never is there something that looks complete and is not.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::interrupts::stalling_registry;
use super::program::{Registry, mirror, process, signal, unpack_samples};

const IMAGES: [&str; 4] = ["edge/signed:v1", "team-0/app-000:v1.0", "team-1/app-001:v1.1", "edge/huge-layers:v1"];

fn start(home: &Path, arguments: &[&str]) -> Child {
    process(home).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Code and messages.
fn end(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Runs all of them at the same time; all must end with 0.
fn at_once(home: &Path, all: &[&[&str]]) {
    let children: Vec<Child> = all.iter().map(|arguments| start(home, arguments)).collect();
    for (arguments, (code, said)) in all.iter().zip(children.into_iter().map(end)) {
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
    }
}

/// Everything is there and right; its digest.
fn whole(home: &Path, place: &str) -> String {
    let output = mirror(home).args(["verify", "-r", place, "--output", "json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["whole"]), (Some(0), &true.into()), "{place}: {report}");
    let output = mirror(home).args(["serialize", "--dry-run", place, "x.tar", "--output", "json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["digest"].as_str().unwrap().to_owned()
}

/// A home with the sample images in `low`, and lists of them: all, and with an overlap the first and the last ones.
fn home() -> tempfile::TempDir {
    let home = unpack_samples("low");
    for (name, images) in [("all.list", &IMAGES[..]), ("first.list", &IMAGES[..3]), ("last.list", &IMAGES[1..])] {
        let lines: String = images.iter().map(|image| format!("oci:low:{image}\n")).collect();
        std::fs::write(home.path().join(name), lines).unwrap();
    }
    home
}

#[test]
fn two_gathers_into_one_place() {
    let home = home();
    let home = home.path();
    let registry = Registry::start(home, "served");
    for place in [format!("{}/gather", registry.address), "oci:layout".into()] {
        let [first, last, same] = ["first", "last", "same"].map(|tag| format!("{place}:{tag}"));
        at_once(
            home,
            &[
                &["gather", "-r", "first.list", &first],
                &["gather", "-r", "last.list", &last],
                &["gather", "-r", "all.list", &same],
                &["gather", "-r", "all.list", &same],
            ],
        );
        let digests = [&first, &last, &same].map(|image| whole(home, image));
        assert!(digests[0] != digests[1] && digests[1] != digests[2], "{digests:?}");
    }
}

#[test]
fn two_runs_read_one_archive_into_one_place() {
    let home = home();
    let home = home.path();
    mirror(home).args(["archive", "-r", "all.list", "all.tar", "all"]).assert().success();
    let registry = Registry::start(home, "served");
    let rules = format!("oci:low:,{}/\noci:low:,oci:scattered:\n", registry.address);
    std::fs::write(home.join("dest.csv"), rules).unwrap();
    for place in [format!("{}/high", registry.address), "oci:layout".into()] {
        let [one, two] = ["one", "two"].map(|tag| format!("{place}:{tag}"));
        at_once(
            home,
            &[&["deserialize", "all.tar", &one], &["deserialize", "all.tar", &one], &["deserialize", "all.tar", &two]],
        );
        assert_eq!(whole(home, &one), whole(home, &two));
    }
    let unarchive = ["unarchive", "-r", "all.tar", "all-prefix=dest.csv"];
    at_once(home, &[&unarchive, &["clone", "-r", "all.list", "all-prefix=dest.csv"], &unarchive]);
    for image in IMAGES {
        let digest = whole(home, &format!("oci:low:{image}"));
        assert_eq!(whole(home, &format!("{}/{image}", registry.address)), digest);
        assert_eq!(whole(home, &format!("oci:scattered:{image}")), digest);
    }
}

#[test]
fn two_archives_of_one_name_are_one_that_is_right() {
    let home = home();
    let home = home.path();
    mirror(home).args(["archive", "all.list", "reference.tar", "all"]).assert().success();
    let right = std::fs::read(home.join("reference.tar")).unwrap();
    for more in [&[][..], &["--force"], &["--resume"]] {
        let arguments = [&["archive", "all.list", "all.tar", "all"], more].concat();
        let ended = [start(home, &arguments), start(home, &arguments)].map(end);
        assert!(ended.iter().any(|(code, _)| *code == Some(0)), "{ended:?}");
        for (code, said) in &ended {
            let refused = said.contains("another run is writing") || said.contains("exists");
            assert!(*code == Some(0) || (*code == Some(1) && refused), "{ended:?}");
        }
        assert!(std::fs::read(home.join("all.tar")).unwrap() == right, "{more:?}");
        assert!(!home.join("all.tar.partial").exists());
        std::fs::remove_file(home.join("all.tar")).unwrap();
    }
}

#[test]
fn what_a_run_is_writing_no_other_touches() {
    let (registry, asked) = stalling_registry();
    let image = format!("{registry}/a:1");
    for more in [&[][..], &["--volume-size", "2MiB"], &["--compression", "zstd"]] {
        let home = unpack_samples("low");
        let home = home.path();
        let first = start(home, &[&["serialize", &image, "a.tar"], more].concat());
        asked.recv_timeout(Duration::from_secs(20)).unwrap();
        for flag in ["--force", "--resume"] {
            let second = [&["serialize", "oci:low:edge/plain:v1", "a.tar", flag], more].concat();
            if more.contains(&"--compression") && flag == "--resume" {
                continue;
            }
            let (code, said) = end(start(home, &second));
            assert!(code == Some(1) && said.contains("another run is writing"), "{more:?} {flag}: {said}");
        }
        signal(&first, "INT");
        assert_eq!(end(first).0, Some(130));
        // Now it may.
        mirror(home).args(["serialize", "oci:low:edge/plain:v1", "a.tar", "--force"]).args(more).assert().success();
    }
}
