//! Progress on stderr: a bar with true totals, rate and time left on a terminal, a plain line every few
//! seconds elsewhere. The verbs count, this only looks, so that a slow screen slows nothing down.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle as BarStyle};
use tokio::task::JoinHandle;

use super::session::ProgressStyle;
use super::size;
use crate::pipeline::Progress;
use crate::pipeline::progress::Snapshot;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Between two plain lines.
const LINE: Duration = Duration::from_secs(5);
/// What the rate is measured over.
const WINDOW: Duration = Duration::from_secs(15);

/// Shows the progress until it is dropped.
pub struct Shown {
    task: Option<JoinHandle<()>>,
    bar: ProgressBar,
}

impl Shown {
    /// Begins to show `progress`. `bar` is the one that diagnostics and remarks know to move aside.
    pub fn begin(style: ProgressStyle, progress: &Arc<Progress>, bar: &ProgressBar) -> Self {
        let task = match style {
            ProgressStyle::None => None,
            ProgressStyle::Bar | ProgressStyle::Auto => {
                bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
                Some(tokio::spawn(draw_bar(progress.clone(), bar.clone())))
            }
            ProgressStyle::Plain => Some(tokio::spawn(print_lines(progress.clone()))),
        };
        Shown { task, bar: bar.clone() }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        self.bar.finish_and_clear();
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
    }
}

async fn draw_bar(progress: Arc<Progress>, bar: ProgressBar) {
    if let Ok(style) = BarStyle::with_template("{prefix} {bar:16} {wide_msg}") {
        bar.set_style(style.progress_chars("━╸ "));
    }
    let mut pace = Pace::default();
    loop {
        let now = progress.snapshot();
        pace.look(Instant::now(), &now);
        if !now.phase.is_empty() {
            let (done, total) = share(&now);
            bar.set_length(total.max(1));
            bar.set_position(done.min(total));
            bar.set_prefix(now.phase.clone());
            bar.set_message(describe(&now, &pace));
            bar.tick();
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn print_lines(progress: Arc<Progress>) {
    let mut pace = Pace::default();
    let mut printed = Instant::now();
    let mut last = Snapshot::default();
    loop {
        let now = progress.snapshot();
        // The end of a phase is told from the last look into it, if it lasted long enough to be worth it.
        if now.phase != last.phase && !last.phase.is_empty() && pace.age() > Duration::from_secs(1) {
            eprintln!("{}: {}", last.phase, describe(&last, &pace));
            printed = Instant::now();
        }
        pace.look(Instant::now(), &now);
        if printed.elapsed() >= LINE && !now.phase.is_empty() {
            eprintln!("{}: {}", now.phase, describe(&now, &pace));
            printed = Instant::now();
        }
        last = now;
        tokio::time::sleep(LOOK).await;
    }
}

/// What the bar measures: bytes where there are some, else items.
fn share(now: &Snapshot) -> (u64, u64) {
    if now.bytes_total > 0 { (now.bytes_done, now.bytes_total) } else { (now.items_done, now.items_total) }
}

/// One line, what is wanted most first, since a narrow terminal cuts its end:
/// `35 %, 0:21 left, 1.2 GiB of 3.4 GiB, 110 MiB/s, 12 of 40 items`.
fn describe(now: &Snapshot, pace: &Pace) -> String {
    let rate = pace.bytes_per_second();
    let left = now.bytes_total.saturating_sub(now.bytes_done);
    let mut parts = Vec::new();
    if now.bytes_total > 0 {
        let percent = (u128::from(now.bytes_done) * 100 / u128::from(now.bytes_total)).min(100);
        parts.push(format!("{percent} %"));
    }
    if rate >= 1.0 && left > 0 {
        parts.push(format!("{} left", clock((left as f64 / rate) as u64)));
    }
    if now.bytes_total > 0 {
        parts.push(format!("{} of {}", size::human(now.bytes_done), size::human(now.bytes_total)));
    } else if now.bytes_done > 0 {
        parts.push(size::human(now.bytes_done));
    }
    if rate >= 1.0 {
        parts.push(format!("{}/s", size::human(rate as u64)));
    }
    match (now.items_done, now.items_total) {
        (0, 0) => {}
        (done, 0) => parts.push(format!("{done} items")),
        (done, total) => parts.push(format!("{done} of {total} items")),
    }
    parts.join(", ")
}

/// `0:07`, `12:30`, `3:00:00`.
fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// How fast it has been going of late.
#[derive(Debug, Default)]
struct Pace {
    phase: String,
    looks: VecDeque<(Instant, u64)>,
}

impl Pace {
    fn look(&mut self, at: Instant, now: &Snapshot) {
        if self.phase != now.phase {
            self.phase.clone_from(&now.phase);
            self.looks.clear();
        }
        self.looks.push_back((at, now.bytes_done));
        while self.looks.len() > 2 && self.looks.front().is_some_and(|(then, _)| at - *then > WINDOW) {
            self.looks.pop_front();
        }
    }

    /// Time that the looks into this phase span.
    fn age(&self) -> Duration {
        match (self.looks.front(), self.looks.back()) {
            (Some((first, _)), Some((last, _))) => *last - *first,
            _ => Duration::ZERO,
        }
    }

    /// Zero until it can be told.
    fn bytes_per_second(&self) -> f64 {
        match (self.looks.front(), self.looks.back()) {
            (Some((_, first)), Some((_, last))) if self.age() >= Duration::from_millis(500) => {
                last.saturating_sub(*first) as f64 / self.age().as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_rate_and_time_left() {
        let mut now =
            Snapshot { phase: "copying".into(), bytes_total: 100 << 20, items_total: 3, ..Snapshot::default() };
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.look(start, &now);
        assert_eq!(describe(&now, &pace), "0 %, 0 B of 100 MiB, 0 of 3 items");
        now.bytes_done = 20 << 20;
        now.items_done = 1;
        pace.look(start + Duration::from_secs(2), &now);
        assert_eq!(describe(&now, &pace), "20 %, 0:08 left, 20.0 MiB of 100 MiB, 10.0 MiB/s, 1 of 3 items");
        now.phase = "checking".into();
        now.bytes_done = 0;
        pace.look(start + Duration::from_secs(3), &now);
        assert_eq!(pace.bytes_per_second(), 0.0);
        assert_eq!(clock(3 * 3600 + 61), "3:01:01");
    }
}
