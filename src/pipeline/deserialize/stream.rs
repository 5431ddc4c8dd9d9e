//! One pass over an archive that cannot be read twice: entries are put in place as they come, several at
//! once within the byte budget; what may be a manifest is kept until everything was seen.

use std::collections::HashMap;
use std::io::BufRead;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::landing::Landing;
use super::promise::Held;
use crate::archive::contents::read_index;
use crate::archive::reader::{self, Ending, Entries, Entry, Name, Stream};
use crate::image::manifest::MAX_MANIFEST_BYTES;
use crate::image::{Descriptor, Digest};
use crate::medium::compression::decompress;
use crate::pipeline::{Context, Error, Result};
use crate::store::{self, BlobReader, BlobSource, BytesBlob, VerifyingReader};

/// Bytes that pass from the reading thread at once, and how many such chunks may wait.
const CHUNK: usize = 256 << 10;
const QUEUE: usize = 4;
/// All that may be manifests together, in bytes.
const MAX_KEPT: u64 = 512 << 20;
/// Budgets are counted in units of this many bytes.
const UNIT: u64 = 1024;

enum Event {
    Blob { digest: Digest, size: u64 },
    Data(Bytes),
    Index(Vec<Descriptor>),
    End(std::result::Result<Ending, reader::Error>),
}

/// Reads all of `input`. Gives what was kept, the indexes, and how the archive ended.
pub async fn read(
    cx: &Context,
    landing: &Arc<Landing>,
    place: &str,
    input: Box<dyn BufRead + Send>,
) -> Result<(Held, Vec<Vec<Descriptor>>, Ending)> {
    let (sender, mut events) = mpsc::channel(QUEUE);
    let thread = std::thread::Builder::new().name("archive-reader".into());
    let io = |source| Error::Io { path: place.into(), source };
    thread
        .spawn(move || {
            let end = give(input, &sender);
            let _ = sender.blocking_send(Event::End(end));
        })
        .map_err(io)?;
    let budget = (cx.byte_budget / UNIT).clamp(4 << 10, u64::from(u32::MAX));
    let permits = Arc::new(Semaphore::new(budget as usize));
    let mut kept = Kept { by_digest: HashMap::new(), bytes: 0 };
    let mut indexes = Vec::new();
    let mut tasks = JoinSet::new();
    while let Some(event) = events.recv().await {
        while let Some(done) = tasks.try_join_next() {
            landed(done)?;
        }
        let (digest, size) = match event {
            Event::Index(index) => {
                indexes.push(index);
                continue;
            }
            Event::Data(_) => continue,
            Event::End(end) => {
                let ending = end.map_err(|e| match e {
                    reader::Error::Io(source) => io(source),
                    e => Error::Refused(format!("{place}: {e}")),
                })?;
                while let Some(done) = tasks.join_next().await {
                    match landed(done) {
                        // The blob that was cut: the ending tells.
                        Err(e) if ending != Ending::Complete => tracing::info!("{e}"),
                        other => other?,
                    }
                }
                return Ok((Held::Kept(Arc::new(kept.by_digest)), indexes, ending));
            }
            Event::Blob { digest, size } => (digest, size),
        };
        let descriptor = Descriptor::new("application/octet-stream", digest, size);
        let units = size.div_ceil(UNIT).clamp(1, budget / 4) as u32;
        let permit = permits.clone().acquire_many_owned(units).await.map_err(|e| io(std::io::Error::other(e)))?;
        let whole = size <= budget / 4 * UNIT;
        let first = if size == 0 { Some(Bytes::new()) } else { next(&mut events).await };
        let Some(first) = first else { continue };
        let maybe_manifest = size <= MAX_MANIFEST_BYTES && first.trim_ascii_start().starts_with(b"{");
        if whole || maybe_manifest {
            let mut all = BytesMut::with_capacity(size as usize);
            all.extend_from_slice(&first);
            while (all.len() as u64) < size
                && let Some(chunk) = next(&mut events).await
            {
                all.extend_from_slice(&chunk);
            }
            if (all.len() as u64) < size {
                continue;
            }
            let bytes = all.freeze();
            if maybe_manifest {
                kept.keep(place, digest, bytes)?;
                continue;
            }
            let landing = landing.clone();
            tasks.spawn(async move {
                let _permit = permit;
                let source = BytesBlob { descriptor: descriptor.clone(), bytes };
                landing.blob(&descriptor, &source, true).await
            });
            continue;
        }
        let (chunks, passing) = mpsc::channel(QUEUE);
        let (to, place) = (landing.clone(), place.to_owned());
        tasks.spawn(async move {
            let _permit = permit;
            let source = Passing { descriptor: descriptor.clone(), chunks: Mutex::new(Some(passing)), place };
            to.blob(&descriptor, &source, true).await
        });
        let mut seen = first.len() as u64;
        let mut wanted = chunks.send(Ok(first)).await.is_ok();
        while seen < size {
            let Some(chunk) = next(&mut events).await else {
                let torn = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                let _ = chunks.send(Err(store::Error::io("the archive", torn))).await;
                break;
            };
            seen += chunk.len() as u64;
            wanted = wanted && chunks.send(Ok(chunk)).await.is_ok();
        }
    }
    Err(io(std::io::Error::other("the reader ended early")))
}

