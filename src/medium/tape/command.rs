//! The requests that Linux' SCSI tape driver takes, and nothing else: the only place of the program where
//! the kernel is handed a pointer. Every value was checked against the driver of 6.1.
//!
//! Source: `<linux/mtio.h>` and `Documentation/scsi/st.rst` of the kernel.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc::{c_int, c_long, c_short, c_uchar, c_uint, c_ushort, c_void};

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

/// `sg_io_hdr` of `<scsi/sg.h>`.
#[repr(C)]
struct SgIo {
    interface: c_int,
    direction: c_int,
    command_length: c_uchar,
    sense_room: c_uchar,
    pieces: c_ushort,
    data_length: c_uint,
    data: *mut c_void,
    command: *const c_uchar,
    sense: *mut c_uchar,
    /// Milliseconds.
    timeout: c_uint,
    flags: c_uint,
    number: c_int,
    own: *mut c_void,
    status: c_uchar,
    masked_status: c_uchar,
    message_status: c_uchar,
    sense_length: c_uchar,
    host_status: c_ushort,
    driver_status: c_ushort,
    residual: c_int,
    duration: c_uint,
    info: c_uint,
}

mod request {
    use super::{MtGet, MtOp, MtPos, SgIo};

    nix::ioctl_readwrite_bad!(scsi, 0x2285, SgIo);

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
    /// Goes back to before that many filemarks.
    BackwardFiles = 2,
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

/// What became of a SCSI command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// So many bytes came.
    Data(usize),
    /// It was refused: sense key, and additional sense code with its qualifier.
    Sense { key: u8, code: u16 },
}

/// Gives the drive a SCSI command that only asks, and takes its answer into `data`. The driver wants to be asked by a
/// privileged program, the generic device (`/dev/sg0`) by whoever may read it.
pub fn ask(device: &File, command: &[u8], data: &mut [u8]) -> Result<Answer, Errno> {
    let mut sense = [0u8; 32];
    let length = |n: usize| c_uint::try_from(n).map_err(|_| Errno::EINVAL);
    let mut io = SgIo {
        interface: c_int::from(b'S'),
        // SG_DXFER_NONE, SG_DXFER_FROM_DEV
        direction: if data.is_empty() { -1 } else { -3 },
        command_length: c_uchar::try_from(command.len()).map_err(|_| Errno::EINVAL)?,
        sense_room: sense.len() as c_uchar,
        pieces: 0,
        data_length: length(data.len())?,
        data: data.as_mut_ptr().cast(),
        command: command.as_ptr(),
        sense: sense.as_mut_ptr(),
        timeout: 30_000,
        flags: 0,
        number: 0,
        own: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        message_status: 0,
        sense_length: 0,
        host_status: 0,
        driver_status: 0,
        residual: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: the lengths are those of the three buffers that the pointers lead to, which outlive the call.
    unsafe { request::scsi(device.as_raw_fd(), &mut io) }?;
    match sense[0] & 0x7f {
        0x70 | 0x71 if io.sense_length >= 14 => {
            Ok(Answer::Sense { key: sense[2] & 0x0f, code: u16::from_be_bytes([sense[12], sense[13]]) })
        }
        _ if io.status != 0 || io.host_status != 0 => Err(Errno::EIO),
        _ => Ok(Answer::Data(data.len().saturating_sub(usize::try_from(io.residual).unwrap_or(0)))),
    }
}
