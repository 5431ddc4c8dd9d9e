//! `mirror verify SOURCE`.

use std::fmt::Write as _;

use super::arguments;
use super::medium::Origin;
use super::summary::{Summary, count, printable, word};
use super::{Exit, Failure, Session, size};
use crate::image::ImageName;
use crate::pipeline::verify::{self, Finding, Kind, Options, Report};
use crate::store::Location;

/// Images that a finding names.
const NAMED: usize = 3;
/// Findings that are printed; --output json has all of them.
const SHOWN: usize = 50;

/// Read an archive, a layout or an image from end to end, and check every digest
///
/// Computes the digest of everything in SOURCE and sees that nothing is missing that it names. Ends with 0
/// only if all of it is there and right; else with 1, each damaged or missing digest, the images that it
/// spoils, and those that are whole. What an archive leaves out because the other side has it is counted as
/// expected; --against asks the other side for it, and for everything else.
///
/// A volume of an archive (sync-45.tar.003) is compared with the listing alone, and the others need not be there; the
/// listing, or a pattern in quotes, stands for the whole archive.
///
/// A file that is neither compressed nor a pipe is read by all processors at once. An image of a registry is read as by
/// any command, from its mirrors too, where the configuration names some; --against asks the registry itself.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror verify sync-45.tar
  mirror verify - < /dev/nst0
  mirror verify sync-45.tar.003
  mirror verify sync-45.tar.volumes.json
  mirror verify sync-45.tar.zst --against reg.high/scatter:sync-45
  mirror verify oci:high
  mirror verify reg.high/scatter:sync-45 --output json")]
pub struct Args {
    /// What to read: an archive, s3://BUCKET/NAME, - for standard input, oci:DIR[:TAG], host/repo:tag
    #[arg(value_name = "SOURCE", value_parser = arguments::location, value_hint = clap::ValueHint::FilePath)]
    source: Location,

    /// Where all of it must have arrived: host/repo:tag or oci:DIR:TAG
    #[arg(long, value_name = "IMAGE", value_parser = arguments::image)]
    against: Option<ImageName>,

    /// In a registry: what refers to the images as well (an archive or a layout is always read whole)
    #[arg(short, long)]
    recursive: bool,

    #[command(flatten)]
    reading: Origin,
}

pub async fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let context = args.reading.apply(session.context()?);
    let options = Options { against: args.against.clone(), recursive: args.recursive };
    let next = "nothing was changed; run the same command again";
    let report = session.perform(next, verify::verify(&context, &args.source, &options)).await?;
    let exit = if report.whole { Exit::Verified } else { Exit::Failed };
    session.report("mirror/verify/v1", &report, text(args, &report).text(), exit)?;
    session.failures(&failures(args, &report));
    Ok(exit)
}

