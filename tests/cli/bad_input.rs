//! Bad input gets a clear error and loses nothing: a message, an exit code that is not 0, within seconds, and a
//! destination that is as it was.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write as _};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use airgap_mirror::archive::tar;
use airgap_mirror::image::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::program::{process, unpack_samples};

/// Longer than this is a hang.
const LIMIT: Duration = Duration::from_secs(30);
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layout that is put together by hand, in `HOME/low`.
struct Small {
    home: TempDir,
    roots: Vec<Value>,
}

impl Small {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("low/blobs/sha256")).unwrap();
        fs::write(home.path().join("low/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Small { home, roots: Vec::new() }
    }

    /// The smallest image, as `low:v1`.
    fn image() -> Self {
        let mut small = Small::new();
        let layer = small.blob(LAYER, b"a layer");
        let root = small.manifest(vec![layer]);
        small.name("v1", root);
        small
    }

    fn home(&self) -> &Path {
        self.home.path()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.home().join(name)
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::sha256(bytes).to_string();
        fs::write(self.path("low/blobs").join(digest.replace(':', "/")), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    fn manifest(&self, layers: Vec<Value>) -> Value {
        let config = self.blob("application/vnd.oci.image.config.v1+json", b"{}");
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        self.blob(MANIFEST, manifest.to_string().as_bytes())
    }

    fn index(&self, children: Vec<Value>) -> Value {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children });
        self.blob(INDEX, index.to_string().as_bytes())
    }

    fn name(&mut self, name: &str, mut root: Value) {
        root["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        self.roots.push(root);
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": self.roots });
        fs::write(self.path("low/index.json"), index.to_string()).unwrap();
    }

    /// The archive of `low:v1`.
    fn archive(&self) -> Vec<u8> {
        succeeds(self.home(), &["serialize", "oci:low:v1", "whole.tar"]);
        fs::read(self.path("whole.tar")).unwrap()
    }
}

/// Runs to the end, which must come in time.
fn run(home: &Path, arguments: &[&str], input: Option<&[u8]>) -> Output {
    let began = Instant::now();
    let mut command = process(home);
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command.args(arguments).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
        // The program may have seen enough.
        let _ = pipe.write_all(input);
    }
    let output = child.wait_with_output().unwrap();
    assert!(began.elapsed() < LIMIT, "{arguments:?} took {:?}", began.elapsed());
    output
}

fn succeeds(home: &Path, arguments: &[&str]) -> Output {
    let output = run(home, arguments, None);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs what must fail with that code and say each of `words`, and change nothing in `untouched`.
fn fails(home: &Path, arguments: &[&str], input: Option<&[u8]>, code: i32, untouched: &str, words: &[&str]) {
    let before = files(&home.join(untouched));
    let output = run(home, arguments, input);
    failed(&output, code, words);
    assert!(files(&home.join(untouched)) == before, "{arguments:?} changed {untouched}");
}

fn failed(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.lines().any(|line| line.starts_with("error: ")), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

/// Every file below a directory with its content, but for what an interrupted archive left to go on with.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    if directory.is_file() {
        found.insert(String::new(), fs::read(directory).unwrap());
    }
    let Ok(entries) = fs::read_dir(directory) else { return found };
    for entry in entries.map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            let inside = files(&entry.path());
            found.extend(inside.into_iter().map(|(path, bytes)| (format!("{name}/{path}"), bytes)));
        } else if !name.ends_with(".partial") {
            found.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    found
}

/// Whether a layout names an image.
fn tagged(layout: &Path) -> bool {
    fs::read_to_string(layout.join("index.json")).is_ok_and(|index| index.contains("ref.name"))
}

