//! Writing a regular file: several fetches at once, each writing its chunks where the plan has them, in
//! the task that received and hashed them. All that is known beforehand is written first, so that a run that
//! goes on after this one finds the manifests, and the place of every blob.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};

use super::Failed;
use super::found::Found;
use crate::archive::plan::{Content, Entry, Plan};
use crate::archive::tar;
use crate::image::Descriptor;
use crate::medium::file::NewFile;
use crate::medium::ordered::Watcher;
use crate::pipeline::copy::finished;
use crate::pipeline::walk::CORRUPTION_TRIES;
use crate::pipeline::{Context, Progress};
use crate::store::Store;

/// Bytes that are written to the file at once: each write has its price.
const WRITE_BYTES: usize = 256 << 10;
/// How long received bytes wait for more: what is killed loses what it did not write.
const WRITE_WAIT: Duration = Duration::from_millis(20);

/// A file that tasks write to by turns. The system lets one at a time write to a file and has the threads of all others
/// wait; whoever waits here leaves its thread to those who receive and hash.
struct Shared {
    file: Arc<File>,
    turn: tokio::sync::Mutex<()>,
}

impl Shared {
    async fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        self.file.write_all_at(bytes, offset)
    }
}

/// What every fetch needs.
#[derive(Clone)]
struct Fetching {
    store: Arc<dyn Store>,
    progress: Arc<Progress>,
    /// Set when something was written.
    written: Arc<AtomicBool>,
}

/// Writes all of `plan` to the file, but for what was `found` in it (an answer for each entry, or none at all).
/// `Ok`: every blob in it was verified.
pub async fn write(
    cx: &Context,
    store: &Arc<dyn Store>,
    plan: &Plan,
    file: &NewFile,
    found: Vec<Found>,
    watcher: Option<Box<dyn Watcher>>,
) -> Result<(), Failed> {
    let mut front = Front::new(plan, file.file(), watcher);
    let written = write_all(cx, store, plan, file, found, &mut front).await;
    let told = front.finish().await;
    written?;
    Ok(told?)
}

async fn write_all(
    cx: &Context,
    store: &Arc<dyn Store>,
    plan: &Plan,
    file: &NewFile,
    mut found: Vec<Found>,
    front: &mut Front<'_>,
) -> Result<(), Failed> {
    let resumed = !found.is_empty();
    found.resize_with(plan.entries.len(), Found::default);
    file.file().set_len(plan.length)?;
    for entry in &plan.entries {
        write_known(file.file(), entry, resumed)?;
        if let Content::Bytes(bytes) = &entry.content {
            cx.progress.add_bytes(bytes.len() as u64);
            cx.progress.add_items(u64::from(entry.descriptor.is_some()));
        }
    }
    if resumed {
        file.file().write_all_at(&[0; tar::TRAILER], plan.length - tar::TRAILER as u64)?;
    }
    let fetching = Fetching { store: store.clone(), progress: cx.progress.clone(), written: file.keep().clone() };
    let shared = Arc::new(Shared { file: file.file().clone(), turn: tokio::sync::Mutex::default() });
    let mut tasks = JoinSet::new();
    for (at, (entry, found)) in plan.entries.iter().zip(found).enumerate() {
        let Content::Blob(descriptor) = &entry.content else {
            front.is_whole(at);
            continue;
        };
        if let Found::Whole = found {
            cx.progress.add_bytes(descriptor.size);
            cx.progress.add_items(1);
            front.is_whole(at);
            continue;
        }
        while tasks.len() >= cx.jobs() {
            if let Some(done) = tasks.join_next().await {
                front.is_whole(finished(done)?);
            }
        }
        let fetch = fetch(fetching.clone(), shared.clone(), entry.clone(), (**descriptor).clone(), found);
        tasks.spawn(async move { fetch.await.map(|()| at) });
    }
    while let Some(done) = tasks.join_next().await {
        front.is_whole(finished(done)?);
    }
    Ok(())
}

/// How far the file is whole from its start on. Its watcher is told on a thread of its own: synchronising takes long.
struct Front<'p> {
    plan: &'p Plan,
    whole: Vec<bool>,
    /// Entries that are whole, and all before them.
    entries: usize,
    telling: Option<(mpsc::Sender<u64>, JoinHandle<io::Result<()>>)>,
}

impl<'p> Front<'p> {
    fn new(plan: &'p Plan, file: &Arc<File>, watcher: Option<Box<dyn Watcher>>) -> Self {
        let telling = watcher.map(|watcher| {
            let (sender, reached) = mpsc::channel();
            let file = file.clone();
            (sender, tokio::task::spawn_blocking(move || tell(watcher, &file, &reached)))
        });
        Front { plan, whole: vec![false; plan.entries.len()], entries: 0, telling }
    }