fn text(args: &Args, report: &Report) -> Summary {
    if let Some(volume) = &report.volume {
        let is = if report.whole { "is right" } else { "is not right" };
        let mut summary = Summary::new(format!("{} {is}", report.source));
        summary.field("volume", format!("{} of {} of {}", volume.sequence, volume.of, printable(&volume.reference)));
        summary.field("right", size::human(report.bytes));
        return summary;
    }
    let whole = report.images.iter().filter(|image| image.whole).count() as u64;
    let images = count(report.images.len() as u64, "image");
    let mut summary = Summary::new(if report.whole {
        format!("{} is whole: every digest is right", report.source)
    } else {
        let findings = count(report.findings.len() as u64, "finding");
        match &report.against {
            Some(arrived) if report.findings.iter().all(|f| f.kind == Kind::NotArrived) => {
                format!("{} is right, but has not arrived whole in {}: {findings}", report.source, arrived.reference)
            }
            _ => format!("{} is not whole: {findings}", report.source),
        }
    });
    let all = if report.whole { String::new() } else { format!("{whole} whole of ") };
    summary.field("images", format!("{all}{images}"));
    let blobs = format!("{}, {}", count(report.manifests, "manifest"), count(report.blobs, "blob"));
    summary.field("right", format!("{blobs}, {}", size::human(report.bytes)));
    if let Some(arrived) = &report.against {
        let absent = if arrived.absent > 0 { format!(", {} missing there", arrived.absent) } else { String::new() };
        summary.field("arrived", format!("{} in {}{absent}", count(arrived.present, "digest"), arrived.reference));
    }
    if !report.expected.is_empty() {
        let blobs = count(report.expected.len() as u64, "blob");
        summary.field("expected", format!("{blobs} that it leaves out, and that the other side has to have"));
    }
    if !report.whole {
        let name = |wanted: bool| {
            let images = report.images.iter().filter(move |image| image.whole == wanted);
            images.map(|image| format!("{}  {}", image.digest, image.reference)).collect::<Vec<_>>()
        };
        summary.list("whole", name(true).into_iter());
        summary.list("not whole", name(false).into_iter());
    }
    summary.left_out(&report.left_out);
    if report.whole
        && let (Location::Archive(file), None, false) = (&args.source, &args.against, report.source.contains(' '))
    {
        summary.next(format!("mirror deserialize {} IMAGE", word(file)));
    }
    summary
}

/// Each finding as a line, and what to do about them.
fn failures(args: &Args, report: &Report) -> String {
    let mut text = String::new();
    for finding in report.findings.iter().take(SHOWN) {
        let offset = match (finding.kind, finding.offset) {
            (Kind::Cut, _) | (_, None) => String::new(),
            (_, Some(offset)) => format!(", at byte {offset}"),
        };
        let line = format!("{}: {}{offset}{}", report.source, finding.what, spoiled(finding));
        let _ = writeln!(text, "error: {}", printable(&line));
    }
    if report.findings.len() > SHOWN {
        let _ = writeln!(text, "error: … and {} more (--output json lists them all)", report.findings.len() - SHOWN);
    }
    if let Some(advice) = advice(args, report) {
        let _ = writeln!(text, "hint: {advice}");
    }
    text
}

/// ` (of reg.low/a:1, reg.low/b:1 and 3 more)`
fn spoiled(finding: &Finding) -> String {
    let images = &finding.images;
    match images.as_slice() {
        [] => String::new(),
        [..] if images.len() <= NAMED => format!(" (of {})", images.join(", ")),
        _ => format!(" (of {} and {} more)", images[..NAMED].join(", "), images.len() - NAMED),
    }
}

fn advice(args: &Args, report: &Report) -> Option<String> {
    let kinds = |wanted: &[Kind]| report.findings.iter().any(|f| wanted.contains(&f.kind));
    let damaged = kinds(&[Kind::Damaged, Kind::Cut]);
    let missing = kinds(&[Kind::Missing]);
    Some(match &args.source {
        _ if report.whole => return None,
        Location::Archive(_) if report.volume.is_some() => {
            "copy this volume again from where it was written, and verify it there first".into()
        }
        Location::Archive(_) if damaged => {
            "copy the archive again from where it was written, and verify it there first; of a damaged archive, \
             deserialize brings what is whole and tags nothing"
                .into()
        }
        Location::Archive(_) if missing && args.against.is_none() => {
            "if an earlier archive carried what is missing, ask the side that has it: --against IMAGE".into()
        }
        Location::Archive(_) if missing => {
            "bring the archive that carries what is missing, or write a whole one".into()
        }
        _ if kinds(&[Kind::NotArrived]) => "bring it there (again), then run the same command".into(),
        Location::Image(ImageName::Layout { directory, .. }) if damaged || missing => format!(
            "remove the damaged files from {}/blobs, then gather or deserialize into it again",
            directory.display()
        ),
        Location::Image(_) if damaged || missing => {
            "the registry holds wrong or incomplete content: delete those images there, then push them again".into()
        }
        _ => "run the same command again; if it ends the same way, look at the medium".into(),
    })
}