fn landed(done: std::result::Result<store::Result<()>, tokio::task::JoinError>) -> Result<()> {
    Ok(done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?)
}

/// The next bytes of the current entry; `None` where the archive was cut, which the end tells.
async fn next(events: &mut mpsc::Receiver<Event>) -> Option<Bytes> {
    match events.recv().await {
        Some(Event::Data(bytes)) if !bytes.is_empty() => Some(bytes),
        _ => None,
    }
}

/// The reading thread.
fn give(input: Box<dyn BufRead + Send>, events: &mpsc::Sender<Event>) -> std::result::Result<Ending, reader::Error> {
    let mut entries = Entries::new(Stream(decompress(input)?));
    let gone = || std::io::Error::other("stopped");
    loop {
        let Entry { name, size, offset } = match entries.advance()? {
            Ok(entry) => {
                match entry.name {
                    Name::Blob(_) => {}
                    Name::Layout | Name::Other => continue,
                    Name::Index => {
                        let Some(index) = read_index(&mut entries, entry)? else {
                            return Ok(Ending::Torn { offset: entry.offset });
                        };
                        events.blocking_send(Event::Index(index)).map_err(|_| gone())?;
                        continue;
                    }
                }
                entry
            }
            Err(ending) => return Ok(ending),
        };
        let Name::Blob(digest) = name else { continue };
        events.blocking_send(Event::Blob { digest, size }).map_err(|_| gone())?;
        let mut left = size;
        while left > 0 {
            let mut chunk = vec![0; left.min(CHUNK as u64) as usize];
            let n = entries.read(&mut chunk)?;
            let torn = n < chunk.len();
            chunk.truncate(n);
            if torn {
                // An empty chunk tells that the entry is not whole.
                events.blocking_send(Event::Data(Bytes::new())).map_err(|_| gone())?;
                return Ok(Ending::Torn { offset });
            }
            left -= n as u64;
            events.blocking_send(Event::Data(chunk.into())).map_err(|_| gone())?;
        }
    }
}

/// What may be a manifest.
struct Kept {
    by_digest: HashMap<Digest, Bytes>,
    bytes: u64,
}

impl Kept {
    fn keep(&mut self, place: &str, digest: Digest, bytes: Bytes) -> Result<()> {
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != digest {
            let (expected, actual) = (Box::new(digest), Box::new(actual));
            return Err(
                store::Error::Digest { what: format!("blob {digest}"), place: place.into(), expected, actual }.into()
            );
        }
        self.bytes += bytes.len() as u64;
        if self.bytes > MAX_KEPT {
            return Err(Error::Refused(format!(
                "{place}: its manifests have more than {MAX_KEPT} bytes: read it from a regular, uncompressed file"
            )));
        }
        self.by_digest.insert(digest, bytes);
        Ok(())
    }
}

/// A blob that passes by, once.
struct Passing {
    descriptor: Descriptor,
    chunks: Mutex<Option<mpsc::Receiver<store::Result<Bytes>>>>,
    place: String,
}

#[async_trait]
impl BlobSource for Passing {
    async fn open(&self) -> store::Result<BlobReader> {
        let chunks = self.chunks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(chunks) = chunks else {
            let reason = format!(
                "blob {} has passed and cannot be sent again: read the archive from a regular, uncompressed file, \
                 or give a larger byte budget",
                self.descriptor.digest
            );
            return Err(store::Error::Unusable { place: self.place.clone(), reason });
        };
        let stream =
            futures_util::stream::unfold(chunks, |mut chunks| async move { chunks.recv().await.map(|c| (c, chunks)) });
        Ok(VerifyingReader::new(&self.descriptor, self.place.clone(), stream.boxed()).into_reader())
    }
}
