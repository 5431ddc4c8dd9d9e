//! `mirror clone SOURCES MAPPER`.

use std::path::PathBuf;

use super::arguments::Choice;
use super::summary::{self, Summary, count, word};
use super::{Exit, Failure, Session};
use crate::mapping::Mapper;
use crate::pipeline::clone::{self, Options, Report};
use crate::source::list;

/// Copy the images of a list straight to where they belong
///
/// For each image of SOURCES, MAPPER names its destinations, as it does for scatter, and the image is copied
/// there: gather and scatter in one, where both sides can be reached. All sources are looked up and all
/// destinations known before anything is pushed: one that cannot be had, or two images for one destination,
/// stop it there. Running it again sends nothing twice.
///
/// With --continue-on-error what can be had is cloned, and the sources that failed are written to a list,
/// SOURCES with .failed after it if --failed names no other: clone that list to try again.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror clone sources.list all-prefix=dest.csv
  mirror clone sources.list nest=reg.high/mirror --platforms linux/amd64 --check
  mirror clone sources.list first-prefix=dest.csv -r -l team=red
  mirror clone sources.list all-prefix=dest.csv --continue-on-error --failed failed.list
  mirror clone failed.list all-prefix=dest.csv")]
pub struct Args {
    /// List of images, one a line; - is standard input
    #[arg(value_name = "SOURCES", value_hint = clap::ValueHint::FilePath)]
    sources: String,

    /// Where images belong, as in all-prefix=dest.csv
    #[arg(value_name = "MAPPER")]
    mapper: String,

    /// Print every destination, and move nothing
    #[arg(long)]
    check: bool,

    /// The same, and the plan: each blob, its size, where it would go, and what is there already
    #[arg(long)]
    dry_run: bool,

    /// Take what refers to the images as well: signatures, SBOMs, attestations, and what refers to those
    #[arg(short, long)]
    recursive: bool,

    #[command(flatten)]
    choice: Choice,

    /// Copy non-distributable layers too, from the registry or from their own addresses
    #[arg(long)]
    foreign_layers: bool,

    /// Clone the others when an image fails, list those that failed, and exit with 3
    #[arg(long, visible_alias = "continue")]
    continue_on_error: bool,

    /// Where to list the sources that failed, to be cloned again
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    failed: Option<PathBuf>,
}

impl Args {
    /// Where failures are listed, if anywhere.
    fn failed_list(&self) -> Option<PathBuf> {
        let beside = || match self.sources.as_str() {
            "-" => PathBuf::from("sources.list.failed"),
            sources => PathBuf::from(format!("{sources}.failed")),
        };
        self.failed.clone().or_else(|| self.continue_on_error.then(beside))
    }
}

pub async fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let sources = list::read(&args.sources).map_err(Failure::usage)?;
    let mapper = Mapper::parse(&args.mapper).map_err(Failure::usage)?;
    let options = Options {
        platforms: args.choice.platforms.list(),
        selectors: args.choice.selectors.clone(),
        check: args.check,
        dry_run: args.dry_run,
        recursive: args.recursive,
        foreign_layers: args.foreign_layers,
        continue_on_error: args.continue_on_error,
        failed: args.failed_list(),
    };
    let context = session.context()?;
    let next = "run the same command again: what has arrived is not sent twice";
    let report = session.perform(next, clone::clone(&context, &sources, &mapper, &options)).await?;
    let exit = match report.failures.is_empty() {
        true => Exit::Verified,
        false if args.continue_on_error && !report.images.is_empty() => Exit::LeftOut,
        false => Exit::Failed,
    };
    session.report("mirror/clone/v1", &report, text(args, &report).text(), exit)?;
    session.failures(&summary::failures(&report.failures, &args.sources, exit));
    Ok(exit)
}

fn text(args: &Args, report: &Report) -> Summary {
    let destinations: usize = report.images.iter().map(|image| image.destinations.len()).sum();
    let places = count(destinations as u64, "destination");
    let images = count(report.images.len() as u64, "image");
    let verb = if report.checked_only { "would clone" } else { "cloned" };
    let mut summary = Summary::new(format!("{verb} {images} to {places}"));
    if report.checked_only {
        summary.destinations(&report.images);
    }
    if !report.checked_only || report.plan.is_some() {
        summary.moved(&report.moved, report.plan.as_ref());
    }
    summary.list("no destination", report.no_destination.iter().map(|image| image.source.clone()));
    summary.left_out(&report.left_out);
    if let Some(list) = &report.failed_list {
        summary.line(format!("what failed is listed in {list}"));
        summary.next(format!("mirror clone {} {}", word(list), word(&args.mapper)));
    } else if !report.failures.is_empty() {
        summary.next(summary::try_again(args.continue_on_error, "--continue-on-error"));
    }
    summary
}
