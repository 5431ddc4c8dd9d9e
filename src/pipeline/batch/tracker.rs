//! What was done with the archives of a batch: `record-keeping.csv` lists those that were written, and
//! `successful-syncs.csv` those that were read on the other side.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::sync_name::SyncName;
use super::table;
use crate::image::{Digest, ImageName, Reference};
use crate::pipeline::Result;

/// File of [`Written`] in a batch directory, where the user names no other.
pub const WRITTEN_FILE: &str = "record-keeping.csv";
/// File of [`ReadBack`] in a batch directory, where the user names no other.
pub const READ_FILE: &str = "successful-syncs.csv";

const WRITTEN_HEADER: &str = "sync_name,artifact,digest";
const READ_HEADER: &str = "filename,artifact,timestamp";

/// An archive that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    pub file: SyncName,
    /// The reference that was written, as the batch list has it. It may stand for something else by now.
    pub artifact: String,
    /// What it stood for.
    pub digest: Digest,
}

/// The archives that were written into a directory.
#[derive(Debug)]
pub struct Written {
    path: PathBuf,
    pub rows: Vec<Archived>,
}

impl Written {
    /// Reads the table; where there is none nothing was written yet.
    pub fn read(path: &Path) -> Result<Self> {
        let text = table::read(path)?.unwrap_or_default();
        let rows = table::parse(&text, &path.display().to_string(), 3, |_, fields| {
            if fields.join(",") == WRITTEN_HEADER {
                return Ok(None);
            }
            let digest = fields[2].parse::<Digest>().map_err(|e| e.to_string())?;
            Ok(Some(Archived { file: fields[0].parse()?, artifact: fields[1].clone(), digest }))
        })?;
        Ok(Written { path: path.to_owned(), rows })
    }

    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Number of the next archive.
    pub fn next_number(&self) -> u64 {
        self.rows.iter().map(|row| row.file.number).max().unwrap_or(0).saturating_add(1)
    }

    /// The archive that the other side was sent last under that name.
    pub fn last(&self, name: &str) -> Option<&Archived> {
        self.rows.iter().filter(|row| row.file.name == name).max_by_key(|row| row.file.number)
    }

    /// Records an archive that is in place.
    pub fn add(&mut self, row: Archived) -> Result<()> {
        let fields = [&row.file.to_string(), &row.artifact, &row.digest.to_string()];
        table::add(&self.path, WRITTEN_HEADER, &fields.map(String::as_str))?;
        self.rows.push(row);
        Ok(())
    }
}

/// An archive that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Arrived {
    file: String,
    /// Where it was read to: `DESTINATION:NAME@DIGEST`. Rows of ace-dt have no digest.
    artifact: String,
}

/// The archives of a directory that were read.
#[derive(Debug)]
pub struct ReadBack {
    path: PathBuf,
    rows: Vec<Arrived>,
}

impl ReadBack {
    /// Reads the table; where there is none nothing was read yet.
    pub fn read(path: &Path) -> Result<Self> {
        let text = table::read(path)?.unwrap_or_default();
        let rows = table::parse(&text, &path.display().to_string(), 2, |_, fields| {
            let is_header = fields.join(",") == READ_HEADER;
            Ok((!is_header).then(|| Arrived { file: fields[0].clone(), artifact: fields[1].clone() }))
        })?;
        Ok(ReadBack { path: path.to_owned(), rows })
    }

    /// Whether that very archive was read to that very place. A row without a digest does not count: the
    /// name of a file says nothing of its content.
    pub fn has(&self, file: &SyncName, destination: &ImageName, digest: &Digest) -> bool {
        let (file, artifact) = (file.to_string(), pinned(destination, digest));
        self.rows.iter().any(|row| row.file == file && row.artifact == artifact)
    }

    /// Whether a newer archive of the same name was read to that place: it has the tag.
    pub fn has_newer(&self, file: &SyncName, destination: &ImageName) -> bool {
        let place = format!("{destination}@");
        self.rows.iter().filter(|row| row.artifact.starts_with(&place)).any(|row| {
            row.file.parse::<SyncName>().is_ok_and(|other| other.name == file.name && other.number > file.number)
        })
    }

