//! `mirror serialize IMAGE DEST`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use super::arguments;
use super::summary::{Summary, count};
use super::{Exit, Failure, Session, size};
use crate::archive::Compression;
use crate::archive::checkpoint::Part;
use crate::image::ImageName;
use crate::pipeline::existing;
use crate::pipeline::serialize::{self, Options, Report};
use crate::store::Location;

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
  mirror serialize reg.low/gather:sync-46 sync-46.tar reg.low/gather:sync-45
  mirror serialize reg.low/gather:sync-45 part-2.tar --existing-from-checkpoint part-1.jsonl:73400320
  mirror serialize reg.low/gather:sync-45 sync-45.tar --dry-run --output json
  mirror serialize reg.low/gather:sync-45 - | ssh high mirror deserialize - reg.high/scatter:sync-45")]
pub struct Args {
    /// What to write: host/repo:tag, host/repo@digest or oci:DIR[:TAG]
    #[arg(value_name = "IMAGE", value_parser = arguments::image)]
    image: ImageName,

    /// Archive to write: a file, or - for standard output
    #[arg(value_name = "DEST", value_hint = clap::ValueHint::FilePath)]
    destination: String,

    /// What the other side has already: blobs of these images are left out. An image, a layout, or an
    /// archive file that was brought there
    #[arg(value_name = "EXISTING-IMAGE", value_parser = arguments::location)]
    existing: Vec<Location>,

    /// Go on after an earlier part of this archive: leave out what its checkpoint FILE lists as ended before
    /// OFFSET, the bytes of that part that surely reached the medium. May be repeated
    #[arg(long, value_name = "FILE:OFFSET", value_parser = parts)]
    existing_from_checkpoint: Vec<Parts>,

    /// The same as --existing-from-checkpoint, with the offset on its own
    #[arg(long, value_name = "FILE", requires = "resume_from_offset", value_hint = clap::ValueHint::FilePath)]
    resume_from_checkpoint: Option<PathBuf>,

    /// See --resume-from-checkpoint
    #[arg(long, value_name = "BYTES", requires = "resume_from_checkpoint", value_parser = size::parse)]
    resume_from_offset: Option<u64>,

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

/// Several `FILE:OFFSET` with commas between them.
type Parts = Vec<Part>;

/// A path may have colons and commas in it: a piece that does not end in an offset goes on after its comma.
fn parts(text: &str) -> Result<Parts, String> {
    let mut parts = Parts::new();
    let mut path = String::new();
    for piece in text.split(',') {
        path.push_str(piece);
        match path.rsplit_once(':').map(|(file, offset)| (file, offset.parse())) {
            Some((file, Ok(offset))) if !file.is_empty() => {
                parts.push(Part { file: file.into(), offset });
                path.clear();
            }
            _ => path.push(','),
        }
    }
    if path.is_empty() { Ok(parts) } else { Err("write FILE:OFFSET, with the offset in bytes".into()) }
}

/// `--compression`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
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
    let mut earlier = args.existing_from_checkpoint.concat();
    if let (Some(file), Some(offset)) = (&args.resume_from_checkpoint, args.resume_from_offset) {
        earlier.push(Part { file: file.clone(), offset });
    }
    let mut options = Options {
        recursive: args.recursive,
        force: args.force,
        dry_run: args.dry_run,
        foreign_layers: args.foreign_layers,
        compression: args.compression.map(Into::into),
        leave_out: Arc::default(),
        earlier,
    };
    if to_stdout {
        session.leave_stdout_to_archive();
    }
    let context = session.context()?;
    let next = "run the same command again; no unfinished archive was left behind";
    let verb = async {
        options.leave_out = Arc::new(existing::digests(&context, &args.existing).await?);
        serialize::serialize(&context, &args.image, &args.destination, &options).await
    };
    let mut report = session.perform(next, verb).await?;
    // What was planned is for those who ask for a plan.
    report.plan = report.plan.filter(|_| args.dry_run);
    session.report("mirror/serialize/v1", &report, text(args, &report).text(), Exit::Verified)?;
    Ok(Exit::Verified)
}

fn text(args: &Args, report: &Report) -> Summary {
    let destination = if args.destination == "-" { "standard output" } else { &report.destination };
    let verb = if args.dry_run { "would write" } else { "wrote" };
    let mut summary = Summary::new(format!("{verb} {} to {destination}", report.reference));
    summary.field("digest", report.digest);
    summary.field("archive", format!("{}, {}", size::human(report.bytes), count(report.blobs, "blob")));
    if report.blobs_skipped > 0 {
        let blobs = count(report.blobs_skipped, "blob");
        summary.field("not sent", format!("{}, {blobs} that are there already", size::human(report.bytes_skipped)));
    }
    if let Some(plan) = &report.plan {
        summary.line(format!("{:>15} {:>15}  {}", "offset", "size", "digest"));
        for entry in plan {
            summary.line(format!("{:>15} {:>15}  {}", entry.offset, entry.size, entry.digest));
        }
        for entry in report.skipped.iter().flatten() {
            summary.line(format!("{:>15} {:>15}  {}  {}", "-", entry.size, entry.digest, entry.why));
        }
    }
    summary.left_out(&report.left_out);
    if !args.dry_run && args.destination != "-" {
        summary.next(format!("carry {destination} over, then: mirror deserialize {destination} IMAGE"));
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_ledgers_may_have_colons_and_commas() {
        let part = |file: &str, offset| Part { file: file.into(), offset };
        assert_eq!(parts("a:1").unwrap(), [part("a", 1)]);
        assert_eq!(parts("C:a:1,b,c:22").unwrap(), [part("C:a", 1), part("b,c", 22)]);
        for bad in ["", "a", "a:", ":1", "a:1,b", "a:-1", "a:1,"] {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }
}
