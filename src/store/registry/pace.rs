//! How hard a host is asked: a place for each request in flight, and when nobody may ask at all.
//!
//! Reads and writes have a lane each, so that copying within one host cannot wait for itself: a push holds its
//! place in the write lane before it takes one in the read lane, never the other way round. Places are given in the order of
//! asking. A pause (`Retry-After`) holds for every request to the host, and so do the limits that the configuration sets.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use url::Url;

use super::rate::Rate;
use super::window::{Kind, Window};
use crate::config::Limits;

/// A lane that nobody has left for so long lets one more in: those ahead may wait for the one behind them, as
/// when an archive is written in order.
const STALLED: Duration = Duration::from_secs(30);

/// Which lane of a host a request uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Read,
    Write,
    /// The caller holds a place already.
    Held,
}

/// All hosts that were talked to.
pub struct Hosts {
    jobs: Option<usize>,
    hosts: Mutex<HashMap<String, Arc<Host>>>,
}

impl Hosts {
    /// `jobs` fixes the number of requests in flight per lane and host.
    pub fn new(jobs: Option<usize>) -> Self {
        Hosts { jobs, hosts: Mutex::default() }
    }

    /// The host (with its port) that `url` names.
    pub fn of(&self, url: &Url) -> Arc<Host> {
        let name = format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(0));
        let mut hosts = locked(&self.hosts);
        let host = hosts.entry(name).or_insert_with(|| Arc::new(Host::new(self.jobs, STALLED)));
        host.clone()
    }

    /// What the configuration allows the host that `url` names. Said again, it changes nothing.
    pub fn limit(&self, url: &Url, limits: Limits) {
        self.of(url).limits.get_or_init(|| Allowed {
            requests: limits.requests_per_second.map(Rate::new),
            bytes: limits.bytes_per_second.map(|bytes| Arc::new(Rate::new(bytes as f64))),
            connections: limits.connections,
        });
    }
}

/// One host and its two lanes.
pub struct Host {
    stalled: Duration,
    limits: OnceLock<Allowed>,
    state: Mutex<State>,
}

/// What the configuration allows; `None`: anything.
#[derive(Default)]
struct Allowed {
    requests: Option<Rate>,
    bytes: Option<Arc<Rate>>,
    /// Requests in flight in both lanes together.
    connections: Option<usize>,
}

struct State {
    lanes: [Queue; 2],
    /// For each lane.
    window: Window,
    paused_until: Option<Instant>,
}

#[derive(Default)]
struct Queue {
    in_flight: usize,
    waiting: VecDeque<oneshot::Sender<Place>>,
    /// When somebody left, or was let in out of turn.
    moved: Option<Instant>,
}

/// A place in a lane; given back when dropped.
pub struct Place {
    host: Arc<Host>,
    lane: usize,
}

impl Host {
    fn new(jobs: Option<usize>, stalled: Duration) -> Self {
        let state = State { lanes: Default::default(), window: Window::new(jobs), paused_until: None };
        Host { stalled, limits: OnceLock::new(), state: Mutex::new(state) }
    }

    /// The rate of content to and from this host, if there is a limit.
    pub fn bytes(&self) -> Option<Arc<Rate>> {
        self.limits.get()?.bytes.clone()
    }

    /// Waits for a place in a lane.
    pub async fn admit(self: &Arc<Self>, lane: Lane) -> Option<Place> {
        let lane = match lane {
            Lane::Read => 0,
            Lane::Write => 1,
            Lane::Held => return None,
        };
        let mut turn = {
            let mut state = locked(&self.state);
            let free = self.is_free(&state, lane);
            let queue = &mut state.lanes[lane];
            if queue.waiting.is_empty() && free {
                queue.in_flight += 1;
                return Some(Place { host: self.clone(), lane });
            }
            let (sender, turn) = oneshot::channel();
            queue.waiting.push_back(sender);
            turn
        };
        loop {
            if let Ok(place) = tokio::time::timeout(self.stalled, &mut turn).await {
                return place.ok();
            }
            let mut state = locked(&self.state);
            let queue = &mut state.lanes[lane];
            if queue.moved.is_none_or(|at| at.elapsed() >= self.stalled) {
                queue.moved = Some(Instant::now());
                queue.in_flight += 1;
                return Some(Place { host: self.clone(), lane });
            }
        }
    }

