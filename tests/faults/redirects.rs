//! Redirects, tokens, lists.

use std::time::Duration;

use super::content::Content;
use super::registry::{Auth, Instead, Options, Storage, error};
use super::trial::{both_ways, pull, pull_images, push};
use super::wire::Answer;

const LASTING: Auth = Auth::Token { life: Duration::from_secs(300), requests: usize::MAX };

/// Blobs are elsewhere; that no credential went along is checked in every row.
fn elsewhere(storage: Storage, auth: Auth) {
    let runs = pull().options(|o| *o = Options { storage, auth, ..*o }).finishes();
    for run in runs {
        assert!(run.seen.iter().any(|s| s.storage), "nothing was redirected: {}", run.what);
    }
}

#[test]
fn blobs_redirected_to_another_port_with_bearer() {
    elsewhere(Storage::OtherPort, LASTING);
}

#[test]
fn blobs_redirected_to_another_port_with_basic() {
    elsewhere(Storage::OtherPort, Auth::Basic);
}

#[test]
fn blobs_redirected_to_another_host_with_bearer() {
    elsewhere(Storage::OtherHost, LASTING);
}

#[test]
fn blobs_redirected_to_another_host_with_basic() {
    elsewhere(Storage::OtherHost, Auth::Basic);
}

#[test]
fn the_first_signed_url_of_each_blob_has_expired() {
    pull()
        .options(|o| *o = Options { storage: Storage::OtherPort, expired_once: true, auth: LASTING, ..*o })
        .finishes();
}

#[test]
fn a_redirect_to_itself() {
    let large = Content::images().large_blob();
    let target = large.clone();
    let runs = pull()
        .before(move |head, _| {
            head.is("GET", &target).then(|| Instead::Answer(Answer::new(307).with("Location", head.path())))
        })
        .fails(&["redirect"]);
    for run in runs {
        let asked = run.seen.iter().filter(|s| s.head.is("GET", &large)).count();
        assert!(asked <= 60, "asked {asked} times: {}", run.what);
    }
}

#[test]
fn an_upload_redirected_to_itself() {
    let runs = push()
        .before(|head, _| {
            let again = || Instead::Answer(Answer::new(307).with("Location", &head.target));
            (head.is("PUT", "/blobs/uploads/") || head.method == "POST").then(again)
        })
        .fails(&["redirect"]);
    for run in runs {
        let asked = run.seen.iter().filter(|s| s.head.method == "POST").count();
        assert!(asked <= 600, "asked {asked} times: {}", run.what);
    }
}

#[test]
fn tokens_that_die_after_20_requests() {
    both_ways().options(|o| o.auth = Auth::Token { life: Duration::from_secs(300), requests: 20 }).finishes();
}

#[test]
fn tokens_that_die_after_2_seconds() {
    // A pause at each tenth request makes the run longer than a token.
    both_ways()
        .options(|o| o.auth = Auth::Token { life: Duration::from_secs(2), requests: usize::MAX })
        .after(|head, _, answer| {
            if head.is("GET", "/blobs/") && (200..300).contains(&answer.status) {
                std::thread::sleep(Duration::from_millis(150));
            }
        })
        .finishes();
}

#[test]
fn tokens_that_die_inside_an_upload() {
    push()
        .options(|o| o.auth = LASTING)
        .before(|head, nth| {
            // The token that opened the upload is no longer good when the bytes have come.
            let host = head.header("host")?;
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"faulty\",error=\"invalid_token\"");
            let expired = error(401, "UNAUTHORIZED", "authentication required").with("WWW-Authenticate", challenge);
            (head.is("PUT", "/blobs/uploads/") && nth == 1).then_some(Instead::Answer(expired))
        })
        .finishes();
}

#[test]
fn lists_of_three_a_page_with_relative_links() {
    pull_images().options(|o| o.page = 3).finishes();
    pull_images().options(|o| o.page = 1).finishes();
}

#[test]
fn lists_that_never_end() {
    let runs = pull_images()
        .after(|head, _, answer| {
            if head.path().contains("/referrers/") || head.path().ends_with("/tags/list") {
                answer.set("Link", format!("<{}>; rel=\"next\"", head.target));
            }
        })
        .either();
    for run in runs {
        let lists = run.seen.iter().filter(|s| s.head.path().contains("/referrers/")).count();
        assert!(lists < 25_000, "{lists} pages were asked for: {}", run.what);
    }
}

#[test]
fn no_referrers_api() {
    // Where it is missing, the tag schema says what refers to what: read when pulling, written when pushing.
    let without = |o: &mut Options| o.referrers = false;
    for run in push().options(without).finishes() {
        let repository = &run.content.repositories["gather"];
        for (digest, (_, bytes)) in &repository.manifests {
            let Some(subject) = super::content::subject(bytes) else { continue };
            let tag = subject.replace(':', "-");
            let list = repository.tags.get(&tag).unwrap_or_else(|| panic!("no fallback tag {tag}: {}", run.what));
            let (_, list) = &repository.manifests[list];
            let named = super::content::children(list).1.contains(digest);
            assert!(named, "{digest} is not in the fallback list of {subject}: {}", run.what);
        }
    }
    pull_images()
        .options(without)
        .before(|head, _| {
            // The registry's own content has no fallback tags: they are made from what it knows.
            let tag = head.path().rsplit('/').next()?.strip_prefix("sha256-")?;
            let subject = format!("sha256:{tag}");
            let content = Content::images();
            let repository = head.path().trim_start_matches("/v2/").split("/manifests/").next()?;
            let referrers = content.repositories.get(repository)?.referrers(&subject);
            if referrers.is_empty() {
                return None;
            }
            let list = serde_json::json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": referrers,
            })
            .to_string();
            let digest = airgap_mirror::image::Digest::sha256(list.as_bytes());
            Some(Instead::Answer(
                Answer::new(200)
                    .with("Content-Type", "application/vnd.oci.image.index.v1+json")
                    .with("Docker-Content-Digest", digest)
                    .body(list),
            ))
        })
        .finishes();
}

#[test]
fn the_referrers_api_answers_500() {
    pull_images()
        .before(|head, _| {
            let broken = || Instead::Answer(error(500, "UNKNOWN", "database is locked"));
            head.path().contains("/referrers/").then(broken)
        })
        .either();
}
