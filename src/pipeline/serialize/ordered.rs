//! Writing in order, with fetches that run ahead within the byte budget.
//!
//! Each fetch reserves its share of the budget in the order of the archive, before it starts, and keeps
//! it until its blob is written; so the blob whose turn it is always has its share, and nothing waits for
//! a blob behind it. A blob that fits into its share is whole and verified before it is handed over; a
//! larger one is handed over in segments while it is hashed, and if it is wrong the archive ends there.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::Failed;
use crate::archive::follow::Standing;
use crate::archive::plan::{Content, Entry, Plan};
use crate::archive::tar;
use crate::image::Descriptor;
use crate::medium::ordered::{OrderedWriter, Output, Passage, Written};
use crate::pipeline::copy::finished;
use crate::pipeline::walk::CORRUPTION_TRIES;
use crate::pipeline::{Context, Progress};
use crate::store::{self, Prefix, Store};

/// Bytes that are handed over at once.
const SEGMENT: usize = 512 << 10;
/// Bytes that are given to the medium at once, about.
const WRITE: usize = 1 << 20;
/// What the budget has to leave for blocks that wait for the medium, and for the one that is being filled.
const WAITING: u64 = 5 << 20;
/// Budgets are counted in units of this many bytes.
const UNIT: u64 = 1024;

/// What every fetch needs.
#[derive(Clone)]
struct Fetching {
    store: Arc<dyn Store>,
    progress: Arc<Progress>,
}

/// A blob on its way.
struct Ahead {
    segments: mpsc::Receiver<Result<Bytes, store::Error>>,
    /// Given back when the blob is written; one that is handed over whole takes it along.
    share: Option<OwnedSemaphorePermit>,
    whole: bool,
}

/// A whole blob on its way to the medium, with its share of the budget.
struct Held {
    bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Writes `plan` in order from where it stands, and says what is on the medium then.
pub async fn write(
    cx: &Context,
    store: &Arc<dyn Store>,
    plan: &Plan,
    from: &Standing,
    output: Output,
    passage: Passage,
) -> Result<Written, Failed> {
    let mut writer = Blocks { writer: OrderedWriter::start(output, passage)?, pending: BytesMut::with_capacity(WRITE) };
    let fetching = Fetching { store: store.clone(), progress: cx.progress.clone() };
    let budget = (cx.byte_budget.saturating_sub(WAITING) / UNIT).clamp(4 * SEGMENT as u64 / UNIT, u64::from(u32::MAX));
    let mut ahead = FetchAhead {
        fetching,
        budget: Arc::new(Semaphore::new(budget as usize)),
        share: (budget / 4).max(SEGMENT as u64 / UNIT),
        jobs: cx.jobs(),
        to_start: left(plan, from).filter_map(|(entry, there)| Wanted::of(entry, there, from)).collect(),
        started: VecDeque::new(),
        tasks: Tasks(JoinSet::new()),
    };
    let gone = writer.writer.reader_gone();
    let put = tokio::select! {
        biased;
        put = put_all(cx, plan, from, &mut ahead, &mut writer) => put,
        e = gone => Err(e.into()),
    };
    match put {
        Ok(()) => Ok(writer.finish().await?),
        Err(e) => {
            writer.writer.stop().await;
            Err(e)
        }
    }
}

/// Puts everything that is left, in its order.
async fn put_all(
    cx: &Context,
    plan: &Plan,
    from: &Standing,
    ahead: &mut FetchAhead,
    writer: &mut Blocks,
) -> Result<(), Failed> {
    for (entry, there) in left(plan, from) {
        if !there.header.is_empty() {
            writer.put(&there.header).await?;
        }
        match &entry.content {
            Content::Directory => {}
            Content::Bytes(bytes) => {
                writer.put_bytes(bytes.slice(there.content as usize..)).await?;
                cx.progress.add_bytes(bytes.len() as u64);
            }
            Content::Blob(_) if there.is_whole(entry) => cx.progress.add_bytes(entry.size()),
            Content::Blob(descriptor) => {
                let mut blob = ahead.next().await?;
                let mut seen = there.content;
                cx.progress.add_bytes(seen);
                while let Some(segment) = blob.segments.recv().await {
                    let segment = segment?;
                    seen += segment.len() as u64;
                    let segment = match blob.whole {
                        true => Bytes::from_owner(Held { bytes: segment, _share: blob.share.take() }),
                        false => segment,
                    };
                    writer.put_bytes(segment).await?;
                    ahead.start_more();
                }
                if seen != descriptor.size {
                    return Err(Failed::Medium(std::io::Error::other("a fetch ended early")));
                }
            }
        }
        cx.progress.add_items(u64::from(entry.descriptor.is_some()));
        writer.pad(entry.size(), there.padding).await?;
    }
    let trailer = plan.length.saturating_sub(from.offset).min(tar::TRAILER as u64) as usize;
    Ok(writer.put(&[0; tar::TRAILER][..trailer]).await?)
}

/// What is missing of an entry, and how much is there.
struct There {
    /// The rest of its headers.
    header: Vec<u8>,
    /// Bytes of its content and of its padding that are there.
    content: u64,
    padding: u64,
}

impl There {
    fn is_whole(&self, entry: &Entry) -> bool {
        self.header.is_empty() && self.content == entry.size()
    }
}

/// The entries that are missing in whole or in part.
fn left<'a>(plan: &'a Plan, from: &'a Standing) -> impl Iterator<Item = (&'a Entry, There)> {
    plan.entries.iter().enumerate().skip(from.entry).map(|(at, entry)| {
        let mut header = entry.header();
        let within = if at == from.entry { from.within } else { 0 };
        let beyond = within.saturating_sub(header.len() as u64);
        header.drain(..header.len().min(usize::try_from(within).unwrap_or(usize::MAX)));
        let content = beyond.min(entry.size());
        (entry, There { header, content, padding: beyond - content })
    })
}

