//! A run that is killed, as often as it likes to happen, goes on: the archive is that of an uninterrupted run, and
//! next to nothing is fetched twice. The registry is behind a slow line that counts what passes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use airgap_mirror::image::{Descriptor, Digest, Manifest, media_type};
use airgap_mirror::store::layout::Layout;
use airgap_mirror::store::{BytesBlob, Store};

fn mirror(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mirror"));
    command.current_dir(home).env("HOME", home).env("XDG_CONFIG_HOME", home).args(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A child that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.div_ceil(4)).flat_map(|_| (self.next() as u32).to_le_bytes()).take(length).collect()
    }
}

/// An image with a layer of that size, one that is zeros for the most part, and small ones, named `slow:1`.
pub async fn image(home: &Path, large: usize) {
    let layout = Layout::new(&home.join("low"));
    let mut numbers = Numbers(1);
    let mut descriptors = Vec::new();
    let mut zeros = numbers.bytes(300_000);
    zeros[10_000..290_000].fill(0);
    zeros[299_000..].fill(0);
    let mut blobs = vec![b"{}".to_vec(), numbers.bytes(large), zeros];
    blobs.extend((0..12).map(|_| numbers.bytes(60_000)));
    for (i, blob) in blobs.into_iter().enumerate() {
        let kind =
            if i == 0 { "application/vnd.oci.image.config.v1+json" } else { "application/vnd.oci.image.layer.v1.tar" };
        let descriptor = Descriptor::new(kind, Digest::sha256(&blob), blob.len() as u64);
        let source = BytesBlob { descriptor: descriptor.clone(), bytes: blob.into() };
        layout.push_blob(&descriptor, &source, None).await.unwrap();
        descriptors.push(descriptor);
    }
    let json = serde_json::json!({"schemaVersion": 2, "config": descriptors[0], "layers": descriptors[1..]});
    layout.push_manifest(&Manifest::new(media_type::OCI_MANIFEST, json.to_string()), Some("slow:1")).await.unwrap();
}

fn serve(home: &Path) -> (Ended, String) {
    let arguments = ["serve", "low", "--listen", "127.0.0.1:0", "--output", "json"];
    let mut child = Ended(mirror(home, &arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    (child, ready["address"].as_str().unwrap().to_owned())
}

/// A line to `registry` that lets 8 KiB pass every 4 ms in each connection. Gives its address and its count.
fn slow_line(registry: String) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, count) = (listener.local_addr().unwrap().to_string(), Arc::new(AtomicU64::new(0)));
    let counted = count.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&registry) else { continue };
            let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut up, &mut down);
                let _ = down.shutdown(std::net::Shutdown::Write);
            });
            let counted = counted.clone();
            std::thread::spawn(move || pass(server, client, &counted));
        }
    });
    (address, count)
}

fn pass(mut from: TcpStream, mut to: TcpStream, counted: &AtomicU64) {
    let mut block = [0; 8 << 10];
    while let Ok(n) = from.read(&mut block) {
        if n == 0 || to.write_all(&block[..n]).is_err() {
            break;
        }
        counted.fetch_add(n as u64, Relaxed);
        std::thread::sleep(Duration::from_millis(4));
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}

/// `slow.example` is at that address. What is archived names the registry that it came from, so that the name has to
/// be the same each time.
fn reach(home: &Path, address: &str) {
    let config = format!("registryConfig:\n  registries:\n    slow.example:\n      endpoints: [http://{address}]\n");
    std::fs::write(home.join("mirror.yaml"), config).unwrap();
    std::fs::write(home.join("sources.list"), "slow.example/slow:1\n").unwrap();
}

const SERIALIZE: [&str; 2] = ["serialize", "slow.example/slow:1"];
const ARCHIVE: [&str; 4] = ["archive", "sources.list", "--reference", "sync"];

/// The archive, from its file or its volumes, which are gone then.
fn take(home: &Path) -> Vec<u8> {
    let mut archive = Vec::new();
    for n in 0.. {
        let path = home.join(if n == 0 { "out.tar".to_owned() } else { format!("out.tar.{n:03}") });
        match std::fs::read(&path) {
            Ok(bytes) => archive.extend(bytes),
            Err(_) if n == 0 => continue,
            Err(_) => break,
        }
        std::fs::remove_file(path).unwrap();
    }
    let _ = std::fs::remove_file(home.join("out.tar.volumes.json"));
    let left = std::fs::read_dir(home).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.starts_with("out.tar")).collect::<Vec<_>>(), [""; 0]);
    archive
}

