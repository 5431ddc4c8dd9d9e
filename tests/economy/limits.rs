//! What the configuration allows a registry to be asked, kept.

use std::time::{Duration, Instant};

use super::{home, middle::Middle, registry, run};

/// Runs with those limits for the registry: how long it took.
fn timed(home: &std::path::Path, registry: &str, limits: &str, arguments: &[&str]) -> Duration {
    let config = format!("registryConfig:\n  \"{registry}\": {{limits: {{{limits}}}}}\n");
    std::fs::write(home.join("mirror.yaml"), config).unwrap();
    let begun = Instant::now();
    run(home, arguments);
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_content_come_no_faster_than_the_configuration_says() {
    let home = home();
    let home = home.path();
    let registry = registry(home).await;
    let middle = Middle::before(&registry.address().to_string());
    let to = format!("{}/few:x", middle.address);
    let list = std::fs::read_to_string(home.join("images.list")).unwrap();
    let few: String = list.lines().take(5).map(|line| format!("{line}\n")).collect();
    std::fs::write(home.join("few.list"), few).unwrap();

    let took = timed(home, &middle.address, "requestsPerSecond: 50", &["gather", "few.list", &to]);
    let asked = middle.take().len();
    assert!(asked > 30, "{asked}");
    let least = Duration::from_secs_f64((asked - 1) as f64 / 50.0);
    assert!(took >= least, "{asked} requests in {took:?}, not in {least:?}");

    // In pieces of no more than a quarter, of which the first costs no time.
    let image = format!("{}/large:x", middle.address);
    for arguments in [["gather", "large.list", &image], ["serialize", &image, "large.tar"]] {
        let took = timed(home, &middle.address, "bytesPerSecond: 1MiB", &arguments);
        assert!(took >= Duration::from_millis(500), "{arguments:?} took {took:?}");
    }

    // What is in manifests counts, too: two of 128 KiB, of which the first costs no time.
    let image = format!("{}/wide:x", middle.address);
    for arguments in [["gather", "wide.list", &image], ["serialize", &image, "wide.tar"]] {
        let took = timed(home, &middle.address, "bytesPerSecond: 256KiB", &arguments);
        assert!(took >= Duration::from_millis(400), "{arguments:?} took {took:?}");
    }
}
