//! One pass over an archive that cannot be read twice: blobs are put in place as they come, several at once within
//! the byte budget; manifests are kept until everything was seen.
//!
//! Invariant: what is held never exceeds the byte budget. Manifests for which there is no room are put in place as
//! blobs, where they are found again.

use std::collections::HashMap;
use std::io::BufRead;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::passing::Passing;
use super::promise::without_base;
use crate::archive::contents::Contents;
use crate::archive::pass::{self, watch};
use crate::archive::reader::{self, Ending, Stream};
use crate::image::manifest::sniff_media_type;
use crate::image::{Descriptor, Digest, Manifest, media_type};
use crate::medium::compression::decompress;
use crate::pipeline::copy::{Shared, Way, finished};
use crate::pipeline::{Context, Error, Progress, Result};
use crate::store::{self, BlobSource, BytesBlob};

/// Chunks that may wait between the reading thread and whoever takes them.
const QUEUE: usize = 4;
/// Budgets are counted in units of this many bytes.
const UNIT: u64 = 1024;
/// The smallest budget that is worked with, in units.
const LEAST: u64 = 4 << 10;
/// Nothing larger than this is kept as a manifest, in bytes: registries take none.
const LARGEST_KEPT: u64 = 4 << 20;

/// Where the blobs of a stream go.
#[async_trait]
pub trait Landing: Send + Sync {
    /// Where that is, for messages.
    fn describe(&self) -> String;

    /// Of what the archive expects to be in place, what is not.
    async fn lacking(&self, expected: &[Descriptor]) -> Result<Vec<Digest>>;

    /// A blob begins to pass. Called in the order of the archive, which what comes of [`Landing::land`] is not.
    fn comes(&self, _digest: Digest) {}

    /// Returns when the blob is in place.
    async fn land(&self, descriptor: &Descriptor, bytes: &dyn BlobSource) -> std::result::Result<(), Shared>;

    /// A manifest passes and is kept in memory; what it names comes later, in the usual order.
    async fn passes(&self, _manifest: &Manifest) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Landing for Way {
    fn describe(&self) -> String {
        Way::describe(self)
    }

    async fn lacking(&self, expected: &[Descriptor]) -> Result<Vec<Digest>> {
        Ok(Way::lacking(self, expected).await?)
    }

    async fn land(&self, descriptor: &Descriptor, bytes: &dyn BlobSource) -> std::result::Result<(), Shared> {
        Way::land(self, descriptor, bytes).await
    }
}

/// Reads and verifies, and changes nothing.
pub struct ReadOnly(pub Arc<Progress>);

#[async_trait]
impl Landing for ReadOnly {
    fn describe(&self) -> String {
        "the destination".into()
    }

    /// Whoever only reads finds out in the end.
    async fn lacking(&self, _: &[Descriptor]) -> Result<Vec<Digest>> {
        Ok(Vec::new())
    }

    async fn land(&self, descriptor: &Descriptor, bytes: &dyn BlobSource) -> std::result::Result<(), Shared> {
        self.0.expect(1, descriptor.size);
        let mut reader = bytes.open(0).await?;
        while let Some(chunk) = reader.next().await {
            self.0.add_bytes(chunk?.len() as u64);
        }
        self.0.add_items(1);
        Ok(())
    }
}

/// What passed.
pub struct Passed {
    pub contents: Contents,
    /// Manifests that are in memory; all other blobs have landed.
    pub kept: Vec<Manifest>,
}

/// Reads all of `input`; `place` is what to call it.
pub async fn read(
    cx: &Context,
    place: &str,
    input: Box<dyn BufRead + Send>,
    landing: Arc<dyn Landing>,
) -> Result<Passed> {
    cx.progress.open_ended();
    let (sender, events) = mpsc::channel(QUEUE);
    let thread = std::thread::Builder::new().name("archive-reader".into());
    let io = |source| Error::Io { path: place.into(), source };
    let (ended, end) = tokio::sync::oneshot::channel();
    thread
        .spawn(move || {
            let gone = |_| std::io::Error::other("stopped");
            let mut give = |event| sender.blocking_send(event).map_err(gone);
            // Nobody may be listening any more.
            let _ = ended.send(decompress(input).map_err(Into::into).and_then(|i| watch(Stream(i), &mut give)));
        })
        .map_err(io)?;
    let budget = (cx.byte_budget / UNIT).clamp(LEAST, u64::from(u32::MAX));
    let mut reading = Reading {
        place,
        events,
        landing,
        budget,
        permits: Arc::new(Semaphore::new(budget as usize)),
        tasks: JoinSet::new(),
        kept: HashMap::new(),
        kept_units: 0,
    };
    reading.all().await?;
    let end = end.await.map_err(|_| io(std::io::Error::other("the reader ended early")))?;
    let contents = end.map_err(|e| match e {
        reader::Error::Io(source) => io(source),
        e => Error::Refused(format!("{place}: {e}")),
    })?;
    while let Some(done) = reading.tasks.join_next().await {
        match finished(done) {
            // The blob that was cut: the ending tells.
            Err(e) if contents.ending != Ending::Complete => tracing::info!("{e}"),
            other => other.map_err(Error::Shared)?,
        }
    }
    Ok(Passed { contents, kept: reading.kept.into_values().map(|(manifest, _)| manifest).collect() })
}

struct Reading<'a> {
    place: &'a str,
    events: mpsc::Receiver<pass::Passing>,
    landing: Arc<dyn Landing>,
    /// In units, as are the permits.
    budget: u64,
    permits: Arc<Semaphore>,
    tasks: JoinSet<std::result::Result<(), Shared>>,
    kept: HashMap<Digest, (Manifest, OwnedSemaphorePermit)>,
    kept_units: u64,
}

