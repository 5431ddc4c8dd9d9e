//! How many requests may be in flight to a host: a congestion window after TCP Vegas. What answers take beyond the
//! shortest time seen is time spent in a queue; by Little's law that share of the window is how many of ours wait
//! there. Few waiting: one more for each full round of answers. Many: half of what is too many goes at the end of the
//! round. A refusal (429, 503) halves it.
//!
//! Invariants: latency alone never takes the window below [`MANY`]; a window that is not used does not grow; a number
//! that the user fixed falls at refusals only.

use std::time::{Duration, Instant};

/// The window until there is an answer; with one, so many and one more for each millisecond of the shortest, until a
/// full round of answers says more.
const NEAR: f64 = 5.0;
/// The largest window.
const FAR: f64 = 32.0;
/// Fewer than this many of ours in the host's queue keep it idle at times: grow.
const FEW: f64 = 3.0;
/// More than this many only wait: shrink.
const MANY: f64 = 6.0;
/// Refusals that arrive together count once.
const REFUSALS_TOGETHER: Duration = Duration::from_millis(250);
/// So often, half of the window stays away for a round, so that the shortest time is seen anew without a queue of ours.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Requests that take a host about as long, so that a slow kind is not taken for a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Look,
    Read,
    /// Opens an upload, or mounts.
    Open,
    Write,
}

impl Kind {
    pub fn of(method: &reqwest::Method) -> Self {
        match method.as_str() {
            "HEAD" => Kind::Look,
            "GET" => Kind::Read,
            "POST" => Kind::Open,
            _ => Kind::Write,
        }
    }
}

pub struct Window {
    size: f64,
    most: f64,
    /// By the user: latency changes nothing.
    fixed: bool,
    /// Shortest time of each kind, in seconds.
    shortest: [Option<f64>; 4],
    since: Option<Instant>,
    round: Round,
    rounds: u32,
    refused: Option<Instant>,
}

/// Answers since the window was last looked at.
#[derive(Default)]
struct Round {
    answers: f64,
    /// Sum over them of the shortest time by the time that it took: from 0, all queue, to 1, no queue, for each.
    clear: f64,
    /// Some came while all of the window was used.
    full: bool,
}

impl Window {
    /// `fixed`: the number that the user wants.
    pub fn new(fixed: Option<usize>) -> Self {
        let most = fixed.map_or(FAR, |jobs| jobs.max(1) as f64);
        Window {
            size: if fixed.is_some() { most } else { NEAR },
            most,
            fixed: fixed.is_some(),
            shortest: [None; 4],
            since: None,
            round: Round::default(),
            rounds: 0,
            refused: None,
        }
    }

    /// Requests that may be in flight; at least one.
    pub fn size(&self) -> usize {
        self.size.clamp(1.0, self.most) as usize
    }

    /// An answer came, `took` after its question. `full`: while as many were in flight as may.
    pub fn answered(&mut self, kind: Kind, took: Duration, full: bool, now: Instant) {
        let took = took.as_secs_f64().max(1e-6);
        let shortest = self.shortest[kind as usize].get_or_insert(took);
        *shortest = shortest.min(took);
        self.round.answers += 1.0;
        self.round.clear += *shortest / took;
        self.round.full |= full;
        let since = *self.since.get_or_insert(now);
        if self.rounds == 0 && !self.fixed && self.refused.is_none() {
            let trip = self.shortest.iter().flatten().copied().fold(f64::INFINITY, f64::min);
            self.size = (NEAR + trip * 1000.0).min(FAR);
        }
        if self.round.answers < self.size {
            return;
        }
        let round = std::mem::take(&mut self.round);
        self.rounds += 1;
        let queue = if self.fixed { 0.0 } else { self.size * (1.0 - round.clear / round.answers) };
        if queue > MANY {
            self.size -= (queue - MANY) / 2.0;
        } else if queue < FEW && round.full {
            self.size = (self.size + 1.0).min(self.most);
        }
        if !self.fixed && now.duration_since(since) > REMEMBERED {
            self.size = (self.size / 2.0).max(1.0);
            self.shortest = [None; 4];
            self.since = None;
        }
    }

