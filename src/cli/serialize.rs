//! `mirror serialize IMAGE DEST`.

use super::arguments;
use super::writing::Writing;
use super::{Exit, Failure, Session};
use crate::image::ImageName;
use crate::pipeline::serialize;
use crate::store::Location;

/// Write an image, or all that was gathered, into one archive
///
/// Writes a tar of an OCI image layout to the file DEST, or to standard output. The same image gives the
/// same bytes on any machine. A file appears under its name only when all of it is there and verified; until
/// then it is DEST.partial, and --resume goes on with that. Nothing else is written to the disk.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror serialize reg.low/gather:sync-45 sync-45.tar
  mirror serialize oci:low:sync-45 /mnt/usb/sync-45.tar --force
  mirror serialize reg.low/gather:sync-46 sync-46.tar reg.low/gather:sync-45
  mirror serialize reg.low/gather:sync-45 part-2.tar --existing-from-checkpoint part-1.jsonl:73400320
  mirror serialize reg.low/gather:sync-45 sync-45.tar --dry-run --output json
  mirror serialize reg.low/gather:sync-45 sync-45.tar --volume-size dvd
  mirror serialize reg.low/gather:sync-45 /dev/nst0 --verify --eject
  mirror serialize reg.low/gather:sync-45 s3://low-side/sync-45.tar --s3-endpoint https://minio.low:9000
  mirror serialize reg.low/gather:sync-45 - | ssh high mirror deserialize - reg.high/scatter:sync-45")]
pub struct Args {
    /// What to write: host/repo:tag, host/repo@digest or oci:DIR[:TAG]
    #[arg(value_name = "IMAGE", value_parser = arguments::image)]
    image: ImageName,

    /// Archive to write: a file, a tape drive such as /dev/nst0, s3://BUCKET/NAME, or - for standard
    /// output
    #[arg(value_name = "DEST", value_hint = clap::ValueHint::FilePath)]
    destination: String,

    /// What the other side has already: blobs of these images are left out. An image, a layout, or an
    /// archive file that was brought there
    #[arg(value_name = "EXISTING-IMAGE", value_parser = arguments::location)]
    existing: Vec<Location>,

    #[command(flatten)]
    writing: Writing,
}

pub async fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    args.writing.accept(&args.destination, session)?;
    let context = session.context()?;
    let next = args.writing.how_to_go_on(&args.destination);
    let verb = async {
        let options = args.writing.options(&context, &args.existing).await?;
        serialize::serialize(&context, &args.image, &args.destination, &options).await
    };
    let report = args.writing.without_plan(session.perform(next, verb).await?);
    let mut summary = args.writing.text(&report.reference, &report);
    args.writing.next(&mut summary, &report, "mirror deserialize", "IMAGE");
    session.report("mirror/serialize/v1", &report, summary.text(), Exit::Verified)?;
    Ok(Exit::Verified)
}
