//! Media that fail: an error at every block of a small archive, on every kind of medium. It is an error in seconds,
//! nothing looks complete, the ledger tells no more than what is there, and the run can be gone on with.

use std::io::Write;

use airgap_mirror::image::Digest;

use super::home::Home;
use super::pipes::ends_soon;

/// Every line of the ledger names content that is in the archive before the offset that the line has; `medium` is
/// what reached the medium of it.
pub fn ledger_is_true(home: &Home, ledger: &str, medium: &[u8]) {
    let Ok(text) = std::fs::read_to_string(home.path(ledger)) else { return };
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let end: usize = line["annotations"]["vnd.act3-ace.data.offset"].as_str().unwrap().parse().unwrap();
        // Of a pipe, the user says how far it was read.
        if end <= medium.len() {
            let size = line["size"].as_u64().unwrap() as usize;
            let begin = end - size.next_multiple_of(512);
            assert_eq!(Digest::sha256(&medium[begin..begin + size]).to_string(), line["digest"]);
        }
    }
}

/// An image whose archive has few blocks: `oci:low:small`, and the archive `whole.tar`.
async fn small() -> (Home, Vec<u8>) {
    let home = Home::new().await;
    home.add_image("small", 5, &[3_000, 700, 1]).await;
    home.mirror(&["serialize", "oci:low:small", "whole.tar"]).says(0, &[]);
    let whole = home.read("whole.tar");
    (home, whole)
}

/// `serialize` to `destination`, where no file gets longer than so many blocks.
fn limited(home: &Home, blocks: usize, destination: &str, ours: &[&str]) -> super::home::Ended {
    let arguments = [&["serialize", "oci:low:small", destination, "--checkpoint", "ledger"], ours].concat();
    let script = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
    ends_soon(home.shell(&[&script, env!("CARGO_BIN_EXE_mirror")], &arguments).spawn().unwrap())
}

#[tokio::test]
async fn a_file_that_cannot_grow_at_any_block_is_an_error_and_can_be_gone_on_with() {
    let (home, whole) = small().await;
    let blocks = whole.len() / 512;
    for n in 0..blocks {
        limited(&home, n, "a.tar", &[]).says(1, &["a.tar", "File too large"]);
        assert!(!home.path("a.tar").exists());
        ledger_is_true(&home, "ledger", &std::fs::read(home.path("a.tar.partial")).unwrap_or_default());
        if home.path("a.tar.partial").exists() {
            home.mirror(&["serialize", "oci:low:small", "a.tar", "--resume"]).says(0, &[]);
            assert!(home.read("a.tar") == whole, "gone on after {n} blocks");
            std::fs::remove_file(home.path("a.tar")).unwrap();
        }
    }
    limited(&home, blocks, "a.tar", &[]).says(0, &[]);
    ledger_is_true(&home, "ledger", &whole);
    assert!(home.read("a.tar") == whole);
}

#[tokio::test]
async fn a_compressed_file_that_cannot_grow_at_any_block_is_an_error() {
    let (home, _) = small().await;
    let compressed = ["--compression", "zstd"];
    limited(&home, 1000, "whole.zst", &compressed).says(0, &[]);
    let blocks = home.read("whole.zst").len().div_ceil(512);
    for n in 0..blocks {
        limited(&home, n, "a.tar.zst", &compressed).says(1, &["a.tar.zst", "File too large"]);
        assert!(!home.path("a.tar.zst").exists());
        assert!(home.read("ledger").is_empty());
    }
}

#[tokio::test]
async fn a_volume_that_cannot_grow_at_any_block_is_an_error_and_can_be_gone_on_with() {
    let (home, whole) = small().await;
    let size = 4096;
    for n in 0..size / 512 {
        limited(&home, n, "a.tar", &["--volume-size", "4096"]).says(1, &["a.tar", "File too large"]);
        assert!(home.read("ledger").is_empty());
        assert!(!home.path("a.tar.001").exists());
        home.mirror(&["deserialize", "a.tar.001", "oci:high:a"]).says(1, &[]);
    }
    // The first ones fit, a later one does not.
    home.mirror(&["serialize", "oci:low:small", "a.tar", "--volume-size", "4096", "--resume"]).says(0, &[]);
    let parts = (1..=whole.len().div_ceil(size)).map(|n| home.read(&format!("a.tar.{n:03}")));
    assert!(parts.collect::<Vec<_>>().concat() == whole);
}

#[tokio::test]
async fn a_drive_that_is_not_there_is_no_file_to_write() {
    let (home, _) = small().await;
    for ours in [&[][..], &["--volume-size", "4096"], &["--force"]] {
        let arguments = [&["serialize", "oci:low:small", "/dev/nst31"], ours].concat();
        home.mirror(&arguments).says(1, &["/dev/nst31: there is no such device"]);
    }
    home.mirror(&["deserialize", "/dev/nst31", "oci:high:a"]).says(1, &["/dev/nst31"]);
    home.mirror(&["tape", "status", "/dev/nst31"]).says(2, &["there is no /dev/nst31", "modprobe st"]);
    home.mirror(&["tape", "list", "whole.tar"]).says(2, &["whole.tar is no tape drive", "/dev/nst0"]);
}

#[tokio::test]
async fn a_full_disk_is_an_error() {
    let (home, whole) = small().await;
    std::fs::create_dir(home.path("disk")).unwrap();
    let run = |kib: usize, arguments: &[&str]| {
        let script = format!(
            "mount -t tmpfs -o size={kib}k none disk || exit 99; \"$0\" serialize \"$@\"; code=$?; \
             ls disk > left; exit $code"
        );
        let script = ["exec unshare -m sh -c \"$0\" \"$@\"", &script, env!("CARGO_BIN_EXE_mirror")];
        ends_soon(home.shell(&script, arguments).stdout(std::process::Stdio::null()).spawn().unwrap())
    };
    if run(64, &["oci:low:small", "disk/a.tar"]).code != Some(0) {
        // Not by a macro: its output would be seen only if the test failed.
        let told = "SKIPPED: nothing can be mounted here (unshare -m, mount): a full disk was not tested";
        writeln!(std::io::stderr(), "{told}").unwrap();
        return;
    }
    // It is seen beforehand where the length is known.
    let needs = format!("needs {} bytes", whole.len());
    run(4, &["oci:low:small", "disk/a.tar"]).says(1, &["disk/a.tar", &needs]);
    run(4, &["oci:low:small", "disk/a.tar", "--volume-size", "4096"]).says(1, &["disk/a.tar", &needs]);
    assert_eq!(home.read("left"), b"");
    // And where it is not, when the disk is full. The layers do not compress.
    for kib in (4..140).step_by(8) {
        for ours in [&[][..], &["--volume-size", "8192"]] {
            let common = ["oci:low:a", "disk/a.tar", "--compression", "zstd", "--checkpoint", "ledger"];
            run(kib, &[&common, ours].concat()).says(1, &["disk/a.tar", "No space left"]);
            let left = String::from_utf8(home.read("left")).unwrap();
            // What --resume goes on with; nothing that looks complete.
            assert!(left.lines().all(|name| name.starts_with("a.tar.")), "{left}");
            assert!(home.read("ledger").is_empty());
        }
    }
}
