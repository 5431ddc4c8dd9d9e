//! Where images live: one `Store` is one repository of a registry, one OCI layout directory, or one
//! archive opened for reading.
//!
//! Invariants: bytes that come out of a store were verified against the digest and size that were asked
//! for; a manifest goes in only after its children; `Ok` from a push means that the store has it.

pub mod archive;
pub mod error;
pub mod layout;
pub mod location;
pub mod overlay;
pub mod reader;
pub mod registry;

use std::sync::Arc;

use async_trait::async_trait;

pub use error::{Error, Result};
pub use location::{Location, Opened, Roots};
pub use reader::{BlobReader, Prefix, VerifyingReader};

use crate::config::Access;
pub use crate::image::reference::Name;
use crate::image::{Descriptor, Digest, ImageName, Manifest, Reference};
use crate::medium::Reading;

/// How a blob came to be in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// Mounted from another repository of the same registry: no byte moved.
    Mounted,
    /// Its bytes were sent.
    Sent,
}

/// Bytes to push, readable as often as a retry needs them.
#[async_trait]
pub trait BlobSource: Send + Sync {
    /// Opens the blob `offset` bytes after its start. The reader verifies digest and size of the whole blob: its last
    /// chunk is only given out when all of it was right.
    async fn open(&self, offset: u64) -> Result<BlobReader>;

    /// As `open`, for one who has the whole verified by other means: the start need not be read for it, and then only the
    /// length is verified here.
    async fn open_unverified(&self, offset: u64) -> Result<BlobReader> {
        self.open(offset).await
    }
}

/// One place that holds images. Cheap to share; every method may be called from many tasks at once.
#[async_trait]
pub trait Store: Send + Sync {
    /// For messages and for telling stores apart: `reg.low/gather`, `oci:DIR`, `sync-45.tar`.
    fn describe(&self) -> String;

    /// The registry that holds this repository, if it is in one: blobs can be mounted between
    /// repositories of equal sites.
    fn site(&self) -> Option<&str> {
        None
    }

    /// Name of the repository within its site, for `mount_from`.
    fn repository(&self) -> Option<&str> {
        None
    }

    /// Media type, digest and size of a manifest, without its bytes where the store can say so.
    /// `None`: it is not there.
    async fn resolve(&self, name: &Name) -> Result<Option<Descriptor>>;

    /// Whether the store has that manifest, under `tag` if given. One request where the store is a registry: a yes is
    /// sure; a no may be wrong, and is for those who send what is not there.
    async fn has_manifest(&self, digest: Digest, tag: Option<&str>) -> Result<bool> {
        let name = tag.map_or(Name::Digest(digest), |tag| Name::Tag(tag.to_owned()));
        Ok(self.resolve(&name).await?.is_some_and(|there| there.digest == digest))
    }

    /// A manifest, verified against the digest if asked by digest. `None`: it is not there. Fails for
    /// one larger than [`crate::image::manifest::MAX_MANIFEST_BYTES`].
    async fn manifest(&self, name: &Name) -> Result<Option<Manifest>>;

    /// Whether the store has that blob.
    async fn has_blob(&self, descriptor: &Descriptor) -> Result<bool>;

    /// A verifying reader of a blob (or of a manifest as bytes). Fails with [`Error::Missing`] when it
    /// is not there. Interruptions are resumed inside the reader.
    async fn open_blob(&self, descriptor: &Descriptor) -> Result<BlobReader>;

    /// What comes after the start of a blob that is at hand already. The reader verifies the whole: start
    /// and rest. Where nothing is gained by asking for less, all is read and the start passed over.
    async fn open_blob_after(&self, descriptor: &Descriptor, known: Prefix) -> Result<BlobReader> {
        Ok(reader::pass_over(self.open_blob(descriptor).await?, descriptor, self.describe(), known))
    }

