//! Whether all of it has arrived: every manifest and blob is asked for at the destination, and what its tag names
//! is the root.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use crate::image::{Descriptor, Digest, ImageName};
use crate::pipeline::survey::Survey;
use crate::pipeline::{Context, Result};
use crate::store::{self, Name, Store};

/// What was asked for.
pub struct Outcome {
    pub present: u64,
    /// The digest, and what is wrong.
    pub absent: Vec<(Option<Digest>, String)>,
}

/// Asks `store` for everything that was surveyed. `roots`: the only one must be what the image's tag names.
pub async fn arrived(
    cx: &Context,
    store: &Arc<dyn Store>,
    image: &ImageName,
    survey: &Survey,
    roots: Vec<Descriptor>,
) -> Result<Outcome> {
    let mut asked: Vec<(Descriptor, bool)> = survey.manifests.values().map(|m| (m.descriptor.bare(), true)).collect();
    for digest in survey.manifests.keys() {
        asked.extend(survey.blobs_of(digest).filter(|d| !d.is_foreign()).map(|d| (d.bare(), false)));
    }
    let leaf = |(digest, size): (&Digest, &u64)| (Descriptor::new("", *digest, *size), false);
    asked.extend(survey.leaves.iter().map(leaf));
    asked.sort_by_key(|(d, manifest)| (d.digest, *manifest));
    asked.dedup_by_key(|(d, manifest)| (d.digest, *manifest));
    cx.progress.begin("asking the other side");
    cx.progress.expect(asked.len() as u64, 0);
    let answers: Vec<store::Result<(Digest, bool)>> = stream::iter(asked)
        .map(|(descriptor, manifest)| async move {
            let there = if manifest {
                let found = store.resolve(&Name::Digest(descriptor.digest)).await?;
                found.is_some_and(|found| found.digest == descriptor.digest && found.size == descriptor.size)
            } else {
                store.has_blob(&descriptor).await?
            };
            cx.progress.add_items(1);
            Ok((descriptor.digest, there))
        })
        .buffer_unordered(cx.jobs())
        .collect()
        .await;
    let mut outcome = Outcome { present: 0, absent: Vec::new() };
    for answer in answers {
        let (digest, there) = answer?;
        if there {
            outcome.present += 1;
        } else {
            outcome.absent.push((Some(digest), format!("{digest} is not in {}", store.describe())));
        }
    }
    outcome.absent.sort();
    if let ([root], Name::Tag(tag)) = (roots.as_slice(), image.name()) {
        let named = store.resolve(&Name::Tag(tag)).await?.map(|d| d.digest);
        if named != Some(root.digest) {
            let found = named.map_or_else(|| "is not there".to_owned(), |digest| format!("is {digest}"));
            outcome.absent.push((None, format!("{image} {found}, and should be {}", root.digest)));
        }
    }
    Ok(outcome)
}
