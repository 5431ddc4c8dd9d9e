//! Differential archives in every order, into repositories and to destinations, from a file, a pipe and a compressed
//! archive: what is missing on the other side is named before anything is pushed, and nothing else is.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::program::{Registry, unpack_samples};
use super::run::{IMAGES, digests, is_empty, run, run_on, whole, write_list};

/// Which images the first increment has, and with which the next ones go on. Those of the last share layers with
/// those of the first, which are in other repositories.
const CHOICE: [&[usize]; 3] = [&[0, 4], &[0, 4, 1, 3], &[0, 4, 1, 3, 2, 5]];

/// A home with three archives, `1.tar` to `3.tar`, referrers included, each of which leaves out what the ones before hold.
fn archived() -> TempDir {
    let home = unpack_samples("images");
    for (at, choice) in CHOICE.iter().enumerate() {
        let images: Vec<&str> = choice.iter().map(|i| IMAGES[*i]).collect();
        let (list, tag) = (format!("{}.list", at + 1), format!("sync-{}", at + 1));
        write_list(home.path(), &list, "oci:images:", &images);
        let before: Vec<String> = (1..=at).map(|n| format!("{n}.tar")).collect();
        for (file, more) in [("tar", &[][..]), ("tar.zst", &["--compression", "zstd"])] {
            let file = format!("{}.{file}", at + 1);
            let mut arguments = vec!["archive", "-r", &list, &file, &tag];
            arguments.extend(before.iter().map(String::as_str));
            run(home.path(), &[&arguments, more].concat(), 0);
        }
    }
    home
}

/// How an archive is read.
#[derive(Clone, Copy, Debug)]
enum Way {
    File,
    Pipe,
    Compressed,
}

const WAYS: [Way; 3] = [Way::File, Way::Pipe, Way::Compressed];

/// Runs the verb on the archive of that number.
fn read(home: &Path, way: Way, verb: &str, number: usize, more: &[&str], code: i32) -> Value {
    let (source, bytes) = match way {
        Way::File => (format!("{number}.tar"), Vec::new()),
        Way::Pipe => ("-".into(), std::fs::read(home.join(format!("{number}.tar"))).unwrap()),
        Way::Compressed => (format!("{number}.tar.zst"), Vec::new()),
    };
    run_on(home, &bytes, &[&[verb, &source], more].concat(), code)
}

/// What an archive holds, or what it expects on the other side.
fn listed(home: &Path, number: usize, expected: bool) -> BTreeSet<String> {
    let told = run(home, &["inspect", &format!("{number}.tar")], 0);
    let text = |digest: &Value| digest.as_str().unwrap().to_owned();
    if expected {
        told["expected"].as_array().unwrap().iter().map(|object| text(&object["digest"])).collect()
    } else {
        let told = run(home, &["diff", &format!("{number}.tar")], 0);
        told["digests"].as_array().unwrap().iter().map(text).collect()
    }
}

/// The digests that a refusal names: up to ten, and it says how many there are.
fn named(refused: &Value) -> (BTreeSet<String>, usize) {
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("leaves out what it expects in") && error.contains("Nothing was pushed"), "{error}");
    let count = error.split(" of that is missing there").next().unwrap().rsplit(' ').next().unwrap();
    let names =
        error.split(|c: char| c != ':' && !c.is_ascii_alphanumeric()).filter(|word| word.starts_with("sha256:"));
    (names.map(str::to_owned).collect(), count.parse().unwrap())
}

