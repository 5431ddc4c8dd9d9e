//! The four commands between two docker-registries, read back by skopeo.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use airgap_mirror::image::Digest;
use serde_json::Value;
use tempfile::TempDir;

use crate::programs::{are_here, mirror, output, run, skopeo, text, work_directory};
use crate::registries::{Loaded, Registry};

const PEERS: [&str; 3] = ["docker-registry", "skopeo", "python3"];

/// Two registries, the low one with a corpus under `from/`.
struct Sides {
    work: TempDir,
    low: Registry,
    high: Registry,
    corpus: PathBuf,
    sources: PathBuf,
}

impl Sides {
    fn new(profile: &str) -> Sides {
        let work = work_directory();
        let (low, high) = (Registry::docker(work.path(), "low"), Registry::docker(work.path(), "high"));
        let Loaded { corpus, sources, said } = low.load(work.path(), profile, "from/");
        assert!(said.contains("refused 0"), "{said}");
        Sides { work, low, high, corpus, sources }
    }

    fn path(&self, name: &str) -> String {
        text(&self.work.path().join(name)).into()
    }

    fn mirror(&self, arguments: &[&str]) {
        run(mirror(self.work.path()).args(arguments));
    }

    /// The four commands; what was `LOW/from/X` is `HIGH/moved/X` afterwards.
    fn road(&self, flags: &[&str]) {
        let (low, high) = (format!("{}/gather:sync", self.low.address), format!("{}/scatter:sync", self.high.address));
        let rules = self.path("dest.csv");
        fs::write(&rules, format!("{}/from/,{}/moved/\n", self.low.address, self.high.address)).expect("a ruleset");
        let (sources, archive) = (self.path("sources.list"), self.path("sync.tar"));
        let mapper = format!("all-prefix={rules}");
        let step = |arguments: &[&str]| {
            self.mirror(&[&arguments[..1], flags, &arguments[1..]].concat());
        };
        step(&["gather", &sources, &low]);
        step(&["serialize", &low, &archive]);
        self.mirror(&["deserialize", &archive, &high]);
        step(&["scatter", &high, &mapper]);
    }

    /// The roots of the corpus: repository, tag if there is one, digest.
    fn roots(&self) -> Vec<(String, Option<String>, String)> {
        let bytes = fs::read(self.corpus.join("corpus.json")).expect("the inventory");
        let corpus: Value = serde_json::from_slice(&bytes).expect("the inventory is JSON");
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let root = |root: &Value| {
            let (repo, digest) = (text(&root["repo"]).expect("a repository"), text(&root["digest"]).expect("a digest"));
            (repo, text(&root["tag"]), digest)
        };
        corpus["roots"].as_array().expect("it lists the roots").iter().map(root).collect()
    }

    /// By `REPO:TAG`, the digest.
    fn digests(&self) -> BTreeMap<String, String> {
        let tagged = |(repo, tag, digest): (String, Option<String>, String)| Some((format!("{repo}:{}", tag?), digest));
        self.roots().into_iter().filter_map(tagged).collect()
    }

    /// The listed sources, as `REPO:TAG` without the prefix.
    fn images(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.sources).expect("the loader wrote a list");
        let prefix = format!("{}/from/", self.low.address);
        text.lines().map(|line| line.strip_prefix(&prefix).expect("it is under the prefix").into()).collect()
    }
}

/// Copies all of an image to a directory; skopeo compares every digest as it goes.
fn copy(from: &str, to: &Path) -> Output {
    let flags = ["copy", "--quiet", "--all", "--preserve-digests", "--src-tls-verify=false"];
    output(skopeo().args(flags).arg(from).arg(format!("dir:{}", to.display())))
}

/// The manifest as it stands.
fn raw(reference: &str) -> Vec<u8> {
    run(skopeo().args(["inspect", "--raw", "--tls-verify=false"]).arg(format!("docker://{reference}"))).into_bytes()
}

#[test]
fn skopeo_reads_back_every_image_of_the_small_corpus() {
    if !are_here(&PEERS) {
        return;
    }
    let sides = Sides::new("small");
    sides.road(&[]);
    let images = sides.images();
    assert_eq!(images.len(), 37, "the loader lists every tagged root, edge cases too");
    let digests = sides.digests();
    let mut uncopied = Vec::new();
    for image in &images {
        let (from, to) =
            (format!("{}/from/{image}", sides.low.address), format!("{}/moved/{image}", sides.high.address));
        assert_eq!(Digest::sha256(&raw(&to)).to_string(), digests[image], "{image}");
        let copied = |reference: &str| {
            let directory = sides.work.path().join("copy");
            let output = copy(&format!("docker://{reference}"), &directory);
            let _ = fs::remove_dir_all(directory);
            output
        };
        let there = copied(&to);
        if !there.status.success() {
            // Some of the edge cases it cannot copy from anywhere.
            let said = String::from_utf8_lossy(&there.stderr).into_owned();
            assert!(!copied(&from).status.success(), "{image} could be copied from where it came from; now: {said}");
            uncopied.push(image.as_str());
        }
    }
    assert!(uncopied.iter().all(|image| image.starts_with("edge/")), "{uncopied:?}");
    assert!(uncopied.len() <= 5, "{uncopied:?}");
}

