//! `manifest.json`, by which `docker load` and its relatives find images in an archive: one entry for each image,
//! with the names that it has in the list of sources.

use std::collections::HashSet;

use serde::Serialize;

use super::plan::Graph;
use crate::image::manifest::ManifestError;
use crate::image::{Descriptor, Digest, annotation, go_json, media_type};

/// How deep indexes are searched for an image.
const MAX_DEPTH: usize = 4;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// The bytes of `manifest.json`. An image of several platforms is there as linux/amd64, else as the first of its
/// platforms; one that is not in the archive with all of its layers is not there, and what is no image neither.
pub fn build(root: &Descriptor, graph: &Graph, archived: &HashSet<Digest>) -> Result<Vec<u8>, BuildError> {
    let mut named: Vec<(String, Vec<Descriptor>)> = Vec::new();
    let listed = match graph.manifests.get(&root.digest) {
        Some(manifest) => manifest.children()?.manifests,
        None => Vec::new(),
    };
    for child in listed {
        let Some(source) = child.annotation(annotation::SOURCE).map(str::to_owned) else { continue };
        match named.iter_mut().find(|(name, _)| *name == source) {
            Some((_, children)) => children.push(child),
            None => named.push((source, vec![child])),
        }
    }
    if named.is_empty() {
        named.push((String::new(), vec![root.clone()]));
    }
    let mut images: Vec<(Digest, Image)> = Vec::new();
    for (source, children) in named {
        let mut found = Vec::new();
        for child in &children {
            collect(child, graph, archived, 0, &mut found)?;
        }
        // The first of the best.
        let Some((_, digest, image)) = found.into_iter().min_by_key(|(rank, ..)| *rank) else { continue };
        let tag = repo_tag(&source);
        match images.iter_mut().find(|(known, _)| *known == digest) {
            Some((_, known)) => known.repo_tags.extend(tag),
            None => images.push((digest, Image { repo_tags: tag.into_iter().collect(), ..image })),
        }
    }
    let images: Vec<Image> = images.into_iter().map(|(_, image)| image).collect();
    Ok(go_json::indented(&images)?)
}

/// Why there is no `manifest.json`.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// All images at or below `descriptor`, each with its rank: the lower the better.
fn collect(
    descriptor: &Descriptor,
    graph: &Graph,
    archived: &HashSet<Digest>,
    depth: usize,
    found: &mut Vec<(u8, Digest, Image)>,
) -> Result<(), ManifestError> {
    let Some(manifest) = graph.manifests.get(&descriptor.digest) else { return Ok(()) };
    let children = manifest.children()?;
    if depth < MAX_DEPTH {
        for child in &children.manifests {
            collect(child, graph, archived, depth + 1, found)?;
        }
    }
    let Some(config) = children.config else { return Ok(()) };
    let is_image = matches!(config.media_type.as_str(), media_type::OCI_CONFIG | media_type::DOCKER_CONFIG);
    let is_here = archived.contains(&config.digest) && children.layers.iter().all(|l| archived.contains(&l.digest));
    let platform = descriptor.platform.as_ref().map(|p| (p.os.as_str(), p.architecture.as_str()));
    if !is_image || !is_here || platform == Some(("unknown", "unknown")) {
        return Ok(());
    }
    let rank = match platform {
        Some(("linux", "amd64")) => 0,
        _ => 1,
    };
    let layers = children.layers.iter().map(|layer| layer.digest.blob_path()).collect();
    found.push((rank, descriptor.digest, Image { config: config.digest.blob_path(), repo_tags: Vec::new(), layers }));
    Ok(())
}

/// A name that an image can be loaded under: with a tag and without a digest. Named by digest alone it has none.
fn repo_tag(source: &str) -> Option<String> {
    let (name, digest) = source.split_once('@').map_or((source, None), |(name, digest)| (name, Some(digest)));
    let tagged = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    match (name.is_empty(), tagged, digest) {
        (true, ..) | (_, false, Some(_)) => None,
        (_, true, _) => Some(name.into()),
        (_, false, None) => Some(format!("{name}:latest")),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_to_load_under() {
        let digest = format!("@sha256:{}", "a".repeat(64));
        for (source, tag) in [
            ("reg.low:5000/a:1".to_owned(), Some("reg.low:5000/a:1")),
            ("reg.low:5000/a".to_owned(), Some("reg.low:5000/a:latest")),
            (format!("reg.low/a:1{digest}"), Some("reg.low/a:1")),
            (format!("reg.low/a{digest}"), None),
            (String::new(), None),
        ] {
            assert_eq!(super::repo_tag(&source).as_deref(), tag, "{source}");
        }
    }
}
