//! The requests that Linux' SCSI tape driver takes, and nothing else: the only place of the program where
//! the kernel is handed a pointer. Every value was checked against the driver of 6.1.
//!
//! Source: `<linux/mtio.h>` and `Documentation/scsi/st.rst` of the kernel.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc::{c_int, c_long, c_short};

#[repr(C)]
struct MtOp {
    op: c_short,
    count: c_int,
}

#[repr(C)]
#[derive(Default)]
struct MtGet {
    kind: c_long,
    residual: c_long,
    dsreg: c_long,
    gstat: c_long,
    erreg: c_long,
    file: c_int,
    block: c_int,
}

#[repr(C)]
#[derive(Default)]
struct MtPos {
    block: c_long,
}

mod request {
    use super::{MtGet, MtOp, MtPos};

    nix::ioctl_write_ptr!(operate, b'm', 1, MtOp);
    nix::ioctl_read!(status, b'm', 2, MtGet);
    nix::ioctl_read!(position, b'm', 3, MtPos);
}

/// What a drive can be told to do (MTIOCTOP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum Operation {
    /// Goes on to behind that many filemarks.
    ForwardFiles = 1,
    /// Goes back over that many blocks.
    BackwardBlocks = 4,
    /// Writes that many filemarks; returns when all that was written before is on the tape.
    WriteFilemarks = 5,
    Rewind = 6,
    /// Rewinds and ejects.
    Eject = 7,
    /// Goes to the end of what was written.
    EndOfData = 12,
    /// Cuts the tape off at its position (count 0).
    Erase = 13,
    /// Sets the size of blocks, in bytes; 0: each write is a block.
    BlockSize = 20,
    /// Goes to a block, as [`position`] counts them.
    Seek = 22,
    /// Keeps the cartridge in.
    Lock = 28,
    Unlock = 29,
}

/// Tells the drive. Returns when it has done it, which may take hours.
pub fn operate(tape: &File, operation: Operation, count: i32) -> Result<(), Errno> {
    let op = MtOp { op: operation as c_short, count };
    // SAFETY: the driver reads one `struct mtop`, which outlives the call, and keeps no pointer.
    unsafe { request::operate(tape.as_raw_fd(), &op) }.map(drop)
}

/// What the driver knows of the drive without asking it (MTIOCGET).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// A cartridge is in and ready.
    pub online: bool,
    /// No cartridge.
    pub empty: bool,
    pub write_protected: bool,
    /// The drive asks to be cleaned.
    pub wants_cleaning: bool,
    pub at_beginning: bool,
    pub at_end_of_data: bool,
    /// Size of blocks, in bytes; 0 where each write is a block.
    pub block_size: u32,
    /// The cartridge's density code, such as 0x60 for LTO-9.
    pub density: u8,
    /// Number of the file, the first being 0; `None` where the driver has lost count.
    pub file: Option<u32>,
}

/// Asks the driver.
pub fn status(tape: &File) -> Result<Status, Errno> {
    let mut get = MtGet::default();
    // SAFETY: the driver writes one `struct mtget` to a place that is large enough, and keeps no pointer.
    unsafe { request::status(tape.as_raw_fd(), &mut get) }?;
    let is = |bit: i64| get.gstat & bit != 0;
    Ok(Status {
        online: is(0x0100_0000),
        empty: is(0x0004_0000),
        write_protected: is(0x0400_0000),
        wants_cleaning: is(0x0000_8000),
        at_beginning: is(0x4000_0000),
        at_end_of_data: is(0x0800_0000),
        block_size: (get.dsreg & 0x00ff_ffff) as u32,
        density: (get.dsreg >> 24 & 0xff) as u8,
        file: u32::try_from(get.file).ok(),
    })
}

/// Where the tape stands: blocks and filemarks before it, counted from the beginning (MTIOCPOS).
pub fn position(tape: &File) -> Result<u64, Errno> {
    let mut position = MtPos::default();
    // SAFETY: the driver writes one `struct mtpos` to a place that is large enough, and keeps no pointer.
    unsafe { request::position(tape.as_raw_fd(), &mut position) }?;
    u64::try_from(position.block).map_err(|_| Errno::EIO)
}
