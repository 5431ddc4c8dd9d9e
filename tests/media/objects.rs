//! Archives as objects of S3: written, read, replaced, killed and gone on with, over a connection that alters what is sent.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::home::Home;
use crate::store::{Action, Request, Store};

/// Three parts; the large layer begins in the first and ends in the third.
const LAYERS: [usize; 4] = [700, 20_000_000, 1_000_000, 9_000];

pub async fn home() -> Home {
    let home = Home::empty();
    home.add_image("a", 1, &LAYERS).await;
    home
}

/// The archive as a file.
pub fn archive(home: &Home) -> Vec<u8> {
    home.mirror(&["serialize", "oci:low:a", "a.tar", "--force"]).says(0, &[]);
    home.read("a.tar")
}

/// All of it is there, and the commit object says so.
pub fn is_whole(store: &Store, key: &str, archive: &[u8]) {
    assert!(store.object(key).is_some_and(|object| object == archive), "{key}");
    let commit = store.object(&format!("{key}.commit.json")).expect("a commit object");
    let commit: serde_json::Value = serde_json::from_slice(&commit).unwrap();
    assert_eq!(commit["length"], archive.len());
    assert_eq!(commit["parts"].as_array().unwrap().len(), 3);
    assert_eq!(store.uploads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_written_and_read_back() {
    let Some(store) = Store::new("back-and-forth") else { return };
    let home = home().await;
    let (url, archive) = (store.url("dir/a.tar"), archive(&home));
    let ended = store.mirror(&home, &["serialize", "oci:low:a", &url, "--verify", "--output", "json"]);
    ended.says(0, &[]);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        report["object"],
        serde_json::json!({"length": archive.len(), "partSize": 8 << 20, "parts": 3, "readBack": false})
    );
    is_whole(&store, "dir/a.tar", &archive);
    store.mirror(&home, &["serialize", "oci:low:a", &url]).says(1, &["exists", "--force", &url]);
    store.mirror(&home, &["serialize", "oci:low:a", &url, "--resume"]).says(0, &[]);
    store.mirror(&home, &["serialize", "oci:low:a", &url, "--force"]).says(0, &[]);
    is_whole(&store, "dir/a.tar", &archive);
    store.mirror(&home, &["verify", &url]).says(0, &[]);
    store.mirror(&home, &["deserialize", &url, "oci:high:a"]).says(0, &[]);
    store.mirror(&home, &["verify", "oci:high:a"]).says(0, &[]);
    // Compressed, it is read in order.
    let url = store.url("a.tar.zst");
    store.mirror(&home, &["serialize", "oci:low:a", &url, "--compression", "zstd", "--verify"]).says(0, &[]);
    store.mirror(&home, &["deserialize", &url, "oci:higher:a"]).says(0, &[]);
    let mut altered = store.object("a.tar.zst").unwrap();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    store.put("a.tar.zst", &altered);
    store.mirror(&home, &["deserialize", &url, "oci:highest:a"]).says(1, &[&url]);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_request_it_goes_on() {
    let Some(store) = Store::new("killed") else { return };
    let home = home().await;
    let archive = archive(&home);
    let is_create = |r: &Request| r.method == "POST" && r.target.contains("uploads");
    let is_commit = |r: &Request| r.method == "PUT" && r.target.contains(".commit.json");
    type Is = Box<dyn Fn(&Request) -> bool + Send>;
    let points: Vec<(&str, Is, Action)> = vec![
        ("create", Box::new(is_create), Action::Hold),
        ("part-1", Box::new(|r| r.part() == Some(1)), Action::Hold),
        ("part-2", Box::new(|r| r.part() == Some(2)), Action::Hold),
        ("part-3", Box::new(|r| r.part() == Some(3)), Action::Swallow),
        ("complete", Box::new(Request::completes), Action::Hold),
        ("completed", Box::new(Request::completes), Action::Swallow),
        ("commit", Box::new(is_commit), Action::Hold),
        ("committed", Box::new(is_commit), Action::Swallow),
    ];
    for (name, is_point, action) in points {
        let key = format!("{name}.tar");
        let arguments = ["serialize", "oci:low:a", &store.url(&key), "--resume"];
        let (reached, wait) = mpsc::channel();
        store.set(move |request| {
            let here = is_point(request);
            let _ = here.then(|| reached.send(()));
            if here { action } else { Action::Pass }
        });
        let mut child = store.command(&home, &arguments).stderr(Stdio::null()).spawn().unwrap();
        wait.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("{name} was not reached"));
        child.kill().unwrap();
        child.wait().unwrap();
        store.set(|_| Action::Pass);
        store.mirror(&home, &arguments).says(0, &[]);
        is_whole(&store, &key, &archive);
    }
    // The journals are gone with what they told of.
    assert_eq!(home.names(".local/state/mirror/uploads"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_compressed_archive_only_what_the_store_lacks_is_sent_again() {
    let Some(store) = Store::new("compressed") else { return };
    let home = home().await;
    for method in ["zstd", "gzip"] {
        let (file, url) = (format!("a.{method}"), store.url(&format!("a.{method}")));
        let written = |destination: &str| {
            let arguments =
                ["serialize", "oci:low:a", destination, "--compression", method, "--compression-level", "1"];
            arguments.map(str::to_owned).to_vec()
        };
        let run = |arguments: &[String], more: &[&str]| {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
            store.mirror(&home, &arguments)
        };
        run(&written(&file), &[]).says(0, &[]);
        store.set(|request| if request.part() == Some(3) { Action::Alter } else { Action::Pass });
        run(&written(&url), &[]).says(1, &["part 3", "--resume"]);
        let (sent, parts) = mpsc::channel();
        store.set(move |request| {
            request.part().map(|part| sent.send(part));
            Action::Pass
        });
        run(&written(&url), &["--resume", "--verify"]).says(0, &[]);
        store.set(|_| Action::Pass);
        assert_eq!(parts.iter().collect::<Vec<_>>(), [3], "{method}");
        is_whole(&store, &file, &home.read(&file));
        run(&written(&url), &["--resume"]).says(0, &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_is_altered_on_the_way_is_noticed() {
    let Some(store) = Store::new("altered") else { return };
    let home = home().await;
    let (url, archive) = (store.url("a.tar"), archive(&home));
    let mut times = 1;
    store.set(move |request| match request.part() {
        Some(2) if times > 0 => {
            times -= 1;
            Action::Alter
        }
        _ => Action::Pass,
    });
    store.mirror(&home, &["serialize", "oci:low:a", &url]).says(0, &["part 2", "again"]);
    is_whole(&store, "a.tar", &archive);
    store.set(|request| if request.part() == Some(2) { Action::Alter } else { Action::Pass });
    let other = store.url("b.tar");
    store.mirror(&home, &["serialize", "oci:low:a", &other]).says(1, &["part 2", &other, "--resume"]);
    assert!(store.object("b.tar").is_none() && store.object("b.tar.commit.json").is_none());
    store.set(|_| Action::Pass);
    store.mirror(&home, &["serialize", "oci:low:a", &other, "--resume"]).says(0, &[]);
    is_whole(&store, "b.tar", &archive);
    // What another program did to the object since.
    let mut altered = archive.clone();
    altered[9_000_000] ^= 1;
    store.put("a.tar", &altered);
    store.mirror(&home, &["deserialize", &url, "oci:high:a"]).says(1, &["sha256:"]);
    store.put("a.tar", &archive[..9_000_000]);
    store.mirror(&home, &["deserialize", &url, "oci:high:a"]).says(1, &["commit object"]);
    store.put("a.tar", &archive);
    store.remove("a.tar.commit.json");
    store.mirror(&home, &["deserialize", &url, "oci:high:a"]).says(0, &["no commit object", "a.tar.commit.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_etags_are_no_md5_sums_the_object_is_read_back() {
    let Some(store) = Store::new("renamed") else { return };
    let home = home().await;
    let (url, archive) = (store.url("a.tar"), archive(&home));
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    store.set(move |r| {
        count.fetch_add(usize::from(r.part().is_some()), Relaxed);
        Action::Rename
    });
    let ended = store.mirror(&home, &["serialize", "oci:low:a", &url, "--output", "json"]);
    ended.says(0, &[]);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["object"]["readBack"], true);
    is_whole(&store, "a.tar", &archive);
    assert!(sent.load(Relaxed) <= 9);
    store.mirror(&home, &["deserialize", &url, "oci:high:a"]).says(0, &[]);

    // What was altered on the way is found by that, and goes away.
    let altered = store.url("b.tar");
    store.set(|r| if r.part() == Some(2) { Action::AlterAndRename } else { Action::Rename });
    let found = ["read back, part 2 of 3 is altered", "it was removed", &altered];
    store.mirror(&home, &["serialize", "oci:low:a", &altered]).says(1, &found);
    assert!(store.object("b.tar").is_none() && store.object("b.tar.commit.json").is_none());
    // The name is free again.
    store.set(|_| Action::Rename);
    store.mirror(&home, &["serialize", "oci:low:a", &altered]).says(0, &[]);
    is_whole(&store, "b.tar", &archive);

    // The same where --verify finds it: nobody is to take it for the archive.
    let (verified, mut other) = (store.url("d.tar"), archive.clone());
    other[9_000_000] ^= 1;
    let at = store.name();
    store.set(move |r| {
        if r.method == "PUT" && r.target.contains("commit.json") {
            at.put("d.tar", &other);
        }
        Action::Pass
    });
    let found = ["read back, part 2 of 3 is altered", "it was removed", &verified];
    store.mirror(&home, &["serialize", "oci:low:a", &verified, "--verify"]).says(1, &found);
    assert!(store.object("d.tar").is_none() && store.object("d.tar.commit.json").is_none());

    // The parts were put together, and the answer was lost: reading back tells.
    let lost = store.url("c.tar");
    let mut completed = false;
    store.set(move |r| match (r.completes(), completed) {
        (true, false) => {
            completed = true;
            Action::Lose
        }
        _ => Action::Rename,
    });
    store.mirror(&home, &["serialize", "oci:low:a", &lost]).says(0, &[]);
    is_whole(&store, "c.tar", &archive);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_never_takes_one_archive_for_another() {
    let Some(store) = Store::new("replaced") else { return };
    let home = home().await;
    let second = {
        let home = Home::empty();
        home.add_image("a", 2, &LAYERS).await;
        home
    };
    let (url, key) = (store.url("a.tar"), "a.tar");
    store.mirror(&home, &["serialize", "oci:low:a", &url]).says(0, &[]);
    // A reader at each step of the writer that replaces the archive: it reads the old one, the new one, or says that
    // it was replaced; as both have the same length, that alone tells nothing.
    let steps: [fn(&Request) -> bool; 4] = [
        |r| r.part() == Some(2),
        |r| r.completes(),
        |r| r.method == "DELETE" && r.target.contains("commit.json"),
        |r| r.method == "PUT" && r.target.contains("commit.json"),
    ];
    for (at, is_step) in steps.into_iter().enumerate() {
        let writer = if at % 2 == 0 { &second } else { &home };
        let (reached, wait) = mpsc::channel();
        store.set(move |r| if is_step(r) && reached.send(()).is_ok() { Action::Wait } else { Action::Pass });
        let mut command = store.command(writer, &["serialize", "oci:low:a", &url, "--force"]);
        let child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let mut child = Killed(child);
        wait.recv_timeout(Duration::from_secs(20)).unwrap();
        let high = format!("oci:high-{at}:a");
        let read = store.mirror(&home, &["deserialize", &url, &high]);
        read.says(0, &[]);
        store.mirror(&home, &["verify", &high]).says(0, &[]);
        assert_eq!(read.stderr.contains("no commit object"), at % 2 == 1, "{at}: {}", read.stderr);
        store.release();
        assert!(child.0.wait().unwrap().success());
        is_whole(&store, key, &archive(writer));
    }
    // It is replaced while it is read: the reader has asked what it is.
    let (old, new) = (archive(&second), archive(&home));
    for asked in ["HEAD", "GET"] {
        store.put(key, &old);
        let (store_for_rule, replacement) = (store.name(), new.clone());
        let mut replaced = false;
        store.set(move |r| {
            if !replaced && r.method == asked && r.header("range").is_empty() != (asked == "GET") {
                replaced = true;
                store_for_rule.put("a.tar", &replacement);
            }
            Action::Pass
        });
        let read = store.mirror(&home, &["inspect", &url]);
        match asked {
            "HEAD" => read.says(0, &[]),
            _ => read.says(1, &["it was replaced while it was read"]),
        }
    }
}

/// Ends with the test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_needed_is_read() {
    let Some(store) = Store::new("ranges") else { return };
    let home = home().await;
    let (url, length) = (store.url("a.tar"), archive(&home).len() as u64);
    store.mirror(&home, &["serialize", "oci:low:a", &url]).says(0, &[]);
    store.answered();
    store.mirror(&home, &["inspect", &url]).says(0, &[]);
    let inspected = store.answered();
    assert!(inspected < 1_000_000, "{inspected}");
    store.mirror(&home, &["diff", &url, "oci:low:a"]).says(0, &[]);
    let compared = store.answered();
    assert!(compared < 1_000_000, "{compared}");
    store.mirror(&home, &["deserialize", &url, "oci:high:a"]).says(0, &[]);
    let all = store.answered();
    assert!(all > length && all < length + 1_000_000, "{all} of {length}");
}