fn blobs(directory: &Path) -> BTreeSet<String> {
    let files = std::fs::read_dir(directory.join("blobs/sha256")).into_iter().flatten();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

/// Reads the archives in orders that are wrong and at last right, into a registry that has that directory.
fn in_every_order(home: &Path, way: Way, verb: &str, directory: &str, more: &[&str]) {
    let high = home.join(directory);
    // Signatures and their like are needed only if they are taken along.
    let everything = verb == "deserialize" || more.contains(&"-r");
    let refused = |number: usize, there: &[usize]| {
        let before = blobs(&high);
        let (names, count) = named(&read(home, way, verb, number, more, 1));
        let held: BTreeSet<String> = there.iter().flat_map(|n| listed(home, *n, false)).collect();
        let missing: BTreeSet<String> = listed(home, number, true).difference(&held).cloned().collect();
        assert!(names.is_subset(&missing), "{way:?} {verb}: {names:?}");
        assert!(if everything { count == missing.len() } else { count < missing.len() }, "{count} of {missing:?}");
        assert_eq!(blobs(&high), before, "something was pushed");
    };
    let sent = |report: &Value| report["moved"]["bytesSent"].as_u64().unwrap();
    refused(2, &[]);
    assert!(is_empty(&high));
    read(home, way, verb, 1, more, 0);
    refused(3, &[1]);
    assert_ne!(sent(&read(home, way, verb, 2, more, 0)), 0);
    assert_eq!(sent(&read(home, way, verb, 2, more, 0)), 0);
    assert_ne!(sent(&read(home, way, verb, 3, more, 0)), 0);
    for number in [1, 3, 2] {
        assert_eq!(sent(&read(home, way, verb, number, more, 0)), 0);
    }
}

#[test]
fn deserialize_takes_increments_in_their_order_and_names_what_is_missing_in_any_other() {
    let home = archived();
    let home = home.path();
    for way in WAYS {
        let directory = format!("high-{way:?}");
        in_every_order(home, way, "deserialize", &directory, &[&format!("oci:{directory}:sync")]);
        assert_eq!(run(home, &["verify", &format!("oci:{directory}")], 0)["whole"], true);
    }
}

#[test]
fn unarchive_takes_increments_in_their_order_and_names_what_is_missing_in_any_other() {
    let home = archived();
    let home = home.path();
    for way in WAYS {
        for recursive in [&[][..], &["-r"]] {
            let directory = format!("high-{way:?}-{}", recursive.len());
            let high = Registry::start(home, &directory);
            std::fs::write(home.join("dest.csv"), format!("oci:images:,{}/\n", high.address)).unwrap();
            in_every_order(home, way, "unarchive", &directory, &[&["all-prefix=dest.csv"], recursive].concat());
            let prefix = format!("{}/", high.address);
            write_list(home, "arrived.list", &prefix, &IMAGES);
            write_list(home, "before.list", "oci:images:", &IMAGES);
            assert_eq!(digests(home, "arrived.list", &prefix), digests(home, "before.list", "oci:images:"));
            whole(home, "arrived.list");
        }
    }
}

#[test]
fn unarchive_asks_only_for_what_the_chosen_images_need() {
    let home = archived();
    let home = home.path();
    let chosen = |list: &str, image: &str| write_list(home, list, "oci:images:", &[image]);
    chosen("new.list", IMAGES[2]);
    chosen("old.list", IMAGES[3]);
    for way in WAYS {
        let directory = format!("high-{way:?}");
        let high = Registry::start(home, &directory);
        let rules = |prefix: &str| {
            let rule = format!("oci:images:{prefix},{}/{prefix}\n", high.address);
            std::fs::write(home.join("dest.csv"), rule).unwrap();
        };
        rules("");
        let unarchive =
            |more: &[&str], code| read(home, way, "unarchive", 3, &[&["all-prefix=dest.csv"], more].concat(), code);
        // The others of the archive would lack something.
        unarchive(&["--check", "--subset", "new.list"], 0);
        named(&unarchive(&["--check"], 1));
        named(&unarchive(&["--check", "--subset", "old.list"], 1));
        let refused = unarchive(&["--subset", "old.list"], 1);
        assert!(refused["error"].as_str().unwrap().contains("leaves out what it expects in"), "{refused}");
        assert!(is_empty(&home.join(&directory)));
        unarchive(&["--subset", "new.list"], 0);
        rules(IMAGES[3]);
        unarchive(&[], 1);
        rules(IMAGES[2]);
        unarchive(&[], 0);
    }
}