/// A tar entry.
fn entry(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut entry = tar::header(name, bytes.len() as u64, false);
    entry.extend_from_slice(bytes);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

/// An archive of these entries.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.iter().flat_map(|(name, bytes)| entry(name, bytes)).collect();
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

fn blob_name(descriptor: &Value) -> String {
    format!("blobs/{}", descriptor["digest"].as_str().unwrap().replace(':', "/"))
}

#[test]
fn a_file_that_exists_is_left_alone() {
    let small = Small::image();
    fs::write(small.path("sync.tar"), "precious").unwrap();
    let words = ["sync.tar exists and is left as it is", "--force"];
    for more in [&[][..], &["--compression=zstd"]] {
        let arguments = [&["serialize", "oci:low:v1", "sync.tar"], more].concat();
        fails(small.home(), &arguments, None, 1, "", &words);
    }
    std::os::unix::fs::symlink("sync.tar", small.path("link.tar")).unwrap();
    fails(small.home(), &["serialize", "oci:low:v1", "link.tar"], None, 1, "", &["link.tar exists"]);
    fails(small.home(), &["serialize", "oci:low:v1", "low"], None, 1, "", &["directory"]);
    let whole = small.archive();
    succeeds(small.home(), &["serialize", "oci:low:v1", "sync.tar", "--force"]);
    assert!(fs::read(small.path("sync.tar")).unwrap() == whole);
    // With --force too, a run that fails leaves what was there.
    fs::write(small.path("sync.tar"), "precious").unwrap();
    let arguments = ["serialize", "oci:low:gone", "sync.tar", "--force"];
    fails(small.home(), &arguments, None, 1, "", &["gone is not in oci:low"]);
}

#[test]
fn a_list_that_names_no_image_replaces_nothing() {
    let small = Small::image();
    fs::write(small.path("empty.list"), "# oci:low:v1\n\n").unwrap();
    let words = ["the list of sources names no image"];
    for arguments in [
        &["gather", "empty.list", "oci:low:v1"][..],
        &["archive", "empty.list", "sync.tar", "--force"],
        &["clone", "empty.list", "nest=oci:high"],
    ] {
        fails(small.home(), arguments, None, 1, "", &words);
    }
    fails(small.home(), &["gather", "-", "oci:low:v1"], Some(b""), 1, "", &words);
}

#[test]
fn a_choice_that_leaves_no_image_is_no_success() {
    let small = Small::image();
    fs::write(small.path("sources.list"), "oci:low:v1, team=red\n").unwrap();
    fs::write(small.path("empty.list"), "# nothing\n").unwrap();
    succeeds(small.home(), &["gather", "sources.list", "oci:low:sync"]);
    succeeds(small.home(), &["serialize", "oci:low:sync", "sync.tar"]);
    let archive = fs::read(small.path("sync.tar")).unwrap();
    for (choice, words) in [
        (["-l", "team=blue"], ["no image has labels that the selectors ask for"]),
        (["--subset", "empty.list"], ["the list of the subset names no image"]),
    ] {
        for (verb, source, input) in
            [("scatter", "oci:low:sync", None), ("unarchive", "sync.tar", None), ("unarchive", "-", Some(&archive[..]))]
        {
            let arguments = [&[verb, source, "nest=oci:high"], &choice[..]].concat();
            fails(small.home(), &arguments, input, 1, "", &words);
        }
    }
}

#[test]
fn a_ledger_is_never_the_archive_itself() {
    let small = Small::image();
    for ledger in ["sync.tar", "./sync.tar", "sync.tar.partial"] {
        let arguments = ["serialize", "oci:low:v1", "sync.tar", "--checkpoint", ledger];
        fails(small.home(), &arguments, None, 2, "", &["would be the archive itself"]);
    }
}

#[test]
fn standard_output_is_left_to_the_archive_under_any_name() {
    let small = Small::image();
    let whole = small.archive();
    for name in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        assert!(succeeds(small.home(), &["serialize", "oci:low:v1", name]).stdout == whole, "{name}");
    }
}

