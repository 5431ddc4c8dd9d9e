//! An archive into volumes: begun, gone on with behind the last volume that is right, and read back.

use std::io;
use std::path::Path;

use super::check::check_space;
use super::failed::Failed;
use super::in_order::{Begun, Stands};
use super::there::{Place, There};
use super::{Compression, Work};
use crate::archive::plan::Plan;
use crate::medium::identity::Identity;
use crate::medium::volumes::listing::{self, Listing, listing_path};
use crate::medium::volumes::reader::Found;
use crate::pipeline::copy::finished;

/// Begins the volumes, or goes on with them; `resumed` is told how much of the archive is there.
pub async fn begin(work: &Work<'_>, path: &Path, archive: Identity, resumed: &mut u64) -> Result<Stands, Failed> {
    let Work { plan, options, .. } = work;
    let volume_size = options.medium.volume_size.unwrap_or(u64::MAX);
    let mut there = None;
    if options.resume {
        let (path, plan, archive) = (path.to_owned(), Plan::clone(plan), archive.clone());
        let how = work.compression();
        let look = move || find(&path, &plan, how, &archive, volume_size);
        there = finished(tokio::task::spawn_blocking(look).await)?;
    }
    // What lies behind the last volume of an interrupted run is a part of it.
    let force = options.force || there.is_some();
    let (listing, from) = there.unwrap_or_else(|| (Listing::new(archive, volume_size), Place::start()));
    *resumed = from.standing.offset;
    if listing.complete && from.standing.offset == plan.length {
        return Ok(Stands::Complete(from.length));
    }
    // Nobody knows how long it gets compressed.
    if options.compression.is_none() {
        check_space(path, plan.length - from.standing.offset)?;
    }
    Ok(Begun { output: options.medium.volumes(path, listing, force), from, watch: None }.into())
}

/// The volumes of an archive that are whole and right, and where it goes on behind them.
fn find(
    path: &Path,
    plan: &Plan,
    how: Option<(Compression, Option<i32>)>,
    archive: &Identity,
    volume_size: u64,
) -> io::Result<Option<(Listing, Place)>> {
    let Some(mut listing) = Listing::read(&listing_path(path))? else { return Ok(None) };
    if !listing.archive.is_same(archive) {
        let name = listing.archive.to_string();
        return Err(io::Error::other(format!(
            "its volumes are of {name}: name another place, or replace them: --force in place of --resume"
        )));
    }
    if listing.volume_size != volume_size {
        let size = listing.volume_size;
        return Err(io::Error::other(format!(
            "its volumes are of {size} bytes: go on with --volume-size {size}, or replace them: --force in place of --resume"
        )));
    }
    let mut there = There::new(plan, how);
    let mut from = Place::start();
    for (at, volume) in listing.volumes.iter().enumerate() {
        let part = listing::volume_path(path, volume.sequence);
        let mut follows = true;
        let wrong = listing::compare(&part, volume, |chunk| follows = follows && there.take(chunk).is_ok())?;
        from = match there.place() {
            Ok(place) if wrong.is_none() && follows => place,
            _ => {
                tracing::warn!("{} is not as it was written: it is written again", part.display());
                listing.volumes.truncate(at);
                listing.complete = false;
                break;
            }
        };
    }
    Ok(Some((listing, from)))
}

/// Reads all volumes back. Their digests were computed of what was given to the disk.
pub async fn read_back(path: &Path) -> io::Result<()> {
    let listing = listing_path(path);
    let check = move || match Found::of(&listing, &[])? {
        Some(Found::Listed(volumes)) => volumes.check().map(drop),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let again = |e| io::Error::other(format!("read back, {e}: write it to another medium"));
    finished(tokio::task::spawn_blocking(check).await).map_err(again)
}
