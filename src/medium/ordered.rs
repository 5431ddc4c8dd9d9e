//! Writing in order, on a thread of its own, because a pipe or a device may block for as long as it
//! likes. A write error ends the thread, and with it every wait of the side that gives the blocks.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::SFlag;
use tokio::sync::{mpsc, oneshot};

use super::block_buffer::{BlockBuffer, Buffering, Finished, Medium, RanDry};
use super::compression::{Compression, Compressor};

/// How often a pipe is asked whether somebody still reads.
const WATCH: Duration = Duration::from_millis(100);
/// How long a run that has failed waits for the last write.
const STOPPING: Duration = Duration::from_secs(10);
/// Blocks that wait for the writer, of about a mebibyte each.
const QUEUE: usize = 4;

/// What the thread writes to.
pub enum Output {
    Standard,
    Path(PathBuf),
    /// A file that the caller made, and finishes.
    Open(Arc<File>),
    /// Whole blocks, behind a buffer of so many.
    Blocks(OpenMedium, Buffering),
}

/// Opens a medium, on the thread that writes to it: a drive may let one wait.
pub type OpenMedium = Box<dyn FnOnce() -> io::Result<Box<dyn Medium>> + Send>;

/// What was written.
#[derive(Debug, Default)]
pub struct Written {
    /// Bytes on the medium, without its padding.
    pub bytes: u64,
    /// Where they are, and how often the medium waited for them, for a medium of blocks.
    pub medium: Option<(Finished, RanDry)>,
}

/// Is told what is on the medium.
pub trait Watcher: Send {
    /// So many bytes of the archive are out, and make so many bytes of the medium; `sync` brings them to the disk,
    /// if it is one. `last`: that was all.
    fn reached(&mut self, archive: u64, medium: u64, sync: &dyn Fn() -> io::Result<()>, last: bool) -> io::Result<()>;

    /// A medium of blocks was finished, of which the first `before` bytes were written earlier.
    fn finished(&mut self, _medium: &Finished, _before: u64) {}
}

/// What becomes of the bytes on their way.
#[derive(Default)]
pub struct Passage {
    pub compression: Option<Compression>,
    /// Its level; the method's own without.
    pub level: Option<i32>,
    /// Bytes of the archive that are on the medium already.
    pub before: u64,
    /// Bytes of the medium that they make.
    pub on_medium: u64,
    /// What a medium of blocks holds behind them, of a frame that was cut: it is made again, and compared.
    pub tail: Bytes,
    pub watcher: Option<Box<dyn Watcher>>,
}

/// The giving side of the thread.
pub struct OrderedWriter {
    blocks: mpsc::Sender<Option<Bytes>>,
    outcome: oneshot::Receiver<io::Result<Written>>,
    /// What is written to, once it is open.
    opened: Option<oneshot::Receiver<Arc<File>>>,
}

impl OrderedWriter {
    /// Starts the thread. What it writes is compressed if asked.
    pub fn start(output: Output, passage: Passage) -> io::Result<Self> {
        let (blocks, receiver) = mpsc::channel(QUEUE);
        let (sender, outcome) = oneshot::channel();
        let (open, opened) = oneshot::channel();
        std::thread::Builder::new().name("archive-writer".into()).spawn(move || {
            let _ = sender.send(run(receiver, output, open, passage));
        })?;
        Ok(OrderedWriter { blocks, outcome, opened: Some(opened) })
    }

    /// Hands over the next bytes; waits while the medium is behind. Fails as soon as a write has failed.
    pub async fn write(&mut self, block: Bytes) -> io::Result<()> {
        if self.blocks.send(Some(block)).await.is_ok() {
            return Ok(());
        }
        if self.outcome.is_terminated() {
            return Err(io::Error::other("the writer has failed before"));
        }
        match (&mut self.outcome).await {
            Ok(Err(e)) => Err(e),
            _ => Err(io::Error::other("the writer ended early")),
        }
    }

    /// Waits until nothing is written any more. What was handed over last may be lost.
    pub async fn stop(self) {
        drop(self.blocks);
        // It has stopped, in whatever way; or it waits for a reader that does nothing, and goes with the program.
        if !self.outcome.is_terminated() {
            let _ = tokio::time::timeout(STOPPING, self.outcome).await;
        }
    }

