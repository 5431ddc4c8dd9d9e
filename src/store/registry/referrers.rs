//! Referrers: the API of distribution-spec 1.1, and the tag schema where a registry does not have it, read and written.
//!
//! Invariant: a list is whole or an error; fewer than there are is never an answer. In one process, the index
//! behind a fallback tag has one writer at a time.

use reqwest::Method;
use serde_json::{Value, json};

use super::Repository;
use super::pace::locked;
use crate::config::Referrers;
use crate::image::{Descriptor, Manifest, media_type};
use crate::store::{Error, Name, Result};

impl Repository {
    /// Descriptors of the manifests whose subject is that manifest, sorted by digest.
    pub(super) async fn list_referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        let policy = self.routes.first().map(|r| r.referrers()).unwrap_or_default();
        let found = match policy {
            Referrers::Tag => None,
            Referrers::Auto | Referrers::Api => self.referrers_by_api(subject).await?,
        };
        let mut found = match found {
            Some(found) => found,
            None if policy == Referrers::Api => Vec::new(),
            None => self.referrers_by_tag(subject).await?,
        };
        found.sort_by_key(|d| d.digest);
        found.dedup_by_key(|d| d.digest);
        Ok(found)
    }

    /// `None`: the registry does not have the API.
    async fn referrers_by_api(&self, subject: &Descriptor) -> Result<Option<Vec<Descriptor>>> {
        let path = format!("referrers/{}", subject.digest);
        let ask = self.asking(Method::GET, &path, &format!("referrers of {}", subject.digest));
        let answer = self.ask(&ask).await?;
        match answer.status() {
            200 => {}
            400 | 404 | 405 | 501 => return Ok(None),
            _ => return Err(answer.into_error(&ask.what).await),
        }
        let mut found = Vec::new();
        self.pages(&ask, answer, |body| {
            found.extend(descriptors(body)?);
            Ok(())
        })
        .await?;
        Ok(Some(found))
    }

    async fn referrers_by_tag(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        let tag = Name::Tag(subject.digest.referrers_tag());
        let Some(index) = self.fetch_manifest(&tag).await? else { return Ok(Vec::new()) };
        // Something else may bear that tag.
        if !media_type::is_index(index.media_type()) {
            return Ok(Vec::new());
        }
        descriptors(&index.bytes).map_err(|reason| self.unreadable(&tag, reason))
    }

    fn unreadable(&self, tag: &Name, reason: String) -> Error {
        Error::Protocol { place: self.place(), what: format!("GET manifest {tag}"), reason }
    }

    /// After a manifest was stored: writes it into its subject's fallback index, where the registry keeps no
    /// list itself.
    pub(super) async fn note_referrer(&self, manifest: &Manifest, handled: bool, policy: Referrers) -> Result<()> {
        let with_subject = matches!(manifest.media_type(), media_type::OCI_MANIFEST | media_type::OCI_INDEX);
        if !with_subject || policy == Referrers::Api || (policy == Referrers::Auto && handled) {
            return Ok(());
        }
        let view = manifest.view()?;
        let Some(subject) = view.subject else { return Ok(()) };
        let mut entry = manifest.descriptor.bare();
        entry.artifact_type =
            view.artifact_type.filter(|t| !t.is_empty()).or_else(|| view.config.map(|c| c.media_type));
        entry.annotations = view.annotations;
        let key = (self.place(), subject.digest);
        let lock = locked(&self.client.subjects).entry(key).or_default().clone();
        let _writer = lock.lock().await;
        let tag = Name::Tag(subject.digest.referrers_tag());
        let before = self.fetch_manifest(&tag).await?;
        let index = match before.filter(|m| media_type::is_index(m.media_type())) {
            Some(index) => {
                Some(serde_json::from_slice::<Value>(&index.bytes).map_err(|e| self.unreadable(&tag, e.to_string()))?)
            }
            None => None,
        };
        let Some(index) = with_entry(index, &entry).map_err(|e| self.unreadable(&tag, e))? else { return Ok(()) };
        // An index without a subject: this does not come back here.
        Box::pin(self.put_manifest(&Manifest::new(media_type::OCI_INDEX, index), Some(&tag.to_string()))).await
    }
}

/// The descriptors in an index, those that cannot be named left out never: they are an error.
fn descriptors(index: &[u8]) -> std::result::Result<Vec<Descriptor>, String> {
    #[derive(serde::Deserialize)]
    struct Index {
        manifests: Option<Vec<Descriptor>>,
    }
    let index: Index = serde_json::from_slice(index).map_err(|e| e.to_string())?;
    Ok(index.manifests.unwrap_or_default())
}

/// The index with one entry more, entries in the order of their digests; `None` if it is in there.
fn with_entry(index: Option<Value>, entry: &Descriptor) -> std::result::Result<Option<Vec<u8>>, String> {
    let mut index =
        index.unwrap_or_else(|| json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": []}));
    let Some(object) = index.as_object_mut() else { return Err("it is not an object".into()) };
    let manifests = object.entry("manifests").or_insert(Value::Null);
    if manifests.is_null() {
        *manifests = json!([]);
    }
    let Some(list) = manifests.as_array_mut() else { return Err("its manifests are not a list".into()) };
    let digest = entry.digest.to_string();
    if list.iter().any(|m| m["digest"] == digest) {
        return Ok(None);
    }
    list.push(serde_json::to_value(entry).map_err(|e| e.to_string())?);
    list.sort_by(|a, b| a["digest"].as_str().cmp(&b["digest"].as_str()));
    serde_json::to_vec(&index).map(Some).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    #[test]
    fn an_entry_is_added_once_and_in_order() {
        let entry = |text: &str| Descriptor::new(media_type::OCI_MANIFEST, Digest::sha256(text.as_bytes()), 1);
        let one = with_entry(None, &entry("a")).unwrap().unwrap();
        let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        assert!(with_entry(Some(read(&one)), &entry("a")).unwrap().is_none());
        let two = with_entry(Some(read(&one)), &entry("b")).unwrap().unwrap();
        let other =
            with_entry(Some(read(&with_entry(None, &entry("b")).unwrap().unwrap())), &entry("a")).unwrap().unwrap();
        assert_eq!(two, other, "the order of writing does not matter");
        assert_eq!(descriptors(&two).unwrap().len(), 2);
        assert!(with_entry(Some(json!([])), &entry("a")).is_err());
    }
}
