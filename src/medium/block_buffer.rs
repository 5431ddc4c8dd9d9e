//! The one buffer in front of a medium: whole blocks, a thread that writes them, and a high-water mark
//! that it waits for, so that a drive runs in long stretches and stops seldom.
//!
//! Bytes are copied once, into the block they are written from. Memory is bounded by the number of
//! blocks, and used only as far as the medium lags behind.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::block::Block;
use super::object::writer::ObjectWritten;
use super::tape::writer::TapeUsed;
use super::volumes::listing::Volume;

/// What takes blocks, in order. Dropped unfinished, it leaves nothing that looks complete.
pub trait Medium: Send {
    /// Takes all of a block. After an error nothing more is given to it.
    fn write(&mut self, block: &[u8]) -> io::Result<()>;

    /// Whether the last block is filled up with zeros, as a medium of whole blocks wants it.
    fn pads(&self) -> bool;

    /// Returns when all that was written is there to stay, and says where it is.
    fn finish(self: Box<Self>) -> io::Result<Finished>;
}

/// Where an archive is, as its medium tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Finished {
    Tapes(Vec<TapeUsed>),
    Volumes(Vec<Volume>),
    Object(ObjectWritten),
}

/// How much is buffered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffering {
    /// Size of a block in bytes.
    pub block_size: usize,
    /// Number of blocks in memory, at least 1.
    pub blocks: usize,
    /// Blocks that must be there before the medium begins, and begins again after it ran dry.
    pub high_water_mark: usize,
}

impl Buffering {
    /// As many blocks as `bytes` hold, and a mark at that many percent of them; each at least 1.
    pub fn of(block_size: usize, bytes: u64, percent: u8) -> Self {
        let blocks = usize::try_from(bytes / block_size as u64).unwrap_or(usize::MAX).max(1);
        let high_water_mark = (blocks as u128 * u128::from(percent.min(100)) / 100) as usize;
        Buffering { block_size, blocks, high_water_mark: high_water_mark.clamp(1, blocks) }
    }
}

/// How often the medium had to wait for the source after it had begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RanDry {
    pub times: u64,
    /// Seconds that it waited, all times together.
    pub seconds: f64,
}

/// When blocks may be taken: from the high-water mark on until there are none.
#[derive(Clone, Copy, Debug)]
struct Gate {
    high_water_mark: usize,
    open: bool,
    begun: bool,
}

impl Gate {
    fn new(high_water_mark: usize) -> Self {
        Gate { high_water_mark, open: false, begun: false }
    }

    /// Whether a block may be taken, of so many; `ended`: no more will come.
    fn lets_pass(&mut self, blocks: usize, ended: bool) -> bool {
        if blocks == 0 {
            self.open = false;
        } else if blocks >= self.high_water_mark || ended {
            (self.open, self.begun) = (true, true);
        }
        self.open
    }

    /// Whether the medium is waiting although it had begun, and although there is more to come.
    fn is_dry(&self, ended: bool) -> bool {
        self.begun && !self.open && !ended
    }
}

