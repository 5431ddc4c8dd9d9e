//! How an archive is written, whatever goes into it: the options and the report that serialize and archive
//! have in common.

use std::fs::{Metadata, metadata};
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::summary::{Summary, count, word};
use super::{Failure, Session, medium, size};
use crate::archive::Compression;
use crate::archive::checkpoint::Part;
use crate::medium::Place;
use crate::medium::tape::writer::TapeUsed;
use crate::pipeline::serialize::{Options, Report};
use crate::pipeline::{self, Context, existing};
use crate::store::Location;

/// How to write.
#[derive(Debug, clap::Args)]
pub struct Writing {
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

    /// Go on with what an interrupted run left in DEST.partial: what is right there is not fetched again
    #[arg(long)]
    resume: bool,

    /// Print the plan (each blob, its size and its offset in the archive), and write nothing
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

    /// Write down in FILE what is on the medium, a line of JSON for each blob; a file that is there is replaced. See
    /// --existing-from-checkpoint
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    checkpoint: Option<PathBuf>,

    #[command(flatten)]
    medium: medium::Target,
}

impl Writing {
    /// What to do, leaving out what is `existing` on the other side.
    pub async fn options(&self, context: &Context, existing: &[Location]) -> pipeline::Result<Options> {
        let mut earlier = self.existing_from_checkpoint.concat();
        if let (Some(file), Some(offset)) = (&self.resume_from_checkpoint, self.resume_from_offset) {
            earlier.push(Part { file: file.clone(), offset });
        }
        // What is there already is read as the archive is written: from the same store.
        let context = self.medium.reading(context.clone());
        Ok(Options {
            recursive: self.recursive,
            force: self.force,
            dry_run: self.dry_run,
            foreign_layers: self.foreign_layers,
            compression: self.compressing.method(),
            level: self.compressing.compression_level,
            manifest_json: self.manifest_json,
            checkpoint: self.checkpoint.clone(),
            resume: self.resume,
            medium: self.medium.options(self.force),
            leave_out: Arc::new(existing::digests(&context, existing).await?),
            earlier,
        })
    }

