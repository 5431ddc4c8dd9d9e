//! Stores of objects that refuse, break off, fall silent or forget; and a run that is interrupted while it waits for one.

use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::home::Home;
use crate::objects::{archive, home, is_whole};
use crate::store::{Action, Request, Store, ended};

#[tokio::test(flavor = "multi_thread")]
async fn errors_and_broken_connections_are_met_again_and_then_named() {
    let Some(store) = Store::new("failing") else { return };
    let home = home().await;
    let (url, archive) = (store.url("a.tar"), archive(&home));
    let mut count = 0;
    store.set(move |_| {
        count += 1;
        match count % 4 {
            1 => Action::Error(500, "InternalError"),
            3 => Action::Reset,
            _ => Action::Pass,
        }
    });
    store.mirror(&home, &["serialize", "oci:low:a", &url]).says(0, &[]);
    is_whole(&store, "a.tar", &archive);
    store.mirror(&home, &["deserialize", &url, "oci:high:a"]).says(0, &[]);
    let other = store.url("b.tar");
    store.set(|request| if request.part() == Some(3) { Action::Error(500, "InternalError") } else { Action::Pass });
    store.mirror(&home, &["serialize", "oci:low:a", &other]).says(1, &["InternalError", &other, "--resume"]);
    store.set(|_| Action::Pass);
    store.mirror(&home, &["serialize", "oci:low:a", &other, "--resume"]).says(0, &[]);
    is_whole(&store, "b.tar", &archive);
    store.mirror(&home, &["deserialize", &store.url("c.tar"), "oci:high:c"]).says(1, &["c.tar", "no such object"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bursts_of_refusals_are_waited_out() {
    let Some(store) = Store::new("bursts") else { return };
    let home = home().await;
    let url = store.url("a.tar");
    let (mut asked, mut after) = (0, 0);
    store.set(move |_| {
        asked += 1;
        // Three refusals in a row for each request that is let through.
        after = (after + 1) % 4;
        match (after, asked % 2) {
            (0, _) => Action::Pass,
            (_, 0) => Action::Error(503, "SlowDown"),
            _ => Action::Error(500, "InternalError"),
        }
    });
    // Its hundredths are what is waited between two tries, at least.
    let mut command = store.command(&home, &["serialize", "oci:low:a", &url]);
    command.env("MIRROR_SILENCE_TIMEOUT", "2");
    ended(command).says(0, &[]);
    is_whole(&store, "a.tar", &archive(&home));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_falls_silent_is_an_error_in_seconds_and_never_a_hang() {
    let Some(store) = Store::new("silent") else { return };
    let home = Home::empty();
    home.add_image("a", 1, &[700, 300_000]).await;
    let silent = |arguments: &[&str]| {
        let mut command = store.command(&home, arguments);
        command.env("MIRROR_SILENCE_TIMEOUT", "0.2");
        let begun = Instant::now();
        let ended = ended(command);
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}: {}", begun.elapsed(), ended.stderr);
        ended
    };
    let says = ["says nothing for 0.8 s"];
    // From the beginning; it is asked for the object first.
    store.set(|_| Action::Hold);
    silent(&["serialize", "oci:low:a", &store.url("a.tar")]).says(1, &says);
    silent(&["inspect", &store.url("a.tar")]).says(1, &says);
    // At a part, and when the parts are put together; both can be gone on with.
    for (key, completes) in [("part.tar", false), ("complete.tar", true)] {
        let url = store.url(key);
        store.set(move |r| match (r.part(), r.completes()) {
            (Some(_), _) if !completes => Action::Hold,
            (_, true) if completes => Action::Hold,
            _ => Action::Pass,
        });
        silent(&["serialize", "oci:low:a", &url]).says(1, &[if completes { "nothing for 1.2 s" } else { says[0] }]);
        assert!(store.object(key).is_none());
        store.set(|_| Action::Pass);
        store.mirror(&home, &["serialize", "oci:low:a", &url, "--resume"]).says(0, &[]);
    }
    // One that breaks off for a while is no error.
    let mut times = 2;
    store.set(move |r| match r.part() {
        Some(1) if times > 0 => {
            times -= 1;
            Action::Hold
        }
        _ => Action::Pass,
    });
    let url = store.url("a.tar");
    silent(&["serialize", "oci:low:a", &url]).says(0, &[]);
    // In the middle of an answer: the rest is asked for as long as some of it comes.
    let stall = |r: &Request| if r.header("range").is_empty() { Action::Pass } else { Action::Stall };
    let mut times = 3;
    store.set(move |r| {
        let rest = stall(r);
        times -= i32::from(rest == Action::Stall);
        if times >= 0 { rest } else { Action::Pass }
    });
    silent(&["deserialize", &url, "oci:high:a"]).says(0, &[]);
    store.mirror(&home, &["verify", "oci:high:a"]).says(0, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_vanished_is_named_and_then_begun_anew() {
    let Some(store) = Store::new("vanished") else { return };
    let home = home().await;
    let archive = archive(&home);
    for (key, completes) in [("part.tar", false), ("complete.tar", true)] {
        let url = store.url(key);
        store.set(move |r| match (r.part(), r.completes()) {
            (Some(3), _) if !completes => Action::Error(404, "NoSuchUpload"),
            (_, true) if completes => Action::Error(404, "NoSuchUpload"),
            _ => Action::Pass,
        });
        let gone = ["no longer has what was sent", "NoSuchUpload", "begins anew"];
        store.mirror(&home, &["serialize", "oci:low:a", &url]).says(1, &gone);
        assert!(store.object(key).is_none() && store.object(&format!("{key}.commit.json")).is_none());
        store.set(|_| Action::Pass);
        store.mirror(&home, &["serialize", "oci:low:a", &url, "--resume"]).says(0, &[]);
        is_whole(&store, key, &archive);
    }
}

/// It waited for the store on a thread that outlives the runtime, and ended in a panic.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_ends_at_once_wherever_it_waits_for_the_store() {
    let Some(store) = Store::new("interrupted") else { return };
    let home = home().await;
    let written = store.url("written.tar");
    store.mirror(&home, &["serialize", "oci:low:a", &written]).says(0, &[]);
    let new = store.url("new.tar");
    type Is = fn(&Request) -> bool;
    let points: [(&[&str], Is); 5] = [
        (&["inspect", &written], |r| r.method == "HEAD"),
        (&["inspect", &written], |r| !r.header("range").is_empty()),
        (&["deserialize", &written, "oci:high:a"], |r| r.header("range").len() > 20),
        (&["serialize", "oci:low:a", &new, "--resume"], |r| r.part() == Some(2)),
        (&["serialize", "oci:low:a", &new, "--resume"], Request::completes),
    ];
    for (arguments, is_point) in points {
        let (reached, wait) = mpsc::channel();
        store.set(move |r| if is_point(r) && reached.send(()).is_ok() { Action::Hold } else { Action::Pass });
        let mut command = store.command(&home, arguments);
        let child = command.env("RUST_BACKTRACE", "0").stdout(Stdio::null()).spawn().unwrap();
        wait.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("{arguments:?}"));
        let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let begun = Instant::now();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{arguments:?}: {said}");
        assert!(!said.contains("panicked") && begun.elapsed() < Duration::from_secs(5), "{arguments:?}: {said}");
    }
    store.set(|_| Action::Pass);
    store.mirror(&home, &["serialize", "oci:low:a", &new, "--resume"]).says(0, &[]);
    is_whole(&store, "new.tar", &archive(&home));
}