/// A blob to fetch.
struct Wanted {
    descriptor: Descriptor,
    /// What is there of it, hashed.
    known: Option<Prefix>,
    /// Bytes from its start that are there and were not hashed: all is fetched again, and verified.
    skip: u64,
}

impl Wanted {
    fn of(entry: &Entry, there: There, from: &Standing) -> Option<Self> {
        let Content::Blob(descriptor) = &entry.content else { return None };
        if there.is_whole(entry) {
            return None;
        }
        let hasher = from.hasher.clone().filter(|_| there.content > 0);
        let known = hasher.map(|hasher| Prefix { length: there.content, hasher });
        let skip = if known.is_some() { 0 } else { there.content };
        Some(Wanted { descriptor: (**descriptor).clone(), known, skip })
    }
}

/// Collects small writes into large ones.
struct Blocks {
    writer: OrderedWriter,
    pending: BytesMut,
}

impl Blocks {
    async fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= WRITE { self.flush().await } else { Ok(()) }
    }

    /// As `put`; what is large goes as it is.
    async fn put_bytes(&mut self, bytes: Bytes) -> std::io::Result<()> {
        if bytes.len() < SEGMENT / 2 {
            return self.put(&bytes).await;
        }
        self.flush().await?;
        self.writer.write(bytes).await
    }

    /// Pads content of `size` bytes to whole blocks; `there` bytes of the padding are there.
    async fn pad(&mut self, size: u64, there: u64) -> std::io::Result<()> {
        let over = (size % tar::BLOCK as u64) as usize;
        if over == 0 { Ok(()) } else { self.put(&[0; tar::BLOCK][over + there as usize..]).await }
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let block = std::mem::replace(&mut self.pending, BytesMut::with_capacity(WRITE));
        self.writer.write(block.freeze()).await
    }

    async fn finish(mut self) -> std::io::Result<Written> {
        self.flush().await?;
        self.writer.finish().await
    }
}

/// Fetches, aborted when this is dropped.
struct Tasks(JoinSet<()>);

impl Tasks {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        while let Some(done) = self.0.try_join_next() {
            finished(done);
        }
        self.0.spawn(task)
    }
}

/// Starts fetches in the order of the archive.
struct FetchAhead {
    fetching: Fetching,
    budget: Arc<Semaphore>,
    /// The largest share of one blob, in units.
    share: u64,
    jobs: usize,
    to_start: VecDeque<Wanted>,
    started: VecDeque<Ahead>,
    tasks: Tasks,
}

impl FetchAhead {
    fn units(&self, descriptor: &Descriptor) -> u32 {
        descriptor.size.div_ceil(UNIT).clamp(1, self.share) as u32
    }

