//! `mirror tape`: what an operator does with a drive by hand.

use std::path::PathBuf;

use serde::Serialize;

use super::summary::Summary;
use super::{Exit, Failure, Session, size};
use crate::medium::tape::command::Status;
use crate::medium::tape::drive::{Access, Drive, is_tape, rewinds_on_close};
use crate::pipeline;
use crate::pipeline::tape::{self, Content, TapeFile};

/// Look at a tape, and move it
///
/// DEVICE is a drive that does not rewind by itself, such as /dev/nst0. An archive is one file of the tape:
/// blocks, and a filemark behind them. A position counts blocks and filemarks from the beginning of the tape.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  mirror tape status /dev/nst0
  mirror tape list /dev/nst0
  mirror tape seek /dev/nst0 4711
  mirror tape rewind /dev/nst0
  mirror tape eject /dev/nst0
  mirror tape erase /dev/nst0 --force")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say whether a cartridge is in, and where the tape stands
    Status(Device),
    /// Read the whole tape, and name what is on it
    List(Device),
    /// Go to a position that `list` or `serialize` named
    Seek(Seek),
    /// Go to the beginning
    Rewind(Device),
    /// Go to the end of what was written, to add to it
    End(Device),
    /// Rewind, and put the cartridge out
    Eject(Device),
    /// Make everything from where the tape stands unreadable
    Erase(Erase),
}

#[derive(Debug, clap::Args)]
struct Device {
    /// Tape drive, such as /dev/nst0
    #[arg(value_name = "DEVICE", value_hint = clap::ValueHint::FilePath)]
    device: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Seek {
    #[command(flatten)]
    device: Device,

    /// Blocks and filemarks from the beginning of the tape
    #[arg(value_name = "POSITION")]
    position: u64,
}

#[derive(Debug, clap::Args)]
struct Erase {
    #[command(flatten)]
    device: Device,

    /// Yes, destroy what is on the tape
    #[arg(long, required = true)]
    force: bool,
}

/// Where the tape stands.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    device: String,
    position: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    status: Option<Told>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<Vec<TapeFile>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    file: Option<u32>,
    block_size: u32,
    density: u8,
    write_protected: bool,
    wants_cleaning: bool,
    /// A WORM; absent where the drive does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    write_once: Option<bool>,
    /// Bytes of the largest block, as the drive says.
    #[serde(skip_serializing_if = "Option::is_none")]
    largest_block: Option<u32>,
    at_beginning: bool,
    at_end_of_data: bool,
}

impl Told {
    fn new(status: Status, write_once: Option<bool>, largest_block: Option<u32>) -> Self {
        Told {
            write_once,
            largest_block,
            file: status.file,
            block_size: status.block_size,
            density: status.density,
            write_protected: status.write_protected,
            wants_cleaning: status.wants_cleaning,
            at_beginning: status.at_beginning,
            at_end_of_data: status.at_end_of_data,
        }
    }
}

