//! `mirror batch-serialize LIST DIR`.

use std::path::PathBuf;

use super::summary::{self, Summary, count, word};
use super::writing::Compressing;
use super::{Exit, Failure, Session, size};
use crate::pipeline::batch::serialize::{self, Options, Report, batch_serialize};
use crate::pipeline::batch::{State, list, tracker};
use crate::pipeline::serialize as archive;

/// Write each image of a list that changed into an archive of its own
///
/// LIST has rows of name,artifact, as in tools,reg.low/gather:tools; # begins a comment. Each image whose digest is not
/// the one that was last sent under its name is written to DIR/000001-NAME.tar, with the next number of all
/// archives in DIR. What earlier archives of DIR carry, whatever their names, is left out. DIR/record-keeping.csv
/// records each archive as soon as it is whole. An image that fails does not stop the others. Running it again
/// does nothing, until an image changes; take what was carried over away if you like, but leave the table.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror batch-serialize batch.csv sync
  mirror batch-serialize batch.csv /mnt/usb/sync --compression zstd
  mirror batch-serialize batch.csv sync --dry-run --output json")]
pub struct Args {
    /// List of name,artifact rows: the tag on the other side, and an IMAGE
    #[arg(value_name = "LIST", value_hint = clap::ValueHint::FilePath)]
    list: String,

    /// Directory of the archives and their table; made if it is not there
    #[arg(value_name = "DIR", value_parser = super::arguments::directory, value_hint = clap::ValueHint::DirPath)]
    directory: PathBuf,

    /// Name of the table in DIR
    #[arg(long, value_name = "FILE", default_value = tracker::WRITTEN_FILE, value_parser = super::arguments::file_name)]
    tracker_filename: String,

    /// Take what refers to the images as well: signatures, SBOMs, attestations, and what refers to those
    #[arg(short, long)]
    recursive: bool,

    /// Remove archives from DIR that its table does not know, as after a failed run of another tool
    #[arg(long)]
    force: bool,

    /// Print the plan of each archive (each blob, its size and its offset, and what is left out), and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Carry non-distributable layers too, from the registry or from their own addresses
    #[arg(long)]
    foreign_layers: bool,

    #[command(flatten)]
    compressing: Compressing,

    /// Write manifest.json too, by which docker load finds the images; of several platforms it takes linux/amd64
    #[arg(long)]
    manifest_json: bool,
}

pub async fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let rows = list::read(&args.list).map_err(Failure::usage)?;
    let options = Options {
        tracker: args.tracker_filename.clone(),
        archive: archive::Options {
            recursive: args.recursive,
            force: args.force,
            dry_run: args.dry_run,
            foreign_layers: args.foreign_layers,
            compression: args.compressing.method(),
            level: args.compressing.compression_level,
            manifest_json: args.manifest_json,
            resume: true,
            ..Default::default()
        },
    };
    let context = session.context()?;
    let next = "run the same command again: archives that are whole are not written twice";
    let verb = batch_serialize(&context, &rows, &args.directory, &options);
    let report = session.perform(next, verb).await?;
    let exit = if report.failures.is_empty() { Exit::Verified } else { Exit::Failed };
    session.report("mirror/batch-serialize/v1", &report, text(args, &report, exit).text(), exit)?;
    session.failures(&summary::failures(&report.failures, &args.list, exit));
    Ok(exit)
}

fn text(args: &Args, report: &Report, exit: Exit) -> Summary {
    let directory = &report.directory;
    let of = |state| report.archives.iter().filter(move |entry| entry.state == state).collect::<Vec<_>>();
    let (unchanged, written) = (of(State::Unchanged), of(if args.dry_run { State::Planned } else { State::Done }));
    let verb = if args.dry_run { "would write" } else { "wrote" };
    let mut summary = match written.len() as u64 {
        0 if exit == Exit::Verified => Summary::new(format!("nothing to write to {directory}: no image changed")),
        number => Summary::new(format!("{verb} {} to {directory}", count(number, "archive"))),
    };
    let line = |e: &&serialize::Entry| {
        format!("{}  {}, {}  {}  {}", e.file, size::human(e.bytes), count(e.blobs, "blob"), e.digest, e.reference)
    };
    summary.list("archives", written.iter().map(line));
    for entry in &written {
        if let Some(plan) = &entry.plan {
            summary.line(format!("{}:", entry.file));
            summary.archive(plan, entry.skipped.as_deref().unwrap_or_default());
        }
    }
    summary.list("unchanged", unchanged.iter().map(|e| format!("{}  as in {}", e.reference, e.file)));
    summary.left_out(&report.left_out);
    if exit == Exit::Failed {
        summary.next("mend the failures and run it again: what was written is recorded");
    } else if !args.dry_run && !written.is_empty() {
        summary.next(format!("carry {directory} over, then: mirror batch-deserialize {} REPOSITORY", word(directory)));
    }
    summary
}
