//! Several stores read as one: what is found nowhere in the first is looked for in the next.
//!
//! Invariant: nothing is written through it. A manifest that was found in a store makes that store the first
//! to be asked for whatever the manifest names, so that looking elsewhere costs no request.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::reader::{pass_over, skip};
use super::{BlobReader, BlobSource, BytesBlob, Error, Name, Prefix, Pushed, Result, Store};
use crate::image::{Descriptor, Digest, Manifest};

/// A read-only store over others.
pub struct Overlay {
    name: String,
    layers: Vec<Arc<dyn Store>>,
    known: Mutex<HashMap<Digest, Known>>,
}

/// What is known of a digest.
#[derive(Clone, Default)]
struct Known {
    kept: Option<Arc<Manifest>>,
    store: Option<Arc<dyn Store>>,
}

impl Overlay {
    /// Reads go to `layers` in their order. `name` is for messages, and tells stores apart.
    pub fn new(name: impl Into<String>, layers: Vec<Arc<dyn Store>>) -> Self {
        Overlay { name: name.into(), layers, known: Mutex::default() }
    }

    /// That digest is in `store`, which is asked for it before the layers.
    pub fn learn(&self, digest: Digest, store: Arc<dyn Store>) {
        self.known().entry(digest).or_default().store.get_or_insert(store);
    }

    /// A manifest that is in no store: made in memory.
    pub fn keep(&self, manifest: Manifest) {
        let digest = manifest.digest();
        self.known().entry(digest).or_default().kept = Some(Arc::new(manifest));
    }

    /// A manifest that was read from `store`, so that it is not read again. What it names is there as well.
    pub fn keep_from(&self, manifest: Manifest, store: Arc<dyn Store>) {
        self.learn_children(&manifest, &store);
        self.learn(manifest.digest(), store);
        self.keep(manifest);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Digest, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self, name: &Name) -> Option<Manifest> {
        match name {
            Name::Digest(digest) => self.about(digest).kept.map(|manifest| Manifest::clone(&manifest)),
            Name::Tag(_) => None,
        }
    }

    fn about(&self, digest: &Digest) -> Known {
        self.known().get(digest).cloned().unwrap_or_default()
    }

    /// The stores in the order in which they are asked for a digest.
    fn stores(&self, digest: &Digest) -> Vec<Arc<dyn Store>> {
        let first = self.about(digest).store;
        let rest = self.layers.iter().filter(|l| first.as_ref().is_none_or(|f| !Arc::ptr_eq(f, l))).cloned();
        first.iter().cloned().chain(rest).collect()
    }

    /// The same for a name. A tag that is made of a digest (cosign's, and the fallback of the referrers API)
    /// belongs to that manifest, wherever it is.
    fn stores_of(&self, name: &Name) -> Vec<Arc<dyn Store>> {
        match name {
            Name::Digest(digest) => self.stores(digest),
            Name::Tag(tag) => match subject_of(tag).and_then(|subject| self.about(&subject).store) {
                Some(store) => vec![store],
                None => self.layers.clone(),
            },
        }
    }

    /// What a manifest of `store` names is likely to be there as well.
    fn learn_children(&self, manifest: &Manifest, store: &Arc<dyn Store>) {
        // A broken manifest is found out by whoever uses it.
        for child in manifest.children().unwrap_or_default().all() {
            self.learn(child.digest, store.clone());
        }
    }

    fn read_only<T>(&self) -> Result<T> {
        Err(Error::Unusable { place: self.name.clone(), reason: "it can only be read".into() })
    }

    /// What the first store that has a blob gives of it. The one that was asked first says best what is missing where.
    async fn first<'a>(
        &self,
        descriptor: &Descriptor,
        open: impl Fn(Arc<dyn Store>) -> BoxFuture<'a, Result<BlobReader>> + Send,
    ) -> Result<BlobReader> {
        let mut missing = None;
        for store in self.stores(&descriptor.digest) {
            match open(store).await {
                Err(e) if e.is_missing() => {
                    missing.get_or_insert(e);
                }
                other => return other,
            }
        }
        let what = format!("blob {}", descriptor.digest);
        Err(missing.unwrap_or(Error::Missing { what, place: self.name.clone() }))
    }
}

