//! The referrers API: the manifests whose subject is a given one, which itself need not be there.

use axum::http::{HeaderValue, header};
use serde_json::json;

use super::answer;
use super::error::Answer;
use super::route::Query;
use super::storage::Storage;
use crate::image::{Digest, media_type};

/// GET: an index in the order of digests. A repository that is not there has no referrers: a 404 would
/// say that this registry does not know the API.
pub(super) fn list(storage: &Storage, repository: &str, subject: &Digest, query: &Query) -> Answer {
    let wanted = query.get("artifactType").filter(|t| !t.is_empty());
    let index = {
        let contents = storage.contents();
        let held = contents.repositories.get(repository);
        let referrers = held.and_then(|r| Some((r, r.referrers.get(subject)?)));
        let manifests: Vec<_> = referrers
            .into_iter()
            .flat_map(|(r, digests)| digests.iter().filter_map(|d| r.manifests.get(d)))
            .map(|m| &m.descriptor)
            .filter(|d| wanted.is_none_or(|w| d.artifact_type.as_deref() == Some(w)))
            .collect();
        json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests })
    };
    let mut response = answer::json(&index);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type::OCI_INDEX));
    if wanted.is_some() {
        headers.insert("oci-filters-applied", HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}
