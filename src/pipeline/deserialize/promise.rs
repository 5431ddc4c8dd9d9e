//! What an archive promises: everything that its indexes lead to. It is kept when all of it is at the destination;
//! until then nothing is tagged, and what is missing is named.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::Arrived;
use super::roots;
use super::stream::{Landing, ReadOnly};
use crate::archive::reader::Ending;
use crate::image::{Descriptor, Digest};
use crate::pipeline::copy::{Copier, Job, Shared, Way};
use crate::pipeline::survey::{Survey, survey};
use crate::pipeline::together::together;
use crate::pipeline::{Context, Error, LeftOut, Result};
use crate::store::{Name, Opened, Roots, StoredBlob};

/// Digests that a message names.
const NAMED: usize = 10;

/// What is promised, and what of it is nowhere.
pub struct Promise {
    pub root: Descriptor,
    /// Every manifest, by its digest, and the tag by which cosign finds what belongs to an image.
    manifests: HashMap<Digest, (Descriptor, Option<String>)>,
    /// Configs and layers, each once, that arrived with the archive or are at the destination.
    blobs: Vec<Descriptor>,
    missing: BTreeSet<Digest>,
    survey: Survey,
    pub left_out: Vec<LeftOut>,
}

impl Promise {
    /// Reads the manifests, from the archive or else from the destination, and asks the destination for everything
    /// that did not arrive. `root`: the user's choice.
    pub async fn read(cx: &Context, copier: &Copier, arrived: &Arrived, root: Option<&str>) -> Result<Promise> {
        let listed = arrived.contents.indexes.iter().flatten().cloned().collect();
        let opened = Opened { store: arrived.source.clone(), roots: Roots::Listed(listed), archive: None };
        let mut survey = survey(cx, &opened, false).await?;
        let (root, promised) = roots::choose(&arrived.place, &arrived.contents, &survey, root)?;
        let mut missing = BTreeSet::new();
        for problem in std::mem::take(&mut survey.problems) {
            match problem {
                p if !promised.contains(&p.digest) => {}
                p if p.is_missing() => {
                    missing.insert(p.digest);
                }
                p => return Err(p.error.into()),
            }
        }
        let mut manifests = HashMap::new();
        for digest in &promised {
            if let Some(manifest) = survey.manifests.get(digest) {
                copier.keep(manifest);
                manifests.insert(*digest, (manifest.descriptor.clone(), None));
            }
        }
        for (descriptor, tag) in survey.roots.iter().filter_map(|d| Some((d, roots::cosign_tag(d)?))) {
            if let Some((_, named)) = manifests.get_mut(&descriptor.digest) {
                *named = Some(tag.to_owned());
            }
        }
        let mut promise = Promise { root, manifests, blobs: Vec::new(), missing, survey, left_out: Vec::new() };
        promise.look_for_blobs(copier, arrived).await?;
        Ok(promise)
    }

    async fn look_for_blobs(&mut self, copier: &Copier, arrived: &Arrived) -> Result<()> {
        let mut seen = HashSet::new();
        let mut absent = Vec::new();
        for digest in self.manifests.keys() {
            let Some(children) = self.survey.children.get(digest) else { continue };
            for blob in children.all().filter(|d| !self.manifests.contains_key(&d.digest) && !d.is_manifest()) {
                if !seen.insert(blob.digest) {
                } else if arrived.has(&blob.digest) {
                    self.blobs.push(blob.bare());
                } else {
                    absent.push((*digest, blob.clone()));
                }
            }
        }
        let way = arrived.way(copier);
        let asked: Vec<Descriptor> = absent.iter().map(|(_, blob)| blob.bare()).collect();
        let lacking: HashSet<Digest> = way.lacking(&asked).await?.into_iter().collect();
        for (parent, blob) in absent {
            if !lacking.contains(&blob.digest) {
                self.blobs.push(blob.bare());
            } else if blob.is_foreign() {
                self.left_out.push(LeftOut {
                    image: parent.to_string(),
                    what: blob.digest.to_string(),
                    why: "a foreign layer that is not in the archive".into(),
                });
            } else {
                self.missing.insert(blob.digest);
            }
        }
        self.left_out.sort_by(|a, b| (&a.what, &a.image).cmp(&(&b.what, &b.image)));
        Ok(())
    }