    /// Waits until the host may be asked again. Once for each request.
    pub async fn ready(&self) {
        if let Some(requests) = self.limits.get().and_then(|l| l.requests.as_ref()) {
            requests.take(1.0).await;
        }
        loop {
            let until = locked(&self.state).paused_until;
            match until {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until.into()).await,
                _ => return,
            }
        }
    }

    /// Nobody asks this host before `wait` is over.
    pub fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut state = locked(&self.state);
        state.paused_until = Some(state.paused_until.map_or(until, |u| u.max(until)));
    }

    /// The host answered after `took`.
    pub fn answered(self: &Arc<Self>, kind: Kind, took: Duration) {
        let mut state = locked(&self.state);
        let size = state.window.size();
        let full = state.lanes.iter().any(|lane| lane.in_flight >= size);
        state.window.answered(kind, took, full, Instant::now());
        let granted = self.grant(&mut state);
        drop(state);
        self.hand_out(granted);
    }

    /// The host said that it has too much to do.
    pub fn refused(&self) {
        locked(&self.state).window.refused(Instant::now());
    }

    /// Whether one more may go in that lane.
    fn is_free(&self, state: &State, lane: usize) -> bool {
        let [reads, writes] = [0, 1].map(|lane: usize| state.lanes[lane].in_flight);
        let allowed = match self.limits.get().and_then(|l| l.connections) {
            None => true,
            // Who copies within one host reads for each write.
            Some(0 | 1) => [reads, writes][lane] == 0,
            // One is kept for a read, so that writes that wait for theirs come to an end.
            Some(most) => reads + writes < most && (lane == 0 || writes + 1 < most),
        };
        allowed && state.lanes[lane].in_flight < state.window.size()
    }

    fn grant(&self, state: &mut State) -> [Vec<oneshot::Sender<Place>>; 2] {
        [0, 1].map(|lane| {
            let mut granted = Vec::new();
            while self.is_free(state, lane) {
                let queue = &mut state.lanes[lane];
                let Some(sender) = queue.waiting.pop_front() else { break };
                queue.in_flight += 1;
                granted.push(sender);
            }
            granted
        })
    }

    /// A place whose asker has gone comes back and is given on.
    fn hand_out(self: &Arc<Self>, granted: [Vec<oneshot::Sender<Place>>; 2]) {
        for (lane, senders) in granted.into_iter().enumerate() {
            for sender in senders {
                drop(sender.send(Place { host: self.clone(), lane }));
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let granted = {
            let mut state = locked(&self.host.state);
            state.lanes[self.lane].in_flight -= 1;
            state.lanes[self.lane].moved = Some(Instant::now());
            self.host.grant(&mut state)
        };
        self.host.hand_out(granted);
    }
}

/// A mutex whose holder panicked still guards plain numbers.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(jobs: Option<usize>) -> Arc<Host> {
        Hosts::new(jobs).of(&Url::parse("http://127.0.0.1:5000/").unwrap())
    }

    #[tokio::test]
    async fn places_are_bounded_and_lanes_apart() {
        let host = host(Some(1));
        let first = host.admit(Lane::Read).await.unwrap();
        let _write = host.admit(Lane::Write).await.unwrap();
        let gone = tokio::time::timeout(Duration::from_millis(10), host.admit(Lane::Read)).await;
        assert!(gone.is_err());
        let waiting = tokio::spawn({
            let host = host.clone();
            async move { host.admit(Lane::Read).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.unwrap(), "the place goes past the asker that left");
    }

    #[tokio::test]
    async fn a_lane_that_nobody_leaves_lets_one_more_in() {
        let host = Arc::new(Host::new(Some(1), Duration::from_millis(20)));
        let _ahead = host.admit(Lane::Read).await.unwrap();
        let behind = tokio::time::timeout(Duration::from_secs(5), host.admit(Lane::Read)).await;
        assert!(behind.unwrap().is_some());
    }

    #[tokio::test]
    async fn the_configuration_bounds_both_lanes_together_and_leaves_one_for_a_read() {
        let limited = |connections| {
            let hosts = Hosts::new(None);
            let url = Url::parse("http://127.0.0.1:5000/").unwrap();
            hosts.limit(&url, Limits { connections: Some(connections), ..Limits::default() });
            hosts.of(&url)
        };
        let is_free = |host: &Host, lane| host.is_free(&locked(&host.state), lane);
        let three = limited(3);
        let _first = three.admit(Lane::Write).await;
        let second = three.admit(Lane::Write).await;
        assert!(!is_free(&three, 1) && is_free(&three, 0));
        let _read = three.admit(Lane::Read).await;
        assert!(!is_free(&three, 1) && !is_free(&three, 0));
        let waiting = tokio::spawn({
            let three = three.clone();
            async move { three.admit(Lane::Read).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(second);
        assert!(waiting.await.unwrap(), "a place that a write leaves is given to a read");
        let one = limited(1);
        let _write = one.admit(Lane::Write).await;
        let _its_read = one.admit(Lane::Read).await;
        assert!(!is_free(&one, 0) && !is_free(&one, 1));
    }

    #[tokio::test]
    async fn a_pause_holds_for_everyone() {
        let host = host(None);
        host.pause(Duration::from_millis(80));
        host.pause(Duration::from_millis(10));
        let begun = Instant::now();
        host.ready().await;
        assert!(begun.elapsed() >= Duration::from_millis(80));
    }
}
