//! Archives read by other programs: `podman load`, `docker load`, `ctr images import`, with `manifest.json` in them and
//! without.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::engines::{Containerd, Docker, Podman};
use crate::programs::{are_here, mirror, project, run, skopeo, text, work_directory};
use crate::registries::Registry;

/// Written by another program with `manifest.json`: image and hexadecimal digest of its configuration.
const PART1: [(&str, &str); 3] = [
    ("reg.low.example/tiny/edge/docker:v1", "630838254cdefb0037352980679a233c0245f90289c4cb9ca17e65b3555279bc"),
    ("reg.low.example/tiny/edge/plain:latest", "0390007ea8c21480baeda6c612afcf0b10fc928090ffb871201bc1f549b8a351"),
    ("reg.low.example/tiny/team-1/app-001:v1.1", "af8e7711dbc7bd76acc87c29d41a512e91b9cd2dd001e6d9e52ba52841bda16c"),
];

fn fixture(name: &str) -> PathBuf {
    project("testdata/fixtures/archives").join(name)
}

/// The tiny corpus as a layout in the work directory.
fn layout(work: &Path) {
    let directory = work.join("layout");
    std::fs::create_dir(&directory).expect("a directory for the layout");
    run(Command::new("tar").arg("-xf").arg(project("testdata/fixtures/low-layout.tar")).arg("-C").arg(&directory));
}

/// An archive of one image, without `manifest.json`.
fn archive_of(work: &Path, image: &str) -> PathBuf {
    layout(work);
    run(mirror(work).args(["serialize", &format!("oci:layout:{image}"), "one.tar"]));
    work.join("one.tar")
}

/// The digest of the configuration that skopeo finds. It reads with the code of `podman load` and needs no storage, so that
/// it stands in for podman where that may not run.
fn id_by_skopeo(work: &Path, image: &str) -> String {
    let out = work.join("skopeo");
    run(skopeo().args(["copy", "--quiet", image]).arg(format!("dir:{}", text(&out))));
    let manifest = std::fs::read(out.join("manifest.json")).expect("it wrote the manifest");
    std::fs::remove_dir_all(out).expect("it can be removed");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("a manifest is JSON");
    manifest["config"]["digest"].as_str().expect("a config").trim_start_matches("sha256:").to_owned()
}

#[test]
fn skopeo_reads_manifest_json() {
    if !are_here(&["skopeo"]) {
        return;
    }
    let work = work_directory();
    for (image, id) in PART1 {
        let archive = format!("docker-archive:{}:{image}", text(&fixture("part1-manifest-json.tar")));
        assert_eq!(id_by_skopeo(work.path(), &archive), id, "{image}");
    }
}

#[test]
fn podman_loads_an_archive_with_manifest_json() {
    let work = work_directory();
    let Some(podman) = Podman::new(work.path()) else { return };
    podman.run(&["load", "--quiet", "--input", text(&fixture("part1-manifest-json.tar"))]);
    for (image, id) in PART1 {
        assert_eq!(podman.id(image), id, "{image}");
    }
}

#[test]
fn podman_loads_an_archive_of_one_image_without_manifest_json() {
    let work = work_directory();
    let Some(podman) = Podman::new(work.path()) else { return };
    let archive = archive_of(work.path(), "team-1/app-003:v1.3");
    podman.run(&["load", "--quiet", "--input", text(&archive)]);
    let id = "e15f1600497b6f06e88ba852d69cf899c54bc5cffe8ea6d9724ad0cdba418fce";
    assert_eq!(podman.id("localhost/team-1/app-003:v1.3"), id);
}

#[test]
fn podman_takes_one_image_of_many_by_its_name() {
    let work = work_directory();
    let Some(podman) = Podman::new(work.path()) else { return };
    let image = "reg.low.example/tiny/team-0/app-000:v1.0";
    podman.run(&["pull", "--quiet", &format!("oci-archive:{}:{image}", text(&fixture("labels.tar")))]);
    assert_eq!(podman.id(image), "389fcfdb440df0ce661bfc6e992f8a08080e2ed9ebff159095ccf82df52b89f1");
}

#[test]
fn docker_loads_an_archive_with_manifest_json() {
    let work = work_directory();
    let Some(docker) = Docker::new(work.path()) else { return };
    docker.run(&["load", "--quiet", "--input", text(&fixture("part1-manifest-json.tar"))]);
    for (image, id) in PART1 {
        assert_eq!(docker.id(image), id, "{image}");
    }
}