    /// Puts everything in place, and tags the root when all of it is.
    pub async fn keep(&self, cx: &Context, copier: &Copier, arrived: &Arrived, name: &Name) -> Result<()> {
        if arrived.contents.ending == Ending::Complete && self.missing.is_empty() {
            return self.place(cx, copier, arrived, name).await;
        }
        self.refuse_without_base(arrived)?;
        // Of a whole archive that can be read again, nothing needs to move before the rest is there.
        if arrived.contents.ending != Ending::Complete || !arrived.seekable {
            self.leave_for_later(cx, copier, arrived).await?;
        }
        self.refuse_incomplete(arrived)
    }

    async fn place(&self, cx: &Context, copier: &Copier, arrived: &Arrived, name: &Name) -> Result<()> {
        self.expect(cx, arrived);
        let way = arrived.way(copier);
        // What the archive has of foreign layers goes along.
        let foreign: Vec<_> = self.blobs.iter().filter(|b| b.is_foreign()).cloned().collect();
        land(&way, foreign).await?;
        let below: HashSet<Digest> = self.survey.below(&self.root.digest).into_iter().collect();
        let others = self.manifests.values().filter(|(d, tag)| !below.contains(&d.digest) || tag.is_some());
        all_land(others.map(|(d, tag)| way.clone().manifest(d.clone(), tag.clone()))).await?;
        let job = Job {
            source: arrived.source.clone(),
            root: self.root.clone(),
            destination: arrived.destination.clone(),
            tag: if let Name::Tag(tag) = name { Some(tag.clone()) } else { None },
            image: arrived.place.clone(),
        };
        copier.copy(job).await.map_err(Error::without_image)
    }

    /// Tells the progress what will move.
    fn expect(&self, cx: &Context, arrived: &Arrived) {
        if arrived.seekable {
            let here: Vec<_> = self.blobs.iter().filter(|b| arrived.has(&b.digest)).collect();
            cx.progress.begin("deserializing");
            cx.progress.expect(here.len() as u64, here.iter().map(|b| b.size).sum());
        }
    }

    /// Puts in place what is whole. Manifests that miss something are stored as blobs, so that a later part of the
    /// archive finds them.
    async fn leave_for_later(&self, cx: &Context, copier: &Copier, arrived: &Arrived) -> Result<()> {
        self.expect(cx, arrived);
        let way = arrived.way(copier);
        let broken = self.broken();
        let whole = self.manifests.values().filter(|(d, _)| !broken.contains(&d.digest));
        all_land(whole.map(|(d, _)| way.clone().manifest(d.clone(), None))).await?;
        let waiting = self.manifests.values().filter(|(d, _)| broken.contains(&d.digest)).map(|(d, _)| d);
        let named = self.blobs.iter().chain(waiting).cloned();
        land(&way, named.chain(self.unnamed(arrived)).collect()).await
    }

    /// What an archive that was cut holds and nothing in it names: referrers, which only the `index.json` at the end of
    /// the last part lists, and what belongs to them.
    fn unnamed(&self, arrived: &Arrived) -> Vec<Descriptor> {
        if arrived.contents.ending == Ending::Complete {
            return Vec::new();
        }
        let children = self.survey.children.values().flat_map(|c| c.all()).map(|d| d.digest);
        let named: HashSet<Digest> = self.survey.manifests.keys().copied().chain(children).collect();
        let unnamed = arrived.contents.blobs.iter().filter(|(digest, _)| !named.contains(digest));
        unnamed.map(|(digest, place)| Descriptor::new("application/octet-stream", *digest, place.size)).collect()
    }

    /// Manifests that miss something, or have a child that does.
    fn broken(&self) -> HashSet<Digest> {
        let mut broken: HashSet<Digest> = self.missing.iter().copied().collect();
        loop {
            let before = broken.len();
            for digest in self.manifests.keys() {
                let children = self.survey.children.get(digest);
                let needs = children.into_iter().flat_map(|c| c.config.iter().chain(&c.layers).chain(&c.manifests));
                if needs.into_iter().any(|child| broken.contains(&child.digest)) {
                    broken.insert(*digest);
                }
            }
            if broken.len() == before {
                return broken;
            }
        }
    }

