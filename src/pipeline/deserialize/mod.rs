//! `deserialize`: everything in an archive, into a store.
//!
//! A regular, uncompressed file is read from many places at once; a pipe or a compressed archive in one
//! pass. Blobs that arrive are put in place whatever comes after; manifests follow their children; the
//! tag comes last, and only when everything that the archive promises is there.

mod passing;
mod promise;
pub(super) mod roots;
pub mod stream;

use std::sync::Arc;

use serde::Serialize;

use super::copy::{self, Copier, Plan, Way};
use super::{Context, Error, LeftOut, Moved, Placed, Result};
use crate::archive::contents::Contents;
use crate::image::{Digest, ImageName};
use crate::store::archive::Archive;
use crate::store::location::Input;
use crate::store::overlay::Overlay;
use crate::store::{Name, Store};
use promise::Promise;
pub(super) use promise::without_base;
use stream::{Landing, ReadOnly};

/// How to read the archive.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Read and verify all of it; change nothing at the destination.
    pub dry_run: bool,
    /// Of an archive with several images, the one to take: its digest, or its name in `index.json`.
    pub root: Option<String>,
}

/// What arrived.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub reference: String,
    pub digest: Digest,
    pub moved: Moved,
    /// In a dry run: what would be done.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// The root of the archive, and other images that its index names.
    pub images: Vec<Placed>,
    pub left_out: Vec<LeftOut>,
}

/// What is at hand of an archive, and where it goes.
struct Arrived {
    /// What to call it.
    place: String,
    /// The archive over the destination: a later part relies on what earlier ones brought.
    source: Arc<dyn Store>,
    destination: Arc<dyn Store>,
    contents: Arc<Contents>,
    /// It can be read again.
    seekable: bool,
}

impl Arrived {
    /// Whether the archive has that, and it is in place or can be read.
    fn has(&self, digest: &Digest) -> bool {
        self.contents.blobs.contains_key(digest)
    }

    fn way(&self, copier: &Copier) -> Way {
        copier.way(self.source.clone(), self.destination.clone(), self.place.as_str())
    }
}
/// Reads `source`, a path or `-` for standard input, into `destination`.
pub async fn deserialize(cx: &Context, source: &str, destination: &ImageName, options: &Options) -> Result<Report> {
    read(cx, None, source, destination, options).await
}

/// A dry run that takes what `rehearsal` would have put in place as being there.
pub(super) async fn rehearse(
    cx: &Context,
    rehearsal: &Copier,
    source: &str,
    destination: &ImageName,
) -> Result<Report> {
    let options = Options { dry_run: true, root: None };
    read(cx, Some(rehearsal.clone()), source, destination, &options).await
}

async fn read(
    cx: &Context,
    rehearsal: Option<Copier>,
    source: &str,
    destination: &ImageName,
    options: &Options,
) -> Result<Report> {
    cx.progress.begin("reading the archive");
    // The promise sees to what refers to images, and to foreign layers.
    let take = copy::Options { dry_run: options.dry_run, ..Default::default() };
    let (copier, arrived) = match cx.stores.open_input(source).await? {
        Input::Seekable(archive) => {
            let copier = rehearsal.unwrap_or_else(|| Copier::planned(cx, take));
            let to = copier.open(destination)?;
            let contents = archive.contents.clone();
            let layers: Vec<Arc<dyn Store>> = vec![Arc::new(archive), to.clone()];
            let over = Arc::new(Overlay::new(source, layers));
            (copier, Arrived { place: source.into(), source: over, destination: to, contents, seekable: true })
        }
        Input::Stream { name, bytes } => {
            let copier = rehearsal.unwrap_or_else(|| Copier::new(cx, take));
            let to = copier.open(destination)?;
            let over = Arc::new(Overlay::new(&name, vec![to.clone()]));
            let landing: Arc<dyn Landing> = if options.dry_run {
                Arc::new(ReadOnly(cx.progress.clone()))
            } else {
                Arc::new(copier.way(over.clone(), to.clone(), name.as_str()))
            };
            let passed = stream::read(cx, &name, bytes, landing).await?;
            let contents = Arc::new(passed.contents);
            let mut source: Arc<dyn Store> = over.clone();
            if options.dry_run {
                let archive = Arc::new(Archive::passed_by(&name, contents.clone(), &passed.kept));
                source = Arc::new(Overlay::new(&name, vec![archive, to.clone()]));
            }
            passed.kept.into_iter().for_each(|manifest| over.keep(manifest));
            (copier, Arrived { place: name, source, destination: to, contents, seekable: false })
        }
    };
    let promise = Promise::read(cx, &copier, &arrived, options.root.as_deref()).await?;
    let (digest, name) = (promise.root.digest, destination.name());
    if let Name::Digest(wanted) = name
        && wanted != digest
    {
        return Err(Error::Refused(format!(
            "{source} holds {digest}, and the destination is {destination}: name a tag"
        )));
    }
    if options.dry_run {
        promise.check(cx, &copier, &arrived, &name).await?
    } else {
        promise.keep(cx, &copier, &arrived, &name).await?
    }
    let mut plan = copier.rehearsed();
    if let Some(plan) = &mut plan {
        plan.locate(&arrived.contents.blobs);
    }
    Ok(Report {
        reference: destination.to_string(),
        digest,
        moved: copier.moved(),
        plan,
        images: vec![Placed::new(source, &promise.root, vec![destination.to_string()])],
        left_out: promise.left_out,
    })
}
