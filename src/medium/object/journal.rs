//! What a later run needs to go on with an upload: a file of lines of JSON, the upload first and then each part that
//! the store has.
//!
//! Invariant: a part is written down when the store has answered for it, so a run that is killed at any time leaves
//! a journal that is true; a line that was cut counts for nothing.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Object;
use super::part::Part;
use crate::config::OwnFile;
use crate::image::Digest;
use crate::medium::identity::Identity;

/// An upload that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Upload {
    pub url: String,
    pub site: String,
    pub archive: Identity,
    /// Bytes of the archive before it is compressed.
    pub length: u64,
    /// The store's name for it.
    pub id: String,
    /// Bytes of each part but the last.
    pub part_size: u64,
}

/// The journal of one object. Only one run at a time has it.
#[derive(Debug)]
pub struct Journal {
    own: OwnFile,
}

/// What a journal tells.
#[derive(Debug, Default)]
pub struct Recalled {
    pub upload: Option<Upload>,
    /// Parts that the store has, by their number, without a gap from the first.
    pub parts: Vec<Part>,
}

impl Journal {
    /// Opens the journal of an object in the user's directory for `state`, and reads it. Fails with `ResourceBusy` where
    /// another run has it.
    pub fn open(state: Option<&Path>, object: &Object) -> io::Result<(Self, Recalled)> {
        let state = state.ok_or_else(|| {
            io::Error::other("there is no place to write down what was sent: set XDG_STATE_HOME to a directory")
        })?;
        let key = Digest::sha256(format!("{}\n{}", object.site, object.url).as_bytes());
        Self::open_file(&state.join("uploads"), &format!("{}.jsonl", key.hex()))
    }

    fn open_file(directory: &Path, name: &str) -> io::Result<(Self, Recalled)> {
        let at = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", directory.join(name).display()));
        let busy = || io::Error::new(io::ErrorKind::ResourceBusy, "another run is writing this object");
        let own = OwnFile::hold(directory, name).and_then(|held| held.ok_or_else(busy)).map_err(at)?;
        let mut text = Vec::new();
        (&own.file).read_to_end(&mut text).map_err(at)?;
        let recalled = recall(&String::from_utf8_lossy(&text));
        Ok((Journal { own }, recalled))
    }

    /// Writes down a new upload, in the place of any other.
    pub fn begin(&mut self, upload: &Upload) -> io::Result<()> {
        self.own.file.set_len(0)?;
        self.append(upload)
    }

    /// Writes down a part that the store has.
    pub fn add(&mut self, part: &Part) -> io::Result<()> {
        self.append(part)
    }

    fn append(&mut self, line: &impl Serialize) -> io::Result<()> {
        let at = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", self.own.path().display()));
        let mut text = serde_json::to_vec(line)?;
        // A line that was cut before ends here.
        text.insert(0, b'\n');
        text.push(b'\n');
        let mut file = &self.own.file;
        file.seek(io::SeekFrom::End(0)).and_then(|_| file.write_all(&text)).and_then(|()| file.sync_data()).map_err(at)
    }

    /// Forgets the upload: there is nothing to go on with.
    pub fn forget(self) -> io::Result<()> {
        match std::fs::remove_file(self.own.path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

fn recall(text: &str) -> Recalled {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let upload = lines.next().and_then(|line| serde_json::from_str::<Upload>(line).ok());
    let Some(upload) = upload else { return Recalled::default() };
    // Parts end in any order; one that was sent again counts as it was sent last.
    let parts = lines.filter_map(|line| serde_json::from_str::<Part>(line).ok());
    let parts: BTreeMap<usize, Part> = parts.map(|part| (part.number, part)).collect();
    let mut parts: Vec<Part> = parts.into_values().collect();
    // Where some answers prove what the store has, the others are wrong.
    if parts.iter().any(|part| part.proved) {
        parts.retain(|part| part.proved);
    }
    let is_last = |at: usize| at + 1 == parts.len();
    let gapless = parts
        .iter()
        .enumerate()
        .take_while(|(at, part)| {
            let before = upload.part_size.saturating_mul(*at as u64);
            let fits = match upload.archive.compression {
                None => part.size == upload.length.saturating_sub(before).min(upload.part_size),
                Some(_) => part.size == upload.part_size || part.size < upload.part_size && is_last(*at),
            };
            part.number == *at && part.size > 0 && fits
        })
        .count();
    parts.truncate(gapless);
    Recalled { upload: Some(upload), parts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_of_the_parts_before_the_first_gap_wherever_it_was_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        let open = || Journal::open_file(directory.path(), "j");
        let digest = Digest::sha256(b"");
        let archive = Identity { reference: "a".into(), root: digest, plan: digest, compression: None };
        let upload =
            Upload { url: "s3://b/k".into(), site: "aws".into(), archive, length: 24, id: "u".into(), part_size: 5 };
        let part = |number| Part {
            number,
            size: if number == 4 { 4 } else { 5 },
            digest,
            md5: [0; 16],
            content_id: "e".into(),
            proved: true,
        };
        {
            let (mut journal, recalled) = open().unwrap();
            assert!(recalled.upload.is_none());
            journal.begin(&upload).unwrap();
            for number in [1, 0, 2, 4] {
                journal.add(&part(number)).unwrap();
            }
            assert_eq!(open().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        }
        let whole = std::fs::read(&path).unwrap();
        let recalled = recall(&String::from_utf8_lossy(&whole));
        assert_eq!((recalled.upload, recalled.parts.len()), (Some(upload.clone()), 3));
        let mut counts = Vec::new();
        for cut in 0..=whole.len() {
            let recalled = recall(&String::from_utf8_lossy(&whole[..cut]));
            assert!(recalled.upload.is_none_or(|found| found == upload));
            counts.push(recalled.parts.len());
        }
        assert!(counts.is_sorted());
        assert_eq!((counts.first(), counts.last()), (Some(&0), Some(&3)));
        let (mut journal, _) = open().unwrap();
        journal.add(&part(3)).unwrap();
        assert_eq!(recall(&std::fs::read_to_string(&path).unwrap()).parts.len(), 5);
    }
}