#[test]
fn a_full_device_is_an_error_at_once() {
    let home = unpack_samples("images");
    let home = home.path();
    let words = ["No space left on device", "hint: the disk is full"];
    for more in [&[][..], &["--compression=zstd"], &["--compression=gzip"]] {
        let arguments = [&["serialize", "oci:images:edge/plain:v1", "/dev/full"], more].concat();
        fails(home, &arguments, None, 1, "images", &words);
    }
    let full = || Stdio::from(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let output = process(home)
        .args(["serialize", "oci:images:edge/plain:v1", "-"])
        .stdout(full())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    failed(&output, 1, &["standard output: No space left on device"]);
    // A result that cannot be printed is no success, and is told where it can be.
    let output = process(home)
        .args(["serialize", "oci:images:edge/plain:v1", "sync.tar", "--output=json"])
        .stdout(full())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    failed(&output, 1, &["cannot print the result"]);
}

#[test]
fn a_file_that_may_not_grow_is_an_error_at_once() {
    let home = unpack_samples("images");
    let home = home.path();
    let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fixtures/archives/kinds.tar");
    fs::write(home.join("sources.list"), "oci:images:team-0/app-000:v1.0\n").unwrap();
    for arguments in [
        &["serialize", "oci:images:edge/plain:v1", "sync.tar"][..],
        &["serialize", "oci:images:edge/plain:v1", "sync.tar", "--compression=gzip"],
        &["deserialize", archive, "oci:high:sync"],
        &["gather", "sources.list", "oci:high:sync"],
    ] {
        let mut command = std::process::Command::new("bash");
        // In units of 1024 bytes.
        command.args(["-c", "ulimit -f 12 && exec \"$@\"", "bash"]).arg(process(home).get_program()).args(arguments);
        let output = command.current_dir(home).env("HOME", home).output().unwrap();
        failed(&output, 1, &["File too large"]);
        assert!(!tagged(&home.join("high")), "{arguments:?}");
        let left: Vec<String> = files(home).into_keys().filter(|name| !name.starts_with("images/")).collect();
        assert!(left.iter().all(|name| !name.contains(".tar") && !name.contains(".mirror-")), "{left:?}");
    }
}

/// Unmounts at the end.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_is_an_error_and_nothing_counts() {
    let home = unpack_samples("images");
    let home = home.path();
    let disk = home.join("disk");
    fs::create_dir(&disk).unwrap();
    let mut mount = std::process::Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=24k", "none"]).arg(&disk).stderr(Stdio::null());
    if !mount.status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: a file system of 24 KiB cannot be mounted here");
        return;
    }
    let _mounted = Mounted(&disk);
    let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fixtures/archives/kinds.tar");
    fs::write(home.join("sources.list"), "oci:images:team-0/app-000:v1.0\n").unwrap();
    fs::write(home.join("batch.csv"), "name,artifact\na,oci:images:edge/plain:v1\n").unwrap();
    for arguments in [
        &["serialize", "oci:images:edge/plain:v1", "disk/sync.tar"][..],
        &["serialize", "oci:images:edge/plain:v1", "disk/sync.tar", "--compression=zstd"],
        &["batch-serialize", "batch.csv", "disk"],
    ] {
        let output = run(home, arguments, None);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("No space left") || said.contains("are free there: make space"), "{said}");
        assert!(files(&disk).is_empty(), "{arguments:?} left {:?}", files(&disk).keys());
    }
    for arguments in
        [&["deserialize", archive, "oci:disk/high:sync"][..], &["gather", "sources.list", "oci:disk/high:sync"]]
    {
        let output = run(home, arguments, None);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("No space left on device"), "{said}");
        assert!(!tagged(&disk.join("high")));
        let _ = fs::remove_dir_all(disk.join("high"));
    }
}

#[test]
fn a_registry_that_is_not_there_is_said_to_be_so() {
    let small = Small::image();
    // The port is free again when this ends.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let image = format!("{nobody}/a:1");
    let words = [image.split_once(':').unwrap().0, "hint: is 127.0.0.1"];
    fails(small.home(), &["serialize", &image, "sync.tar"], None, 1, "", &words);
    let whole = small.archive();
    fs::write(small.path("sync.tar"), whole).unwrap();
    fails(small.home(), &["deserialize", "sync.tar", &image], None, 1, "", &words);
}

