//! What there is of a large blob before all of it is: a file in the root of the layout, `.mirror-ALGORITHM-HEX.partial`,
//! where a run that died has left it for the next one to go on with.
//!
//! Invariants: a partial file is written by one process at a time; it gets the blob's name only when its writer knows
//! that all of it is right; one that nobody wrote to for a week goes away.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{StreamExt, stream};

use crate::image::{Descriptor, Hasher};
use crate::medium::file::{Locking, open_locked};
use crate::store::{BlobSource, Error, Prefix, Result, VerifyingReader};

/// How everything begins that this program keeps in a layout until it is finished.
pub const TEMPORARY: &str = ".mirror-";
/// Blobs from this size on (bytes) are kept when a run dies.
const LARGE: u64 = 16 << 20;
/// What nobody wrote to for so long is not gone on with.
const EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// A partial file in the hands of this process.
pub struct Partial {
    file: File,
    path: PathBuf,
    descriptor: Descriptor,
}

impl Partial {
    /// That of a blob in the layout `directory`. `None`: the blob is small, another process has it in hand, or what is
    /// there is not to be touched; then it is written as if nothing were there.
    pub fn open(directory: &Path, descriptor: &Descriptor) -> Option<Self> {
        if descriptor.size < LARGE {
            return None;
        }
        let digest = &descriptor.digest;
        let path = directory.join(format!("{TEMPORARY}{}-{}.partial", digest.algorithm().name(), digest.hex()));
        let opened = open_locked(&path, Locking::Needed).and_then(|file| {
            let there = file.metadata()?;
            // Another's file could change after it was hashed, one with two names be somebody's own.
            match there.uid() == nix::unistd::geteuid().as_raw() && there.nlink() == 1 {
                true => Ok(file),
                false => Err(io::Error::other("it is another user's, or has another name")),
            }
        });
        match opened {
            Ok(file) => Some(Partial { file, path, descriptor: descriptor.bare() }),
            Err(e) => {
                tracing::debug!("{}: not gone on with: {e}", path.display());
                None
            }
        }
    }