impl Reading<'_> {
    async fn all(&mut self) -> Result<()> {
        while let Some(event) = self.events.recv().await {
            while let Some(done) = self.tasks.try_join_next() {
                finished(done).map_err(Error::Shared)?;
            }
            match event {
                pass::Passing::Blob { digest, at } => {
                    self.blob(Descriptor::new("application/octet-stream", digest, at.size)).await?;
                }
                pass::Passing::Expected(expected) => {
                    let lacking = self.landing.lacking(&expected).await?;
                    if !lacking.is_empty() {
                        let (place, lacking) = (self.landing.describe(), lacking.into_iter().collect());
                        return Err(without_base(self.place, &place, lacking, true));
                    }
                }
                pass::Passing::Data(_) | pass::Passing::End => {}
            }
        }
        Ok(())
    }

    /// The next bytes of the blob; `None` at its end, and where the archive was cut.
    async fn next(&mut self) -> Option<Bytes> {
        match self.events.recv().await {
            Some(pass::Passing::Data(bytes)) => Some(bytes),
            _ => None,
        }
    }

    async fn blob(&mut self, descriptor: Descriptor) -> Result<()> {
        let units = descriptor.size.div_ceil(UNIT).clamp(1, self.budget / 4);
        let permits = self.permits.clone().acquire_many_owned(units as u32).await;
        let permits = permits.map_err(|e| Error::Io { path: self.place.into(), source: std::io::Error::other(e) })?;
        let first = self.next().await;
        let whole = units * UNIT >= descriptor.size;
        let is_object = first.as_ref().is_some_and(|b| b.trim_ascii_start().starts_with(b"{"));
        if let Some(first) = first.as_ref().filter(|_| is_object && whole && descriptor.size <= LARGEST_KEPT) {
            return self.object(descriptor, first, permits).await;
        }
        self.landing.comes(descriptor.digest);
        let passing = Passing::new(&descriptor, self.place, units * UNIT);
        let (landing, bytes) = (self.landing.clone(), passing.clone());
        let size = descriptor.size;
        self.tasks.spawn(async move {
            let landed = landing.land(&descriptor, &bytes).await;
            bytes.leave();
            drop(permits);
            landed
        });
        let (mut seen, mut chunk) = (0, first);
        while let Some(bytes) = chunk {
            seen += bytes.len() as u64;
            passing.push(bytes).await;
            chunk = self.next().await;
        }
        if seen < size {
            passing.cut();
        }
        Ok(())
    }

    /// A small JSON object: a manifest is kept, anything else lands.
    async fn object(&mut self, descriptor: Descriptor, first: &Bytes, permits: OwnedSemaphorePermit) -> Result<()> {
        let mut all = BytesMut::with_capacity(descriptor.size as usize);
        all.extend_from_slice(first);
        while let Some(chunk) = self.next().await {
            all.extend_from_slice(&chunk);
        }
        if (all.len() as u64) < descriptor.size {
            return Ok(());
        }
        let (bytes, digest, units) = (all.freeze(), descriptor.digest, permits.num_permits() as u64);
        let kind = sniff_media_type(&bytes).filter(|kind| media_type::is_manifest(kind));
        if let Some(kind) = kind.filter(|_| self.kept_units + units <= self.budget / 2) {
            let actual = Digest::of(digest.algorithm(), &bytes);
            if actual != digest {
                let (what, place) = (format!("blob {digest}"), self.place.into());
                let (expected, actual) = (Box::new(digest), Box::new(actual));
                return Err(store::Error::Digest { what, place, expected, actual }.into());
            }
            let descriptor = Descriptor::new(kind, digest, descriptor.size);
            let manifest = Manifest { descriptor, bytes };
            self.landing.passes(&manifest).await?;
            if self.kept.insert(digest, (manifest, permits)).is_none() {
                self.kept_units += units;
            }
            return Ok(());
        }
        let landing = self.landing.clone();
        landing.comes(descriptor.digest);
        self.tasks.spawn(async move {
            let _permits = permits;
            landing.land(&descriptor, &BytesBlob { descriptor: descriptor.clone(), bytes }).await
        });
        Ok(())
    }
}
