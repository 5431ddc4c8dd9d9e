//! `mirror archive SOURCES DEST [TAG] [EXISTING…]`.

use std::path::Path;

use super::arguments::{self, Choice, Index};
use super::summary::{self, Summary, count};
use super::writing::Writing;
use super::{Exit, Failure, Session};
use crate::image::reference::is_tag;
use crate::pipeline::archiving::{self, Options, Report};
use crate::source::list;
use crate::store::Location;

/// Write the images of a list into one archive
///
/// gather and serialize in one, with no repository in between: the archive DEST is the one that these two
/// would make, byte for byte, and each blob goes from where it is straight into it. Nothing else is written
/// to the disk. In the archive, what was gathered is called TAG.
///
/// An image that cannot be had hides no other: all failures are listed, and nothing is written unless
/// --allow-missing is given.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror archive sources.list sync-45.tar sync-45
  mirror archive sources.list sync-45.tar --reference sync-45 --platforms linux/amd64
  mirror archive sources.list sync-46.tar sync-46 sync-45.tar reg.low/gather:sync-44
  mirror archive sources.list sync-45.tar sync-45 --dry-run --output json
  mirror archive sources.list - sync-45 | ssh high mirror unarchive - all-prefix=dest.csv")]
pub struct Args {
    /// List of images, one a line; - is standard input
    #[arg(value_name = "SOURCES", value_hint = clap::ValueHint::FilePath)]
    sources: String,

    /// Archive to write: a file, a tape drive, s3://BUCKET/NAME, or - for standard output
    #[arg(value_name = "DEST", value_hint = clap::ValueHint::FilePath)]
    destination: String,

    /// What to call it in the archive, unless --reference says so [default: latest]. After it, what the other
    /// side has already: blobs of these images are left out. An image, a layout, or an archive file that was
    /// brought there
    #[arg(value_names = ["TAG", "EXISTING-IMAGE"], num_args = 0..)]
    tag_and_existing: Vec<String>,

    /// What to call it in the archive
    #[arg(long, value_name = "TAG", value_parser = tag)]
    reference: Option<String>,

    #[command(flatten)]
    choice: Choice,

    #[command(flatten)]
    index: Index,

    /// Archive what there is when an image cannot be had, and exit with 3
    #[arg(long)]
    allow_missing: bool,

    #[command(flatten)]
    writing: Writing,
}

fn tag(text: &str) -> Result<String, String> {
    if is_tag(text) { Ok(text.to_owned()) } else { Err("a tag has letters, digits, - _ . only".into()) }
}

impl Args {
    /// What to call it, and what the other side has.
    fn tag_and_existing(&self) -> Result<(String, Vec<Location>), Failure> {
        let (tag, existing) = match (&self.reference, self.tag_and_existing.split_first()) {
            (Some(tag), _) => (tag.clone(), &self.tag_and_existing[..]),
            (None, None) => ("latest".to_owned(), &[][..]),
            (None, Some((first, _))) if tag(first).is_err() || Path::new(first).exists() => {
                return Err(Failure::usage(anyhow::anyhow!(
                    "{first:?} stands where the TAG is expected: write the TAG before it, or --reference TAG"
                )));
            }
            (None, Some((first, rest))) => (first.clone(), rest),
        };
        let location = |text: &String| {
            arguments::location(text).map_err(|e| Failure::usage(anyhow::anyhow!("EXISTING-IMAGE {text:?}: {e}")))
        };
        Ok((tag, existing.iter().map(location).collect::<Result<_, _>>()?))
    }
}

pub async fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let (tag, existing) = args.tag_and_existing()?;
    let sources = list::read(&args.sources).map_err(Failure::usage)?;
    args.writing.accept(&args.destination, session)?;
    let context = session.context()?;
    let next = args.writing.how_to_go_on(&args.destination);
    let verb = async {
        let options = Options {
            platforms: args.choice.platforms.list(),
            selectors: args.choice.selectors.clone(),
            annotations: args.index.annotations(),
            index_fallback: args.index.index_fallback,
            allow_missing: args.allow_missing,
            writing: args.writing.options(&context, &existing).await?,
        };
        archiving::archive(&context, &sources, &args.destination, &tag, &options).await
    };
    let mut report = session.perform(next, verb).await?;
    report.archive = report.archive.map(|archive| args.writing.without_plan(archive));
    let exit = match (report.failures.is_empty(), &report.archive) {
        (true, _) => Exit::Verified,
        (false, Some(_)) => Exit::LeftOut,
        (false, None) => Exit::Failed,
    };
    session.report("mirror/archive/v1", &report, text(args, &report).text(), exit)?;
    session.failures(&summary::failures(&report.failures, &args.sources, exit));
    Ok(exit)
}

fn text(args: &Args, report: &Report) -> Summary {
    let images = count(report.images.len() as u64, "image");
    let Some(archive) = &report.archive else {
        let mut summary = Summary::new(format!("found {images}, but wrote no archive"));
        summary.next(summary::try_again(args.allow_missing, "--allow-missing"));
        return summary;
    };
    let mut summary = args.writing.text(&format!("{images} as {}", archive.reference), archive);
    args.writing.next(&mut summary, archive, "mirror unarchive", "MAPPER");
    summary
}
