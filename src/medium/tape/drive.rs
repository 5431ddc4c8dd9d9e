//! One tape drive, open: blocks, filemarks and positions, with the driver's habits kept to.
//!
//! Invariants: after an error of the drive nothing is written any more, since the position is not known
//! then (a reset drive would take the next block at the beginning of the tape); what [`Drive::filemark`]
//! has returned for is on the tape; [`Drive::close`] reports what the last write came to.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;

use super::cartridge::{self, NotReady};
use super::command::{self, Operation, Status};

/// Major number of SCSI tapes (`Documentation/admin-guide/devices.txt` of the kernel).
const TAPE_MAJOR: u64 = 9;
/// A drive may calibrate a new cartridge for two hours; it says so by not being ready.
const READY_TIMEOUT: Duration = Duration::from_secs(2 * 60 * 60 + 10 * 60);
const READY_POLL: Duration = Duration::from_millis(500);

/// What a drive is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading, and moving the tape.
    Read,
    Write,
}

/// What one read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// A block of so many bytes.
    Data(usize),
    Filemark,
    /// The block has more bytes than the memory that was given. The tape stands before it again.
    Larger,
    /// Nothing was written behind this place.
    EndOfData,
}

/// What became of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is on its way to the tape; [`Drive::filemark`] tells when it is there.
    Yes,
    /// The end of the medium is near or here, and only so many of its bytes were taken.
    EndOfMedium(usize),
    /// The drive, or what it is connected by, takes no block of that size; nothing was written.
    TooLarge,
}

/// A drive with a cartridge in it. Only one program can have it open.
pub struct Drive {
    /// `None` once it was let go of.
    file: Option<File>,
    path: PathBuf,
    access: Access,
    status: Status,
    /// Whether the cartridge is a WORM, where the drive says so.
    write_once: Option<bool>,
    /// Nothing more may be written.
    failed: bool,
    /// The next filemark read is the second in a row without data: the end.
    after_filemark: bool,
    /// Fixed size of blocks to go back to when it is closed.
    restore_block_size: Option<u32>,
}

/// Whether `path` is a tape drive.
pub fn is_tape(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|m| m.file_type().is_char_device() && nix::sys::stat::major(m.rdev()) == TAPE_MAJOR)
}

/// Whether the tape is rewound whenever `path` is closed (`/dev/st0`, not `/dev/nst0`).
pub fn rewinds_on_close(path: &Path) -> bool {
    is_tape(path) && std::fs::metadata(path).is_ok_and(|m| nix::sys::stat::minor(m.rdev()) & 0x80 == 0)
}

impl Drive {
    /// Opens a drive and waits until its cartridge is ready. Fails at once, saying which it is, when there
    /// is no cartridge, it is write-protected (for writing), or another program has the drive.
    pub fn open(path: &Path, access: Access) -> io::Result<Drive> {
        let started = Instant::now();
        loop {
            // Without O_NONBLOCK an empty drive would keep us for two minutes.
            let probe = open(path, access, libc::O_NONBLOCK).map_err(|e| cannot_open(access, e))?;
            let status = command::status(&probe).map_err(|e| failure("asking for its state", e))?;
            let not_ready = if status.online || status.empty { None } else { cartridge::not_ready(&probe) };
            drop(probe);
            if status.online {
                if access == Access::Write && status.write_protected {
                    return Err(refused("its cartridge is write-protected: slide its tab, or put in another"));
                }
                break;
            }
            if status.empty {
                return Err(refused("there is no cartridge in the drive: put one in, then run this again"));
            }
            match not_ready {
                Some(NotReady::Cleaning) => {
                    return Err(refused(
                        "there is a cleaning cartridge in the drive: wait until the drive puts it out, then put in a tape",
                    ));
                }
                Some(NotReady::Incompatible) => {
                    return Err(refused(
                        "the drive cannot use a cartridge of this generation or format: put in another",
                    ));
                }
                Some(NotReady::Becoming) | None => {}
            }
            if started.elapsed() > READY_TIMEOUT {
                return Err(refused("its cartridge does not become ready: look at the drive, or try another"));
            }
            if started.elapsed() < READY_POLL {
                tracing::warn!(
                    "{}: the cartridge is not ready yet; a new one may take two hours: waiting",
                    path.display()
                );
            }
            std::thread::sleep(READY_POLL);
        }
        let file = open(path, access, 0).map_err(|e| cannot_open(access, e))?;
        let status = command::status(&file).map_err(|e| failure("asking for its state", e))?;
        let mut drive = Drive {
            file: Some(file),
            path: path.to_owned(),
            access,
            status,
            write_once: None,
            failed: false,
            after_filemark: false,
            restore_block_size: None,
        };
        drive.prepare()?;
        drive.write_once = cartridge::is_write_once(drive.file()?);
        Ok(drive)
    }

