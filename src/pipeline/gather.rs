//! `gather`: many sources into one repository, under one index that names them all.
//!
//! The same sources give the same index, byte for byte. The index goes last and only when all that it
//! names is in place; one source that cannot be had does not stop the others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use super::copy::{self, Copier, Job, Plan};
use super::sizes::sum;
use super::sources::{Resolved, nothing_for, resolve, select};
use super::together::together;
use super::{Context, Error, Failure, LeftOut, Moved, Placed, Result};
use crate::image::descriptor::Annotations;
use crate::image::gather_index::GatherIndex;
use crate::image::{Descriptor, Digest, ImageName, Manifest, Platform, annotation, media_type};
use crate::source::{Selector, Source};
use crate::store::{self, Name, Store};

/// How to gather.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Take only these platforms; empty takes all.
    pub platforms: Vec<Platform>,
    /// Annotations for the gather index.
    pub annotations: Annotations,
    /// Take referrers and signatures along.
    pub recursive: bool,
    /// Write for registries that refuse an index of indexes.
    pub index_fallback: bool,
    /// Tag what there is when a source cannot be had.
    pub allow_missing: bool,
    /// Copy layers that registries usually do not hold.
    pub foreign_layers: bool,
    /// Say what would be gathered, and move nothing.
    pub dry_run: bool,
    /// Take only sources whose labels match one of these; empty takes all.
    pub selectors: Vec<Selector>,
}

/// What was gathered.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The destination.
    pub reference: String,
    /// Digest of the gather index; `None` when there is none because something failed.
    pub digest: Option<Digest>,
    /// Whether the destination's tag names that index now.
    pub tagged: bool,
    pub images: Vec<Placed>,
    /// Bytes of configs and layers over every occurrence.
    pub size_total: u64,
    /// The same with each digest counted once.
    pub size_deduplicated: u64,
    pub moved: Moved,
    /// In a dry run: what would be done.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    pub left_out: Vec<LeftOut>,
    pub failures: Vec<Failure>,
}

/// Copies every source into the destination's repository and tags the gather index there.
pub async fn gather(cx: &Context, sources: &[Source], destination: &ImageName, options: &Options) -> Result<Report> {
    let Name::Tag(tag) = destination.name() else {
        return Err(Error::Refused(format!("{destination}: a gather is named by a tag, not by a digest: write one")));
    };
    let wanted = select(sources, &options.selectors)?;
    let copier = Copier::new(
        cx,
        copy::Options {
            recursive: options.recursive,
            foreign_layers: options.foreign_layers,
            dry_run: options.dry_run,
        },
    );
    let to = copier.open(destination)?;
    let before = Before::read(&to, &tag, options).await?;
    cx.progress.begin(if options.dry_run { "resolving" } else { "gathering" });

    let taking = wanted.iter().cloned().map(|source| {
        let (copier, to, options, before) = (copier.clone(), to.clone(), options.clone(), before.clone());
        async move { take(&copier, &to, &source, &options, &before).await }
    });
    let outcomes = together(taking).await;

    let mut report = Report {
        reference: destination.to_string(),
        digest: None,
        tagged: false,
        images: Vec::new(),
        size_total: 0,
        size_deduplicated: 0,
        moved: Moved::default(),
        plan: None,
        left_out: Vec::new(),
        failures: Vec::new(),
    };
    let mut all = Vec::new();
    for (Source { text, line, .. }, outcome) in wanted.iter().zip(outcomes) {
        match outcome {
            Ok(taken) => {
                if taken.roots.is_empty() {
                    report.left_out.push(nothing_for(text, &options.platforms));
                }
                report.images.extend(taken.roots.iter().map(|root| Placed::new(text, root, Vec::new())));
                all.extend(taken.roots.into_iter().map(|root| (taken.store.clone(), root)));
            }
            Err(e) => report.failures.push(Failure::new(text.clone(), Some(*line), &e)),
        }
    }
    let give_up = !report.failures.is_empty() && (!options.allow_missing || all.is_empty());
    if !give_up {
        finish(cx, &copier, &to, &tag, options, &before, all, &mut report).await?;
    }
    report.moved = copier.moved();
    report.plan = copier.rehearsed();
    report.left_out.extend(copier.left_out());
    Ok(report)
}

/// One source: what it stands for, in place at the destination.
async fn take(
    copier: &Copier,
    to: &Arc<dyn Store>,
    source: &Source,
    options: &Options,
    before: &Before,
) -> Result<Resolved> {
    // What the earlier index names has hardly changed: a look is enough.
    let taken = resolve(copier, source, &options.platforms, before.names(&source.text)).await?;
    for root in &taken.roots {
        if before.has(&root.digest) {
            copier.way(taken.store.clone(), to.clone(), "").note_there(root, copy::WHOLE);
            continue;
        }
        copier.copy(job(&taken.store, to, root)).await.map_err(Error::without_image)?;
    }
    Ok(taken)
}

fn job(source: &Arc<dyn Store>, to: &Arc<dyn Store>, root: &Descriptor) -> Job {
    Job {
        source: source.clone(),
        root: root.clone(),
        destination: to.clone(),
        tag: None,
        image: root.annotation(annotation::SOURCE).unwrap_or_default().to_owned(),
    }
}

