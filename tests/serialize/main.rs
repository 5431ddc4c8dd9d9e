//! Archives as they are written: byte for byte what the format says, from a file's several fetches and
//! from a pipe's one stream alike, and never over what is there.

#[path = "../archives/mod.rs"]
mod archives;
mod existing;
mod packed;
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

/// Digest and offset of each line.
fn ledger(lines: &[u8]) -> Vec<(String, String)> {
    let lines = std::str::from_utf8(lines).unwrap().lines().map(|l| serde_json::from_str(l).unwrap());
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    lines
        .map(|l: serde_json::Value| (text(&l["digest"]), text(&l["annotations"]["vnd.act3-ace.data.offset"])))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_those_of_the_field() {
    let gathers = Gathers::new().await;
    let directory = tempfile::tempdir().unwrap();
    let checkpoint = directory.path().join("out.jsonl");
    let options = || Options { checkpoint: Some(checkpoint.clone()), force: true, ..Options::default() };
    for name in ["kinds", "part1"] {
        let theirs = fixture(&format!("checkpoints/{name}.jsonl"));
        write(&gathers, name, &directory.path().join("out.tar"), options()).await;
        assert!(std::fs::read(&checkpoint).unwrap() == theirs, "{name}");
        std::fs::remove_file(&checkpoint).unwrap();
        write(&gathers, name, Path::new("/dev/null"), options()).await;
        assert!(std::fs::read(&checkpoint).unwrap() == theirs, "{name} in order");
    }
    let part = airgap_mirror::archive::checkpoint::Part {
        file: archives::path("checkpoints/resume-1.jsonl"),
        offset: String::from_utf8(fixture("checkpoints/resume-1.offset")).unwrap().trim().parse().unwrap(),
    };
    write(&gathers, "part2", &directory.path().join("out.tar"), Options { earlier: vec![part], ..options() }).await;
    assert_eq!(ledger(&std::fs::read(&checkpoint).unwrap()), ledger(&fixture("checkpoints/resume-2.jsonl")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_a_full_medium_is_not_ahead_of_it() {
    let gathers = Gathers::new().await;
    let directory = tempfile::tempdir().unwrap();
    for compression in [None, Some(Compression::Zstd)] {
        let checkpoint = directory.path().join("out.jsonl");
        let options = Options { compression, checkpoint: Some(checkpoint.clone()), ..Options::default() };
        serialize(&context(), &gathers.image("kinds"), "/dev/full", &options).await.unwrap_err();
        assert_eq!(std::fs::read(&checkpoint).unwrap(), b"");
    }
    // What is compressed is there when its frame is: no offset is beyond the end of the medium.
    let (out, checkpoint) = (directory.path().join("out.zst"), directory.path().join("out.jsonl"));
    let (compression, checkpoint) = (Some(Compression::Zstd), Some(checkpoint));
    let options = Options { compression, checkpoint: checkpoint.clone(), ..Options::default() };
    let report = write(&gathers, "kinds", &out, options).await;
    let lines = ledger(&std::fs::read(checkpoint.unwrap()).unwrap());
    assert_eq!(lines.len() as u64, report.blobs);
    assert!(lines.iter().all(|(_, offset)| offset.parse::<u64>().unwrap() <= report.bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn levels_change_the_size_and_nothing_else() {
    let gathers = Gathers::new().await;
    let directory = tempfile::tempdir().unwrap();
    for (compression, low, high) in [(Compression::Zstd, 1, 19), (Compression::Gzip, 1, 9)] {
        let mut sizes = Vec::new();
        for level in [low, high] {
            let path = directory.path().join(format!("{compression}-{level}"));
            let (compression, level) = (Some(compression), Some(level));
            sizes.push(
                write(&gathers, "kinds", &path, Options { compression, level, ..Options::default() }).await.bytes,
            );
            let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
            let mut plain = Vec::new();
            let mut reader = airgap_mirror::medium::compression::decompress(file).unwrap();
            std::io::Read::read_to_end(&mut reader, &mut plain).unwrap();
            assert!(plain == expected("kinds"));
        }
        assert!(sizes[0] > sizes[1], "{compression}: {sizes:?}");
    }
    let options = Options { compression: Some(Compression::Gzip), level: Some(10), ..Options::default() };
    let path = directory.path().join("none");
    let error = serialize(&context(), &gathers.image("part1"), path.to_str().unwrap(), &options).await.unwrap_err();
    assert!(error.to_string().contains("1 to 9"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_finds_every_image_under_all_its_names() {
    let gathers = Gathers::new().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.tar");
    let options = || Options { manifest_json: true, force: true, ..Options::default() };
    write(&gathers, "part1", &path, options()).await;
    let (ours, theirs) = (std::fs::read(&path).unwrap(), expected("part1-manifest-json"));
    let end = expected("part1").len() - 1024;
    assert!(ours[..end] == theirs[..end], "all but manifest.json");
    let read = |path: &Path| -> serde_json::Value {
        let output = Command::new("tar").arg("-xOf").arg(path).arg("manifest.json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let ours = read(&path);
    let mut theirs = read(&archives::path("archives/part1-manifest-json.tar"));
    // Two names of one image: the sample has lost one of them.
    theirs[1]["RepoTags"].as_array_mut().unwrap().push("reg.low.example/tiny/edge/plain:v1".into());
    assert_eq!(ours, theirs);

    for name in ["kinds", "platforms-two"] {
        write(&gathers, name, &path, options()).await;
        let listed = Command::new("tar").arg("-tf").arg(&path).output().unwrap();
        let entries = String::from_utf8(listed.stdout).unwrap();
        let mut names = std::collections::HashSet::new();
        for image in read(&path).as_array().unwrap() {
            let layers = image["Layers"].as_array().unwrap().iter();
            for blob in layers.chain([&image["Config"]]) {
                assert!(entries.lines().any(|e| e == blob.as_str().unwrap()), "{name}: {blob}");
            }
            for tag in image["RepoTags"].as_array().unwrap() {
                assert!(names.insert(tag.as_str().unwrap().to_owned()), "{name}: {tag} twice");
            }
        }
        assert!(!names.is_empty(), "{name}");
    }
}
