//! An archive in volumes: what is written, what is read, and what is said of each thing that can happen to them.

use std::time::Duration;

use super::home::{Ended, Home, LARGEST};

/// Smaller than the largest layer.
const SIZE: usize = 20_480;

/// `a.tar` in volumes, and as one file `whole.tar`.
async fn written() -> (Home, usize) {
    let home = Home::new().await;
    const { assert!(SIZE < LARGEST) };
    home.mirror(&["serialize", "oci:low:a", "a.tar", "--volume-size", &SIZE.to_string()]).says(0, &[]);
    home.mirror(&["serialize", "oci:low:a", "whole.tar"]).says(0, &[]);
    let count = home.read("whole.tar").len().div_ceil(SIZE);
    (home, count)
}

fn part(n: usize) -> String {
    format!("a.tar.{n:03}")
}

fn listing(home: &Home) -> serde_json::Value {
    serde_json::from_slice(&home.read("a.tar.volumes.json")).unwrap()
}

/// All of it arrives from `source`, and not before.
fn arrives(home: &Home, source: &[&str]) {
    let ended = home.mirror(&[&["deserialize"], source, &["oci:high:a"]].concat());
    ended.says(0, &[]);
    home.mirror(&["diff", "oci:low:a", "oci:high:a"]).says(0, &[]);
    std::fs::remove_dir_all(home.path("high")).unwrap();
}

/// It ends with 1 and these words, and nothing has arrived.
fn refused(home: &Home, source: &[&str], words: &[&str]) -> Ended {
    let ended = home.mirror(&[&["deserialize"], source, &["oci:high:a"]].concat());
    ended.says(1, words);
    assert!(!home.path("high").exists(), "{}", ended.stderr);
    ended
}

