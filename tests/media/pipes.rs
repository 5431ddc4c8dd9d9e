//! Archives through pipes: both ends are this program, or one of them goes away.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use airgap_mirror::image::Digest;

use super::home::{Ended, Home, end, noise};

const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for the end of a program that must come soon.
pub fn ends_soon(mut child: Child) -> Ended {
    let since = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if since.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it did not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let mut ended = Ended { code: status.code(), stdout: String::new(), stderr: String::new() };
    child.stderr.take().unwrap().read_to_string(&mut ended.stderr).unwrap();
    ended
}

#[tokio::test]
async fn an_archive_goes_straight_to_its_reader() {
    let home = Home::new().await;
    for ours in ["", "--compression zstd", "--compression gzip"] {
        let script = format!("\"$0\" serialize oci:low:a - {ours} 2> said | \"$0\" deserialize - oci:high:a");
        let ended = end(home.shell(&[&script, env!("CARGO_BIN_EXE_mirror")], &[]));
        ended.says(0, &[]);
        assert!(ended.stdout.contains("read standard input into oci:high:a"), "{}", ended.stdout);
        let said = String::from_utf8(home.read("said")).unwrap();
        assert!(said.contains("wrote oci:low:a to standard output"), "{said}");
        home.mirror(&["diff", "oci:low:a", "oci:high:a"]).says(0, &[]);
        std::fs::remove_dir_all(home.path("high")).unwrap();
    }
}

#[tokio::test]
async fn a_reader_that_closes_the_pipe_ends_the_writer_wherever_it_is() {
    let home = Home::new().await;
    home.add_image("c", 3, &[300_000, 5_000]).await;
    home.mirror(&["serialize", "oci:low:c", "c.tar"]).says(0, &[]);
    let whole = home.read("c.tar");
    // What a pipe holds may be given to it before the reader goes.
    let last = whole.len() - (64 << 10);
    for n in (0..40).map(|n| n * last / 40) {
        let mut child = home.command(&["serialize", "oci:low:c", "-", "--checkpoint", "ledger"]).spawn().unwrap();
        let mut read = vec![0; n];
        child.stdout.take().unwrap().read_exact(&mut read).unwrap();
        ends_soon(child).says(1, &["standard output", "roken pipe"]);
        assert!(read == whole[..n]);
        super::bad::ledger_is_true(&home, "ledger", &read);
    }
    let ended = home.mirror(&["serialize", "oci:low:c", "/dev/full"]);
    ended.says(1, &["/dev/full", "No space left"]);
}

/// A registry with an image of one layer, which does not answer where `stalls` is part of the path; tells when it
/// was asked for that.
fn stalling(stalls: &'static str) -> (String, mpsc::Receiver<()>) {
    let (config, layer) = (b"{}".to_vec(), noise(7, 3 << 20));
    let descriptor = |kind: &str, bytes: &[u8]| {
        let media_type = format!("application/vnd.oci.image.{kind}");
        serde_json::json!({"mediaType": media_type, "digest": Digest::sha256(bytes), "size": bytes.len()})
    };
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let (c, l) = (descriptor("config.v1+json", &config), descriptor("layer.v1.tar", &layer));
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": manifest_type, "config": c, "layers": [l]});
    let manifest = manifest.to_string().into_bytes();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, asked) = mpsc::channel();
    let layer_digest = Digest::sha256(&layer).to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (config, layer, manifest) = (config.clone(), layer.clone(), manifest.clone());
            let (layer_digest, sender) = (layer_digest.clone(), sender.clone());
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap());
                let mut out = stream;
                loop {
                    let mut request = String::new();
                    if lines.read_line(&mut request).unwrap_or(0) == 0 {
                        return;
                    }
                    let mut line = String::new();
                    while lines.read_line(&mut line).unwrap_or(0) > 2 {
                        line.clear();
                    }
                    let (kind, body) = match &request {
                        r if r.contains("/manifests/") => (manifest_type, &manifest[..]),
                        r if r.contains(&layer_digest) => ("application/octet-stream", &layer[..]),
                        _ => ("application/octet-stream", &config[..]),
                    };
                    let head =
                        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
                    let _ = out.write_all(head.as_bytes());
                    if request.contains(stalls) && (stalls != "/blobs/" || request.contains(&layer_digest)) {
                        let _ = out.write_all(&body[..body.len() / 2]);
                        let _ = sender.send(());
                        std::thread::park();
                    }
                    if !request.starts_with("HEAD") {
                        let _ = out.write_all(body);
                    }
                }
            });
        }
    });
    (address, asked)
}

#[tokio::test]
async fn a_reader_that_goes_away_is_noticed_while_the_source_stalls() {
    let home = Home::new().await;
    for stalls in ["/blobs/", "/manifests/"] {
        let (address, asked) = stalling(stalls);
        let image = format!("{address}/a:1");
        let mut child = home.command(&["serialize", &image, "-", "--progress", "none"]).spawn().unwrap();
        asked.recv_timeout(PATIENCE).unwrap();
        drop(child.stdout.take());
        ends_soon(child).says(1, &["standard output", "roken pipe"]);
    }
    // A named pipe.
    let (address, asked) = stalling("/blobs/");
    nix::unistd::mkfifo(&home.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let child = home.command(&["serialize", &format!("{address}/a:1"), "fifo"]).stdout(Stdio::null()).spawn().unwrap();
    let reader = std::fs::File::open(home.path("fifo")).unwrap();
    asked.recv_timeout(PATIENCE).unwrap();
    drop(reader);
    ends_soon(child).says(1, &["fifo", "roken pipe"]);
}

#[tokio::test]
async fn a_closed_standard_output_takes_no_archive() {
    let home = Home::new().await;
    let words = ["standard output is closed", "redirect it"];
    end(home.shell(&["exec \"$0\" serialize oci:low:a - >&-", env!("CARGO_BIN_EXE_mirror")], &[])).says(2, &words);
    for given in ["- >/dev/null", "/dev/null >/dev/null", "/dev/null 1<>/dev/null", "/dev/null >&-"] {
        let line = format!("exec \"$0\" serialize oci:low:a {given}");
        end(home.shell(&[&line, env!("CARGO_BIN_EXE_mirror")], &[])).says(0, &[]);
    }
}