/// Writes the archive again and again, killed each time when some more bytes have passed, fewer than `most`, until
/// there were so many kills. `ours`: further arguments. Gives for each archive that was finished the kills, the bytes that
/// passed for it, and those of the last run.
fn kill_and_resume(
    home: &Path,
    verb: &[&str],
    expected: &[u8],
    (kills, most): (usize, u64),
    ours: &[&str],
) -> Vec<(usize, u64, u64)> {
    let (_registry, address) = serve(home);
    let (line, count) = slow_line(address);
    reach(home, &line);
    let arguments = [verb, &["out.tar", "--resume", "--progress", "none"], ours].concat();
    let mut numbers = Numbers(kills as u64);
    let (mut killed, mut since, mut before) = (0, 0, 0);
    let mut finished = Vec::new();
    while killed < kills || since > 0 {
        let start = count.load(Relaxed);
        let mut child = Ended(mirror(home, &arguments).spawn().unwrap());
        let more = if numbers.next().is_multiple_of(8) { 0 } else { numbers.next() % most };
        let patience = Instant::now() + Duration::from_secs(5);
        let ended = loop {
            if let Some(status) = child.0.try_wait().unwrap() {
                let mut said = String::new();
                child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                assert!(status.success(), "{said}");
                break true;
            }
            let passed = count.load(Relaxed) - start;
            if killed < kills && (passed > more || Instant::now() > patience) {
                break false;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if ended {
            assert!(take(home) == expected, "{ours:?}, after {since} kills");
            let passed = count.load(Relaxed);
            finished.push((since, passed - before, passed - start));
            (since, before) = (0, passed);
            if killed >= kills {
                break;
            }
        } else {
            drop(child);
            assert!(!home.join("out.tar").exists());
            (killed, since) = (killed + 1, since + 1);
        }
    }
    finished
}

/// The archive of a run that nothing disturbs.
fn direct(home: &Path, verb: &[&str], ours: &[&str]) -> Vec<u8> {
    let (_registry, address) = serve(home);
    reach(home, &address);
    let arguments = [verb, &["direct.tar", "--force"], ours].concat();
    assert!(mirror(home, &arguments).status().unwrap().success());
    std::fs::read(home.join("direct.tar")).unwrap()
}

/// `requests`: about so many answers come with each run besides blobs.
async fn fifty_kills(verb: &[&str], requests: u64) {
    let home = tempfile::tempdir().unwrap();
    image(home.path(), 3 << 20).await;
    let home = home.path();
    let expected = direct(home, verb, &[]);
    for (kills, jobs, block) in [(38, "1", 64 << 10), (12, "8", 8 * (64 << 10))] {
        for (kills, passed, _) in kill_and_resume(home, verb, &expected, (kills, 200_000), &["--jobs", jobs]) {
            let (size, kills) = (expected.len() as u64, kills as u64);
            // For each kill 1 % of the archive and a block for each connection, and the head of each answer.
            let allowed = size + kills * (size / 100 + block) + (kills + 16) * requests * 4096;
            assert!(passed <= allowed, "{verb:?}, {kills} kills: {passed} bytes for {size}, more than {allowed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_change_nothing_and_little_is_fetched_twice() {
    fifty_kills(&SERIALIZE, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_archive_fetch_much_twice() {
    fifty_kills(&ARCHIVE, 3).await;
}

/// Only whole frames, and whole volumes, count as being there.
#[tokio::test(flavor = "multi_thread")]
async fn nor_do_kills_change_a_compressed_archive() {
    let home = tempfile::tempdir().unwrap();
    image(home.path(), 3 << 20).await;
    let home = home.path();
    // Within this budget the large blob is written as it comes.
    let common = ["--compression", "zstd", "--compression-level", "1", "--jobs", "1", "--byte-budget", "8MiB"];
    let expected = direct(home, &SERIALIZE, &common[..4]);
    let finished = kill_and_resume(home, &SERIALIZE, &expected, (6, 4_000_000), &common);
    let goes_on = |last: u64| last < expected.len() as u64 - 500_000;
    assert!(finished.iter().any(|(_, _, last)| goes_on(*last)), "all was fetched again: {finished:?}");
    let ours = [&common[..], &["--volume-size", "700000"]].concat();
    kill_and_resume(home, &SERIALIZE, &expected, (3, 4_000_000), &ours);
}

/// Digest and end of each line; a line that was cut counts for nothing.
fn lines(ledger: &Path) -> Vec<(String, usize)> {
    let text = std::fs::read_to_string(ledger).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let line = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let end = line["annotations"]["vnd.act3-ace.data.offset"].as_str().unwrap().parse().unwrap();
        (line["digest"].as_str().unwrap().to_owned(), end)
    };
    whole.map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_run_wrote_into_its_checkpoint_is_true() {
    let home = tempfile::tempdir().unwrap();
    image(home.path(), 300_000).await;
    let home = home.path();
    let (ledger, partial) = (home.join("out.jsonl"), home.join("out.tar.partial"));
    let checkpoint = ["--checkpoint", "out.jsonl"];
    let expected = direct(home, &SERIALIZE, &checkpoint);
    let all = lines(&ledger);
    std::fs::remove_file(&ledger).unwrap();
    let (_registry, address) = serve(home);
    let (line, count) = slow_line(address);
    reach(home, &line);
    let mut lengths = std::collections::BTreeSet::new();
    for more in [0, 150_000, 300_000, 450_000, 700_000, 850_000, 1_000_000, 1_150_000] {
        let start = count.load(Relaxed);
        let first = ["out.tar", "--jobs", if more % 4 == 0 { "1" } else { "4" }, "--resume", "--progress", "none"];
        let arguments = [&SERIALIZE[..], &first, &checkpoint].concat();
        let mut child = Ended(mirror(home, &arguments).spawn().unwrap());
        while count.load(Relaxed) - start < more && child.0.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(child.0.try_wait().unwrap().is_none(), "it ended before it was killed");
        drop(child);
        let lines = lines(&ledger);
        assert!(all.starts_with(&lines), "after {more}: {lines:?}");
        let end = lines.last().map_or(0, |(_, end)| *end);
        assert!(end == 0 || std::fs::read(&partial).unwrap()[..end] == expected[..end], "after {more}, up to {end}");
        lengths.insert(lines.len());
        // From the start again.
        for path in [&partial, &ledger] {
            let _ = std::fs::remove_file(path);
        }
    }
    assert!(lengths.len() > 1 && !lengths.contains(&all.len()), "{lengths:?}");
    assert!(mirror(home, &[&SERIALIZE[..], &["out.tar"], &checkpoint].concat()).status().unwrap().success());
    assert_eq!(lines(&ledger), all);
}
