//! Rates that the configuration sets: so many requests, or bytes, a second to one host.
//!
//! Invariant: over any time, no more passes than the rate allows and the one taking that began it. Who takes waits until
//! everything that was taken before is paid for, so that waits come in the order of asking.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::pace::locked;

pub struct Rate {
    per_second: f64,
    paid_until: Mutex<Option<Instant>>,
}

impl Rate {
    /// `per_second`: above zero.
    pub fn new(per_second: f64) -> Self {
        Rate { per_second, paid_until: Mutex::default() }
    }

    /// Takes `amount`, and waits for those before.
    pub async fn take(&self, amount: f64) {
        let turn = self.book(amount, Instant::now());
        tokio::time::sleep_until(turn.into()).await;
    }

    /// When the taker may go on.
    fn book(&self, amount: f64, now: Instant) -> Instant {
        let mut paid_until = locked(&self.paid_until);
        let turn = paid_until.map_or(now, |until| until.max(now));
        let price = Duration::try_from_secs_f64(amount / self.per_second).unwrap_or(Duration::MAX);
        *paid_until = Some(turn.checked_add(price).unwrap_or(turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_waits_for_those_before_and_silence_saves_nothing_up() {
        let rate = Rate::new(10.0);
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs_f64(seconds);
        assert_eq!(rate.book(1.0, begun), begun);
        assert_eq!(rate.book(5.0, begun), at(0.1));
        assert_eq!(rate.book(1.0, begun), at(0.6));
        assert_eq!(rate.book(1.0, at(9.0)), at(9.0));
        assert_eq!(rate.book(1.0, at(9.0)), at(9.1));
    }
}
