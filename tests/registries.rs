//! Gather and scatter between registries: the embedded one is source and destination. What a registry
//! has is mounted, what is in place is not asked for twice, and the tags come with all that they need.

#[path = "support/layouts.rs"]
mod layouts;

use std::net::SocketAddr;
use std::path::Path;

use airgap_mirror::image::{ImageName, annotation};
use airgap_mirror::mapping::Mapper;
use airgap_mirror::pipeline::gather::{self, gather};
use airgap_mirror::pipeline::scatter::{self, scatter};
use airgap_mirror::serve::{self, Server};
use airgap_mirror::source::Source;
use airgap_mirror::store::Name;
use layouts::{FIXTURES, context, image, low_layout, sources};
use serde_json::Value;

async fn registry(directory: &Path, read_only: bool) -> (Server, SocketAddr) {
    let listen = "127.0.0.1:0".parse().unwrap();
    let options = serve::Options { read_only, ..serve::Options::new(directory, listen) };
    let server = serve::spawn(options).await.unwrap();
    let address = server.address();
    (server, address)
}

/// The same list, with its images in a registry that serves the sample layout.
fn from_registry(dir: &Path, list: &str, address: SocketAddr) -> Vec<Source> {
    let mut sources = sources(dir, list);
    for source in &mut sources {
        let name = source.text.strip_prefix("reg.low.example/tiny/").unwrap();
        source.image = image(&format!("{address}/{name}"));
    }
    sources
}

fn destination(address: SocketAddr, name: &str) -> ImageName {
    image(&format!("{address}/{name}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gathers_as_the_sample_and_a_second_time_moves_nothing() {
    let dir = low_layout();
    let (_low, low) = registry(&dir.path().join("low"), true).await;
    let (_high, high) = registry(&dir.path().join("high"), false).await;
    for (list, recursive) in [("kinds", false), ("referrers", true), ("sha512", false)] {
        let sources = from_registry(dir.path(), list, low);
        let to = destination(high, &format!("gather/{list}:sync"));
        let options = gather::Options { recursive, ..Default::default() };
        let report = gather(&context(), &sources, &to, &options).await.unwrap();
        assert!(report.tagged && report.failures.is_empty(), "{report:?}");
        let store = context().stores.open(&to).unwrap();
        let index = store.manifest(&Name::Tag("sync".into())).await.unwrap().unwrap();
        let expected = std::fs::read(format!("{FIXTURES}/gather/{list}.index.json")).unwrap();
        assert_eq!(without_version(&index.bytes), without_version(&expected), "{list}");

        let again = gather(&context(), &sources, &to, &options).await.unwrap();
        assert_eq!(again.digest, report.digest);
        assert_eq!((again.moved.blobs_sent, again.moved.bytes_sent), (0, 0), "{list}");
    }
}

fn without_version(bytes: &[u8]) -> Value {
    let mut index: Value = serde_json::from_slice(bytes).unwrap();
    index["annotations"].as_object_mut().unwrap().remove(annotation::VERSION).unwrap();
    index
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scatters_within_a_registry_by_mounts_and_to_another_with_each_blob_once() {
    let dir = low_layout();
    let (_low, low) = registry(&dir.path().join("low"), true).await;
    let (_middle, middle) = registry(&dir.path().join("middle"), false).await;
    let (_high, high) = registry(&dir.path().join("high"), false).await;
    let name = destination(middle, "gather:sync");
    let sources = from_registry(dir.path(), "kinds", low);
    let gathered = gather(&context(), &sources, &name, &Default::default()).await.unwrap();

    let mapper = Mapper::parse(&format!("nest={middle}/within")).unwrap();
    let report = scatter(&context(), &name, &mapper, &scatter::Options::default()).await.unwrap();
    assert!(report.failures.is_empty() && report.no_destination.is_empty(), "{report:?}");
    assert_eq!((report.images.len(), report.moved.blobs_sent), (17, 0));
    assert!(report.moved.blobs_mounted > 0);

    let mapper = Mapper::parse(&format!("nest={high}/across")).unwrap();
    let report = scatter(&context(), &name, &mapper, &scatter::Options::default()).await.unwrap();
    assert!(report.failures.is_empty(), "{report:?}");
    // Unique bytes only, though several repositories share layers.
    assert_eq!(report.moved.bytes_sent, gathered.size_deduplicated, "{:?}", report.moved);
    assert!(report.moved.blobs_mounted > 0);
    let expected = std::fs::read_to_string(format!("{FIXTURES}/scatter/nest.expected")).unwrap();
    for line in expected.lines() {
        let (reference, digest) = line.split_once(' ').unwrap();
        let reference = reference.replace("reg.high.example/nested", &format!("{high}/across"));
        let there = image(&reference);
        let store = context().stores.open(&there).unwrap();
        let descriptor = store.resolve(&there.name()).await.unwrap().expect(&reference);
        assert_eq!(descriptor.digest.to_string(), digest);
    }
    let again = scatter(&context(), &name, &mapper, &scatter::Options::default()).await.unwrap();
    assert_eq!(again.moved, Default::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carries_referrers_of_children_and_signatures_across() {
    let dir = low_layout();
    let (_low, low) = registry(&dir.path().join("low"), true).await;
    let (_high, high) = registry(&dir.path().join("high"), false).await;
    let name = destination(high, "gather:sync");
    let recursive = gather::Options { recursive: true, ..Default::default() };
    gather(&context(), &from_registry(dir.path(), "referrers", low), &name, &recursive).await.unwrap();
    let mapper = Mapper::parse(&format!("nest={high}/to")).unwrap();
    let recursive = scatter::Options { recursive: true, ..Default::default() };
    let report = scatter(&context(), &name, &mapper, &recursive).await.unwrap();
    assert!(report.failures.is_empty(), "{report:?}");

    let signed = destination(high, "to/reg.low.example/tiny/edge/signed:v1");
    let store = context().stores.open(&signed).unwrap();
    let root = store.manifest(&Name::Tag("v1".into())).await.unwrap().unwrap();
    let source = context().stores.open(&destination(low, "edge/signed:v1")).unwrap();
    let mut subjects = vec![root.descriptor.clone()];
    subjects.extend(root.children().unwrap().manifests);
    let mut found = 0;
    while let Some(subject) = subjects.pop() {
        let digests = |list: Vec<airgap_mirror::image::Descriptor>| list.iter().map(|d| d.digest).collect::<Vec<_>>();
        let expected = source.referrers(&subject).await.unwrap();
        assert_eq!(digests(store.referrers(&subject).await.unwrap()), digests(expected.clone()));
        found += expected.len();
        subjects.extend(expected);
    }
    assert!(found >= 4, "{found}");
    let signature = Name::Tag(format!("{}.sig", root.digest().referrers_tag()));
    assert!(store.resolve(&signature).await.unwrap().is_some());
}
