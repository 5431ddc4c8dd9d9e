//! archive, unarchive and clone between two docker-registries.

use std::fs;

use airgap_mirror::image::Digest;
use serde_json::Value;

use crate::programs::{are_here, mirror, run, text, work_directory};
use crate::registries::Registry;

#[test]
fn the_shorter_roads_bring_every_image_and_a_second_time_nothing() {
    if !are_here(&["docker-registry", "python3"]) {
        return;
    }
    let work = work_directory();
    let work = work.path();
    let (low, high) = (Registry::docker(work, "low"), Registry::docker(work, "high"));
    let loaded = low.load(work, "tiny", "from/");
    let list = text(&loaded.sources);
    let report = |arguments: &[&str]| -> Value {
        serde_json::from_str(&run(mirror(work).args(["--output", "json"]).args(arguments))).expect("a report")
    };
    for (to, rules) in [("short", "short.csv"), ("cloned", "cloned.csv")] {
        let rule =
            format!("{}/from/,{}/{to}/\n{}/from/,{}/{to}-too/\n", low.address, high.address, low.address, high.address);
        fs::write(work.join(rules), rule).expect("a ruleset");
    }
    let archived = report(&["archive", list, "sync.tar", "sync-1", "-r"]);
    let unarchive = ["unarchive", "sync.tar", "all-prefix=short.csv", "-r"];
    let clone = ["clone", list, "all-prefix=cloned.csv", "-r"];
    let (short, cloned) = (report(&unarchive), report(&clone));
    // Two repositories for each image, and no byte twice into the registry, but for a layer named by its sha512:
    // docker-registry does not mount such a one.
    let bytes = |report: &Value| report["moved"]["bytesSent"].as_u64().expect("a number");
    let limit = bytes(&archived) * 105 / 100;
    assert!(bytes(&short) <= limit, "{} of {limit}", bytes(&short));
    assert!(bytes(&cloned) <= limit, "{} of {limit}", bytes(&cloned));

    let images = fs::read_to_string(&loaded.sources).expect("the loader wrote a list");
    let prefix = format!("{}/from/", low.address);
    for image in images.lines().map(|line| line.strip_prefix(&prefix).expect("it is under the prefix")) {
        let path = image.replace(':', "/manifests/");
        let (_, expected) = low.get(&format!("/v2/from/{path}"));
        for to in ["short", "short-too", "cloned", "cloned-too"] {
            let (status, there) = high.get(&format!("/v2/{to}/{path}"));
            assert_eq!((status, Digest::sha256(&there)), (200, Digest::sha256(&expected)), "{to} {image}");
        }
    }
    for again in [&unarchive[..], &clone] {
        let again = report(again);
        assert_eq!((bytes(&again), &again["moved"]["blobsMounted"]), (0, &0.into()), "{}", again["moved"]);
    }
}
