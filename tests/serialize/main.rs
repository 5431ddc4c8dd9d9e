//! Archives as they are written: byte for byte what the format says, from a file's several fetches and
//! from a pipe's one stream alike, and never over what is there.

#[path = "../archives/mod.rs"]
mod archives;
mod existing;
mod resume;

use std::path::Path;
use std::process::Command;

use airgap_mirror::pipeline::serialize::{Compression, Options, Report, serialize, write_archive};
use airgap_mirror::store::Name;
use archives::{Gathers, context, fixture};

async fn write(gathers: &Gathers, name: &str, destination: &Path, options: Options) -> Report {
    let destination = destination.to_str().unwrap();
    serialize(&context(), &gathers.image(name), destination, &options).await.unwrap()
}

/// What another writer of the format wrote, but for its name in the two `index.json`.
fn expected(name: &str) -> Vec<u8> {
    let mut bytes = fixture(&format!("archives/{name}.tar"));
    let theirs = b"data.version\": \"(devel)\"";
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(theirs.len()).position(|w| w == theirs) {
        let version = at + found + theirs.len() - 8;
        bytes[version..version + 7].copy_from_slice(b"mirror1");
        at = version;
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_equal_to_those_of_the_field() {
    let gathers = Gathers::new().await;
    let directory = tempfile::tempdir().unwrap();
    for (name, archive) in [
        ("kinds", "kinds"),
        ("kinds-fallback", "kinds-fallback"),
        ("labels", "labels"),
        ("part1", "part1"),
        ("part2", "part2-blocks"),
        ("platforms", "platforms"),
        ("platforms-two", "platforms-two"),
        ("sha512", "sha512"),
    ] {
        let path = directory.path().join(name);
        let report = write(&gathers, name, &path, Options::default()).await;
        let written = std::fs::read(&path).unwrap();
        let expected = expected(archive);
        assert_eq!(written.len(), expected.len(), "{name}");
        let difference = written.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(difference, None, "{name}");
        assert_eq!(report.bytes, written.len() as u64);
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 8, "nothing temporary is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_may_have_another_name_in_its_archive() {
    let gathers = Gathers::new().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sync.tar");
    let cx = context();
    let store = cx.stores.open(&gathers.image("part1")).unwrap();
    let root = store.resolve(&Name::Tag("part1".into())).await.unwrap().unwrap();
    let path_name = path.to_str().unwrap();
    write_archive(&cx, store, &root, "sync-9", path_name, &Options::default()).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == expected("archive-part1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_come_after_their_subjects() {
    let gathers = Gathers::new().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("referrers.tar");
    write(&gathers, "referrers", &path, Options { recursive: true, ..Options::default() }).await;
    let names = |bytes: Vec<u8>| {
        let path = directory.path().join("listed");
        std::fs::write(&path, bytes).unwrap();
        let output = Command::new("tar").arg("-tf").arg(&path).output().unwrap();
        let mut names: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    let ours = names(std::fs::read(&path).unwrap());
    let theirs = names(fixture("archives/referrers.tar"));
    let more: Vec<_> = ours.iter().filter(|n| !theirs.contains(n)).collect();
    assert!(theirs.iter().all(|n| ours.contains(n)));
    // What refers to a child of an index, and its layer, are found by ours alone.
    assert_eq!(more.len(), 2, "{more:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_has_the_offsets_of_the_checkpoint() {
    let gathers = Gathers::new().await;
    let options = Options { dry_run: true, ..Options::default() };
    let report = write(&gathers, "kinds", Path::new("/nowhere/at/all.tar"), options).await;
    let plan = report.plan.unwrap();
    let lines = String::from_utf8(fixture("checkpoints/kinds.jsonl")).unwrap();
    let checkpoint: Vec<serde_json::Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(plan.len(), checkpoint.len());
    for (i, line) in checkpoint.iter().enumerate() {
        assert_eq!(plan[i].digest.to_string(), line["digest"].as_str().unwrap());
        // A checkpoint has the end of each entry, which is the start of the next.
        if let Some(next) = plan.get(i + 1) {
            assert_eq!(next.offset.to_string(), line["annotations"]["vnd.act3-ace.data.offset"].as_str().unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_gets_the_bytes_of_the_file() {
    let gathers = Gathers::new().await;
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let from = fifo.clone();
    let reader = std::thread::spawn(move || std::fs::read(from).unwrap());
    let report = write(&gathers, "kinds", &fifo, Options::default()).await;
    let read = reader.join().unwrap();
    assert!(read == expected("kinds"));
    assert_eq!(report.bytes, read.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_budget_is_enough() {
    let gathers = Gathers::new().await;
    let fifo = tempfile::tempdir().unwrap().keep().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let from = fifo.clone();
    let reader = std::thread::spawn(move || std::fs::read(from).unwrap());
    let mut cx = context();
    cx.byte_budget = 1;
    serialize(&cx, &gathers.image("part1"), fifo.to_str().unwrap(), &Options::default()).await.unwrap();
    assert!(reader.join().unwrap() == expected("part1"));
    std::fs::remove_dir_all(fifo.parent().unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_archives_hold_the_same() {
    let gathers = Gathers::new().await;
    let directory = tempfile::tempdir().unwrap();
    for (compression, tool) in [(Compression::Zstd, "zstd"), (Compression::Gzip, "gzip")] {
        let path = directory.path().join(tool);
        let report =
            write(&gathers, "kinds", &path, Options { compression: Some(compression), ..Options::default() }).await;
        let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
        assert_eq!(report.bytes, file.get_ref().metadata().unwrap().len());
        let mut plain = Vec::new();
        let mut reader = airgap_mirror::medium::compression::decompress(file).unwrap();
        std::io::Read::read_to_end(&mut reader, &mut plain).unwrap();
        assert!(plain == expected("kinds"), "{tool}");
        assert!(report.bytes < plain.len() as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exists_is_left_alone_without_force() {
    let gathers = Gathers::new().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sync.tar");
    std::fs::write(&path, "precious").unwrap();
    let name = path.to_str().unwrap();
    let error = serialize(&context(), &gathers.image("part1"), name, &Options::default()).await.unwrap_err();
    assert!(error.to_string().contains("--force"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    write(&gathers, "part1", &path, Options { force: true, ..Options::default() }).await;
    assert!(std::fs::read(&path).unwrap() == expected("part1"));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_device_is_an_error_at_once() {
    let gathers = Gathers::new().await;
    for compression in [None, Some(Compression::Zstd)] {
        let options = Options { compression, ..Options::default() };
        let (cx, image) = (context(), gathers.image("kinds"));
        let run = serialize(&cx, &image, "/dev/full", &options);
        let run = tokio::time::timeout(std::time::Duration::from_secs(20), run);
        let error = run.await.expect("it does not hang").unwrap_err();
        assert!(error.to_string().contains("/dev/full"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_leaves_no_archive_and_a_mended_one_goes_on() {
    let gathers = Gathers::new().await;
    let directory = tempfile::tempdir().unwrap();
    let options = Options { dry_run: true, ..Options::default() };
    let plan = write(&gathers, "part1", &directory.path().join("x"), options).await.plan.unwrap();
    let blob = plan.iter().max_by_key(|e| e.size).unwrap();
    let path = gathers.directory().join(blob.digest.blob_path());
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[0] ^= 1;
    let destination = directory.path().join("sync.tar");
    for compression in [None, Some(Compression::Gzip)] {
        std::fs::write(&path, &bad).unwrap();
        let options = Options { compression, resume: true, ..Options::default() };
        let run = serialize(&context(), &gathers.image("part1"), destination.to_str().unwrap(), &options).await;
        assert!(run.unwrap_err().to_string().contains(&blob.digest.to_string()));
        assert!(!destination.exists());
        std::fs::write(&path, &good).unwrap();
        write(&gathers, "part1", &destination, options).await;
        if compression.is_none() {
            assert!(std::fs::read(&destination).unwrap() == expected("part1"));
        }
        std::fs::remove_file(&destination).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left");
    }
}
