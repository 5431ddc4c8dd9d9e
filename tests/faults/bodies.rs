//! Bodies that are not what they should be.

use std::io::Write;

use flate2::write::GzEncoder;

use super::content::Content;
use super::registry::{Instead, last};
use super::trial::{both_ways, pull, push};
use super::wire::{Answer, Body, Delivery, Head};

fn is_blob(head: &Head) -> bool {
    head.is("GET", "/blobs/sha256:")
}

/// Of a digest that both `gather` and `serialize` fetch from the registry as a manifest.
fn some_manifest() -> String {
    Content::images().child_manifest()
}

#[test]
fn a_reset_inside_the_first_get_of_each_blob() {
    let runs = pull()
        .after(|head, nth, answer| {
            if is_blob(head) && nth == 1 && answer.body.len() > 1000 {
                answer.delivery = Delivery::ResetAfter(answer.body.len() / 2);
            }
        })
        .finishes();
    for run in runs {
        let ranges = run.seen.iter().filter(|s| s.head.header("range").is_some()).count();
        assert!(ranges >= 10, "{ranges} requests went on from where the first had stopped: {}", run.what);
    }
}

#[test]
fn a_reset_and_range_ignored_afterwards() {
    pull()
        .after(|head, nth, answer| {
            if is_blob(head) && nth == 1 && answer.body.len() > 1000 {
                answer.delivery = Delivery::ResetAfter(answer.body.len() / 2);
            } else if is_blob(head) && answer.status == 206 {
                let digest = last(head);
                *answer = Answer::new(200).body(Content::images().blobs[&digest].clone());
            }
        })
        .finishes();
}

#[test]
fn every_get_of_a_layer_is_reset_after_40_percent() {
    let large = Content::images().large_blob();
    pull()
        .after(move |head, _, answer| {
            let length = answer.body.len();
            if head.is("GET", &large) && length > 2 {
                answer.delivery = Delivery::ResetAfter(length * 2 / 5);
            }
        })
        .finishes();
}

#[test]
fn a_clean_close_half_way() {
    pull()
        .after(|head, nth, answer| {
            if head.method == "GET" && nth == 1 && answer.body.len() > 100 {
                answer.delivery = Delivery::CloseAfter(answer.body.len() / 2);
            }
        })
        .finishes();
}

#[test]
fn a_chunked_body_without_its_last_chunk() {
    pull()
        .after(|head, nth, answer| {
            if head.method == "GET" && nth == 1 && answer.body.len() > 100 {
                answer.delivery = Delivery::ChunkedCut(answer.body.len() / 2);
            }
        })
        .finishes();
}

fn longer(head: &Head, answer: &mut Answer, overlong: bool) {
    if is_blob(head) && answer.status == 200 {
        let mut bytes = answer.bytes().to_vec();
        bytes.extend(b"and more");
        answer.body = Body::Bytes(bytes.into());
        if overlong {
            answer.set("Content-Length", answer.body.len() - 8);
            answer.delivery = Delivery::Overlong;
        }
    }
}

#[test]
fn more_bytes_than_content_length_says() {
    pull()
        .after(|head, nth, answer| {
            if nth == 1 {
                longer(head, answer, true);
            }
        })
        .finishes();
}

#[test]
fn a_longer_length_and_a_longer_body() {
    pull()
        .after(|head, nth, answer| {
            if nth == 1 {
                longer(head, answer, false);
            }
        })
        .finishes();
}

#[test]
fn a_longer_body_always() {
    let large = Content::images().large_blob();
    let target = large.clone();
    pull()
        .after(move |head, _, answer| {
            if head.is("GET", &target) {
                longer(head, answer, false);
            }
        })
        .fails(&[&large]);
}

fn spoil(answer: &mut Answer) {
    let mut bytes = answer.bytes().to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    answer.body = Body::Bytes(bytes.into());
}

#[test]
fn one_wrong_byte_in_the_first_get_of_each_blob() {
    pull()
        .after(|head, nth, answer| {
            if is_blob(head) && nth == 1 {
                spoil(answer);
            }
        })
        .finishes();
}

#[test]
fn one_wrong_byte_always() {
    let large = Content::images().large_blob();
    let target = large.clone();
    let mut answer = Answer::new(200).body(Content::images().blobs[&large].clone());
    spoil(&mut answer);
    let wrong = airgap_mirror::image::Digest::sha256(&answer.bytes()).to_string();
    pull()
        .after(move |head, _, answer| {
            if head.is("GET", &target) && answer.status == 200 {
                spoil(answer);
            }
        })
        .fails(&[&large, &wrong]);
}

