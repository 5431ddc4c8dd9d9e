//! `verify` on damaged archives: whatever byte is flipped, wherever it is cut, the answer is never yes.

mod archives;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use airgap_mirror::archive::tar::{BLOCK, Header, Headers};
use airgap_mirror::pipeline::gather::{self, gather};
use airgap_mirror::pipeline::serialize::{self, serialize};
use airgap_mirror::pipeline::verify::{Kind, Options, Report, verify};
use airgap_mirror::source::list;
use airgap_mirror::store::Location;
use archives::{Gathers, context, fixture};

/// A small archive: an index, an artifact, an empty blob.
async fn small(dir: &Path) -> Vec<u8> {
    let gathers = Gathers::new().await;
    let low = gathers.directory().display();
    let names = ["edge/artifact-no-layers:v1", "edge/zero-blob:v1", "edge/empty-index:v1"];
    let text: String = names.iter().map(|name| format!("oci:{low}:{name},team=red\n")).collect();
    let image = gathers.image("small");
    gather(&context(), &list::parse(&text, "list").unwrap(), &image, &gather::Options::default()).await.unwrap();
    let file = dir.join("small.tar");
    serialize(&context(), &image, file.to_str().unwrap(), &serialize::Options::default()).await.unwrap();
    std::fs::read(file).unwrap()
}

async fn verified(path: &Path) -> Report {
    let location = Location::Archive(path.display().to_string());
    verify(&context(), &location, &Options::default()).await.unwrap()
}

/// Where an archive has bytes that mean nothing: what fills a block up, and what fills up the number in a header
/// that is the header's sum (`0` before it, NUL and a blank after it).
fn padding(archive: &[u8]) -> Vec<Range<usize>> {
    let (mut headers, mut found, mut at) = (Headers::default(), Vec::new(), 0);
    loop {
        found.extend([at + 148..at + 149, at + 154..at + 156]);
        match headers.block(archive[at..at + BLOCK].try_into().unwrap()).unwrap() {
            Header::Zeros => {
                found.truncate(found.len() - 2);
                return found;
            }
            Header::Extension { kind, size } => {
                headers.extension(kind, &archive[at + BLOCK..at + BLOCK + size as usize]).unwrap();
                at += BLOCK + (size as usize).next_multiple_of(BLOCK);
            }
            Header::Entry { size, .. } => {
                let end = at + BLOCK + size as usize;
                at = end.next_multiple_of(BLOCK);
                found.push(end..at);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flipped_byte_goes_unnoticed() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let bytes = small(dir.path()).await;
    assert!(verified(&dir.path().join("small.tar")).await.whole);
    let padding = padding(&bytes);
    // A fifth of them, another one in each block: every byte of a header is tried in one of its headers.
    let tried = |at: &usize| at % 5 == at / BLOCK % 5 && !padding.iter().any(|p| p.contains(at));
    let meaningful: Vec<usize> = (0..bytes.len()).filter(tried).collect();
    assert!(meaningful.len() > 2000, "{}", meaningful.len());
    let mut tasks = tokio::task::JoinSet::new();
    for (task, part) in meaningful.chunks(meaningful.len() / 4 + 1).enumerate() {
        let (dir, mut bytes, part) = (dir.clone(), bytes.clone(), part.to_vec());
        tasks.spawn(async move {
            let path = dir.path().join(format!("{task}.tar"));
            for at in part {
                // Another bit for each byte.
                let mask = 1 << (at % 8);
                bytes[at] ^= mask;
                std::fs::write(&path, &bytes).unwrap();
                let report = verified(&path).await;
                assert!(!report.whole, "byte {at} with {mask:#x}: {report:?}");
                bytes[at] ^= mask;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_was_cut_says_where_and_what_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = fixture("archives/part1.tar");
    let path = dir.path().join("cut.tar");
    let mut whole_images = Vec::new();
    for length in (BLOCK..bytes.len()).step_by(16 * BLOCK).chain([bytes.len() - 1024, bytes.len() - 512]) {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let report = verified(&path).await;
        // One block of zeros is left of the trailer: nothing that matters was lost, but that is not known.
        assert!(!report.whole, "{length}: {report:?}");
        assert_eq!(report.findings[0].kind, Kind::Cut, "{length}: {report:?}");
        whole_images.push(report.images.iter().filter(|image| image.whole).count());
    }
    assert!(whole_images.is_sorted(), "{whole_images:?}");
    assert!(whole_images.contains(&0) && whole_images.contains(&3) && whole_images.contains(&4), "{whole_images:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_copy_is_read_too() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = fixture("archives/part1.tar");
    let path = dir.path().join("twice.tar");
    let mut twice = bytes[..bytes.len() - 1024].to_vec();
    twice.extend_from_slice(&bytes);
    std::fs::write(&path, &twice).unwrap();
    assert!(verified(&path).await.whole);
    // In the midst of a layer of the first copy.
    let at = bytes.len() - 20_000;
    twice[at] ^= 4;
    std::fs::write(&path, &twice).unwrap();
    let report = verified(&path).await;
    let [finding] = report.findings.as_slice() else { panic!("{report:?}") };
    assert!(finding.kind == Kind::Damaged && finding.offset.is_some_and(|o| o < at as u64), "{report:?}");
}
