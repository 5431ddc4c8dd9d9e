//! Reading an archive from its volumes: found by the name of any of them, in one or several directories,
//! and compared with the listing before their bytes are used: all of them before the first byte where all are
//! there; each as it comes where somebody mounts one disk after another.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::listing::{self, Listing, Volume, Wrong};
use super::pattern;
use crate::archive::Compression;
use crate::medium::read_at::ReadAt;
use crate::medium::tape::change::{NextTape, Request, TRIES, Wanted};

/// What the name of a volume, of a listing or of a pattern leads to.
#[derive(Debug)]
pub enum Found {
    /// Volumes that a listing names.
    Listed(Box<Volumes>),
    /// The listing is lost: files that are volumes by their names and sizes, in order.
    Unlisted(Vec<PathBuf>),
}

/// The volumes of an archive, and where they may be.
#[derive(Debug)]
pub struct Volumes {
    pub listing: Listing,
    /// The archive's path in each directory: a volume's path but for its number.
    places: Vec<PathBuf>,
}

impl Found {
    /// Finds what `path` (a volume, the listing, a pattern, or the name that they have in common) belongs to, beside it and in `directories`.
    /// `None`: it is none of these.
    pub fn of(path: &Path, directories: &[PathBuf]) -> io::Result<Option<Found>> {
        let matched = pattern::archives(path)?;
        let named = match matched.first() {
            Some(archive) => Some((archive.clone(), None)),
            None => listing::archive_of(path),
        };
        let by_part = named.is_some();
        let (archive, sequence) = named.unwrap_or_else(|| (path.to_owned(), None));
        // The name under which volumes were written leads to them, where there is no such file.
        if !by_part && path.exists() {
            return Ok(None);
        }
        let Some(name) = archive.file_name() else { return Ok(None) };
        let beside = archive.parent().map(Path::to_owned).unwrap_or_default();
        let places: Vec<PathBuf> = std::iter::once(beside.join(name))
            .chain(matched.iter().skip(1).cloned())
            .chain(directories.iter().map(|directory| directory.join(name)))
            .collect();
        if let Some(listing) = listing_of(&places)? {
            return Ok(Some(Found::Listed(Box::new(Volumes { listing, places }))));
        }
        if path.as_os_str().as_encoded_bytes().ends_with(b".volumes.json") {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        let found = unlisted(&places);
        // A file that only looks like a volume is what it is.
        let has = |n: u32| found.contains_key(&n);
        let has_neighbour = sequence.is_none_or(|n| n > 1 && has(n - 1) || has(n.saturating_add(1)));
        if !has(1) || !has_neighbour {
            return match sequence {
                None if by_part => Err(io::Error::from(io::ErrorKind::NotFound)),
                Some(n) if n > 1 && path.is_file() && !begins_archive(path)? => {
                    let listing = listing::listing_path(Path::new(name));
                    Err(io::Error::other(format!(
                        "by its name it is volume {n} of {}, and {} is not there: bring it, or name its directory with \
                         --volumes-in",
                        archive.display(),
                        listing.display()
                    )))
                }
                _ => Ok(None),
            };
        }
        let first = std::fs::metadata(&found[&1])?.len();
        for ((there, path), expected) in found.iter().zip(1..) {
            let bring = format!("bring it, or {}", listing::listing_path(Path::new(name)).display());
            if *there != expected {
                let missing = listing::volume_path(Path::new(name), expected);
                return Err(io::Error::other(format!("{} is missing: {bring}", missing.display())));
            }
            let size = std::fs::metadata(path)?.len();
            let is_last = expected as usize == found.len();
            if size != first && !(is_last && size < first) {
                let what = "it was cut, or is no volume of this archive";
                return Err(io::Error::other(format!(
                    "{} has {size} bytes and the first {first}: {what}",
                    path.display()
                )));
            }
        }
        let lost = listing::listing_path(&archive);
        let count = found.len();
        tracing::warn!("{} is missing: the {count} volumes are read without comparing them with it", lost.display());
        Ok(Some(Found::Unlisted(found.into_values().collect())))
    }
}

/// The first listing. One that was copied before the last volume was written gives way to the whole one of the same
/// archive.
fn listing_of(places: &[PathBuf]) -> io::Result<Option<Listing>> {
    let mut first: Option<Listing> = None;
    for place in places {
        let path = listing::listing_path(place);
        let Some(listing) = Listing::read(&path).map_err(|e| at(&path, e))? else { continue };
        match &first {
            None if listing.complete => return Ok(Some(listing)),
            None => first = Some(listing),
            Some(part) if listing.complete && listing.archive == part.archive => return Ok(Some(listing)),
            Some(_) => {}
        }
    }
    Ok(first)
}

/// Whether a file begins as an archive does, compressed or not.
fn begins_archive(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(512).read_to_end(&mut start)?;
    Ok(Compression::sniff(&start).is_some() || start.get(257..262) == Some(b"ustar"))
}

/// The files that have the names of volumes, by their numbers; the first place goes before the others.
fn unlisted(places: &[PathBuf]) -> BTreeMap<u32, PathBuf> {
    let mut found = BTreeMap::new();
    for place in places {
        let directory = place.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = place.with_file_name(entry.file_name());
            if let Some((archive, Some(sequence))) = listing::archive_of(&path)
                && archive == *place
                && path == listing::volume_path(place, sequence)
            {
                found.entry(sequence).or_insert(path);
            }
        }
    }
    found
}

