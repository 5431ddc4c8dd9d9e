//! Where each image goes: the destinations that a mapper gives, known and free of conflicts before the
//! first push, and the pushes themselves. One image that fails does not stop the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::copy::{Copier, Job};
use super::together::together;
use super::{Error, Failure, Placed, Result};
use crate::image::{Descriptor, ImageName, annotation};
use crate::mapping::Mapper;
use crate::store::error::printable;
use crate::store::{Name, Store};

/// An image, and where it is now.
pub struct Located {
    pub store: Arc<dyn Store>,
    /// With the annotations of a gather index.
    pub image: Descriptor,
    /// Line of the list that names it, if it came from one.
    pub line: Option<usize>,
}

/// One image, and where it goes.
pub struct Route {
    from: Arc<dyn Store>,
    image: Descriptor,
    source: String,
    line: Option<usize>,
    destinations: Vec<ImageName>,
}

/// Where everything goes.
pub struct Routes {
    /// Images with destinations, in the order in which they were given.
    pub routes: Vec<Route>,
    /// Images that no rule has a destination for.
    pub no_destination: Vec<Placed>,
}

/// What arrived, and what did not.
#[derive(Default)]
pub struct Sent {
    /// Images with the destinations that they have now.
    pub images: Vec<Placed>,
    pub failures: Vec<Failure>,
}

/// What to call an image: the reference that it was gathered from, else its digest.
pub fn name_of(image: &Descriptor) -> String {
    printable(image.annotation(annotation::SOURCE).unwrap_or(&image.digest.to_string()))
}

/// Where each image goes. Every image that a rule fails for is named, all at once; two different images
/// for one destination are refused.
pub fn plan(images: Vec<Located>, mapper: &Mapper) -> Result<Routes> {
    let mut problems = Vec::new();
    let (mut routes, mut no_destination) = (Vec::new(), Vec::new());
    for Located { store, image, line } in images {
        match mapper.destinations(&image) {
            Ok(destinations) if destinations.is_empty() => {
                no_destination.push(Placed::new(name_of(&image), &image, Vec::new()));
            }
            Ok(destinations) => {
                routes.push(Route { from: store, source: name_of(&image), image, line, destinations });
            }
            Err(e) => problems.push(e.to_string()),
        }
    }
    if !problems.is_empty() {
        return Err(Error::Refused(problems.join("\n")));
    }
    refuse_conflicts(&routes)?;
    Ok(Routes { routes, no_destination })
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

impl Routes {
    /// The stores that images go to, each once.
    pub fn destinations(&self, copier: &Copier) -> Result<Vec<Arc<dyn Store>>> {
        let mut stores: Vec<Arc<dyn Store>> = Vec::new();
        for destination in self.routes.iter().flat_map(|route| &route.destinations) {
            let store = copier.open(destination)?;
            // The copier opens each once.
            if !stores.iter().any(|known| Arc::ptr_eq(known, &store)) {
                stores.push(store);
            }
        }
        Ok(stores)
    }

    /// The images that have destinations.
    pub fn images(&self) -> impl Iterator<Item = &Descriptor> {
        self.routes.iter().map(|route| &route.image)
    }

    /// Has everything read from `store`.
    pub fn read_from(&mut self, store: &Arc<dyn Store>) {
        self.routes.iter_mut().for_each(|route| route.from = store.clone());
    }

    /// What a check tells: every destination that images would have.
    pub fn placed(&self) -> Vec<Placed> {
        self.routes.iter().map(Route::placed).collect()
    }

    /// Copies everything at once; tells what arrived and what failed in the order of the images.
    pub async fn send(self, copier: &Copier) -> Sent {
        let each = |route: &Route| 0..route.destinations.len();
        let all: Vec<_> =
            (0..).zip(&self.routes).flat_map(|(at, route)| each(route).map(move |nth| (at, nth))).collect();
        let sending = all.into_iter().map(|(at, nth)| {
            let route = &self.routes[at];
            let (copier, from, destination) = (copier.clone(), route.from.clone(), route.destinations[nth].clone());
            let (root, image) = (route.image.clone(), route.source.clone());
            async move { (at, nth, send_one(&copier, from, root, image, &destination).await) }
        });
        let outcomes = together(sending).await;
        let mut sent = Sent { images: self.placed(), failures: Vec::new() };
        sent.images.iter_mut().for_each(|image| image.destinations.clear());
        for (at, nth, outcome) in outcomes {
            let route = &self.routes[at];
            let destination = route.destinations[nth].to_string();
            match outcome {
                Ok(()) => sent.images[at].destinations.push(destination),
                Err(e) => {
                    let image = format!("{} to {destination}", route.source);
                    sent.failures.push(Failure::new(image, route.line, &e));
                }
            }
        }
        sent.images.retain(|image| !image.destinations.is_empty());
        sent
    }
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
