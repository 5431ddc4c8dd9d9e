//! Putting one blob in place with as few requests and bytes as can be: found there, mounted from where
//! the registry has it already, or streamed from its source.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::future::try_join_all;

use super::Shared;
use super::destination::Kind;
use super::graph::Way;
use super::rehearsal::THERE;
use crate::image::{Descriptor, Digest};
use crate::pipeline::Progress;
use crate::pipeline::walk::CORRUPTION_TRIES;
use crate::store::{self, BlobReader, BlobSource, Name, Pushed, StoredBlob};

impl Way {
    /// Puts a blob of the source in place, once in a run. Returns when it is there.
    pub async fn blob(&self, descriptor: &Descriptor) -> Result<(), Shared> {
        self.land(descriptor, &self.stored(descriptor)).await
    }

    /// Nothing is to be done about that blob any more: it is in place, or left out. False: that was known, or somebody
    /// is putting it there and goes on, to the same end.
    pub fn found(&self, descriptor: &Descriptor) -> bool {
        self.destination.cell(Kind::Blob, descriptor.digest).set(()).is_ok()
    }

    /// Of what is expected to be in place, what is not; the rest is known from now on.
    pub async fn lacking(&self, expected: &[Descriptor]) -> store::Result<Vec<Digest>> {
        let to = &self.destination.store;
        let asked = expected.iter().map(async |descriptor| {
            let cell = self.destination.cell(Kind::Blob, descriptor.digest);
            if cell.initialized() {
                return Ok::<_, store::Error>(None);
            }
            let _permit = self.run.permit().await;
            // Registries keep manifests apart from blobs, those of types that we do not know included.
            let name = Name::Digest(descriptor.digest);
            let there = to.has_blob(descriptor).await? || to.resolve(&name).await?.is_some();
            if there {
                self.note_there(descriptor, THERE);
                self.found(descriptor);
            }
            Ok((!there).then_some(descriptor.digest))
        });
        Ok(try_join_all(asked).await?.into_iter().flatten().collect())
    }

    fn stored(&self, descriptor: &Descriptor) -> StoredBlob {
        StoredBlob { store: self.source.clone(), descriptor: descriptor.with_addresses() }
    }

    /// Puts a blob in place whose bytes come from `bytes`, once in a run.
    pub async fn land(&self, descriptor: &Descriptor, bytes: &dyn BlobSource) -> Result<(), Shared> {
        let cell = self.destination.cell(Kind::Blob, descriptor.digest);
        cell.get_or_try_init(|| async {
            let (digest, source) = (descriptor.digest, self.source.describe());
            if let Some(error) = self.destination.failure(Kind::Blob, digest, &source) {
                return Err(error);
            }
            if !self.run.planned {
                self.run.progress.expect(1, descriptor.size);
            }
            let work = self.destination.work();
            let pushed = self.place_blob(descriptor, bytes).await.map_err(Shared::from).inspect_err(|e| {
                self.destination.note_failure(Kind::Blob, digest, &source, e);
            })?;
            work.done();
            if pushed == Pushed::Existed {
                self.note_there(descriptor, THERE);
            }
            self.run.count(pushed, descriptor.size);
            self.run.progress.add_items(1);
            Ok(())
        })
        .await
        .copied()
    }

    async fn place_blob(&self, descriptor: &Descriptor, bytes: &dyn BlobSource) -> store::Result<Pushed> {
        let to = &self.destination.store;
        if self.source.describe() == to.describe() {
            self.run.progress.add_bytes(descriptor.size);
            return Ok(Pushed::Existed);
        }
        let Some(site) = to.site() else { return self.ask_and_push(descriptor, bytes).await };
        if self.source.site() == Some(site) {
            return self.push(descriptor, bytes, self.source.repository()).await;
        }
        // The first repository of a registry gets the bytes, the others mount them from it.
        let first = self.run.first_in_site(site, descriptor.digest);
        let mut pushed = None;
        let here = &mut pushed;
        let repository = first
            .get_or_try_init(|| async move {
                *here = Some(self.ask_and_push(descriptor, bytes).await?);
                Ok::<_, store::Error>(to.repository().unwrap_or_default().to_owned())
            })
            .await?;
        match pushed {
            Some(pushed) => Ok(pushed),
            None => self.push(descriptor, bytes, Some(repository)).await,
        }
    }

    async fn ask_and_push(&self, descriptor: &Descriptor, bytes: &dyn BlobSource) -> store::Result<Pushed> {
        let found = {
            let _permit = self.run.permit().await;
            self.destination.has_blob(descriptor).await
        };
        if found {
            self.run.progress.add_bytes(descriptor.size);
            return Ok(Pushed::Existed);
        }
        self.push(descriptor, bytes, None).await
    }

    /// Sends a blob of the source, wherever it is said to be.
    pub(super) async fn send(&self, descriptor: &Descriptor) -> store::Result<Pushed> {
        self.push(descriptor, &self.stored(descriptor), None).await
    }

    /// Sends a blob, or mounts it. What was corrupt on the way is read again.
    async fn push(
        &self,
        descriptor: &Descriptor,
        bytes: &dyn BlobSource,
        mount_from: Option<&str>,
    ) -> store::Result<Pushed> {
        let _permit = self.run.permit().await;
        if self.is_rehearsal() {
            return self.rehearse_blob(descriptor, mount_from).await;
        }
        let size = descriptor.size;
        let source = Counted { bytes, size, progress: self.run.progress.clone(), passed: Arc::default() };
        let mut tries = 1;
        loop {
            match self.destination.store.push_blob(descriptor, &source, mount_from).await {
                Ok(pushed) => {
                    source.settle();
                    return Ok(pushed);
                }
                // A file says the same again.
                Err(e) if e.is_corruption() && self.source.site().is_some() && tries < CORRUPTION_TRIES => {
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

/// A blob that counts its bytes as they pass; opened again, it counts from there.
struct Counted<'a> {
    bytes: &'a dyn BlobSource,
    size: u64,
    progress: Arc<Progress>,
    passed: Arc<AtomicU64>,
}

impl Counted<'_> {
    fn take_back(&self) {
        self.progress.take_back(self.passed.swap(0, Relaxed));
    }

    /// The blob is in place, however many of its bytes went through here.
    fn settle(&self) {
        self.take_back();
        self.progress.add_bytes(self.size);
    }
}

#[async_trait]
impl BlobSource for Counted<'_> {
    async fn open(&self, offset: u64) -> store::Result<BlobReader> {
        self.take_back();
        Ok(self.counted(self.bytes.open(offset).await?, offset))
    }

    async fn open_unverified(&self, offset: u64) -> store::Result<BlobReader> {
        self.take_back();
        Ok(self.counted(self.bytes.open_unverified(offset).await?, offset))
    }
}

impl Counted<'_> {
    /// Counts what comes through `reader`, which begins after `offset` bytes.
    fn counted(&self, reader: BlobReader, offset: u64) -> BlobReader {
        let (progress, passed) = (self.progress.clone(), self.passed.clone());
        passed.fetch_add(offset, Relaxed);
        progress.add_bytes(offset);
        Box::pin(reader.inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                passed.fetch_add(chunk.len() as u64, Relaxed);
                progress.add_bytes(chunk.len() as u64);
            }
        }))
    }
}