    /// What comes after `offset` bytes of a blob. Where it can be had without the start, only its length is verified:
    /// for one who has the whole verified by other means.
    async fn open_blob_at(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobReader> {
        Ok(reader::skip(self.open_blob(descriptor).await?, offset))
    }

    /// Stores a blob. `mount_from`: a repository of the same site that has it, to mount from. The
    /// caller has asked `has_blob` if it wanted to; this does not ask again.
    async fn push_blob(
        &self,
        descriptor: &Descriptor,
        source: &dyn BlobSource,
        mount_from: Option<&str>,
    ) -> Result<Pushed>;

    /// Stores a manifest under its digest, and under `tag` if given, and looks whether it is there then. Its children
    /// must be there. Where
    /// the registry has no referrers API and the manifest has a subject, the fallback tag is updated.
    async fn push_manifest(&self, manifest: &Manifest, tag: Option<&str>) -> Result<()>;

    /// Descriptors of the manifests whose subject is that manifest, sorted by digest.
    async fn referrers(&self, subject: &Descriptor) -> Result<Vec<Descriptor>>;

    /// All tags (names, in a layout), sorted.
    async fn tags(&self) -> Result<Vec<String>>;
}

/// A blob of a store as a source for a push to another.
pub struct StoredBlob {
    pub store: Arc<dyn Store>,
    pub descriptor: Descriptor,
}

#[async_trait]
impl BlobSource for StoredBlob {
    async fn open(&self, offset: u64) -> Result<BlobReader> {
        Ok(reader::skip(self.store.open_blob(&self.descriptor).await?, offset))
    }

    async fn open_unverified(&self, offset: u64) -> Result<BlobReader> {
        self.store.open_blob_at(&self.descriptor, offset).await
    }
}

/// Bytes in memory as a source for a push.
pub struct BytesBlob {
    pub descriptor: Descriptor,
    pub bytes: bytes::Bytes,
}

#[async_trait]
impl BlobSource for BytesBlob {
    async fn open(&self, offset: u64) -> Result<BlobReader> {
        let stream = futures_util::stream::iter([Ok(self.bytes.clone())]);
        Ok(reader::skip(VerifyingReader::new(&self.descriptor, "memory", Box::pin(stream)).into_reader(), offset))
    }
}

/// Opens stores by the name a user gives. Holds what connections share: configuration, credentials,
/// tokens, per-host limits. Cheap to clone.
#[derive(Clone)]
pub struct Stores {
    client: Arc<registry::Client>,
    /// How archives are read.
    pub(crate) reading: Arc<Reading>,
}

impl Stores {
    pub fn new(client: registry::Client) -> Self {
        Stores { client: Arc::new(client), reading: Arc::default() }
    }

    /// The same, with archives read like this.
    pub fn reading(self, reading: Reading) -> Self {
        Stores { reading: Arc::new(reading), ..self }
    }

    /// The user's directory for what one run leaves to the next, if there is one.
    pub fn state(&self) -> Option<&std::path::Path> {
        self.client.state()
    }

    /// The repository of a registry, or the layout directory, that `image` names. Nothing is contacted
    /// or created yet. Fails for a registry that the configuration forbids.
    pub fn open(&self, image: &ImageName) -> Result<Arc<dyn Store>> {
        self.open_for(image, |_| Access::Push)
    }

    /// The same, only to read that image from it: where the configuration names mirrors, or another name, it is read
    /// from there. What such a store has need not be in the repository itself.
    pub fn open_source(&self, image: &ImageName) -> Result<Arc<dyn Store>> {
        self.open_for(image, |reference| Access::Pull { by_digest: reference.digest.is_some() })
    }

    fn open_for(&self, image: &ImageName, access: impl Fn(&Reference) -> Access) -> Result<Arc<dyn Store>> {
        Ok(match image {
            ImageName::Registry(reference) => {
                Arc::new(registry::Client::repository(&self.client, reference, access(reference))?)
            }
            ImageName::Layout { directory, .. } => Arc::new(layout::Layout::new(directory)),
        })
    }
}
