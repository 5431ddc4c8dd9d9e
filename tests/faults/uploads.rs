//! Uploads that are broken, forgotten, or only said to be there.

use std::time::Duration;

use super::content::Content;
use super::registry::{Auth, Instead, Location, error};
use super::trial::{both_ways, push, within};
use super::wire::{Answer, Head};

fn sends_blob(head: &Head) -> bool {
    matches!(head.method.as_str(), "PUT" | "PATCH") && head.path().contains("/blobs/uploads/")
}

#[test]
fn a_reset_in_the_first_two_puts_of_each_blob() {
    push()
        .before(|head, nth| {
            let length: u64 = head.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(2000);
            (sends_blob(head) && nth <= 2).then_some(Instead::ResetAfter(length / 2))
        })
        .finishes();
}

#[test]
fn the_session_is_gone_at_the_closing_put() {
    push()
        .before(|head, nth| {
            let gone = || Instead::Answer(error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"));
            (head.is("PUT", "/blobs/uploads/") && nth == 1).then(gone)
        })
        .finishes();
}

#[test]
fn a_location_without_host() {
    push().options(|o| o.location = Location::WithoutHost).finishes();
}

#[test]
fn a_location_on_another_path_with_an_escaped_query() {
    push().options(|o| o.location = Location::OtherPath).finishes();
}

/// Uploads go to another origin; that no credential went along is checked in every row.
fn a_location_at_another_port(auth: Auth) {
    let runs = push().options(|o| (o.location, o.auth) = (Location::OtherPort, auth)).finishes();
    for run in runs {
        assert!(run.seen.iter().any(|s| s.storage && sends_blob(&s.head)), "nothing went there: {}", run.what);
    }
}

#[test]
fn a_location_at_another_port_with_bearer() {
    a_location_at_another_port(Auth::Token { life: Duration::from_secs(300), requests: usize::MAX });
}

#[test]
fn a_location_at_another_port_with_basic() {
    a_location_at_another_port(Auth::Basic);
}

fn created(head: &Head) -> Answer {
    let digest = head.query("digest").unwrap_or_default();
    Answer::new(201).with("Docker-Content-Digest", &digest).with("Location", format!("/v2/gather/blobs/{digest}"))
}

#[test]
fn a_blob_is_accepted_and_not_stored_once() {
    let large = Content::images().large_blob();
    push()
        .before(move |head, nth| {
            let ours = head.is("PUT", "/blobs/uploads/") && head.query("digest").as_deref() == Some(&large);
            (ours && nth == 1).then(|| Instead::Answer(created(head)))
        })
        .either();
}

#[test]
fn no_blob_is_ever_stored() {
    push().before(|head, _| head.is("PUT", "/blobs/uploads/").then(|| Instead::Answer(created(head)))).fails(&[]);
}

#[test]
fn a_manifest_is_accepted_and_not_stored_once() {
    push()
        .before(|head, nth| (head.is("PUT", "/manifests/") && nth == 1).then(|| Instead::Answer(Answer::new(201))))
        .either();
}

#[test]
fn no_manifest_is_ever_stored() {
    push().before(|head, _| head.is("PUT", "/manifests/").then(|| Instead::Answer(Answer::new(201)))).fails(&[]);
}

#[test]
fn a_mount_answers_202() {
    within().options(|o| o.mounts = false).finishes();
}

#[test]
fn a_mount_answers_403() {
    within()
        .before(|head, _| {
            let denied = || Instead::Answer(error(403, "DENIED", "requested access to the resource is denied"));
            (head.method == "POST" && head.query("mount").is_some()).then(denied)
        })
        .finishes();
}

#[test]
fn a_mount_answers_201_and_nothing_is_mounted() {
    within()
        .before(|head, _| {
            let digest = head.query("mount")?;
            Some(Instead::Answer(Answer::new(201).with("Docker-Content-Digest", digest)))
        })
        .either();
}

#[test]
fn mounts_move_no_byte() {
    for run in within().finishes() {
        let sent = run.seen.iter().filter(|s| sends_blob(&s.head)).count();
        let got = run.seen.iter().filter(|s| s.head.is("GET", "/blobs/")).count();
        assert_eq!((sent, got), (0, 0), "blobs were moved instead of mounted: {}", run.what);
    }
}

#[test]
fn head_answers_404_for_everything() {
    both_ways().before(|head, _| (head.method == "HEAD").then(|| Instead::Answer(Answer::new(404)))).finishes();
}

#[test]
fn head_answers_405_for_everything() {
    both_ways().before(|head, _| (head.method == "HEAD").then(|| Instead::Answer(Answer::new(405)))).finishes();
}

#[test]
fn head_answers_200_for_blobs_that_are_missing() {
    push()
        .before(|head, _| {
            let there = |digest: &str| {
                let length = Content::images().blobs.get(digest).map_or(0, |b| b.len());
                Answer::new(200).with("Content-Length", length).with("Docker-Content-Digest", digest)
            };
            let digest = head.path().rsplit('/').next()?.to_string();
            head.is("HEAD", "/blobs/").then(|| Instead::Answer(there(&digest)))
        })
        .either();
}
