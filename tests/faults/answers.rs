//! Answers that are not there.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::content::Content;
use super::registry::{Auth, Fault, Instead, error};
use super::trial::{Run, both_ways, pull, pull_images, push};
use super::wire::{Answer, Delivery, Head};

fn hiccups(status: u16) {
    both_ways().before(move |_, nth| (nth <= 2).then(|| Instead::Answer(Answer::new(status)))).finishes();
}

#[test]
fn first_two_requests_of_each_url_answer_500() {
    hiccups(500);
}

#[test]
fn first_two_requests_of_each_url_answer_502() {
    hiccups(502);
}

#[test]
fn first_two_requests_of_each_url_answer_503() {
    hiccups(503);
}

/// After `quiet` requests, everything is 429 for two seconds; and again later.
struct RateLimit {
    as_date: bool,
    windows: Mutex<Windows>,
}

#[derive(Default)]
struct Windows {
    served: usize,
    closed_until: Option<(Instant, String)>,
}

impl Fault for RateLimit {
    fn before(&self, _: &Head, _: usize) -> Option<Instead> {
        let mut windows = self.windows.lock().expect("no panic holds it");
        let now = Instant::now();
        let opens = windows.closed_until.clone().filter(|(until, _)| now < *until);
        let retry_after = match opens {
            Some((_, retry_after)) => retry_after,
            None => {
                windows.served += 1;
                if !windows.served.is_multiple_of(15) || windows.served > 40 {
                    return None;
                }
                let (until, retry_after) = if self.as_date {
                    // A date has whole seconds: the window ends at one.
                    let now_unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
                    let until_unix = Duration::from_secs(now_unix.as_secs() + 3);
                    let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + until_unix);
                    (now + (until_unix - now_unix), date)
                } else {
                    (now + Duration::from_secs(2), "2".to_string())
                };
                windows.closed_until = Some((until, retry_after.clone()));
                retry_after
            }
        };
        Some(Instead::Answer(error(429, "TOOMANYREQUESTS", "slow down").with("Retry-After", retry_after)))
    }
}

/// Requests that were on their way when the first 429 was sent do not count; later ones do.
fn nobody_came_early(runs: &[Run]) {
    for run in runs {
        let mut first: Option<Instant> = None;
        for seen in &run.seen {
            if seen.status != 429 {
                first = None;
                continue;
            }
            let since = seen.at - *first.get_or_insert(seen.at);
            assert!(since < Duration::from_millis(700), "asked {since:?} into a closed window: {}", run.what);
        }
        assert!(run.seen.iter().any(|s| s.status == 429), "the fault was not met: {}", run.what);
    }
}

#[test]
fn windows_of_429_with_seconds() {
    let runs = both_ways().fault(|| Arc::new(RateLimit { as_date: false, windows: Mutex::default() })).finishes();
    nobody_came_early(&runs);
}

#[test]
fn windows_of_429_with_a_date() {
    let runs = both_ways().fault(|| Arc::new(RateLimit { as_date: true, windows: Mutex::default() })).finishes();
    nobody_came_early(&runs);
}

#[test]
fn a_get_is_never_answered() {
    let large = Content::images().large_blob();
    pull().before(move |head, nth| (head.is("GET", &large) && nth == 1).then_some(Instead::Hang)).finishes();
}

#[test]
fn every_get_of_a_blob_is_never_answered() {
    let large = Content::images().large_blob();
    pull().silence("0.2").before(move |head, _| head.is("GET", &large).then_some(Instead::Hang)).either();
}

#[test]
fn a_body_stops_half_way() {
    let large = Content::images().large_blob();
    pull()
        .after(move |head, nth, answer| {
            if head.is("GET", &large) && nth == 1 {
                answer.delivery = Delivery::StallAfter(answer.body.len() / 2);
            }
        })
        .finishes();
}

#[test]
fn an_upload_is_never_answered() {
    let large = Content::images().large_blob();
    push()
        .before(move |head, nth| {
            let ours = head.method == "PUT" && head.query("digest").as_deref() == Some(&large);
            (ours && nth == 1).then_some(Instead::Hang)
        })
        .finishes();
}

#[test]
fn a_get_of_a_manifest_is_never_answered() {
    let child = Content::images().child_manifest();
    pull().before(move |head, nth| (head.is("GET", &child) && nth == 1).then_some(Instead::Hang)).finishes();
}

#[test]
fn a_post_and_a_put_of_a_manifest_are_never_answered() {
    let (large, child) = (Content::images().large_blob(), Content::images().child_manifest());
    push()
        .silence("0.5")
        .before(move |head, nth| {
            let opens = head.method == "POST" && head.query("mount").is_none_or(|digest| digest == large);
            ((opens || head.is("PUT", &child)) && nth == 1).then_some(Instead::Hang)
        })
        .finishes();
}

#[test]
fn a_small_object_at_64_bytes_a_second() {
    let small = Content::images().small_blob();
    pull()
        .after(move |head, _, answer| {
            if head.is("GET", &small) {
                answer.delivery = Delivery::Trickle(64);
            }
        })
        .finishes();
}

#[test]
fn a_layer_at_64_bytes_a_second_until_asked_again() {
    let large = Content::images().large_blob();
    pull()
        .after(move |head, nth, answer| {
            if head.is("GET", &large) && nth == 1 {
                answer.delivery = Delivery::Trickle(64);
            }
        })
        .either();
}

#[test]
fn every_connection_closed_after_each_answer() {
    both_ways().after(|_, _, answer| answer.delivery = Delivery::ThenClose).finishes();
}

#[test]
fn a_blob_that_is_missing_for_ever() {
    let large = Content::images().large_blob();
    let mut images = Content::images().repositories.iter();
    let image = images.find(|(_, repository)| repository.blobs.contains(&large)).expect("it is in an image").0;
    for (trial, named) in [(pull(), "is not in"), (pull_images(), "sources.list:"), (pull_images(), image)] {
        let gone = large.clone();
        trial
            .before(move |head, _| {
                let missing = || Instead::Answer(error(404, "BLOB_UNKNOWN", "blob unknown to registry"));
                head.path().contains(&gone).then(missing)
            })
            .fails(&[&large, named]);
    }
}

#[test]
fn a_child_manifest_that_is_missing_for_ever() {
    let child = Content::images().child_manifest();
    let gone = child.clone();
    pull_images()
        .before(move |head, _| {
            let missing = || Instead::Answer(error(404, "MANIFEST_UNKNOWN", "manifest unknown"));
            head.path().contains(&gone).then(missing)
        })
        .fails(&[&child, ":v1"]);
}

#[test]
fn the_token_endpoint_answers_503_twice() {
    both_ways()
        .options(|o| o.auth = Auth::Token { life: Duration::from_secs(300), requests: usize::MAX })
        .before(|head, nth| (head.path() == "/token" && nth <= 2).then(|| Instead::Answer(Answer::new(503))))
        .finishes();
}
