//! Archives in parts, into docker-registry. It gives out as a manifest what it was only given as a blob, as an archive
//! that was cut leaves those that wait for the rest: nobody may take such an image for one that is there.

use std::process::Command;

use crate::programs::{are_here, mirror, output, project, run, text, work_directory};
use crate::registries::Registry;

const FIXTURES: &str = "testdata/fixtures";

#[test]
fn what_a_cut_archive_left_is_not_taken_for_images() {
    if !are_here(&["docker-registry"]) {
        return;
    }
    let work = work_directory();
    let registry = Registry::docker(work.path(), "registry");
    let fixture = |name: &str| project(FIXTURES).join(name);
    let low = work.path().join("low");
    std::fs::create_dir(&low).expect("a directory for the layout");
    run(Command::new("tar").arg("-xf").arg(fixture("low-layout.tar")).arg("-C").arg(&low));
    let list = std::fs::read_to_string(fixture("lists/part2.list")).expect("the list is there");
    std::fs::write(work.path().join("part2.list"), list.replace("reg.low.example/tiny/", "oci:low:")).expect("a list");

    for (repository, next) in [("parts", "deserialize"), ("gathered", "gather")] {
        let to = format!("{}/{repository}:x", registry.address);
        let torn = output(mirror(work.path()).args(["deserialize", text(&fixture("archives/resume-1-torn.tar")), &to]));
        assert_eq!(torn.status.code(), Some(1));
        let rest = fixture("archives/resume-2.tar");
        let source = if next == "gather" { "part2.list" } else { text(&rest) };
        run(mirror(work.path()).args([next, source, &to]));
        // All of it can be read back, by the digests of its manifests.
        run(mirror(work.path()).args(["serialize", &to, &format!("{repository}.tar")]));
    }
}
