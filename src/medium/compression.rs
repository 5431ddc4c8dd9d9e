//! Compression of a whole archive: zstd or gzip on the way out, recognised by content on the way in.
//! Both give the same bytes for the same input on any machine.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::str::FromStr;

/// Level for zstd; layers are compressed already, so more of it buys nothing.
const ZSTD_LEVEL: i32 = 3;
/// The largest zstd window that is decoded: 2^27 bytes, what the zstd command takes without being asked.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    Zstd,
    Gzip,
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "zstd" => Ok(Compression::Zstd),
            "gzip" => Ok(Compression::Gzip),
            _ => Err(format!("compression {text:?} is not known: write zstd or gzip")),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::Zstd => "zstd",
            Compression::Gzip => "gzip",
        })
    }
}

impl Compression {
    /// Recognises a compressed stream by its first bytes; `None` for any other.
    pub fn sniff(start: &[u8]) -> Option<Self> {
        if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Some(Compression::Zstd)
        } else if start.starts_with(&[0x1f, 0x8b]) {
            Some(Compression::Gzip)
        } else {
            None
        }
    }
}

/// Compresses what is written to it. Unfinished, it leaves a stream that no reader takes for whole.
pub enum Compressor<W: Write> {
    None(W),
    Zstd(zstd::stream::write::Encoder<'static, W>),
    Gzip(flate2::write::GzEncoder<W>),
}

impl<W: Write> Compressor<W> {
    pub fn new(compression: Option<Compression>, out: W) -> io::Result<Self> {
        Ok(match compression {
            None => Compressor::None(out),
            Some(Compression::Zstd) => {
                let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
                // The output does not depend on the number of threads, as long as there is one.
                encoder.multithread(std::thread::available_parallelism().map_or(1, |n| n.get() as u32).min(8))?;
                encoder.include_checksum(true)?;
                Compressor::Zstd(encoder)
            }
            Some(Compression::Gzip) => {
                Compressor::Gzip(flate2::write::GzEncoder::new(out, flate2::Compression::default()))
            }
        })
    }

    /// Writes what is buffered and the end of the stream.
    pub fn finish(self) -> io::Result<W> {
        let mut out = match self {
            Compressor::None(out) => out,
            Compressor::Zstd(encoder) => encoder.finish()?,
            Compressor::Gzip(encoder) => encoder.finish()?,
        };
        out.flush()?;
        Ok(out)
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Compressor::None(out) => out.write(bytes),
            Compressor::Zstd(encoder) => encoder.write(bytes),
            Compressor::Gzip(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Compressor::None(out) => out.flush(),
            Compressor::Zstd(encoder) => encoder.flush(),
            Compressor::Gzip(encoder) => encoder.flush(),
        }
    }
}

/// Reads a stream, decompressed if its first bytes say that it is compressed.
pub fn decompress(mut input: impl BufRead + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    Ok(match Compression::sniff(input.fill_buf()?) {
        None => Box::new(input),
        Some(Compression::Gzip) => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Some(Compression::Zstd) => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}
