//! Writing an archive into an object, by parts of which several are on their way at once.
//!
//! Memory is bounded by the parts on their way and the one that is filled. What an unfinished run sent stays, if a
//! later one can go on with it; else the upload is given up.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use object_store::ObjectStoreExt;
use object_store::multipart::{MultipartStore, PartId};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::journal::{Journal, Recalled, Upload};
use super::part::{Filling, Part, Proof, composite};
use super::{Access, Commit, Object, reader, schedule, wait};
use crate::archive::follow;
use crate::archive::plan::Plan;
use crate::medium::block_buffer::{Finished, Medium};
use crate::medium::identity::Identity;

/// Giving up an upload is tried for so long.
const GIVING_UP: Duration = Duration::from_secs(10);

/// Where an archive is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectWritten {
    /// Bytes of it.
    pub length: u64,
    /// Bytes of each of its parts but the last.
    pub part_size: u64,
    pub parts: usize,
    /// It was read back and compared, as the store's answers did not prove what it holds.
    pub read_back: bool,
}

/// What is to be written.
pub struct Wanted<'a> {
    pub archive: Identity,
    /// Bytes of the archive before it is compressed.
    pub length: u64,
    /// Go on with what an earlier run sent.
    pub resume: bool,
    /// Replace an object that is there.
    pub force: bool,
    /// Directory for what this run leaves to the next.
    pub state: Option<&'a Path>,
}

/// An upload that was begun, or is to be gone on with.
pub struct Begun {
    object: Object,
    journal: Journal,
    upload: Upload,
    parts: Vec<Part>,
}

/// How an archive stands at its store.
pub enum Standing {
    /// All of it is there; it has so many bytes.
    Complete(u64),
    Begun(Box<Begun>),
}

/// Tells of an upload that did not end well.
pub struct Watch {
    ended: oneshot::Receiver<()>,
    kept: Arc<AtomicUsize>,
    id: String,
}

impl Watch {
    /// Waits until nothing more is done. What a later run can go on with, if there is such a thing.
    pub async fn left(self) -> Option<String> {
        let _ = tokio::time::timeout(GIVING_UP, self.ended).await;
        match self.kept.load(Relaxed) {
            0 => None,
            1 => Some(format!("the part that the store has (upload {})", self.id)),
            parts => Some(format!("the {parts} parts that the store has (upload {})", self.id)),
        }
    }
}

/// Looks at what is there, and begins. An upload that is not gone on with is given up.
pub async fn begin(url: &str, access: &Access, wanted: &Wanted<'_>) -> io::Result<Standing> {
    let compressed = wanted.archive.compression.is_some();
    let part_size = schedule::part_size(wanted.length, compressed);
    let object = Object::new(url, access)?;
    let (mut journal, Recalled { upload, parts }) = Journal::open(wanted.state, &object)?;
    if wanted.resume
        && let Some(commit) = object.commit().await?
        && commit.archive.is_same(&wanted.archive)
    {
        journal.forget()?;
        return Ok(Standing::Complete(commit.length));
    }
    if let Some(upload) = upload {
        if wanted.resume && upload.archive.is_same(&wanted.archive) {
            return Ok(Standing::Begun(Box::new(Begun { object, journal, upload, parts })));
        }
        if wanted.resume {
            return Err(io::Error::other(format!(
                "what an earlier run began there is {}: replace it by the same command without --resume",
                upload.archive
            )));
        }
        tracing::warn!(
            "{url}: the {} parts of an earlier run are given up: --resume would go on with them",
            parts.len()
        );
        give_up(&object, &upload.id).await;
    }
    if !wanted.force {
        object.refuse_existing().await?;
    }
    let id = object.store.create_multipart(&object.path).await.map_err(|e| object.failed(e))?;
    let upload = Upload {
        url: object.url.to_string(),
        site: object.site.to_string(),
        archive: wanted.archive.clone(),
        length: wanted.length,
        id,
        part_size,
    };
    journal.begin(&upload)?;
    Ok(Standing::Begun(Box::new(Begun { object, journal, upload, parts: Vec::new() })))
}

async fn give_up(object: &Object, id: &String) {
    let abort = object.store.abort_multipart(&object.path, id);
    let problem = match tokio::time::timeout(GIVING_UP, abort).await {
        Ok(Ok(())) | Ok(Err(object_store::Error::NotFound { .. })) => return,
        Ok(Err(e)) => object.failed(e).to_string(),
        Err(_) => "the store does not answer".into(),
    };
    tracing::warn!(
        "{}: upload {id} stays at the store, and may cost something until it is removed: {problem}",
        object.url
    );
}

