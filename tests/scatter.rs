//! `scatter` puts every image where the ruleset says, refuses what cannot be right before it moves
//! anything, and names what has no destination.

#[path = "support/layouts.rs"]
mod layouts;

use std::path::Path;

use airgap_mirror::image::ImageName;
use airgap_mirror::mapping::Mapper;
use airgap_mirror::pipeline::gather::{self, gather};
use airgap_mirror::pipeline::scatter::{Options, Report, scatter};
use airgap_mirror::store::{Name, Store, layout::Layout};
use layouts::{FIXTURES, context, image, low_layout, sources};
use tempfile::TempDir;

async fn gathered(list: &str, options: gather::Options) -> (TempDir, ImageName) {
    let dir = low_layout();
    let name = image(&format!("oci:{}:sync", dir.path().join("gather").display()));
    gather(&context(), &sources(dir.path(), list), &name, &options).await.unwrap();
    (dir, name)
}

/// The lines of a check, as `REFERENCE DIGEST`.
fn lines(report: &Report) -> Vec<String> {
    let mut lines: Vec<String> =
        report.images.iter().flat_map(|i| i.destinations.iter().map(move |d| format!("{d} {}", i.digest))).collect();
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destinations_are_those_of_the_samples() {
    let (_dir, name) = gathered("kinds", gather::Options::default()).await;
    let check = Options { check: true, ..Options::default() };
    for kind in ["nest", "all-prefix", "first-prefix", "longest-prefix", "digests", "template"] {
        let ruleset = match kind {
            "nest" => "nest=reg.high.example/nested".to_owned(),
            "template" => format!("go-template={FIXTURES}/scatter/template.tmpl"),
            _ => format!("{kind}={FIXTURES}/scatter/{kind}.csv"),
        };
        let mapper = Mapper::parse(&ruleset).unwrap();
        let report = scatter(&context(), &name, &mapper, &check).await.unwrap();
        let text = std::fs::read_to_string(format!("{FIXTURES}/scatter/{kind}.expected")).unwrap();
        let mut expected: Vec<&str> = text.lines().collect();
        expected.sort_unstable();
        assert_eq!(lines(&report), expected, "{kind}");
        assert_eq!(report.images.len() + report.no_destination.len(), 17, "{kind}");
        assert!(report.checked_only);
    }
}

fn rules(dir: &Path, kind: &str, text: &str) -> Mapper {
    let path = dir.join("rules.csv");
    std::fs::write(&path, text).unwrap();
    Mapper::parse(&format!("{kind}={}", path.display())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_images_for_one_name_are_refused_before_the_first_push() {
    let platforms = vec!["linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap()];
    let (dir, name) = gathered("platforms", gather::Options { platforms, ..Default::default() }).await;
    let mapper = rules(dir.path(), "first-prefix", "reg.low.example/,reg.high.example/\n");
    let error = scatter(&context(), &name, &mapper, &Options::default()).await.unwrap_err().to_string();
    assert!(error.contains("reg.high.example/tiny/team-0/app-000:v1.0") && error.contains("--platforms"), "{error}");
    let one = Options { platforms: vec!["linux/arm64".parse().unwrap()], check: true, ..Options::default() };
    let report = scatter(&context(), &name, &mapper, &one).await.unwrap();
    assert_eq!((report.images.len(), report.left_out.len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chooses_by_label_and_subset() {
    let (dir, name) = gathered("labels", gather::Options::default()).await;
    let mapper = Mapper::parse("nest=reg.high.example/n").unwrap();
    let selectors = vec!["component=core,module=test".parse_selector(), "component=extra".parse_selector()];
    let options = Options { check: true, selectors: selectors[..1].to_vec(), ..Options::default() };
    assert_eq!(scatter(&context(), &name, &mapper, &options).await.unwrap().images.len(), 3);
    let options = Options { check: true, selectors, ..Options::default() };
    assert_eq!(scatter(&context(), &name, &mapper, &options).await.unwrap().images.len(), 5);

    let subset = sources(dir.path(), "part2");
    let options = Options { check: true, subset: Some(subset), ..Options::default() };
    let report = scatter(&context(), &name, &mapper, &options).await.unwrap();
    assert_eq!(report.images.len(), 4);
    assert_eq!(report.failures.len(), 3);
    assert!(report.failures[0].error.contains("not in"));
}

trait ParseSelector {
    fn parse_selector(&self) -> airgap_mirror::source::Selector;
}

impl ParseSelector for str {
    fn parse_selector(&self) -> airgap_mirror::source::Selector {
        airgap_mirror::source::Selector::parse(self).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_what_is_no_index() {
    let dir = low_layout();
    let name = image(&format!("oci:{}:edge/plain:v1", dir.path().join("low").display()));
    let mapper = Mapper::parse("nest=reg.high.example/n").unwrap();
    let error = scatter(&context(), &name, &mapper, &Options::default()).await.unwrap_err().to_string();
    assert!(error.contains("no index"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_images_between_layouts_and_one_failure_hides_no_other() {
    let (dir, name) = gathered("part1", gather::Options::default()).await;
    let store = Layout::new(&dir.path().join("gather"));
    let docker = "sha256:08f37fb68698c1e3f0e640d20a6e33f67afff88581a29f0463f8b018d7b10a10".parse().unwrap();
    let docker = store.manifest(&Name::Digest(docker)).await.unwrap().unwrap();
    let lost = docker.children().unwrap().config.unwrap();
    std::fs::remove_file(dir.path().join("gather").join(lost.digest.blob_path())).unwrap();

    let high = dir.path().join("high");
    let rules_text = format!("reg.low.example/tiny/edge/,oci:{}:\n", high.display());
    let mapper = rules(dir.path(), "all-prefix", &rules_text);
    let report = scatter(&context(), &name, &mapper, &Options::default()).await.unwrap();
    assert_eq!((report.images.len(), report.no_destination.len(), report.failures.len()), (2, 1, 1), "{report:?}");
    assert!(report.failures[0].image.contains("edge/docker:v1"), "{report:?}");
    assert!(report.failures[0].error.contains(&lost.digest.to_string()), "{report:?}");
    assert_eq!(Layout::new(&high).tags().await.unwrap(), ["plain:latest", "plain:v1"]);
}
