//! Runs that are killed, and the same command again: a large blob goes on in the middle, to the registry and from it,
//! and nothing that has arrived is sent twice.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use airgap_mirror::image::{Descriptor, Digest, Manifest, media_type};
use airgap_mirror::store::layout::Layout;
use airgap_mirror::store::{BytesBlob, Store};
use tempfile::TempDir;

use super::line::Line;
use super::program::{Registry, mirror, process};
use super::run::{run, whole};

const MIB: u64 = 1 << 20;
/// What is on its way when a run is killed, and the head of each question.
const SLACK: u64 = 2 * MIB;

/// A home with an image `big:1` of layers of these sizes in the layout `low`.
fn home_with(sizes: &[u64]) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let layout = Layout::new(&home.path().join("low"));
    let mut state = 1u64;
    let mut noise = |length: u64| -> Vec<u8> {
        let words = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 32) as u32).to_le_bytes()
        });
        words.take(length.div_ceil(4) as usize).flatten().collect()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let push = |kind: &str, bytes: Vec<u8>| {
        let descriptor = Descriptor::new(kind, Digest::sha256(&bytes), bytes.len() as u64);
        let source = BytesBlob { descriptor: descriptor.clone(), bytes: bytes.into() };
        runtime.block_on(layout.push_blob(&descriptor, &source, None)).unwrap();
        descriptor
    };
    let config = push("application/vnd.oci.image.config.v1+json", b"{}".to_vec());
    let layers: Vec<_> =
        sizes.iter().map(|size| push("application/vnd.oci.image.layer.v1.tar", noise(*size))).collect();
    let json = serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers});
    let manifest = Manifest::new(media_type::OCI_MANIFEST, json.to_string());
    runtime.block_on(layout.push_manifest(&manifest, Some("big:1"))).unwrap();
    home
}

/// Runs until `enough`, and kills it then.
fn kill_when(home: &Path, arguments: &[&str], enough: impl Fn() -> bool) {
    let child = process(home).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    kill(child, enough);
}

fn kill(mut child: Child, enough: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
    while !enough() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
        assert!(Instant::now() < limit, "too little happened");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

fn notes(home: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(home.join(".local/state/mirror/uploads"));
    entries.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

/// Debian's docker-registry; ends with the value.
struct Docker {
    child: Child,
    address: String,
}

impl Docker {
    fn start(home: &Path) -> Docker {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let directory = home.join("docker");
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {directory:?}}}}}\nhttp: {{addr: \"{address}\"}}\n"
        );
        std::fs::write(home.join("docker.yml"), config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(home.join("docker.yml")).stdout(Stdio::null()).stderr(Stdio::null());
        let docker = Docker { child: command.spawn().unwrap(), address };
        while TcpStream::connect(&docker.address).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        docker
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `big:1` from one registry to another, killed in the middle and run again. Gives the bytes that the second run has
/// sent and got; `between` happens after the kill.
fn interrupted(home: &Path, high: &str, between: impl FnOnce()) -> (u64, u64) {
    let low = Registry::start(home, "low");
    let (from, to) = (Line::to(&low.address), Line::to(high));
    std::fs::write(home.join("sources.list"), format!("{}/big:1\n", from.address)).unwrap();
    let destination = format!("{}/gather:x", to.address);
    let arguments = ["gather", "sources.list", &destination];
    to.stop_up_after(9 * MIB);
    kill_when(home, &arguments, || to.is_stopped());
    to.mend();
    assert_eq!(notes(home).len(), 1);
    between();
    let (sent, got) = (to.up(), from.down());
    run(home, &arguments, 0);
    let passed = (to.up() - sent, from.down() - got);
    assert_eq!(notes(home), Vec::<PathBuf>::new());
    std::fs::write(home.join("arrived.list"), format!("{destination}\n")).unwrap();
    whole(home, "arrived.list");
    passed
}

#[test]
fn a_large_blob_goes_on_where_it_was_both_ways() {
    let home = home_with(&[18 * MIB]);
    let high = Registry::start(home.path(), "high");
    let (sent, got) = interrupted(home.path(), &high.address, || {});
    assert!(sent < 9 * MIB + SLACK, "{sent} bytes were sent again");
    assert!(got < 9 * MIB + SLACK, "{got} bytes were fetched again");
}

#[test]
fn a_registry_that_forgets_what_broke_gets_it_from_the_start() {
    let home = home_with(&[18 * MIB]);
    let high = Docker::start(home.path());
    let (sent, _) = interrupted(home.path(), &high.address, || {});
    assert!(sent > 18 * MIB);
}

#[test]
fn a_start_that_is_wrong_is_found_out_by_the_registry() {
    let home = home_with(&[18 * MIB]);
    let high = Registry::start(home.path(), "high");
    let (sent, _) = interrupted(home.path(), &high.address, || {
        // Another upload, of as many bytes that are wrong.
        let ask = |head: String, body: &[u8]| {
            let mut stream = TcpStream::connect(&high.address).unwrap();
            let length = body.len();
            write!(stream, "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")
                .unwrap();
            stream.write_all(body).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let location = answer.lines().find_map(|l| l.to_lowercase().strip_prefix("location: ").map(str::to_owned));
            location.unwrap_or_else(|| panic!("{answer}"))
        };
        let upload = ask("POST /v2/gather/blobs/uploads/".into(), b"");
        ask(format!("PATCH {upload}"), &vec![7; 9 << 20]);
        let note = notes(home.path()).remove(0);
        let mut content: serde_json::Value = serde_json::from_slice(&std::fs::read(&note).unwrap()).unwrap();
        let url = content["url"].as_str().unwrap().split("/v2/").next().unwrap().to_owned();
        content["url"] = format!("{url}{upload}").into();
        std::fs::write(&note, content.to_string()).unwrap();
    });
    assert!(sent > 27 * MIB, "{sent}");
}

/// What lies in the layout beside its blobs and index while something is unfinished.
fn partials(layout: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(layout).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(".mirror-")).collect()
}

/// `big:1` from a registry into a layout, killed in the middle; then `between`, with the partial file, and again, so many
/// times at once. Gives the bytes that came then.
fn half_fetched(home: &Path, between: impl FnOnce(&Path), at_once: usize) -> u64 {
    let low = Registry::start(home, "low");
    let from = Line::to(&low.address);
    std::fs::write(home.join("sources.list"), format!("{}/big:1\n", from.address)).unwrap();
    let arguments = ["gather", "sources.list", "oci:gathered:x"];
    from.stop_down_after(9 * MIB);
    let left = || partials(&home.join("gathered"));
    kill_when(home, &arguments, || {
        from.is_stopped() && left().iter().any(|partial| std::fs::metadata(partial).unwrap().len() > 8 * MIB)
    });
    from.mend();
    let left = left();
    assert_eq!(left.len(), 1, "{left:?}");
    between(&left[0]);
    let got = from.down();
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| run(home, &arguments, 0));
        }
    });
    let got = from.down() - got;
    assert_eq!(partials(&home.join("gathered")), Vec::<PathBuf>::new());
    mirror(home).args(["verify", "oci:gathered:x"]).assert().success();
    got
}

