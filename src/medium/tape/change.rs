//! Changing the cartridge, or the disk with a volume: who is asked for the next one, and how often.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::drive::{Access, Drive};

/// Cartridges, or disks, that are tried before the run gives up.
pub const TRIES: u32 = 5;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub wanted: Wanted,
    /// The drive; or the file of the volume, as it is to be called.
    pub drive: PathBuf,
    /// The archive's name, for the operator.
    pub archive: String,
    /// Number of the tape or volume that is wanted, from 1.
    pub volume: u32,
    /// Why the cartridge that was put in before will not do.
    pub refused: Option<String>,
}

/// What the operator changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Tape,
    Volume,
}

/// Puts in the tape that is asked for, or has somebody do it; returns when it is in. An error ends the run.
pub type NextTape = Box<dyn FnMut(&Request) -> io::Result<()> + Send>;

/// Has cartridges put in until `accept` takes one. It says `Err` for a drive that failed, and gives the
/// drive back with the reason where the cartridge is the wrong one.
pub fn change<T>(
    ask: &mut NextTape,
    drive: &Path,
    access: Access,
    archive: &str,
    volume: u32,
    mut accept: impl FnMut(&mut Drive) -> io::Result<Result<T, String>>,
) -> io::Result<(Drive, T)> {
    let (drive_path, archive_name) = (drive.to_owned(), archive.to_owned());
    let mut request = Request { wanted: Wanted::Tape, drive: drive_path, archive: archive_name, volume, refused: None };
    for _ in 0..TRIES {
        ask(&request)?;
        let why = match Drive::open(drive, access) {
            Err(e) => e.to_string(),
            Ok(mut tape) => match accept(&mut tape)? {
                Ok(found) => return Ok((tape, found)),
                Err(why) => {
                    tape.eject()?;
                    why
                }
            },
        };
        tracing::warn!("{why}");
        request.refused = Some(why);
    }
    let why = request.refused.unwrap_or_default();
    Err(io::Error::other(format!("tape {volume} of {archive} was not put in after {TRIES} tries: {why}")))
}

/// Who puts in the next tape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Operator {
    /// Whoever sits at the terminal.
    #[default]
    Person,
    /// A command for the shell, which finds the number of the tape in `$MIRROR_VOLUME`, the drive in `$MIRROR_DEVICE`,
    /// the archive in `$MIRROR_ARCHIVE`, and why the tape before was refused in `$MIRROR_REFUSED`.
    Command(String),
}

impl Operator {
    /// Whether there is one to ask: a command, or somebody who reads the messages on a terminal.
    pub fn is_there(&self) -> bool {
        match self {
            Operator::Person => io::stderr().is_terminal(),
            Operator::Command(_) => true,
        }
    }

    pub fn ask(&self) -> NextTape {
        let operator = self.clone();
        Box::new(move |request| match &operator {
            Operator::Person => ask_person(request),
            Operator::Command(command) => run(command, request),
        })
    }
}

fn ask_person(request: &Request) -> io::Result<()> {
    let Request { wanted, drive, archive, volume, refused } = request;
    let what = match wanted {
        Wanted::Tape => "tape",
        Wanted::Volume => "volume",
    };
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(|_| {
        io::Error::other(format!(
            "{what} {volume} of {archive} is wanted and there is no terminal to ask for it: give --next-volume COMMAND"
        ))
    })?;
    let why = refused.as_ref().map(|why| format!("{why}\n")).unwrap_or_default();
    let drive = drive.display();
    let please = match wanted {
        Wanted::Tape => format!("put tape {volume} of {archive} into {drive}"),
        Wanted::Volume => format!("mount the disk with volume {volume} of {archive}, as {drive}"),
    };
    // In place of the bar, which goes on below: on the line of the question it would write over it.
    write!(&terminal, "\r\x1b[K{why}{please}, then press Enter (q and Enter to stop)\n")?;
    let mut answer = String::new();
    let read = BufReader::new(&terminal).read_line(&mut answer)?;
    if read == 0 || answer.trim().eq_ignore_ascii_case("q") {
        return Err(io::Error::other(format!("stopped before {what} {volume}")));
    }
    Ok(())
}

fn run(command: &str, request: &Request) -> io::Result<()> {
    let status = Command::new("sh")
        .args(["-c", command])
        .env("MIRROR_VOLUME", request.volume.to_string())
        .env("MIRROR_DEVICE", &request.drive)
        .env("MIRROR_ARCHIVE", &request.archive)
        .env("MIRROR_REFUSED", request.refused.as_deref().unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command:?}, which is to bring number {}, ended with {status}", request.volume)))
}
