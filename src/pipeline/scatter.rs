//! `scatter`: the images of a gather index to where a ruleset sends them.
//!
//! Every destination is known, and no two different images have one, before the first push. One image
//! that fails does not stop the others.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use super::copy::{self, Copier, Plan};
use super::platforms::choose;
use super::routes::{Located, Routes, name_of, plan};
use super::{Context, Error, Failure, LeftOut, Moved, Placed, Result};
use crate::image::{Descriptor, Digest, ImageName, Manifest, Platform, annotation, media_type};
use crate::mapping::Mapper;
use crate::source::{Selector, Source, labels_of, matches_any};
use crate::store::Store;
use crate::store::error::printable;

/// What to scatter, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Say where everything would go, and move nothing.
    pub check: bool,
    /// The same, and what of it would be sent there.
    pub dry_run: bool,
    /// Take referrers and signatures along.
    pub recursive: bool,
    /// Take the layers along that registries usually do not hold, and that were gathered.
    pub foreign_layers: bool,
    /// Only images whose source is one of these, to the letter.
    pub subset: Option<Vec<Source>>,
    /// Only images whose labels match one of these; empty takes all.
    pub selectors: Vec<Selector>,
    /// Only these platforms; empty takes all.
    pub platforms: Vec<Platform>,
}

impl Options {
    pub(super) fn copying(&self) -> copy::Options {
        let Options { recursive, foreign_layers, dry_run, .. } = *self;
        copy::Options { recursive, foreign_layers, dry_run }
    }

    /// The images that subset and selectors leave. A choice that leaves nothing of what is there is refused.
    pub(super) fn select(&self, children: Vec<Descriptor>) -> Result<Vec<Descriptor>> {
        let subset: Option<HashSet<&str>> = self.subset.as_ref().map(|s| s.iter().map(|s| s.text.as_str()).collect());
        if subset.as_ref().is_some_and(HashSet::is_empty) {
            return Err(Error::Refused("the list of the subset names no image: write one a line".into()));
        }
        let (mut chosen, mut looked_at) = (Vec::new(), false);
        for child in children {
            let source = child.annotation(annotation::SOURCE).unwrap_or_default();
            if subset.as_ref().is_some_and(|subset| !subset.contains(source)) {
                continue;
            }
            looked_at = true;
            if !self.selectors.is_empty() {
                let labels = labels_of(&child).map_err(|e| Error::Refused(e.to_string()))?;
                if !matches_any(&self.selectors, &labels) {
                    continue;
                }
            }
            chosen.push(child);
        }
        if chosen.is_empty() && looked_at {
            return Err(Error::Refused("no image has labels that the selectors ask for".into()));
        }
        Ok(chosen)
    }
}

/// What went where.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub reference: String,
    /// Digest of the gather index.
    pub digest: Digest,
    /// Images with the destinations that they have now (or would have, in a check).
    pub images: Vec<Placed>,
    /// Images that no rule has a destination for.
    pub no_destination: Vec<Placed>,
    pub moved: Moved,
    /// In a dry run: what would be done.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    pub left_out: Vec<LeftOut>,
    pub failures: Vec<Failure>,
    /// Nothing was moved.
    pub checked_only: bool,
}

impl Report {
    pub(super) fn new(reference: String, digest: Digest, options: &Options) -> Report {
        Report {
            reference,
            digest,
            images: Vec::new(),
            no_destination: Vec::new(),
            moved: Moved::default(),
            plan: None,
            left_out: Vec::new(),
            failures: Vec::new(),
            checked_only: options.check || options.dry_run,
        }
    }
}

