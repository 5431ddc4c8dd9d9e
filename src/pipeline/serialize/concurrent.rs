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

/// Bytes that are written to the file at once. A file has one lock for its writers: many small writes by
/// many tasks would spend their time on it.
const WRITE_BYTES: usize = 256 << 10;

/// Writes all of `plan` to the file. `Ok`: every blob in it was verified.
pub async fn write(cx: &Context, store: &Arc<dyn Store>, plan: &Plan, file: &NewFile) -> Result<(), Failed> {
    let file = file.file();
    file.set_len(plan.length)?;
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
                file.write_all_at(&whole, entry.offset)?;
                cx.progress.add_bytes(bytes.len() as u64);
                cx.progress.add_items(u64::from(entry.descriptor.is_some()));
            }
            Content::Directory => file.write_all_at(&entry.header(), entry.offset)?,
        }
    }
    while let Some(done) = tasks.join_next().await {
        finished(done)?;
    }
    Ok(())
}

/// Fetches one blob to its place; once more from the start where its bytes were wrong.
async fn fetch(fetching: Fetching, file: Arc<File>, entry: Entry, descriptor: Descriptor) -> Result<(), Failed> {
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
fn put(fetching: &Fetching, file: &File, piece: &[u8], start: u64, written: &mut u64) -> std::io::Result<()> {
    file.write_all_at(piece, start + *written)?;
    *written += piece.len() as u64;
    fetching.progress.add_bytes(piece.len() as u64);
    Ok(())
}

async fn fetch_once(
    fetching: &Fetching,
    file: &File,
    entry: &Entry,
    descriptor: &Descriptor,
    written: &mut u64,
) -> Result<(), Failed> {
    let mut reader = fetching.store.open_blob(descriptor).await?;
    let header = entry.header();
    let start = entry.offset + header.len() as u64;
    file.write_all_at(&header, entry.offset)?;
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
        put(fetching, file, if whole { &chunk } else { &gathered }, start, written)?;
        gathered.clear();
    }
    put(fetching, file, &gathered, start, written)?;
    fetching.progress.add_items(1);
    Ok(())
}
