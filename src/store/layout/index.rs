//! `index.json` of a layout: read with a cache, changed by read-modify-write under a lock file, so that
//! several tasks and several processes may name images in one layout at once. What this program does not
//! know (fields, annotations, entries) stays as it was; the file is replaced whole or not at all.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::write_whole;
use crate::image::{Descriptor, Digest, annotation, media_type};
use crate::store::{Error, Result};

/// Name of the file whose lock guards `index.json`.
const LOCK: &str = ".mirror.lock";
/// How long to wait for another process to finish its change; each takes milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);
/// The largest `index.json` that is read.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// What `index.json` said at one moment.
#[derive(Debug, Default)]
pub struct Entries {
    pub all: Vec<Descriptor>,
}

impl Entries {
    /// The entry of that name: by its exact name, else the only image whose name ends in `:NAME`, else,
    /// where no name was asked for (`latest`), the only entry there is.
    pub fn named(&self, name: &str) -> Option<&Descriptor> {
        let ref_name = |d: &&Descriptor| d.annotation(annotation::REF_NAME).unwrap_or_default().to_owned();
        if let Some(exact) = self.all.iter().find(|d| ref_name(d) == name) {
            return Some(exact);
        }
        let ending = format!(":{name}");
        let mut ends: Vec<&Descriptor> = self.all.iter().filter(|d| ref_name(d).ends_with(&ending)).collect();
        ends.dedup_by_key(|d| d.digest);
        match (ends.as_slice(), self.all.as_slice()) {
            ([one], _) => Some(one),
            ([], [only]) if name == "latest" => Some(only),
            _ => None,
        }
    }

    pub fn by_digest(&self, digest: &Digest) -> Option<&Descriptor> {
        self.all.iter().find(|d| d.digest == *digest)
    }

    pub fn names(&self) -> Vec<String> {
        let names: BTreeSet<&str> = self.all.iter().filter_map(|d| d.annotation(annotation::REF_NAME)).collect();
        names.into_iter().map(str::to_owned).collect()
    }
}

/// A manifest to enter: under a name, or without one so that its subject can be asked for it.
pub struct Entry {
    pub descriptor: Descriptor,
    pub name: Option<String>,
}

impl Entry {
    fn to_json(&self) -> Value {
        let d = &self.descriptor;
        let mut entry = json!({ "mediaType": d.media_type, "digest": d.digest, "size": d.size });
        if let Some(artifact_type) = &d.artifact_type {
            entry["artifactType"] = json!(artifact_type);
        }
        if let Some(name) = &self.name {
            entry["annotations"] = json!({ annotation::REF_NAME: name });
        }
        entry
    }
}

/// Tells one state of the file from another.
type Stamp = (u64, i64, i64, u64);

/// The index of one layout directory.
pub struct Index {
    directory: PathBuf,
    cache: Mutex<Option<(Stamp, Arc<Entries>)>>,
    waiting: Mutex<Waiting>,
    /// Held by the task that writes, for itself and for all that wait: many pushes cost few rewrites.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Waiting {
    entries: Vec<(u64, Arc<Entry>)>,
    last: u64,
}

