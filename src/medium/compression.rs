//! Compression of a whole archive: zstd or gzip on the way out, recognised by content on the way in.
//! Both give the same bytes for the same input on any machine.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::thread::JoinHandle;

/// Level for zstd; layers are compressed already, so more of it buys nothing.
const ZSTD_LEVEL: i32 = 3;
/// Level for gzip, that of the command.
const GZIP_LEVEL: i32 = 6;
/// Bytes that are compressed together, and apart from all others.
pub const BLOCK: usize = 2 << 20;
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

impl Compression {
    /// The levels that there are.
    pub fn levels(self) -> RangeInclusive<i32> {
        match self {
            Compression::Zstd => 1..=22,
            Compression::Gzip => 1..=9,
        }
    }

    /// Blocks that are packed at once.
    pub fn threads(self) -> usize {
        std::thread::available_parallelism().map_or(1, |n| n.get()).min(8)
    }

    /// A reader of what the next frame or member holds, which takes no byte beyond it.
    pub fn unpack<'r>(self, input: impl BufRead + 'r) -> io::Result<Box<dyn Read + 'r>> {
        Ok(match Frame::open(self, input)? {
            Frame::Zstd(decoder) => Box::new(decoder),
            Frame::Gzip(decoder) => Box::new(decoder),
        })
    }

    /// One frame (zstd) or member (gzip) that holds `block`.
    pub fn pack(self, level: Option<i32>, block: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Compression::Zstd => {
                let mut compressor = zstd::bulk::Compressor::new(level.unwrap_or(ZSTD_LEVEL))?;
                compressor.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
                compressor.compress(block)
            }
            Compression::Gzip => {
                let level = flate2::Compression::new(level.unwrap_or(GZIP_LEVEL).unsigned_abs());
                let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(block.len()), level);
                encoder.write_all(block)?;
                encoder.finish()
            }
        }
    }
}

/// A block that is being packed by a thread of its own.
struct Packing {
    thread: JoinHandle<io::Result<Vec<u8>>>,
    /// Its bytes before.
    size: u64,
}

/// Compresses what is written to it, on all cores: each block is a frame of its own, so that the bytes are the same
/// on any machine. Unfinished, it leaves a stream that no reader takes for a whole archive.
pub struct Compressor<W: Write> {
    how: Option<(Compression, Option<i32>)>,
    out: W,
    block: Vec<u8>,
    packing: VecDeque<Packing>,
    threads: usize,
    written: u64,
}

impl<W: Write> Compressor<W> {
    pub fn new(compression: Option<Compression>, level: Option<i32>, out: W) -> io::Result<Self> {
        let threads = compression.map_or(1, Compression::threads);
        let how = compression.map(|compression| (compression, level));
        Ok(Compressor { how, out, block: Vec::new(), packing: VecDeque::new(), threads, written: 0 })
    }

    /// Bytes that were given to it and are out.
    pub fn written(&self) -> u64 {
        self.written
    }

    pub fn get_ref(&self) -> &W {
        &self.out
    }

    /// Hands the block to a thread, when one is free.
    fn pack(&mut self, compression: Compression, level: Option<i32>) -> io::Result<()> {
        while self.packing.len() >= self.threads {
            self.put_first()?;
        }
        let block = std::mem::take(&mut self.block);
        let size = block.len() as u64;
        let thread = std::thread::Builder::new().name("compressor".into());
        self.packing.push_back(Packing { thread: thread.spawn(move || compression.pack(level, &block))?, size });
        Ok(())
    }

    /// Writes the frame that comes next.
    fn put_first(&mut self) -> io::Result<()> {
        let Some(Packing { thread, size }) = self.packing.pop_front() else { return Ok(()) };
        let frame = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        self.out.write_all(&frame)?;
        self.written += size;
        Ok(())
    }

