//! The text form of results: short lines for people. Whatever came from outside is made printable.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{Exit, size};
use crate::pipeline::copy::{Plan, Planned, Skipped};
use crate::pipeline::serialize::{PlannedEntry, SkippedEntry};
use crate::pipeline::{Failure, LeftOut, Moved, Placed};

/// At most this many entries of a list are printed; `--output json` has all of them.
const SHOWN: usize = 50;

/// Lines of a result, put together in order.
#[derive(Debug, Default)]
pub struct Summary {
    text: String,
}

impl Summary {
    /// The first line: what was done.
    pub fn new(headline: impl AsRef<str>) -> Self {
        let mut summary = Summary::default();
        summary.line(headline);
        summary
    }

    pub fn line(&mut self, text: impl AsRef<str>) {
        self.text.push_str(&printable(text.as_ref()));
        self.text.push('\n');
    }

    /// `  digest    sha256:…`
    pub fn field(&mut self, name: &str, value: impl std::fmt::Display) {
        self.line(format!("  {name:<9} {value}"));
    }

    /// What went over the wire, and what did not need to; in a dry run, what would, one by one.
    pub fn moved(&mut self, report: &Moved, plan: Option<&Plan>) {
        self.field(if plan.is_some() { "to send" } else { "sent" }, moved(report));
        plan.into_iter().for_each(|plan| self.plan(plan));
    }

    /// What would be put in place, and what is.
    pub fn plan(&mut self, plan: &Plan) {
        if plan.planned().is_empty() && plan.skipped().is_empty() {
            return;
        }
        let located = plan.planned().iter().any(|planned| planned.offset.is_some());
        let offset = |at: String| if located { format!("{at:>15} ") } else { String::new() };
        self.line(format!("{}{:>15}  digest", offset("offset".into()), "size"));
        for Planned { digest, size, offset: at, destination, tag, mounted_from, .. } in plan.planned() {
            let at = offset(at.map_or_else(|| "-".into(), |at| at.to_string()));
            let tag = tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
            let mounted = mounted_from.as_ref().map(|from| format!(", mounted from {from}")).unwrap_or_default();
            self.line(format!("{at}{size:>15}  {digest}  to {destination}{tag}{mounted}"));
        }
        for Skipped { digest, size, destination, why, .. } in plan.skipped() {
            self.line(format!("{}{size:>15}  {digest}  in {destination}: {why}", offset("-".into())));
        }
    }

    /// What an archive would hold, and what not.
    pub fn archive(&mut self, plan: &[PlannedEntry], skipped: &[SkippedEntry]) {
        self.line(format!("{:>15} {:>15}  digest", "offset", "size"));
        for entry in plan {
            self.line(format!("{:>15} {:>15}  {}", entry.offset, entry.size, entry.digest));
        }
        for entry in skipped {
            self.line(format!("{:>15} {:>15}  {}  {}", "-", entry.size, entry.digest, entry.why));
        }
    }

    /// Every destination, as a check prints them: this list is not cut.
    pub fn destinations(&mut self, images: &[Placed]) {
        for image in images {
            for destination in &image.destinations {
                self.line(format!("  {} -> {destination}", image.source));
            }
        }
    }

    /// A titled list, cut when it is long.
    pub fn list(&mut self, title: &str, items: impl ExactSizeIterator<Item = String>) {
        let total = items.len();
        if total == 0 {
            return;
        }
        self.line(format!("{title} ({total}):"));
        for item in items.take(SHOWN) {
            self.line(format!("  {item}"));
        }
        if total > SHOWN {
            self.line(format!("  … and {} more (--output json lists them all)", total - SHOWN));
        }
    }

    pub fn left_out(&mut self, left_out: &[LeftOut]) {
        self.list("left out", left_out.iter().map(|l| format!("{}: {}: {}", l.image, l.what, l.why)));
    }