    fn prepare(&mut self) -> io::Result<()> {
        match self.access {
            // Blocks of any size can be read this way, those of a fixed size as well.
            Access::Read if self.status.block_size != 0 => {
                self.operate(Operation::BlockSize, 0, "setting the size of its blocks")?;
                self.restore_block_size = Some(self.status.block_size);
            }
            Access::Read => {}
            // Not every drive can be locked; an unlocked one works as well.
            Access::Write => {
                if let Err(e) = command::operate(self.file()?, Operation::Lock, 0) {
                    tracing::debug!("{}: cannot be locked: {e}", self.path.display());
                }
            }
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size that blocks must have a multiple of, in bytes, where the drive is set to a fixed one.
    pub fn fixed_block_size(&self) -> Option<u32> {
        (self.status.block_size != 0).then_some(self.status.block_size)
    }

    /// Whether what is on the cartridge can surely not be written over.
    pub fn is_write_once(&self) -> Option<bool> {
        self.write_once
    }

    /// The largest block that the drive takes, in bytes; and what its adapter takes at once for sure.
    pub fn largest_block(&self) -> io::Result<(Option<u32>, Option<u64>)> {
        let file = self.file()?;
        Ok((cartridge::largest_block(file), cartridge::adapter_takes(file)))
    }

    /// What the driver knows now.
    pub fn status(&self) -> io::Result<Status> {
        command::status(self.file()?).map_err(|e| failure("asking for its state", e))
    }

    /// Blocks and filemarks between the beginning of the tape and where it stands.
    pub fn position(&self) -> io::Result<u64> {
        command::position(self.file()?).map_err(|e| failure("asking where the tape stands", e))
    }

    /// Writes one block.
    pub fn write(&mut self, block: &[u8]) -> io::Result<Written> {
        if self.failed {
            return Err(refused("the drive failed before, and where the tape stands is not known"));
        }
        loop {
            return match self.file()?.write(block) {
                Ok(n) if n == block.len() => Ok(Written::Yes),
                // A fixed block size, and the medium ended between two of the blocks.
                Ok(n) => Ok(Written::EndOfMedium(n)),
                Err(e) => match errno(&e) {
                    Errno::EINTR => continue,
                    Errno::ENOSPC => Ok(Written::EndOfMedium(0)),
                    Errno::EBUSY | Errno::EOVERFLOW => Ok(Written::TooLarge),
                    Errno::EINVAL if self.fixed_block_size().is_none() => Ok(Written::TooLarge),
                    errno => {
                        self.failed = true;
                        let error = failure("writing a block", errno);
                        Err(match self.write_once {
                            Some(false) => error,
                            Some(true) => refused(&format!("{error}; {WORM}")),
                            None => refused(&format!("{error}; so does a WORM cartridge at what is written on it")),
                        })
                    }
                },
            };
        }
    }

    /// Reads one block into `memory`.
    pub fn read(&mut self, memory: &mut [u8]) -> io::Result<Block> {
        loop {
            let block = match self.file()?.read(memory) {
                Ok(0) if self.after_filemark => Block::EndOfData,
                Ok(0) => Block::Filemark,
                Ok(n) => Block::Data(n),
                Err(e) => match errno(&e) {
                    Errno::EINTR => continue,
                    // The block was passed over: back before it.
                    Errno::ENOMEM => {
                        self.operate(Operation::BackwardBlocks, 1, "going back one block")?;
                        return Ok(Block::Larger);
                    }
                    Errno::EIO if self.is_at_end_of_data()? => return Ok(Block::EndOfData),
                    errno => return Err(failure("reading a block", errno)),
                },
            };
            self.after_filemark = block == Block::Filemark;
            return Ok(block);
        }
    }

    /// The driver answers at the end of what was written as it does for a damaged block.
    fn is_at_end_of_data(&self) -> io::Result<bool> {
        let Ok(before) = command::position(self.file()?) else { return Ok(false) };
        if command::operate(self.file()?, Operation::EndOfData, 1).is_err() {
            return Ok(false);
        }
        let at_end = self.position()? == before;
        if !at_end {
            // Before or behind the damaged block, as the drive left it; what failed has been told.
            let _ = command::operate(self.file()?, Operation::Seek, i32::try_from(before).unwrap_or(i32::MAX));
        }
        Ok(at_end)
    }

    /// Writes a filemark, and returns when all that was written is on the tape.
    pub fn filemark(&mut self) -> io::Result<()> {
        if self.failed {
            return Err(refused("the drive failed before, and where the tape stands is not known"));
        }
        command::operate(self.file()?, Operation::WriteFilemarks, 1).map_err(|e| {
            self.failed = true;
            failure("bringing all that was written to the tape", e)
        })
    }

    /// Goes to a place that [`Self::position`] gave.
    pub fn seek(&mut self, position: u64) -> io::Result<()> {
        let count = i32::try_from(position).map_err(|_| refused("no tape has that many blocks"))?;
        self.operate(Operation::Seek, count, &format!("going to block {position}"))?;
        let stands = self.position()?;
        if stands != position {
            return Err(refused(&format!("the tape stands at block {stands} and not at {position}")));
        }
        Ok(())
    }

    pub fn rewind(&mut self) -> io::Result<()> {
        self.operate(Operation::Rewind, 1, "rewinding")
    }

    /// Goes to behind the next filemark.
    pub fn next_file(&mut self) -> io::Result<()> {
        self.operate(Operation::ForwardFiles, 1, "going to the next filemark")
    }

    /// Goes to behind everything that was written.
    pub fn end_of_data(&mut self) -> io::Result<()> {
        self.operate(Operation::EndOfData, 1, "going to the end of what was written")
    }

    /// Whether nothing was ever written. The tape is rewound.
    pub fn is_blank(&mut self) -> io::Result<bool> {
        self.rewind()?;
        // Of a blank tape a drive may say that it cannot go anywhere.
        let went = command::operate(self.file()?, Operation::EndOfData, 1);
        let blank = match went {
            Ok(()) => self.position()? == 0,
            Err(Errno::EIO) => command::position(self.file()?) == Ok(0),
            Err(e) => return Err(failure("going to the end of what was written", e)),
        };
        self.rewind()?;
        Ok(blank)
    }

    /// Makes everything from here on unreadable.
    pub fn erase(&mut self) -> io::Result<()> {
        if self.write_once == Some(true) {
            return Err(refused(WORM));
        }
        let unknown = self.write_once.is_none();
        self.operate(Operation::Erase, 0, "erasing").map_err(|e| match unknown {
            true => refused(&format!("{e}; a WORM cartridge cannot be erased either")),
            false => e,
        })
    }

    /// Makes room for what is to be written here. `false`: nothing can be written over on this tape, and it stands at the
    /// end of what was written, behind a filemark.
    pub fn cut(&mut self) -> io::Result<bool> {
        let here = self.position()?;
        self.end_of_data()?;
        let end = self.position()?;
        if end == here {
            return Ok(true);
        }
        if self.write_once != Some(true) {
            self.seek(here)?;
            match self.operate(Operation::Erase, 0, "erasing what is to be written anew") {
                Ok(()) => {
                    self.seek(here)?;
                    return Ok(true);
                }
                Err(e) => tracing::info!("{}: {e}", self.path.display()),
            }
            self.end_of_data()?;
            let stands = self.position()?;
            if stands != end {
                return Err(refused(&format!("what was written ends at {stands} and not at {end} any more")));
            }
        }
        self.end_file()?;
        Ok(false)
    }

    /// At the end of what was written: writes a filemark, unless there is one. A run that failed leaves none.
    pub fn end_file(&mut self) -> io::Result<()> {
        let end = self.position()?;
        let went = command::operate(self.file()?, Operation::BackwardFiles, 1);
        let marked = went.is_ok() && self.position()? + 1 == end;
        self.seek(end)?;
        if marked { Ok(()) } else { self.filemark() }
    }

    /// Puts the cartridge out and closes the drive.
    pub fn eject(mut self) -> io::Result<()> {
        self.put_out()
    }

    /// Puts the cartridge out and lets go of the drive; only another [`Drive::open`] has it again.
    pub fn put_out(&mut self) -> io::Result<()> {
        self.restore_block_size = None;
        self.operate(Operation::Eject, 1, "ejecting")?;
        self.release()
    }

    fn operate(&mut self, operation: Operation, count: i32, doing: &str) -> io::Result<()> {
        self.after_filemark = false;
        command::operate(self.file()?, operation, count).map_err(|e| failure(doing, e))
    }

    /// Closes the drive, and says what the system said of it.
    pub fn close(mut self) -> io::Result<()> {
        self.release()
    }

    fn release(&mut self) -> io::Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        if let Some(size) = self.restore_block_size
            && let Err(e) = command::operate(&file, Operation::BlockSize, size as i32)
        {
            tracing::warn!("{}: its block size of {size} bytes cannot be set again: {e}", self.path.display());
        }
        if self.failed {
            // Closed after a write, the driver writes a filemark, and a drive that was reset takes it at the beginning of
            // the tape. Going to the end of what was written makes it forget that, and writes nothing itself.
            // What the drive has to say of a reset may come first, more than once.
            let told = (0..5).map(|_| command::operate(&file, Operation::EndOfData, 1)).find(Result::is_ok);
            if told.is_none() {
                tracing::warn!("{}: cannot be told to write nothing more", self.path.display());
            }
        }
        if self.access == Access::Write && !self.failed {
            // Unlocked it would be by itself when it is ejected; a drive that cannot lock cannot unlock.
            let _ = command::operate(&file, Operation::Unlock, 0);
        }
        nix::unistd::close(file.into_raw_fd()).map_err(|e| failure("closing it", e))
    }

    /// The open drive; there is none after [`Self::put_out`].
    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| refused("it was let go of"))
    }
}

