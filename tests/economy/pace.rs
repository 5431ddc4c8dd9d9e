//! The number of requests in flight follows what the registry can bear.

use std::path::Path;
use std::time::Duration;

use super::middle::{Middle, Slow};
use super::{home, registry, run};

/// Requests in flight, as the registry sees them in the second half of serializing.
fn in_flight(home: &Path, registry: &str, at_once: usize) -> usize {
    let middle = Middle::before_slow(registry, Slow { at_once, service: Duration::from_millis(20) });
    run(home, &["serialize", "--force", &format!("{}/gathered:x", middle.address), "x.tar"]);
    let asked = middle.take();
    assert!(asked.len() > 400, "{}", asked.len());
    let mut beside: Vec<usize> = asked[asked.len() / 2..asked.len() * 19 / 20].iter().map(|a| a.beside).collect();
    beside.sort_unstable();
    beside[beside.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_requests_are_in_flight_to_a_registry_whose_answers_wait_for_each_other() {
    let home = home();
    let home = home.path();
    let registry = registry(home).await.address().to_string();
    run(home, &["gather", "images.list", &format!("{registry}/gathered:x")]);
    // The same time for an answer alone; begun with are 25. Other work on the machine makes answers late, too, and is
    // rightly given way to: it may spoil one try.
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (few, many) = (in_flight(home, &registry, 3), in_flight(home, &registry, 100));
        if (3..=11).contains(&few) && many >= 16 {
            return;
        }
        seen.push((few, many));
    }
    panic!("in flight to a registry that works on 3 at once, and to one that works on all: {seen:?}");
}
