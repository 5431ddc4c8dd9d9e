//! Writing one regular file, which has its name only when all of it is right: what an earlier run left of it is
//! found, the rest written, and with `--verify` all of it read back.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::check::check_space;
use super::failed::{Failed, refused, unfinished};
use super::found::{self, Found};
use super::{Report, Result, Work, concurrent, packed, read_back};
use crate::archive::plan::Plan;
use crate::medium::file::{NewFile, allocated};
use crate::medium::volumes::listing::drop_cache;
use crate::pipeline::copy::finished;
use crate::store::archive::Archive;

/// The manifests of an unfinished archive, so that they need not be fetched again; none if there is no such thing.
pub async fn recall(file: &NewFile) -> Option<Arc<Archive>> {
    let archive = Archive::open(&file.partial().to_string_lossy(), file.file().clone()).await;
    archive.map(Arc::new).inspect_err(|e| tracing::debug!("nothing to go on with: {e}")).ok()
}

/// Writes the archive to `file`, gives it its name, and tells of it.
pub async fn write(work: &Work<'_>, file: NewFile, report: &mut Report) -> Result<()> {
    let destination = report.destination.clone();
    let refused = |e| refused(Path::new(&destination), e);
    begin(&file, work.options.resume).map_err(refused)?;
    let mut found = Vec::new();
    let written = match work.options.compression {
        Some(compression) => packed::write(work, compression, &file, &mut report.bytes_resumed).await,
        None => plain(work, &file, &mut found).await,
    };
    report.bytes = written.map_err(|e| unfinished(&file, e.at(&destination)))?;
    if work.options.medium.verify {
        work.cx.progress.begin("reading back");
        let (path, plan) = (file.partial().to_owned(), work.plan.clone());
        let read = tokio::task::spawn_blocking(move || again(&path, &plan)).await;
        finished(read).map_err(|e| Failed::Medium(e).at(&destination))?;
    }
    finished(tokio::task::spawn_blocking(move || file.finish()).await).map_err(refused)?;
    report.count(work.plan, &found);
    Ok(())
}

/// Gives up what an earlier run left, unless it is to be gone on with.
fn begin(file: &NewFile, resume: bool) -> io::Result<()> {
    if !resume && file.is_kept() {
        tracing::warn!("{} of an earlier run is replaced: --resume would go on with it", file.partial().display());
        file.clear()?;
    }
    Ok(())
}

/// Writes an archive that is not compressed, and gives its length. What was there of it is told in `found`.
async fn plain(work: &Work<'_>, file: &NewFile, found: &mut Vec<Found>) -> std::result::Result<u64, Failed> {
    let Work { cx, plan, .. } = work;
    let passage = work.passage().map_err(io::Error::other)?;
    if file.is_kept() {
        cx.progress.begin("verifying what is there");
        *found = found::examine(cx, plan, file.file()).await?;
    }
    check_space(file.partial(), plan.length.saturating_sub(allocated(file.file())?))?;
    work.begin();
    concurrent::write(cx, work.store, plan, file, found.clone(), passage.watcher).await?;
    Ok(plan.length)
}

/// Reads it back.
fn again(path: &Path, plan: &Plan) -> io::Result<()> {
    let file = std::fs::File::open(path)?;
    file.sync_data()?;
    drop_cache(&file);
    read_back::compare(file, plan)
}