    /// Ends when the reader of a pipe goes away, even while there is nothing to write; for anything else, never. To be
    /// asked for once, and heeded as long as there is more to come: who has read all may go.
    pub fn reader_gone(&mut self) -> impl Future<Output = io::Error> + use<> {
        let opened = self.opened.take();
        async move {
            match opened {
                Some(opened) => match opened.await {
                    Ok(file) => reader_gone(&*file).await,
                    // It is no pipe, or could not be opened: then the next block tells.
                    Err(_) => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until all is written and the medium is finished.
    pub async fn finish(self) -> io::Result<Written> {
        let _ = self.blocks.send(None).await;
        self.outcome.await.unwrap_or_else(|_| Err(io::Error::other("the writer ended early")))
    }
}

/// Ends when nobody reads any more what is written to a pipe or a socket; for any other file, never.
pub async fn reader_gone(file: impl AsFd) -> io::Error {
    let kind = nix::sys::stat::fstat(&file).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
    if !matches!(kind, Ok(SFlag::S_IFIFO | SFlag::S_IFSOCK)) {
        return std::future::pending().await;
    }
    let is_gone = || {
        // An error is told whether it is asked for or not.
        let mut asked = [PollFd::new(file.as_fd(), PollFlags::empty())];
        let answered = poll(&mut asked, PollTimeout::ZERO).is_ok_and(|n| n > 0);
        answered && asked[0].revents().is_some_and(|told| told.intersects(PollFlags::POLLERR | PollFlags::POLLHUP))
    };
    while !is_gone() {
        tokio::time::sleep(WATCH).await;
    }
    nix::errno::Errno::EPIPE.into()
}

/// Counts what reaches the medium.
struct Counting<W>(W, u64);

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.0.write(bytes)?;
        self.1 += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Writes what comes behind that which is there already, and is given once more.
struct Behind<W> {
    out: W,
    there: Bytes,
}

impl<W> Behind<W> {
    fn other() -> io::Error {
        io::Error::other(
            "what is there of it was compressed otherwise than it would be now, by another version perhaps: write it \
             anew, without --resume",
        )
    }

    /// What is written to, when all of what is there was seen.
    fn passed(self) -> io::Result<W> {
        if self.there.is_empty() { Ok(self.out) } else { Err(Self::other()) }
    }
}

impl<W: Write> Write for Behind<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.there.is_empty() {
            return self.out.write(bytes);
        }
        let n = bytes.len().min(self.there.len());
        if self.there.split_to(n) != bytes[..n] {
            return Err(Self::other());
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn run(
    blocks: mpsc::Receiver<Option<Bytes>>,
    output: Output,
    opened: oneshot::Sender<Arc<File>>,
    passage: Passage,
) -> io::Result<Written> {
    let file = match output {
        // Not `Stdout`: its line buffer would look at every byte.
        Output::Standard => Arc::new(File::from(std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned()?)),
        Output::Path(path) => Arc::new(OpenOptions::new().write(true).open(path)?),
        Output::Open(file) => file,
        Output::Blocks(open, buffering) => {
            let Passage { compression, level, before, on_medium, tail, mut watcher } = passage;
            let out = Behind { out: BlockBuffer::start(open()?, buffering)?, there: tail };
            // What the buffer took is not on the medium before the end.
            let (out, bytes, archive) = write_all(blocks, out, compression, level, |_, _| Ok(()))?;
            let medium = out.passed()?.finish()?;
            if let Some(watcher) = &mut watcher {
                watcher.finished(&medium.0, on_medium);
                watcher.reached(before + archive, on_medium + bytes, &|| Ok(()), true)?;
            }
            return Ok(Written { bytes, medium: Some(medium) });
        }
    };
    // Nobody may be waiting for it.
    let _ = opened.send(file.clone());
    let Passage { compression, level, before, on_medium, mut watcher, .. } = passage;
    let sync = || match file.sync_data() {
        // A pipe has nothing to be synchronised.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    };
    let (_, bytes, archive) = write_all(blocks, &*file, compression, level, |archive, medium| match &mut watcher {
        Some(watcher) => watcher.reached(before + archive, on_medium + medium, &sync, false),
        None => Ok(()),
    })?;
    if let Some(watcher) = &mut watcher {
        watcher.reached(before + archive, on_medium + bytes, &sync, true)?;
    }
    Ok(Written { bytes, medium: None })
}

/// Writes until the end is announced. A giver that goes away without it has failed: nothing is finished. Gives the
/// bytes on the medium, and those of the archive.
fn write_all<W: Write>(
    mut blocks: mpsc::Receiver<Option<Bytes>>,
    out: W,
    compression: Option<Compression>,
    level: Option<i32>,
    mut reached: impl FnMut(u64, u64) -> io::Result<()>,
) -> io::Result<(W, u64, u64)> {
    let mut out = Compressor::new(compression, level, Counting(out, 0))?;
    let mut given = 0;
    loop {
        match blocks.blocking_recv() {
            Some(Some(block)) => {
                out.write_all(&block)?;
                given += block.len() as u64;
                reached(out.written(), out.get_ref().1)?;
            }
            Some(None) => break,
            None => return Err(io::Error::other("stopped")),
        }
    }
    let Counting(out, bytes) = out.finish()?;
    Ok((out, bytes, given))
}
