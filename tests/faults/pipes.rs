//! An archive that comes through a pipe, and uploads that break: what has passed cannot be read again, and the last of it
//! is kept, within the byte budget.

use std::fs::File;
use std::process::Stdio;
use std::sync::Arc;

use airgap_mirror::archive::tar;
use airgap_mirror::image::Digest;
use serde_json::json;

use super::content::Content;
use super::registry::{Fault, Instead, Options, Registry, Seen, error};
use super::trial::{Ended, MEMORY_KIB, mirror};
use super::wire::Head;

const MIB: u64 = 1 << 20;
const LAYER: u64 = 40 * MIB;

fn entry(archive: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    archive.extend(tar::header(name, bytes.len() as u64, false));
    archive.extend_from_slice(bytes);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// One image with these layers, the first given first; the digests of its blobs.
pub fn archive(layers: &[Vec<u8>]) -> (Vec<u8>, Vec<String>) {
    let mut archive = Vec::new();
    let mut digests = Vec::new();
    let mut put = |archive: &mut Vec<u8>, media_type: &str, bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        entry(archive, &digest.blob_path(), bytes);
        digests.push(digest.to_string());
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    };
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let layers: Vec<_> = layers.iter().map(|bytes| put(&mut archive, layer, bytes)).collect();
    let config = put(&mut archive, "application/vnd.oci.image.config.v1+json", b"{}");
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
    let root = put(&mut archive, media_type, manifest.to_string().as_bytes());
    digests.pop();
    entry(&mut archive, "index.json", json!({"schemaVersion": 2, "manifests": [root]}).to_string().as_bytes());
    archive.extend([0; 1024]);
    (archive, digests)
}

/// Bytes that are the same nowhere.
pub fn noise(length: u64) -> Vec<u8> {
    let mut state = 1u64;
    let words = (0..length / 8).flat_map(|_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 8).to_le_bytes()
    });
    words.collect()
}

/// Breaks the first upload of something large after so many bytes, and may forget it.
struct Cut {
    after: u64,
    forget: bool,
}

impl Fault for Cut {
    fn before(&self, head: &Head, nth: usize) -> Option<Instead> {
        let length: u64 = head.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        if head.is("PUT", "/blobs/uploads/") && length == LAYER && nth == 1 {
            return Some(Instead::ResetAfter(self.after));
        }
        let gone = || Instead::Answer(error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"));
        (self.forget && head.is("GET", "/blobs/uploads/")).then(gone)
    }
}

/// Through standard input into a registry that misbehaves.
fn read(archive: &[u8], fault: Cut, flags: &[&str]) -> (Ended, Content, Vec<Seen>) {
    let work = tempfile::tempdir().expect("a temporary directory");
    let path = work.path().join("a.tar");
    std::fs::write(&path, archive).expect("it can be written");
    let registry = Registry::start(Content::default(), Options::default());
    registry.inject(Arc::new(fault));
    let to = format!("{}/gather:x", registry.address());
    let input = Stdio::from(File::open(path).expect("it is there"));
    let arguments = [&["deserialize", "-", &to], flags].concat();
    let ended = mirror(&arguments, work.path(), &work.path().join("none"), input);
    (ended, registry.content(), registry.seen())
}

#[test]
fn an_upload_that_broke_goes_on_from_where_the_registry_stands() {
    let (archive, digests) = archive(&[noise(LAYER)]);
    let (ended, content, seen) = read(&archive, Cut { after: 30 * MIB, forget: false }, &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(digests.iter().all(|digest| content.blobs.contains_key(digest)));
    let rest: Vec<_> =
        seen.iter().filter(|s| s.head.method == "PATCH").map(|s| s.head.header("content-range")).collect();
    assert_eq!(rest, [Some(format!("{}-{}", 30 * MIB, LAYER - 1).as_str())]);
    assert!(ended.peak_kib < MEMORY_KIB, "{} KiB", ended.peak_kib);
}

#[test]
fn an_upload_that_was_forgotten_late_is_an_error_with_a_way_on() {
    let (archive, _) = archive(&[noise(LAYER)]);
    let (ended, content, _) = read(&archive, Cut { after: 30 * MIB, forget: true }, &[]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for needle in ["broke off at byte 0", "run the same command again", "--byte-budget"] {
        assert!(ended.stderr.contains(needle), "{needle}: {}", ended.stderr);
    }
    assert!(content.repositories.get("gather").is_none_or(|r| r.tags.is_empty()));
    // The way on that it names.
    let (ended, ..) = read(&archive, Cut { after: 30 * MIB, forget: true }, &["--byte-budget", "160MiB"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn json_that_is_no_manifest_is_not_held_in_memory() {
    let object = |n: u64| [format!("{{\"n\": {n}}}").as_bytes(), &vec![b' '; 12 * MIB as usize]].concat();
    let layers: Vec<_> = (0..12).map(object).collect();
    let (archive, digests) = archive(&layers);
    let (ended, content, _) = read(&archive, Cut { after: 0, forget: false }, &["--byte-budget", "16MiB"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(digests.iter().all(|digest| content.blobs.contains_key(digest)));
    assert!(ended.peak_kib < MEMORY_KIB - (48 << 10), "{} KiB", ended.peak_kib);
}