#[test]
fn no_cut_archive_is_a_success() {
    let small = Small::image();
    let whole = small.archive();
    assert!(whole.len() < 16 << 10, "{}", whole.len());
    for length in (0..whole.len()).step_by(512) {
        let cut = &whole[..length];
        fs::write(small.path("cut.tar"), cut).unwrap();
        for (source, input) in [("cut.tar", None), ("-", Some(cut))] {
            let output = run(small.home(), &["deserialize", source, "oci:high:sync"], input);
            failed(&output, 1, &["hint: ", "arch"][1..]);
            assert!(!tagged(&small.path("high")), "cut at {length} from {source}");
            let _ = fs::remove_dir_all(small.path("high"));
        }
    }
    for method in ["zstd", "gzip"] {
        let archive = format!("whole.{method}");
        succeeds(small.home(), &["serialize", "oci:low:v1", &archive, "--compression", method]);
        let whole = fs::read(small.path(&archive)).unwrap();
        for length in (0..whole.len()).step_by(whole.len() / 20).chain(whole.len() - 8..whole.len()) {
            let cut = &whole[..length];
            let output = run(small.home(), &["deserialize", "-", "oci:high:sync"], Some(cut));
            failed(&output, 1, &[]);
            assert!(!tagged(&small.path("high")), "{method} cut at {length}");
        }
    }
}

#[test]
fn altered_content_is_refused_and_named() {
    let small = Small::image();
    let whole = small.archive();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for (what, with) in
        [("a layer", "A layer"), ("application/vnd.oci.image.config", "application/vnd.oci.imagE.config")]
    {
        let at = whole.windows(what.len()).position(|bytes| bytes == what.as_bytes()).unwrap();
        let mut altered = whole.clone();
        altered[at..at + with.len()].copy_from_slice(with.as_bytes());
        fs::write(small.path("altered.tar"), &altered).unwrap();
        for (source, input) in [("altered.tar", None), ("-", Some(&altered[..]))] {
            let output = run(small.home(), &["deserialize", source, "oci:high:sync"], input);
            failed(&output, 1, &["sha256:"]);
            assert!(!tagged(&small.path("high")), "{}", text(&output.stderr));
        }
    }
    // The same where it comes from a layout.
    let manifest = small.path("low").join(blob_name(&small.roots[0]));
    let bytes = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, bytes.replace("\"schemaVersion\":2", "\"schemaVersion\":1")).unwrap();
    fails(small.home(), &["serialize", "oci:low:v1", "sync.tar"], None, 1, "", &["sha256:", "altered or cut"]);
    fs::write(small.path("sources.list"), "oci:low:v1\n").unwrap();
    fails(small.home(), &["gather", "sources.list", "oci:high:sync"], None, 1, "low", &["sha256:"]);
    assert!(!tagged(&small.path("high")));
}

#[test]
fn a_size_annotation_is_not_demanded() {
    let mut small = Small::image();
    let mut child = small.roots[0].clone();
    child["annotations"] = json!({ "vnd.act3-ace.manifest.source": "reg.low/app:1" });
    let index = small.index(vec![child]);
    small.name("sync", index);
    let home = small.home();
    fs::write(home.join("dest.csv"), "reg.low/,oci:out:\n").unwrap();
    succeeds(home, &["scatter", "oci:low:sync", "all-prefix=dest.csv"]);
    assert!(tagged(&home.join("out")));
    succeeds(home, &["serialize", "oci:low:sync", "sync.tar"]);
    succeeds(home, &["deserialize", "sync.tar", "oci:high:sync"]);
    fs::write(home.join("dest.csv"), "reg.low/,oci:further:\n").unwrap();
    succeeds(home, &["scatter", "oci:high:sync", "all-prefix=dest.csv"]);
    assert!(tagged(&home.join("further")));
}

