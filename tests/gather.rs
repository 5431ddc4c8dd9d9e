//! `gather` writes the index that the field's tool writes, puts all of it in place, and says what it
//! could not have.

#[path = "support/layouts.rs"]
mod layouts;

use std::path::Path;

use airgap_mirror::image::{Descriptor, Digest, ImageName, Manifest, annotation, media_type};
use airgap_mirror::pipeline::gather::{Options, Report, gather};
use airgap_mirror::store::{BytesBlob, Name, Store, layout::Layout};
use layouts::{FIXTURES, context, image, low_layout, sources};
use serde_json::Value;

fn high(dir: &Path) -> ImageName {
    image(&format!("oci:{}:sync", dir.join("high").display()))
}

async fn run(dir: &Path, list: &str, options: Options) -> Report {
    gather(&context(), &sources(dir, list), &high(dir), &options).await.unwrap()
}

fn index_without_version(bytes: &[u8]) -> Value {
    let mut index: Value = serde_json::from_slice(bytes).unwrap();
    index["annotations"].as_object_mut().unwrap().remove(annotation::VERSION).unwrap();
    index
}

/// Everything below a manifest is in the layout, and is what its digest says.
fn complete(layout: &Layout, descriptor: Descriptor) -> std::pin::Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(async move {
        if !descriptor.is_manifest() {
            assert!(layout.has_blob(&descriptor).await.unwrap(), "{descriptor:?}");
            return;
        }
        let found = layout.manifest(&Name::Digest(descriptor.digest)).await.unwrap();
        let manifest = Manifest { descriptor, ..found.expect("a manifest that the index names") };
        for child in manifest.children().unwrap().all().filter(|c| !c.is_foreign()) {
            complete(layout, child.clone()).await;
        }
    })
}