#[test]
fn containerd_imports_archives_with_and_without_manifest_json() {
    let work = work_directory();
    let Some(containerd) = Containerd::new(work.path()) else { return };
    let expected = [
        "reg.low.example/tiny/edge/docker:v1 sha256:08f37fb68698c1e3f0e640d20a6e33f67afff88581a29f0463f8b018d7b10a10",
        "reg.low.example/tiny/edge/plain:latest sha256:f0bd43f5942f570bec3ae7df0a1cf468232ef517774c5507c8c0ffdb55da085d",
        "reg.low.example/tiny/team-1/app-001:v1.1 sha256:fa34fd218e3c7a048b041c908443122f67d802fe25ea8a7230c97a785173386b",
    ];
    for archive in ["part1-manifest-json.tar", "part1.tar"] {
        containerd.run(&["images", "import", "--no-unpack", text(&fixture(archive))]);
        let images = containerd.images();
        for image in expected {
            assert!(images.iter().any(|i| i == image), "{archive}: {images:?}");
            containerd.run(&["images", "rm", image.split(' ').next().unwrap_or_default()]);
        }
    }
}

/// What is in the archive of `ours`: name and hexadecimal digest of the configuration. Two are for several platforms, of
/// which `manifest.json` names linux/amd64.
const OURS: [(&str, &str); 4] = [
    ("edge/plain:v1", "0390007ea8c21480baeda6c612afcf0b10fc928090ffb871201bc1f549b8a351"),
    ("edge/docker-list:v1", "630838254cdefb0037352980679a233c0245f90289c4cb9ca17e65b3555279bc"),
    ("team-0/app-000:v1.0", "389fcfdb440df0ce661bfc6e992f8a08080e2ed9ebff159095ccf82df52b89f1"),
    ("team-1/app-003:v1.3", "e15f1600497b6f06e88ba852d69cf899c54bc5cffe8ea6d9724ad0cdba418fce"),
];

/// The name under which an image of `ours` is known.
fn named(image: &str) -> String {
    format!("reg.low.example/{image}")
}

/// An archive of our own with `manifest.json`.
fn ours(work: &Path) -> PathBuf {
    layout(work);
    let low = Registry::ours(&work.join("layout"), &["--read-only"]);
    let list: String = OURS.iter().map(|(image, _)| named(image) + "\n").collect();
    std::fs::write(work.join("sources.list"), list).expect("a list");
    let endpoints = format!("endpoints: [\"http://{}\"]", low.address);
    let config = format!("registryConfig:\n  registries:\n    reg.low.example:\n      {endpoints}\n");
    std::fs::write(work.join("mirror.yaml"), config).expect("a configuration");
    run(mirror(work).args(["gather", "sources.list", "oci:gathered:sync"]));
    run(mirror(work).args(["serialize", "--manifest-json", "oci:gathered:sync", "ours.tar"]));
    work.join("ours.tar")
}

#[test]
fn skopeo_and_podman_load_our_archive_with_manifest_json() {
    if !are_here(&["skopeo"]) {
        return;
    }
    let work = work_directory();
    let archive = ours(work.path());
    for (image, id) in OURS {
        let found = id_by_skopeo(work.path(), &format!("docker-archive:{}:{}", text(&archive), named(image)));
        assert_eq!(found, id, "{image}");
    }
    let Some(podman) = Podman::new(work.path()) else { return };
    podman.run(&["load", "--quiet", "--input", text(&archive)]);
    for (image, id) in OURS {
        assert_eq!(podman.id(&named(image)), id, "{image}");
    }
}

#[test]
fn docker_and_containerd_load_our_archive_with_manifest_json() {
    let work = work_directory();
    if let Some(docker) = Docker::new(work.path()) {
        docker.run(&["load", "--quiet", "--input", text(&ours(work.path()))]);
        for (image, id) in OURS {
            assert_eq!(docker.id(&named(image)), id, "{image}");
        }
    }
    let work = work_directory();
    if let Some(containerd) = Containerd::new(work.path()) {
        containerd.run(&["images", "import", "--no-unpack", text(&ours(work.path()))]);
        let images = containerd.images();
        for (image, _) in OURS {
            assert!(images.iter().any(|i| i.starts_with(&format!("{} ", named(image)))), "{image}: {images:?}");
        }
    }
}
