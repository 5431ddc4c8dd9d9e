//! Putting the manifests of one image in place: children first, then what names them, then the tag, and the
//! question whether it is all there.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::task::JoinSet;

use super::destination::{Destination, Kind};
use super::rehearsal::{THERE, UNTAGGED, WHOLE};
use super::{Run, Shared, join, lock};
use crate::image::{Descriptor, Manifest};
use crate::pipeline::LeftOut;
use crate::pipeline::walk::MAX_DEPTH;
use crate::store::{self, Name, Store};

/// From where to where, for whom. Cheap to clone; made by [`super::Copier::way`].
#[derive(Clone)]
pub struct Way {
    pub(super) run: Arc<Run>,
    pub(super) source: Arc<dyn Store>,
    pub(super) destination: Arc<Destination>,
    pub(super) image: Arc<str>,
}

impl Way {
    /// Where things go.
    pub fn describe(&self) -> String {
        self.destination.store.describe()
    }

    /// Puts a manifest in place after all that it needs, once in a run; then its tag. The destination is not
    /// asked whether it is there afterwards.
    pub fn manifest(self, descriptor: Descriptor, tag: Option<String>) -> BoxFuture<'static, Result<(), Shared>> {
        self.manifest_at(descriptor, tag, 0)
    }

    fn manifest_at(
        self,
        descriptor: Descriptor,
        tag: Option<String>,
        depth: usize,
    ) -> BoxFuture<'static, Result<(), Shared>> {
        Box::pin(async move {
            let cell = self.destination.cell(Kind::Manifest, descriptor.digest);
            let mut mine = false;
            let here = &mut mine;
            cell.get_or_try_init(|| async {
                let (digest, source) = (descriptor.digest, self.source.describe());
                if let Some(error) = self.destination.failure(Kind::Manifest, digest, &source) {
                    return Err(error);
                }
                let work = self.destination.work();
                self.place_manifest(&descriptor, tag.as_deref(), depth).await.inspect_err(|e| {
                    self.destination.note_failure(Kind::Manifest, digest, &source, e);
                })?;
                work.done();
                *here = true;
                Ok(())
            })
            .await?;
            match tag {
                Some(tag) if !mine => {
                    let manifest = self.run.manifest(&self.source, &descriptor).await?;
                    self.push_manifest(&manifest, Some(&tag)).await
                }
                _ => Ok(()),
            }
        })
    }

    async fn place_manifest(&self, descriptor: &Descriptor, tag: Option<&str>, depth: usize) -> Result<(), Shared> {
        if depth > MAX_DEPTH {
            let reason = format!("indexes are nested deeper than {MAX_DEPTH} levels at {}", descriptor.digest);
            return Err(store::Error::Unusable { place: self.image.to_string(), reason }.into());
        }
        let there = self.is_there(descriptor).await?;
        let done = there && self.is_tagged(descriptor, tag).await?;
        let below = !there || self.run.options.looks_below();
        if done {
            self.note_there(descriptor, if below { THERE } else { WHOLE });
        } else if there && !below {
            self.note_there(descriptor, UNTAGGED);
        }
        if !below {
            self.pass_over(descriptor).await;
            if done {
                return Ok(());
            }
        }
        let manifest = self.run.manifest(&self.source, descriptor).await?;
        if below {
            self.children(&manifest, !there, depth).await?;
        }
        if !done {
            self.push_manifest(&manifest, tag).await?;
        }
        Ok(())
    }

    /// Whether the destination has the manifest under its tag, if it is to have one.
    async fn is_tagged(&self, descriptor: &Descriptor, tag: Option<&str>) -> store::Result<bool> {
        if tag.is_none() {
            return Ok(true);
        }
        let _permit = self.run.permit().await;
        self.destination.has_image(descriptor.digest, tag).await
    }

    /// What is below a manifest that is in place need not move any more: of what was counted on, it is done.
    pub(super) async fn pass_over(&self, root: &Descriptor) {
        let mut seen = HashSet::from([root.digest]);
        let mut below = if self.run.planned { vec![root.clone()] } else { Vec::new() };
        while let Some(descriptor) = below.pop() {
            // A plan has read them all.
            let Ok(manifest) = self.run.manifest(&self.source, &descriptor).await else { continue };
            let Ok(children) = manifest.children() else { continue };
            for child in children.config.into_iter().chain(children.layers).chain(children.manifests) {
                if child.is_manifest() || self.run.manifests.has(&child.digest) {
                    below.extend(seen.insert(child.digest).then_some(child));
                } else if !child.is_foreign() && self.found(&child) {
                    self.run.progress.add_bytes(child.size);
                    self.run.progress.add_items(1);
                }
            }
        }
    }

    /// Whether the destination has the manifest, and with it all that it needs. One that is also a blob there may be
    /// waiting for what it needs (an archive that was cut leaves such), and docker-registry gives it out all the same.
    async fn is_there(&self, descriptor: &Descriptor) -> store::Result<bool> {
        let _permit = self.run.permit().await;
        let to = &self.destination;
        Ok(to.has_image(descriptor.digest, None).await? && !to.store.has_blob(descriptor).await.unwrap_or(true))
    }

    /// Puts the children in place, all at once. One that fails does not stop the others, so that the
    /// next run has less to do.
    async fn children(&self, manifest: &Manifest, blobs: bool, depth: usize) -> Result<(), Shared> {
        let children = manifest.children().map_err(store::Error::from)?;
        let mut tasks = JoinSet::new();
        let mut seen = HashSet::new();
        for child in children.config.iter().chain(&children.layers).chain(&children.manifests) {
            if !seen.insert((child.digest, child.is_manifest())) {
                continue;
            }
            let (way, child) = (self.clone(), child.clone());
            if child.is_manifest() {
                tasks.spawn(way.manifest_at(child, None, depth + 1));
            } else if child.is_foreign() && !self.run.options.foreign_layers {
                self.leave_out(&child);
            } else if blobs || child.is_foreign() {
                tasks.spawn(way.leaf(child, depth + 1));
            }
        }
        if let Some(subject) = children.subject {
            let way = self.clone();
            tasks.spawn(async move {
                // A subject may be absent (image-spec, manifest.md): what refers to it is whole without it.
                match way.run.manifest(&way.source, &subject).await {
                    Err(e) if e.is_missing() => Ok(()),
                    _ => way.manifest_at(subject, None, depth + 1).await,
                }
            });
        }
        join(tasks).await
    }

    /// Puts in place what nothing is known to be below: a blob. An index may also name a manifest of a type that we do
    /// not know, which registries keep apart from blobs: it goes as what the source has it as.
    async fn leaf(self, descriptor: Descriptor, depth: usize) -> Result<(), Shared> {
        match self.blob(&descriptor).await {
            Err(e) if e.is_missing() && self.source.resolve(&Name::Digest(descriptor.digest)).await?.is_some() => {
                self.manifest_at(descriptor, None, depth).await
            }
            other => other,
        }
    }

    fn leave_out(&self, layer: &Descriptor) {
        let place = layer.urls.first().map(|u| format!(", it is at {}", store::error::printable(u)));
        lock(&self.run.left_out).push(LeftOut {
            image: self.image.to_string(),
            what: layer.digest.to_string(),
            why: format!(
                "a foreign layer, which registries do not hold{}; --foreign-layers takes it along",
                place.unwrap_or_default()
            ),
        });
    }

    pub(super) async fn push_manifest(&self, manifest: &Manifest, tag: Option<&str>) -> Result<(), Shared> {
        if self.rehearses_manifest(&manifest.descriptor, tag) {
            lock(&self.run.moved).manifests_sent += 1;
            return Ok(());
        }
        let pushed = {
            let _permit = self.run.permit().await;
            self.destination.store.push_manifest(manifest, tag).await
        };
        match pushed {
            Err(e) if e.is_blob_unknown() && self.source.describe() != self.destination.store.describe() => {
                tracing::warn!("{e}; sending its parts again");
                self.send_again(manifest).await?;
                let _permit = self.run.permit().await;
                self.destination.store.push_manifest(manifest, tag).await?;
            }
            other => other?,
        }
        lock(&self.run.moved).manifests_sent += 1;
        Ok(())
    }

    /// The registry said that it has the parts of a manifest, and then that it has not: it gets them.
    async fn send_again(&self, manifest: &Manifest) -> Result<(), Shared> {
        let children = manifest.children().map_err(store::Error::from)?;
        let mut tasks = JoinSet::new();
        for child in children.config.into_iter().chain(children.layers).chain(children.manifests) {
            let way = self.clone();
            if child.is_foreign() && !self.run.options.foreign_layers {
                continue;
            }
            tasks.spawn(async move {
                if child.is_manifest() {
                    let manifest = way.run.manifest(&way.source, &child).await?;
                    let _permit = way.run.permit().await;
                    way.destination.store.push_manifest(&manifest, None).await?;
                } else {
                    way.send(&child).await?;
                }
                Ok(())
            });
        }
        join(tasks).await
    }
}
