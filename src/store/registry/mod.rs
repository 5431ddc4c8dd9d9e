//! The distribution client (distribution-spec 1.1 and Docker Registry v2).

use std::sync::Arc;

use async_trait::async_trait;

use super::{BlobReader, BlobSource, Error, Name, Pushed, Result, Store};
use crate::config::Config;
use crate::image::{Descriptor, Manifest, Reference};

/// What all repositories share: configuration, connections, tokens, per-host limits.
pub struct Client {
    _config: Arc<Config>,
}

impl Client {
    pub fn new(config: Arc<Config>) -> Self {
        Client { _config: config }
    }

    pub fn repository(client: &Arc<Client>, reference: &Reference) -> Repository {
        Repository { _client: client.clone(), reference: reference.clone() }
    }
}

/// One repository of a registry.
pub struct Repository {
    _client: Arc<Client>,
    reference: Reference,
}

#[async_trait]
impl Store for Repository {
    fn describe(&self) -> String {
        format!("{}/{}", self.reference.registry, self.reference.repository)
    }
    async fn resolve(&self, _: &Name) -> Result<Option<Descriptor>> {
        self.nothing()
    }
    async fn manifest(&self, _: &Name) -> Result<Option<Manifest>> {
        self.nothing()
    }
    async fn has_blob(&self, _: &Descriptor) -> Result<bool> {
        self.nothing()
    }
    async fn open_blob(&self, _: &Descriptor) -> Result<BlobReader> {
        self.nothing()
    }
    async fn push_blob(&self, _: &Descriptor, _: &dyn BlobSource, _: Option<&str>) -> Result<Pushed> {
        self.nothing()
    }
    async fn push_manifest(&self, _: &Manifest, _: Option<&str>) -> Result<()> {
        self.nothing()
    }
    async fn referrers(&self, _: &Descriptor) -> Result<Vec<Descriptor>> {
        self.nothing()
    }
    async fn tags(&self) -> Result<Vec<String>> {
        self.nothing()
    }
}

impl Repository {
    fn nothing<T>(&self) -> Result<T> {
        Err(Error::Unusable { place: self.describe(), reason: "not reached yet".into() })
    }
}