impl Index {
    pub fn new(directory: &Path) -> Self {
        Index {
            directory: directory.to_owned(),
            cache: Mutex::default(),
            waiting: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.join("index.json")
    }

    /// Changes whenever the file does; `None` while there is none.
    pub fn stamp(&self) -> Result<Option<Stamp>> {
        match fs::metadata(self.path()) {
            Ok(m) => Ok(Some((m.ino(), m.mtime(), m.mtime_nsec(), m.len()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(self.path().display(), e)),
        }
    }

    /// The entries as they are now. No file: no entries.
    pub fn read(&self) -> Result<Arc<Entries>> {
        let Some(stamp) = self.stamp()? else { return Ok(Arc::default()) };
        if let Ok(cache) = self.cache.lock()
            && let Some((cached, entries)) = cache.as_ref()
            && *cached == stamp
        {
            return Ok(entries.clone());
        }
        let document = self.load()?;
        let mut all = Vec::new();
        for entry in document.get("manifests").and_then(Value::as_array).into_iter().flatten() {
            // An entry with a digest of a kind unknown here cannot be used, but does not spoil the others.
            if let Ok(descriptor) = serde_json::from_value::<Descriptor>(entry.clone()) {
                all.push(descriptor);
            }
        }
        let entries = Arc::new(Entries { all });
        if let Ok(mut cache) = self.cache.lock() {
            *cache = Some((stamp, entries.clone()));
        }
        Ok(entries)
    }

    fn load(&self) -> Result<Map<String, Value>> {
        let path = self.path();
        let unusable = |reason: String| Error::Unusable { place: path.display().to_string(), reason };
        let bytes = match fs::metadata(&path) {
            Ok(m) if m.len() > MAX_INDEX_BYTES => return Err(unusable(format!("{} bytes are too many", m.len()))),
            Ok(_) => fs::read(&path).map_err(|e| Error::io(path.display(), e))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
            Err(e) => return Err(Error::io(path.display(), e)),
        };
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(document)) => Ok(document),
            Ok(_) => Err(unusable("not the index of an OCI layout: not a JSON object".into())),
            Err(e) => Err(unusable(format!("not the index of an OCI layout: {e}"))),
        }
    }

    /// Enters one manifest; an image that had the name loses it. Returns when it is in the file.
    pub async fn enter(&self, entry: Entry) -> Result<()> {
        let ticket = {
            let mut waiting = self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            waiting.last += 1;
            let ticket = waiting.last;
            waiting.entries.push((ticket, Arc::new(entry)));
            ticket
        };
        let _writing = self.writing.lock().await;
        let batch: Vec<(u64, Arc<Entry>)> = {
            let waiting = self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            waiting.entries.clone()
        };
        if !batch.iter().any(|(t, _)| *t == ticket) {
            return Ok(());
        }
        // What fails stays in line: each of those that wait tries it, and hears of its own failure.
        let result = self.write(&batch).await;
        let mut waiting = self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match result {
            Ok(()) => waiting.entries.retain(|(t, _)| !batch.iter().any(|(done, _)| done == t)),
            Err(_) => waiting.entries.retain(|(t, _)| *t != ticket),
        }
        result
    }

    async fn write(&self, batch: &[(u64, Arc<Entry>)]) -> Result<()> {
        let _lock = self.lock().await?;
        let mut document = self.load()?;
        document.entry("schemaVersion").or_insert(json!(2));
        document.entry("mediaType").or_insert(json!(media_type::OCI_INDEX));
        let manifests = document.entry("manifests").or_insert(json!([]));
        if manifests.is_null() {
            *manifests = json!([]);
        }
        let Some(list) = manifests.as_array_mut() else {
            let place = self.path().display().to_string();
            return Err(Error::Unusable { place, reason: "\"manifests\" is not a list".into() });
        };
        let mut changed = false;
        let mut places = Places::of(list);
        for (_, entry) in batch {
            changed |= places.put(list, entry);
        }
        if !changed && self.path().exists() {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&document).map_err(|e| Error::io(self.path().display(), e.into()))?;
        write_whole(&self.directory, &self.path(), &bytes)
    }

    async fn lock(&self) -> Result<fs::File> {
        let path = self.directory.join(LOCK);
        let io = |e| Error::io(path.display(), e);
        let file = fs::File::options().create(true).truncate(false).write(true).open(&path).map_err(io)?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::Error(e)) => return Err(Error::io(path.display(), e)),
                Err(fs::TryLockError::WouldBlock) if begun.elapsed() > LOCK_PATIENCE => {
                    let reason = format!("another process has held this lock for {} s", LOCK_PATIENCE.as_secs());
                    return Err(Error::Unusable { place: path.display().to_string(), reason });
                }
                Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

/// Where names and digests stand in the list, so that a batch of changes is not quadratic.
struct Places {
    names: HashMap<String, usize>,
    digests: BTreeSet<String>,
}

impl Places {
    fn of(list: &[Value]) -> Self {
        let mut places = Places { names: HashMap::new(), digests: BTreeSet::new() };
        for (at, entry) in list.iter().enumerate() {
            if let Some(name) = entry.pointer(NAME_POINTER).and_then(Value::as_str) {
                places.names.entry(name.to_owned()).or_insert(at);
            }
            if let Some(digest) = entry.get("digest").and_then(Value::as_str) {
                places.digests.insert(digest.to_owned());
            }
        }
        places
    }

    /// Whether the list changed.
    fn put(&mut self, list: &mut Vec<Value>, entry: &Entry) -> bool {
        let digest = entry.descriptor.digest.to_string();
        let at = match &entry.name {
            None if self.digests.contains(&digest) => return false,
            None => None,
            Some(name) => self.names.get(name).copied(),
        };
        match at {
            Some(at) if list[at].get("digest").and_then(Value::as_str) == Some(&digest) => return false,
            Some(at) => list[at] = entry.to_json(),
            None => {
                list.push(entry.to_json());
                if let Some(name) = &entry.name {
                    self.names.insert(name.clone(), list.len() - 1);
                }
            }
        }
        self.digests.insert(digest);
        true
    }
}

/// `annotations` / `org.opencontainers.image.ref.name`.
const NAME_POINTER: &str = "/annotations/org.opencontainers.image.ref.name";
