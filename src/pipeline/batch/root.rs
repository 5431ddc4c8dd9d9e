//! Which image an archive carries, from its first bytes.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use crate::archive::contents::read_index;
use crate::archive::reader::{Entries, Error, Name, Stream};
use crate::image::Digest;
use crate::medium::compression::decompress;
use crate::pipeline;

/// Digest of the root: what the archive's first `index.json` names first. Blocks while it reads.
pub fn root_of(path: &Path) -> pipeline::Result<Digest> {
    let place = path.display().to_string();
    let io = |source| pipeline::Error::Io { path: place.clone(), source };
    let file = BufReader::with_capacity(64 << 10, File::open(path).map_err(io)?);
    let input = decompress(file).map_err(io)?;
    match first_root(&mut Entries::new(Stream(input))) {
        Ok(Some(digest)) => Ok(digest),
        Ok(None) => Err(pipeline::Error::Refused(format!(
            "{place} names no image: it was cut, or it is no archive of mirror; carry it over again"
        ))),
        Err(Error::Io(source)) => Err(io(source)),
        Err(e) => Err(pipeline::Error::Refused(format!("{place}: {e}"))),
    }
}

fn first_root(entries: &mut Entries<Stream>) -> Result<Option<Digest>, Error> {
    while let Ok(entry) = entries.advance()? {
        if entry.name == Name::Index {
            return Ok(read_index(entries, entry)?.and_then(|index| Some(index.first()?.digest)));
        }
    }
    Ok(None)
}
