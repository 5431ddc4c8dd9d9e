//! `mirror unarchive SOURCE MAPPER [TAG]`.

use std::sync::Arc;

use super::arguments;
use super::medium::Origin;
use super::scatter::Choice;
use super::{Exit, Failure, Session};
use crate::mapping::Mapper;
use crate::pipeline::unarchive;
use crate::store::Location;

/// Bring each image of an archive to where it belongs
///
/// deserialize and scatter in one, with no repository in between: for each image of the archive SOURCE, MAPPER
/// names its destinations, and the image goes there. A registry gets each blob once; its other repositories
/// mount it. Running it again sends nothing twice.
///
/// Of a regular, uncompressed file only what is needed is read. A pipe, a tape or a compressed archive passes
/// once: blobs go to the first destination of an image that needs them, and from there to the others. With
/// --subset, --selector or --platforms, what comes before the last chosen image may go to the first destination
/// as well, as it might be shared.
///
/// MAPPER is what it is for scatter. SOURCE may be a gathered image too: host/repo:tag or oci:DIR:TAG.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror unarchive sync-45.tar all-prefix=dest.csv
  mirror unarchive sync-45.tar nest=reg.high/mirror --check
  mirror unarchive sync-45.tar longest-prefix=dest.csv --subset urgent.list -r
  ssh low mirror archive sources.list - sync-45 | mirror unarchive - all-prefix=dest.csv")]
pub struct Args {
    /// Archive to read: a file, one of its volumes, a tape drive, s3://BUCKET/NAME, or - for
    /// standard input
    #[arg(value_name = "SOURCE", value_parser = arguments::location, value_hint = clap::ValueHint::FilePath)]
    source: Location,

    /// Where images belong, as in all-prefix=dest.csv
    #[arg(value_name = "MAPPER")]
    mapper: String,

    /// Of an archive with several images, the one to take: its name in index.json, or its digest
    #[arg(value_name = "TAG", conflicts_with = "reference")]
    tag: Option<String>,

    /// The same as TAG
    #[arg(long, value_name = "TAG")]
    reference: Option<String>,

    #[command(flatten)]
    choice: Choice,

    #[command(flatten)]
    reading: Origin,
}

pub async fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let mapper = Arc::new(Mapper::parse(&args.mapper).map_err(Failure::usage)?);
    let options = args.choice.options()?;
    let context = args.reading.apply(session.context()?);
    let root = args.tag.as_deref().or(args.reference.as_deref());
    let next = "run the same command again: what has arrived is not sent twice";
    let verb = unarchive::unarchive(&context, &args.source, &mapper, root, &options);
    let report = session.perform(next, verb).await?;
    args.choice.print(session, "mirror/unarchive/v1", ("unarchived", "would unarchive"), &report)
}
