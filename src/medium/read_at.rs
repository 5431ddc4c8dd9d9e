//! Bytes that can be read from any place: a file, the volumes of an archive as one, or an object.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;

/// Bytes that come when they come.
pub type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Reads without a position of its own, so from many places at once. Blocks on the disk, or for a few bytes on the
/// network.
pub trait ReadAt: Send + Sync {
    /// Number of bytes.
    fn length(&self) -> io::Result<u64>;

    /// Reads some bytes; none at the end only.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize>;

    /// The same as a stream, where bytes come from far away. `None`: they are here.
    fn stream(&self, _range: Range<u64>) -> Option<Chunks> {
        None
    }

    /// Fills `out`, or fails.
    fn read_exact_at(&self, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !out.is_empty() {
            match self.read_at(out, offset) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Ok(n) => {
                    out = &mut out[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl ReadAt for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, out, offset)
    }
}
