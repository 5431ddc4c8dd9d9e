//! `mirror serialize IMAGE DEST`.

use std::io::IsTerminal;

use super::arguments;
use super::summary::{Summary, count};
use super::{Exit, Failure, Session, size};
use crate::archive::Compression;
use crate::image::ImageName;
use crate::pipeline::serialize::{self, Options, Report};

/// Write an image, or all that was gathered, into one archive
///
/// Writes a tar of an OCI image layout to the file DEST, or to standard output. The same image gives the
/// same bytes on any machine. A file appears under its name only when all of it is there and verified; an
/// interrupted run leaves nothing behind. Nothing else is written to the disk.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror serialize reg.low/gather:sync-45 sync-45.tar
  mirror serialize oci:low:sync-45 /mnt/usb/sync-45.tar --force
  mirror serialize reg.low/gather:sync-45 sync-45.tar --dry-run --output json
  mirror serialize reg.low/gather:sync-45 - | ssh high mirror deserialize - reg.high/scatter:sync-45")]
pub struct Args {
    /// What to write: host/repo:tag, host/repo@digest or oci:DIR[:TAG]
    #[arg(value_name = "IMAGE", value_parser = arguments::image)]
    image: ImageName,

    /// Archive to write: a file, or - for standard output
    #[arg(value_name = "DEST", value_hint = clap::ValueHint::FilePath)]
    destination: String,

    /// Take what refers to the images as well: signatures, SBOMs, attestations, and what refers to those
    #[arg(short, long)]
    recursive: bool,

    /// Replace DEST if it exists
    #[arg(long)]
    force: bool,

    /// Print the plan (each blob, its size and its offset in the archive), and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Carry non-distributable layers too, from the registry or from their own addresses
    #[arg(long)]
    foreign_layers: bool,

    /// Compress the whole archive; container layers are compressed already
    #[arg(long, value_name = "METHOD", value_enum)]
    compression: Option<Method>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Method {
    Zstd,
    Gzip,
}

impl From<Method> for Compression {
    fn from(method: Method) -> Self {
        match method {
            Method::Zstd => Compression::Zstd,
            Method::Gzip => Compression::Gzip,
        }
    }
}

pub async fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let to_stdout = args.destination == "-" && !args.dry_run;
    if to_stdout && std::io::stdout().is_terminal() {
        return Err(Failure::usage(anyhow::anyhow!("an archive is not for a terminal: redirect standard output")));
    }
    let options = Options {
        recursive: args.recursive,
        force: args.force,
        dry_run: args.dry_run,
        foreign_layers: args.foreign_layers,
        compression: args.compression.map(Into::into),
    };
    if to_stdout {
        session.leave_stdout_to_archive();
    }
    let context = session.context()?;
    let next = "run the same command again; no unfinished archive was left behind";
    let verb = serialize::serialize(&context, &args.image, &args.destination, &options);
    let report = session.perform(next, verb).await?;
    session.report("mirror/serialize/v1", &report, text(args, &report).text(), Exit::Verified)?;
    Ok(Exit::Verified)
}

fn text(args: &Args, report: &Report) -> Summary {
    let destination = if args.destination == "-" { "standard output" } else { &report.destination };
    let verb = if args.dry_run { "would write" } else { "wrote" };
    let mut summary = Summary::new(format!("{verb} {} to {destination}", report.reference));
    summary.field("digest", report.digest);
    summary.field("archive", format!("{}, {}", size::human(report.bytes), count(report.blobs, "blob")));
    if let Some(plan) = &report.plan {
        summary.line(format!("{:>15} {:>15}  {}", "offset", "size", "digest"));
        for entry in plan {
            summary.line(format!("{:>15} {:>15}  {}", entry.offset, entry.size, entry.digest));
        }
    }
    summary.left_out(&report.left_out);
    if !args.dry_run && args.destination != "-" {
        summary.next(format!("carry {destination} over, then: mirror deserialize {destination} IMAGE"));
    }
    summary
}