impl Begun {
    /// Bytes of the archive that the store has.
    pub fn offset(&self) -> u64 {
        self.parts.iter().map(|part| part.size).sum()
    }

    /// Where writing goes on: a blob that the store has in part was not verified when it was sent. So the part that it
    /// begins in, and all behind it, are made once more and compared; only what differs is sent again. Of a compressed
    /// archive nobody can tell where a part begins in it: all of it is made once more.
    pub fn restart(&self, plan: &Plan) -> u64 {
        if self.upload.archive.compression.is_some() {
            return 0;
        }
        let standing = follow::Standing::at(plan, self.offset());
        match plan.entries.get(standing.entry) {
            Some(entry) if standing.within > 0 => entry.offset / self.upload.part_size * self.upload.part_size,
            _ => standing.offset,
        }
    }

    /// The medium, to be written from the start of a part on, and what tells of it.
    pub fn start(self, offset: u64) -> (ObjectWriter, Watch) {
        let Begun { object, journal, upload, parts } = self;
        let (running, ended) = oneshot::channel();
        let kept = Arc::new(AtomicUsize::new(parts.len()));
        let watch = Watch { ended, kept: kept.clone(), id: upload.id.clone() };
        let writer = ObjectWriter {
            runtime: Handle::current(),
            most: schedule::in_flight(upload.part_size),
            number: offset.div_ceil(upload.part_size) as usize,
            parts: parts.into_iter().map(|part| (part.number, part)).collect(),
            journal: Some(journal),
            filling: Filling::new(),
            in_flight: JoinSet::new(),
            object,
            upload,
            proof: Arc::default(),
            kept,
            _running: running,
        };
        (writer, watch)
    }
}

/// An archive on its way into an object.
pub struct ObjectWriter {
    runtime: Handle,
    object: Object,
    upload: Upload,
    /// Gone when all is done.
    journal: Option<Journal>,
    /// What comes next, and its number.
    filling: Filling,
    number: usize,
    in_flight: JoinSet<io::Result<Part>>,
    /// The most parts on their way.
    most: usize,
    /// What the store has.
    parts: BTreeMap<usize, Part>,
    proof: Arc<Proof>,
    kept: Arc<AtomicUsize>,
    /// Dropped when all is over.
    _running: oneshot::Sender<()>,
}

impl ObjectWriter {
    fn send(&mut self) -> io::Result<()> {
        while self.in_flight.len() >= self.most {
            self.take_one()?;
        }
        let part = std::mem::replace(&mut self.filling, Filling::new()).seal();
        let number = self.number;
        self.number += 1;
        if let Some(there) = self.parts.get(&number) {
            if part.is(there) {
                return Ok(());
            }
            tracing::warn!("part {} of {} is not as it should be: it is sent again", number + 1, self.object.url);
            self.parts.remove(&number);
        }
        let sending = part.send(self.object.clone(), self.upload.id.clone(), number, self.proof.clone());
        self.in_flight.spawn_on(sending, &self.runtime);
        Ok(())
    }

    /// Waits for one of the parts on their way.
    fn take_one(&mut self) -> io::Result<()> {
        let runtime = &self.runtime;
        let Some(ended) = tokio::task::block_in_place(|| runtime.block_on(self.in_flight.join_next())) else {
            return Ok(());
        };
        let part = match ended.map_err(io::Error::other)? {
            Ok(part) => part,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(self.gone(&e)),
            Err(e) => return Err(e),
        };
        self.parts.insert(part.number, part.clone());
        // Where some answers are MD5 sums, all are.
        if self.parts.values().any(|part| part.proved)
            && let Some(altered) = self.parts.values().find(|part| !part.proved)
        {
            return Err(altered_on_the_way(altered.number, "was stored with another checksum than it has"));
        }
        if let Some(journal) = &mut self.journal {
            journal.add(&part)?;
            self.kept.store(self.parts.len(), Relaxed);
        }
        Ok(())
    }

    /// The store has forgotten the upload: there is nothing to go on with.
    fn gone(&mut self, why: &io::Error) -> io::Error {
        self.parts.clear();
        self.kept.store(0, Relaxed);
        io::Error::other(format!(
            "the store no longer has what was sent before ({why}); run the same command again, it begins anew"
        ))
    }

    /// The parts were not put together.
    fn refused(&mut self, why: object_store::Error) -> io::Error {
        let is_gone = matches!(why, object_store::Error::NotFound { .. });
        let why = self.object.failed(why);
        if is_gone { self.gone(&why) } else { why }
    }

