//! `mirror scatter IMAGE MAPPER`.

use super::arguments::{self, Platforms};
use super::summary::{self, Summary, count};
use super::{Exit, Failure, Session};
use crate::image::ImageName;
use crate::mapping::Mapper;
use crate::pipeline::scatter::{self, Options, Report};
use crate::source::{Selector, list};

/// Bring each gathered image to where it belongs
///
/// For each image of the gathered IMAGE, MAPPER names its destinations, and the image is copied there.
/// An image without a destination stays where it is and is listed. Two images for one destination are an
/// error before anything is pushed. --check prints every destination and moves nothing.
///
/// MAPPER is TYPE=ARGUMENT: nest=REGISTRY/PATH (under that path, by its full name), all-prefix=FILE,
/// first-prefix=FILE, longest-prefix=FILE (rules of a CSV: prefix,destination), digests=FILE (digest,destination),
/// template=FILE (Handlebars), go-template=FILE (Go text/template).
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror scatter reg.high/scatter:sync-45 nest=reg.high/mirror
  mirror scatter reg.high/scatter:sync-45 all-prefix=dest.csv --check
  mirror scatter oci:high:sync-45 longest-prefix=dest.csv -l team=red
  mirror scatter reg.high/scatter:sync-45 go-template=rules.tmpl --subset urgent.list")]
pub struct Args {
    /// What was gathered: host/repo:tag, host/repo@digest or oci:DIR[:TAG]
    #[arg(value_name = "IMAGE", value_parser = arguments::image)]
    image: ImageName,

    /// Where images belong, as in all-prefix=dest.csv
    #[arg(value_name = "MAPPER")]
    mapper: String,

    /// Take foreign layers as well, which gather --foreign-layers brought
    #[arg(long)]
    foreign_layers: bool,

    #[command(flatten)]
    choice: Choice,
}

/// What of a gather goes to its destinations, whatever it is in.
#[derive(Debug, clap::Args)]
pub struct Choice {
    /// Print every destination, and move nothing
    #[arg(long)]
    check: bool,

    /// The same, and the plan: each blob, its size, where it would go, and what is there already
    #[arg(long)]
    dry_run: bool,

    /// Take what refers to the images as well: signatures, SBOMs, attestations, and what refers to those
    #[arg(short, long)]
    recursive: bool,

    /// Only the images of that list of sources
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    subset: Option<String>,

    /// Only the images whose labels match, as in team=red,tier!=test; given several times, any of them
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = arguments::selector)]
    selector: Vec<Selector>,

    #[command(flatten)]
    platforms: Platforms,
}

impl Choice {
    pub fn options(&self) -> Result<Options, Failure> {
        Ok(Options {
            check: self.check,
            dry_run: self.dry_run,
            recursive: self.recursive,
            subset: self.subset.as_deref().map(list::read).transpose().map_err(Failure::usage)?,
            selectors: self.selector.clone(),
            platforms: self.platforms.list(),
            foreign_layers: false,
        })
    }

    /// Prints what went where; `done` and `planned` are the verb.
    pub fn print(
        &self,
        session: &Session,
        schema: &'static str,
        (done, planned): (&str, &str),
        report: &Report,
    ) -> Result<Exit, Failure> {
        let exit = if report.failures.is_empty() { Exit::Verified } else { Exit::Failed };
        let verb = if report.checked_only { planned } else { done };
        session.report(schema, report, text(verb, report).text(), exit)?;
        session.failures(&summary::failures(&report.failures, self.subset.as_deref().unwrap_or("list"), exit));
        Ok(exit)
    }
}

pub async fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let mapper = Mapper::parse(&args.mapper).map_err(Failure::usage)?;
    let options = Options { foreign_layers: args.foreign_layers, ..args.choice.options()? };
    let context = session.context()?;
    let next = "run the same command again: what has arrived is not sent twice";
    let report = session.perform(next, scatter::scatter(&context, &args.image, &mapper, &options)).await?;
    args.choice.print(session, "mirror/scatter/v1", ("scattered", "would scatter"), &report)
}

fn text(verb: &str, report: &Report) -> Summary {
    let destinations: usize = report.images.iter().map(|image| image.destinations.len()).sum();
    let places = count(destinations as u64, "destination");
    let images = count(report.images.len() as u64, "image");
    let mut summary = Summary::new(format!("{verb} {images} of {} to {places}", report.reference));
    summary.field("digest", report.digest);
    if report.checked_only {
        summary.destinations(&report.images);
    }
    if !report.checked_only || report.plan.is_some() {
        summary.moved(&report.moved, report.plan.as_ref());
    }
    summary.list("no destination", report.no_destination.iter().map(|image| image.source.clone()));
    summary.left_out(&report.left_out);
    summary
}