#[tokio::test]
async fn the_parts_put_together_are_the_archive() {
    let (home, count) = written().await;
    let parts: Vec<_> = (1..=count).map(|n| home.read(&part(n))).collect();
    assert!(parts.concat() == home.read("whole.tar"));
    assert!(parts[..count - 1].iter().all(|part| part.len() == SIZE));
    let mut expected: Vec<_> = (1..=count).map(part).collect();
    expected.extend(["a.tar.volumes.json", "low", "whole.tar"].map(String::from));
    let names: Vec<_> = home.names(".").into_iter().filter(|name| !name.starts_with('.')).collect();
    assert_eq!(names, expected, "nothing else is left");
    let listing = listing(&home);
    assert_eq!((&listing["complete"], &listing["volumeSize"]), (&true.into(), &SIZE.into()));
    for (n, volume) in listing["volumes"].as_array().unwrap().iter().enumerate() {
        let digest = airgap_mirror::image::Digest::sha256(&parts[n]).to_string();
        assert_eq!((volume["sequence"].as_u64(), volume["digest"].as_str()), (Some(n as u64 + 1), Some(&*digest)));
    }
    for source in ["a.tar.001", "a.tar.003", "a.tar.volumes.json", "a.tar.*"] {
        arrives(&home, &[source]);
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_volume_is_named_before_anything_is_sent() {
    let (home, count) = written().await;
    let (two, three) = (home.read(&part(2)), home.read(&part(3)));
    let restore = || {
        home.write(&part(2), &two);
        home.write(&part(3), &three);
        arrives(&home, &["a.tar.001"]);
    };
    // Lost: two at once are named at once.
    std::fs::remove_file(home.path(&part(2))).unwrap();
    std::fs::remove_file(home.path(&part(3))).unwrap();
    let all = format!("2 of {count} volumes cannot be used: a.tar.002: it is missing; a.tar.003: it is missing");
    refused(&home, &["a.tar.001"], &[&all, "--volumes-in"]);
    restore();
    // Altered by one bit.
    let mut altered = two.clone();
    altered[777] ^= 1;
    home.write(&part(2), &altered);
    refused(
        &home,
        &["a.tar.001"],
        &["a.tar.002: it was altered, or belongs to another archive: its digest is sha256:"],
    );
    restore();
    // Cut.
    home.write(&part(2), &two[..SIZE - 1]);
    refused(&home, &["a.tar.001"], &["a.tar.002: it has 20479 bytes in place of 20480: it was cut or altered"]);
    restore();
    // Swapped.
    home.write(&part(2), &three);
    home.write(&part(3), &two);
    refused(&home, &["a.tar.001"], &["a.tar.002: it is a copy of volume 3", "a.tar.003: it is a copy of volume 2"]);
    restore();
    // Repeated.
    home.write(&part(3), &two);
    refused(&home, &["a.tar.001"], &["1 of ", "a.tar.003: it is a copy of volume 2"]);
    restore();
    // Of another archive of the same name.
    std::fs::create_dir(home.path("other")).unwrap();
    let size = SIZE.to_string();
    home.mirror(&["serialize", "oci:low:b", "other/a.tar", "--volume-size", &size]).says(0, &[]);
    home.write(&part(2), home.read("other/a.tar.002"));
    refused(&home, &["a.tar.001"], &["a.tar.002: it was altered, or belongs to another archive"]);
    restore();
    // A listing that is no listing, and one of a run that did not end.
    let complete = home.read("a.tar.volumes.json");
    home.write("a.tar.volumes.json", &complete[..complete.len() / 2]);
    refused(&home, &["a.tar.001"], &["a.tar.volumes.json", "no listing of volumes"]);
    let text = String::from_utf8(complete.clone()).unwrap();
    home.write("a.tar.volumes.json", text.replace("\"complete\": true", "\"complete\": false"));
    refused(&home, &["a.tar.001"], &["was not written to its end", "--resume"]);
    home.write("a.tar.volumes.json", &complete);
    restore();
}

#[tokio::test]
async fn each_volume_can_be_checked_alone() {
    let (home, count) = written().await;
    std::fs::create_dir(home.path("disk")).unwrap();
    std::fs::rename(home.path(&part(3)), home.path("disk").join(part(3))).unwrap();
    let ended = home.mirror(&["verify", "disk/a.tar.003", "--volumes-in", "."]);
    ended.says(0, &[]);
    assert!(ended.stdout.contains(&format!("3 of {count} of oci:low:a")), "{}", ended.stdout);
    home.mirror(&["verify", "a.tar.002"]).says(0, &[]);
    home.mirror(&["verify", "a.tar.volumes.json"]).says(1, &["a.tar.003: it is missing"]);
    home.mirror(&["verify", "a.tar.volumes.json", "--volumes-in", "disk"]).says(0, &[]);
    home.write(&part(2), home.read(&part(1)));
    home.mirror(&["verify", "a.tar.002"]).says(1, &["it is a copy of volume 1", "copy this volume again"]);
    home.mirror(&["verify", "a.tar.003"]).says(1, &["a.tar.003: it is missing"]);
    home.write(&part(99), "more");
    home.mirror(&["verify", "a.tar.099"]).says(1, &["and not this one"]);
    let ended = home.mirror(&["verify", "a.tar.002", "--output", "json"]);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&report["volume"]["sequence"], &report["whole"]), (&2.into(), &false.into()));
}

#[tokio::test]
async fn volumes_are_found_in_several_directories() {
    let (home, count) = written().await;
    for n in 2..=count {
        let disk = format!("disk{}", n % 2);
        std::fs::create_dir_all(home.path(&disk)).unwrap();
        std::fs::rename(home.path(&part(n)), home.path(&disk).join(part(n))).unwrap();
    }
    arrives(&home, &["a.tar.001", "--volumes-in", "disk0", "--volumes-in", "disk1"]);
    refused(&home, &["a.tar.001", "--volumes-in", "disk0"], &["a.tar.003: it is missing"]);
    // A pattern may have directories in it.
    arrives(&home, &["disk?/a.tar.0*", "--volumes-in", "."]);
    refused(&home, &["disk[1]/a.*", "--volumes-in", "."], &["a.tar.002: it is missing"]);
    home.mirror(&["verify", "disk[01]/a.tar.00?", "--volumes-in", "."]).says(0, &[]);
    // A damaged copy in one directory does not matter if there is a right one in another.
    home.write(&part(2), "damaged");
    arrives(&home, &["a.tar.001", "--volumes-in", "disk0", "--volumes-in", "disk1"]);
    refused(&home, &["a.tar.001", "--volumes-in", "disk1"], &["a.tar.002: it has 7 bytes"]);
}

