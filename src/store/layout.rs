//! OCI image layout directories as a store (image-spec, image-layout.md).

use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{BlobReader, BlobSource, Error, Name, Pushed, Result, Store};
use crate::image::{Descriptor, Manifest};

/// One layout directory.
pub struct Layout {
    directory: PathBuf,
}

impl Layout {
    /// Names a directory; it is created when something is first pushed to it.
    pub fn new(directory: &Path) -> Self {
        Layout { directory: directory.to_owned() }
    }
}

#[async_trait]
impl Store for Layout {
    fn describe(&self) -> String {
        format!("oci:{}", self.directory.display())
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

impl Layout {
    fn nothing<T>(&self) -> Result<T> {
        Err(Error::Unusable { place: self.describe(), reason: "not reached yet".into() })
    }
}
