//! `scatter`: the images of a gather index to where a ruleset sends them.
//!
//! Every destination is known, and no two different images have one, before the first push. One image
//! that fails does not stop the others.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Serialize;
use tokio::task::JoinSet;

use super::copy::{self, Copier, Job, finished};
use super::platforms::choose;
use super::{Context, Error, Failure, LeftOut, Moved, Placed, Result};
use crate::image::{Descriptor, Digest, ImageName, Platform, annotation, media_type};
use crate::mapping::Mapper;
use crate::source::{Selector, Source, labels_of, matches_any};
use crate::store::error::printable;
use crate::store::{Name, Store};

/// What to scatter, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Say where everything would go, and move nothing.
    pub check: bool,
    /// Take referrers and signatures along.
    pub recursive: bool,
    /// Only images whose source is one of these, to the letter.
    pub subset: Option<Vec<Source>>,
    /// Only images whose labels match one of these; empty takes all.
    pub selectors: Vec<Selector>,
    /// Only these platforms; empty takes all.
    pub platforms: Vec<Platform>,
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
    pub left_out: Vec<LeftOut>,
    pub failures: Vec<Failure>,
    /// Nothing was moved.
    pub checked_only: bool,
}

/// One image, and where it goes.
struct Route {
    image: Descriptor,
    source: String,
    destinations: Vec<ImageName>,
}

/// Copies the images of a gather index (or of any index) to the destinations that `mapper` gives them.
pub async fn scatter(cx: &Context, image: &ImageName, mapper: &Mapper, options: &Options) -> Result<Report> {
    let copier = Copier::new(cx, copy::Options { recursive: options.recursive, foreign_layers: false });
    let from = copier.open(image)?;
    cx.progress.begin("reading the gather index");
    let root = copier.resolve(&from, &image.name()).await?;
    let index = copier.manifest(&from, &root).await?;
    if !media_type::is_index(index.media_type()) {
        let kind = printable(index.media_type());
        return Err(Error::Refused(format!("{image} is no index but {kind}: name what gather or deserialize made")));
    }
    let mut report = Report {
        reference: image.to_string(),
        digest: root.digest,
        images: Vec::new(),
        no_destination: Vec::new(),
        moved: Moved::default(),
        left_out: Vec::new(),
        failures: Vec::new(),
        checked_only: options.check,
    };
    let children = index.children().map_err(crate::store::Error::from)?.manifests;
    let chosen = filter(&copier, &from, children, options, &mut report).await?;
    let mut routes = Vec::new();
    for route in plan(chosen, mapper)? {
        if route.destinations.is_empty() {
            report.no_destination.push(Placed::new(route.source, &route.image, Vec::new()));
        } else {
            routes.push(route);
        }
    }
    refuse_conflicts(&routes)?;
    if options.check {
        report.images = routes.iter().map(Route::placed).collect();
        return Ok(report);
    }
    cx.progress.begin("scattering");
    send(&copier, &from, routes, &mut report).await;
    report.moved = copier.moved();
    report.left_out.extend(copier.left_out());
    Ok(report)
}

