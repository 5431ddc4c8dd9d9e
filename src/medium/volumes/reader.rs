//! Reading an archive from its volumes: found by the name of any of them, in one or several directories,
//! and checked against the listing before their bytes are used.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::listing::{self, Listing};
use crate::medium::read_at::ReadAt;

/// The volumes of an archive, found.
#[derive(Debug)]
pub struct Volumes {
    pub listing: Listing,
    /// Their files, in order.
    pub paths: Vec<PathBuf>,
}

impl Volumes {
    /// Finds the volumes that `path` (a volume, or the listing) belongs to, beside it and in `directories`.
    /// `None`: it is neither. What is missing is named, all at once.
    pub fn find(path: &Path, directories: &[PathBuf]) -> io::Result<Option<Volumes>> {
        let Some((archive, sequence)) = listing::archive_of(path) else { return Ok(None) };
        let name = archive.file_name().unwrap_or_default();
        let beside = archive.parent().map(Path::to_owned).unwrap_or_default();
        let places: Vec<PathBuf> =
            std::iter::once(beside).chain(directories.iter().cloned()).map(|directory| directory.join(name)).collect();
        let mut found = None;
        for place in &places {
            let path = listing::listing_path(place);
            let at = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
            found = Listing::read(&path).map_err(at)?;
            if found.is_some() {
                break;
            }
        }
        let Some(listing) = found else {
            // A file that only looks like a volume is what it is.
            return if sequence.is_none() { Err(io::Error::from(io::ErrorKind::NotFound)) } else { Ok(None) };
        };
        if !listing.complete {
            return Err(io::Error::other(format!(
                "{} was not written to its end: {} volumes are listed; finish it with --resume, where it was written",
                archive.display(),
                listing.volumes.len()
            )));
        }
        let mut paths = Vec::new();
        let mut missing = Vec::new();
        for volume in &listing.volumes {
            let path = places.iter().map(|place| listing::volume_path(place, volume.sequence)).find(|p| p.exists());
            match path {
                Some(path) => paths.push(path),
                None => missing.push(listing::volume_path(Path::new(name), volume.sequence).display().to_string()),
            }
        }
        if !missing.is_empty() {
            let (count, all) = (missing.len(), listing.volumes.len());
            return Err(io::Error::other(format!(
                "{count} of {all} volumes are missing: {}: bring them here, or say where they are",
                missing.join(", ")
            )));
        }
        Ok(Some(Volumes { listing, paths }))
    }

    /// Reads every volume and compares it with the listing. Names all that are altered.
    pub fn check(&self) -> io::Result<()> {
        let mut wrong = Vec::new();
        for (volume, path) in self.listing.volumes.iter().zip(&self.paths) {
            let at = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
            if let Some(problem) = listing::check(path, volume).map_err(at)? {
                wrong.push(format!("{}: {}", path.display(), self.listing.explain(volume, &problem)));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(io::Error::other(format!("{}: bring the right one; nothing was sent", wrong.join("; "))))
    }

    /// Opens them as one.
    pub fn open(&self) -> io::Result<Parts> {
        let mut parts = Vec::new();
        for (volume, path) in self.listing.volumes.iter().zip(&self.paths) {
            let at = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
            parts.push(Part { file: File::open(path).map_err(at)?, offset: volume.offset, size: volume.size });
        }
        Ok(Parts { parts, length: self.listing.length() })
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
