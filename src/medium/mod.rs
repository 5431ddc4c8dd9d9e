//! Where the bytes of an archive live: regular files, volumes, tapes, and what else can only be written in
//! order (pipes, character devices, standard output, objects of S3).

pub mod block;
pub mod block_buffer;
pub mod compression;
pub mod file;
pub mod identity;
pub mod object;
pub mod ordered;
pub mod read_at;
pub mod tape;
pub mod volumes;
pub mod writing;

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

/// How media are read: what an archive's name alone does not say.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Puts in the next tape.
    pub operator: tape::Operator,
    /// Where volumes are besides the directory of the one that was named.
    pub directories: Vec<PathBuf>,
    /// How the store of an object is reached.
    pub objects: object::Access,
}

/// A place that an archive is written to or read from, as the user named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `-`
    Standard,
    /// A tape drive.
    Tape(PathBuf),
    /// A pipe or another device: it exists, and bytes go to it or come from it in order.
    Ordered(PathBuf),
    /// `s3://bucket/key`
    Object(String),
    /// A regular file, which need not exist yet.
    File(PathBuf),
}

impl Place {
    /// Looks at what the name stands for, links followed.
    pub fn of(name: &str) -> Place {
        if name == "-" {
            return Place::Standard;
        }
        if object::is_object(name) {
            return Place::Object(name.into());
        }
        let path = PathBuf::from(name);
        if tape::is_tape(&path) {
            return Place::Tape(path);
        }
        match std::fs::metadata(&path) {
            Ok(m) if m.file_type().is_fifo() || m.file_type().is_char_device() || m.file_type().is_block_device() => {
                Place::Ordered(path)
            }
            _ => Place::File(path),
        }
    }
}
