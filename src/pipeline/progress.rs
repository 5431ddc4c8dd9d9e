//! Progress as numbers that anybody may read at any time: the verbs add, the screen polls.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Counters of one run. Totals are true once `phase` is the one that moves bytes.
#[derive(Debug, Default)]
pub struct Progress {
    phase: Mutex<String>,
    /// How the phase before ended.
    before: Mutex<Snapshot>,
    /// Nobody knows how much is still to come.
    is_open: AtomicBool,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
    items_done: AtomicU64,
    items_total: AtomicU64,
}

/// The counters at one moment. Totals are zero where nobody knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub phase: String,
    pub bytes_done: u64,
    pub bytes_total: u64,
    pub items_done: u64,
    pub items_total: u64,
}

impl Progress {
    /// Begins a phase (`resolving`, `copying`, …) and sets the counters to zero.
    pub fn begin(&self, phase: &str) {
        let ended = self.snapshot();
        if let Ok(mut before) = self.before.lock() {
            *before = ended;
        }
        self.is_open.store(false, Relaxed);
        if let Ok(mut current) = self.phase.lock() {
            *current = phase.to_owned();
        }
        for counter in [&self.bytes_done, &self.bytes_total, &self.items_done, &self.items_total] {
            counter.store(0, Relaxed);
        }
    }

    /// What is expected in this phase is only what has come so far: there are no totals.
    pub fn open_ended(&self) {
        self.is_open.store(true, Relaxed);
    }

    /// Work that was found: it will be done in this phase.
    pub fn expect(&self, items: u64, bytes: u64) {
        self.items_total.fetch_add(items, Relaxed);
        self.bytes_total.fetch_add(bytes, Relaxed);
    }

    /// Bytes that moved, or need not move any more.
    pub fn add_bytes(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Relaxed);
    }

    /// Bytes that must move again.
    pub fn take_back(&self, bytes: u64) {
        self.bytes_done.fetch_sub(bytes.min(self.bytes_done.load(Relaxed)), Relaxed);
    }

    /// Objects that are in place.
    pub fn add_items(&self, items: u64) {
        self.items_done.fetch_add(items, Relaxed);
    }

    pub fn snapshot(&self) -> Snapshot {
        let total = |counter: &AtomicU64| if self.is_open.load(Relaxed) { 0 } else { counter.load(Relaxed) };
        Snapshot {
            phase: self.phase.lock().map(|p| p.clone()).unwrap_or_default(),
            bytes_done: self.bytes_done.load(Relaxed),
            bytes_total: total(&self.bytes_total),
            items_done: self.items_done.load(Relaxed),
            items_total: total(&self.items_total),
        }
    }

    /// How the phase before this one ended.
    pub fn before(&self) -> Snapshot {
        self.before.lock().map(|before| before.clone()).unwrap_or_default()
    }
}
