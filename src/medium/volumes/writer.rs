//! Writing an archive into volumes, each of which has its name only when all of it is on the disk.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::listing::{self, Listing, Volume};
use crate::image::Algorithm;
use crate::image::digest::Hasher;
use crate::medium::block_buffer::{Finished, Medium};
use crate::medium::file::{NewFile, partial, refuse_existing};

/// An archive on its way into volumes.
pub struct VolumeWriter {
    archive: PathBuf,
    listing: Listing,
    force: bool,
    current: Option<Current>,
}

/// Fails with `AlreadyExists` where volumes of an archive of that name are, and `force` does not allow to replace them.
pub fn refuse_volumes(archive: &Path, force: bool) -> io::Result<()> {
    refuse_existing(&listing::listing_path(archive), force)?;
    refuse_existing(&listing::volume_path(archive, 1), force)
}

struct Current {
    file: NewFile,
    written: u64,
    hasher: Hasher,
}

impl VolumeWriter {
    /// Goes on behind the volumes that `listing` names, which are there. Fails with `AlreadyExists` where there is
    /// something of an archive of that name, and `force` does not allow to replace it.
    pub fn start(archive: &Path, listing: Listing, force: bool) -> io::Result<Self> {
        refuse_volumes(archive, force)?;
        Ok(VolumeWriter { archive: archive.to_owned(), listing, force, current: None })
    }

    fn end_volume(&mut self) -> io::Result<()> {
        let Some(Current { file, written, hasher }) = self.current.take() else { return Ok(()) };
        let (sequence, offset) = (self.next_sequence()?, self.listing.length());
        self.listing.volumes.push(Volume { sequence, offset, size: written, digest: hasher.finish() });
        // First the listing: a run that goes on knows by it whose the volume is.
        self.listing.write(&listing::listing_path(&self.archive))?;
        file.finish()
    }

    fn next_sequence(&self) -> io::Result<u32> {
        u32::try_from(self.listing.volumes.len() + 1).map_err(|_| io::Error::other("there are too many volumes"))
    }
}

impl Medium for VolumeWriter {
    fn write(&mut self, block: &[u8]) -> io::Result<()> {
        let mut rest = block;
        while !rest.is_empty() {
            let mut current = match self.current.take() {
                Some(current) => current,
                None => {
                    let path = listing::volume_path(&self.archive, self.next_sequence()?);
                    let file = NewFile::create(&path, self.force)?;
                    Current { file, written: 0, hasher: Hasher::new(Algorithm::Sha256) }
                }
            };
            let room = usize::try_from(self.listing.volume_size - current.written).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(rest.len().min(room));
            current.file.file().as_ref().write_all(now)?;
            current.hasher.update(now);
            current.written += now.len() as u64;
            rest = later;
            let full = current.written == self.listing.volume_size;
            self.current = Some(current);
            if full {
                self.end_volume()?;
            }
        }
        Ok(())
    }

    fn pads(&self) -> bool {
        false
    }

    /// Ends the last volume, removes those that an earlier, larger archive of that name left, and completes
    /// the listing.
    fn finish(mut self: Box<Self>) -> io::Result<Finished> {
        self.end_volume()?;
        if self.force {
            for sequence in self.next_sequence()?.. {
                let path = listing::volume_path(&self.archive, sequence);
                if !remove(&path)? & !remove(&partial(&path)?)? {
                    break;
                }
            }
        }
        self.listing.complete = true;
        self.listing.write(&listing::listing_path(&self.archive))?;
        Ok(Finished::Volumes(self.listing.volumes))
    }
}

/// Removes a file; `false`: there is none.
fn remove(path: &Path) -> io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
