//! Putting blobs and manifests in place at the destination, each once, and knowing what is there.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;

use crate::image::{Descriptor, Digest, ImageName, Manifest};
use crate::pipeline::copy::luck::Luck;
use crate::pipeline::{Context, Moved, Progress, Result};
use crate::store::{self, BlobSource, Name, Pushed, Store};

/// Blobs of at least this size are always worth the question.
const LARGE: u64 = 1 << 20;

/// The destination of one run.
pub struct Landing {
    pub store: Arc<dyn Store>,
    /// What the root is to be called there.
    pub name: Name,
    pub dry_run: bool,
    progress: Arc<Progress>,
    landed: Mutex<HashSet<Digest>>,
    moved: Mutex<Moved>,
    luck: Luck,
}

impl Landing {
    pub fn new(cx: &Context, destination: &ImageName, dry_run: bool) -> Result<Self> {
        Ok(Landing {
            store: cx.stores.open(destination)?,
            name: destination.name(),
            dry_run,
            progress: cx.progress.clone(),
            landed: Mutex::default(),
            moved: Mutex::default(),
            luck: Luck::default(),
        })
    }

    pub fn has_landed(&self, digest: &Digest) -> bool {
        self.landed.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    pub fn moved(&self) -> Moved {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a blob in place. With `verify`, its bytes are read even where the destination has it.
    pub async fn blob(&self, descriptor: &Descriptor, source: &dyn BlobSource, verify: bool) -> store::Result<()> {
        self.progress.expect(1, descriptor.size);
        let pushed = if self.dry_run {
            drain(source).await?;
            Pushed::Existed
        } else if self.exists(descriptor).await? {
            if verify {
                drain(source).await?;
            }
            Pushed::Existed
        } else {
            self.store.push_blob(descriptor, source, None).await?
        };
        self.progress.add_bytes(descriptor.size);
        self.progress.add_items(1);
        self.landed.lock().unwrap_or_else(PoisonError::into_inner).insert(descriptor.digest);
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).count(pushed, descriptor.size);
        Ok(())
    }

    /// Whether the destination has a blob; for small ones a guess of no, where it has had none so far.
    async fn exists(&self, descriptor: &Descriptor) -> store::Result<bool> {
        if descriptor.size >= LARGE {
            return self.store.has_blob(descriptor).await;
        }
        let Some(question) = self.luck.ask().await else { return Ok(false) };
        let found = self.store.has_blob(descriptor).await?;
        question.answered(found);
        Ok(found)
    }

    /// Puts a manifest in place, whose children are.
    pub async fn manifest(&self, manifest: &Manifest, tag: Option<&str>) -> store::Result<()> {
        if self.dry_run {
            return Ok(());
        }
        self.store.push_manifest(manifest, tag).await?;
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).manifests_sent += 1;
        Ok(())
    }
}

/// Reads a blob to its verified end.
async fn drain(source: &dyn BlobSource) -> store::Result<()> {
    let mut reader = source.open().await?;
    while let Some(chunk) = reader.next().await {
        chunk?;
    }
    Ok(())
}