    /// Writes what is buffered and the end of the stream.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some((compression, level)) = self.how
            && (!self.block.is_empty() || self.written == 0 && self.packing.is_empty())
        {
            self.pack(compression, level)?;
        }
        while !self.packing.is_empty() {
            self.put_first()?;
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some((compression, level)) = self.how else {
            let n = self.out.write(bytes)?;
            self.written += n as u64;
            return Ok(n);
        };
        let n = bytes.len().min(BLOCK - self.block.len());
        self.block.reserve_exact(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..n]);
        if self.block.len() == BLOCK {
            self.pack(compression, level)?;
        }
        // What waits here is lost to a run that is killed.
        while self.packing.front().is_some_and(|packing| packing.thread.is_finished()) {
            self.put_first()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Reads a stream, decompressed if its first bytes say that it is compressed.
pub fn decompress(mut input: impl BufRead + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    Ok(match Compression::sniff(input.fill_buf()?) {
        None => Box::new(input),
        Some(compression) => Box::new(Unpacked::new(compression, input)?),
    })
}

/// What the frames or members of a compressed stream hold. Zeros behind the last one, with which the last block of a
/// tape is filled up, are passed over; nothing else may be there.
pub struct Unpacked<R: BufRead> {
    compression: Compression,
    /// `None`: the end was reached.
    frame: Option<Frame<R>>,
    padding: u64,
}

enum Frame<R: BufRead> {
    Zstd(zstd::stream::read::Decoder<'static, R>),
    Gzip(Box<flate2::bufread::GzDecoder<R>>),
}

impl<R: BufRead> Frame<R> {
    fn open(compression: Compression, input: R) -> io::Result<Self> {
        Ok(match compression {
            Compression::Gzip => Frame::Gzip(Box::new(flate2::bufread::GzDecoder::new(input))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?.single_frame();
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Frame::Zstd(decoder)
            }
        })
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Frame::Zstd(decoder) => decoder.read(out),
            Frame::Gzip(decoder) => decoder.read(out),
        }
    }

    fn into_input(self) -> R {
        match self {
            Frame::Zstd(decoder) => decoder.finish(),
            Frame::Gzip(decoder) => decoder.into_inner(),
        }
    }
}

impl<R: BufRead> Unpacked<R> {
    pub fn new(compression: Compression, input: R) -> io::Result<Self> {
        Ok(Unpacked { compression, frame: Some(Frame::open(compression, input)?), padding: 0 })
    }

    /// Zeros that were passed over behind the stream; all of them once its end was read.
    pub fn padding(&self) -> u64 {
        self.padding
    }

    /// Goes on behind a frame that was read to its end.
    fn next_frame(&mut self) -> io::Result<()> {
        let Some(frame) = self.frame.take() else { return Ok(()) };
        let mut input = frame.into_input();
        loop {
            let rest = input.fill_buf()?;
            let zeros = rest.iter().take_while(|byte| **byte == 0).count();
            match rest.first() {
                None => return Ok(()),
                Some(0) if zeros == rest.len() => {
                    self.padding += zeros as u64;
                    input.consume(zeros);
                }
                Some(_) if zeros == 0 && self.padding == 0 => break,
                Some(_) => {
                    let why = "zeros and then something else follow the compressed stream";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
            }
        }
        self.frame = Some(Frame::open(self.compression, input)?);
        Ok(())
    }
}

impl<R: BufRead> Read for Unpacked<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        while let Some(frame) = &mut self.frame {
            match frame.read(out)? {
                0 => self.next_frame()?,
                n => return Ok(n),
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_out_in_order_and_are_counted_when_they_are_out() {
        let content: Vec<u8> = (0..2 * BLOCK + 17).map(|i| (i / 7919) as u8).collect();
        for compression in [Compression::Zstd, Compression::Gzip] {
            let mut outs = Vec::new();
            for pieces in [1000, BLOCK + 1, content.len()] {
                let mut out = Compressor::new(Some(compression), None, Vec::new()).unwrap();
                for piece in content.chunks(pieces) {
                    out.write_all(piece).unwrap();
                    assert_eq!(out.written() as usize % BLOCK, 0);
                    assert_eq!(out.written() == 0, out.get_ref().is_empty());
                }
                outs.push(out.finish().unwrap());
            }
            assert!(outs[0] == outs[1] && outs[1] == outs[2], "the same bytes, however they came");
            let mut plain = Vec::new();
            decompress(io::Cursor::new(outs.remove(0))).unwrap().read_to_end(&mut plain).unwrap();
            assert!(plain == content);
        }
    }
    #[test]
    fn zeros_behind_the_stream_are_passed_over_and_anything_else_is_not() {
        let content = vec![7; BLOCK + 1];
        for compression in [Compression::Zstd, Compression::Gzip] {
            let mut out = Compressor::new(Some(compression), None, Vec::new()).unwrap();
            out.write_all(&content).unwrap();
            let stream = out.finish().unwrap();
            let read = |tail: &[u8], at_once| {
                let bytes = [&stream, tail].concat();
                let input = io::BufReader::with_capacity(at_once, io::Cursor::new(bytes));
                let mut unpacked = Unpacked::new(compression, input).unwrap();
                let mut plain = Vec::new();
                unpacked.read_to_end(&mut plain).map(|_| (plain, unpacked.padding()))
            };
            for (zeros, at_once) in [(0, 3), (1, 3), (4096, 1000), (1 << 20, 1 << 20)] {
                let (plain, padding) = read(&vec![0; zeros], at_once).unwrap();
                assert!(plain == content);
                assert_eq!(padding, zeros as u64);
            }
            for tail in [&b"x"[..], b"\0\0x", b"\0\0\0\0\0\0\0\0\0\0\x1f\x8b\x08"] {
                assert!(read(tail, 8).is_err(), "{tail:?}");
            }
            // Several streams, one behind the other, are one.
            let (plain, _) = read(&stream, 100).unwrap();
            assert_eq!(plain.len(), 2 * content.len());
            assert!(
                Unpacked::new(compression, &stream[..stream.len() - 1]).unwrap().read_to_end(&mut Vec::new()).is_err()
            );
        }
    }
}