    /// Puts the blob in place under `path`, going on with what an earlier run has left of it. That is verified together
    /// with the rest; if it was wrong, all of it comes anew. `place` is for messages.
    pub async fn fill(mut self, place: &str, source: &dyn BlobSource, path: &Path) -> Result<()> {
        let name = self.path.display().to_string();
        let at = |e| Error::io(&name, e);
        let look = move || self.known().map(|known| (self, known));
        let looked = tokio::task::spawn_blocking(look).await.map_err(io::Error::other).and_then(|looked| looked);
        let (mut partial, mut known) = looked.map_err(at)?;
        loop {
            let goes_on = known.is_some();
            match partial.receive(place, source, known.take()).await {
                Ok(()) => return fs::rename(&partial.path, path).map_err(at),
                Err(e) if e.is_corruption() => {
                    partial.clear().map_err(at)?;
                    if !goes_on {
                        return Err(e);
                    }
                    tracing::warn!("{e}; what an earlier run has left is given up, and all of it read");
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// What is there, and its hash; what comes next is written behind it. `None`: nothing, or more than the blob has. Reads
    /// all that is there: not for an async task.
    fn known(&mut self) -> io::Result<Option<Prefix>> {
        let length = self.file.metadata()?.len();
        if length == 0 || length > self.descriptor.size {
            self.clear()?;
            return Ok(None);
        }
        let mut known = Prefix { length: 0, hasher: Hasher::new(self.descriptor.digest.algorithm()) };
        let mut chunk = vec![0; CHUNK];
        self.file.rewind()?;
        loop {
            match self.file.read(&mut chunk) {
                Ok(0) => return Ok(Some(known)),
                Ok(n) => {
                    known.hasher.update(&chunk[..n]);
                    known.length += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Writes what comes after `known`. `Ok`: the whole is right.
    async fn receive(&mut self, place: &str, source: &dyn BlobSource, known: Option<Prefix>) -> Result<()> {
        let mut reader = match known {
            Some(known) => {
                tracing::info!("blob {}: {} bytes are there already", self.descriptor.digest, known.length);
                let rest = match self.descriptor.size - known.length {
                    0 => stream::empty().boxed(),
                    _ => source.open_unverified(known.length).await?,
                };
                VerifyingReader::after(known, &self.descriptor, place, rest).into_reader()
            }
            None => source.open(0).await?,
        };
        while let Some(chunk) = reader.next().await {
            self.file.write_all(&chunk?).map_err(|e| Error::io(self.path.display(), e))?;
        }
        Ok(())
    }

    /// Forgets what is there.
    fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()
    }
}

impl Drop for Partial {
    /// It stays for the next run if there is anything in it.
    fn drop(&mut self) {
        if self.file.metadata().is_ok_and(|there| there.len() == 0) {
            // It may be gone already.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes what runs that died have left in a layout long ago.
pub fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(TEMPORARY)) {
        let age = entry.metadata().ok().filter(fs::Metadata::is_file).and_then(|m| m.modified().ok()?.elapsed().ok());
        if age.is_some_and(|age| age > EXPIRY) {
            // It may be gone by now.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;
    use crate::store::BlobReader;
    use bytes::Bytes;
    use std::sync::Mutex;
    use std::time::SystemTime;

    fn large(content: &[u8]) -> Descriptor {
        Descriptor::new("", Digest::sha256(content), LARGE)
    }

    #[test]
    fn a_partial_file_is_for_one_at_a_time_and_known_by_its_hash() {
        let layout = tempfile::tempdir().unwrap();
        let blob = large(b"1");
        let mut first = Partial::open(layout.path(), &blob).unwrap();
        assert!(first.known().unwrap().is_none());
        first.file.write_all(b"begun").unwrap();
        assert!(Partial::open(layout.path(), &blob).is_none(), "it is in use");
        assert!(Partial::open(layout.path(), &Descriptor { size: LARGE - 1, ..blob.clone() }).is_none(), "small");
        drop(first);

        let mut second = Partial::open(layout.path(), &blob).unwrap();
        let known = second.known().unwrap().unwrap();
        assert_eq!((known.length, known.hasher.finish()), (5, Digest::sha256(b"begun")));
        second.clear().unwrap();
        drop(second);

        let mut longer = Partial::open(layout.path(), &blob).unwrap();
        longer.file.set_len(LARGE + 1).unwrap();
        assert!(longer.known().unwrap().is_none());
        drop(longer);
        assert_eq!(fs::read_dir(layout.path()).unwrap().count(), 0, "nothing was worth keeping");
    }

    /// Gives what comes after an offset, and notes the offset; breaks after so many bytes.
    struct Source {
        bytes: Vec<u8>,
        asked: Mutex<Vec<usize>>,
        breaks_after: usize,
    }

    #[async_trait::async_trait]
    impl BlobSource for Source {
        async fn open(&self, offset: u64) -> Result<BlobReader> {
            self.asked.lock().unwrap().push(offset as usize);
            let rest = &self.bytes[offset as usize..];
            let mut chunks = vec![Ok(Bytes::copy_from_slice(&rest[..rest.len().min(self.breaks_after)]))];
            if rest.len() > self.breaks_after {
                chunks.push(Err(Error::io("source", io::ErrorKind::ConnectionReset.into())));
            }
            Ok(stream::iter(chunks).boxed())
        }
    }

    #[tokio::test]
    async fn only_the_rest_is_read_and_all_of_it_if_the_start_was_wrong() {
        let layout = tempfile::tempdir().unwrap();
        let bytes = vec![7; LARGE as usize];
        let blob = Descriptor::new("", Digest::sha256(&bytes), LARGE);
        let to = layout.path().join("blob");
        let fill = async |breaks_after: usize| {
            let source = Source { bytes: bytes.clone(), asked: Mutex::default(), breaks_after };
            let filled = Partial::open(layout.path(), &blob).unwrap().fill("layout", &source, &to).await;
            (filled.map_err(|e| e.is_corruption()), source.asked.into_inner().unwrap())
        };
        let (half, all) = (bytes.len() / 2, bytes.len());
        assert_eq!(fill(half).await, (Err(false), vec![0]));
        assert_eq!(fill(half / 2).await, (Err(false), vec![half]));
        let partial = fs::read_dir(layout.path()).unwrap().next().unwrap().unwrap().path();
        let there = fs::metadata(&partial).unwrap().len() as usize;
        assert_eq!(fill(all).await, (Ok(()), vec![there]));
        assert_eq!(fs::read(&to).unwrap(), bytes);
        assert!(!partial.exists());

        fs::write(&partial, vec![8; half]).unwrap();
        assert_eq!(fill(all).await, (Ok(()), vec![half, 0]));
        assert_eq!(fs::read(&to).unwrap(), bytes);
        // All of it had come, and had not got its name; nothing is asked for.
        fs::write(&partial, &bytes).unwrap();
        assert_eq!(fill(all).await, (Ok(()), vec![]));
        fs::write(&partial, vec![8; all]).unwrap();
        assert_eq!(fill(all).await, (Ok(()), vec![0]));
        assert_eq!(fs::read(&to).unwrap(), bytes);
    }

    #[test]
    fn what_has_another_name_is_not_written_to() {
        let layout = tempfile::tempdir().unwrap();
        let (blob, other) = (large(b"1"), layout.path().join("other"));
        let mut partial = Partial::open(layout.path(), &blob).unwrap();
        partial.file.write_all(b"begun").unwrap();
        let path = partial.path.clone();
        drop(partial);
        for link in [|a: &Path, b: &Path| fs::hard_link(a, b), |a: &Path, b: &Path| std::os::unix::fs::symlink(a, b)] {
            fs::remove_file(&path).unwrap();
            fs::write(&other, "mine").unwrap();
            link(&other, &path).unwrap();
            assert!(Partial::open(layout.path(), &blob).is_none());
        }
        assert_eq!(fs::read(&other).unwrap(), b"mine");
    }

    #[test]
    fn what_was_left_long_ago_goes_away() {
        let layout = tempfile::tempdir().unwrap();
        let files = [(".mirror-AbCdEf", 8), (".mirror-sha256-00.partial", 6), (".mirror.lock", 8), ("index.json", 8)];
        for (name, days) in files {
            let file = File::create(layout.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 3600)).unwrap();
        }
        sweep(layout.path());
        let there = files.map(|(name, _)| layout.path().join(name).exists());
        assert_eq!(there, [false, true, true, true]);
    }
}
