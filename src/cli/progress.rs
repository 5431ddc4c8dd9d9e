//! Progress on stderr: a bar with true totals, rate and time left on a terminal, a plain line every few
//! seconds elsewhere. The verbs count, this only looks, so that a slow screen slows nothing down.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use console::Term;
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
    progress: Arc<Progress>,
    lines: Option<Arc<Mutex<Lines>>>,
}

impl Shown {
    /// Begins to show `progress`. `bar` is the one that diagnostics and remarks know to move aside.
    pub fn begin(style: ProgressStyle, progress: &Arc<Progress>, bar: &ProgressBar) -> Self {
        let mut lines = None;
        let task = match style {
            ProgressStyle::None => None,
            ProgressStyle::Bar | ProgressStyle::Auto => {
                bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
                Some(tokio::spawn(draw_bar(progress.clone(), bar.clone())))
            }
            ProgressStyle::Plain => {
                let printed = lines.insert(Arc::new(Mutex::new(Lines::new())));
                Some(tokio::spawn(print_lines(progress.clone(), printed.clone())))
            }
        };
        Shown { task, bar: bar.clone(), progress: progress.clone(), lines }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        if let Some(lines) = &self.lines {
            print(lines.lock().unwrap_or_else(PoisonError::into_inner).end(&self.progress));
        }
        self.bar.finish_and_clear();
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
    }
}

/// What there is of a line for the bar itself.
const BAR: &str = "{prefix} {bar:16} {wide_msg}";
/// Columns of it that are taken besides the prefix and the message.
const TAKEN: usize = 18;

async fn draw_bar(progress: Arc<Progress>, bar: ProgressBar) {
    if let Ok(style) = BarStyle::with_template(BAR) {
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
            let columns = usize::from(Term::stderr().size().1);
            let room = columns.saturating_sub(TAKEN + now.phase.chars().count());
            bar.set_message(fitting(parts(&now, &pace), room));
            bar.tick();
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn print_lines(progress: Arc<Progress>, lines: Arc<Mutex<Lines>>) {
    loop {
        print(lines.lock().unwrap_or_else(PoisonError::into_inner).look(&progress));
        tokio::time::sleep(LOOK).await;
    }
}

fn print(lines: Vec<String>) {
    for line in lines {
        // Nobody may be listening, which is no reason to fail.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }
}

/// Plain lines: one every few seconds, and one for the end of a phase that had some.
struct Lines {
    pace: Pace,
    printed: Instant,
    /// The phase that has lines.
    told: String,
}

impl Lines {
    fn new() -> Self {
        Lines { pace: Pace::default(), printed: Instant::now(), told: String::new() }
    }

    fn look(&mut self, progress: &Progress) -> Vec<String> {
        let now = progress.snapshot();
        let mut lines = Vec::new();
        if now.phase != self.told {
            lines.extend(self.end_of_told(&progress.before()));
        }
        self.pace.look(Instant::now(), &now);
        if self.printed.elapsed() >= LINE {
            lines.extend(self.line(&now));
            self.told = now.phase;
        }
        lines
    }

    fn end(&mut self, progress: &Progress) -> Vec<String> {
        let (before, now) = (progress.before(), progress.snapshot());
        self.end_of_told(if now.phase == self.told { &now } else { &before }).into_iter().collect()
    }

    /// How the phase ended that has lines.
    fn end_of_told(&mut self, ended: &Snapshot) -> Option<String> {
        let told = std::mem::take(&mut self.told);
        if told.is_empty() || told != ended.phase {
            return None;
        }
        self.pace.look(Instant::now(), ended);
        self.line(ended)
    }

    fn line(&mut self, now: &Snapshot) -> Option<String> {
        self.printed = Instant::now();
        let text = describe(now, &self.pace);
        (!now.phase.is_empty() && !text.is_empty()).then(|| format!("{}: {text}", now.phase))
    }
}

/// What the bar measures: bytes where there are some, else items.
fn share(now: &Snapshot) -> (u64, u64) {
    if now.bytes_total > 0 { (now.bytes_done, now.bytes_total) } else { (now.items_done, now.items_total) }
}

/// One line: `35 %, 0:21 left, 1.2 GiB of 3.4 GiB, 110 MiB/s, 12 of 40 items`.
fn describe(now: &Snapshot, pace: &Pace) -> String {
    parts(now, pace).join(", ")
}

/// As many of them as there is room for, but one at least.
fn fitting(mut parts: Vec<String>, room: usize) -> String {
    while parts.len() > 1 && parts.join(", ").chars().count() > room {
        parts.pop();
    }
    parts.join(", ")
}

/// What there is to tell, what is wanted most first.
fn parts(now: &Snapshot, pace: &Pace) -> Vec<String> {
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
    parts
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

    #[test]
    fn a_narrow_terminal_gets_whole_words() {
        let parts = || ["35 %", "0:21 left", "12 of 40 items"].map(str::to_owned).to_vec();
        assert_eq!(fitting(parts(), 31), "35 %, 0:21 left, 12 of 40 items");
        assert_eq!(fitting(parts(), 30), "35 %, 0:21 left");
        assert_eq!(fitting(parts(), 3), "35 %");
        assert_eq!(fitting(Vec::new(), 0), "");
    }

    #[test]
    fn plain_lines_are_seldom_and_tell_the_end_of_what_they_told() {
        let (progress, mut lines) = (Progress::default(), Lines::new());
        let later = |lines: &mut Lines| lines.printed = lines.printed.checked_sub(LINE).unwrap();
        progress.begin("planning");
        assert_eq!(lines.look(&progress), [""; 0]);
        progress.begin("copying");
        progress.expect(2, 100);
        progress.add_bytes(50);
        assert_eq!(lines.look(&progress), [""; 0]);
        later(&mut lines);
        assert_eq!(lines.look(&progress), ["copying: 50 %, 50 B of 100 B, 0 of 2 items"]);
        assert_eq!(lines.look(&progress), [""; 0]);
        progress.add_bytes(50);
        progress.add_items(2);
        progress.begin("tagging");
        assert_eq!(lines.look(&progress), ["copying: 100 %, 100 B of 100 B, 2 of 2 items"]);
        // It has nothing to tell.
        later(&mut lines);
        assert_eq!(lines.look(&progress), [""; 0]);
        assert_eq!(lines.end(&progress), [""; 0]);
    }

    #[test]
    fn what_has_no_end_has_no_percentage() {
        let (progress, mut lines) = (Progress::default(), Lines::new());
        progress.begin("reading");
        progress.open_ended();
        progress.expect(1, 1 << 20);
        progress.add_bytes(1 << 19);
        lines.printed = lines.printed.checked_sub(LINE).unwrap();
        assert_eq!(lines.look(&progress), ["reading: 512 KiB"]);
        progress.begin("copying");
        progress.expect(1, 1 << 20);
        assert_eq!(lines.end(&progress), ["reading: 512 KiB"]);
    }
}
