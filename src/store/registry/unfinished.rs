//! Notes on large uploads under way, for the run that comes after one that died: where the registry has what came of
//! a blob so far. One small file for each, named by 64 hexadecimal digits, in a directory of the user's own where other
//! things lie as well.
//!
//! Invariants: a note is used by one run at a time; it never leads to another origin than that of the endpoint the
//! upload was begun at; anything odd about a note, or about its file, is the same as no note.

use std::fs;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::route::Route;
use crate::config::OwnFile;
use crate::image::{Descriptor, Digest};

/// Blobs from this size on (bytes) are worth a note.
const LARGE: u64 = 16 << 20;
/// No registry keeps an unfinished upload for longer.
const EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);
/// A note has one address; no registry's is so long.
const LARGEST_NOTE: u64 = 64 << 10;

/// All notes of a user.
#[derive(Debug)]
pub struct Unfinished {
    directory: Option<PathBuf>,
    swept: Once,
}

/// What a note says.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    digest: Digest,
    url: Url,
}

/// The note on one upload, held by this run.
#[derive(Debug)]
pub struct Note {
    file: OwnFile,
    digest: Digest,
}

impl Unfinished {
    /// Notes in `directory`, which need not exist; none are taken without.
    pub fn new(directory: Option<PathBuf>) -> Self {
        Unfinished { directory, swept: Once::new() }
    }

    /// The note on the upload of a blob through `route`. `None`: the blob is small, another run is at work on the same
    /// one, or no note can be taken.
    pub fn note(&self, route: &Route, descriptor: &Descriptor) -> Option<Note> {
        let directory = self.directory.as_ref().filter(|_| descriptor.size >= LARGE)?;
        let name = format!("{} {} {}", route.origin(), route.repository, descriptor.digest);
        self.swept.call_once(|| sweep(directory));
        match OwnFile::hold(directory, &Digest::sha256(name.as_bytes()).hex()) {
            Ok(file) => Some(Note { file: file?, digest: descriptor.digest }),
            Err(e) => {
                tracing::debug!("{}: no note of an upload can be taken: {e}", directory.display());
                None
            }
        }
    }
}

/// Removes notes that nobody wrote to for so long that no registry knows of the upload any more. Journals of uploads to S3
/// lie here too: those stay until their upload is finished or given up.
fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let is_note = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| format!("sha256:{name}").parse::<Digest>().is_ok())
    };
    for entry in entries.flatten().filter(is_note) {
        let age = entry.metadata().ok().filter(fs::Metadata::is_file).and_then(|m| m.modified().ok()?.elapsed().ok());
        if age.is_some_and(|age| age > EXPIRY) {
            // It may be gone by now.
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Note {
    /// Where an earlier run has left the upload, if it is at that endpoint.
    pub fn left_at(&self, route: &Route) -> Option<Url> {
        let mut text = Vec::new();
        let mut file = &self.file.file;
        file.rewind().ok()?;
        file.take(LARGEST_NOTE).read_to_end(&mut text).ok()?;
        let content: Content = serde_json::from_slice(&text).ok()?;
        (content.digest == self.digest && route.is_home(&content.url)).then_some(content.url)
    }

    /// Writes down where the upload is now. What is at another origin is not gone on with by another run.
    pub fn write(&self, route: &Route, url: &Url) {
        if !route.is_home(url) {
            return self.remove();
        }
        let write = || {
            let mut file = &self.file.file;
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&serde_json::to_vec(&Content { digest: self.digest, url: url.clone() })?)
        };
        if let Err(e) = write() {
            let e: io::Error = e;
            tracing::debug!("{}: {e}", self.file.path().display());
        }
    }

    /// Nothing is left to go on with.
    pub fn remove(&self) {
        self.file.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Access, Config};
    use crate::image::Reference;
    use crate::store::registry::Client;
    use std::fs::File;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;
    use std::time::SystemTime;

    fn route(name: &str) -> Arc<Route> {
        let client = Arc::new(Client::new(Arc::new(Config::default())));
        let reference: Reference = name.parse().unwrap();
        Client::repository(&client, &reference, Access::Push).unwrap().routes[0].clone()
    }

    fn large(content: &[u8]) -> Descriptor {
        Descriptor::new("", Digest::sha256(content), LARGE)
    }

    #[test]
    fn a_note_is_for_one_run_and_one_origin() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("state/uploads");
        let unfinished = Unfinished::new(Some(directory.clone()));
        let (here, elsewhere) = (route("127.0.0.1:5000/a"), route("127.0.0.1:5001/a"));
        let blob = large(b"1");
        let session = Url::parse("http://127.0.0.1:5000/v2/a/blobs/uploads/1?_state=x").unwrap();
        let note = unfinished.note(&here, &blob).unwrap();
        assert_eq!(note.left_at(&here), None);
        note.write(&here, &session);
        assert!(unfinished.note(&here, &blob).is_none(), "it is in use");
        assert!(unfinished.note(&route("127.0.0.1:5000/b"), &blob).is_some(), "another repository");
        assert!(unfinished.note(&here, &Descriptor { size: LARGE - 1, ..blob.clone() }).is_none(), "a small blob");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(note.file.path()), mode(&directory)), (0o600, 0o700));
        drop(note);

        let note = unfinished.note(&here, &blob).unwrap();
        assert_eq!(note.left_at(&here), Some(session.clone()));
        assert_eq!(note.left_at(&elsewhere), None);
        // Torn, of another blob, or open to others.
        note.file.file.set_len(20).unwrap();
        assert_eq!(note.left_at(&here), None);
        note.write(&here, &session);
        fs::set_permissions(note.file.path(), fs::Permissions::from_mode(0o644)).unwrap();
        let path = note.file.path().to_owned();
        drop(note);
        assert!(unfinished.note(&here, &blob).is_none());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(home.path().join("other"), &path).unwrap();
        assert!(unfinished.note(&here, &blob).is_none());
        fs::remove_file(&path).unwrap();
        let note = unfinished.note(&here, &blob).unwrap();
        note.write(&here, &Url::parse("http://127.0.0.2/v2/a/blobs/uploads/1").unwrap());
        assert!(!path.exists(), "another host is not gone on with");
        assert!(Unfinished::new(None).note(&here, &blob).is_none());
    }

    #[test]
    fn old_notes_go_away_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let name = |of: &[u8]| Digest::sha256(of).hex();
        let kept = [(name(b"new"), 6), (format!("{}.jsonl", name(b"s3")), 8), ("README".to_owned(), 8)];
        for (name, days) in kept.iter().chain([&(name(b"old"), 8)]) {
            let file = File::create(home.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 3600)).unwrap();
        }
        let unfinished = Unfinished::new(Some(home.path().to_owned()));
        unfinished.note(&route("127.0.0.1:5000/a"), &large(b"1")).unwrap().remove();
        let left: std::collections::BTreeSet<String> =
            fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(left, kept.map(|(name, _)| name).into());
    }
}
