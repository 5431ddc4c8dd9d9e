//! Manifests: pull, push, delete, by tag and by digest. A manifest is stored as the bytes that came,
//! under the type that came with them, and only when what it holds is there (unless sparse ones are asked for).

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;

use super::answer::{self, digest_header};
use super::contents::{Contents, Record};
use super::error::{Answer, Code, Refusal};
use super::incoming::Incoming;
use super::route::Query;
use super::storage::Storage;
use crate::image::manifest::{MAX_MANIFEST_BYTES, View, sniff_media_type};
use crate::image::reference::is_tag;
use crate::image::{Algorithm, Descriptor, Digest, Manifest, media_type};

/// How a child of a manifest is held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Blob,
    Manifest,
}

impl Kind {
    pub fn is_manifest(self) -> bool {
        self == Kind::Manifest
    }
}

/// By its type: an index may hold things that are no manifests.
pub(super) fn kind_of_child(child: &Descriptor) -> Kind {
    if child.is_manifest() { Kind::Manifest } else { Kind::Blob }
}

/// The record of a manifest: with a subject, its descriptor says what the referrers API has to.
pub(super) fn manifest_record(repository: &str, manifest: &Manifest, view: &View) -> Record {
    let mut descriptor = manifest.descriptor.bare();
    let subject = match manifest.media_type() {
        media_type::DOCKER_MANIFEST | media_type::DOCKER_LIST => None,
        _ => view.subject.as_ref().map(|s| s.digest),
    };
    if subject.is_some() {
        let artifact_type = view.artifact_type.clone().filter(|t| !t.is_empty());
        descriptor.artifact_type = artifact_type.or_else(|| view.config.as_ref().map(|c| c.media_type.clone()));
        descriptor.annotations = view.annotations.clone();
    }
    Record::Manifest { repository: repository.to_owned(), descriptor: Box::new(descriptor), subject }
}

fn unknown(reference: &str) -> Refusal {
    let shown: String = reference.chars().take(160).collect();
    Refusal::new(Code::ManifestUnknown, format!("manifest {shown:?} is not in this repository"))
}

pub(super) fn get(storage: &Storage, repository: &str, reference: &str, head: bool) -> Answer {
    let descriptor = {
        let contents = storage.contents();
        let held = contents.repositories.get(repository).ok_or_else(|| {
            Refusal::new(Code::NameUnknown, format!("repository {repository} is not in this registry"))
        })?;
        held.manifest(reference).ok_or_else(|| unknown(reference))?.descriptor.bare()
    };
    let mut file = storage.open_file(&descriptor.digest, descriptor.size).ok_or_else(|| unknown(reference))?;
    let mut bytes = Vec::new();
    if !head {
        let read = std::io::Read::read_to_end(&mut file, &mut bytes);
        read.map_err(|e| Refusal::storage(&storage.path(&descriptor.digest), &e))?;
    }
    answer::builder(StatusCode::OK)
        .header(header::CONTENT_TYPE, &descriptor.media_type)
        .header(header::CONTENT_LENGTH, descriptor.size)
        .header(header::ETAG, format!("\"{}\"", descriptor.digest))
        .header(digest_header(), descriptor.digest.to_string())
        .body(Body::from(bytes))
        .map_err(answer::unwritable)
}

pub(super) async fn put(
    storage: &Storage,
    repository: &str,
    reference: &str,
    query: &Query,
    headers: &HeaderMap,
    body: &mut Incoming,
) -> Answer {
    let (asked, mut tags) = match reference.contains(':') {
        true => (Some(super::route::digest(reference)?), Vec::new()),
        false => (None, vec![reference]),
    };
    // Tags beside a digest: distribution-spec, "Pushing Manifests", `?tag=`.
    if asked.is_some() {
        tags.extend(query.all("tag"));
    }
    if let Some(bad) = tags.iter().find(|t| !is_tag(t)) {
        let shown: String = bad.chars().take(160).collect();
        return Err(Refusal::new(
            Code::TagInvalid,
            format!("{shown:?} is not a tag (letters, digits, . _ -, at most 128)"),
        ));
    }
    let bytes = read_body(headers, body).await?;
    let algorithm = asked.map_or(Algorithm::Sha256, |d| d.algorithm());
    let digest = Digest::of(algorithm, &bytes);
    if let Some(asked) = asked.filter(|d| *d != digest) {
        return Err(Refusal::new(Code::DigestInvalid, format!("expected {asked}, the manifest that came is {digest}")));
    }
    let manifest = understand(headers, bytes, digest)?;
    let view = manifest.view().map_err(|e| Refusal::new(Code::ManifestInvalid, e.to_string()))?;
    let record = manifest_record(repository, &manifest, &view);
    let subject = match &record {
        Record::Manifest { subject, .. } => *subject,
        _ => None,
    };
    let mut records = vec![record];
    records.extend(tags.iter().map(|tag| Record::Tag {
        repository: repository.to_owned(),
        tag: (*tag).to_owned(),
        digest,
    }));
    let check = |contents: &Contents| match storage.sparse {
        true => Ok(()),
        false => check_children(contents, repository, &manifest, &view),
    };
    check(&storage.contents())?;
    let file = storage.uploads.keep(&manifest.bytes)?;
    storage.commit(Some((&file, &digest)), records, check)?;
    let mut response = answer::builder(StatusCode::CREATED)
        .header(header::LOCATION, format!("/v2/{repository}/manifests/{digest}"))
        .header(digest_header(), digest.to_string())
        .header(header::CONTENT_LENGTH, 0);
    if let Some(subject) = subject {
        response = response.header("oci-subject", subject.to_string());
    }
    if asked.is_some() && !tags.is_empty() {
        response = response.header("oci-tag", tags.join(", "));
    }
    response.body(Body::empty()).map_err(answer::unwritable)
}

