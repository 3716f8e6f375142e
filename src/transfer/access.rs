//! [`RegistryAccess`]: a registry as images are moved in and out of it: in this process, or in the one that
//! serves the folder.

use std::fmt::Debug;
use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use jreg_oci::{Digest, MediaType, Reference, RepositoryName, Tag};
use jreg_registry::{
    BodyError, ChangeOrigin, Error, ManifestPush, PageRequest, Registry, Repository, SourceTrust,
    TouchPolicy, UploadChunk,
};
use jreg_storage::{ByteRange, CopyMethod, CopySource, error_chain};

/// How many items a page of a listing has.
const PAGE_ITEMS: usize = 1000;

/// A stream of a blob's bytes.
pub type BlobStream = BoxStream<'static, io::Result<Bytes>>;

/// Why something could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The registry refused it, or failed.
    #[error("{0}")]
    Registry(String),
    /// The registry does not have what a manifest references, any more.
    #[error("{0}")]
    MissingReferences(String),
    /// The source cannot be read.
    #[error(transparent)]
    Archive(#[from] jreg_archive::ArchiveError),
    /// It is not what its digest says.
    #[error("{0}")]
    Content(String),
    #[error("cannot {what}")]
    Io { what: String, source: io::Error },
}

impl TransferError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

impl From<Error> for TransferError {
    fn from(error: Error) -> Self {
        let text = error_chain(&error);
        match error {
            Error::ReferencesUnknown { .. } => Self::MissingReferences(text),
            _ => Self::Registry(text),
        }
    }
}

pub type Result<T, E = TransferError> = std::result::Result<T, E>;

/// A manifest of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryManifest {
    pub digest: Digest,
    pub media_type: MediaType,
    pub bytes: Bytes,
}

/// A blob that is opened.
pub struct OpenBlob {
    pub size_bytes: u64,
    pub stream: BlobStream,
}

/// A blob where it lies.
#[derive(Clone, Debug)]
pub struct PlacedBlob {
    pub size_bytes: u64,
    pub place: CopySource,
    pub trust: SourceTrust,
}

/// A registry, as far as moving images needs it.
#[async_trait]
pub trait RegistryAccess: Debug + Send + Sync + 'static {
    /// Every repository, in order.
    async fn repositories(&self) -> Result<Vec<RepositoryName>>;

    /// Every tag of a repository, in order; none if it is unknown.
    async fn tags(&self, name: &RepositoryName) -> Result<Vec<Tag>>;

    /// Every manifest of a repository, if the registry can list them.
    async fn manifests(&self, name: &RepositoryName) -> Result<Vec<Digest>>;

    /// A manifest to be read, or that may be relied on by what is pushed after it.
    async fn manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<RegistryManifest>>;

    /// The manifests that refer to one.
    async fn referrers(&self, name: &RepositoryName, subject: &Digest) -> Result<Vec<Digest>>;

    /// Opens a blob; `None` if the repository does not have it.
    async fn blob(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<OpenBlob>>;

    /// Whether a repository has a blob. If so, it has it long enough for a manifest to be pushed.
    async fn has_blob(&self, name: &RepositoryName, digest: &Digest) -> Result<bool>;

    /// Links a blob that another repository has. `false`: none has it.
    async fn mount(&self, name: &RepositoryName, digest: &Digest) -> Result<bool>;

    /// Stores a blob, whose digest the registry checks.
    async fn push_blob(&self, name: &RepositoryName, digest: &Digest, blob: OpenBlob)
    -> Result<()>;

    /// Stores a blob that the store of the registry can copy or share by itself. `None`: it cannot.
    async fn copy_blob(
        &self,
        _name: &RepositoryName,
        _digest: &Digest,
        _blob: PlacedBlob,
    ) -> Result<Option<CopyMethod>> {
        Ok(None)
    }

    /// Stores a manifest, and points tags to it.
    async fn push_manifest(
        &self,
        name: &RepositoryName,
        manifest: RegistryManifest,
        tags: Vec<Tag>,
    ) -> Result<()>;
}

/// A registry in this process: it holds the lock of a folder, or works on a bucket beside others.
#[derive(Clone, Debug)]
pub struct LocalRegistry {
    registry: Registry,
    /// What changes are recorded as.
    command: &'static str,
}

impl LocalRegistry {
    pub fn new(registry: Registry, command: &'static str) -> Self {
        Self { registry, command }
    }

