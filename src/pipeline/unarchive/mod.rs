//! `unarchive`: the images of an archive straight to where a ruleset sends them, with nothing in between.
//!
//! A regular, uncompressed file is read where it is needed. Anything else passes once: what an image needs goes
//! to the first of its destinations while it passes, and from there to the others. Manifests and tags go when
//! everything has passed and every destination is known.

mod sorting;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::copy::{self, Copier};
use super::deserialize::{roots, stream, without_base};
use super::routes::Routes;
use super::scatter::{self, Options, Report};
use super::survey::{Survey, survey};
use super::{Context, Error, Failure, LeftOut, Result};
use crate::archive::reader::Ending;
use crate::image::{Descriptor, Digest};
use crate::mapping::Mapper;
use crate::store::archive::Archive;
use crate::store::location::Input;
use crate::store::overlay::Overlay;
use crate::store::{Location, Opened, Roots, Store};
use sorting::Sorting;

/// What is at hand of an archive.
struct Read {
    archive: Arc<Archive>,
    /// The archive, over where blobs were put when they passed.
    source: Arc<dyn Store>,
    /// It has passed: what it holds cannot be read again.
    passed: bool,
}

/// Copies the images of `source` to the destinations that `mapper` gives them. `root`: of an archive with several
/// images, the one to take, by its name in `index.json` or its digest.
pub async fn unarchive(
    cx: &Context,
    source: &Location,
    mapper: &Arc<Mapper>,
    root: Option<&str>,
    options: &Options,
) -> Result<Report> {
    let file = match (source, root) {
        (Location::Archive(file), _) => file,
        (Location::Image(image), None) => return scatter::scatter(cx, image, mapper, options).await,
        (Location::Image(image), Some(_)) => {
            return Err(Error::Refused(format!("{image} is no archive: put the tag into its name")));
        }
    };
    cx.progress.begin("reading the archive");
    // What the archive has of foreign layers goes along.
    let copier = Copier::new(cx, copy::Options { foreign_layers: true, ..options.copying() });
    let read = read(cx, &copier, file, mapper, options).await?;
    let contents = read.archive.contents.clone();
    let place = read.archive.describe();
    let listed = Roots::Listed(contents.indexes.iter().flatten().cloned().collect());
    let survey = survey(cx, &Opened { store: read.source.clone(), roots: listed, archive: None }, false).await?;
    let (root, promised) = roots::choose(&place, &contents, &survey, root)?;
    survey.manifests.values().for_each(|manifest| copier.keep(manifest));

    let mut report = Report::new(place.clone(), root.digest, options);
    let mut routes = scatter::route(&copier, &read.source, &root, mapper, options, &mut report).await?;
    let destinations = routes.destinations(&copier)?;
    refuse_without_base(&copier, &read, &survey, &routes, &destinations, options).await?;
    // A later part relies on what earlier ones brought.
    let layers = [read.source.clone()].into_iter().chain(destinations.iter().cloned()).collect();
    let overlay = Overlay::new(&place, layers);
    survey.manifests.keys().for_each(|digest| overlay.learn(*digest, read.source.clone()));
    routes.read_from(&(Arc::new(overlay) as Arc<dyn Store>));
    let foreign: Vec<&Descriptor> =
        survey.children.values().flat_map(|c| &c.layers).filter(|d| d.is_foreign()).collect();
    let mut seen = HashSet::new();
    for layer in foreign.into_iter().filter(|d| !contents.blobs.contains_key(&d.digest) && seen.insert(d.digest)) {
        // The engine has nothing to do about it.
        for to in &destinations {
            copier.way(read.source.clone(), to.clone(), place.as_str()).found(layer);
        }
        let why = "a foreign layer that is not in the archive".into();
        report.left_out.push(LeftOut { image: place.clone(), what: layer.digest.to_string(), why });
    }
    scatter::deliver(cx, &copier, routes, &mut report).await;
    if let Some(plan) = &mut report.plan {
        plan.locate(&contents.blobs);
    }
    report.left_out.sort_by(|a, b| (&a.image, &a.what).cmp(&(&b.image, &b.what)));
    let everything = options.subset.is_none() && options.selectors.is_empty() && options.platforms.is_empty();
    for problem in survey.problems {
        if promised.contains(&problem.digest) && (everything || !problem.is_missing()) {
            report.failures.push(Failure::new(problem.digest.to_string(), None, &problem.error.into()));
        }
    }
    report.failures.extend(cut(&place, contents.ending));
    Ok(report)
}

