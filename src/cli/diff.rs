//! `mirror diff IMAGE [EXISTING…]`.

use std::fmt::Write as _;
use std::str::FromStr;

use serde::Serialize;

use super::arguments;
use super::medium::Origin;
use super::session::Format;
use super::summary::{Summary, count, printable};
use super::{Exit, Failure, Session, size};
use crate::image::Digest;
use crate::pipeline::diff::{self, Options, Report};
use crate::store::Location;

/// List what an image holds that others do not
///
/// Lists the images of IMAGE (a gather, a layout, an archive) of which one of the EXISTING places lacks
/// something, and how much would travel to complete them there. An image counts as held only where every
/// manifest, config and layer of it is. Without EXISTING, all images are listed.
///
/// What is held is what serialize IMAGE DEST EXISTING leaves out. An image of a registry among EXISTING stands
/// for itself alone: whatever refers to it (-r) may be newer than what was sent, and travels. To ask the other
/// side whether all is there, use mirror verify IMAGE --against.
///
/// -o writes the bare list, reference and digest, in the forms that ace-dt has; --output json has all that
/// is known.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror diff reg.low/gather:sync-45 reg.low/gather:sync-44
  mirror diff reg.low/gather:sync-45 sync-44.tar sync-43.tar.zst -o csv=new.csv
  mirror diff sync-45.tar reg.high/scatter:sync-44
  mirror diff oci:low:sync-45 oci:high -o json")]
pub struct Args {
    /// What to compare: host/repo:tag, oci:DIR[:TAG], an archive, s3://BUCKET/NAME, or - for an archive from standard
    /// input
    #[arg(value_name = "IMAGE", value_parser = arguments::location, value_hint = clap::ValueHint::FilePath)]
    image: Location,

    /// Where something is held already: the same forms
    #[arg(value_name = "EXISTING", value_parser = arguments::location, value_hint = clap::ValueHint::FilePath)]
    existing: Vec<Location>,

    /// Write the list of references and digests: table, csv or json, to standard output or as csv=FILE;
    /// several by commas
    #[arg(short = 'o', long = "list", value_name = "FORM[=FILE]", value_delimiter = ',')]
    lists: Vec<List>,

    /// Take a gather within the gather apart into its images
    #[arg(long)]
    expand: bool,

    /// In a registry, count what refers to the images as well: signatures, SBOMs, attestations
    #[arg(short, long)]
    recursive: bool,

    #[command(flatten)]
    reading: Origin,
}

/// One `-o`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct List {
    form: Form,
    file: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Table,
    Csv,
    Json,
}

impl FromStr for List {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (form, file) = text.split_once('=').map_or((text, None), |(form, file)| (form, Some(file)));
        let form = match form {
            "table" => Form::Table,
            "csv" => Form::Csv,
            "json" => Form::Json,
            _ => return Err("write table, csv or json, with =FILE for a file".into()),
        };
        match file {
            Some("") => Err("there is no file after =".into()),
            Some("-") | None => Ok(List { form, file: None }),
            Some(file) => Ok(List { form, file: Some(file.into()) }),
        }
    }
}

pub async fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let printed = args.lists.iter().filter(|list| list.file.is_none()).count();
    if printed > 1 || (printed > 0 && session.global.output == Format::Json) {
        let advice = "standard output takes one result: give the list a file, as in -o csv=FILE";
        return Err(Failure::usage(anyhow::anyhow!(advice)));
    }
    let options = Options { expand: args.expand, recursive: args.recursive };
    let context = args.reading.apply(session.context()?);
    let next = "nothing was changed; run the same command again";
    let report = session.perform(next, diff::diff(&context, &args.image, &args.existing, &options)).await?;
    for list in &args.lists {
        let text = list.form.of(&report)?;
        match &list.file {
            Some(file) => std::fs::write(file, text).map_err(|e| anyhow::Error::new(e).context(file.clone()))?,
            None => session.raw(text.as_bytes())?,
        }
    }
    let summary = text(args, &report, printed > 0);
    if printed > 0 {
        session.note(summary.text().trim_end());
    } else {
        session.report("mirror/diff/v1", &report, summary.text(), Exit::Verified)?;
    }
    Ok(Exit::Verified)
}

