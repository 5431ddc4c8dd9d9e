//! `mirror inspect SOURCE`.

use std::fmt::Write as _;

use super::arguments;
use super::medium::Origin;
use super::summary::{Summary, count, printable, word};
use super::{Exit, Failure, Session, size};
use crate::pipeline::inspect::{self, Form, Listed, Node, Object, Options, Report, Role};
use crate::store::Location;

/// List what an archive, a layout or an image holds, without unpacking it
///
/// Each image by the reference that it came from: digest, platforms, labels, what refers to it, its size, and how
/// much of that other images share. Of a differential archive, what it expects on the other side; of any archive,
/// what is in it and belongs to no image. Ends with 1 if a manifest cannot be read or the archive was cut.
///
/// Only manifests are read and verified: of a regular, uncompressed archive a few megabytes, however large it is.
/// A compressed archive, a pipe or a tape is read once to its end. mirror verify reads and checks everything.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror inspect sync-45.tar
  mirror inspect sync-45.tar --tree
  mirror inspect reg.low/gather:sync-45
  mirror inspect oci:low --output json | jq -r '.images[].digest'
  mirror inspect /dev/nst0")]
pub struct Args {
    /// What to look at: an archive, one of its volumes, a tape drive, s3://BUCKET/NAME, - for standard input,
    /// oci:DIR[:TAG], host/repo:tag
    #[arg(value_name = "SOURCE", value_parser = arguments::location, value_hint = clap::ValueHint::FilePath)]
    source: Location,

    /// Show how everything hangs together: indexes, manifests, configs, layers, referrers
    #[arg(long)]
    tree: bool,

    #[command(flatten)]
    reading: Origin,
}

pub async fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let context = args.reading.apply(session.context()?);
    let next = "nothing was changed; run the same command again";
    let options = Options { tree: args.tree };
    let report = session.perform(next, inspect::inspect(&context, &args.source, &options)).await?;
    let exit = if report.complete { Exit::Verified } else { Exit::Failed };
    session.report("mirror/inspect/v1", &report, text(args, &report).text(), exit)?;
    let mut lines = String::new();
    for trouble in &report.problems {
        let _ = writeln!(lines, "error: {}", printable(&format!("{}: {}", report.source, trouble.what)));
    }
    if !report.complete {
        let _ = writeln!(lines, "hint: mirror verify tells which images are whole");
    }
    session.failures(&lines);
    Ok(exit)
}

fn text(args: &Args, report: &Report) -> Summary {
    let images = count(report.images.len() as u64, "image");
    let mut summary = Summary::new(format!("{} holds {images}", report.source));
    if let [root] = report.roots.as_slice() {
        let name = root.name.as_ref().map(|name| format!("  {name}")).unwrap_or_default();
        summary.field("root", format!("{}{name}", root.digest));
    }
    let manifests = format!("{}, {}", count(report.manifests, "manifest"), size::human(report.manifest_bytes));
    let blobs = format!("{}, {}", count(report.blobs, "blob"), size::human(report.blob_bytes));
    summary.field("there", format!("{blobs}; {manifests}"));
    if report.images.len() > 1 {
        let once = size::human(report.size_deduplicated);
        let (total, shared) = (size::human(report.size_total), size::human(report.shared));
        summary.field("images", format!("{once} with each digest once ({total} without that); {shared} are shared"));
    }
    let sum = |objects: &[Object]| {
        let bytes = objects.iter().map(|object| object.size).fold(0, u64::saturating_add);
        format!("{}, {}", count(objects.len() as u64, "blob"), size::human(bytes))
    };
    if !report.expected.is_empty() {
        summary.field("expected", format!("{}, that the other side has to have", sum(&report.expected)));
    }
    if !report.missing.is_empty() {
        let advice = if report.form == Form::Archive { ": perhaps the other side has them" } else { "" };
        summary.field("missing", format!("{}, named and not in it{advice}", sum(&report.missing)));
    }
    if !report.unnamed.is_empty() {
        summary.field("unnamed", format!("{}, in it and of no image", sum(&report.unnamed)));
    }
    match &report.tree {
        Some(roots) => roots.iter().for_each(|root| draw(&mut summary, root, "", "", "")),
        // What this command is for: this list is not cut.
        None => report.images.iter().for_each(|image| line(&mut summary, image)),
    }
    summary.list("expected on the other side", report.expected.iter().map(name));
    summary.list("missing", report.missing.iter().map(name));
    summary.list("of no image", report.unnamed.iter().map(name));
    if let (Location::Archive(file), true, false) = (&args.source, report.complete, report.source.contains(' ')) {
        summary.next(format!("mirror verify {}", word(file)));
    }
    summary
}

fn name(object: &Object) -> String {
    format!("{:>10}  {}  {}", size::human(object.size), object.digest, object.media_type).trim_end().to_owned()
}

/// An image in one line, and what there is to say of it in a second.
fn line(summary: &mut Summary, image: &Listed) {
    summary.line(format!("{:>10}  {}  {}", size::human(image.size), image.digest, image.reference));
    let mut told = Vec::new();
    if !image.platforms.is_empty() {
        told.push(image.platforms.join(", "));
    }
    if image.shared > 0 {
        told.push(format!("{} shared", size::human(image.shared)));
    }
    if image.absent > 0 {
        told.push(format!("{} not in it", size::human(image.absent)));
    }
    if !image.labels.is_empty() {
        told.push(image.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", "));
    }
    if !image.referrers.is_empty() {
        told.push(count(image.referrers.len() as u64, "referrer"));
    }
    if !told.is_empty() {
        summary.line(format!("{:>10}  {}", "", told.join("; ")));
    }
}

/// One node and what hangs below it. `lead` stands before its own line, `rest` before those below.
fn draw(summary: &mut Summary, node: &Node, before: &str, lead: &str, rest: &str) {
    let role = match node.role {
        Role::Index => "index",
        Role::Manifest => "manifest",
        Role::Config => "config",
        Role::Layer => "layer",
        Role::Referrer => "referrer",
        Role::Other => "other",
    };
    let mut text = format!("{before}{lead}{role} {} {}", node.digest, size::human(node.size));
    let platform = node.platform.as_deref();
    let kind = (node.role == Role::Referrer).then_some(node.artifact_type.as_deref()).flatten();
    for part in platform.into_iter().chain(kind).chain(node.name.as_deref()) {
        let _ = write!(text, "  {part}");
    }
    if node.absent {
        text.push_str("  (not in it)");
    }
    if node.repeated {
        text.push_str("  (see above)");
    }
    summary.line(text);
    let below = format!("{before}{rest}");
    for (at, child) in node.children.iter().enumerate() {
        let last = at + 1 == node.children.len();
        let (lead, rest) = if last { ("└── ", "    ") } else { ("├── ", "│   ") };
        draw(summary, child, &below, lead, rest);
    }
}
