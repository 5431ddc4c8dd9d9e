//! Copying what refers to an image: referrers of every manifest of the graph, their referrers, and signatures,
//! attestations and SBOMs under the tags of cosign.

use std::collections::HashSet;

use tokio::task::JoinSet;

use super::graph::Way;
use super::{Shared, finished, join, lock};
use crate::image::Descriptor;
use crate::pipeline::LeftOut;
use crate::pipeline::walk::Referrer;
use crate::store;

impl Way {
    /// Copies what refers to any manifest of the graph, and what refers to that, and so on.
    pub(super) async fn referrers(self, root: &Descriptor) -> Result<(), Shared> {
        let finder = self.run.finder(&self.source);
        let mut seen = HashSet::new();
        let mut level = vec![root.clone()];
        while !level.is_empty() {
            let mut lookups = JoinSet::new();
            for descriptor in std::mem::take(&mut level) {
                if !seen.insert(descriptor.digest) {
                    continue;
                }
                let (way, finder) = (self.clone(), finder.clone());
                lookups.spawn(async move {
                    let manifest = way.run.manifest(&way.source, &descriptor).await?;
                    let below = manifest.children().map_err(store::Error::from)?.manifests;
                    let _permit = way.run.permit().await;
                    Ok::<_, Shared>((below, finder.of(&descriptor).await?))
                });
            }
            let mut found: Vec<Referrer> = Vec::new();
            while let Some(result) = lookups.join_next().await {
                let (below, referrers) = finished(result)?;
                level.extend(below.into_iter().filter(Descriptor::is_manifest));
                found.extend(referrers);
            }
            let mut copies = JoinSet::new();
            for Referrer { descriptor, tag } in found {
                level.push(descriptor.clone());
                match tag {
                    Some(tag) => copies.spawn(self.clone().signature(descriptor, tag)),
                    None => copies.spawn(self.clone().manifest(descriptor, None)),
                };
            }
            join(copies).await?;
        }
        Ok(())
    }

    /// Puts something that cosign finds by its tag in place. Of several for one tag, from different sources, the one with
    /// the smallest digest has it in the end, whatever came first.
    async fn signature(self, descriptor: Descriptor, tag: String) -> Result<(), Shared> {
        let claim = self.destination.claim(&tag);
        let mut holder = claim.lock().await;
        let (digest, image) = (descriptor.digest, self.image.clone());
        let loser = match holder.clone() {
            Some((other, _)) if other == digest => None,
            Some((other, _)) if other < digest => Some((digest, image, other)),
            before => {
                self.clone().manifest(descriptor, Some(tag.clone())).await?;
                *holder = Some((digest, image));
                before.map(|(other, image)| (other, image, digest))
            }
        };
        if let Some((loser, image, winner)) = loser {
            lock(&self.run.left_out).push(LeftOut {
                image: image.to_string(),
                what: loser.to_string(),
                why: format!("its tag {tag} is taken at the destination by {winner} of another source"),
            });
        }
        Ok(())
    }
}
