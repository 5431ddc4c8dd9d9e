//! Ctrl-C and SIGTERM against a registry that stalls in the middle of a blob: the program ends with 130,
//! says how to go on, and leaves nothing that looks complete.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::program::{process, signal};

const BLOB: &str = "/blobs/";

/// A registry with one image, whose only layer never comes to its end. Tells when the layer was asked for.
pub fn stalling_registry() -> (String, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (asked, waits) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let asked = asked.clone();
            std::thread::spawn(move || answer(stream.unwrap(), &|| asked.send(()).unwrap_or_default()));
        }
    });
    (address, waits)
}

fn manifest() -> String {
    let digest = |letter: &str| format!("sha256:{}", letter.repeat(64));
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest("a"), "size": 9_000_000},
        "layers": [],
    })
    .to_string()
}

/// Answers the requests of a connection until one asks for the blob, half of which it sends.
fn answer(stream: TcpStream, asked: &dyn Fn()) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let mut header = String::new();
        while reader.read_line(&mut header).unwrap_or(0) > 2 {
            header.clear();
        }
        let body = manifest();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\nContent-Length:";
        if request.contains(BLOB) && request.starts_with("GET") {
            write!(writer, "{head} 9000000\r\n\r\n{}", "x".repeat(10_000)).unwrap();
            asked();
            // Until the client goes away.
            let _ = reader.read(&mut [0]);
            return;
        }
        let body = if request.starts_with("HEAD") { String::new() } else { body };
        write!(writer, "{head} {}\r\n\r\n{body}", manifest().len()).unwrap();
    }
}

fn interrupted(home: &Path, arguments: &[&str], name: &str, asked: &Receiver<()>) -> (Option<i32>, String, String) {
    let child: Child = process(home)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    asked.recv_timeout(Duration::from_secs(20)).unwrap();
    signal(&child, name);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_interrupted_serialize_leaves_nothing_that_looks_complete() {
    let (registry, asked) = stalling_registry();
    let image = format!("{registry}/a:1");
    for name in ["INT", "TERM"] {
        let home = tempfile::tempdir().unwrap();
        let (code, stdout, stderr) = interrupted(home.path(), &["serialize", &image, "a.tar"], name, &asked);
        assert_eq!((code, stdout.as_str()), (Some(130), ""), "{stderr}");
        assert!(
            stderr.ends_with(
                "error: interrupted\nhint: with --resume, the same command goes on with what is in DEST.partial\n"
            ),
            "{stderr}"
        );
        assert!(names(home.path()).iter().all(|n| n == "a.tar.partial"), "{name}");
    }
}

#[test]
fn an_interrupted_gather_tags_nothing_and_says_how_to_go_on() {
    let (registry, asked) = stalling_registry();
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("a.list"), format!("{registry}/a:1\n")).unwrap();
    let arguments = ["gather", "a.list", "oci:low:sync", "--output", "json"];
    let (code, stdout, _) = interrupted(home.path(), &arguments, "INT", &asked);
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &json["exitCode"], &json["error"]), (Some(130), &130.into(), &"interrupted".into()));
    assert!(json["hint"].as_str().unwrap().contains("what has arrived is not sent twice"), "{json}");
    let index = std::fs::read_to_string(home.path().join("low/index.json")).unwrap_or_default();
    assert!(!index.contains("sync"), "{index}");
}