    /// The host said that it has too much to do.
    pub fn refused(&mut self, now: Instant) {
        if self.refused.is_none_or(|at| now.duration_since(at) > REFUSALS_TOGETHER) {
            self.size = (self.size / 2.0).max(1.0);
            self.refused = Some(now);
            self.round = Round::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that works on so many requests at once, each for `service`, and lets the others wait.
    struct Host {
        at_once: usize,
        service: Duration,
        now: Instant,
    }

    impl Host {
        fn new(at_once: usize, milliseconds: f64) -> Self {
            Host { at_once, service: Duration::from_secs_f64(milliseconds / 1000.0), now: Instant::now() }
        }

        /// As many requests as the window lets, `answers` times over: the window's sizes on the way.
        fn serve(&mut self, window: &mut Window, answers: usize) -> Vec<usize> {
            let sizes = (0..answers).map(|_| {
                let in_flight = window.size();
                let took = self.service.mul_f64((in_flight as f64 / self.at_once as f64).max(1.0));
                self.now += took / in_flight as u32;
                window.answered(Kind::Read, took, true, self.now);
                window.size()
            });
            sizes.collect()
        }
    }

    #[test]
    fn the_first_answers_say_how_long_the_line_is() {
        let mut window = Window::new(None);
        assert_eq!(window.size(), 5);
        Host::new(100, 60.0).serve(&mut window, 1);
        assert_eq!(window.size(), 32);
        Host::new(100, 0.4).serve(&mut window, 1);
        assert_eq!(window.size(), 5);
    }

    #[test]
    fn it_grows_until_answers_take_longer() {
        for (at_once, milliseconds) in [(2, 0.5), (8, 1.0), (12, 2.0), (16, 30.0), (4, 100.0)] {
            let mut window = Window::new(None);
            let mut host = Host::new(at_once, milliseconds);
            // A request alone has shown how long one takes.
            window.answered(Kind::Read, host.service, false, host.now);
            let sizes = host.serve(&mut window, 2000);
            let settled = &sizes[1000..];
            let (least, most) = (settled.iter().min().unwrap(), settled.iter().max().unwrap());
            assert!(*least >= at_once + 2 && *most <= at_once + 7, "{at_once} at once: {least} to {most}");
        }
    }

    #[test]
    fn it_follows_a_host_that_becomes_slow_and_quick_again() {
        let (mut window, mut host) = (Window::new(None), Host::new(100, 3.0));
        assert_eq!(host.serve(&mut window, 2000).last(), Some(&32));
        host.at_once = 4;
        assert!(*host.serve(&mut window, 200).last().unwrap() <= 11);
        host.at_once = 100;
        assert_eq!(host.serve(&mut window, 2000).last(), Some(&32));
    }

    #[test]
    fn what_was_shortest_once_is_forgotten() {
        let (mut window, mut host) = (Window::new(None), Host::new(100, 2.0));
        host.serve(&mut window, 1000);
        // The same host by a longer way: the window falls, though nothing waits there, and comes back.
        host.service = Duration::from_millis(40);
        assert!(*host.serve(&mut window, 300).last().unwrap() <= 8);
        let sizes = host.serve(&mut window, 60 * 1000 / 40 * 8 + 2000);
        assert_eq!(sizes.last(), Some(&32));
    }

    #[test]
    fn latency_leaves_a_few_and_an_idle_window_does_not_grow() {
        let (mut window, mut host) = (Window::new(None), Host::new(1, 1.0));
        window.answered(Kind::Read, Duration::from_micros(1), false, host.now);
        assert!(host.serve(&mut window, 1000).iter().all(|size| *size >= 5));
        let mut idle = Window::new(None);
        for _ in 0..1000 {
            idle.answered(Kind::Read, Duration::from_micros(300), false, host.now);
        }
        assert_eq!(idle.size(), 5);
    }

    #[test]
    fn kinds_are_compared_with_their_own() {
        let (mut window, now) = (Window::new(None), Instant::now());
        for _ in 0..500 {
            window.answered(Kind::Look, Duration::from_millis(4), true, now);
            window.answered(Kind::Write, Duration::from_millis(400), true, now);
        }
        assert_eq!(window.size(), 32);
    }

    #[test]
    fn refusals_halve_and_those_together_count_once() {
        let (mut window, mut host) = (Window::new(None), Host::new(100, 60.0));
        host.serve(&mut window, 100);
        window.refused(host.now);
        window.refused(host.now);
        assert_eq!(window.size(), 16);
        host.serve(&mut window, 17);
        assert_eq!(window.size(), 17);
        for _ in 0..9 {
            host.now += Duration::from_secs(1);
            window.refused(host.now);
        }
        assert_eq!(window.size(), 1);
        host.serve(&mut window, 1000);
        assert_eq!(window.size(), 32);
    }

    #[test]
    fn what_the_user_fixed_falls_at_refusals_only() {
        let (mut window, mut host) = (Window::new(Some(12)), Host::new(1, 60.0));
        assert_eq!(host.serve(&mut window, 500).last(), Some(&12));
        window.refused(host.now);
        assert_eq!(window.size(), 6);
        assert_eq!(host.serve(&mut window, 500).last(), Some(&12));
    }
}
