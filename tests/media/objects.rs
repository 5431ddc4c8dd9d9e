//! Archives as objects of S3: written, read, killed and gone on with, over a connection that alters, fails and breaks.

use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::home::{Ended, Home, end};
use crate::store::{Action, Request, Store};

/// Three parts; the large layer begins in the first and ends in the third.
const LAYERS: [usize; 4] = [700, 20_000_000, 1_000_000, 9_000];

async fn home() -> Home {
    let home = Home::empty();
    home.add_image("a", 1, &LAYERS).await;
    home
}

fn command(home: &Home, store: &Store, arguments: &[&str]) -> Command {
    let mut command = home.command(arguments);
    for name in ["AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "XDG_STATE_HOME"] {
        command.env_remove(name);
    }
    command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", store.port));
    command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "a-secret");
    command
}

fn mirror(home: &Home, store: &Store, arguments: &[&str]) -> Ended {
    let ended = end(command(home, store, arguments));
    assert!(!ended.stderr.contains("a-secret") && !ended.stdout.contains("a-secret"));
    ended
}

/// The archive as a file.
fn archive(home: &Home) -> Vec<u8> {
    home.mirror(&["serialize", "oci:low:a", "a.tar", "--force"]).says(0, &[]);
    home.read("a.tar")
}

/// All of it is there, and the commit object says so.
fn is_whole(store: &Store, key: &str, archive: &[u8]) {
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
    let ended = mirror(&home, &store, &["serialize", "oci:low:a", &url, "--verify", "--output", "json"]);
    ended.says(0, &[]);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        report["object"],
        serde_json::json!({"length": archive.len(), "partSize": 8 << 20, "parts": 3, "readBack": false})
    );
    is_whole(&store, "dir/a.tar", &archive);
    mirror(&home, &store, &["serialize", "oci:low:a", &url]).says(1, &["exists", "--force", &url]);
    mirror(&home, &store, &["serialize", "oci:low:a", &url, "--resume"]).says(0, &[]);
    mirror(&home, &store, &["serialize", "oci:low:a", &url, "--force"]).says(0, &[]);
    is_whole(&store, "dir/a.tar", &archive);
    mirror(&home, &store, &["verify", &url]).says(0, &[]);
    mirror(&home, &store, &["deserialize", &url, "oci:high:a"]).says(0, &[]);
    mirror(&home, &store, &["verify", "oci:high:a"]).says(0, &[]);
    // Compressed, it is read in order.
    let url = store.url("a.tar.zst");
    mirror(&home, &store, &["serialize", "oci:low:a", &url, "--compression", "zstd", "--verify"]).says(0, &[]);
    mirror(&home, &store, &["deserialize", &url, "oci:higher:a"]).says(0, &[]);
    let mut altered = store.object("a.tar.zst").unwrap();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    store.put("a.tar.zst", &altered);
    mirror(&home, &store, &["deserialize", &url, "oci:highest:a"]).says(1, &[&url]);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_request_it_goes_on() {
    let Some(store) = Store::new("killed") else { return };
    let home = home().await;
    let archive = archive(&home);
    let is_create = |r: &Request| r.method == "POST" && r.target.contains("uploads");
    let is_complete = |r: &Request| r.method == "POST" && r.target.contains("uploadId");
    let is_commit = |r: &Request| r.method == "PUT" && r.target.contains(".commit.json");
    type Is = Box<dyn Fn(&Request) -> bool + Send>;
    let points: Vec<(&str, Is, Action)> = vec![
        ("create", Box::new(is_create), Action::Hold),
        ("part-1", Box::new(|r| r.part() == Some(1)), Action::Hold),
        ("part-2", Box::new(|r| r.part() == Some(2)), Action::Hold),
        ("part-3", Box::new(|r| r.part() == Some(3)), Action::Swallow),
        ("complete", Box::new(is_complete), Action::Hold),
        ("completed", Box::new(is_complete), Action::Swallow),
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
        let mut child = command(&home, &store, &arguments).stderr(Stdio::null()).spawn().unwrap();
        wait.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("{name} was not reached"));
        child.kill().unwrap();
        child.wait().unwrap();
        store.set(|_| Action::Pass);
        mirror(&home, &store, &arguments).says(0, &[]);
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
            mirror(&home, &store, &arguments)
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
    mirror(&home, &store, &["serialize", "oci:low:a", &url]).says(0, &["part 2", "again"]);
    is_whole(&store, "a.tar", &archive);
    store.set(|request| if request.part() == Some(2) { Action::Alter } else { Action::Pass });
    let other = store.url("b.tar");
    mirror(&home, &store, &["serialize", "oci:low:a", &other]).says(1, &["part 2", &other, "--resume"]);
    assert!(store.object("b.tar").is_none() && store.object("b.tar.commit.json").is_none());
    store.set(|_| Action::Pass);
    mirror(&home, &store, &["serialize", "oci:low:a", &other, "--resume"]).says(0, &[]);
    is_whole(&store, "b.tar", &archive);
    // What another program did to the object since.
    let mut altered = archive.clone();
    altered[9_000_000] ^= 1;
    store.put("a.tar", &altered);
    mirror(&home, &store, &["deserialize", &url, "oci:high:a"]).says(1, &["sha256:"]);
    store.put("a.tar", &archive[..9_000_000]);
    mirror(&home, &store, &["deserialize", &url, "oci:high:a"]).says(1, &["commit object"]);
    store.put("a.tar", &archive);
    store.remove("a.tar.commit.json");
    mirror(&home, &store, &["deserialize", &url, "oci:high:a"]).says(0, &["no commit object", "a.tar.commit.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_and_broken_connections_are_met_again_and_then_named() {
    let Some(store) = Store::new("failing") else { return };
    let home = home().await;
    let (url, archive) = (store.url("a.tar"), archive(&home));
    let mut count = 0;
    store.set(move |_| {
        count += 1;
        match count % 4 {
            1 => Action::Fail,
            3 => Action::Reset,
            _ => Action::Pass,
        }
    });
    mirror(&home, &store, &["serialize", "oci:low:a", &url]).says(0, &[]);
    is_whole(&store, "a.tar", &archive);
    mirror(&home, &store, &["deserialize", &url, "oci:high:a"]).says(0, &[]);
    let other = store.url("b.tar");
    store.set(|request| if request.part() == Some(3) { Action::Fail } else { Action::Pass });
    mirror(&home, &store, &["serialize", "oci:low:a", &other]).says(1, &["InternalError", &other, "--resume"]);
    store.set(|_| Action::Pass);
    mirror(&home, &store, &["serialize", "oci:low:a", &other, "--resume"]).says(0, &[]);
    is_whole(&store, "b.tar", &archive);
    mirror(&home, &store, &["deserialize", &store.url("c.tar"), "oci:high:c"]).says(1, &["c.tar", "no such object"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_needed_is_read() {
    let Some(store) = Store::new("ranges") else { return };
    let home = home().await;
    let (url, length) = (store.url("a.tar"), archive(&home).len() as u64);
    mirror(&home, &store, &["serialize", "oci:low:a", &url]).says(0, &[]);
    store.answered();
    mirror(&home, &store, &["inspect", &url]).says(0, &[]);
    let inspected = store.answered();
    assert!(inspected < 1_000_000, "{inspected}");
    mirror(&home, &store, &["diff", &url, "oci:low:a"]).says(0, &[]);
    let compared = store.answered();
    assert!(compared < 1_000_000, "{compared}");
    mirror(&home, &store, &["deserialize", &url, "oci:high:a"]).says(0, &[]);
    let all = store.answered();
    assert!(all > length && all < length + 1_000_000, "{all} of {length}");
}