    /// What to run next.
    pub fn next(&mut self, command: impl AsRef<str>) {
        self.line(format!("next: {}", command.as_ref()));
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

/// `2 blobs, 1.0 MiB; 1 manifest; 3 blobs mounted`
pub fn moved(moved: &Moved) -> String {
    let mut text = format!("{}, {}", count(moved.blobs_sent, "blob"), size::human(moved.bytes_sent));
    if moved.manifests_sent > 0 {
        let _ = write!(text, "; {}", count(moved.manifests_sent, "manifest"));
    }
    if moved.blobs_mounted > 0 {
        let _ = write!(text, "; {} mounted", count(moved.blobs_mounted, "blob"));
    }
    if moved.blobs_existed > 0 {
        let _ = write!(text, "; {} there already", count(moved.blobs_existed, "blob"));
    }
    text
}

/// Failures as lines for stderr: `error: sources.list:3: IMAGE: why`; a warning where they were allowed. Each hint is
/// given once.
pub fn failures(failures: &[Failure], list: &str, exit: Exit) -> String {
    let word = if exit == Exit::LeftOut { "warning" } else { "error" };
    let mut text = String::new();
    for failure in failures {
        let place = failure.line.map(|line| format!("{list}:{line}: ")).unwrap_or_default();
        // A message often begins with the image already.
        let image = if failure.error.contains(&failure.image) { String::new() } else { format!("{}: ", failure.image) };
        let _ = writeln!(text, "{word}: {}", printable(&format!("{place}{image}{}", failure.error)));
    }
    let hints: BTreeSet<&str> = failures.iter().filter_map(|failure| failure.hint.as_deref()).collect();
    for hint in hints {
        let _ = writeln!(text, "hint: {}", printable(hint));
    }
    text
}

/// What to do about failures; `flag` lets a run go on without what failed, if it is not `given` already.
pub fn try_again(given: bool, flag: &str) -> String {
    let or = if given { String::new() } else { format!(", or add {flag}") };
    format!("mend the failures and run it again{or}")
}

/// `1 blob`, `2 blobs`.
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A name as a shell takes it for one word: in quotes where it needs them.
pub fn word(name: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_alphanumeric() || "/._-:@+,=%".contains(c);
    match !name.is_empty() && name.chars().all(plain) {
        true => name.into(),
        false => format!("'{}'", name.replace('\'', r"'\''")).into(),
    }
}

/// Control characters escaped: nothing that was read may move the cursor.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_step_can_be_typed() {
        assert_eq!(word("/media/disk/sync-45.tar"), "/media/disk/sync-45.tar");
        assert_eq!(word("it's here.tar"), r"'it'\''s here.tar'");
        assert_eq!(word("s*.tar"), "'s*.tar'");
        assert_eq!(word(""), "''");
    }

    #[test]
    fn nothing_from_outside_moves_the_cursor() {
        let mut summary = Summary::new("gathered\u{1b}[2J");
        summary.field("digest", "sha256:…");
        assert_eq!(summary.text(), "gathered\\u{1b}[2J\n  digest    sha256:…\n");
    }

    #[test]
    fn long_lists_are_cut() {
        let mut summary = Summary::default();
        summary.list("left out", (0..60).map(|n| n.to_string()));
        assert!(summary.text().starts_with("left out (60):\n  0\n"));
        assert!(summary.text().contains("… and 10 more"));
    }

    #[test]
    fn a_failure_names_its_line() {
        let failure = |n: u8| {
            let (image, hint) = (format!("reg/a:{n}"), Some("mirror login reg".into()));
            Failure { image, line: Some(3), error: "not there".into(), hint }
        };
        assert_eq!(
            failures(&[failure(1), failure(2)], "sources.list", Exit::Failed),
            "error: sources.list:3: reg/a:1: not there\nerror: sources.list:3: reg/a:2: not there\nhint: mirror login reg\n"
        );
    }
}