/// Copies the images of a gather index (or of any index) to the destinations that `mapper` gives them.
pub async fn scatter(cx: &Context, image: &ImageName, mapper: &Mapper, options: &Options) -> Result<Report> {
    let copier = Copier::new(cx, options.copying());
    let from = copier.open_source(image)?;
    cx.progress.begin("reading the gather index");
    let root = copier.fetch(&from, &image.name()).await?;
    let mut report = Report::new(image.to_string(), root.digest, options);
    let routes = route(&copier, &from, &root, mapper, options, &mut report).await?;
    deliver(cx, &copier, routes, &mut report).await;
    Ok(report)
}

/// Where the images of the index `root` go, by the options and the mapper.
pub(super) async fn route(
    copier: &Copier,
    from: &Arc<dyn Store>,
    root: &Descriptor,
    mapper: &Mapper,
    options: &Options,
    report: &mut Report,
) -> Result<Routes> {
    let index = copier.manifest(from, root).await?;
    let chosen = filter(copier, from, children(&index, &report.reference)?, options, report).await?;
    let located = |image| Located { store: from.clone(), image, line: None };
    let mut routes = plan(chosen.into_iter().map(located).collect(), mapper)?;
    report.no_destination = std::mem::take(&mut routes.no_destination);
    Ok(routes)
}

/// Sends everything, unless only a check was asked for.
pub(super) async fn deliver(cx: &Context, copier: &Copier, routes: Routes, report: &mut Report) {
    if report.checked_only && !copier.is_rehearsal() {
        report.images = routes.placed();
        return;
    }
    cx.progress.begin("scattering");
    let sent = routes.send(copier).await;
    report.images = sent.images;
    report.failures.extend(sent.failures);
    report.moved = copier.moved();
    report.plan = copier.rehearsed();
    report.left_out.extend(copier.left_out());
}

/// The images of an index. What is none is refused.
pub(super) fn children(index: &Manifest, reference: &str) -> Result<Vec<Descriptor>> {
    if !media_type::is_index(index.media_type()) {
        let kind = printable(index.media_type());
        return Err(Error::Refused(format!(
            "{reference} is no index but {kind}: name what gather or deserialize made"
        )));
    }
    Ok(index.children().map_err(crate::store::Error::from)?.manifests)
}

/// The images that subset, selectors and platforms leave, in the order of the index.
async fn filter(
    copier: &Copier,
    from: &Arc<dyn Store>,
    children: Vec<Descriptor>,
    options: &Options,
    report: &mut Report,
) -> Result<Vec<Descriptor>> {
    let sources: HashSet<String> =
        children.iter().filter_map(|c| c.annotation(annotation::SOURCE)).map(str::to_owned).collect();
    let mut chosen = Vec::new();
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    for child in options.select(children)? {
        let image = name_of(&child);
        let roots = of_platforms(copier, from, child, &options.platforms).await?;
        *taken.entry(image).or_insert(0) += roots.len();
        chosen.extend(roots);
    }
    for (image, _) in taken.into_iter().filter(|(_, count)| *count == 0) {
        let why = "nothing of it is for the platforms that were asked for".into();
        report.left_out.push(LeftOut { image, what: "the image".into(), why });
    }
    // What the subset asks for and the index does not have is a failure that leaves the others alone.
    for source in options.subset.iter().flatten().filter(|s| !sources.contains(&s.text)) {
        let error = Error::Refused(format!("it is not in {}", report.reference));
        report.failures.push(Failure::new(source.text.clone(), Some(source.line), &error));
    }
    Ok(chosen)
}

async fn of_platforms(
    copier: &Copier,
    from: &Arc<dyn Store>,
    child: Descriptor,
    platforms: &[Platform],
) -> Result<Vec<Descriptor>> {
    if platforms.is_empty() || child.platform.as_ref().is_some_and(|p| platforms.iter().any(|w| w.accepts(p))) {
        return Ok(vec![child]);
    }
    let roots = match &child.platform {
        Some(_) => Vec::new(),
        None => choose(copier, from, &child, platforms).await?.roots,
    };
    Ok(roots.into_iter().map(|root| Descriptor { annotations: child.annotations.clone(), ..root }).collect())
}