    /// Reads what did not pass yet, and changes nothing. `copier` is a rehearsal.
    pub async fn check(&self, cx: &Context, copier: &Copier, arrived: &Arrived, name: &Name) -> Result<()> {
        if arrived.seekable {
            self.verify(cx, arrived).await?;
        }
        self.refuse_without_base(arrived)?;
        self.refuse_incomplete(arrived)?;
        self.place(cx, copier, arrived, name).await
    }

    async fn verify(&self, cx: &Context, arrived: &Arrived) -> Result<()> {
        let reading = Arc::new(ReadOnly(cx.progress.clone()));
        cx.progress.begin("verifying");
        let blobs: Vec<_> = self.blobs.iter().filter(|b| arrived.has(&b.digest)).cloned().collect();
        for some in blobs.chunks(cx.jobs()) {
            all_land(some.iter().cloned().map(|descriptor| {
                let (reading, store) = (reading.clone(), arrived.source.clone());
                async move {
                    let bytes = StoredBlob { store, descriptor: descriptor.clone() };
                    reading.land(&descriptor, &bytes).await
                }
            }))
            .await?;
        }
        Ok(())
    }

    /// A differential archive is of no use where what it left out is not.
    fn refuse_without_base(&self, arrived: &Arrived) -> Result<()> {
        let expected = arrived.contents.expected.iter().map(|d| d.digest);
        let missing: BTreeSet<Digest> = expected.filter(|d| self.missing.contains(d)).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(without_base(&arrived.place, &arrived.destination.describe(), missing, true))
        }
    }

    fn refuse_incomplete(&self, arrived: &Arrived) -> Result<()> {
        let place = &arrived.place;
        let cut = match arrived.contents.ending {
            Ending::Complete => None,
            Ending::NoTrailer => Some("it ends without the trailer of a whole archive".to_owned()),
            Ending::Torn { offset } => Some(format!("it was cut in the entry at byte {offset}")),
        };
        let missing = format!("{} missing: {}", self.missing.len(), named(&self.missing));
        let what = match (&cut, self.missing.is_empty()) {
            (None, true) => return Ok(()),
            (Some(cut), true) => format!("{cut}; all that it names is at the destination, untagged"),
            (None, false) => missing,
            (Some(cut), false) => format!("{cut}; {missing}"),
        };
        let left = if cut.is_none() && arrived.seekable {
            "Nothing was pushed: read the parts before it into the same place first, or the whole archive"
        } else {
            "What arrived stays at the destination, nothing was tagged: read the rest of it into the same place, or the \
             whole archive again"
        };
        Err(Error::Refused(format!("{place} is not complete: {what}. {left}")))
    }
}

/// What a differential archive expects at the destination is not there. `untouched`: nothing was pushed before.
pub fn without_base(place: &str, destination: &str, missing: BTreeSet<Digest>, untouched: bool) -> Error {
    let left = if untouched { "Nothing was pushed" } else { "What arrived stays there, nothing was tagged" };
    Error::Refused(format!(
        "{place} leaves out what it expects in {destination}, and {} of that is missing there: {}. {left}: read the \
         archives that came before it into the same repository first, then this one; or serialize without leaving that \
         out",
        missing.len(),
        named(&missing)
    ))
}

fn named(digests: &BTreeSet<Digest>) -> String {
    let mut names: Vec<String> = digests.iter().take(NAMED).map(Digest::to_string).collect();
    if digests.len() > NAMED {
        names.push(format!("and {} more", digests.len() - NAMED));
    }
    names.join(", ")
}

async fn land(way: &Way, blobs: Vec<Descriptor>) -> Result<()> {
    let landing = |blob: Descriptor, way: Way| async move { way.blob(&blob).await };
    all_land(blobs.into_iter().map(|blob| landing(blob, way.clone()))).await
}

/// Runs all to their ends, then gives the first failure.
async fn all_land<F>(all: impl Iterator<Item = F>) -> Result<()>
where
    F: Future<Output = std::result::Result<(), Shared>> + Send + 'static,
{
    together(all).await.into_iter().collect::<std::result::Result<(), Shared>>().map_err(Error::Shared)
}