    /// Records an archive that was read, tagged and verified.
    pub fn add(&mut self, file: &SyncName, destination: &ImageName, digest: &Digest) -> Result<()> {
        let row = Arrived { file: file.to_string(), artifact: pinned(destination, digest) };
        table::add(&self.path, READ_HEADER, &[&row.file, &row.artifact, &timestamp(SystemTime::now())])?;
        self.rows.push(row);
        Ok(())
    }
}

/// `DESTINATION:NAME@DIGEST`.
fn pinned(destination: &ImageName, digest: &Digest) -> String {
    match destination {
        ImageName::Registry(reference) => Reference { digest: Some(*digest), ..reference.clone() }.to_string(),
        layout => format!("{layout}@{digest}"),
    }
}

/// As Go prints a time: `2026-11-21 16:17:07 +0000 UTC`.
fn timestamp(time: SystemTime) -> String {
    // Sat, 21 Nov 2026 16:17:07 GMT
    let http = httpdate::fmt_http_date(time);
    let words: Vec<&str> = http.split_whitespace().collect();
    let [_, day, month, year, clock, _] = words[..] else { return http };
    let months = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let month = months.find(month).map_or(0, |at| at / 3 + 1);
    format!("{year}-{month:02}-{day} {clock} +0000 UTC")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn reads_what_ace_dt_wrote_and_goes_on() {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fixtures/batch/record-keeping-after-first.csv");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(WRITTEN_FILE);
        std::fs::copy(fixture, &path).unwrap();
        let mut written = Written::read(&path).unwrap();
        assert_eq!(written.next_number(), 3);
        assert_eq!(written.last("tools").unwrap().artifact, "reg.low.example/gather:part1");
        assert!(written.last("tool").is_none());
        let digest = "sha256:803d77887e2d34e06c09c63047c8235867a5feb6028894f063c9fd241797a6c1".parse().unwrap();
        let artifact = "reg.low.example/gather:part2".to_owned();
        written.add(Archived { file: SyncName::new(3, "tools", None), artifact, digest }).unwrap();
        let theirs = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/fixtures/batch/sync/record-keeping.csv");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), std::fs::read_to_string(theirs).unwrap());
        assert_eq!(Written::read(&path).unwrap().last("tools").unwrap().digest, digest);
    }

    #[test]
    fn a_table_that_cannot_be_trusted_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(WRITTEN_FILE);
        std::fs::write(&path, "sync_name,artifact,digest\n000001-a.tar,reg/a:1,sha256:12\n000002-a").unwrap();
        let error = Written::read(&path).unwrap_err().to_string();
        assert!(error.contains(".csv:2: ") && error.contains(".csv:3: "), "{error}");
    }

    #[test]
    fn the_digest_decides_what_was_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(READ_FILE);
        let theirs =
            "filename,artifact,timestamp\n000001-tools.tar,reg.high/x:tools,2025-11-07 15:04:05.99 -0500 EST m=+1.2\n";
        std::fs::write(&path, theirs).unwrap();
        let mut read = ReadBack::read(&path).unwrap();
        let file = SyncName::new(1, "tools", None);
        let destination: ImageName = "reg.high/x:tools".parse().unwrap();
        let (one, other) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        assert!(!read.has(&file, &destination, &one));
        read.add(&file, &destination, &one).unwrap();
        let read = ReadBack::read(&path).unwrap();
        assert!(read.has(&file, &destination, &one));
        assert!(!read.has(&file, &destination, &other));
        assert!(!read.has(&file, &"reg.other/x:tools".parse().unwrap(), &one));
        assert!(!read.has(&SyncName::new(2, "tools", None), &destination, &one));
        assert!(read.has_newer(&SyncName::new(0, "tools", None), &destination));
        assert!(!read.has_newer(&file, &destination));
        assert!(!read.has_newer(&SyncName::new(0, "apps", None), &destination));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(theirs) && text.contains(&format!("000001-tools.tar,reg.high/x:tools@{one},2")));
    }

    #[test]
    fn times_as_go_prints_them() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_277_827);
        assert_eq!(timestamp(time), "2026-11-21 16:17:07 +0000 UTC");
    }
}