/// The digest that a tag like `sha256-HEX.sig` is made of.
fn subject_of(tag: &str) -> Option<Digest> {
    let (digest, _) = tag.split_once('.').unwrap_or((tag, ""));
    let (algorithm, hex) = digest.split_once('-')?;
    format!("{algorithm}:{hex}").parse().ok()
}

#[async_trait]
impl Store for Overlay {
    fn describe(&self) -> String {
        self.name.clone()
    }

    async fn resolve(&self, name: &Name) -> Result<Option<Descriptor>> {
        if let Some(manifest) = self.kept(name) {
            return Ok(Some(manifest.descriptor));
        }
        for store in self.stores_of(name) {
            if let Some(descriptor) = store.resolve(name).await? {
                self.learn(descriptor.digest, store);
                return Ok(Some(descriptor));
            }
        }
        Ok(None)
    }

    async fn manifest(&self, name: &Name) -> Result<Option<Manifest>> {
        if let Some(manifest) = self.kept(name) {
            return Ok(Some(manifest));
        }
        for store in self.stores_of(name) {
            if let Some(manifest) = store.manifest(name).await? {
                self.learn(manifest.digest(), store.clone());
                self.learn_children(&manifest, &store);
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }

    async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        if self.about(&descriptor.digest).kept.is_some() {
            return Ok(true);
        }
        for store in self.stores(&descriptor.digest) {
            if store.has_blob(descriptor).await? {
                self.learn(descriptor.digest, store);
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn open_blob(&self, descriptor: &Descriptor) -> Result<BlobReader> {
        if let Some(manifest) = self.about(&descriptor.digest).kept {
            return BytesBlob { descriptor: descriptor.bare(), bytes: manifest.bytes.clone() }.open(0).await;
        }
        self.first(descriptor, |store| async move { store.open_blob(descriptor).await }.boxed()).await
    }

    async fn open_blob_after(&self, descriptor: &Descriptor, known: Prefix) -> Result<BlobReader> {
        if self.about(&descriptor.digest).kept.is_some() {
            return Ok(pass_over(self.open_blob(descriptor).await?, descriptor, self.describe(), known));
        }
        let open = |store: Arc<dyn Store>| {
            let known = known.clone();
            async move { store.open_blob_after(descriptor, known).await }.boxed()
        };
        self.first(descriptor, open).await
    }

    async fn open_blob_at(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobReader> {
        if self.about(&descriptor.digest).kept.is_some() {
            return Ok(skip(self.open_blob(descriptor).await?, offset));
        }
        self.first(descriptor, |store| async move { store.open_blob_at(descriptor, offset).await }.boxed()).await
    }

    async fn push_blob(&self, _: &Descriptor, _: &dyn BlobSource, _: Option<&str>) -> Result<Pushed> {
        self.read_only()
    }

    async fn push_manifest(&self, _: &Manifest, _: Option<&str>) -> Result<()> {
        self.read_only()
    }

    /// From the store that is known to have the subject, else from all of them. Nothing refers to what was made
    /// in memory.
    async fn referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>> {
        let stores = match self.about(&subject.digest) {
            Known { store: Some(store), .. } => vec![store],
            Known { kept: Some(_), .. } => Vec::new(),
            Known { .. } => self.layers.clone(),
        };
        let mut found = Vec::new();
        for store in stores {
            for referrer in store.referrers(subject).await? {
                self.learn(referrer.digest, store.clone());
                found.push(referrer);
            }
        }
        found.sort_by_key(|d| d.digest);
        found.dedup_by_key(|d| d.digest);
        Ok(found)
    }

    async fn tags(&self) -> Result<Vec<String>> {
        let mut tags = BTreeSet::new();
        for store in &self.layers {
            tags.extend(store.tags().await?);
        }
        Ok(tags.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::media_type;
    use crate::store::layout::Layout;
    use crate::store::reader::read_all;

    async fn layout(at: &std::path::Path, blobs: &[&'static [u8]]) -> Arc<dyn Store> {
        let layout = Layout::new(at);
        for bytes in blobs {
            let (descriptor, bytes) = (blob(bytes), bytes::Bytes::from_static(bytes));
            layout.push_blob(&descriptor, &BytesBlob { descriptor: descriptor.clone(), bytes }, None).await.unwrap();
        }
        Arc::new(layout)
    }

    fn blob(bytes: &[u8]) -> Descriptor {
        Descriptor::new("", Digest::sha256(bytes), bytes.len() as u64)
    }

    async fn read(overlay: &Overlay, bytes: &[u8]) -> Result<bytes::Bytes> {
        read_all(overlay.open_blob(&blob(bytes)).await?, bytes.len() as u64, 100).await
    }

    fn image(layer: &[u8]) -> Manifest {
        let layer = blob(layer).digest;
        let json = format!(r#"{{"layers":[{{"mediaType":"x","digest":"{layer}","size":3}}]}}"#);
        Manifest::new(media_type::OCI_MANIFEST, json)
    }

    #[tokio::test]
    async fn what_one_layer_lacks_comes_from_the_next() {
        let home = tempfile::tempdir().unwrap();
        let first = layout(&home.path().join("1"), &[b"one"]).await;
        let second = layout(&home.path().join("2"), &[b"two"]).await;
        second.push_manifest(&image(b"two"), Some("v1")).await.unwrap();
        let overlay = Overlay::new("both", vec![first, second.clone()]);
        assert_eq!(read(&overlay, b"one").await.unwrap(), "one");
        assert_eq!(read(&overlay, b"two").await.unwrap(), "two");
        assert!(read(&overlay, b"three").await.unwrap_err().is_missing());
        assert!(!overlay.has_blob(&blob(b"three")).await.unwrap());
        let found = overlay.manifest(&Name::Tag("v1".into())).await.unwrap().unwrap();
        assert_eq!(found.bytes, image(b"two").bytes);
        // What it names is looked for there first.
        let first = overlay.stores(&blob(b"two").digest).remove(0);
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(overlay.tags().await.unwrap(), ["v1"]);
    }

    #[tokio::test]
    async fn a_store_that_is_no_layer_can_be_learned() {
        let home = tempfile::tempdir().unwrap();
        let apart = layout(&home.path().join("apart"), &[b"far"]).await;
        let overlay = Overlay::new("none", Vec::new());
        assert!(!overlay.has_blob(&blob(b"far")).await.unwrap());
        overlay.learn(blob(b"far").digest, apart);
        assert_eq!(read(&overlay, b"far").await.unwrap(), "far");
    }

    #[tokio::test]
    async fn a_kept_manifest_is_read_as_one_and_as_a_blob_and_nothing_is_written() {
        let overlay = Overlay::new("memory", Vec::new());
        let made = image(b"two");
        overlay.keep(made.clone());
        let name = Name::Digest(made.digest());
        assert_eq!(overlay.resolve(&name).await.unwrap(), Some(made.descriptor.clone()));
        assert_eq!(overlay.manifest(&name).await.unwrap().unwrap().bytes, made.bytes);
        assert!(overlay.has_blob(&made.descriptor).await.unwrap());
        let reader = overlay.open_blob(&made.descriptor).await.unwrap();
        assert_eq!(read_all(reader, made.descriptor.size, 1000).await.unwrap(), made.bytes);
        assert!(overlay.push_manifest(&made, None).await.is_err());
    }
}