/// The images that subset, selectors and platforms leave, in the order of the index.
async fn filter(
    copier: &Copier,
    from: &Arc<dyn Store>,
    children: Vec<Descriptor>,
    options: &Options,
    report: &mut Report,
) -> Result<Vec<Descriptor>> {
    let subset: Option<HashSet<&str>> = options.subset.as_ref().map(|s| s.iter().map(|s| s.text.as_str()).collect());
    let mut found = HashSet::new();
    let mut chosen = Vec::new();
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    for child in children {
        let source = child.annotation(annotation::SOURCE).unwrap_or_default();
        if let Some(subset) = &subset {
            if !subset.contains(source) {
                continue;
            }
            found.insert(source.to_owned());
        }
        if !options.selectors.is_empty() {
            let labels = labels_of(&child).map_err(|e| Error::Refused(e.to_string()))?;
            if !matches_any(&options.selectors, &labels) {
                continue;
            }
        }
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
    for source in options.subset.iter().flatten().filter(|s| !found.contains(&s.text)) {
        let error = format!("it is not in {}", report.reference);
        report.failures.push(Failure { image: source.text.clone(), line: Some(source.line), error });
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

/// What to call an image: the reference that it was gathered from, else its digest.
fn name_of(image: &Descriptor) -> String {
    printable(image.annotation(annotation::SOURCE).unwrap_or(&image.digest.to_string()))
}

/// Where each image goes. Every image that a rule fails for is named, all at once.
fn plan(images: Vec<Descriptor>, mapper: &Mapper) -> Result<Vec<Route>> {
    let mut problems = Vec::new();
    let mut routes = Vec::new();
    for image in images {
        match mapper.destinations(&image) {
            Ok(destinations) => routes.push(Route { source: name_of(&image), image, destinations }),
            Err(e) => problems.push(e.to_string()),
        }
    }
    if problems.is_empty() { Ok(routes) } else { Err(Error::Refused(problems.join("\n"))) }
}

/// Two different images cannot have one name.
fn refuse_conflicts(routes: &[Route]) -> Result<()> {
    let mut taken: BTreeMap<String, &Route> = BTreeMap::new();
    let mut problems = Vec::new();
    for route in routes {
        for destination in &route.destinations {
            let other = *taken.entry(canonical(destination)).or_insert(route);
            if other.image.digest != route.image.digest {
                let both =
                    format!("{} ({})\nand {} ({})", other.source, other.image.digest, route.source, route.image.digest);
                let platforms = other.image.platform.is_some() && route.image.platform.is_some();
                let advice = if platforms {
                    "they are for different platforms: choose one with --platforms, or put the platform into the name with a template"
                } else {
                    "change the ruleset so that they differ"
                };
                problems.push(format!("two images for {destination}: {both}; {advice}"));
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Refused(problems.join("\n"))) }
}

/// The same for all spellings of one place.
fn canonical(name: &ImageName) -> String {
    match name {
        ImageName::Registry(r) => format!("{}/{} {}", r.network_host(), r.network_repository(), r.name()),
        ImageName::Layout { directory, .. } => format!("oci:{} {}", directory.display(), name.name()),
    }
}

impl Route {
    fn placed(&self) -> Placed {
        Placed::new(&self.source, &self.image, self.destinations.iter().map(ImageName::to_string).collect())
    }
}

/// Copies all routes at once; what arrived and what failed goes into the report, in the order of the index.
async fn send(copier: &Copier, from: &Arc<dyn Store>, routes: Vec<Route>, report: &mut Report) {
    let mut tasks = JoinSet::new();
    for (at, route) in routes.iter().enumerate() {
        for (nth, destination) in route.destinations.iter().enumerate() {
            let (copier, from, destination) = (copier.clone(), from.clone(), destination.clone());
            let (root, image) = (route.image.clone(), route.source.clone());
            tasks.spawn(async move { (at, nth, send_one(&copier, from, root, image, &destination).await) });
        }
    }
    let mut outcomes = Vec::new();
    while let Some(result) = tasks.join_next().await {
        outcomes.push(finished(result));
    }
    outcomes.sort_by_key(|(at, nth, _)| (*at, *nth));
    let mut placed: Vec<Placed> = routes.iter().map(|r| Placed::new(&r.source, &r.image, Vec::new())).collect();
    for (at, nth, outcome) in outcomes {
        let destination = routes[at].destinations[nth].to_string();
        match outcome {
            Ok(()) => placed[at].destinations.push(destination),
            Err(e) => {
                let image = format!("{} to {destination}", routes[at].source);
                report.failures.push(Failure { image, line: None, error: e.to_string() });
            }
        }
    }
    placed.retain(|p| !p.destinations.is_empty());
    report.images = placed;
}

async fn send_one(
    copier: &Copier,
    source: Arc<dyn Store>,
    root: Descriptor,
    image: String,
    destination: &ImageName,
) -> Result<()> {
    let tag = match destination.name() {
        Name::Tag(tag) => Some(tag),
        Name::Digest(_) => None,
    };
    let destination = copier.open(destination)?;
    copier.copy(Job { source, root, destination, tag, image }).await.map_err(Error::without_image)
}
