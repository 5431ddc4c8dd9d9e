//! A compressed archive in a regular file, and what an interrupted run left of one: it is read back frame by frame
//! against the plan, cut behind the last frame that is right, and goes on there.
//!
//! Invariant: what is gone on from was decompressed and compared, and is byte for byte what would be written now. Of
//! a blob that is there in part, only its end tells whether the part was right: if not, the archive goes on before it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::atomic::Ordering::Relaxed;

use super::there::{Place, There};
use super::{Failed, Work, ordered};
use crate::archive::follow::Mismatch;
use crate::archive::plan::Plan;
use crate::medium::compression::Compression;
use crate::medium::file::NewFile;
use crate::medium::ordered::{Output, Passage};
use crate::pipeline::copy::finished;

/// Writes a compressed archive, or what is missing of it; gives its length, and tells in `resumed` how many bytes of
/// the archive were there.
pub async fn write(
    work: &Work<'_>,
    compression: Compression,
    file: &NewFile,
    resumed: &mut u64,
) -> Result<u64, Failed> {
    let Work { cx, plan, options, .. } = work;
    let mut places = vec![Place::start()];
    if file.is_kept() {
        cx.progress.begin("verifying what is there");
        let (bytes, planned, how) = (file.file().clone(), Plan::clone(plan), (compression, options.level));
        let look = move || examine(&bytes, &planned, how);
        places = finished(tokio::task::spawn_blocking(look).await)?;
    }
    file.keep().store(true, Relaxed);
    for (at, Place { standing, length, .. }) in places.iter().enumerate() {
        let out = file.file();
        out.set_len(*length)?;
        (&**out).seek(SeekFrom::End(0))?;
        *resumed = standing.offset;
        work.begin();
        for entry in &plan.entries[..standing.entry] {
            cx.progress.add_bytes(entry.size());
            cx.progress.add_items(u64::from(entry.descriptor.is_some()));
        }
        let told = work.passage().map_err(io::Error::other)?;
        let mut passage = Passage { before: standing.offset, on_medium: *length, ..told };
        if standing.offset == plan.length {
            if let Some(watcher) = &mut passage.watcher {
                watcher.reached(plan.length, *length, &|| out.sync_data(), true)?;
            }
            return Ok(*length);
        }
        match ordered::write(cx, work.store, plan, standing, Output::Open(out.clone()), passage).await {
            Ok(written) => return Ok(length + written.bytes),
            Err(Failed::Store(e)) if e.is_corruption() && at + 1 < places.len() => {
                tracing::warn!("{e}; what was there of it is written anew");
            }
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other("there is no place to go on from").into())
}

/// The places to go on from, in the order in which they are to be tried: behind the last frame that is right, and
/// before the blob that is cut there.
fn examine(mut file: &File, plan: &Plan, how: (Compression, Option<i32>)) -> io::Result<Vec<Place>> {
    file.rewind()?;
    let mut there = There::new(plan, Some(how));
    let mut chunk = vec![0; 1 << 20];
    let wrong = loop {
        let n = file.read(&mut chunk)?;
        let taken = if n == 0 { there.place().map(drop) } else { there.take(&chunk[..n]) };
        if n == 0 || taken.is_err() {
            break taken;
        }
    };
    if let Err(Mismatch::Digest { .. }) = wrong {
        there.settle();
    }
    let (last, settled) = there.places();
    Ok([last].into_iter().chain(settled).collect())
}
