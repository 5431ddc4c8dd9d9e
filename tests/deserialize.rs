//! Archives as they are read: whoever wrote them, from a file or a stream, in any order; and never a yes
//! where something is missing.

mod archives;
#[path = "support/entries.rs"]
mod entries;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use airgap_mirror::image::ImageName;
use airgap_mirror::pipeline::deserialize::{Options, Report, deserialize};
use airgap_mirror::pipeline::{self, serialize};
use airgap_mirror::serve;
use airgap_mirror::store::{Store, layout::Layout};
use archives::{Gathers, context, fixture, path};
use entries::entries;

/// A layout that archives are read into.
struct High(tempfile::TempDir);

impl High {
    fn new() -> Self {
        High(tempfile::tempdir().unwrap())
    }

    fn image(&self) -> ImageName {
        format!("oci:{}:sync", self.0.path().join("layout").display()).parse().unwrap()
    }

    async fn read(&self, archive: &Path) -> pipeline::Result<Report> {
        deserialize(&context(), archive.to_str().unwrap(), &self.image(), &Options::default()).await
    }

    fn save(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The bytes through a pipe.
    async fn read_stream(&self, bytes: Vec<u8>) -> pipeline::Result<Report> {
        let fifo = self.0.path().join("fifo");
        let _ = nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU);
        let to = fifo.clone();
        let writer = std::thread::spawn(move || {
            // The reader may go away early, when it has seen enough.
            let _ = std::fs::write(to, bytes);
        });
        let report = self.read(&fifo).await;
        writer.join().unwrap();
        report
    }

    /// Whether anything was tagged.
    fn tagged(&self) -> bool {
        std::fs::read_to_string(self.0.path().join("layout/index.json")).is_ok_and(|index| index.contains("\"sync\""))
    }

    /// Digests in the archive of what arrived, walked anew.
    async fn holds(&self, recursive: bool) -> Vec<String> {
        let options = serialize::Options { dry_run: true, recursive, ..Default::default() };
        let report = serialize::serialize(&context(), &self.image(), "/nowhere", &options).await.unwrap();
        digests(report)
    }
}

fn digests(report: serialize::Report) -> Vec<String> {
    let mut digests: Vec<_> = report.plan.unwrap().iter().map(|e| e.digest.to_string()).collect();
    digests.sort();
    digests
}