async fn same_as_the_sample(list: &str, sample: &str, options: Options) {
    let dir = low_layout();
    let report = run(dir.path(), list, options).await;
    assert!(report.failures.is_empty() && report.left_out.is_empty(), "{report:?}");
    let layout = Layout::new(&dir.path().join("high"));
    let index = layout.manifest(&Name::Tag("sync".into())).await.unwrap().unwrap();
    let expected = std::fs::read(format!("{FIXTURES}/gather/{sample}.index.json")).unwrap();
    assert_eq!(index_without_version(&index.bytes), index_without_version(&expected), "{sample}");
    assert_eq!(report.digest, Some(index.digest()));
    complete(&layout, index.descriptor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_the_samples_index() {
    for name in ["kinds", "labels", "part1", "part2", "sha512"] {
        same_as_the_sample(name, name, Options::default()).await;
    }
    same_as_the_sample("kinds", "kinds-fallback", Options { index_fallback: true, ..Options::default() }).await;
    let annotations = [("org.opencontainers.image.title", "monthly sync"), ("example.com/ticket", "A-17")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()));
    let options = Options { annotations: annotations.into(), ..Options::default() };
    same_as_the_sample("part1", "annotated", options).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chooses_platforms() {
    let one = Options { platforms: vec!["linux/amd64".parse().unwrap()], ..Options::default() };
    same_as_the_sample("platforms", "platforms", one).await;
    let platforms = vec!["linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap()];
    same_as_the_sample("platforms", "platforms-two", Options { platforms, ..Options::default() }).await;

    // Children without a platform are no match, artifacts always are, images go by their config.
    let dir = low_layout();
    let other = Options { platforms: vec!["linux/riscv64".parse().unwrap()], ..Options::default() };
    let report = run(dir.path(), "kinds", other).await;
    let taken: Vec<&str> = report.images.iter().map(|i| i.source.rsplit('/').next().unwrap()).collect();
    assert!(taken.contains(&"artifact:v1") && taken.contains(&"helm-chart:v1"), "{taken:?}");
    assert!(!taken.iter().any(|t| t.starts_with("plain") || t.starts_with("docker")), "{taken:?}");
    assert!(report.left_out.iter().any(|l| l.image.ends_with("docker:v1") && l.why.contains("linux/riscv64")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn takes_referrers_along() {
    let options = Options { recursive: true, ..Options::default() };
    same_as_the_sample("referrers", "referrers", options.clone()).await;

    let dir = low_layout();
    run(dir.path(), "referrers", options).await;
    let (low, high) = (Layout::new(&dir.path().join("low")), Layout::new(&dir.path().join("high")));
    let signed = low.resolve(&Name::Tag("edge/signed:v1".into())).await.unwrap().unwrap();
    let mut subjects = vec![signed.clone()];
    subjects.extend(low.manifest(&Name::Digest(signed.digest)).await.unwrap().unwrap().children().unwrap().manifests);
    let mut found = 0;
    while let Some(subject) = subjects.pop() {
        let expected = low.referrers(&subject).await.unwrap();
        assert_eq!(high.referrers(&subject).await.unwrap(), expected);
        found += expected.len();
        subjects.extend(expected);
    }
    assert!(found >= 4, "{found}");
    // The signature under cosign's tag has its tag there too.
    let tag = format!("{}.sig", signed.digest.referrers_tag());
    assert!(high.tags().await.unwrap().contains(&tag));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_source_stops_no_other_but_nothing_is_tagged() {
    let dir = low_layout();
    let mut list = sources(dir.path(), "part1");
    let mut bad = list[0].clone();
    bad.text = "reg.low.example/tiny/edge/gone:v1".into();
    bad.line = 9;
    bad.image = image(&format!("oci:{}:edge/gone:v1", dir.path().join("low").display()));
    list.insert(1, bad);
    let report = gather(&context(), &list, &high(dir.path()), &Options::default()).await.unwrap();
    assert_eq!((report.tagged, report.digest, report.images.len()), (false, None, 4));
    assert_eq!((report.failures.len(), report.failures[0].line), (1, Some(9)));
    assert!(report.moved.blobs_sent > 0);
    let layout = Layout::new(&dir.path().join("high"));
    assert!(layout.tags().await.unwrap().is_empty());

    let options = Options { allow_missing: true, ..Options::default() };
    let report = gather(&context(), &list, &high(dir.path()), &options).await.unwrap();
    assert!(report.tagged && report.failures.len() == 1);
    assert_eq!(layout.tags().await.unwrap(), ["sync"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupt_blob_is_a_failure_of_its_image() {
    let dir = low_layout();
    let low = Layout::new(&dir.path().join("low"));
    let app = low.manifest(&Name::Tag("team-1/app-001:v1.1".into())).await.unwrap().unwrap();
    let layer = app.children().unwrap().layers.pop().unwrap();
    let path = dir.path().join("low").join(layer.digest.blob_path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let report = run(dir.path(), "part1", Options::default()).await;
    assert!(!report.tagged);
    assert!(report.failures.iter().any(|f| f.image.ends_with("app-001:v1.1") && f.error.contains("digest")));
    assert!(!dir.path().join("high").join(layer.digest.blob_path()).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn again_moves_nothing_and_a_dry_run_says_the_same() {
    let dir = low_layout();
    let dry = run(dir.path(), "part2", Options { dry_run: true, ..Options::default() }).await;
    assert!(!dry.tagged && !dir.path().join("high").exists());
    let first = run(dir.path(), "part2", Options::default()).await;
    let second = run(dir.path(), "part2", Options::default()).await;
    assert_eq!((dry.digest, dry.size_total), (first.digest, first.size_total));
    assert_eq!((second.digest, second.tagged), (first.digest, true));
    assert_eq!(second.moved, Default::default());
    assert!(first.moved.blobs_sent > 0 && first.moved.bytes_sent > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_layers_are_left_out_and_named() {
    let dir = low_layout();
    let mut list = sources(dir.path(), "part1");
    list.truncate(1);
    list[0].text = "reg.low.example/tiny/edge/foreign-oci:v1".into();
    list[0].image = image(&format!("oci:{}:edge/foreign-oci:v1", dir.path().join("low").display()));
    let report = gather(&context(), &list, &high(dir.path()), &Options::default()).await.unwrap();
    assert!(report.tagged);
    assert_eq!(report.left_out.len(), 1);
    assert!(report.left_out[0].why.contains("foreign"), "{report:?}");
}

async fn put(layout: &Layout, kind: &str, bytes: &'static [u8]) -> Descriptor {
    let descriptor = Descriptor::new(kind, Digest::sha256(bytes), bytes.len() as u64);
    let source = BytesBlob { descriptor: descriptor.clone(), bytes: bytes.into() };
    layout.push_blob(&descriptor, &source, None).await.unwrap();
    descriptor
}

/// An image of one layer, by that name.
async fn put_image(layout: &Layout, layer: &'static [u8], name: &str) -> Descriptor {
    let config = put(layout, "application/vnd.oci.image.config.v1+json", b"{}").await;
    let layer = put(layout, "application/vnd.oci.image.layer.v1.tar", layer).await;
    let json = serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let manifest = Manifest::new(media_type::OCI_MANIFEST, json.to_string());
    layout.push_manifest(&manifest, Some(name)).await.unwrap();
    manifest.descriptor
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_of_a_type_that_nobody_knows_travels_with_its_index() {
    let dir = low_layout();
    let low = Layout::new(&dir.path().join("low"));
    let child = put(&low, "application/vnd.example.unknown+json", br#"{"what":"nobody knows"}"#).await;
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [child]});
    let index = Manifest::new(media_type::OCI_INDEX, index.to_string());
    low.push_manifest(&index, Some("edge/unknown:v1")).await.unwrap();
    let mut list = sources(dir.path(), "part1");
    list.truncate(1);
    list[0].image = image(&format!("oci:{}:edge/unknown:v1", dir.path().join("low").display()));
    let report = gather(&context(), &list, &high(dir.path()), &Options::default()).await.unwrap();
    assert!(report.tagged && report.failures.is_empty() && report.left_out.is_empty(), "{report:?}");
    let layout = Layout::new(&dir.path().join("high"));
    assert!(layout.has_blob(&child).await.unwrap());
    // One that is missing is not passed over.
    std::fs::remove_file(dir.path().join("low").join(child.digest.blob_path())).unwrap();
    let other = image(&format!("oci:{}:sync", dir.path().join("other").display()));
    let report = gather(&context(), &list, &other, &Options::default()).await.unwrap();
    assert!(!report.tagged && report.failures[0].error.contains(&child.digest.to_string()), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_signatures_for_one_tag_the_same_one_wins_in_any_order() {
    let dir = low_layout();
    let (mut signatures, mut images) = (Vec::new(), Vec::new());
    for (name, layer) in [("a", b"signed by a" as &'static [u8]), ("b", b"signed by b")] {
        let layout = Layout::new(&dir.path().join(name));
        let signed = put_image(&layout, b"signed by both", "x:1").await;
        let tag = format!("{}.sig", signed.digest.referrers_tag());
        signatures.push((put_image(&layout, layer, &tag).await.digest, tag));
        images.push(image(&format!("oci:{}:x:1", dir.path().join(name).display())));
    }
    assert_eq!(signatures[0].1, signatures[1].1);
    signatures.sort();
    for round in 0..8 {
        let mut list = sources(dir.path(), "part1");
        list.truncate(2);
        for (line, source) in list.iter_mut().enumerate() {
            source.text = format!("reg.low.example/{line}/x:1");
            source.image = images[(line + round) % 2].clone();
        }
        let to = image(&format!("oci:{}:sync", dir.path().join(format!("high{round}")).display()));
        let options = Options { recursive: true, ..Options::default() };
        let report = gather(&context(), &list, &to, &options).await.unwrap();
        let layout = Layout::new(&dir.path().join(format!("high{round}")));
        let there = layout.resolve(&Name::Tag(signatures[0].1.clone())).await.unwrap().unwrap();
        assert_eq!(there.digest, signatures[0].0, "round {round}");
        assert_eq!(report.left_out.len(), 1, "{report:?}");
        assert_eq!(report.left_out[0].what, signatures[1].0.to_string());
    }
}
