//! Hashing what a store holds, on all processors: each blob is read once, by the task that hashes it.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::image::{Descriptor, Digest};
use crate::pipeline::Context;
use crate::pipeline::copy::finished;
use crate::store::{self, BlobReader, Store};

/// Reads every blob to its end, so many at a time. Gives the failures; what is not there is among them.
pub async fn hash_all(
    cx: &Context,
    store: &Arc<dyn Store>,
    mut blobs: Vec<Descriptor>,
    at_once: usize,
) -> HashMap<Digest, store::Error> {
    // The largest first: none of them is left to one processor alone at the end.
    blobs.sort_by_key(|d| (std::cmp::Reverse(d.size), d.digest));
    for blob in &blobs {
        cx.progress.expect(1, blob.size);
    }
    let permits = Arc::new(Semaphore::new(at_once));
    let mut failed = HashMap::new();
    let mut reading = JoinSet::new();
    let mut settle = |(digest, read): (Digest, store::Result<()>)| {
        if let Err(e) = read {
            failed.insert(digest, e);
        }
    };
    for blob in blobs {
        let Ok(permit) = permits.clone().acquire_owned().await else { break };
        let (cx, store) = (cx.clone(), store.clone());
        reading.spawn(async move {
            let _permit = permit;
            let opened = store.open_blob(&blob).await;
            (
                blob.digest,
                match opened {
                    Ok(reader) => read(&cx, reader).await,
                    Err(e) => Err(e),
                },
            )
        });
        while let Some(done) = reading.try_join_next() {
            settle(finished(done));
        }
    }
    while let Some(done) = reading.join_next().await {
        settle(finished(done));
    }
    failed
}

/// Reads one blob to its verified end.
pub async fn read(cx: &Context, mut reader: BlobReader) -> store::Result<()> {
    while let Some(chunk) = reader.next().await {
        cx.progress.add_bytes(chunk?.len() as u64);
    }
    cx.progress.add_items(1);
    Ok(())
}
