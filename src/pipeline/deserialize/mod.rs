//! `deserialize`: everything in an archive, into a store.
//!
//! A regular, uncompressed file is read from many places at once; a pipe or a compressed archive in one
//! pass. Blobs that arrive are put in place whatever comes after; manifests follow their children; the
//! tag comes last, and only when everything that the archive promises is there.

mod landing;
mod promise;
mod stream;

use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::Arc;

use serde::Serialize;

use super::{Context, Error, LeftOut, Moved, Placed, Result};
use crate::archive::Compression;
use crate::archive::reader::Ending;
use crate::image::{Descriptor, Digest, ImageName};
use crate::medium::Place;
use crate::store::archive::Archive;
use crate::store::{self, Name};
use landing::Landing;
use promise::Held;

/// How to read the archive.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Read and verify all of it; change nothing at the destination.
    pub dry_run: bool,
}

/// What arrived.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub reference: String,
    pub digest: Digest,
    pub moved: Moved,
    /// The root of the archive, and other images that its index names.
    pub images: Vec<Placed>,
    pub left_out: Vec<LeftOut>,
}

/// Reads `source`, a path or `-` for standard input, into `destination`.
pub async fn deserialize(cx: &Context, source: &str, destination: &ImageName, options: &Options) -> Result<Report> {
    cx.progress.begin("deserializing");
    let landing = Arc::new(Landing::new(cx, destination, options.dry_run)?);
    let place = Place::of(source);
    let io = |e| Error::Io { path: source.into(), source: e };
    let (held, indexes, ending) = match &place {
        Place::File(path) if !is_compressed(path).map_err(io)? => {
            let archive = Archive::open(path).await?;
            let (indexes, ending) = (archive.contents.indexes.clone(), archive.contents.ending);
            (Held::Archive(Arc::new(archive)), indexes, ending)
        }
        Place::File(path) | Place::Ordered(path) => {
            let file = File::open(path).map_err(io)?;
            stream::read(cx, &landing, source, Box::new(BufReader::with_capacity(1 << 20, file))).await?
        }
        Place::Standard => {
            let input = BufReader::with_capacity(1 << 20, std::io::stdin());
            stream::read(cx, &landing, source, Box::new(input)).await?
        }
    };
    let root = root(source, &indexes, ending)?;
    let digest = root.digest;
    if let Name::Digest(wanted) = destination.name()
        && wanted != digest
    {
        return Err(Error::Refused(format!(
            "{source} holds {digest}, and the destination is {destination}: name a tag"
        )));
    }
    let mut settled = promise::settle(cx, &landing, held, source, root, &indexes, ending).await?;
    settled.left_out.sort_by(|a, b| a.what.cmp(&b.what));
    Ok(Report {
        reference: destination.to_string(),
        digest,
        moved: landing.moved(),
        images: vec![Placed::new(source, &settled.root, vec![destination.to_string()])],
        left_out: settled.left_out,
    })
}

fn is_compressed(path: &std::path::Path) -> std::io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut start)?;
    Ok(Compression::sniff(&start).is_some())
}

/// The first descriptor of the first `index.json`. Several archives in one are refused, unless they agree.
fn root(source: &str, indexes: &[Vec<Descriptor>], ending: Ending) -> Result<Descriptor> {
    let mut roots = indexes.iter().filter_map(|index| index.first());
    let Some(root) = roots.next() else {
        let why = if ending == Ending::Complete { "it names no image" } else { "it was cut before it names an image" };
        return Err(Error::Refused(format!("{source} is no archive of an OCI layout: {why} in index.json")));
    };
    if let Some(other) = roots.find(|other| other.digest != root.digest) {
        return Err(Error::Refused(format!(
            "{source} holds several archives, of {} and of {}: split them, and read one after the other",
            root.digest, other.digest
        )));
    }
    if !root.is_manifest() {
        let media_type = store::error::printable(&root.media_type);
        return Err(Error::Refused(format!("{source}: its root has media type {media_type:?}, which is no image")));
    }
    Ok(root.clone())
}