/// The body of a push, as long as a manifest may be.
async fn read_body(headers: &HeaderMap, body: &mut Incoming) -> Result<Bytes, Refusal> {
    let too_large = || {
        Refusal::new(Code::SizeInvalid, format!("a manifest has at most {MAX_MANIFEST_BYTES} bytes here"))
            .with_status(StatusCode::PAYLOAD_TOO_LARGE)
    };
    if answer::content_length(headers).is_some_and(|length| length > MAX_MANIFEST_BYTES) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await? {
        if (bytes.len() + chunk.len()) as u64 > MAX_MANIFEST_BYTES {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}

/// The manifest under its type: of the request, else of its own words. The two may not contradict.
fn understand(headers: &HeaderMap, bytes: Bytes, digest: Digest) -> Result<Manifest, Refusal> {
    let invalid = |message: String| Refusal::new(Code::ManifestInvalid, message);
    let said = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let said = said.map(|t| t.split(';').next().unwrap_or_default().trim()).filter(|t| !t.is_empty());
    // A JSON array, too, could be read as a structure.
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(invalid("not a manifest: it is no JSON object".into()));
    }
    let view = serde_json::from_slice::<View>(&bytes).map_err(|e| invalid(format!("not a manifest: {e}")))?;
    let own = view.media_type;
    if let (Some(said), Some(own)) = (said, own.as_deref().filter(|t| !t.is_empty()))
        && said != own
    {
        let own: String = own.chars().take(160).collect();
        return Err(invalid(format!("Content-Type is {said:?}, the manifest's mediaType is {own:?}")));
    }
    let media_type = match said {
        Some(said) => said.to_owned(),
        None => sniff_media_type(&bytes).ok_or_else(|| invalid("it has neither Content-Type nor mediaType".into()))?,
    };
    if header::HeaderValue::from_str(&media_type).is_err() {
        return Err(invalid("its mediaType cannot be written in a header".into()));
    }
    if matches!(media_type.as_str(), media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST) && view.config.is_none() {
        return Err(invalid("an image manifest has a config".into()));
    }
    let size = bytes.len() as u64;
    Ok(Manifest { descriptor: Descriptor::new(media_type, digest, size), bytes })
}

/// Refuses a manifest whose blobs or manifests are not in the repository. A subject may be missing, and
/// layers that registries do not hold.
fn check_children(contents: &Contents, repository: &str, manifest: &Manifest, view: &View) -> Result<(), Refusal> {
    if !media_type::is_manifest(manifest.media_type()) {
        return Ok(());
    }
    let held = contents.repositories.get(repository);
    let is_index = media_type::is_index(manifest.media_type());
    let missing = |child: &&Descriptor| {
        let Some(held) = held else { return true };
        let (digest, manifests) = (&child.digest, kind_of_child(child).is_manifest());
        !(if is_index && manifests { held.manifests.contains_key(digest) } else { held.blobs.contains_key(digest) })
    };
    let children: Vec<&Descriptor> = if is_index {
        view.manifests.iter().collect()
    } else {
        view.config.iter().chain(view.layers.iter().filter(|l| !l.is_foreign())).collect()
    };
    match children.into_iter().find(missing) {
        None => Ok(()),
        Some(child) => {
            let what = if is_index { "manifest" } else { "blob" };
            Err(Refusal::new(
                Code::ManifestBlobUnknown,
                format!("{what} {} is not in repository {repository}: push it first", child.digest),
            ))
        }
    }
}

pub(super) fn delete(storage: &Storage, repository: &str, reference: &str) -> Answer {
    let owner = repository.to_owned();
    let record = match reference.contains(':') {
        true => Record::DropManifest { repository: owner, digest: super::route::digest(reference)? },
        false => Record::Untag { repository: owner, tag: reference.to_owned() },
    };
    storage.commit(None, vec![record.clone()], |contents| {
        let held = contents.repositories.get(repository);
        let there = match &record {
            Record::DropManifest { digest, .. } => held.is_some_and(|r| r.manifests.contains_key(digest)),
            _ => held.is_some_and(|r| r.tags.contains_key(reference)),
        };
        if there { Ok(()) } else { Err(unknown(reference)) }
    })?;
    Ok(answer::accepted())
}
