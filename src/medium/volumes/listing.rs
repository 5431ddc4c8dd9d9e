//! What the volumes of an archive are: their order, sizes and digests, in a file beside them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::image::digest::Hasher;
use crate::image::{Algorithm, Digest};
use crate::medium::identity::Identity;

/// `format` of every listing.
pub const FORMAT: &str = "airgap-mirror/volumes/v1";
/// A listing has no more bytes than this: that of a million volumes.
const MAX: u64 = 256 << 20;
/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Its place, from 1.
    pub sequence: u32,
    /// Bytes of the archive before it.
    pub offset: u64,
    /// Its bytes.
    pub size: u64,
    /// Their sha256.
    pub digest: Digest,
}

/// All volumes of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listing {
    pub format: String,
    pub archive: Identity,
    /// Limit of a volume in bytes.
    pub volume_size: u64,
    /// Whether these are all; an interrupted run leaves a listing that says no.
    pub complete: bool,
    pub volumes: Vec<Volume>,
}

/// Path of a volume: `sync-45.tar.001`.
pub fn volume_path(archive: &Path, sequence: u32) -> PathBuf {
    with_suffix(archive, &format!("{sequence:03}"))
}

/// Path of the listing: `sync-45.tar.volumes.json`.
pub fn listing_path(archive: &Path) -> PathBuf {
    with_suffix(archive, "volumes.json")
}

fn with_suffix(archive: &Path, suffix: &str) -> PathBuf {
    let mut name = archive.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// The archive that a volume, a listing or a pattern (`sync-45.tar.*`) belongs to by its name, and which volume it is.
pub fn archive_of(path: &Path) -> Option<(PathBuf, Option<u32>)> {
    let name = path.file_name()?.to_str()?;
    if let Some(archive) = name.strip_suffix(".volumes.json").filter(|name| !name.is_empty()) {
        return Some((path.with_file_name(archive), None));
    }
    let (archive, number) = name.rsplit_once('.')?;
    if number.contains('*') && number.bytes().all(|b| b.is_ascii_digit() || b == b'*') && !archive.is_empty() {
        return Some((path.with_file_name(archive), None));
    }
    let is_number = number.len() >= 3 && number.bytes().all(|b| b.is_ascii_digit()) && !archive.is_empty();
    let sequence = number.parse().ok().filter(|n| is_number && *n > 0)?;
    Some((path.with_file_name(archive), Some(sequence)))
}

impl Listing {
    pub fn new(archive: Identity, volume_size: u64) -> Self {
        Listing { format: FORMAT.to_owned(), archive, volume_size, complete: false, volumes: Vec::new() }
    }

    /// Bytes of the archive in all volumes.
    pub fn length(&self) -> u64 {
        self.volumes.iter().map(|volume| volume.size).sum()
    }

    /// Reads a listing, and checks that it makes sense in itself. `None`: there is no such file.
    pub fn read(path: &Path) -> io::Result<Option<Listing>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut text = Vec::new();
        if file.take(MAX + 1).read_to_end(&mut text)? as u64 > MAX {
            return Err(io::Error::other(format!("it has more than {MAX} bytes, which no listing has")));
        }
        let listing: Listing =
            serde_json::from_slice(&text).map_err(|e| io::Error::other(format!("it is no listing of volumes: {e}")))?;
        if listing.format != FORMAT {
            let format = crate::store::error::printable(&listing.format);
            return Err(io::Error::other(format!("its format {format:?} is not {FORMAT:?}: a newer program wrote it")));
        }
        let mut offset: u64 = 0;
        for (volume, sequence) in listing.volumes.iter().zip(1..) {
            if volume.sequence != sequence || volume.offset != offset {
                let problem = format!("its volumes are not in order at number {sequence}");
                return Err(io::Error::other(problem));
            }
            offset = offset.checked_add(volume.size).ok_or_else(|| io::Error::other("its sizes are impossible"))?;
        }
        Ok(Some(listing))
    }

    /// Writes the listing, whole or not at all.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        let temporary = with_suffix(path, "partial");
        let written = fs::write(&temporary, json).and_then(|()| File::open(&temporary)?.sync_all());
        written.and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
            // What was written of it is of no use.
            let _ = fs::remove_file(&temporary);
        })
    }
}

/// What is wrong with the file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    Missing,
    /// It has so many bytes.
    Size(u64),
    /// Its bytes are others.
    Digest(Digest),
}

/// Reads all of a volume's file and compares it with the listing; `None`: it is right.
pub fn check(path: &Path, volume: &Volume) -> io::Result<Option<Wrong>> {
    compare(path, volume, |_| {})
}

/// As [`check`], and gives what is read to `take`, which is to believe it only when all of it was right.
pub fn compare(path: &Path, volume: &Volume, mut take: impl FnMut(&[u8])) -> io::Result<Option<Wrong>> {
    match fs::metadata(path) {
        // To open a pipe is to wait for whoever writes to it.
        Ok(metadata) if !metadata.is_file() => return Err(io::Error::other("it is no regular file")),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Some(Wrong::Missing)),
        Err(e) => return Err(e),
    }
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    drop_cache(&file);
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            n => {
                hasher.update(&chunk[..n]);
                take(&chunk[..n]);
            }
        }
    }
    let digest = hasher.finish();
    Ok(if digest == volume.digest && size == volume.size {
        None
    } else if size != volume.size {
        Some(Wrong::Size(size))
    } else {
        Some(Wrong::Digest(digest))
    })
}

/// Has the medium read again, and not what memory holds of it. Where that cannot be had, memory is read.
pub fn drop_cache(file: &File) {
    let _ = nix::fcntl::posix_fadvise(file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

impl Listing {
    /// Says what is wrong with a volume, for people.
    pub fn explain(&self, volume: &Volume, wrong: &Wrong) -> String {
        match wrong {
            Wrong::Missing => "it is missing".to_owned(),
            Wrong::Size(size) => format!("it has {size} bytes in place of {}: it was cut or altered", volume.size),
            Wrong::Digest(digest) => match self.volumes.iter().find(|other| other.digest == *digest) {
                Some(other) => format!("it is a copy of volume {}", other.sequence),
                None => format!(
                    "it was altered, or belongs to another archive: its digest is {digest} in place of {}",
                    volume.digest
                ),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_the_archive() {
        let of = |name: &str| archive_of(Path::new(name)).map(|(a, n)| (a.display().to_string(), n));
        assert_eq!(of("/m/sync-45.tar.003"), Some(("/m/sync-45.tar".into(), Some(3))));
        assert_eq!(of("sync-45.tar.volumes.json"), Some(("sync-45.tar".into(), None)));
        assert_eq!(of("sync-45.tar.*"), Some(("sync-45.tar".into(), None)));
        assert_eq!(of("sync-45.tar.1234"), Some(("sync-45.tar".into(), Some(1234))));
        for other in ["sync-45.tar", "sync.000", "sync.12", ".001", "a.0x1"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
