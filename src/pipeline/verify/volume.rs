//! One volume of an archive, compared with the listing: the others need not be there.

use std::path::{Path, PathBuf};

use super::{Finding, Kind, OneVolume, Report};
use crate::medium::volumes::listing::archive_of;
use crate::medium::volumes::reader::Found;
use crate::pipeline::copy::finished;
use crate::pipeline::{Context, Result};
use crate::store;

/// Compares `file` with the listing that it is in. `None`: it is no volume, or there is no listing.
pub async fn verify(cx: &Context, file: &str) -> Result<Option<Report>> {
    let Some((_, Some(sequence))) = archive_of(Path::new(file)) else { return Ok(None) };
    let (path, directories) = (PathBuf::from(file), cx.stores.reading.directories.clone());
    let looked = tokio::task::spawn_blocking(move || look(&path, sequence, &directories)).await;
    let Some((volume, read)) = finished(looked).map_err(|e| store::Error::io(file, e))? else { return Ok(None) };
    let (bytes, findings) = match read {
        Ok(bytes) => (bytes, Vec::new()),
        Err(what) => (0, vec![Finding { kind: Kind::Damaged, digest: None, offset: None, images: Vec::new(), what }]),
    };
    Ok(Some(Report {
        source: file.to_owned(),
        volume: Some(volume),
        whole: findings.is_empty(),
        images: Vec::new(),
        manifests: 0,
        blobs: 0,
        bytes,
        findings,
        expected: Vec::new(),
        against: None,
        left_out: Vec::new(),
    }))
}

/// The volume, and its bytes if they are right, or what is wrong with it.
type Looked = (OneVolume, std::result::Result<u64, String>);

fn look(path: &Path, sequence: u32, directories: &[PathBuf]) -> std::io::Result<Option<Looked>> {
    // Read without a listing, the volumes are one archive.
    let Some(Found::Listed(volumes)) = Found::of(path, directories)? else { return Ok(None) };
    let listing = &volumes.listing;
    let (of, reference) = (listing.volumes.len(), listing.archive.reference.clone());
    let read = match listing.volumes.get(sequence as usize - 1) {
        Some(volume) => volumes.look(volume).map(|_| volume.size),
        None => Err(format!("its listing names {of} volumes, and not this one: it belongs to another archive")),
    };
    Ok(Some((OneVolume { sequence, of, reference }, read)))
}