#[test]
fn every_root_arrives_byte_identical() {
    if !are_here(&PEERS) {
        return;
    }
    let sides = Sides::new("tiny");
    sides.road(&["--recursive"]);
    let roots = sides.roots();
    let listed: BTreeSet<_> = sides.images().into_iter().collect();
    let mut arrived = 0;
    for (repo, tag, digest) in &roots {
        if tag.as_ref().is_some_and(|tag| !listed.contains(&format!("{repo}:{tag}"))) {
            continue;
        }
        let name = tag.as_ref().unwrap_or(digest);
        let (before, expected) = sides.low.get(&format!("/v2/from/{repo}/manifests/{name}"));
        let (after, bytes) = sides.high.get(&format!("/v2/moved/{repo}/manifests/{name}"));
        assert_eq!((before, after), (200, 200), "{repo} {name}");
        assert_eq!(expected, bytes, "{repo} {name}");
        assert_eq!(Digest::sha256(&bytes).to_string(), *digest, "{repo} {name}");
        arrived += 1;
        blobs_arrived(&sides, repo, &bytes);
    }
    assert_eq!((arrived, roots.len()), (44, 44));
}

/// Everything that a manifest needs is in the repository, and is what its digest says.
fn blobs_arrived(sides: &Sides, repo: &str, manifest: &[u8]) {
    let json: Value = serde_json::from_slice(manifest).expect("a manifest is JSON");
    for child in json["manifests"].as_array().into_iter().flatten() {
        let digest = child["digest"].as_str().expect("a digest");
        let (status, bytes) = sides.high.get(&format!("/v2/moved/{repo}/manifests/{digest}"));
        assert_eq!((status, Digest::sha256(&bytes).to_string().as_str()), (200, digest), "{repo}");
        blobs_arrived(sides, repo, &bytes);
    }
    for blob in json["layers"].as_array().into_iter().flatten().chain(json.get("config")) {
        let media_type = blob["mediaType"].as_str().unwrap_or_default();
        if media_type.contains("foreign") || media_type.contains("nondistributable") {
            continue;
        }
        let digest: Digest = blob["digest"].as_str().expect("a digest").parse().expect("a digest");
        let (status, bytes) = sides.high.get(&format!("/v2/moved/{repo}/blobs/{digest}"));
        assert_eq!((status, Digest::of(digest.algorithm(), &bytes)), (200, digest), "{repo}");
    }
}

#[test]
fn skopeo_reads_our_archive() {
    if !are_here(&PEERS) {
        return;
    }
    let sides = Sides::new("tiny");
    let images = ["team-1/app-003:v1.3", "team-0/app-002:v1.2", "edge/plain:v1"];
    let list: String = images.iter().map(|image| format!("{}/from/{image}\n", sides.low.address)).collect();
    fs::write(&sides.sources, list).expect("a list");
    let (sources, layout, archive) = (sides.path("sources.list"), sides.path("layout"), sides.path("sync.tar"));
    let gather = format!("oci:{layout}:sync");
    sides.mirror(&["gather", &sources, &gather]);
    sides.mirror(&["serialize", &gather, &archive]);
    let out = sides.work.path().join("out");
    let copied = copy(&format!("oci-archive:{archive}:sync"), &out);
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    for image in images {
        let (_, manifest) = sides.low.get(&format!("/v2/from/{}", image.replace(':', "/manifests/")));
        let file = out.join(format!("{}.manifest.json", Digest::sha256(&manifest).hex()));
        assert_eq!(fs::read(&file).expect("skopeo wrote each manifest"), manifest, "{image}");
        // One of them alone, by the name that it has in the archive.
        let alone = sides.work.path().join("alone");
        let copied = copy(&format!("oci-archive:{archive}:{}/from/{image}", sides.low.address), &alone);
        assert!(copied.status.success(), "{image}: {}", String::from_utf8_lossy(&copied.stderr));
        assert_eq!(fs::read(alone.join("manifest.json")).expect("its manifest"), manifest, "{image}");
        fs::remove_dir_all(alone).expect("it can be removed");
    }
}