#[derive(Serialize)]
struct Row<'a> {
    digest: Digest,
    reference: &'a str,
}

impl Form {
    fn of(self, report: &Report) -> serde_json::Result<String> {
        let rows = || report.images.iter().map(|i| (i.reference.as_str(), i.digest));
        match self {
            Form::Json => {
                let rows: Vec<Row> = rows().map(|(reference, digest)| Row { digest, reference }).collect();
                Ok(serde_json::to_string(&rows)? + "\n")
            }
            Form::Csv => {
                let mut text = "reference,digest\n".to_owned();
                for (reference, digest) in rows() {
                    let _ = writeln!(text, "{},{digest}", quoted(reference));
                }
                Ok(text)
            }
            Form::Table => {
                let rows: Vec<(String, String)> = rows().map(|(r, d)| (printable(r), d.to_string())).collect();
                let width = |of: fn(&(String, String)) -> usize, least| rows.iter().map(of).fold(least, usize::max);
                let (left, right) = (width(|r| r.0.chars().count(), 9), width(|r| r.1.len(), 6));
                let line = format!("{} |{}\n", "-".repeat(left), "-".repeat(right));
                let mut text = format!("{line}{:<left$} |digest\n", "reference");
                for (reference, digest) in &rows {
                    let _ = writeln!(text, "{line}{reference:<left$} |{digest}");
                }
                text.push('\n');
                Ok(text)
            }
        }
    }
}

/// A field of a CSV. References have none of this, names in a layout may.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.into() }
}

fn text(args: &Args, report: &Report, brief: bool) -> Summary {
    let images = count(report.images.len() as u64, "image");
    let others = report.existing.join(", ");
    let mut summary = Summary::new(match (report.images.is_empty(), args.existing.is_empty()) {
        (_, true) => format!("{} holds {images}", report.source),
        (true, false) => format!("{} holds no image that is not in {others}", report.source),
        (false, false) => format!("{} holds {images} not in {others}", report.source),
    });
    if report.held > 0 {
        summary.field("held", format!("{} there already", count(report.held, "image")));
    }
    let blobs = format!("{}, {}", count(report.blobs, "blob"), size::human(report.blob_bytes));
    let manifests =
        format!("{}, {}", count(report.manifests_carried, "manifest"), size::human(report.manifest_bytes_carried));
    // An archive carries all manifests.
    let new = if report.manifests == report.manifests_carried {
        String::new()
    } else {
        format!(" ({} of them new)", report.manifests)
    };
    summary.field("travels", format!("{blobs}; {manifests}{new}"));
    if !report.nowhere.is_empty() {
        let left_out = count(report.nowhere.len() as u64, "blob");
        summary
            .field("nowhere", format!("{left_out} that {} left out, and that nothing named here holds", report.source));
    }
    if brief {
        return summary;
    }
    // What this command is for: this list is not cut.
    for image in &report.images {
        summary.line(format!(
            "{:>10} of {:>10}  {}  {}",
            size::human(image.lacking),
            size::human(image.size),
            image.digest,
            image.reference
        ));
    }
    if let (Location::Image(image), false, false) = (&args.image, report.images.is_empty(), others.is_empty()) {
        summary.next(format!("mirror serialize {image} DEST {}", report.existing.join(" ")));
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_a_form_and_perhaps_a_file() {
        let list = |form, file: Option<&str>| Ok(List { form, file: file.map(str::to_owned) });
        assert_eq!("csv".parse::<List>(), list(Form::Csv, None));
        assert_eq!("table=a=b".parse::<List>(), list(Form::Table, Some("a=b")));
        assert_eq!("json=-".parse::<List>(), list(Form::Json, None));
        assert!("xml".parse::<List>().is_err());
        assert!("csv=".parse::<List>().is_err());
    }

    #[test]
    fn a_field_with_a_comma_is_quoted() {
        assert_eq!(quoted("reg.low/a:1"), "reg.low/a:1");
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
