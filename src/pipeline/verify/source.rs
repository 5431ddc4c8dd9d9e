//! Opening what is to be verified. What is damaged opens too: the damage is a finding, not an error. An archive
//! that can be read only once is hashed while it is read.

use std::io::BufRead;
use std::sync::Arc;

use super::passing::{self, Bad};
use crate::archive::reader::Stream;
use crate::medium::compression::decompress;
use crate::pipeline::copy::finished;
use crate::pipeline::{Context, Result};
use crate::store::archive::Archive;
use crate::store::location::Input;
use crate::store::{self, Location, Opened, Roots};

/// What is to be verified, open.
pub struct Source {
    pub opened: Opened,
    /// Where its blobs were hashed already: those that are not what their names say.
    pub hashed: Option<Vec<Bad>>,
}

/// Opens the location, and reads all of it if it can be read only once.
pub async fn open(cx: &Context, location: &Location) -> Result<Source> {
    let Location::Archive(file) = location else {
        return Ok(Source { opened: cx.stores.open_location(location).await?, hashed: None });
    };
    let (archive, hashed) = match cx.stores.open_damaged(file).await? {
        Input::Seekable(archive) => (archive, None),
        Input::Stream { name, bytes } => pass(cx, name, bytes).await?,
    };
    let archive = Arc::new(archive);
    let roots = Roots::Listed(archive.contents.indexes.first().cloned().unwrap_or_default());
    Ok(Source { opened: Opened { store: archive.clone(), roots, archive: Some(archive) }, hashed })
}

async fn pass(cx: &Context, name: String, input: Box<dyn BufRead + Send>) -> Result<(Archive, Option<Vec<Bad>>)> {
    cx.progress.open_ended();
    let (threads, memory, progress) = (cores(), cx.byte_budget, cx.progress.clone());
    let hashed = tokio::task::spawn_blocking(move || {
        let input = decompress(input)?;
        Ok(passing::hash(Stream(input), threads, memory, &progress))
    });
    let hashed = finished(hashed.await).map_err(|e| store::Error::io(&name, e))?;
    let archive = Archive::passed(&name, hashed.passed, hashed.damage);
    Ok((archive, Some(hashed.bad)))
}

/// Processors to hash with.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}