#[tokio::test]
async fn disks_are_mounted_one_after_another() {
    let (home, count) = written().await;
    std::fs::create_dir(home.path("shelf")).unwrap();
    for n in 1..=count {
        std::fs::rename(home.path(&part(n)), home.path("shelf").join(part(n))).unwrap();
    }
    // One volume is there at a time; the first time, the wrong disk is put in.
    let next = "echo \"$MIRROR_VOLUME $MIRROR_DEVICE $MIRROR_REFUSED\" >> asked; rm -f a.tar.0*; \
                if [ $(wc -l < asked) = 1 ]; then cp shelf/a.tar.002 a.tar.001; else cp shelf/$(basename $MIRROR_DEVICE) .; fi";
    arrives(&home, &["a.tar.volumes.json", "--next-volume", next]);
    let asked = String::from_utf8(home.read("asked")).unwrap();
    let asked: Vec<_> = asked.lines().collect();
    assert_eq!(asked.len(), count + 1, "{asked:?}");
    assert!(asked[1].contains("1 a.tar.001 a.tar.001: it is a copy of volume 2"), "{asked:?}");
    assert!(asked[count].starts_with(&format!("{count} a.tar.{count:03} ")), "{asked:?}");
    // A command that does nothing is asked five times.
    let ended =
        home.mirror(&["deserialize", "a.tar.volumes.json", "oci:high:a", "--next-volume", "rm -f a.tar.0*; true"]);
    ended.says(1, &["a.tar.001: it is missing: it was asked for 5 times"]);
    let ended = home.mirror(&["deserialize", "a.tar.volumes.json", "oci:high:a", "--next-volume", "exit 3"]);
    ended.says(1, &["exit status: 3"]);
}

