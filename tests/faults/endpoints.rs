//! Endpoints of a registry, tried in order: what the first cannot do, the next one does.

use std::process::Stdio;
use std::sync::Arc;

use super::content::{Content, IMAGES};
use super::pipes::{archive, noise};
use super::registry::{Fault, Instead, Options, Registry};
use super::trial::mirror;
use super::wire::{Answer, Head};

/// Answers everything so, for ever.
struct Always(u16);

impl Fault for Always {
    fn before(&self, _: &Head, _: usize) -> Option<Instead> {
        Some(Instead::Answer(Answer::new(self.0)))
    }
}

/// Has no blob.
struct NoBlobs;

impl Fault for NoBlobs {
    fn before(&self, head: &Head, _: usize) -> Option<Instead> {
        head.path().contains("/blobs/").then(|| Instead::Answer(Answer::new(404)))
    }
}

/// An address at which nobody listens; the registries of other tests are all at 127.0.0.1.
fn closed() -> String {
    std::net::TcpListener::bind("127.0.0.2:0").and_then(|l| l.local_addr()).expect("a free port").to_string()
}

/// Gathers the images from that registry, and deserializes an archive to it.
fn run(registry: &str, config: (&str, String)) -> [(Option<i32>, String); 2] {
    let work = tempfile::tempdir().expect("a temporary directory");
    let path = work.path();
    let file = path.join(config.0);
    std::fs::create_dir_all(file.parent().expect("it has one")).expect("made");
    std::fs::write(file, config.1).expect("written");
    let list: String = IMAGES.iter().map(|image| format!("{registry}/{image}\n")).collect();
    std::fs::write(path.join("images.list"), list).expect("written");
    std::fs::write(path.join("a.tar"), archive(&[noise(64), noise(64000)]).0).expect("written");
    let to = format!("{registry}/gather:x");
    [["gather", "images.list", "oci:layout:x"], ["deserialize", "a.tar", &to]].map(|arguments| {
        let ended = mirror(&arguments, path, &path.join("none"), Stdio::null());
        (ended.code, ended.stderr)
    })
}

fn endpoints(addresses: &[&str]) -> (&'static str, String) {
    let urls: Vec<String> = addresses.iter().map(|a| format!("\"http://{a}\"")).collect();
    ("mirror.yaml", format!("registryConfig:\n  reg.test: {{endpoints: [{}]}}\n", urls.join(", ")))
}

#[test]
fn an_endpoint_that_refuses_connections_or_answers_503_is_passed_over_for_reads_and_writes() {
    let busy = Registry::start(Content::default(), Options::default());
    busy.inject(Arc::new(Always(503)));
    for first in [closed(), busy.address().to_owned()] {
        let second = Registry::start(Content::images().clone(), Options::default());
        for (code, said) in run("reg.test", endpoints(&[&first, second.address()])) {
            assert_eq!(code, Some(0), "{said}");
        }
        assert!(second.content().repositories["gather"].tags.contains_key("x"));
    }
    // It is tried a few times, and then the next one is asked first.
    assert!(busy.seen().len() < 60, "{}", busy.seen().len());
}

#[test]
fn what_a_mirror_lacks_comes_from_the_next_and_writes_pass_it_by() {
    let mirror = Registry::start(Content::images().clone(), Options::default());
    mirror.inject(Arc::new(NoBlobs));
    let origin = Registry::start(Content::images().clone(), Options::default());
    let conf = format!(
        "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
        origin.address(),
        mirror.address()
    );
    for (code, said) in run(origin.address(), ("containers/registries.conf", conf)) {
        assert_eq!(code, Some(0), "{said}");
    }
    let origin = origin.seen();
    assert!(!mirror.seen().iter().any(|s| s.head.method == "PUT"), "written to the mirror");
    assert!(origin.iter().any(|s| s.head.is("GET", "/blobs/")) && origin.iter().any(|s| s.head.method == "PUT"));
    let manifests =
        origin.iter().filter(|s| s.head.is("GET", "/manifests/") && s.head.path().contains("team-")).count();
    assert_eq!(manifests, 0, "the mirror has the manifests");
}

#[test]
fn when_all_endpoints_fail_the_last_one_is_named() {
    let (first, last) = (closed(), Registry::start(Content::default(), Options::default()));
    last.inject(Arc::new(Always(503)));
    for (code, said) in run("reg.test", endpoints(&[&first, last.address()])) {
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(last.address()) && said.contains("503"), "{said}");
    }
}