/// Builds the index and puts it in place.
#[expect(clippy::too_many_arguments, reason = "one step of the verb, with all that the verb knows")]
async fn finish(
    cx: &Context,
    copier: &Copier,
    to: &Arc<dyn Store>,
    tag: &str,
    options: &Options,
    before: &Before,
    all: Vec<(Arc<dyn Store>, Descriptor)>,
    report: &mut Report,
) -> Result<()> {
    let roots: Vec<Descriptor> = all.iter().map(|(_, root)| root.clone()).collect();
    (report.size_total, report.size_deduplicated) = match before.sizes_of(&roots) {
        Some(sizes) => sizes,
        None => sum(copier, &all, |_, _| {}).await?,
    };
    let sizes = (report.size_total, report.size_deduplicated);
    let index = index(roots, sizes, &options.annotations, options.index_fallback)?;
    report.digest = Some(index.digest());
    report.tagged = !options.dry_run;
    if before.digest == Some(index.digest()) {
        copier.way(to.clone(), to.clone(), "").note_there(&index.descriptor, copy::WHOLE);
        return Ok(());
    }
    cx.progress.begin("tagging");
    match copier.put(&index, to, Some(tag), &report.reference).await {
        // What an earlier index names was taken as being there, and is not: it is sent after all.
        Err(Error::Copy { source, .. }) if source.is_blob_unknown() && before.digest.is_some() => {
            for (store, root) in &all {
                copier.copy(job(store, to, root)).await?;
            }
            copier.put(&index, to, Some(tag), &report.reference).await
        }
        other => other,
    }
    .map_err(|e| explain(e, &all, options))
}

/// The index that names these images; `sizes` of all their content, in total and with each digest counted once.
pub fn index(
    roots: Vec<Descriptor>,
    (size_total, size_deduplicated): (u64, u64),
    annotations: &Annotations,
    index_fallback: bool,
) -> Result<Manifest> {
    let annotations = annotations.clone();
    let index = GatherIndex { roots, size_total, size_deduplicated, annotations, index_fallback };
    index.build().map_err(|e| Error::Refused(format!("the gather index cannot be written: {e}")))
}

/// A registry that refuses an index of indexes says so in any words it likes.
fn explain(error: Error, all: &[(Arc<dyn Store>, Descriptor)], options: &Options) -> Error {
    let nested = !options.index_fallback && all.iter().any(|(_, root)| media_type::is_index(&root.media_type));
    match error {
        Error::Copy { image, source } if nested && matches!(*source, store::Error::Http { status: 400..=499, .. }) => {
            let advice = "if this registry refuses an index of indexes, gather with --index-fallback";
            Error::Refused(format!("{image}: {}; {advice}", *source))
        }
        other => other,
    }
}

/// What the destination's tag named before: what it names is in place, and need not be asked for.
#[derive(Clone, Default)]
struct Before {
    digest: Option<Digest>,
    roots: Arc<HashMap<Digest, usize>>,
    /// The sources that it was made of.
    sources: Arc<HashSet<String>>,
    sizes: Option<(u64, u64)>,
}

impl Before {
    async fn read(to: &Arc<dyn Store>, tag: &str, options: &Options) -> Result<Before> {
        // An earlier gather may have left referrers or foreign layers behind that are wanted now.
        if options.recursive || options.foreign_layers {
            return Ok(Before::default());
        }
        match to.manifest(&Name::Tag(tag.to_owned())).await {
            Ok(Some(manifest)) => Ok(Before::of(&manifest).unwrap_or_default()),
            Ok(None) => Ok(Before::default()),
            Err(e) if e.is_missing() || options.dry_run => Ok(Before::default()),
            Err(store::Error::Manifest(_)) => Ok(Before::default()),
            Err(e) => Err(e.into()),
        }
    }

    fn of(manifest: &Manifest) -> Option<Before> {
        let view = manifest.view().ok()?;
        if view.artifact_type.as_deref() != Some(media_type::GATHER) {
            return None;
        }
        let (mut roots, mut sources) = (HashMap::new(), HashSet::new());
        for root in manifest.children().ok()?.manifests {
            sources.extend(root.annotation(annotation::SOURCE).map(str::to_owned));
            *roots.entry(root.digest).or_insert(0) += 1;
        }
        let size = |key: &str| view.annotations.get(key)?.parse().ok();
        let sizes = Some((size(annotation::SIZE_TOTAL)?, size(annotation::SIZE_DEDUPLICATED)?));
        Some(Before { digest: Some(manifest.digest()), roots: Arc::new(roots), sources: Arc::new(sources), sizes })
    }

    fn names(&self, source: &str) -> bool {
        self.sources.contains(source)
    }

    fn has(&self, digest: &Digest) -> bool {
        self.roots.contains_key(digest)
    }

    /// The sums of the earlier index, if it names the same manifests as often.
    fn sizes_of(&self, roots: &[Descriptor]) -> Option<(u64, u64)> {
        let mut counts = HashMap::new();
        for root in roots {
            *counts.entry(root.digest).or_insert(0) += 1;
        }
        self.sizes.filter(|_| *self.roots == counts)
    }
}
