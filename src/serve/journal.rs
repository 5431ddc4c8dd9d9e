//! The journal `repositories.jsonl`: one JSON record a line, appended before the change is answered.
//!
//! Invariant: a record is on file before anyone is told of the change, and after the files that it
//! speaks of. A line torn by a crash is passed over, and nothing is ever appended to it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::contents::{Contents, Record};
use super::error::{Error, Result};
use super::layout_index;
use crate::image::reference::{is_repository, is_tag};

/// Name of the journal in the served directory.
pub(super) const FILE: &str = "repositories.jsonl";

#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    /// The file ends within a line.
    torn: bool,
}

impl Journal {
    /// Reads the journal of a directory into `contents`. Gives the number of records.
    pub fn load(directory: &Path, contents: &mut Contents) -> Result<usize> {
        let path = directory.join(FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(e) => return Err(Error::io(&path, e)),
        };
        let mut count = 0;
        for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
            let line = line.map_err(|e| Error::io(&path, e))?;
            match serde_json::from_slice::<Record>(&line) {
                Ok(record) if is_valid(&record) => {
                    contents.apply(record);
                    count += 1;
                }
                _ if line.is_empty() => {}
                _ => tracing::warn!(path = %path.display(), line = number + 1, "passed over a line that is no record"),
            }
        }
        Ok(count)
    }

    /// Opens the journal for appending; what is in it was read by [`Journal::load`].
    pub fn open(directory: &Path) -> Result<Journal> {
        let path = directory.join(FILE);
        let open = || {
            let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
            let mut last = [b'\n'];
            if file.seek(SeekFrom::End(0))? > 0 {
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
            }
            Ok(Journal { file, path: path.clone(), torn: last != *b"\n" })
        };
        open().map_err(|e| Error::io(&path, e))
    }

    /// Replaces the journal by the shortest one with the same contents.
    pub fn compact(directory: &Path, contents: &Contents) -> Result<()> {
        let mut lines = Vec::new();
        let mut write = || {
            for record in contents.records() {
                serde_json::to_writer(&mut lines, &record)?;
                lines.push(b'\n');
            }
            layout_index::replace(directory, FILE, &lines)
        };
        write().map_err(|e| Error::io(&directory.join(FILE), e))
    }

    /// Appends records, all in one write.
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let mut lines = Vec::with_capacity(256 * records.len());
        if self.torn {
            lines.push(b'\n');
        }
        for record in records {
            serde_json::to_writer(&mut lines, record)?;
            lines.push(b'\n');
        }
        self.torn = true;
        self.file.write_all(&lines)?;
        self.torn = false;
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Names from the file go into URLs, so they are checked like names from the network.
fn is_valid(record: &Record) -> bool {
    match record {
        Record::Tag { repository, tag, .. } | Record::Untag { repository, tag } => {
            is_repository(repository) && is_tag(tag)
        }
        Record::Blob { repository, .. }
        | Record::Manifest { repository, .. }
        | Record::DropBlob { repository, .. }
        | Record::DropManifest { repository, .. } => is_repository(repository),
        Record::Index { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    fn blob(content: &[u8]) -> Record {
        Record::Blob { repository: "a/b".into(), digest: Digest::sha256(content), size: 1 }
    }

    #[test]
    fn a_journal_cut_anywhere_keeps_its_whole_lines_and_takes_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        Journal::open(dir.path()).unwrap().append(&[blob(b"1"), blob(b"2")]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|b| *b == b'\n').unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            Journal::open(dir.path()).unwrap().append(&[blob(b"3")]).unwrap();
            let mut contents = Contents::default();
            Journal::load(dir.path(), &mut contents).unwrap();
            let has = |content: &[u8]| contents.blob_size("a/b", &Digest::sha256(content)).is_some();
            // A record that lost nothing but its line end is whole.
            assert_eq!(has(b"1"), cut >= first, "cut at {cut}");
            assert_eq!(has(b"2"), cut >= whole.len() - 1, "cut at {cut}");
            assert!(has(b"3"), "cut at {cut}");
        }
    }

    #[test]
    fn compacting_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        let d = Digest::sha256(b"1");
        let repository = || "a/b".to_string();
        journal.append(&[blob(b"1"), blob(b"2"), Record::DropBlob { repository: repository(), digest: d }]).unwrap();
        let mut contents = Contents::default();
        assert_eq!(Journal::load(dir.path(), &mut contents).unwrap(), 3);
        Journal::compact(dir.path(), &contents).unwrap();
        let mut again = Contents::default();
        assert_eq!(Journal::load(dir.path(), &mut again).unwrap(), 1);
        assert_eq!(again.blob_size("a/b", &Digest::sha256(b"2")), Some(1));
    }
}
