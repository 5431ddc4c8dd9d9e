//! Clients that others wrote against `mirror serve`: they push, pull, list and delete as with any registry.

use std::path::Path;

use airgap_mirror::image::Digest;
use tempfile::TempDir;

use crate::engines::{Containerd, Docker, Podman};
use crate::programs::{are_here, run, skopeo, text, work_directory};
use crate::registries::Registry;

/// An image of one platform, an index of two, and what the registry says of each.
const PLAIN: &str = "tiny/team-1/app-003:v1.3";
const INDEX: &str = "tiny/team-0/app-000:v1.0";

/// `mirror serve` with the tiny corpus under `tiny/`.
struct Served {
    work: TempDir,
    registry: Registry,
}

impl Served {
    /// `None`: python3, which loads the corpus, is not here.
    fn new() -> Option<Served> {
        if !are_here(&["python3"]) {
            return None;
        }
        let work = work_directory();
        let registry = Registry::ours(&work.path().join("served"), &[]);
        // Edge cases too, each read back; nothing is sent that could be mounted.
        let said = registry.load(work.path(), "tiny", "tiny/").said;
        assert!(said.contains("refused 0") && said.contains("referrers fallback tags 0"), "{said}");
        assert!(said.contains("blobs mounted 47"), "{said}");
        Some(Served { work, registry })
    }

    fn path(&self) -> &Path {
        self.work.path()
    }

    /// The reference of a name, with the registry's address before it.
    fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.address)
    }

    fn manifest(&self, name: &str) -> Vec<u8> {
        let (repository, tag) = name.rsplit_once(':').expect("a tag");
        let (status, bytes) = self.registry.get(&format!("/v2/{repository}/manifests/{tag}"));
        assert_eq!(status, 200, "{name}");
        bytes
    }

    /// Hexadecimal digest of the configuration of an image.
    fn config(&self, name: &str) -> String {
        config_of(&self.manifest(name))
    }
}

fn config_of(manifest: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(manifest).expect("a manifest is JSON");
    json["config"]["digest"].as_str().expect("a config").trim_start_matches("sha256:").to_owned()
}

#[test]
fn the_whole_corpus_goes_in_and_comes_back() {
    // The loader has compared everything.
    drop(Served::new());
}

#[test]
fn skopeo_copies_between_repositories_and_layouts() {
    let Some(served) = Served::new().filter(|_| are_here(&["skopeo"])) else { return };
    let flags = ["copy", "--preserve-digests", "--all", "--src-tls-verify=false", "--dest-tls-verify=false"];
    let at = |name: &str| format!("docker://{}", served.at(name));
    let layout = format!("oci:{}:x:y", text(&served.path().join("layout")));
    for (from, to) in [(at(INDEX), at("to/there:v2")), (at(INDEX), layout.clone()), (layout, at("back/again:v3"))] {
        run(skopeo().args(flags).args([&from, &to]));
    }
    for copied in ["to/there:v2", "back/again:v3"] {
        assert_eq!(served.manifest(copied), served.manifest(INDEX));
        let said = run(skopeo().args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &at(copied)]));
        assert_eq!(said.trim(), Digest::sha256(&served.manifest(INDEX)).to_string());
    }
}

#[test]
fn skopeo_syncs_lists_and_deletes() {
    let Some(served) = Served::new().filter(|_| are_here(&["skopeo"])) else { return };
    let out = served.path().join("sync");
    let (from, to) = (served.at("tiny/team-0/app-000"), text(&out));
    run(skopeo().args(["sync", "--all", "--src-tls-verify=false", "--src", "docker", "--dest", "dir", &from, to]));
    let copied = std::fs::read(out.join("app-000:v1.0/manifest.json")).expect("it wrote the index");
    assert_eq!(Digest::sha256(&copied), Digest::sha256(&served.manifest(INDEX)));
    let again = served.at("again/app-000");
    let push = ["sync", "--all", "--dest-tls-verify=false", "--src", "dir", "--dest", "docker"];
    run(skopeo().args(push).args([to, &served.at("again")]));
    assert_eq!(served.manifest("again/app-000:v1.0"), copied);
    let tags = run(skopeo().args(["list-tags", "--tls-verify=false", &format!("docker://{again}")]));
    assert!(tags.contains("\"v1.0\""), "{tags}");
    run(skopeo().args(["delete", "--tls-verify=false", &format!("docker://{again}:v1.0")]));
    assert_eq!(served.registry.get("/v2/again/app-000/manifests/v1.0").0, 404);
}

#[test]
fn podman_pulls_pushes_and_searches() {
    let Some(served) = Served::new() else { return };
    let Some(podman) = Podman::new(served.path()) else { return };
    let (plain, again) = (served.at(PLAIN), served.at("pushed/by/podman:v1"));
    podman.run(&["pull", "--quiet", "--tls-verify=false", &plain]);
    assert_eq!(podman.id(&plain), served.config(PLAIN));
    podman.run(&["tag", &plain, &again]);
    podman.run(&["push", "--quiet", "--tls-verify=false", &again]);
    assert_eq!(served.config("pushed/by/podman:v1"), served.config(PLAIN));
    // An index of several platforms, pushed whole.
    let source = format!("docker://{}", served.at(INDEX));
    podman.run(&["manifest", "create", "list"]);
    podman.run(&["manifest", "add", "--all", "--tls-verify=false", "list", &source]);
    let list = served.at("pushed/list:v1");
    podman.run(&["manifest", "push", "--all", "--quiet", "--tls-verify=false", "list", &format!("docker://{list}")]);
    podman.run(&["pull", "--quiet", "--tls-verify=false", "--platform", "linux/arm64", &list]);
    let platform = podman.run(&["image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", &list]);
    assert_eq!(platform.trim(), "linux/arm64");
    let tags = podman.run(&["search", "--tls-verify=false", "--list-tags", &served.at("pushed/list")]);
    assert!(tags.contains("v1"), "{tags}");
    let found = podman.run(&["search", "--tls-verify=false", &served.at("by/podman")]);
    assert!(found.contains("pushed/by/podman"), "{found}");
}

#[test]
fn containerd_pulls_and_pushes() {
    let Some(served) = Served::new() else { return };
    let Some(containerd) = Containerd::new(served.path()) else { return };
    for (name, again) in [(PLAIN, "pushed/plain:v1"), (INDEX, "pushed/index:v1")] {
        let (from, to) = (served.at(name), served.at(again));
        // Its content store alone: what it would unpack is another matter.
        containerd.run(&["content", "fetch", "--plain-http", "--all-platforms", &from]);
        containerd.run(&["images", "tag", &from, &to]);
        containerd.run(&["images", "push", "--plain-http", &to]);
        assert_eq!(served.manifest(again), served.manifest(name));
    }
}

#[test]
fn docker_pulls_and_pushes() {
    let Some(served) = Served::new() else { return };
    let Some(docker) = Docker::new(served.path()) else { return };
    let (plain, again) = (served.at(PLAIN), served.at("pushed/by/docker:v1"));
    docker.run(&["pull", "--quiet", &plain]);
    assert_eq!(docker.id(&plain), served.config(PLAIN));
    docker.run(&["tag", &plain, &again]);
    docker.run(&["push", "--quiet", &again]);
    assert_eq!(served.config("pushed/by/docker:v1"), served.config(PLAIN));
    docker.run(&["pull", "--quiet", "--platform", "linux/arm64", &served.at(INDEX)]);
}
