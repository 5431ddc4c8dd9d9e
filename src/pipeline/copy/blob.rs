//! Putting one blob in place with as few requests and bytes as can be: found there, mounted from where
//! the registry has it already, or streamed from its source.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use futures_util::StreamExt;

use super::destination::Kind;
use super::{Shared, Way};
use crate::image::Descriptor;
use crate::pipeline::Progress;
use crate::pipeline::walk::CORRUPTION_TRIES;
use crate::store::{self, BlobReader, BlobSource, Pushed, Store};

impl Way {
    /// Puts a blob in place, once in a run. Returns when it is there.
    pub(super) async fn blob(&self, descriptor: &Descriptor) -> Result<(), Shared> {
        let cell = self.destination.cell(Kind::Blob, descriptor.digest);
        cell.get_or_try_init(|| async {
            let (digest, source) = (descriptor.digest, self.source.describe());
            if let Some(error) = self.destination.failure(Kind::Blob, digest, &source) {
                return Err(error);
            }
            self.run.progress.expect(1, descriptor.size);
            let pushed = self.place_blob(descriptor).await.map_err(Shared::from).inspect_err(|e| {
                self.destination.note_failure(Kind::Blob, digest, &source, e);
            })?;
            self.run.count(pushed, descriptor.size);
            self.run.progress.add_items(1);
            Ok(())
        })
        .await
        .copied()
    }

    async fn place_blob(&self, descriptor: &Descriptor) -> store::Result<Pushed> {
        let to = &self.destination.store;
        if self.source.describe() == to.describe() {
            self.run.progress.add_bytes(descriptor.size);
            return Ok(Pushed::Existed);
        }
        let Some(site) = to.site() else { return self.ask_and_push(descriptor).await };
        if self.source.site() == Some(site) {
            return self.push(descriptor, self.source.repository()).await;
        }
        // The first repository of a registry gets the bytes, the others mount them from it.
        let first = self.run.first_in_site(site, descriptor.digest);
        let mut pushed = None;
        let here = &mut pushed;
        let repository = first
            .get_or_try_init(|| async move {
                *here = Some(self.ask_and_push(descriptor).await?);
                Ok::<_, store::Error>(to.repository().unwrap_or_default().to_owned())
            })
            .await?;
        match pushed {
            Some(pushed) => Ok(pushed),
            None => self.push(descriptor, Some(repository)).await,
        }
    }

    async fn ask_and_push(&self, descriptor: &Descriptor) -> store::Result<Pushed> {
        let found = {
            let _permit = self.run.permit().await;
            self.destination.has_blob(descriptor).await
        };
        if found {
            self.run.progress.add_bytes(descriptor.size);
            return Ok(Pushed::Existed);
        }
        self.push(descriptor, None).await
    }

    /// Sends a blob, or mounts it. What was corrupt on the way is read again.
    pub(super) async fn push(&self, descriptor: &Descriptor, mount_from: Option<&str>) -> store::Result<Pushed> {
        let _permit = self.run.permit().await;
        let source = Counted {
            store: self.source.clone(),
            descriptor: descriptor.bare(),
            progress: self.run.progress.clone(),
            passed: Arc::default(),
        };
        let mut tries = 1;
        loop {
            match self.destination.store.push_blob(descriptor, &source, mount_from).await {
                Ok(pushed) => {
                    source.settle();
                    return Ok(pushed);
                }
                Err(e) if e.is_corruption() && tries < CORRUPTION_TRIES => {
                    tracing::warn!("{e}; reading it again");
                    tries += 1;
                }
                Err(e) => {
                    source.take_back();
                    return Err(e);
                }
            }
        }
    }
}

/// A blob of the source that counts its bytes as they pass; opened again, it counts from the start.
struct Counted {
    store: Arc<dyn Store>,
    descriptor: Descriptor,
    progress: Arc<Progress>,
    passed: Arc<AtomicU64>,
}

impl Counted {
    fn take_back(&self) {
        self.progress.take_back(self.passed.swap(0, Relaxed));
    }

    /// The blob is in place, however many of its bytes went through here.
    fn settle(&self) {
        self.take_back();
        self.progress.add_bytes(self.descriptor.size);
    }
}

#[async_trait]
impl BlobSource for Counted {
    async fn open(&self) -> store::Result<BlobReader> {
        self.take_back();
        let reader = self.store.open_blob(&self.descriptor).await?;
        let (progress, passed) = (self.progress.clone(), self.passed.clone());
        Ok(Box::pin(reader.inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                passed.fetch_add(chunk.len() as u64, Relaxed);
                progress.add_bytes(chunk.len() as u64);
            }
        })))
    }
}