#[test]
fn a_large_blob_that_was_half_fetched_goes_on_in_a_layout() {
    let home = home_with(&[18 * MIB]);
    let got = half_fetched(home.path(), |_| {}, 1);
    assert!(got < 9 * MIB + SLACK, "{got} bytes were fetched again");
}

#[test]
fn a_partial_blob_that_is_damaged_is_begun_anew() {
    let home = home_with(&[18 * MIB]);
    let damage = |partial: &Path| {
        let mut bytes = std::fs::read(partial).unwrap();
        bytes[4_000_000] ^= 1;
        std::fs::write(partial, bytes).unwrap();
    };
    let got = half_fetched(home.path(), damage, 1);
    assert!(got > 18 * MIB && got < 27 * MIB + SLACK, "{got}");
}

#[test]
fn two_runs_at_once_go_on_in_one_layout() {
    let home = home_with(&[18 * MIB]);
    let got = half_fetched(home.path(), |_| {}, 2);
    assert!(got < 27 * MIB + SLACK, "one goes on, and the other fetches all of it: {got}");
}

/// Runs with that file coming through a pipe.
fn piped(home: &Path, arguments: &[&str], file: &Path) -> Child {
    let mut command = process(home);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let (mut from, mut to) = (std::fs::File::open(file).unwrap(), child.stdin.take().unwrap());
    // A reader that was killed wants no more.
    std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
    child
}

/// What was sent before is let pass, though more than the byte budget.
#[test]
fn a_pipe_goes_on_behind_what_an_earlier_run_has_sent() {
    let home = home_with(&[18 * MIB]);
    let home = home.path();
    run(home, &["serialize", "oci:low:big:1", "a.tar"], 0);
    let high = Registry::start(home, "high");
    let to = Line::to(&high.address);
    let destination = format!("{}/gather:x", to.address);
    let arguments = ["deserialize", "-", &destination, "--byte-budget", "4MiB"];
    to.stop_up_after(9 * MIB);
    kill(piped(home, &arguments, &home.join("a.tar")), || to.is_stopped());
    to.mend();
    let sent = to.up();
    let mut again = piped(home, &arguments, &home.join("a.tar"));
    let limit = Instant::now() + Duration::from_secs(20);
    let status = loop {
        match again.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > limit => {
                again.kill().unwrap();
                panic!("it waits for ever");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert_eq!(status.code(), Some(0));
    let sent = to.up() - sent;
    assert!(sent < 9 * MIB + SLACK, "{sent} bytes were sent again");
    mirror(home).args(["verify", &destination]).assert().success();
}

#[test]
fn nothing_is_sent_twice_that_has_arrived() {
    let home = home_with(&[150_000; 60]);
    let home = home.path();
    std::fs::write(home.join("sources.list"), "oci:low:big:1\n").unwrap();
    run(home, &["gather", "sources.list", "oci:gathered:x"], 0);
    for (verb, source) in [("clone", "sources.list"), ("scatter", "oci:gathered:x"), ("gather", "sources.list")] {
        let high = Registry::start(home, &format!("high-{verb}"));
        let line = Line::to(&high.address);
        std::fs::write(home.join("dest.csv"), format!("oci:low:,{}/\n", line.address)).unwrap();
        let gather = format!("{}/gather:x", line.address);
        let arguments = [verb, source, if verb == "gather" { &gather } else { "all-prefix=dest.csv" }];
        let mut before = 0;
        for kill in 1..=2 {
            line.stop_up_after(3_000_000);
            kill_when(home, &arguments, || line.is_stopped());
            line.mend();
            let arrived = std::fs::read_dir(home.join(format!("high-{verb}/blobs/sha256"))).unwrap().count() as u64;
            assert!(arrived > before && arrived < 61, "{verb}, kill {kill}: {arrived}");
            before = arrived;
        }
        let report = run(home, &arguments, 0);
        let sent = report["moved"]["blobsSent"].as_u64().unwrap();
        assert!(sent > 0 && sent + before <= 61, "{verb}: {before} had arrived, {report}");
        let marks = std::fs::read_dir(home.join(".local/state/mirror/runs")).unwrap().count();
        assert_eq!(marks, 0, "the run has come to its end");
    }
}