#[test]
fn a_manifest_of_an_unknown_type_is_said_to_be_one() {
    let mut small = Small::image();
    let unknown = "application/vnd.example.thing.v9+json";
    let root = small.blob(unknown, br#"{"schemaVersion":2}"#);
    small.name("thing", root.clone());
    let words = [unknown, "cannot be archived"];
    fails(small.home(), &["serialize", "oci:low:thing", "sync.tar"], None, 1, "", &words);
    // In an archive, as its root.
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [root] }).to_string();
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    let name = blob_name(&root);
    let bytes =
        archive(&[("oci-layout", layout), ("index.json", index.as_bytes()), (&name, br#"{"schemaVersion":2}"#)]);
    fs::write(small.path("thing.tar"), &bytes).unwrap();
    for (source, input) in [("thing.tar", None), ("-", Some(&bytes[..]))] {
        fails(small.home(), &["deserialize", source, "oci:high:sync"], input, 1, "low", &[unknown]);
        assert!(!tagged(&small.path("high")));
    }
}

#[test]
fn a_manifest_of_four_gibibytes_is_not_read() {
    let small = Small::image();
    let size: u64 = 4 << 30;
    let digest = Digest::sha256(b"large");
    let root = json!({ "mediaType": MANIFEST, "digest": digest.to_string(), "size": size });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [root] }).to_string();
    let mut start =
        [entry("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#), entry("index.json", index.as_bytes())].concat();
    start.extend(tar::header(&blob_name(&root), size, false));
    // All of it is there, and takes no space.
    let mut file = fs::File::create(small.path("large.tar")).unwrap();
    file.write_all(&start).unwrap();
    file.seek(SeekFrom::Current(size as i64)).unwrap();
    file.write_all(&[0; 1024]).unwrap();
    drop(file);
    fails(small.home(), &["deserialize", "large.tar", "oci:high:sync"], None, 1, "low", &["4294967296 bytes"]);
    fails(small.home(), &["deserialize", "-", "oci:high:sync"], Some(&start), 1, "low", &["4294967296 bytes"]);
    assert!(!tagged(&small.path("high")));
}

#[test]
fn names_that_point_out_of_the_archive_are_refused() {
    let small = Small::image();
    let whole = small.archive();
    for name in ["../evil", "/etc/evil", "blobs/../../evil", "blobs/sha256/../../../evil"] {
        let bytes = [entry(name, b"evil"), whole.clone()].concat();
        fs::write(small.path("evil.tar"), &bytes).unwrap();
        for (source, input) in [("evil.tar", None), ("-", Some(&bytes[..]))] {
            let before = files(small.home());
            let output = run(small.home(), &["deserialize", source, "oci:high:sync"], input);
            failed(&output, 1, &[name, "points out of the archive"]);
            assert!(!tagged(&small.path("high")));
            let _ = fs::remove_dir_all(small.path("high"));
            assert!(files(small.home()) == before);
        }
    }
}

#[test]
fn a_foreign_layer_is_left_out_and_said() {
    let mut small = Small::new();
    let layer = small.blob(LAYER, b"a layer");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let digest = Digest::sha256(b"elsewhere").to_string();
    let foreign = json!({
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": digest,
        "size": 9,
        "urls": [format!("http://{nobody}/layer")],
    });
    let root = small.manifest(vec![foreign, layer]);
    small.name("v1", root);
    let home = small.home();
    fs::write(home.join("sources.list"), "oci:low:v1\n").unwrap();
    for arguments in [
        &["gather", "sources.list", "oci:mid:sync"][..],
        &["serialize", "oci:mid:sync", "sync.tar"],
        &["deserialize", "sync.tar", "oci:high:sync"],
    ] {
        let said = String::from_utf8(succeeds(home, arguments).stdout).unwrap();
        assert!(said.contains("left out (1)") && said.contains(&digest), "{arguments:?}: {said}");
    }
    // Asked for, it is needed: nobody has it.
    let arguments = ["serialize", "oci:low:v1", "with.tar", "--foreign-layers"];
    fails(home, &arguments, None, 1, "", &[&digest]);
}

#[test]
fn several_archives_in_one_are_read_or_refused() {
    let mut small = Small::image();
    let one = small.archive();
    let layer = small.blob(LAYER, b"another layer");
    let other = small.manifest(vec![layer]);
    small.name("v2", other);
    succeeds(small.home(), &["serialize", "oci:low:v2", "other.tar"]);
    let other = fs::read(small.path("other.tar")).unwrap();
    let twice = [one.clone(), one.clone()].concat();
    let both = [one.clone(), other.clone()].concat();
    // The trailer of the first is missing: tar would go on, and take both for one.
    let joined = [&one[..one.len() - 1024], &other[..]].concat();
    for (bytes, code) in [(twice, 0), (both, 1), (joined, 1)] {
        fs::write(small.path("several.tar"), &bytes).unwrap();
        for (source, input) in [("several.tar", None), ("-", Some(&bytes[..]))] {
            let output = run(small.home(), &["deserialize", source, "oci:high:sync"], input);
            match code {
                0 => assert!(output.status.success()),
                _ => failed(&output, code, &["2 images", "--root"]),
            }
            assert_eq!(tagged(&small.path("high")), code == 0);
            let _ = fs::remove_dir_all(small.path("high"));
        }
    }
    fs::write(small.path("several.tar"), [one, other].concat()).unwrap();
    fails(small.home(), &["unarchive", "several.tar", "nest=oci:high"], None, 1, "", &["2 images", "--reference"]);
}

#[test]
fn what_is_no_archive_is_said_to_be_none() {
    let small = Small::image();
    for bytes in [&b""[..], b"hello", &[b'x'; 4096], &[0; 4096], b"\x1f\x8b not gzip", b"\x28\xb5\x2f\xfd not zstd"] {
        fs::write(small.path("file"), bytes).unwrap();
        for (source, input) in [("file", None), ("-", Some(bytes))] {
            fails(small.home(), &["deserialize", source, "oci:high:sync"], input, 1, "low", &[]);
            assert!(!tagged(&small.path("high")));
        }
    }
    fails(
        small.home(),
        &["deserialize", "gone.tar", "oci:high:sync"],
        None,
        1,
        "",
        &["gone.tar", "hint: check the path"],
    );
    fails(small.home(), &["deserialize", "-", "oci:high:sync"], Some(b""), 1, "", &["it is empty"]);
    fails(small.home(), &["deserialize", "low", "oci:high:sync"], None, 1, "low", &["hint: a layout is named oci:DIR"]);
}

#[test]
fn a_foreign_layer_goes_the_whole_way_where_it_is_asked_for() {
    let mut small = Small::image();
    let theirs = small.blob("application/vnd.oci.image.layer.nondistributable.v1.tar", b"theirs");
    let path = blob_name(&theirs);
    let image = small.manifest(vec![theirs]);
    small.name("foreign", image);
    fs::write(small.path("images.list"), "oci:low:foreign\n").unwrap();
    for (flag, place) in [(None, "without"), (Some("--foreign-layers"), "with")] {
        let run = |arguments: &[&str]| {
            let output = succeeds(small.home(), &arguments.iter().copied().chain(flag).collect::<Vec<_>>());
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let (mid, high) = (format!("oci:{place}/mid:x"), format!("oci:{place}/high:x"));
        fs::create_dir(small.path(place)).unwrap();
        run(&["gather", "images.list", &mid]);
        run(&["serialize", &mid, &format!("{place}/x.tar")]);
        succeeds(small.home(), &["deserialize", &format!("{place}/x.tar"), &high]);
        fs::write(small.path("rules.csv"), format!("oci:low:,oci:{place}/end:\n")).unwrap();
        let said = run(&["scatter", &high, "all-prefix=rules.csv"]);
        assert_eq!(small.path(place).join("end").join(&path).exists(), flag.is_some(), "{said}");
        assert_eq!(said.contains("left out"), flag.is_none(), "{said}");
    }
}