struct State {
    full: VecDeque<Block>,
    free: Vec<Block>,
    /// Blocks that were made so far.
    made: usize,
    ended: bool,
    /// The giver went away without ending: what is there is not to be written.
    stopped: bool,
    failed: Option<io::Error>,
    /// The writer is gone.
    over: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// The giving side; a [`Write`] that waits while the medium is behind.
pub struct BlockBuffer {
    shared: Arc<Shared>,
    buffering: Buffering,
    pads: bool,
    current: Option<Block>,
    thread: Option<JoinHandle<(Box<dyn Medium>, RanDry)>>,
}

impl BlockBuffer {
    /// Starts the thread that writes.
    pub fn start(medium: Box<dyn Medium>, buffering: Buffering) -> io::Result<Self> {
        let state = State {
            full: VecDeque::new(),
            free: Vec::new(),
            made: 0,
            ended: false,
            stopped: false,
            failed: None,
            over: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let (pads, theirs) = (medium.pads(), shared.clone());
        let thread = std::thread::Builder::new()
            .name("medium".into())
            .spawn(move || write_blocks(medium, &theirs, Gate::new(buffering.high_water_mark)))?;
        Ok(BlockBuffer { shared, buffering, pads, current: None, thread: Some(thread) })
    }

    /// Waits until all is written, and finishes the medium.
    pub fn finish(mut self) -> io::Result<(Finished, RanDry)> {
        if let Some(mut last) = self.current.take()
            && !last.is_empty()
        {
            if self.pads {
                last.pad();
            }
            self.give(last)?;
        }
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        let thread = self.thread.take().ok_or_else(|| io::Error::other("it was finished before"))?;
        let (medium, ran_dry) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match self.shared.lock().failed.take() {
            Some(e) => Err(e),
            None => Ok((medium.finish()?, ran_dry)),
        }
    }

    /// An empty block, as soon as there is one.
    fn take_free(&self) -> io::Result<Block> {
        let mut state = self.shared.lock();
        loop {
            if state.over {
                return Err(state.failed.take().unwrap_or_else(|| io::Error::other("the medium's writer ended early")));
            }
            if let Some(block) = state.free.pop() {
                return Ok(block);
            }
            if state.made < self.buffering.blocks {
                state.made += 1;
                drop(state);
                return Ok(Block::new(self.buffering.block_size));
            }
            state = self.shared.wait(state);
        }
    }

    fn give(&self, block: Block) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.over {
            return Err(state.failed.take().unwrap_or_else(|| io::Error::other("the medium's writer ended early")));
        }
        state.full.push_back(block);
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }
}

impl Write for BlockBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut block = match self.current.take() {
            Some(block) => block,
            None => self.take_free()?,
        };
        let n = block.fill(bytes);
        if block.is_full() {
            self.give(block)?;
        } else {
            self.current = Some(block);
        }
        Ok(n)
    }

    /// Blocks are written when they are full: a flush changes nothing.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlockBuffer {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        // The medium is let go of in its own way, which a program that ends meanwhile would cut short.
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The thread.
fn write_blocks(mut medium: Box<dyn Medium>, shared: &Shared, mut gate: Gate) -> (Box<dyn Medium>, RanDry) {
    let mut ran_dry = RanDry::default();
    let mut dry_since: Option<Instant> = None;
    let mut state = shared.lock();
    loop {
        if state.stopped && !state.ended || state.ended && state.full.is_empty() {
            break;
        }
        let (waiting, ended) = (state.full.len(), state.ended);
        if !gate.lets_pass(waiting, ended) {
            if gate.is_dry(ended) && dry_since.is_none() {
                ran_dry.times += 1;
                dry_since = Some(Instant::now());
            }
            state = shared.wait(state);
            continue;
        }
        let Some(mut block) = state.full.pop_front() else { continue };
        drop(state);
        ran_dry.seconds += dry_since.take().map_or(Duration::ZERO, |since| since.elapsed()).as_secs_f64();
        let written = medium.write(block.bytes());
        block.clear();
        state = shared.lock();
        state.free.push(block);
        if let Err(e) = written {
            state.failed = Some(e);
            break;
        }
        shared.changed.notify_all();
    }
    state.over = true;
    drop(state);
    shared.changed.notify_all();
    (medium, ran_dry)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers its blocks; fails at one of them.
    #[derive(Clone)]
    struct Remembering {
        blocks: Arc<Mutex<Vec<Vec<u8>>>>,
        fails_at: Option<usize>,
        pads: bool,
    }

    impl Remembering {
        fn new(pads: bool) -> Self {
            Remembering { blocks: Arc::default(), fails_at: None, pads }
        }

        fn blocks(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
            self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl Medium for Remembering {
        fn write(&mut self, block: &[u8]) -> io::Result<()> {
            let mut blocks = self.blocks();
            if self.fails_at == Some(blocks.len()) {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            blocks.push(block.to_vec());
            Ok(())
        }

        fn pads(&self) -> bool {
            self.pads
        }

        fn finish(self: Box<Self>) -> io::Result<Finished> {
            Ok(Finished::Tapes(Vec::new()))
        }
    }

    #[test]
    fn gives_whole_blocks_in_order_and_pads_the_last() -> io::Result<()> {
        for (pads, last) in [(true, &b"ij\0\0"[..]), (false, b"ij")] {
            let medium = Remembering::new(pads);
            let mut buffer = BlockBuffer::start(Box::new(medium.clone()), Buffering::of(4, 8, 100))?;
            for byte in b"abcdefghij" {
                buffer.write_all(&[*byte])?;
            }
            buffer.finish()?;
            assert_eq!(*medium.blocks(), [&b"abcd"[..], b"efgh", last]);
        }
        Ok(())
    }

    #[test]
    fn an_error_at_any_block_reaches_the_giver() -> io::Result<()> {
        for at in 0..5 {
            let medium = Remembering { fails_at: Some(at), ..Remembering::new(true) };
            let mut buffer = BlockBuffer::start(Box::new(medium.clone()), Buffering::of(4, 8, 50))?;
            let written = buffer.write_all(&[7; 20]).and_then(|()| buffer.finish().map(drop));
            assert_eq!(written.map_err(|e| e.kind()), Err(io::ErrorKind::StorageFull), "at block {at}");
            assert_eq!(medium.blocks().len(), at);
        }
        Ok(())
    }

    #[test]
    fn a_giver_that_goes_away_leaves_the_medium_unfinished() -> io::Result<()> {
        let medium = Remembering::new(true);
        let mut buffer = BlockBuffer::start(Box::new(medium.clone()), Buffering::of(4, 64, 100))?;
        buffer.write_all(&[7; 20])?;
        drop(buffer);
        assert!(medium.blocks().is_empty());
        Ok(())
    }

    #[test]
    fn the_mark_is_at_least_one_block_and_at_most_all() {
        assert_eq!(Buffering::of(1 << 20, 0, 90), Buffering { block_size: 1 << 20, blocks: 1, high_water_mark: 1 });
        assert_eq!(Buffering::of(1 << 20, 1 << 30, 90).high_water_mark, 921);
        assert_eq!(Buffering::of(1 << 20, 1 << 30, 200).high_water_mark, 1024);
    }

    /// Milliseconds that a drive of 400 MB/s runs dry after its start, by the gate's own rule, when its
    /// source gives 600 MB/s and stalls 2 s in every 10.
    fn simulate(buffer_mb: usize) -> (u64, u64) {
        let (mut gate, mut buffered, mut to_send) = (Gate::new((buffer_mb * 9 / 10).max(1)), 0.0_f64, 40_000.0_f64);
        let (mut dry, mut times, mut was_dry) = (0, 0, false);
        for ms in 0.. {
            let stalled = ms % 10_000 >= 8_000;
            if !stalled {
                let given = 0.6_f64.min(buffer_mb as f64 - buffered).min(to_send);
                buffered += given;
                to_send -= given;
            }
            let ended = to_send <= 0.0;
            if gate.lets_pass(buffered as usize, ended) {
                buffered = (buffered - 0.4).max(0.0);
            }
            let is_dry = gate.is_dry(ended);
            dry += u64::from(is_dry);
            times += u64::from(is_dry && !was_dry);
            was_dry = is_dry;
            if ended && buffered < 1.0 {
                break;
            }
        }
        (times, dry)
    }

    #[test]
    fn a_drive_never_runs_dry_once_the_buffer_covers_the_stall() {
        // 40 GB, which take 100 s without a stop. 2 s at 400 MB/s are 800 MB.
        let expected =
            [(64, 12, 23_232), (256, 12, 20_940), (400, 11, 17_611), (800, 11, 13_211), (810, 0, 0), (1024, 0, 0)];
        for (buffer_mb, times, milliseconds) in expected {
            assert_eq!(simulate(buffer_mb), (times, milliseconds), "with {buffer_mb} MB");
        }
    }
}