    /// All of an entry is there.
    fn is_whole(&mut self, at: usize) {
        self.whole[at] = true;
        let before = self.entries;
        self.entries += self.whole[before..].iter().take_while(|whole| **whole).count();
        if self.entries > before
            && let Some((sender, _)) = &self.telling
        {
            let next = self.plan.entries.get(self.entries);
            // If it has failed, that is told in the end.
            let _ = sender.send(next.map_or(self.plan.length, |entry| entry.offset));
        }
    }

    async fn finish(self) -> io::Result<()> {
        let Some((sender, telling)) = self.telling else { return Ok(()) };
        drop(sender);
        finished(telling.await)
    }
}

/// Tells until nothing more comes. No entry that was not whole is below what is told.
fn tell(mut watcher: Box<dyn Watcher>, file: &File, reached: &mpsc::Receiver<u64>) -> io::Result<()> {
    let mut last = 0;
    while let Ok(at) = reached.recv() {
        last = reached.try_iter().last().unwrap_or(at);
        watcher.reached(last, last, &|| file.sync_data(), false)?;
    }
    watcher.reached(last, last, &|| file.sync_data(), true)
}

/// Writes what is known of an entry before anything is fetched: its header, its content if it is no blob, and in
/// a file that was written before, the zeros after it.
fn write_known(file: &File, entry: &Entry, resumed: bool) -> io::Result<()> {
    let mut bytes = entry.header();
    let content = entry.offset + bytes.len() as u64;
    if let Content::Bytes(known) = &entry.content {
        bytes.extend_from_slice(known);
    }
    file.write_all_at(&bytes, entry.offset)?;
    let padding = tar::padded(entry.size()).unwrap_or_default() - entry.size();
    if resumed && padding > 0 {
        file.write_all_at(&[0; tar::BLOCK][..padding as usize], content + entry.size())?;
    }
    Ok(())
}

/// Fetches one blob to its place; once more from the start where its bytes were wrong.
async fn fetch(
    fetching: Fetching,
    file: Arc<Shared>,
    entry: Entry,
    descriptor: Descriptor,
    mut found: Found,
) -> Result<(), Failed> {
    let mut tries = 1;
    loop {
        let was_found = !matches!(found, Found::Nothing);
        let mut written = 0;
        match fetch_once(&fetching, &file, &entry, &descriptor, std::mem::take(&mut found), &mut written).await {
            Err(Failed::Store(e)) if e.is_corruption() && (was_found || tries < CORRUPTION_TRIES) => {
                tracing::warn!("{e}; reading it again");
                fetching.progress.take_back(written);
                tries += u32::from(!was_found) as usize;
            }
            other => return other,
        }
    }
}

/// Writes the next piece of a blob that begins at `start`.
async fn put(fetching: &Fetching, file: &Shared, piece: &[u8], start: u64, written: &mut u64) -> io::Result<()> {
    file.write_all_at(piece, start + *written).await?;
    *written += piece.len() as u64;
    fetching.written.store(true, Relaxed);
    fetching.progress.add_bytes(piece.len() as u64);
    Ok(())
}

async fn fetch_once(
    fetching: &Fetching,
    file: &Shared,
    entry: &Entry,
    descriptor: &Descriptor,
    found: Found,
    written: &mut u64,
) -> Result<(), Failed> {
    let start = entry.offset + entry.header().len() as u64;
    let mut reader = match found {
        Found::Start(known) => {
            *written = known.length;
            fetching.progress.add_bytes(known.length);
            fetching.store.open_blob_after(descriptor, known).await?
        }
        _ => fetching.store.open_blob(descriptor).await?,
    };
    let mut gathered = Vec::with_capacity(WRITE_BYTES.min(descriptor.size as usize));
    let mut due = Instant::now() + WRITE_WAIT;
    loop {
        let next = if gathered.is_empty() { Ok(reader.next().await) } else { timeout_at(due, reader.next()).await };
        let chunk = match next {
            Ok(Some(chunk)) => chunk?,
            Ok(None) => break,
            Err(_) => {
                put(fetching, file, &gathered, start, written).await?;
                gathered.clear();
                continue;
            }
        };
        if gathered.is_empty() {
            due = Instant::now() + WRITE_WAIT;
        }
        let whole = gathered.is_empty() && chunk.len() >= WRITE_BYTES;
        if !whole {
            gathered.extend_from_slice(&chunk);
            if gathered.len() < WRITE_BYTES {
                continue;
            }
        }
        put(fetching, file, if whole { &chunk } else { &gathered }, start, written).await?;
        gathered.clear();
    }
    put(fetching, file, &gathered, start, written).await?;
    fetching.progress.add_items(1);
    Ok(())
}
