//! What images run on: as their index says, else as their config says. What says nothing runs on nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt, stream};

use crate::image::{Descriptor, Digest, Platform, media_type};
use crate::pipeline::Context;
use crate::pipeline::images::Image;
use crate::pipeline::platforms::{MAX_CONFIG, platform_of};
use crate::pipeline::survey::Survey;
use crate::store::reader::read_all;
use crate::store::{self, Store};

/// The platform of each manifest that has one. Configs are read only where no index tells.
pub async fn platforms(
    cx: &Context,
    store: &Arc<dyn Store>,
    survey: &Survey,
    absent: &HashSet<Digest>,
) -> HashMap<Digest, Platform> {
    let mut told: HashMap<Digest, Platform> = HashMap::new();
    for child in survey.children.values().flat_map(|children| &children.manifests) {
        if let Some(platform) = &child.platform {
            told.insert(child.digest, platform.clone());
        }
    }
    let mut unknown: Vec<(Digest, &Descriptor)> = Vec::new();
    for (digest, children) in survey.children.iter().filter(|(digest, _)| !told.contains_key(digest)) {
        let config = children.config.iter().filter(|config| is_image(config) && !absent.contains(&config.digest));
        unknown.extend(config.map(|config| (*digest, config)));
    }
    let reading = stream::iter(unknown.into_iter().map(|(manifest, config)| async move {
        let platform = read(store, config).await;
        // A config that is damaged is found by those who verify.
        platform.map(|p| (manifest, p)).inspect_err(|e| tracing::info!("what {manifest} runs on: {e}")).ok()
    }));
    let read: Vec<_> = reading.buffer_unordered(cx.jobs()).collect().await;
    told.extend(read.into_iter().flatten());
    told
}

/// Whether it is the config of an image that runs somewhere.
pub fn is_image(config: &Descriptor) -> bool {
    matches!(config.media_type.as_str(), media_type::OCI_CONFIG | media_type::DOCKER_CONFIG)
}

async fn read(store: &Arc<dyn Store>, config: &Descriptor) -> store::Result<Platform> {
    let bytes = read_all(store.open_blob(config).await?, config.size, MAX_CONFIG).await?;
    platform_of(store.as_ref(), config, &bytes)
}

/// The platforms of an image, in the order of its index. Attestations, which run on nothing, are said to run on the
/// unknown.
pub fn of(survey: &Survey, told: &HashMap<Digest, Platform>, image: &Image) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let below = survey.below(&image.descriptor.digest);
    let own = image.descriptor.platform.iter();
    let all = own.chain(below.iter().filter_map(|digest| told.get(digest))).filter(|p| is_real(p));
    all.map(Platform::to_string).filter(|platform| seen.insert(platform.clone())).collect()
}

/// Not empty, and not unknown.
pub fn is_real(platform: &Platform) -> bool {
    !platform.os.is_empty() && platform.os != "unknown"
}