/// Digests of the blobs in an archive, by their names.
fn listed(archive: &[u8]) -> Vec<String> {
    let mut found: Vec<String> = entries(archive)
        .into_iter()
        .filter_map(|(name, _)| Some(name.strip_prefix("blobs/")?.replace('/', ":")).filter(|d| d.len() > 70))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// An archive of these entries, with a trailer.
fn archive_of<'a>(entries: impl IntoIterator<Item = &'a (String, Vec<u8>)>) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.into_iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_the_field_arrive_whole() {
    for name in [
        "kinds",
        "kinds-fallback",
        "labels",
        "part1",
        "part1-manifest-json",
        "part2-blocks",
        "platforms",
        "platforms-two",
        "sha512",
        "archive-part1",
    ] {
        let bytes = fixture(&format!("archives/{name}.tar"));
        let high = High::new();
        high.read(&path(&format!("archives/{name}.tar"))).await.unwrap();
        assert_eq!(high.holds(false).await, listed(&bytes), "{name}");
        let high = High::new();
        high.read_stream(bytes.clone()).await.unwrap();
        assert_eq!(high.holds(false).await, listed(&bytes), "{name} through a pipe");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_archives_arrive_whole() {
    let expected = listed(&fixture("archives/kinds.tar"));
    for name in ["kinds.tar.gz", "kinds.tar.zst"] {
        let high = High::new();
        high.read(&path(&format!("archives/{name}"))).await.unwrap();
        assert_eq!(high.holds(false).await, expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_arrive() {
    let bytes = fixture("archives/referrers.tar");
    let high = High::new();
    high.read(&path("archives/referrers.tar")).await.unwrap();
    assert_eq!(high.holds(true).await, listed(&bytes));
    let high = High::new();
    high.read_stream(bytes.clone()).await.unwrap();
    assert_eq!(high.holds(true).await, listed(&bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_complete_each_other() {
    for streamed in [false, true] {
        let high = High::new();
        for (name, whole) in [("resume-1-torn", false), ("resume-2", true)] {
            let outcome = if streamed {
                high.read_stream(fixture(&format!("archives/{name}.tar"))).await
            } else {
                high.read(&path(&format!("archives/{name}.tar"))).await
            };
            assert_eq!(outcome.is_ok(), whole, "{name}: {:?}", outcome.err().map(|e| e.to_string()));
            assert_eq!(high.tagged(), whole);
        }
        assert_eq!(high.holds(false).await, listed(&fixture("archives/part2-blocks.tar")));
    }
    let high = High::new();
    let error = high.read(&path("archives/part2-without-part1.tar")).await.unwrap_err().to_string();
    assert!(error.contains("missing: sha256:"), "{error}");
    assert!(!high.tagged());
    high.read(&path("archives/part1.tar")).await.unwrap();
    high.read(&path("archives/part2-without-part1.tar")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cut_is_a_success() {
    let whole = fixture("archives/sha512.tar");
    for length in (0..whole.len()).step_by(512) {
        let high = High::new();
        let cut = high.save("cut.tar", &whole[..length]);
        assert!(high.read(&cut).await.is_err(), "cut at {length}");
        assert!(!high.tagged(), "cut at {length}");
        if length % 4096 == 0 || length + 2048 > whole.len() {
            assert!(high.read_stream(whole[..length].to_vec()).await.is_err(), "cut at {length}, streamed");
            assert!(!high.tagged(), "cut at {length}, streamed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_an_error() {
    let whole = fixture("archives/part1.tar");
    let high = High::new();
    for at in (600..whole.len() - 2048).step_by(9973) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        let damaged = high.save("damaged.tar", &bytes);
        // Padding and the spare fields of a header may change; then everything must be there.
        for outcome in [high.read(&damaged).await, high.read_stream(bytes).await] {
            if outcome.is_ok() {
                assert_eq!(high.holds(false).await, listed(&whole), "flipped at {at}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_point_out_of_the_archive_are_refused() {
    let mut entries = entries(&fixture("archives/part1.tar"));
    entries.pop();
    for name in ["../evil", "/etc/evil", "blobs/../../evil"] {
        let mut evil = airgap_mirror::archive::tar::header(name, 4, false);
        evil.extend_from_slice(b"evil");
        evil.resize(1024, 0);
        entries.insert(3, (name.into(), evil));
        let high = High::new();
        let bytes = archive_of(&entries);
        let file = high.save("evil.tar", &bytes);
        for outcome in [high.read(&file).await, high.read_stream(bytes).await] {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains("points out of the archive"), "{error}");
        }
        assert!(!high.tagged());
        entries.remove(3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_archives_in_one_are_refused_or_read() {
    let (one, other) = (fixture("archives/part1.tar"), fixture("archives/part2-blocks.tar"));
    let high = High::new();
    let file = high.save("both.tar", &[one.clone(), other].concat());
    let error = high.read(&file).await.unwrap_err().to_string();
    assert!(error.contains("2 images") && error.contains("--root"), "{error}");
    assert!(!high.tagged());
    let file = high.save("twice.tar", &[one.clone(), one.clone()].concat());
    high.read(&file).await.unwrap();
    assert_eq!(high.holds(false).await, listed(&one));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_archive_is_said_to_be_none() {
    let high = High::new();
    for bytes in [&b""[..], b"hello", &[b'x'; 4096], &[0; 4096]] {
        let file = high.save("file", bytes);
        let error = high.read(&file).await.unwrap_err().to_string();
        assert!(error.contains("archive"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_changes_nothing() {
    let high = High::new();
    let archive = path("archives/kinds.tar");
    let options = Options { dry_run: true, ..Options::default() };
    deserialize(&context(), archive.to_str().unwrap(), &high.image(), &options).await.unwrap();
    assert!(!high.0.path().join("layout").exists());
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(8))]
    #[test]
    fn any_order_arrives(seed in proptest::prelude::any::<u64>()) {
        let bytes = fixture("archives/part1.tar");
        let mut entries = entries(&bytes);
        entries.pop();
        let mut junk = airgap_mirror::archive::tar::header("./some/junk.txt", 4, false);
        junk.extend_from_slice(b"junk");
        junk.resize(1024, 0);
        entries.push(("junk".into(), junk));
        entries.push(entries[5].clone());
        let mut state = seed | 1;
        for i in (1..entries.len()).rev() {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            entries.swap(i, (state >> 33) as usize % (i + 1));
        }
        let shuffled = archive_of(&entries);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let high = High::new();
            let file = high.save("shuffled.tar", &shuffled);
            high.read(&file).await.unwrap();
            assert_eq!(high.holds(false).await, listed(&bytes));
            let high = High::new();
            high.read_stream(shuffled).await.unwrap();
            assert_eq!(high.holds(false).await, listed(&bytes));
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_keep_their_tags() {
    let gathers = Gathers::new().await;
    let high = High::new();
    let archive = high.0.path().join("sync.tar");
    let options = serialize::Options { recursive: true, ..Default::default() };
    serialize::serialize(&context(), &gathers.image("edge/signed:v1"), archive.to_str().unwrap(), &options)
        .await
        .unwrap();
    high.read(&archive).await.unwrap();
    let signatures = |tags: Vec<String>| -> Vec<String> {
        let tags = tags.iter().map(|t| t.rsplit_once(':').map_or(t.as_str(), |(_, tag)| tag).to_owned());
        tags.filter(|tag| tag.ends_with(".sig")).collect()
    };
    let low = signatures(Layout::new(gathers.directory()).tags().await.unwrap());
    let arrived = signatures(Layout::new(&high.0.path().join("layout")).tags().await.unwrap());
    assert!(!arrived.is_empty() && arrived.iter().all(|tag| low.contains(tag)), "{arrived:?} of {low:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tar_of_a_layout_made_by_hand_arrives() {
    let high = High::new();
    high.read(&path("archives/kinds.tar")).await.unwrap();
    for format in ["gnu", "posix", "ustar"] {
        let archive = high.0.path().join("hand.tar");
        let mut tar = std::process::Command::new("tar");
        tar.arg("-C").arg(high.0.path().join("layout")).args(["--format", format, "-cf"]).arg(&archive).arg(".");
        assert!(tar.status().unwrap().success());
        let higher = High::new();
        higher.read(&archive).await.unwrap();
        assert_eq!(higher.holds(false).await, high.holds(false).await, "{format}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_four_gibibytes_is_not_read() {
    let digest = airgap_mirror::image::Digest::sha256(b"large");
    let index = format!(
        r#"{{"manifests":[{{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"{digest}","size":4294967296}}]}}"#
    );
    let mut bytes = airgap_mirror::archive::tar::header("index.json", index.len() as u64, false);
    bytes.extend_from_slice(index.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
    let high = High::new();
    let file = high.save("large.tar", &bytes);
    for outcome in [high.read(&file).await, high.read_stream(bytes).await] {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("4294967296 bytes"), "{error}");
    }
}

/// A layout with two images, `one` and `two`, as a tar made by hand.
async fn two_images(high: &High) -> PathBuf {
    for (archive, tag) in [("part1", "one"), ("kinds", "two")] {
        let image = format!("oci:{}:{tag}", high.0.path().join("both").display()).parse().unwrap();
        let archive = path(&format!("archives/{archive}.tar"));
        deserialize(&context(), archive.to_str().unwrap(), &image, &Options::default()).await.unwrap();
    }
    let archive = high.0.path().join("both.tar");
    let mut tar = std::process::Command::new("tar");
    tar.arg("-C").arg(high.0.path().join("both")).arg("-cf").arg(&archive).arg(".");
    assert!(tar.status().unwrap().success());
    archive
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_images_one_is_chosen_by_name_or_digest() {
    let high = High::new();
    let both = two_images(&high).await;
    for outcome in [high.read(&both).await, high.read_stream(std::fs::read(&both).unwrap()).await] {
        let error = outcome.unwrap_err().to_string();
        for needle in ["2 images", "one (sha256:", "two (sha256:", "--root"] {
            assert!(error.contains(needle), "{needle}: {error}");
        }
        assert!(!high.tagged());
    }
    let choose = |root: &str| Options { root: Some(root.into()), ..Options::default() };
    for (root, name) in [("one", "part1"), ("two", "kinds")] {
        let high = High::new();
        let report = deserialize(&context(), both.to_str().unwrap(), &high.image(), &choose(root)).await.unwrap();
        assert_eq!(high.holds(false).await, listed(&fixture(&format!("archives/{name}.tar"))));
        let again = High::new();
        let digest = choose(&report.digest.to_string());
        deserialize(&context(), both.to_str().unwrap(), &again.image(), &digest).await.unwrap();
        assert_eq!(again.holds(false).await, high.holds(false).await);
    }
    let unknown = deserialize(&context(), both.to_str().unwrap(), &high.image(), &choose("three")).await;
    assert!(unknown.unwrap_err().to_string().contains("one (sha256:"));
    // Archives one after the other are no different.
    let parts = [fixture("archives/part1.tar"), fixture("archives/kinds.tar")].concat();
    let file = high.save("parts.tar", &parts);
    assert!(high.read(&file).await.unwrap_err().to_string().contains("--root"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_differential_archive_names_what_is_missing_before_anything_moves() {
    let gathers = Gathers::new().await;
    let high = High::new();
    let base = serialize::Options::default();
    let existing = airgap_mirror::store::Location::parse(path("archives/part1.tar").to_str().unwrap()).unwrap();
    let leave_out = airgap_mirror::pipeline::existing::digests(&context(), &[existing]).await.unwrap();
    let increment = serialize::Options { leave_out: Arc::new(leave_out), ..base };
    let archive = high.0.path().join("part2.tar");
    serialize::serialize(&context(), &gathers.image("part2"), archive.to_str().unwrap(), &increment).await.unwrap();
    let bytes = std::fs::read(&archive).unwrap();
    for outcome in [high.read(&archive).await, high.read_stream(bytes.clone()).await] {
        let error = outcome.unwrap_err().to_string();
        assert!(
            error.contains("missing there: sha256:") && error.contains("read the archives that came before"),
            "{error}"
        );
        assert!(!high.0.path().join("layout/blobs").exists(), "something moved: {error}");
    }
    high.read(&path("archives/part1.tar")).await.unwrap();
    for _ in 0..2 {
        high.read(&archive).await.unwrap();
        high.read_stream(bytes.clone()).await.unwrap();
    }
    assert_eq!(high.holds(false).await, listed(&fixture("archives/part2-blocks.tar")));
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_layers_arrive_if_the_archive_has_them() {
    let low = tempfile::tempdir().unwrap();
    let layout = Layout::new(&low.path().join("low"));
    let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    let mut layers = Vec::new();
    for (media_type, bytes) in [("application/vnd.oci.image.config.v1+json", "{}"), (foreign, "theirs")] {
        let digest = airgap_mirror::image::Digest::sha256(bytes.as_bytes());
        let descriptor = airgap_mirror::image::Descriptor::new(media_type, digest, bytes.len() as u64);
        let source = airgap_mirror::store::BytesBlob { descriptor: descriptor.clone(), bytes: bytes.into() };
        layout.push_blob(&descriptor, &source, None).await.unwrap();
        layers.push(serde_json::to_value(descriptor).unwrap());
    }
    let manifest = serde_json::json!({"schemaVersion": 2, "config": layers[0], "layers": [layers[1]]});
    let manifest =
        airgap_mirror::image::Manifest::new(airgap_mirror::image::media_type::OCI_MANIFEST, manifest.to_string());
    layout.push_manifest(&manifest, Some("v1")).await.unwrap();
    let image = format!("oci:{}:v1", low.path().join("low").display()).parse().unwrap();
    for taken in [false, true] {
        let archive = low.path().join(format!("{taken}.tar"));
        let options = serialize::Options { foreign_layers: taken, ..Default::default() };
        serialize::serialize(&context(), &image, archive.to_str().unwrap(), &options).await.unwrap();
        for streamed in [false, true] {
            let high = High::new();
            let report = if streamed {
                high.read_stream(std::fs::read(&archive).unwrap()).await.unwrap()
            } else {
                high.read(&archive).await.unwrap()
            };
            assert_eq!(report.left_out.len(), usize::from(!taken));
            let theirs = airgap_mirror::image::Digest::sha256(b"theirs").blob_path();
            assert_eq!(high.0.path().join("layout").join(theirs).exists(), taken);
            assert!(high.tagged());
        }
    }
}

#[tokio::test]
async fn progress_ends_at_the_whole_where_images_are_there_already() {
    let (gathers, high) = (Gathers::new().await, High::new());
    let listen = ([127, 0, 0, 1], 0).into();
    let server = serve::spawn(serve::Options::new(high.0.path().join("registry"), listen)).await.unwrap();
    let archive = |name: &str| high.0.path().join(format!("{name}.tar")).to_str().unwrap().to_owned();
    for name in ["part1", "kinds"] {
        let options = serialize::Options::default();
        serialize::serialize(&context(), &gathers.image(name), &archive(name), &options).await.unwrap();
    }
    // Some of it is there, then all of it, then its tag as well.
    for (name, tag) in [("part1", "a"), ("kinds", "b"), ("kinds", "c"), ("kinds", "c")] {
        let cx = context();
        let to = format!("{}/high:{tag}", server.address()).parse().unwrap();
        deserialize(&cx, &archive(name), &to, &Options::default()).await.unwrap();
        let end = cx.progress.snapshot();
        assert!(end.bytes_total > 0 && end.items_total > 0, "{name} to {tag}: {end:?}");
        let (done, total) = ((end.bytes_done, end.items_done), (end.bytes_total, end.items_total));
        assert_eq!(done, total, "{name} to {tag}");
    }
}
