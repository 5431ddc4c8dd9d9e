//! What the faulty registry holds: repositories in memory, and the images that the rows are tried with, out of the
//! fixtures. Invariant: a blob or manifest is kept under the digest of its bytes, so a lie on the wire stays on the wire.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;

use airgap_mirror::image::Digest;
use airgap_mirror::image::manifest::sniff_media_type;
use bytes::Bytes;
use serde_json::Value;

/// Three images of the fixtures: an index with SBOM and signatures on it and on its children, a plain image with
/// referrers of referrers, an index of two platforms.
pub const IMAGES: [&str; 3] = ["edge/signed:v1", "team-1/app-003:v1.3", "team-0/app-000:v1.0"];

/// One repository.
#[derive(Clone, Default)]
pub struct Repository {
    pub blobs: BTreeSet<String>,
    /// Digest to media type and bytes.
    pub manifests: BTreeMap<String, (String, Bytes)>,
    pub tags: BTreeMap<String, String>,
}

/// All that a registry holds.
#[derive(Clone, Default)]
pub struct Content {
    pub repositories: BTreeMap<String, Repository>,
    pub blobs: HashMap<String, Bytes>,
}

/// The digests that a manifest names: blobs and child manifests, its subject left out.
pub fn children(bytes: &[u8]) -> (Vec<String>, Vec<String>) {
    let json: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let digests = |key: &str| -> Vec<String> {
        let list = json[key].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(|d| d["digest"].as_str().map(String::from)).collect()
    };
    let mut blobs = digests("layers");
    blobs.extend(json["config"]["digest"].as_str().map(String::from));
    (blobs, digests("manifests"))
}

pub fn subject(bytes: &[u8]) -> Option<String> {
    let json: Value = serde_json::from_slice(bytes).ok()?;
    json["subject"]["digest"].as_str().map(String::from)
}

impl Repository {
    /// Descriptors of the manifests that have `subject`, in the order of their digests.
    pub fn referrers(&self, of: &str) -> Vec<Value> {
        let refers = |bytes: &Bytes| subject(bytes).as_deref() == Some(of);
        self.manifests
            .iter()
            .filter(|(_, (_, bytes))| refers(bytes))
            .map(|(digest, (media_type, bytes))| {
                let json: Value = serde_json::from_slice(bytes).unwrap_or_default();
                let kind = json["artifactType"].as_str().or(json["config"]["mediaType"].as_str()).unwrap_or_default();
                serde_json::json!({"mediaType": media_type, "digest": digest, "size": bytes.len(), "artifactType": kind})
            })
            .collect()
    }
}

impl Content {
    /// Copies `digest` and all that it needs or that refers to it from `other` into `repository`.
    fn take(&mut self, other: &Repository, blobs: &HashMap<String, Bytes>, repository: &str, digest: &str) {
        let Some((media_type, bytes)) = other.manifests.get(digest) else { panic!("no manifest {digest}") };
        let into = self.repositories.entry(repository.into()).or_default();
        if into.manifests.insert(digest.into(), (media_type.clone(), bytes.clone())).is_some() {
            return;
        }
        let (layers, manifests) = children(bytes);
        for blob in layers {
            into.blobs.insert(blob.clone());
            self.blobs.insert(blob.clone(), blobs[&blob].clone());
        }
        let referrers = other.referrers(digest);
        let referrers = referrers.iter().filter_map(|d| d["digest"].as_str().map(String::from));
        for child in manifests.into_iter().chain(referrers) {
            self.take(other, blobs, repository, &child);
        }
    }

