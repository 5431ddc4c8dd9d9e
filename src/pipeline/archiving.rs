//! `archive`: the images of a list straight into one archive, with no repository in between.
//!
//! The gather index is made in memory and is the one that `gather` would push; each blob goes from where it
//! is into the archive, as `serialize` of that gather would write it. One source that cannot be had does not
//! hide another, and no archive is written then unless the options allow it.

use std::sync::Arc;

use serde::Serialize;

use super::copy::{self, Copier};
use super::routes::Located;
use super::sizes::{sum, unreadable};
use super::sources::{resolve_all, select};
use super::{Context, Failure, Placed, Result, gather, serialize};
use crate::image::descriptor::Annotations;
use crate::image::{Descriptor, Platform, annotation};
use crate::source::{Selector, Source};
use crate::store::Store;
use crate::store::overlay::Overlay;

/// What to archive, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Take only these platforms; empty takes all.
    pub platforms: Vec<Platform>,
    /// Take only sources whose labels match one of these; empty takes all.
    pub selectors: Vec<Selector>,
    /// Annotations for the gather index.
    pub annotations: Annotations,
    /// Write for registries that refuse an index of indexes.
    pub index_fallback: bool,
    /// Archive what there is when a source cannot be had.
    pub allow_missing: bool,
    /// How to write.
    pub writing: serialize::Options,
}

/// What was archived.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The archive; `None` when none was written because something failed.
    #[serde(flatten)]
    pub archive: Option<serialize::Report>,
    pub images: Vec<Placed>,
    /// Bytes of configs and layers over every occurrence.
    pub size_total: u64,
    /// The same with each digest counted once.
    pub size_deduplicated: u64,
    pub failures: Vec<Failure>,
}

/// Writes an archive of the gather of `sources`, which is called `ref_name` in it, to `destination`: a path,
/// or `-` for standard output.
pub async fn archive(
    cx: &Context,
    sources: &[Source],
    destination: &str,
    ref_name: &str,
    options: &Options,
) -> Result<Report> {
    let wanted = select(sources, &options.selectors)?;
    serialize::check(destination, &options.writing).await?;
    cx.progress.begin("resolving");
    let copier = Copier::new(cx, copy::Options::default());
    let mut all = resolve_all(&copier, &wanted, &options.platforms).await;
    for (at, error) in unreadable(&copier, &all.found).await.into_iter().rev() {
        let Located { image, line, .. } = all.found.remove(at);
        let image = image.annotation(annotation::SOURCE).unwrap_or_default().to_owned();
        all.failures.push(Failure::new(image, line, &error.into()));
    }
    all.failures.sort_by_key(|failure| failure.line);
    let place = |root: &Descriptor| Placed::new(root.annotation(annotation::SOURCE).unwrap_or_default(), root, vec![]);
    let mut report = Report {
        images: all.found.iter().map(|located| place(&located.image)).collect(),
        failures: all.failures,
        ..Report::default()
    };
    if !report.failures.is_empty() && (!options.allow_missing || all.found.is_empty()) {
        return Ok(report);
    }
    let located: Vec<(Arc<dyn Store>, Descriptor)> = all.found.into_iter().map(|l| (l.store, l.image)).collect();
    let sources = Overlay::new("the sources", stores(&located));
    (report.size_total, report.size_deduplicated) = sum(&copier, &located, |store, manifests| {
        manifests.iter().for_each(|manifest| sources.keep_from(manifest.clone(), store.clone()));
    })
    .await?;
    let roots = located.into_iter().map(|(_, root)| root).collect();
    let sizes = (report.size_total, report.size_deduplicated);
    let index = gather::index(roots, sizes, &options.annotations, options.index_fallback)?;
    sources.keep(index.clone());
    let sources: Arc<dyn Store> = Arc::new(sources);
    let written =
        serialize::write_archive(cx, sources, &index.descriptor, ref_name, destination, &options.writing).await?;
    let written = report.archive.insert(written);
    written.left_out.extend(all.left_out);
    Ok(report)
}

/// Each store once, in the order of the list.
fn stores(located: &[(Arc<dyn Store>, Descriptor)]) -> Vec<Arc<dyn Store>> {
    let mut stores: Vec<Arc<dyn Store>> = Vec::new();
    for (store, _) in located {
        // The copier opens each repository once.
        if !stores.iter().any(|known| Arc::ptr_eq(known, store)) {
            stores.push(store.clone());
        }
    }
    stores
}
