//! Writing a regular file: several fetches at once, each writing its chunks where the plan has them, in
//! the task that received and hashed them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use futures_util::StreamExt;
use tokio::task::JoinSet;

use super::{Failed, Fetching, finished};
use crate::archive::plan::{Content, Entry, Plan};
use crate::image::Descriptor;
use crate::medium::file::NewFile;
use crate::pipeline::Context;
use crate::pipeline::walk::CORRUPTION_TRIES;
use crate::store::Store;

/// Bytes that are written to the file at once: each write has its price.
const WRITE_BYTES: usize = 256 << 10;

/// A file that tasks write to by turns. The system lets one at a time write to a file and has the threads of all others
/// wait; whoever waits here leaves its thread to those who receive and hash.
struct Shared {
    file: Arc<File>,
    turn: tokio::sync::Mutex<()>,
}

impl Shared {
    async fn write_all_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        let _turn = self.turn.lock().await;
        self.file.write_all_at(bytes, offset)
    }
}

/// Writes all of `plan` to the file. `Ok`: every blob in it was verified.
pub async fn write(cx: &Context, store: &Arc<dyn Store>, plan: &Plan, file: &NewFile) -> Result<(), Failed> {
    file.file().set_len(plan.length)?;
    let file = Arc::new(Shared { file: file.file().clone(), turn: tokio::sync::Mutex::default() });
    let fetching = Fetching { store: store.clone(), progress: cx.progress.clone() };
    let mut tasks = JoinSet::new();
    for entry in &plan.entries {
        match &entry.content {
            Content::Blob(descriptor) => {
                while tasks.len() >= cx.jobs() {
                    if let Some(done) = tasks.join_next().await {
                        finished(done)?;
                    }
                }
                tasks.spawn(fetch(fetching.clone(), file.clone(), entry.clone(), (**descriptor).clone()));
            }
            Content::Bytes(bytes) => {
                let mut whole = entry.header();
                whole.extend_from_slice(bytes);
                file.write_all_at(&whole, entry.offset).await?;
                cx.progress.add_bytes(bytes.len() as u64);
                cx.progress.add_items(u64::from(entry.descriptor.is_some()));
            }
            Content::Directory => file.write_all_at(&entry.header(), entry.offset).await?,
        }
    }
    while let Some(done) = tasks.join_next().await {
        finished(done)?;
    }
    Ok(())
}

/// Fetches one blob to its place; once more from the start where its bytes were wrong.
async fn fetch(fetching: Fetching, file: Arc<Shared>, entry: Entry, descriptor: Descriptor) -> Result<(), Failed> {
    let mut tries = 1;
    loop {
        let mut written = 0;
        match fetch_once(&fetching, &file, &entry, &descriptor, &mut written).await {
            Err(Failed::Store(e)) if e.is_corruption() && tries < CORRUPTION_TRIES => {
                tracing::warn!("{e}; reading it again");
                fetching.progress.take_back(written);
                tries += 1;
            }
            other => return other,
        }
    }
}

/// Writes the next piece of a blob that begins at `start`.
async fn put(fetching: &Fetching, file: &Shared, piece: &[u8], start: u64, written: &mut u64) -> std::io::Result<()> {
    file.write_all_at(piece, start + *written).await?;
    *written += piece.len() as u64;
    fetching.progress.add_bytes(piece.len() as u64);
    Ok(())
}

async fn fetch_once(
    fetching: &Fetching,
    file: &Shared,
    entry: &Entry,
    descriptor: &Descriptor,
    written: &mut u64,
) -> Result<(), Failed> {
    let mut reader = fetching.store.open_blob(descriptor).await?;
    let header = entry.header();
    let start = entry.offset + header.len() as u64;
    file.write_all_at(&header, entry.offset).await?;
    let mut gathered = Vec::with_capacity(WRITE_BYTES.min(descriptor.size as usize));
    while let Some(chunk) = reader.next().await {
        let chunk = chunk?;
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
