//! A run that was broken off, and the same command again: what has arrived is not sent twice.

use std::process::Stdio;
use std::sync::Arc;

use super::content::Content;
use super::pipes::{archive, noise};
use super::registry::{Fault, Instead, Options, Registry, Sound, error};
use super::trial::mirror;
use super::wire::Head;

/// Refuses those of the uploads that are so large, for good.
struct Refuse(u64);

impl Fault for Refuse {
    fn before(&self, head: &Head, _: usize) -> Option<Instead> {
        let length = head.header("content-length").and_then(|l| l.parse::<u64>().ok());
        let denied = || Instead::Answer(error(403, "DENIED", "the quota is used up"));
        (head.is("PUT", "/blobs/uploads/") && length.is_some_and(|l| l >= self.0)).then(denied)
    }
}

#[test]
fn nothing_is_sent_twice_that_has_arrived() {
    let work = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| work.path().join(name).to_str().expect("UTF-8").to_owned();
    let run = |arguments: &[&str], code: i32| {
        let ended = mirror(arguments, work.path(), &work.path().join("none"), Stdio::null());
        assert_eq!(ended.code, Some(code), "{arguments:?}: {}", ended.stderr);
    };
    let (bytes, digests) = archive(&[noise(64), noise(640), noise(6400), noise(64000), noise(640000)]);
    std::fs::write(path("a.tar"), bytes).expect("it can be written");
    let layout = format!("oci:{}:x", path("layout"));
    run(&["deserialize", &path("a.tar"), &layout], 0);
    std::fs::write(path("images.list"), format!("{layout}\n")).expect("it can be written");

    for (verb, source) in [("deserialize", path("a.tar")), ("gather", path("images.list"))] {
        let registry = Registry::start(Content::default(), Options::default());
        let to = format!("{}/gather:x", registry.address());
        let arguments = [verb, &source, &to];
        registry.inject(Arc::new(Refuse(6400)));
        run(&arguments, 1);
        let arrived = registry.content();
        assert!(arrived.repositories.get("gather").is_none_or(|r| r.tags.is_empty()), "tagged: {arguments:?}");
        assert_eq!(digests.iter().filter(|d| arrived.blobs.contains_key(*d)).count(), 3, "{arguments:?}");
        registry.inject(Arc::new(Sound));
        run(&arguments, 0);
        let seen = registry.seen();
        let sent: Vec<_> =
            seen.iter().filter_map(|s| s.head.query("digest").filter(|_| s.head.method == "PUT")).collect();
        assert_eq!(sent.len(), 3, "{arguments:?}: {sent:?}");
        assert!(!sent.iter().any(|digest| arrived.blobs.contains_key(digest)), "{arguments:?}: {sent:?}");
        // And all of it again, now that nothing is missing.
        registry.inject(Arc::new(Sound));
        run(&arguments, 0);
        assert!(registry.seen().iter().all(|s| matches!(s.head.method.as_str(), "GET" | "HEAD")), "{arguments:?}");
    }
}