impl Drop for Drive {
    /// Only for a drive that failed, or whose run was stopped: the others were closed.
    fn drop(&mut self) {
        if let Err(e) = self.release() {
            tracing::warn!("{e}");
        }
    }
}

fn open(path: &Path, access: Access, flags: i32) -> io::Result<File> {
    OpenOptions::new().read(true).write(access == Access::Write).custom_flags(flags).open(path)
}

/// What to do with a WORM.
pub const WORM: &str = "this is a WORM cartridge, on which nothing can be written over or erased: go to its end with \
                        `mirror tape end`, or put in another";

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

fn refused(why: &str) -> io::Error {
    io::Error::other(why.to_owned())
}

fn cannot_open(access: Access, error: io::Error) -> io::Error {
    let why = match errno(&error) {
        Errno::EBUSY => "another program has the drive: wait for it, or end it".to_owned(),
        Errno::ENOMEDIUM => "there is no cartridge in the drive: put one in, then run this again".to_owned(),
        Errno::EROFS => "its cartridge is write-protected: slide its tab, or put in another".to_owned(),
        Errno::ENXIO | Errno::ENODEV => "there is no such drive, or it is switched off".to_owned(),
        Errno::EACCES if access == Access::Write => {
            "no permission: is this user in the group of the device?".to_owned()
        }
        _ => return error,
    };
    refused(&why)
}

/// What an error of the drive means, and what to do.
fn failure(doing: &str, errno: Errno) -> io::Error {
    let advice = match errno {
        Errno::EIO => "the drive or its cartridge failed, or was reset; `dmesg` has the drive's own words",
        Errno::ENOSPC => "the medium is full",
        Errno::ENOMEDIUM => "there is no cartridge in the drive any more",
        Errno::EACCES | Errno::EROFS => "its cartridge is write-protected: slide its tab, or put in another",
        Errno::ENXIO => "the drive is gone or switched off",
        Errno::EINVAL => "the drive does not take that: look at its block size with `mirror tape status`",
        _ => "look at the drive",
    };
    io::Error::other(format!("{doing} failed: {}; {advice}", errno.desc()))
}
