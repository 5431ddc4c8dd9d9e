//! When to try again: back-off with jitter, a budget that progress refills, and the registry's own word
//! (`Retry-After`, RFC 9110 section 10.2.3). Nothing here sleeps or counts forever.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// Failures in a row, with nothing won in between, before an operation gives up.
pub const TRIES: u32 = 6;

/// Longest wait that a registry may ask for before that is an error.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(900);

/// Counts failures in a row. An operation that advances starts anew.
#[derive(Debug)]
pub struct Budget {
    failures: u32,
    tries: u32,
}

impl Budget {
    /// A budget of `tries` attempts without progress.
    pub fn new(tries: u32) -> Self {
        Budget { failures: 0, tries }
    }

    /// The operation advanced.
    pub fn progressed(&mut self) {
        self.failures = 0;
    }

    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure: how long to wait before the next try, or `None` when the budget is used up.
    pub fn fail(&mut self) -> Option<Duration> {
        self.failures += 1;
        (self.failures < self.tries).then(|| backoff(self.failures))
    }
}

/// 0.1 s doubled with each failure up to 10 s, of which the upper half is left to chance, so that tasks that
/// failed together do not come back together.
pub fn backoff(failures: u32) -> Duration {
    let full = 100u64.saturating_mul(1 << failures.saturating_sub(1).min(7)).min(10_000);
    Duration::from_millis(full / 2 + chance(full / 2))
}

/// A number from 0 to `below`, different each time; not for secrets.
fn chance(below: u64) -> u64 {
    if below == 0 { 0 } else { RandomState::new().hash_one(below) % (below + 1) }
}

/// How long the registry asks to stay away. A date has whole seconds and may have been cut, so a second
/// is added to it.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()? + Duration::from_secs(1);
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_refills_the_budget() {
        let mut budget = Budget::new(3);
        assert!(budget.fail().is_some());
        assert!(budget.fail().is_some());
        budget.progressed();
        assert!(budget.fail().is_some());
        assert!(budget.fail().is_some());
        assert_eq!(budget.fail(), None);
    }

    #[test]
    fn backoff_grows_and_is_bounded() {
        assert!(backoff(1) <= Duration::from_millis(100));
        assert!(backoff(4) >= Duration::from_millis(400));
        assert!(backoff(60) <= Duration::from_secs(10));
    }

    #[test]
    fn reads_seconds_and_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(of("2"), Some(Duration::from_secs(2)));
        let date = httpdate::fmt_http_date(now + Duration::from_secs(5));
        assert_eq!(of(&date), Some(Duration::from_secs(6)));
        let past = httpdate::fmt_http_date(now - Duration::from_secs(50));
        assert_eq!(of(&past), Some(Duration::ZERO));
        assert_eq!(of("soon"), None);
    }
}
