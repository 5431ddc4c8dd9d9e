//! What a list of sources stands for: each line resolved to its images, with the annotations that a gather
//! index gives them, and nothing moved. gather, archive and clone see the same images because they ask here.

use std::collections::HashMap;
use std::sync::Arc;

use super::copy::Copier;
use super::platforms::choose;
use super::routes::Located;
use super::together::together;
use super::{Error, Failure, LeftOut, Result};
use crate::image::descriptor::Annotations;
use crate::image::{Descriptor, Platform, gather_index};
use crate::source::{Selector, Source, matches_any};
use crate::store::{self, Store};

/// What one source stands for.
pub struct Resolved {
    pub store: Arc<dyn Store>,
    /// With the annotations that the gather index gives them. None: nothing of it is for the platforms.
    pub roots: Vec<Descriptor>,
}

/// What all sources stand for.
#[derive(Default)]
pub struct All {
    /// In the order of the list.
    pub found: Vec<Located>,
    pub left_out: Vec<LeftOut>,
    pub failures: Vec<Failure>,
}

/// The sources whose labels match, each once. Refuses a list that names none, and a choice that leaves nothing: what was
/// made of an earlier list would be replaced by nothing.
pub fn select(sources: &[Source], selectors: &[Selector]) -> Result<Vec<Source>> {
    let mut wanted: Vec<Source> = Vec::new();
    let mut lines: HashMap<&str, &Annotations> = HashMap::new();
    for source in sources.iter().filter(|s| matches_any(selectors, &s.labels)) {
        match lines.insert(&source.text, &source.labels) {
            Some(labels) if *labels == source.labels => {}
            _ => wanted.push(source.clone()),
        }
    }
    if sources.is_empty() {
        return Err(Error::Refused("the list of sources names no image: write one a line".into()));
    }
    if wanted.is_empty() {
        return Err(Error::Refused("no source has labels that the selectors ask for".into()));
    }
    Ok(wanted)
}

/// What one source stands for, in one request. `known`: its manifest will hardly be needed, as the destination has
/// it; else it is read at once.
pub async fn resolve(copier: &Copier, source: &Source, platforms: &[Platform], known: bool) -> store::Result<Resolved> {
    let (store, name) = (copier.open_source(&source.image)?, source.image.name());
    let descriptor = match known {
        true => copier.resolve(&store, &name).await?,
        false => copier.fetch(&store, &name).await?,
    };
    let chosen = choose(copier, &store, &descriptor, platforms).await?;
    let annotate = |d: Descriptor| gather_index::root(d, &source.text, &source.labels, chosen.index.as_deref());
    let roots = chosen.roots.into_iter().map(annotate).collect();
    Ok(Resolved { store, roots })
}

/// Resolves all sources at once. One that cannot be had hides no other.
pub async fn resolve_all(copier: &Copier, sources: &[Source], platforms: &[Platform]) -> All {
    let resolving = sources.iter().cloned().map(|source| {
        let (copier, platforms) = (copier.clone(), platforms.to_vec());
        async move { resolve(&copier, &source, &platforms, false).await }
    });
    let mut all = All::default();
    for (Source { text, line, .. }, outcome) in sources.iter().zip(together(resolving).await) {
        match outcome {
            Ok(resolved) => {
                if resolved.roots.is_empty() {
                    all.left_out.push(nothing_for(text, platforms));
                }
                let located = |image| Located { store: resolved.store.clone(), image, line: Some(*line) };
                all.found.extend(resolved.roots.into_iter().map(located));
            }
            Err(e) => {
                all.failures.push(Failure::new(text.clone(), Some(*line), &e.into()));
            }
        }
    }
    all
}

/// Says that nothing of a source is for the platforms that were asked for.
pub fn nothing_for(source: &str, platforms: &[Platform]) -> LeftOut {
    let platforms: Vec<String> = platforms.iter().map(Platform::to_string).collect();
    let why = format!("nothing of it is for {}", platforms.join(" or "));
    LeftOut { image: source.into(), what: "the image".into(), why }
}