    /// What the store holds is not what was sent: it goes away, and there is nothing to go on with.
    fn altered(&mut self, why: io::Error) -> io::Error {
        self.parts.clear();
        self.kept.store(0, Relaxed);
        let object = self.object.clone();
        let discarded = wait(&self.runtime, async move { Ok(object.discard(&why).await) });
        discarded.unwrap_or_else(|e| e)
    }

    /// Puts the parts together and looks at the outcome.
    fn complete(&mut self) -> io::Result<ObjectWritten> {
        let parts: Vec<Part> = self.parts.values().cloned().collect();
        let (archive, part_size) = (self.upload.archive.clone(), self.upload.part_size);
        let length = parts.iter().map(|part| part.size).sum();
        let commit = Commit::new(archive, length, part_size, parts.iter().map(|part| part.digest).collect());
        let (object, runtime) = (self.object.clone(), self.runtime.clone());
        let ids = parts.iter().map(|part| PartId { content_id: part.content_id.clone() }).collect();
        let (at, id) = (object.clone(), self.upload.id.clone());
        let joined = wait(&runtime, async move {
            at.remove_commit().await?;
            let joined = at.store.complete_multipart(&at.path, &id, ids).await;
            let there = at.store.head(&at.path).await;
            Ok((joined, there))
        })?;
        let (there, composite) = (joined.1, composite(&parts));
        let is_proved = parts.iter().all(|part| part.proved);
        let is_ours = |tag: &Option<String>| tag.as_ref().is_some_and(|tag| tag.trim_matches('"') == composite);
        // An earlier try may have done it, and its answer was lost. Where answers prove nothing, reading it back tells.
        let may_be_ours = |e_tag| !is_proved || is_ours(e_tag);
        let refused = match joined.0 {
            Ok(_) => None,
            Err(e) if there.as_ref().is_ok_and(|t| t.size == length && may_be_ours(&t.e_tag)) => Some(e),
            Err(e) => return Err(self.refused(e)),
        };
        let there = there.map_err(|e| object.failed(e))?;
        if there.size != length {
            let (size, url) = (there.size, &object.url);
            return Err(io::Error::other(format!(
                "{length} bytes were sent and {size} are there: another program writes {url} as well"
            )));
        }
        let proved = is_proved && is_ours(&there.e_tag);
        if !proved {
            tracing::info!("{}: the store does not say what it holds: reading it back", object.url);
            match (wait(&runtime, reader::check(object.clone(), there.e_tag, commit.clone())), refused) {
                (Ok(()), _) => {}
                (Err(e), None) if e.kind() == io::ErrorKind::InvalidData => return Err(self.altered(e)),
                // It is another one, that was there before.
                (Err(e), Some(refused)) if e.kind() == io::ErrorKind::InvalidData => return Err(self.refused(refused)),
                (Err(e), _) => return Err(e),
            }
        }
        wait(&runtime, async move { object.put_commit(&commit).await })?;
        Ok(ObjectWritten { length, part_size, parts: parts.len(), read_back: !proved })
    }
}

fn altered_on_the_way(number: usize, how: &str) -> io::Error {
    io::Error::other(format!(
        "part {} {how}: something between here and the store alters what is sent (a proxy, a network card): find it first",
        number + 1
    ))
}

impl Medium for ObjectWriter {
    fn write(&mut self, block: &[u8]) -> io::Result<()> {
        let mut rest = block;
        while !rest.is_empty() {
            let room = usize::try_from(self.upload.part_size - self.filling.size()).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(rest.len().min(room));
            self.filling.add(now);
            rest = later;
            if self.filling.size() == self.upload.part_size {
                self.send()?;
            }
        }
        Ok(())
    }

    fn pads(&self) -> bool {
        false
    }

    fn finish(mut self: Box<Self>) -> io::Result<Finished> {
        if self.filling.size() > 0 {
            self.send()?;
        }
        while !self.in_flight.is_empty() {
            self.take_one()?;
        }
        // What another version of the program compressed may have been longer.
        self.parts.split_off(&self.number);
        let written = self.complete()?;
        if let Some(journal) = self.journal.take() {
            journal.forget()?;
        }
        Ok(Finished::Object(written))
    }
}

impl Drop for ObjectWriter {
    fn drop(&mut self) {
        if self.kept.load(Relaxed) == 0
            && let Some(journal) = self.journal.take()
        {
            self.in_flight.abort_all();
            let (object, id) = (self.object.clone(), self.upload.id.clone());
            // The next run does it, where this one is interrupted.
            let given_up = wait(&self.runtime, async move {
                give_up(&object, &id).await;
                Ok(())
            });
            if given_up.is_ok()
                && let Err(e) = journal.forget()
            {
                tracing::warn!("the journal of {} cannot be removed: {e}", self.object.url);
            }
        }
    }
}
