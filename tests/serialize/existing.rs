//! Differential archives and continued ones: what is on the other side does not travel, the archive says
//! what it leaves out, and the bytes are those of the field.

use std::path::Path;
use std::sync::Arc;

use airgap_mirror::archive::checkpoint::Part;
use airgap_mirror::archive::contents::Contents;
use airgap_mirror::pipeline::existing;
use airgap_mirror::pipeline::serialize::Options;
use airgap_mirror::store::Location;

use crate::archives::{Gathers, context, fixture, path};
use crate::{expected, write};

/// All after `oci-layout`.
fn rest(archive: &[u8]) -> &[u8] {
    let size = std::str::from_utf8(&archive[124..135]).unwrap();
    &archive[512 + usize::from_str_radix(size, 8).unwrap().next_multiple_of(512)..]
}

async fn leaving_out(locations: &[String]) -> Options {
    let locations: Vec<Location> = locations.iter().map(|l| Location::parse(l).unwrap()).collect();
    let leave_out = Arc::new(existing::digests(&context(), &locations).await.unwrap());
    Options { leave_out, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_differential_archive_is_that_of_the_field_and_lists_what_it_expects() {
    let gathers = Gathers::new().await;
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let whole = write(&gathers, "part1", &at("part1.tar"), Options::default()).await;
    assert_eq!(whole.blobs_skipped, 0);
    let part1 = gathers.image("part1").to_string();
    let mut lists = Vec::new();
    for (i, place) in [part1, at("part1.tar").display().to_string()].into_iter().enumerate() {
        let out = at(&format!("{i}.tar"));
        let report = write(&gathers, "part2", &out, leaving_out(std::slice::from_ref(&place)).await).await;
        let written = std::fs::read(&out).unwrap();
        assert!(rest(&written) == rest(&expected("part2-without-part1")), "{place}");
        assert_eq!((report.blobs, report.blobs_skipped), (15, 10));

        let contents = Contents::scan(std::sync::Arc::new(std::fs::File::open(&out).unwrap())).0;
        assert_eq!(contents.expected.len(), 10);
        assert_eq!(contents.expected.iter().map(|d| d.size).sum::<u64>(), report.bytes_skipped);
        assert!(contents.expected.iter().all(|d| !contents.blobs.contains_key(&d.digest)));
        lists.push(contents.expected);
    }
    assert_eq!(lists[0], lists[1], "whoever told that they are there");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_says_what_is_skipped_and_why() {
    let gathers = Gathers::new().await;
    let part1 = gathers.image("part1").to_string();
    let options = Options { dry_run: true, ..leaving_out(std::slice::from_ref(&part1)).await };
    let report = write(&gathers, "part2", Path::new("/nowhere/at/all.tar"), options).await;
    let skipped = report.skipped.unwrap();
    assert_eq!(skipped.len(), 10);
    assert!(skipped.iter().all(|s| s.why == format!("in {part1}")), "{skipped:?}");
    let planned = report.plan.unwrap();
    assert!(skipped.iter().all(|s| planned.iter().all(|p| p.digest != s.digest)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_goes_on_after_a_torn_part() {
    let gathers = Gathers::new().await;
    let directory = tempfile::tempdir().unwrap();
    let offset = String::from_utf8(fixture("checkpoints/resume-1.offset")).unwrap().trim().parse().unwrap();
    // A colon in the path, and the end of a line that was cut.
    let ledger = directory.path().join("of:part-1.jsonl");
    let mut lines = fixture("checkpoints/resume-1.jsonl");
    lines.extend_from_slice(b"{\"mediaType\":\"appl");
    std::fs::write(&ledger, &lines).unwrap();
    for (file, offset) in [(ledger, offset), (path("checkpoints/resume-1.jsonl"), offset)] {
        let out = directory.path().join("part-2.tar");
        let options = Options { earlier: vec![Part { file, offset }], force: true, ..Options::default() };
        write(&gathers, "part2", &out, options).await;
        assert!(std::fs::read(&out).unwrap() == expected("resume-2"));
    }
}
