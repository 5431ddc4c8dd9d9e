//! Every file in `templates/` loads, and maps images as its header says.

use std::collections::BTreeSet;

use airgap_mirror::image::{Descriptor, Digest, annotation};
use airgap_mirror::mapping::Mapper;

const TEMPLATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/templates");

fn image(source: &str) -> Descriptor {
    let mut image = Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest::sha256(b"image"), 5);
    image.annotations.insert(annotation::SOURCE.into(), source.into());
    image
}

fn labelled(source: &str, labels: &str) -> Descriptor {
    let mut image = image(source);
    image.annotations.insert(annotation::LABELS.into(), labels.into());
    image
}

fn for_platform(source: &str, platform: &str) -> Descriptor {
    let mut image = image(source);
    image.platform = Some(platform.parse().unwrap());
    image
}

/// Checks the destinations of images, given as `(image, "DESTINATION DESTINATION…")`.
fn check(kind: &str, file: &str, expected: &[(Descriptor, String)]) {
    let mapper = Mapper::parse(&format!("{kind}={TEMPLATES}/{file}")).unwrap();
    for (image, destinations) in expected {
        let names: Vec<String> = mapper.destinations(image).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(&names.join(" "), destinations, "{file}: {:?}", image.annotation(annotation::SOURCE));
    }
}

fn own() -> Digest {
    Digest::sha256(b"image")
}

#[test]
fn each_has_a_test() {
    let files = std::fs::read_dir(TEMPLATES).unwrap();
    let files: BTreeSet<String> = files.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    let tested =
        ["by-label.hbs", "by-platform.hbs", "by-registry.gotmpl", "flatten.hbs", "keep-path.hbs", "prefixes.csv"];
    assert_eq!(files, tested.map(String::from).into());
}

#[test]
fn keep_path() {
    check(
        "template",
        "keep-path.hbs",
        &[
            (image("low.example/team/app:v1"), "high.example/team/app:v1".into()),
            (image("127.0.0.1:5000/app"), "high.example/app".into()),
            (image(&format!("low.example/app@{}", own())), format!("high.example/app@{}", own())),
            (image("oci:images:team/app:v1"), "high.example/team/app:v1".into()),
        ],
    );
}

#[test]
fn flatten() {
    check(
        "template",
        "flatten.hbs",
        &[
            (image("low.example/team/app:v1"), "high.example/mirror/team-app:v1".into()),
            (image("low.example/app"), "high.example/mirror/app".into()),
            (image(&format!("low.example/a/b@{}", own())), format!("high.example/mirror/a-b@{}", own())),
        ],
    );
}

#[test]
fn by_label() {
    check(
        "template",
        "by-label.hbs",
        &[
            (labelled("low.example/team/app:v1", r#"{"component":"core"}"#), "high.example/core/team/app:v1".into()),
            (
                labelled("low.example/app:v1", r#"{"component":"core","release":"true"}"#),
                "high.example/core/app:v1 high.example/release/app:v1".into(),
            ),
            (labelled("low.example/app:v1", r#"{"release":"false"}"#), String::new()),
            (image("low.example/app:v1"), String::new()),
        ],
    );
}

#[test]
fn by_platform() {
    let digest = own().to_string().replace(':', "-");
    check(
        "template",
        "by-platform.hbs",
        &[
            (for_platform("low.example/team/app:v1", "linux/amd64"), "high.example/team/app:v1-linux-amd64".into()),
            (for_platform("low.example/app", "linux/arm/v7"), "high.example/app:latest-linux-arm-v7".into()),
            (image("low.example/team/app:v1"), "high.example/team/app:v1".into()),
            (
                for_platform(&format!("low.example/a:v1@{}", own()), "linux/s390x"),
                format!("high.example/a:{digest}-linux-s390x"),
            ),
        ],
    );
}

#[test]
fn by_registry() {
    check(
        "go-template",
        "by-registry.gotmpl",
        &[
            (image("docker.io/busybox:1.36"), "high.example/dockerhub/library/busybox:1.36".into()),
            (image("docker.io/team/app:v1"), "high.example/dockerhub/team/app:v1".into()),
            (image("quay.io/team/app:v1"), "high.example/quay/team/app:v1".into()),
            (image("ghcr.io/team/app:v1"), "high.example/github/team/app:v1".into()),
            (image("low.example:5000/app:v1"), "high.example/other/low.example-5000/app:v1".into()),
        ],
    );
}

#[test]
fn prefixes() {
    let longest = [
        (image("low.example/team/app:v1"), "high.example/team/app:v1".into()),
        (image("low.example/team/tools/lint:v1"), "high.example/tools/lint:v1".into()),
        (image("low.example/base:v9"), "high.example/base/image:v9".into()),
        (image("docker.io/library/busybox:1"), "high.example/dockerhub/busybox:1".into()),
        (image("docker.io/team/app:1"), "high.example/dockerhub/team/app:1".into()),
        (image("low.example/x:v1"), "high.example/other/low.example/x:v1".into()),
    ];
    check("longest-prefix", "prefixes.csv", &longest);
}
