//! `clone`: the images of a list straight to where a ruleset sends them, with nothing in between.
//!
//! Everything is resolved and every destination known before the first push. What failed can be written
//! as a list of sources, with which the same command goes on.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::copy::{self, Copier, Plan};
use super::routes::{Sent, plan};
use super::sources::{resolve_all, select};
use super::{Context, Error, Failure, LeftOut, Moved, Placed, Result};
use crate::image::Platform;
use crate::mapping::Mapper;
use crate::source::{Selector, Source, list};
use crate::store::error::printable;

/// The first line of a list of what failed: a file that begins otherwise is not replaced.
const HEADING: &str = "# what mirror clone could not clone; clone this list to try again";

/// What to clone, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Take only these platforms; empty takes all.
    pub platforms: Vec<Platform>,
    /// Take only sources whose labels match one of these; empty takes all.
    pub selectors: Vec<Selector>,
    /// Say where everything would go, and move nothing.
    pub check: bool,
    /// The same, and what of it would be sent there.
    pub dry_run: bool,
    /// Take referrers and signatures along.
    pub recursive: bool,
    /// Copy layers that registries usually do not hold.
    pub foreign_layers: bool,
    /// Clone what can be had when a source cannot.
    pub continue_on_error: bool,
    /// Where to list the sources that failed, if any did. Removed where none did.
    pub failed: Option<PathBuf>,
}

/// What went where.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Images with the destinations that they have now (or would have, in a check).
    pub images: Vec<Placed>,
    /// Images that no rule has a destination for.
    pub no_destination: Vec<Placed>,
    pub moved: Moved,
    /// In a dry run: what would be done.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    pub left_out: Vec<LeftOut>,
    pub failures: Vec<Failure>,
    /// A list of the sources that failed, to clone again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_list: Option<String>,
    /// Nothing was moved.
    pub checked_only: bool,
}

/// Copies every source to the destinations that `mapper` gives it. With a source that cannot be had nothing
/// is pushed, unless the options say to go on.
pub async fn clone(cx: &Context, sources: &[Source], mapper: &Mapper, options: &Options) -> Result<Report> {
    let wanted = select(sources, &options.selectors)?;
    let checked_only = options.check || options.dry_run;
    let failed = options.failed.as_deref().filter(|_| !checked_only);
    if let Some(path) = failed {
        refuse_others(path)?;
    }
    cx.progress.begin("resolving");
    let copier = Copier::new(
        cx,
        copy::Options {
            recursive: options.recursive,
            foreign_layers: options.foreign_layers,
            dry_run: options.dry_run,
        },
    );
    let all = resolve_all(&copier, &wanted, &options.platforms).await;
    let mut routes = plan(all.found, mapper)?;
    let mut report = Report {
        no_destination: std::mem::take(&mut routes.no_destination),
        left_out: all.left_out,
        failures: all.failures,
        checked_only,
        ..Report::default()
    };
    let sent = if checked_only && !options.dry_run {
        Sent { images: routes.placed(), failures: Vec::new() }
    } else if report.failures.is_empty() || options.continue_on_error {
        cx.progress.begin("cloning");
        routes.send(&copier).await
    } else {
        Sent::default()
    };
    report.images = sent.images;
    report.failures.extend(sent.failures);
    report.moved = copier.moved();
    report.plan = copier.rehearsed();
    report.left_out.extend(copier.left_out());
    if let Some(path) = failed {
        report.failed_list = note_failed(path, &wanted, &report.failures)?;
    }
    Ok(report)
}

/// A file that is there already must be such a list, so that no other is lost; and it must be possible to write one, since
/// only the end of the run would show that it is not.
fn refuse_others(path: &Path) -> Result<()> {
    let shown = path.display();
    let io = |source| Error::Io { path: shown.to_string(), source };
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            OpenOptions::new().write(true).create_new(true).open(path).map_err(io)?;
            return std::fs::remove_file(path).map_err(io);
        }
        Err(source) => return Err(io(source)),
    };
    // Longer than the heading is not the heading.
    let mut start = String::new();
    let read = BufReader::new(file.take(HEADING.len() as u64 + 1)).read_line(&mut start);
    if read.is_ok() && start.strip_suffix('\n') == Some(HEADING) {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "{shown} exists and is no list of what failed: it is left as it is; name another file with --failed"
    )))
}

/// Lists the sources that failed, each under what was wrong with it; gives the name of the list, if there is one.
fn note_failed(path: &Path, sources: &[Source], failures: &[Failure]) -> Result<Option<String>> {
    let io = |source| Error::Io { path: path.display().to_string(), source };
    let lines: BTreeSet<usize> = failures.iter().filter_map(|f| f.line).collect();
    if lines.is_empty() {
        return match std::fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(io(e)),
            _ => Ok(None),
        };
    }
    let mut text = format!("{HEADING}\n");
    for source in sources.iter().filter(|source| lines.contains(&source.line)) {
        for failure in failures.iter().filter(|f| f.line == Some(source.line)) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# {}", printable(&failure.error));
        }
        let _ = writeln!(text, "{}", list::line(source));
    }
    std::fs::write(path, text).map_err(io)?;
    Ok(Some(path.display().to_string()))
}