impl Volumes {
    /// Reads every volume and compares it with the listing; gives their files, in order. Names all that are
    /// missing or altered.
    pub fn check(&self) -> io::Result<Vec<PathBuf>> {
        self.complete()?;
        let looked: Vec<_> = self.listing.volumes.iter().map(|volume| self.look(volume)).collect();
        let wrong: Vec<_> = looked.iter().filter_map(|found| found.as_ref().err()).map(String::as_str).collect();
        if wrong.is_empty() {
            return Ok(looked.into_iter().flatten().collect());
        }
        let count = wrong.len();
        let all = self.listing.volumes.len();
        Err(io::Error::other(format!("{count} of {all} volumes cannot be used: {}", wrong.join("; "))))
    }

    /// Refuses a listing that names only the volumes of a run that did not end.
    fn complete(&self) -> io::Result<()> {
        if self.listing.complete {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} was not written to its end: {} volumes are listed; finish it with --resume, where it was written",
            self.places[0].display(),
            self.listing.volumes.len()
        )))
    }

    /// Whether some volume is in none of the directories.
    pub fn lacks_some(&self) -> bool {
        let is_there = |v: &Volume| self.places.iter().any(|place| listing::volume_path(place, v.sequence).exists());
        !self.listing.volumes.iter().all(is_there)
    }

    /// Finds the right file of a volume; else says what is wrong with the files of that name.
    pub fn look(&self, volume: &Volume) -> Result<PathBuf, String> {
        let mut wrong = Vec::new();
        for place in &self.places {
            let path = listing::volume_path(place, volume.sequence);
            match listing::check(&path, volume) {
                Ok(None) => return Ok(path),
                Ok(Some(Wrong::Missing)) => {}
                Ok(Some(problem)) => {
                    wrong.push(format!("{}: {}", path.display(), self.listing.explain(volume, &problem)));
                }
                Err(e) => wrong.push(at(&path, e).to_string()),
            }
        }
        if wrong.is_empty() {
            let path = listing::volume_path(&self.places[0], volume.sequence);
            let name = path.file_name().unwrap_or_default().display().to_string();
            wrong.push(format!("{name}: {}", self.listing.explain(volume, &Wrong::Missing)));
        }
        Err(wrong.join("; "))
    }

    /// Reads them in order, and has disks mounted with those that are in none of the directories.
    pub fn one_by_one(self: Box<Self>, ask: NextTape) -> io::Result<OneByOne> {
        self.complete()?;
        Ok(OneByOne { volumes: *self, ask, next: 0, current: None })
    }
}

fn at(path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

/// The volumes of an archive, each compared with the listing before the first of its bytes is given. No file is
/// open while a disk is asked for.
pub struct OneByOne {
    volumes: Volumes,
    ask: NextTape,
    /// The volume after the current one, from 0.
    next: usize,
    current: Option<File>,
}

impl OneByOne {
    /// Has the disk mounted until the right volume is found.
    fn find(&mut self, volume: &Volume) -> io::Result<PathBuf> {
        let archive = self.volumes.listing.archive.to_string();
        let path = listing::volume_path(&self.volumes.places[0], volume.sequence);
        let mut request =
            Request { wanted: Wanted::Volume, drive: path, archive, volume: volume.sequence, refused: None };
        for _ in 0..TRIES {
            match self.volumes.look(volume) {
                Ok(path) => return Ok(path),
                Err(why) => request.refused = Some(why),
            }
            (self.ask)(&request)?;
        }
        self.volumes.look(volume).map_err(|why| io::Error::other(format!("{why}: it was asked for {TRIES} times")))
    }
}

impl Read for OneByOne {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(file) = &mut self.current {
                match file.read(out)? {
                    0 => self.current = None,
                    n => return Ok(n),
                }
            }
            let Some(volume) = self.volumes.listing.volumes.get(self.next).cloned() else { return Ok(0) };
            let path = self.find(&volume)?;
            tracing::info!("reading {}", path.display());
            self.current = Some(File::open(&path).map_err(|e| at(&path, e))?);
            self.next += 1;
        }
    }
}

#[derive(Debug)]
struct Part {
    file: File,
    offset: u64,
    size: u64,
}

/// Several files that are read as one.
#[derive(Debug)]
pub struct Parts {
    parts: Vec<Part>,
    length: u64,
}

impl Parts {
    /// Opens them, in this order.
    pub fn open(paths: &[PathBuf]) -> io::Result<Parts> {
        let mut length = 0;
        let mut parts = Vec::new();
        for path in paths {
            let file = File::open(path).map_err(|e| at(path, e))?;
            let size = file.metadata()?.len();
            parts.push(Part { file, offset: length, size });
            length += size;
        }
        Ok(Parts { parts, length })
    }
}

impl ReadAt for Parts {
    fn length(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let at = self.parts.partition_point(|part| part.offset + part.size <= offset);
        let Some(part) = self.parts.get(at) else { return Ok(0) };
        let within = offset - part.offset;
        let n = usize::try_from(part.size - within).unwrap_or(usize::MAX).min(out.len());
        FileExt::read_at(&part.file, &mut out[..n], within)
    }
}

/// Reads parts from the beginning to the end.
pub struct InOrder {
    parts: Parts,
    offset: u64,
}

impl InOrder {
    pub fn new(parts: Parts) -> Self {
        InOrder { parts, offset: 0 }
    }
}

impl Read for InOrder {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.parts.read_at(out, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}