    /// Starts as many as the budget and the number of jobs allow.
    fn start_more(&mut self) {
        while self.started.len() < self.jobs
            && let Some(wanted) = self.to_start.front()
            && let Ok(share) = self.budget.clone().try_acquire_many_owned(self.units(&wanted.descriptor))
            && let Some(wanted) = self.to_start.pop_front()
        {
            self.start(wanted, share);
        }
    }

    fn start(&mut self, Wanted { descriptor, known, skip }: Wanted, share: OwnedSemaphorePermit) {
        let whole = descriptor.size <= self.share * UNIT && known.is_none() && skip == 0;
        // Besides those that wait, one segment is being filled.
        let waiting = if whole { 1 } else { ((self.share * UNIT) as usize / SEGMENT).saturating_sub(1).max(1) };
        let (sender, segments) = mpsc::channel(waiting);
        let fetching = self.fetching.clone();
        self.tasks.spawn(async move {
            let failed = if whole {
                fetch_whole(&fetching, &descriptor, &sender).await
            } else {
                fetch_in_segments(&fetching, &descriptor, known, skip, &sender).await
            };
            if let Err(e) = failed {
                let _ = sender.send(Err(e)).await;
            }
        });
        self.started.push_back(Ahead { segments, share: Some(share), whole });
    }

    /// The next blob of the archive.
    async fn next(&mut self) -> Result<Ahead, Failed> {
        self.start_more();
        if let Some(blob) = self.started.pop_front() {
            return Ok(blob);
        }
        // Nothing is under way, so all of the budget is free or about to be.
        let wanted = self.to_start.pop_front().ok_or_else(|| std::io::Error::other("the plan has no such blob"))?;
        let share = self.budget.clone().acquire_many_owned(self.units(&wanted.descriptor)).await;
        self.start(wanted, share.map_err(std::io::Error::other)?);
        self.started.pop_front().ok_or_else(|| std::io::Error::other("the plan has no such blob").into())
    }
}

type Sender = mpsc::Sender<Result<Bytes, store::Error>>;

/// Reads a blob into memory and hands it over when it is right.
async fn fetch_whole(fetching: &Fetching, descriptor: &Descriptor, sender: &Sender) -> Result<(), store::Error> {
    let mut tries = 1;
    loop {
        let mut all = BytesMut::with_capacity(descriptor.size as usize);
        let read = async {
            let mut reader = fetching.store.open_blob(descriptor).await?;
            while let Some(chunk) = reader.next().await {
                let chunk = chunk?;
                all.extend_from_slice(&chunk);
                fetching.progress.add_bytes(chunk.len() as u64);
            }
            Ok::<_, store::Error>(())
        };
        match read.await {
            Ok(()) => {
                if !all.is_empty() {
                    let _ = sender.send(Ok(all.freeze())).await;
                }
                return Ok(());
            }
            Err(e) if e.is_corruption() && tries < CORRUPTION_TRIES => {
                tracing::warn!("{e}; reading it again");
                fetching.progress.take_back(all.len() as u64);
                tries += 1;
            }
            Err(e) => return Err(e),
        }
    }
}

/// Hands a large blob over while it is read, or what is missing of it.
async fn fetch_in_segments(
    fetching: &Fetching,
    descriptor: &Descriptor,
    known: Option<Prefix>,
    mut skip: u64,
    sender: &Sender,
) -> Result<(), store::Error> {
    let mut reader = match known {
        Some(known) => fetching.store.open_blob_after(descriptor, known).await?,
        None => fetching.store.open_blob(descriptor).await?,
    };
    let mut segment = BytesMut::with_capacity(SEGMENT);
    while let Some(chunk) = reader.next().await {
        let mut chunk = chunk?;
        let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
        chunk.advance(passed);
        skip -= passed as u64;
        fetching.progress.add_bytes(chunk.len() as u64);
        while !chunk.is_empty() {
            let part = chunk.split_to(chunk.len().min(SEGMENT - segment.len()));
            segment.extend_from_slice(&part);
            if segment.len() == SEGMENT {
                let full = std::mem::replace(&mut segment, BytesMut::with_capacity(SEGMENT));
                if sender.send(Ok(full.freeze())).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    if !segment.is_empty() {
        let _ = sender.send(Ok(segment.freeze())).await;
    }
    Ok(())
}