#[test]
fn a_manifest_with_other_bytes_under_the_true_digest_header() {
    let child = some_manifest();
    let target = child.clone();
    pull()
        .after(move |head, _, answer| {
            if head.is("GET", &target) {
                spoil(answer);
            }
        })
        .fails(&[&child]);
}

#[test]
fn the_digest_header_names_another_digest() {
    let other = airgap_mirror::image::Digest::sha256(b"something else");
    both_ways()
        .after(move |_, _, answer| {
            if answer.headers.iter().any(|(name, _)| name == "Docker-Content-Digest") {
                answer.set("Docker-Content-Digest", other);
            }
        })
        .finishes();
}

#[test]
fn the_digest_header_is_missing_everywhere() {
    both_ways().after(|_, _, answer| answer.remove("Docker-Content-Digest")).finishes();
}

/// What a guest network or a proxy answers in place of the registry.
fn login_page() -> Answer {
    Answer::new(200)
        .with("Content-Type", "text/html")
        .body("<!DOCTYPE html><title>Guest \x1b[31mlogin</title>\n<p>Please sign in</p>\n")
}

#[test]
fn a_page_in_place_of_a_blob() {
    let large = Content::images().large_blob();
    let target = large.clone();
    pull().before(move |head, _| head.is("GET", &target).then(|| Instead::Answer(login_page()))).fails(&[
        "<!DOCTYPE html>",
        "login",
        &large,
    ]);
}

#[test]
fn a_page_in_place_of_a_manifest() {
    pull()
        .before(|head, _| {
            (head.is("GET", "/manifests/") || head.is("HEAD", "/manifests/")).then(|| Instead::Answer(login_page()))
        })
        .fails(&["<!DOCTYPE html>", "login"]);
}

#[test]
fn a_page_in_place_of_the_answer_to_a_post() {
    push()
        .before(|head, _| (head.method == "POST").then(|| Instead::Answer(login_page())))
        .fails(&["<!DOCTYPE html>", "login"]);
}

#[test]
fn a_page_in_place_of_the_answer_to_a_put_of_a_blob() {
    push()
        .before(|head, _| head.is("PUT", "/blobs/uploads/").then(|| Instead::Answer(login_page())))
        .fails(&["<!DOCTYPE html>", "login"]);
}

#[test]
fn a_page_in_place_of_the_answer_to_a_put_of_a_manifest() {
    push()
        .before(|head, _| head.is("PUT", "/manifests/").then(|| Instead::Answer(login_page())))
        .fails(&["<!DOCTYPE html>", "login"]);
}

#[test]
fn what_is_pushed_is_a_manifest_of_256_mib_afterwards() {
    push().before(|head, _| head.is("GET", "/manifests/").then(|| Instead::Answer(huge(256 << 20)))).either();
}

fn huge(length: u64) -> Answer {
    let mut answer = Answer::new(200).with("Content-Type", "application/vnd.oci.image.manifest.v1+json");
    answer.body = Body::Blanks { start: b"{\"schemaVersion\":2,\"mediaType\":\"a\"", length, end: b"}" };
    answer
}

#[test]
fn a_manifest_of_four_gib() {
    pull().before(|head, _| head.path().contains("/manifests/").then(|| Instead::Answer(huge(4 << 30)))).fails(&[]);
}

#[test]
fn a_manifest_of_256_mib_of_valid_json() {
    pull().before(|head, _| head.path().contains("/manifests/").then(|| Instead::Answer(huge(256 << 20)))).fails(&[]);
}

#[test]
fn manifests_encoded_with_gzip() {
    pull()
        .after(|head, _, answer| {
            if head.is("GET", "/manifests/") && answer.status == 200 {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(&answer.bytes()).expect("memory takes all");
                answer.body = Body::Bytes(encoder.finish().expect("memory takes all").into());
                answer.set("Content-Encoding", "gzip");
            }
        })
        .either();
}

#[test]
fn every_body_chunked() {
    both_ways()
        .after(|head, _, answer| {
            if head.method == "GET" && answer.status != 204 {
                answer.delivery = Delivery::Chunked;
            }
        })
        .finishes();
}
