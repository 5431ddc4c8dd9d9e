//! `mirror batch-deserialize DIR DEST`.

use std::path::PathBuf;

use super::arguments;
use super::summary::{self, Summary, count, moved};
use super::{Exit, Failure, Session};
use crate::image::ImageName;
use crate::pipeline::batch::deserialize::{Options, Report, batch_deserialize};
use crate::pipeline::batch::{State, tracker};

/// Read the new archives of a directory into a repository
///
/// Reads each archive DIR/000001-NAME.tar that was not read to DEST before, in the order of their numbers, and
/// tags it DEST:NAME. DIR/successful-syncs.csv records each one as soon as it is in place, with its digest, so that
/// an archive that was replaced is read again. An archive that fails does not stop the others, and later ones
/// that need what is missing say so. Running it again does nothing, until there are new archives.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror batch-deserialize sync reg.high/scatter
  mirror batch-deserialize /mnt/usb/sync oci:high
  mirror batch-deserialize sync reg.high/scatter --dry-run")]
pub struct Args {
    /// Directory of the archives
    #[arg(value_name = "DIR", value_parser = arguments::directory, value_hint = clap::ValueHint::DirPath)]
    directory: PathBuf,

    /// Where to: host/repo or oci:DIR, to which the names of the archives are added as tags
    #[arg(value_name = "DEST", value_parser = arguments::repository)]
    destination: ImageName,

    /// Name of the table in DIR
    #[arg(long, value_name = "FILE", default_value = tracker::READ_FILE, value_parser = arguments::file_name)]
    sync_filename: String,

    /// Read and verify the new archives, print the plan of each (each blob, its size, where it is in the archive, and what
    /// is there already), and push nothing
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let context = session.context()?;
    let options = Options { tracker: args.sync_filename.clone(), dry_run: args.dry_run };
    let next = "run the same command again: what has arrived is not sent twice";
    let verb = batch_deserialize(&context, &args.directory, &args.destination, &options);
    let report = session.perform(next, verb).await?;
    let exit = if report.failures.is_empty() { Exit::Verified } else { Exit::Failed };
    session.report("mirror/batch-deserialize/v1", &report, text(args, &report, exit).text(), exit)?;
    session.failures(&summary::failures(&report.failures, &report.directory, exit));
    Ok(exit)
}

fn text(args: &Args, report: &Report, exit: Exit) -> Summary {
    let directory = &report.directory;
    let done: Vec<_> = report.archives.iter().filter(|entry| entry.state != State::Unchanged).collect();
    let verb = if args.dry_run { "would read" } else { "read" };
    let mut summary = match done.len() as u64 {
        0 if report.archives.is_empty() && exit == Exit::Verified => {
            Summary::new(format!("nothing to read: {directory} holds no archive of a batch"))
        }
        0 if exit == Exit::Verified => Summary::new(format!("nothing to read from {directory}: all of it was before")),
        number => Summary::new(format!("{verb} {} from {directory}", count(number, "archive"))),
    };
    summary.list("archives", done.iter().map(|e| format!("{}  {}  {}", e.file, e.digest, e.reference)));
    let unchanged = report.archives.iter().filter(|entry| entry.state == State::Unchanged);
    summary.list("read before", unchanged.map(|e| e.file.clone()).collect::<Vec<_>>().into_iter());
    summary.list("no archives of a batch", report.ignored.iter().cloned());
    if args.dry_run {
        for entry in &done {
            summary.line(format!("{}:", entry.file));
            entry.plan.iter().for_each(|plan| summary.plan(plan));
        }
        summary.field("to send", moved(&report.moved));
    } else if !done.is_empty() {
        summary.moved(&report.moved, None);
    }
    summary.left_out(&report.left_out);
    match done.last() {
        _ if exit == Exit::Failed => summary.next("mend the failures and run it again: what arrived is recorded"),
        Some(last) if !args.dry_run => summary.next(format!("mirror scatter {} MAPPER", last.reference)),
        _ => {}
    }
    summary
}