/// Refuses a differential archive if something that it leaves out and that its images need is at none of their
/// destinations: before anything is pushed, where it can be read again.
async fn refuse_without_base(
    copier: &Copier,
    read: &Read,
    survey: &Survey,
    routes: &Routes,
    destinations: &[Arc<dyn Store>],
    options: &Options,
) -> Result<()> {
    let manifests = routes.images().flat_map(|image| survey.below(&image.digest));
    let needed: HashSet<Digest> =
        manifests.filter_map(|m| survey.children.get(&m)).flat_map(|c| c.all()).map(|d| d.digest).collect();
    let left_out = read.archive.contents.expected.iter();
    let wanted = left_out.filter(|d| options.recursive || needed.contains(&d.digest)).cloned().collect();
    let nowhere = nowhere(copier, &read.source, destinations, wanted).await?;
    let untouched = !read.passed || options.check;
    refuse(&read.archive.describe(), destinations, nowhere.iter(), untouched)
}

/// Of what an archive leaves out, what is at none of the destinations.
async fn nowhere(
    copier: &Copier,
    source: &Arc<dyn Store>,
    destinations: &[Arc<dyn Store>],
    mut left_out: Vec<Descriptor>,
) -> Result<Vec<Descriptor>> {
    for to in destinations {
        if left_out.is_empty() {
            break;
        }
        let way = copier.way(source.clone(), to.clone(), source.describe());
        let lacking: HashSet<Digest> = way.lacking(&left_out).await?.into_iter().collect();
        left_out.retain(|d| lacking.contains(&d.digest));
    }
    Ok(left_out)
}

/// Refuses an archive that leaves out what it needs and what is nowhere, if there is such a thing.
fn refuse<'a>(
    place: &str,
    destinations: &[Arc<dyn Store>],
    nowhere: impl Iterator<Item = &'a Descriptor>,
    untouched: bool,
) -> Result<()> {
    let missing: BTreeSet<Digest> = nowhere.map(|d| d.digest).collect();
    if missing.is_empty() || destinations.is_empty() {
        return Ok(());
    }
    let mut names: Vec<String> = destinations.iter().map(|to| to.describe()).collect();
    names.sort();
    Err(without_base(place, &names.join(", "), missing, untouched))
}

/// Says that an archive is not whole, whatever of it arrived.
fn cut(place: &str, ending: Ending) -> Option<Failure> {
    let how = match ending {
        Ending::Complete => return None,
        Ending::NoTrailer => "it ends without the trailer of a whole archive".to_owned(),
        Ending::Torn { offset } => format!("it was cut in the entry at byte {offset}"),
    };
    let error = Error::Refused(format!("{how}: what arrived stays where it is; read the whole archive"));
    Some(Failure::new(place.to_owned(), None, &error))
}

async fn read(cx: &Context, copier: &Copier, file: &str, mapper: &Arc<Mapper>, options: &Options) -> Result<Read> {
    let (name, bytes) = match cx.stores.open_input(file).await? {
        Input::Seekable(archive) => {
            let archive = Arc::new(archive);
            return Ok(Read { source: archive.clone(), archive, passed: false });
        }
        Input::Stream { name, bytes } => (name, bytes),
    };
    if options.check || options.dry_run {
        let archive = Arc::new(Archive::read_through(&name, bytes).await?);
        return Ok(Read { source: archive.clone(), archive, passed: true });
    }
    let sorting = Arc::new(Sorting::new(copier.clone(), &name, mapper.clone(), options.clone()));
    let passed = stream::read(cx, &name, bytes, sorting.clone()).await?;
    let archive = Arc::new(Archive::passed_by(&name, Arc::new(passed.contents), &passed.kept));
    let mut layers = sorting.destinations();
    layers.push(archive.clone());
    let overlay = Overlay::new(&name, layers);
    for (digest, store) in sorting.landed() {
        overlay.learn(digest, store);
    }
    for manifest in passed.kept {
        overlay.learn(manifest.digest(), archive.clone());
        overlay.keep(manifest);
    }
    Ok(Read { source: Arc::new(overlay), archive, passed: true })
}