    /// How to go on after an interruption.
    pub fn how_to_go_on(&self, destination: &str) -> &'static str {
        match Place::of(destination) {
            Place::Tape(_) => "with --resume, the same command reads what is on the tape, and goes on behind it",
            Place::Object(_) => "with --resume, the same command goes on behind the parts that the store has",
            Place::File(_) if self.medium.is_volumes() => {
                "with --resume, the same command goes on behind the volumes that are there"
            }
            Place::File(_) => "with --resume, the same command goes on with what is in DEST.partial",
            _ => "run the same command again",
        }
    }

    /// Refuses what cannot be asked of the destination, and leaves standard output to the archive where that is it.
    pub fn accept(&self, destination: &str, session: &Session) -> Result<(), Failure> {
        self.medium.accept(&Place::of(destination)).map_err(|why| Failure::usage(anyhow::anyhow!(why)))?;
        if let Some(ledger) = self.checkpoint.as_deref().filter(|ledger| is_of(ledger, destination)) {
            let ledger = ledger.display();
            return Err(Failure::usage(anyhow::anyhow!(
                "--checkpoint {ledger} would be the archive itself: name another file"
            )));
        }
        if !is_stdout(destination) || self.dry_run {
            return Ok(());
        }
        if destination != "/dev/null" && is_closed_stdout() {
            return Err(Failure::usage(anyhow::anyhow!(
                "standard output is closed: nothing would take the archive; redirect it to a file or a pipe, or \
                 name /dev/null"
            )));
        }
        if std::io::stdout().is_terminal() {
            return Err(Failure::usage(anyhow::anyhow!("an archive is not for a terminal: redirect standard output")));
        }
        session.leave_stdout_to_archive();
        Ok(())
    }

    /// What was planned is for those who ask for a plan.
    pub fn without_plan(&self, report: Report) -> Report {
        Report { plan: report.plan.filter(|_| self.dry_run), ..report }
    }

    /// What was written; `what` went into it.
    pub fn text(&self, what: &str, report: &Report) -> Summary {
        let destination = if report.destination == "-" { "standard output" } else { &report.destination };
        let verb = if self.dry_run { "would write" } else { "wrote" };
        let mut summary = Summary::new(format!("{verb} {what} to {destination}"));
        summary.field("digest", report.digest);
        summary.field("archive", format!("{}, {}", size::human(report.bytes), count(report.blobs, "blob")));
        if report.bytes_resumed > 0 {
            summary.field("resumed", format!("{} were there, and are right", size::human(report.bytes_resumed)));
        }
        for tape in report.tapes.iter().flatten() {
            let TapeUsed { volume, position_before, position_after, bytes, block_size } = tape;
            let (bytes, block) = (size::human(*bytes), size::human(*block_size as u64));
            summary.field(
                "tape",
                format!("{volume}: {bytes} in blocks of {block}, position {position_before} to {position_after}"),
            );
        }
        if let Some(ran_dry) = report.ran_dry {
            summary
                .field("drive", format!("waited {} times for content, {:.1} s in all", ran_dry.times, ran_dry.seconds));
        }
        if let Some(volumes) = &report.volumes {
            summary.field("volumes", volumes.len());
        }
        if let Some(object) = &report.object {
            let (parts, size) = (count(object.parts as u64, "part"), size::human(object.part_size));
            let how = if object.read_back { "read back and compared" } else { "each compared with what the store has" };
            summary.field("object", format!("{parts} of {size}, {how}"));
        }
        if report.blobs_skipped > 0 {
            let blobs = count(report.blobs_skipped, "blob");
            summary.field("not sent", format!("{}, {blobs} that are there already", size::human(report.bytes_skipped)));
        }
        if let Some(plan) = &report.plan {
            summary.archive(plan, report.skipped.as_deref().unwrap_or_default());
        }
        summary.left_out(&report.left_out);
        summary
    }

    /// The command for the other side, with what follows the name of the archive.
    pub fn next(&self, summary: &mut Summary, report: &Report, command: &str, argument: &str) {
        let file = &report.destination;
        if self.dry_run || matches!(Place::of(file), Place::Standard | Place::Ordered(_)) {
            return;
        }
        match report.volumes.as_ref().map(Vec::len) {
            Some(count) => {
                let parts = if count > 1 { format!("{file}.001 to {file}.{count:03}") } else { format!("{file}.001") };
                let all = format!("carry {parts} and {file}.volumes.json over");
                let first = format!("{file}.001");
                summary.next(format!("{all}, then: {command} {} {argument}", word(&first)));
            }
            None => summary.next(format!("carry {file} over, then: {command} {} {argument}", word(file))),
        }
    }
}

/// Whether the archive goes to standard output, under whatever name (`/dev/stdout`).
fn is_stdout(destination: &str) -> bool {
    let same = |a: &Metadata, b: &Metadata| !a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino());
    destination == "-" || matches!((metadata(destination), metadata("/dev/stdout")), (Ok(a), Ok(b)) if same(&a, &b))
}

/// Whether the program was started without a standard output. Rust's runtime opens /dev/null there, to read and to
/// write; a shell's `>/dev/null` opens it to write.
fn is_closed_stdout() -> bool {
    let is_null = matches!((metadata("/dev/stdout"), metadata("/dev/null")), (Ok(out), Ok(null)) if out.rdev() == null.rdev() && !out.is_file());
    let flags = fcntl(std::io::stdout(), FcntlArg::F_GETFL).map(OFlag::from_bits_truncate);
    is_null && flags.is_ok_and(|flags| flags & OFlag::O_ACCMODE == OFlag::O_RDWR)
}

/// Whether a file is the archive, or what there is of it while it is being written.
fn is_of(ledger: &Path, destination: &str) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let names = [destination.to_owned(), format!("{destination}.partial")];
    names.iter().any(|name| absolute(Path::new(name)) == absolute(ledger))
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

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Compressing {
    /// Compress the whole archive; container layers are compressed already
    #[arg(long, value_name = "METHOD", value_enum)]
    compression: Option<Method>,

    /// How hard to compress: 1 to 22 for zstd [default: 3], 1 to 9 for gzip [default: 6]
    #[arg(long, value_name = "LEVEL", requires = "compression", value_parser = clap::value_parser!(i32).range(1..=22))]
    pub compression_level: Option<i32>,
}

impl Compressing {
    pub fn method(&self) -> Option<Compression> {
        self.compression.map(Into::into)
    }
}

/// `--compression`.
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
