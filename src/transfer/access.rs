//! [`RegistryAccess`]: a registry as images are moved in and out of it: in this process, or in the one that
//! serves the folder.

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use jreg_archive::SourcePlace;
use jreg_oci::{Algorithm, Digest, Hasher, MediaType, Reference, RepositoryName, Tag};
use jreg_registry::{
    BodyError, ChangeOrigin, Error, ManifestPush, PageRequest, Registry, Repository, SourceTrust,
    TouchPolicy, UploadChunk,
};
use jreg_storage::{ByteRange, CopyMethod, CopySource, error_chain};

use super::store_tree::StorePlace;

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
    /// Where it lies as a whole, if that is known.
    pub place: Option<SourcePlace>,
    pub stream: BlobStream,
}

/// The digest of a stream that was read to its end.
#[derive(Debug)]
pub(super) struct HashedStream(Arc<Mutex<Hasher>>);

impl HashedStream {
    /// A stream that is hashed while it is read.
    pub(super) fn new(stream: BlobStream, algorithm: Algorithm) -> (BlobStream, Self) {
        let hasher = Arc::new(Mutex::new(Hasher::new(algorithm)));
        let hashing = Arc::clone(&hasher);
        let stream = stream.inspect_ok(move |chunk| {
            hashing.lock().unwrap_or_else(PoisonError::into_inner).update(chunk);
        });
        (stream.boxed(), Self(hasher))
    }

    pub(super) fn digest(&self) -> Digest {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().finish()
    }
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

    /// Stores a blob of which only its bytes tell the digest, a SHA-256 one.
    async fn push_unnamed_blob(&self, name: &RepositoryName, blob: OpenBlob) -> Result<Digest>;

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
    /// Where its store is, if other stores may copy from there.
    place: Option<StorePlace>,
}

impl LocalRegistry {
    pub fn new(registry: Registry, command: &'static str) -> Self {
        Self { registry, command, place: None }
    }

    /// A registry whose blobs other stores may copy from where they lie.
    pub(super) fn placed(self, place: StorePlace) -> Self {
        Self { place: Some(place), ..self }
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

/// A blob as the body of a request.
fn chunk_of(blob: OpenBlob) -> UploadChunk {
    let body = blob.stream.map_err(|error| {
        tracing::debug!(%error, "the source of a blob broke off");
        BodyError::Broken
    });
    UploadChunk::new(None, Some(blob.size_bytes), body.boxed())
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
        let range = ByteRange { start: 0, end: size_bytes };
        let place = self.place.as_ref().map(|place| place.of(reader.location()));
        if place.is_some() {
            // Only when the first byte is wanted: it may be copied where it lies.
            let stream = stream::once(async move { reader.read(range).await });
            let stream = stream.map_ok(|bytes| bytes.map_err(io::Error::other));
            let stream = stream.map_err(io::Error::other).try_flatten().boxed();
            return Ok(Some(OpenBlob { size_bytes, place, stream }));
        }
        let stream = reader.read(range).await?.map_err(io::Error::other).boxed();
        Ok(Some(OpenBlob { size_bytes, place, stream }))
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
        self.repository(name).blob_push(digest, chunk_of(blob)).await?;
        Ok(())
    }

    async fn push_unnamed_blob(&self, name: &RepositoryName, blob: OpenBlob) -> Result<Digest> {
        let repository = self.repository(name);
        let (stream, hashed) = HashedStream::new(blob.stream, Algorithm::Sha256);
        let id = repository.upload_start(Some(Algorithm::Sha256));
        let chunk = chunk_of(OpenBlob { stream, ..blob });
        if let Err(error) = repository.upload_append(&id, chunk).await {
            // If this fails, the reaper has it.
            repository.upload_cancel(&id).await.ok();
            return Err(error.into());
        }
        let digest = hashed.digest();
        let empty = UploadChunk::new(None, Some(0), stream::empty().boxed());
        repository.upload_finish(&id, &digest, empty).await?;
        Ok(digest)
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
