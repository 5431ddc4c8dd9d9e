//! `mirror deserialize SOURCE IMAGE`.

use super::arguments;
use super::medium::Origin;
use super::summary::{Summary, count};
use super::{Exit, Failure, Session};
use crate::image::ImageName;
use crate::pipeline::deserialize::{self, Options, Report};

/// Read an archive into a repository
///
/// Reads what serialize wrote (and what ace-dt, skopeo and docker save write in OCI form; uncompressed,
/// zstd or gzip) and pushes it to the repository of IMAGE, children before parents and the tag last, each
/// byte verified. What the repository has already is not sent.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror deserialize sync-45.tar reg.high/scatter:sync-45
  mirror deserialize sync-45.tar oci:high:sync-45
  mirror deserialize sync-45.tar.001 reg.high/scatter:sync-45
  mirror deserialize /dev/nst0 reg.high/scatter:sync-45
  mirror deserialize s3://low-side/sync-45.tar reg.high/scatter:sync-45
  ssh low mirror serialize reg.low/gather:sync-45 - | mirror deserialize - reg.high/scatter:sync-45")]
pub struct Args {
    /// Archive to read: a file, one of its volumes, a tape drive such as /dev/nst0, s3://BUCKET/NAME, or - for
    /// standard input
    #[arg(value_name = "SOURCE", value_hint = clap::ValueHint::FilePath)]
    source: String,

    /// Where to: host/repo:tag or oci:DIR:TAG
    #[arg(value_name = "IMAGE", value_parser = arguments::image)]
    image: ImageName,

    /// Read and verify the archive, print the plan (each blob, its size, where it is in the archive, and what is there
    /// already), and push nothing
    #[arg(long)]
    dry_run: bool,

    /// Of an archive with several images, the one to read: its name in index.json, or its digest
    #[arg(long, value_name = "NAME")]
    root: Option<String>,

    #[command(flatten)]
    reading: Origin,
}

pub async fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let context = args.reading.apply(session.context()?);
    let next = "run the same command again: what has arrived is not sent twice";
    let options = Options { dry_run: args.dry_run, root: args.root.clone() };
    let verb = deserialize::deserialize(&context, &args.source, &args.image, &options);
    let report = session.perform(next, verb).await?;
    session.report("mirror/deserialize/v1", &report, text(args, &report).text(), Exit::Verified)?;
    Ok(Exit::Verified)
}

fn text(args: &Args, report: &Report) -> Summary {
    let source = if args.source == "-" { "standard input" } else { &args.source };
    let verb = if args.dry_run { "would read" } else { "read" };
    let mut summary = Summary::new(format!("{verb} {source} into {}", report.reference));
    summary.field("digest", report.digest);
    // One root is the rule, and the first line named it.
    if report.images.len() > 1 {
        summary.field("holds", count(report.images.len() as u64, "image"));
    }
    summary.moved(&report.moved, report.plan.as_ref());
    summary.left_out(&report.left_out);
    if !args.dry_run {
        summary.next(format!("mirror scatter {} MAPPER", report.reference));
    }
    summary
}