#[tokio::test]
async fn without_a_listing_the_archive_itself_tells() {
    let (home, count) = written().await;
    std::fs::remove_file(home.path("a.tar.volumes.json")).unwrap();
    for source in ["a.tar.001", "a.tar.002", "a.tar.*"] {
        let ended = home.mirror(&["deserialize", source, "oci:high:a"]);
        ended.says(0, &["a.tar.volumes.json is missing"]);
        std::fs::remove_dir_all(home.path("high")).unwrap();
    }
    let ended = home.mirror(&["deserialize", "a.tar.volumes.json", "oci:high:a"]);
    ended.says(1, &["a.tar.volumes.json"]);
    let three = home.read(&part(3));
    home.write(&part(3), &three[..100]);
    refused(&home, &["a.tar.001"], &["a.tar.003 has 100 bytes and the first 20480"]);
    std::fs::remove_file(home.path(&part(3))).unwrap();
    refused(&home, &["a.tar.001"], &["a.tar.003 is missing", "a.tar.volumes.json"]);
    home.write(&part(3), &three);
    // The last one is nowhere: the archive ends too early.
    std::fs::remove_file(home.path(&part(count))).unwrap();
    let ended = home.mirror(&["deserialize", "a.tar.001", "oci:high:a"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert_eq!(home.mirror(&["verify", "oci:high:a"]).code, Some(1), "the tag is there");
    // A file that only looks like a volume.
    std::fs::copy(home.path("whole.tar"), home.path("b.2024")).unwrap();
    std::fs::copy(home.path("whole.tar"), home.path("b.001")).unwrap();
    for source in ["b.2024", "b.001"] {
        home.mirror(&["deserialize", source, "oci:high:b"]).says(0, &[]);
    }
}

#[tokio::test]
async fn a_run_that_is_killed_goes_on_behind_its_volumes() {
    let (home, count) = written().await;
    let expected: Vec<_> = (1..=count).map(|n| home.read(&part(n))).collect();
    let size = SIZE.to_string();
    let arguments = ["serialize", "oci:low:a", "b.tar", "--volume-size", &size, "--resume"];
    let mut resumed = 0;
    for moment in 0..40 {
        let mut child = home.command(&arguments).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(2_000 * moment));
        child.kill().unwrap();
        child.wait().unwrap();
        if home.path("b.tar.002").exists() {
            let ended = home.mirror(&arguments);
            ended.says(0, &[]);
            resumed += usize::from(ended.stdout.contains("were there, and are right"));
            for (n, part) in expected.iter().enumerate() {
                assert!(home.read(&format!("b.tar.{:03}", n + 1)) == *part, "volume {} after {moment}", n + 1);
            }
            for name in home.names(".").iter().filter(|name| name.starts_with("b.tar")) {
                assert!(!name.ends_with(".partial"), "{name}");
                std::fs::remove_file(home.path(name)).unwrap();
            }
        }
    }
    assert!(resumed > 0, "no kill came while it wrote");
}

#[tokio::test]
async fn a_run_goes_on_from_any_state_of_its_files() {
    let (home, count) = written().await;
    let size = SIZE.to_string();
    let resume = ["serialize", "oci:low:a", "a.tar", "--volume-size", &size, "--resume"];
    let expected: Vec<_> = (1..=count).map(|n| home.read(&part(n))).collect();
    let complete = listing(&home);
    for there in 0..count {
        let mut listing = complete.clone();
        listing["complete"] = false.into();
        listing["volumes"].as_array_mut().unwrap().truncate(there);
        home.write("a.tar.volumes.json", listing.to_string());
        // The last one that is listed may not have its name yet, or be damaged; one is half written.
        match there {
            0 => {}
            _ if there % 2 == 0 => std::fs::remove_file(home.path(&part(there))).unwrap(),
            _ => home.write(&part(there), "damaged"),
        }
        home.write(&format!("{}.partial", part(there + 1)), "half");
        home.mirror(&resume).says(0, &[]);
        assert!((1..=count).all(|n| home.read(&part(n)) == expected[n - 1]), "with {there}");
        assert_eq!(self::listing(&home), complete);
    }
    // One that is whole already.
    let ended = home.mirror(&resume);
    ended.says(0, &[]);
    assert!(ended.stdout.contains("were there, and are right"), "{}", ended.stdout);
    // Another size, another archive.
    let other = ["serialize", "oci:low:a", "a.tar", "--volume-size", "8KiB", "--resume"];
    home.mirror(&other).says(1, &["its volumes are of 20480 bytes", "--volume-size 20480"]);
    let other = ["serialize", "oci:low:b", "a.tar", "--volume-size", &size, "--resume"];
    home.mirror(&other).says(1, &["its volumes are of oci:low:a"]);
    arrives(&home, &["a.tar.001"]);
}

#[tokio::test]
async fn what_is_there_is_replaced_only_if_asked_and_then_wholly() {
    let (home, count) = written().await;
    let before = home.read(&part(1));
    let size = (4 * SIZE).to_string();
    let arguments = ["serialize", "oci:low:b", "a.tar", "--volume-size", &size];
    home.mirror(&arguments).says(1, &["exists and is left as it is", "--force"]);
    std::fs::remove_file(home.path("a.tar.volumes.json")).unwrap();
    home.mirror(&arguments).says(1, &["a.tar", "exists and is left as it is", "--force"]);
    assert!(home.read(&part(1)) == before);
    home.mirror(&[&arguments[..], &["--force", "--verify"]].concat()).says(0, &[]);
    assert!(!home.path(&part(count)).exists(), "more volumes of the archive before are left");
    home.mirror(&["deserialize", "a.tar.001", "oci:high:b"]).says(0, &[]);
    home.mirror(&["diff", "oci:low:b", "oci:high:b"]).says(0, &[]);
}

#[tokio::test]
async fn compressed_archives_have_volumes_too() {
    let home = Home::new().await;
    let common = ["serialize", "oci:low:a", "a.tar.zst", "--compression", "zstd"];
    home.mirror(&[&common[..], &["--volume-size", "20000", "--verify"]].concat()).says(0, &[]);
    home.mirror(&["serialize", "oci:low:a", "whole", "--compression", "zstd", "--verify"]).says(0, &[]);
    let parts = home.names(".").into_iter().filter(|name| name.starts_with("a.tar.zst.0"));
    assert!(parts.map(|name| home.read(&name)).collect::<Vec<_>>().concat() == home.read("whole"));
    home.mirror(&["deserialize", "a.tar.zst.002", "oci:high:a"]).says(0, &[]);
    home.mirror(&["diff", "oci:low:a", "oci:high:a"]).says(0, &[]);
    let again = home.mirror(&[&common[..], &["--volume-size", "20000", "--resume"]].concat());
    again.says(0, &[]);
    assert!(again.stdout.contains("were there, and are right"), "{}", again.stdout);
    let other = ["--volume-size", "20000", "--resume", "--compression-level", "7"];
    home.mirror(&[&common[..], &other].concat()).says(1, &["its volumes are of oci:low:a", "--force"]);
}

#[tokio::test]
async fn what_has_no_volumes_is_told() {
    let home = Home::new().await;
    let serialize = |arguments: &[&str]| home.mirror(&[&["serialize", "oci:low:a"], arguments].concat());
    serialize(&["-", "--volume-size", "1MiB"]).says(2, &["--volume-size makes files"]);
    serialize(&["/dev/full", "--volume-size", "1MiB"]).says(2, &["--volume-size makes files"]);
    serialize(&["-", "--verify"]).says(2, &["cannot be read back"]);
    serialize(&["a.tar", "--volume-size", "floppy"]).says(2, &["fat32"]);
    serialize(&["a.tar", "--volume-size", "12"]).says(2, &["at least 4096 bytes"]);
    serialize(&["nowhere/a.tar", "--volume-size", "dvd"]).says(1, &["nowhere/a.tar"]);
    for size in ["dvd", "bd25", "bd50", "fat32"] {
        serialize(&["a.tar", "--volume-size", size, "--force"]).says(0, &[]);
        assert_eq!(home.names(".").iter().filter(|name| name.starts_with("a.tar")).count(), 2);
        home.mirror(&["deserialize", "a.tar.001", "oci:high:a"]).says(0, &[]);
    }
}

#[tokio::test]
async fn what_is_said_at_the_end_can_be_typed() {
    let home = Home::new().await;
    let ended = home.mirror(&["serialize", "oci:low:a", "a.tar", "--volume-size", "100000"]);
    ended.says(0, &[]);
    let next = "carry a.tar.001 to a.tar.002 and a.tar.volumes.json over, then: mirror deserialize a.tar.001 IMAGE";
    assert!(ended.stdout.contains(next), "{}", ended.stdout);
    // The name under which they were written leads to them, too.
    arrives(&home, &["a.tar"]);
    home.mirror(&["verify", "a.tar"]).says(0, &[]);
    // What went into a device is not to be carried.
    let ended = home.mirror(&["serialize", "oci:low:a", "/dev/null"]);
    assert!(ended.code == Some(0) && !ended.stdout.contains("next:"), "{}", ended.stdout);
}

#[tokio::test]
async fn a_listing_that_was_copied_too_early_gives_way_to_the_whole_one() {
    let (home, count) = written().await;
    let mut early = listing(&home);
    early["complete"] = false.into();
    early["volumes"].as_array_mut().unwrap().truncate(2);
    std::fs::create_dir(home.path("last")).unwrap();
    for name in [&part(count), "a.tar.volumes.json"] {
        std::fs::rename(home.path(name), home.path("last").join(name)).unwrap();
    }
    home.write("a.tar.volumes.json", early.to_string());
    refused(&home, &["a.tar.001"], &["was not written to its end"]);
    arrives(&home, &["a.tar.001", "--volumes-in", "last"]);
    // That of another archive is none of its own.
    let mut other = early.clone();
    other["archive"]["plan"] = format!("sha256:{}", "0".repeat(64)).into();
    home.write("a.tar.volumes.json", other.to_string());
    refused(&home, &["a.tar.001", "--volumes-in", "last"], &["was not written to its end"]);
}

#[tokio::test]
async fn a_volume_alone_asks_for_its_listing() {
    let (home, _) = written().await;
    std::fs::create_dir(home.path("disk")).unwrap();
    std::fs::rename(home.path(&part(3)), home.path("disk").join(part(3))).unwrap();
    let words = ["it is volume 3 of disk/a.tar, and a.tar.volumes.json is not there", "--volumes-in"];
    home.mirror(&["verify", "disk/a.tar.003"]).says(1, &words);
    refused(&home, &["disk/a.tar.003"], &words);
    home.mirror(&["verify", "disk/a.tar.003", "--volumes-in", "."]).says(0, &[]);
}

#[tokio::test]
async fn a_pipe_with_the_name_of_a_volume_is_not_waited_for() {
    let (home, _) = written().await;
    std::fs::remove_file(home.path(&part(3))).unwrap();
    let made = std::process::Command::new("mkfifo").arg(home.path(&part(3))).status().unwrap();
    assert!(made.success());
    refused(&home, &["a.tar.001"], &["a.tar.003: it is no regular file"]);
}
