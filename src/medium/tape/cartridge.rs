//! What the drive itself says of its cartridge and of its blocks, where the tape driver keeps it back. Nobody has to be
//! able to ask: what is not known is `None`.
//!
//! Source: SPC-4 and SSC-4 (MODE SENSE, READ BLOCK LIMITS, sense codes).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{major, minor};

use super::command::{self, Answer};

/// NOT READY, as a sense key.
const NOT_READY: u8 = 2;

/// Why a cartridge that is in does not become ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// It takes its time: a new one is calibrated.
    Becoming,
    Cleaning,
    /// A generation, or a format, that the drive cannot use.
    Incompatible,
}

/// Asks why.
pub fn not_ready(drive: &File) -> Option<NotReady> {
    match ask(drive, &[0; 6], &mut [])? {
        Answer::Sense { key: NOT_READY, code } => why(code),
        _ => None,
    }
}

fn why(code: u16) -> Option<NotReady> {
    Some(match code {
        // Cleaning cartridge installed, cleaning failure, cleaning request rejected.
        0x3003 | 0x3007 | 0x300a => NotReady::Cleaning,
        0x3000..=0x30ff => NotReady::Incompatible,
        0x0401 => NotReady::Becoming,
        _ => return None,
    })
}

/// Whether the cartridge is a WORM: what is on it cannot be written over.
pub fn is_write_once(drive: &File) -> Option<bool> {
    // MODE SENSE (6) of the page of the medium's configuration, without block descriptors.
    let mut page = [0; 36];
    match ask(drive, &[0x1a, 0x08, 0x1d, 0, page.len() as u8, 0], &mut page)? {
        Answer::Data(n) if n >= 7 && page[4] & 0x3f == 0x1d => Some(page[6] & 1 == 1),
        _ => None,
    }
}

/// The largest block that the drive takes, in bytes.
pub fn largest_block(drive: &File) -> Option<u32> {
    let mut limits = [0; 6];
    match ask(drive, &[0x05, 0, 0, 0, 0, 0], &mut limits)? {
        Answer::Data(6) => Some(u32::from_be_bytes([0, limits[1], limits[2], limits[3]])).filter(|size| *size > 0),
        _ => None,
    }
}

/// Bytes that the host adapter takes at once for sure, however the memory lies.
pub fn adapter_takes(drive: &File) -> Option<u64> {
    let device = std::fs::canonicalize(sysfs(drive)?).ok()?;
    let host = device.iter().filter_map(|part| part.to_str()).find(|part| is_numbered(part, "host"))?;
    let pieces = std::fs::read_to_string(format!("/sys/class/scsi_host/{host}/sg_tablesize")).ok()?;
    pieces.trim().parse::<u64>().ok()?.checked_mul(4096)
}

/// Asks through the driver, or else through the generic device of the same drive.
fn ask(drive: &File, command: &[u8], data: &mut [u8]) -> Option<Answer> {
    let answer = match command::ask(drive, command, data) {
        Err(Errno::EPERM | Errno::EACCES) => command::ask(&generic(drive)?, command, data),
        answer => answer,
    };
    answer.inspect_err(|e| tracing::debug!("the drive does not answer command {:#04x}: {e}", command[0])).ok()
}

fn generic(drive: &File) -> Option<File> {
    let names = std::fs::read_dir(sysfs(drive)?.join("scsi_generic")).ok()?;
    let name = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).find(|n| is_numbered(n, "sg"))?;
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(Path::new("/dev").join(name)).ok()
}

/// The directory in which the kernel tells of the drive.
fn sysfs(drive: &File) -> Option<PathBuf> {
    let device = drive.metadata().ok()?.rdev();
    Some(format!("/sys/dev/char/{}:{}/device", major(device), minor(device)).into())
}

fn is_numbered(name: &str, word: &str) -> bool {
    name.strip_prefix(word).is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sense_codes_mean_what_the_standard_says() {
        assert_eq!(why(0x0401), Some(NotReady::Becoming));
        assert_eq!(why(0x3003), Some(NotReady::Cleaning));
        assert_eq!(why(0x3001), Some(NotReady::Incompatible));
        assert_eq!(why(0x0402), None);
    }

    #[test]
    fn what_is_no_drive_says_nothing() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!((not_ready(&file), is_write_once(&file)), (None, None));
        assert_eq!((largest_block(&file), adapter_takes(&file)), (None, None));
    }
}