    /// The three [`IMAGES`], each in its repository, with their referrers.
    pub fn images() -> &'static Content {
        static IMAGES_READ: OnceLock<Content> = OnceLock::new();
        IMAGES_READ.get_or_init(|| {
            let (all, blobs) = fixture();
            let mut content = Content::default();
            for image in IMAGES {
                let (repository, tag) = image.split_once(':').expect("REPO:TAG");
                let digest = all.tags[image].clone();
                content.take(&all, &blobs, repository, &digest);
                let into = content.repositories.get_mut(repository).expect("it was just made");
                into.tags.insert(tag.into(), digest);
            }
            content
        })
    }

    /// Every digest of the images: what has to arrive.
    pub fn digests(&self) -> BTreeSet<String> {
        let manifests = self.repositories.values().flat_map(|r| r.manifests.keys().cloned());
        manifests.chain(self.blobs.keys().cloned()).collect()
    }

    /// The largest blob of the images, and a small one (a config of about 1 kB).
    pub fn large_blob(&self) -> String {
        self.blobs.iter().max_by_key(|(digest, b)| (b.len(), *digest)).expect("there are blobs").0.clone()
    }

    pub fn small_blob(&self) -> String {
        let configs = self.blobs.iter().filter(|(_, b)| (300..500).contains(&b.len()));
        configs.min_by_key(|(digest, _)| *digest).expect("signed has a config of that size").0.clone()
    }

    /// A manifest that is the child of an index.
    pub fn child_manifest(&self) -> String {
        let indexes = self.repositories.values().flat_map(|r| r.manifests.values());
        indexes.flat_map(|(_, bytes)| children(bytes).1).min().expect("there are indexes")
    }
}

/// The fixtures' layout in one repository, with `REPO:TAG` for tags.
fn fixture() -> (Repository, HashMap<String, Bytes>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/fixtures/low-layout.tar");
    let tar = std::fs::read(&path).expect("the fixtures are in testdata");
    let mut blobs = HashMap::new();
    let mut index = Value::Null;
    for (name, bytes) in entries(&tar) {
        let name = name.trim_start_matches("./").to_string();
        if name == "index.json" {
            index = serde_json::from_slice(&bytes).expect("index.json is JSON");
        } else if let Some(path) = name.strip_prefix("blobs/") {
            blobs.insert(path.replace('/', ":"), bytes);
        }
    }
    let mut all = Repository::default();
    for root in index["manifests"].as_array().expect("an index has manifests") {
        let digest = root["digest"].as_str().expect("a digest");
        if let Some(name) = root["annotations"]["org.opencontainers.image.ref.name"].as_str() {
            all.tags.insert(name.into(), digest.into());
        }
        add(&mut all, &blobs, digest, root["mediaType"].as_str().expect("a media type"));
    }
    (all, blobs)
}

fn add(all: &mut Repository, blobs: &HashMap<String, Bytes>, digest: &str, media_type: &str) {
    let bytes = blobs[digest].clone();
    for child in children(&bytes).1 {
        let media_type = sniff_media_type(&blobs[&child]).expect("a manifest's type");
        add(all, blobs, &child, &media_type);
    }
    all.manifests.insert(digest.into(), (media_type.into(), bytes));
}

/// The files of a plain ustar archive.
pub fn entries(mut tar: &[u8]) -> Vec<(String, Bytes)> {
    let mut files = Vec::new();
    let text = |field: &[u8]| String::from_utf8_lossy(field).trim_end_matches('\0').to_string();
    while tar.len() >= 512 && tar[0] != 0 {
        let mut header = [0; 512];
        tar.read_exact(&mut header).expect("a header");
        let prefix = text(&header[345..500]);
        let name = if prefix.is_empty() { text(&header[..100]) } else { format!("{prefix}/{}", text(&header[..100])) };
        let size = usize::from_str_radix(text(&header[124..136]).trim(), 8).expect("an octal size");
        if header[156] == b'0' || header[156] == 0 {
            files.push((name, Bytes::copy_from_slice(&tar[..size])));
        }
        tar = &tar[size.div_ceil(512) * 512..];
    }
    files
}

/// Whether `bytes` are what `digest` says.
pub fn is(digest: &str, bytes: &[u8]) -> bool {
    digest.parse::<Digest>().is_ok_and(|d| Digest::of(d.algorithm(), bytes) == d)
}
