//! `mirror gather SOURCES IMAGE`.

use super::arguments::{self, Choice, Index};
use super::summary::{self, Summary, count};
use super::{Exit, Failure, Session, size};
use crate::image::ImageName;
use crate::pipeline::gather::{self, Options, Report};
use crate::source::list;

/// Copy the images of a list into one repository
///
/// Copies every image of SOURCES, with all it consists of, into the repository of IMAGE, and tags there an
/// index that names them all: one thing to serialize. The same list gives the same digest. An image that
/// cannot be had does not stop the others: all failures are listed at the end, and nothing is tagged unless
/// --allow-missing is given. Running it again sends nothing twice.
///
/// SOURCES has one image a line, with optional labels (reg.low/app:1, team=red); # begins a comment.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror gather sources.list reg.low/gather:sync-45
  mirror gather sources.list oci:low:sync-45 --platforms linux/amd64,linux/arm64
  mirror gather sources.list reg.low/gather:sync-45 -r --selector team=red
  grep -v beta sources.list | mirror gather - reg.low/gather:sync-45 --dry-run")]
pub struct Args {
    /// List of images, one a line; - is standard input
    #[arg(value_name = "SOURCES", value_hint = clap::ValueHint::FilePath)]
    sources: String,

    /// Where to: host/repo:tag or oci:DIR:TAG
    #[arg(value_name = "IMAGE", value_parser = arguments::new_image)]
    image: ImageName,

    /// Take what refers to the images as well: signatures, SBOMs, attestations, and what refers to those
    #[arg(short, long)]
    recursive: bool,

    #[command(flatten)]
    choice: Choice,

    #[command(flatten)]
    index: Index,

    /// Tag what there is when an image cannot be had, and exit with 3
    #[arg(long)]
    allow_missing: bool,

    /// Copy non-distributable layers too, from the registry or from their own addresses
    #[arg(long)]
    foreign_layers: bool,

    /// Print the plan (each blob, its size, where it would go, and what is there already), and copy nothing
    #[arg(long)]
    dry_run: bool,
}

pub async fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let sources = list::read(&args.sources).map_err(Failure::usage)?;
    let options = Options {
        platforms: args.choice.platforms.list(),
        annotations: args.index.annotations(),
        recursive: args.recursive,
        index_fallback: args.index.index_fallback,
        allow_missing: args.allow_missing,
        foreign_layers: args.foreign_layers,
        dry_run: args.dry_run,
        selectors: args.choice.selectors.clone(),
    };
    let context = session.context()?;
    let next = "run the same command again: what has arrived is not sent twice";
    let report = session.perform(next, gather::gather(&context, &sources, &args.image, &options)).await?;
    let exit = match (report.failures.is_empty(), args.allow_missing) {
        (true, _) => Exit::Verified,
        (false, true) if report.tagged || args.dry_run => Exit::LeftOut,
        (false, _) => Exit::Failed,
    };
    session.report("mirror/gather/v1", &report, text(args, &report, exit).text(), exit)?;
    session.failures(&summary::failures(&report.failures, &args.sources, exit));
    Ok(exit)
}

fn text(args: &Args, report: &Report, exit: Exit) -> Summary {
    let images = count(report.images.len() as u64, "image");
    let mut summary = match (args.dry_run, report.tagged) {
        (true, _) => Summary::new(format!("would gather {images} into {}", report.reference)),
        (false, true) => Summary::new(format!("gathered {images} into {}", report.reference)),
        (false, false) => Summary::new(format!("copied {images}, but {} was not tagged", report.reference)),
    };
    if let Some(digest) = &report.digest {
        summary.field("digest", digest);
        let deduplicated = size::human(report.size_deduplicated);
        summary.field("size", format!("{deduplicated} ({} without sharing)", size::human(report.size_total)));
    }
    if args.dry_run {
        summary.list("images", report.images.iter().map(|i| format!("{}  {}", i.digest, i.source)));
    }
    summary.moved(&report.moved, report.plan.as_ref());
    summary.left_out(&report.left_out);
    match exit {
        Exit::Failed => summary.next(summary::try_again(args.allow_missing, "--allow-missing")),
        _ if args.dry_run => {}
        _ => {
            // Without it, what was taken along would stay behind from there on.
            let recursive = if args.recursive { " --recursive" } else { "" };
            summary.next(format!("mirror serialize{recursive} {} ARCHIVE.tar", report.reference));
        }
    }
    summary
}
