//! Changing the cartridge: who is asked for the next one, and how often.

use std::io;
use std::path::{Path, PathBuf};

use super::drive::{Access, Drive};

/// Cartridges that are tried before the run gives up.
const TRIES: u32 = 5;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub drive: PathBuf,
    /// The archive's name, for the operator.
    pub archive: String,
    /// Number of the tape that is wanted, from 1.
    pub volume: u32,
    /// Why the cartridge that was put in before will not do.
    pub refused: Option<String>,
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
    let mut request = Request { drive: drive.to_owned(), archive: archive.to_owned(), volume, refused: None };
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
