//! Tapes: a drive of Linux' SCSI tape driver (`/dev/nst0`).
//!
//! An archive on a tape is a tape file: blocks of one size, the last one padded with zeros, and a
//! filemark. Where the tape ends first, a record says so, and the next tape begins with a record that
//! names what it continues.

pub mod cartridge;
pub mod change;
pub mod command;
pub mod drive;
pub mod reader;
pub mod record;
pub mod writer;

pub use change::Operator;
pub use drive::{Access, Drive, is_tape, rewinds_on_close};