    fn repository(&self, name: &RepositoryName) -> Repository {
        let origin = ChangeOrigin::program(self.command);
        self.registry.repository(name.clone()).changed_by(origin)
    }
}

/// All items of pages.
async fn all_pages<T, F>(mut page: impl FnMut(PageRequest) -> F) -> Result<Vec<T>, Error>
where
    F: Future<Output = Result<jreg_registry::ResultPage<T>, Error>>,
{
    let mut items = Vec::new();
    let mut last = None;
    loop {
        let read = page(PageRequest { limit: PAGE_ITEMS, last }).await?;
        items.extend(read.items);
        match read.next {
            Some(next) => last = Some(next),
            None => return Ok(items),
        }
    }
}

/// `None` where the registry says that it is not there.
fn if_known<T>(read: Result<T, Error>) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(
            Error::ManifestUnknown { .. } | Error::BlobUnknown { .. } | Error::NameUnknown { .. },
        ) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[async_trait]
impl RegistryAccess for LocalRegistry {
    async fn repositories(&self) -> Result<Vec<RepositoryName>> {
        Ok(all_pages(|page| async move { self.registry.catalog(&page).await }).await?)
    }

    async fn tags(&self, name: &RepositoryName) -> Result<Vec<Tag>> {
        let repository = &self.repository(name);
        let tags = all_pages(|page| async move { repository.tags(&page).await }).await;
        Ok(if_known(tags)?.unwrap_or_default())
    }

    async fn manifests(&self, name: &RepositoryName) -> Result<Vec<Digest>> {
        Ok(self.repository(name).manifest_digests().await?)
    }

    async fn manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<RegistryManifest>> {
        let read = self.repository(name).manifest_get(reference, TouchPolicy::IfOld).await;
        Ok(if_known(read)?.map(|stored| RegistryManifest {
            digest: stored.digest.clone(),
            media_type: stored.media_type.clone(),
            bytes: stored.bytes.clone(),
        }))
    }

    async fn referrers(&self, name: &RepositoryName, subject: &Digest) -> Result<Vec<Digest>> {
        let repository = &self.repository(name);
        let referrers =
            all_pages(|page| async move { repository.referrers(subject, None, &page).await });
        Ok(referrers.await?.into_iter().map(|referrer| referrer.digest).collect())
    }

    async fn blob(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<OpenBlob>> {
        let Some(reader) = if_known(self.repository(name).blob_open(digest).await)? else {
            return Ok(None);
        };
        let size_bytes = reader.blob().size_bytes;
        let stream = reader.read(ByteRange { start: 0, end: size_bytes }).await?;
        Ok(Some(OpenBlob { size_bytes, stream: stream.map_err(io::Error::other).boxed() }))
    }

    async fn has_blob(&self, name: &RepositoryName, digest: &Digest) -> Result<bool> {
        let stat = self.repository(name).blob_stat(digest, TouchPolicy::IfOld).await;
        Ok(if_known(stat)?.is_some())
    }

    async fn mount(&self, name: &RepositoryName, digest: &Digest) -> Result<bool> {
        let repository = self.repository(name);
        for source in repository.mount_candidates(digest).await? {
            if repository.blob_mount(digest, &source).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn push_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        blob: OpenBlob,
    ) -> Result<()> {
        let body = blob.stream.map_err(|error| {
            tracing::debug!(%error, "the source of a blob broke off");
            BodyError::Broken
        });
        let chunk = UploadChunk::new(None, Some(blob.size_bytes), body.boxed());
        self.repository(name).blob_push(digest, chunk).await?;
        Ok(())
    }

    async fn copy_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        blob: PlacedBlob,
    ) -> Result<Option<CopyMethod>> {
        let PlacedBlob { size_bytes, place, trust } = blob;
        let repository = self.repository(name);
        let copied = repository.blob_copy_in(digest, size_bytes, &place, trust).await?;
        Ok(copied.map(|(_, method)| method))
    }

    async fn push_manifest(
        &self,
        name: &RepositoryName,
        manifest: RegistryManifest,
        tags: Vec<Tag>,
    ) -> Result<()> {
        let push = ManifestPush {
            reference: Reference::Digest(manifest.digest),
            tags,
            media_type: Some(manifest.media_type),
            bytes: manifest.bytes,
            condition: None,
        };
        let pushed = self.repository(name).manifest_put(push).await?;
        match pushed.refused.into_iter().next() {
            Some(refused) => Err(TransferError::Registry(refused.to_string())),
            None => Ok(()),
        }
    }
}