pub async fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    let device = match &args.command {
        Command::Seek(seek) => &seek.device,
        Command::Erase(erase) => &erase.device,
        Command::Status(d) | Command::List(d) | Command::Rewind(d) | Command::End(d) | Command::Eject(d) => d,
    };
    let path = device.device.clone();
    if !is_tape(&path) {
        let exists = path.exists();
        let path = path.display();
        if !exists {
            let why = "the drive is switched off or not connected, or its driver is not loaded (modprobe st)";
            return Err(Failure::usage(anyhow::anyhow!("there is no {path}: {why}; see ls /dev/nst*")));
        }
        return Err(Failure::usage(anyhow::anyhow!("{path} is no tape drive: name one, such as /dev/nst0")));
    }
    let name = path.display().to_string();
    if rewinds_on_close(&path) && !matches!(args.command, Command::Status(_) | Command::List(_)) {
        session.note(&format!(
            "warning: {name} rewinds by itself whenever it is closed; its sister that does not is meant?"
        ));
    }
    let (headline, report) = match &args.command {
        Command::List(_) => {
            let files = work(move || tape::list(&path)).await??;
            (
                format!("{name}: {}", super::summary::count(files.len() as u64, "tape file")),
                Report { device: name, position: None, status: None, files: Some(files) },
            )
        }
        Command::Eject(_) => {
            let ejected = work(move || Drive::open(&path, Access::Read)?.eject()).await?;
            ejected.map_err(|source| pipeline::Error::Io { path: name.clone(), source })?;
            (
                format!("{name}: the cartridge is out"),
                Report { device: name, position: None, status: None, files: None },
            )
        }
        command => {
            let step: Step = match command {
                Command::Seek(Seek { position, .. }) => {
                    let position = *position;
                    Box::new(move |drive| drive.seek(position))
                }
                Command::Rewind(_) => Box::new(Drive::rewind),
                Command::End(_) => Box::new(Drive::end_of_data),
                Command::Erase(_) => Box::new(Drive::erase),
                _ => Box::new(|_| Ok(())),
            };
            let access = if matches!(command, Command::Erase(_)) { Access::Write } else { Access::Read };
            let moved = work(move || {
                let mut drive = Drive::open(&path, access)?;
                let before = drive.fixed_block_size();
                step(&mut drive)?;
                let (position, mut status) = (drive.position()?, drive.status()?);
                status.block_size = before.unwrap_or(0);
                let told = Told::new(status, drive.is_write_once(), drive.largest_block()?.0);
                drive.close()?;
                std::io::Result::Ok((position, told))
            })
            .await?;
            let (position, status) = moved.map_err(|source| pipeline::Error::Io { path: name.clone(), source })?;
            (
                format!("{name}: the tape stands at position {position}"),
                Report { device: name, position: Some(position), status: Some(status), files: None },
            )
        }
    };
    let damaged = report.files.iter().flatten().any(|file| file.unreadable.is_some());
    let exit = if damaged { Exit::Failed } else { Exit::Verified };
    session.report("mirror/tape/v1", &report, text(headline, &report).text(), exit)?;
    Ok(exit)
}

/// What to do with a drive.
type Step = Box<dyn FnOnce(&mut Drive) -> std::io::Result<()> + Send>;

/// Moving a tape takes its time: not on a thread of the runtime.
async fn work<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, tokio::task::JoinError> {
    tokio::task::spawn_blocking(work).await
}

fn text(headline: String, report: &Report) -> Summary {
    let mut summary = Summary::new(headline);
    if let Some(status) = &report.status {
        if let Some(file) = status.file {
            summary.field("file", file);
        }
        let size = match (status.block_size, status.largest_block) {
            (0, None) => "any".to_owned(),
            (0, Some(largest)) => format!("any, up to {}", size::human(u64::from(largest))),
            (size, _) => size::human(u64::from(size)),
        };
        summary.field("blocks", size);
        summary.field("density", format!("{:#04x}", status.density));
        for (is, what) in [
            (status.write_protected, "the cartridge is write-protected"),
            (status.write_once == Some(true), "the cartridge is a WORM: nothing on it can be written over or erased"),
            (status.wants_cleaning, "the drive asks to be cleaned"),
            (status.at_beginning, "at the beginning of the tape"),
            (status.at_end_of_data, "at the end of what was written"),
        ] {
            if is {
                summary.line(format!("  {what}"));
            }
        }
    }
    for file in report.files.iter().flatten() {
        summary.line(format!("file {} at position {}: {}", file.file, file.position, told(file)));
    }
    summary
}

fn told(file: &TapeFile) -> String {
    let unreadable = file.unreadable.map(|at| format!("; the block at position {at} cannot be read"));
    format!("{}{}", content(file), unreadable.unwrap_or_default())
}

fn content(file: &TapeFile) -> String {
    let named = |name: &Option<String>| name.clone().unwrap_or_else(|| "an archive without a name".into());
    match &file.content {
        Content::Archive { name, root, length, digest, compression, pieces } => {
            let compression = compression.map(|method| format!(" of {method}")).unwrap_or_default();
            let pieces = if *pieces > 1 { format!(" in {pieces} pieces") } else { String::new() };
            let root = root.map(|root| format!(", root {root}")).unwrap_or_default();
            format!("{}, {}{compression}{pieces}, {digest}{root}", named(name), size::human(*length))
        }
        Content::Part { name, .. } => format!("{}, {}, without its end", named(name), size::human(file.bytes)),
        Content::Record(record) => {
            let place = if record.place == crate::medium::tape::record::Place::Continues { "goes on" } else { "ends" };
            format!("tape {} of {} {place} here, at byte {}", record.volume, record.archive, record.offset)
        }
        Content::Other => format!("{} that no archive begins with", size::human(file.bytes)),
    }
}
