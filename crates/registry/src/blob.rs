//! Blobs: looking, reading, deleting and mounting. Pushing is in `upload.rs` and
//! `commit.rs`.

use std::sync::Arc;
use std::time::Duration;

use jreg_oci::{Digest, RepositoryName};
use jreg_storage::{ByteRange, ByteStream, Key, OpenFile, Presign};

use crate::attempts::SwapAttempts;
use crate::cache::CachedRecord;
use crate::core::Core;
use crate::damaged::FoundRecord;
use crate::keys;
use crate::link::{LinkOrigin, LinkOutcome};
use crate::record::{Link, Location, StoredRecord, VersionedRecord};
use crate::rules::Rule;
use crate::suspects::{Suspicion, is_incomplete};
use crate::{Blob, Error, Repository, Result, TouchPolicy};

#[derive(Clone, Debug)]
pub struct BlobReader {
    core: Arc<Core>,
    name: RepositoryName,
    blob: Blob,
    location: Location,
}

impl BlobReader {
    pub fn blob(&self) -> &Blob {
        &self.blob
    }

    /// Where its bytes lie in the store.
    pub fn location(&self) -> &Key {
        &self.location.key
    }

    /// Streams a range of it; the range must lie within the blob.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] if the bytes are not where the repository's link says;
    /// [`Error::Store`]. A stream that breaks off ends with an error, never short.
    pub async fn read(&self, range: ByteRange) -> Result<ByteStream> {
        match self.core.store.read(&self.location.key, range).await {
            Err(error) if is_incomplete(&error) => self.read_again(range).await,
            read => read.map_err(|error| self.failed(&self.location, error)),
        }
    }

    /// Remembers of what failed that the bytes are not all there.
    fn failed(&self, location: &Location, error: jreg_storage::Error) -> Error {
        if is_incomplete(&error) {
            self.core.suspects.add(&location.key, Suspicion::Incomplete);
        }
        match error.is_not_found() || self.core.is_read_only() && is_incomplete(&error) {
            true => self.core.missing(location),
            false => error.into(),
        }
    }

    /// Its open file, where the store keeps it in one.
    ///
    /// # Errors
    ///
    /// As [`BlobReader::read`].
    pub async fn file(&self) -> Result<Option<Arc<OpenFile>>> {
        match self.core.store.file(&self.location.key).await {
            // Reading searches for it elsewhere.
            Err(error) if error.is_not_found() => Ok(None),
            other => Ok(other?),
        }
    }

    /// A URL by which anyone can GET the whole of it from the store for a while, where the store
    /// has such a thing. The store responds with this Content-Type.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn presign(&self, expires: Duration, content_type: &str) -> Result<Option<String>> {
        // Who is sent to the store learns from it what is absent, and must not.
        if self.core.is_read_only() && !self.core.has_bytes(&self.location).await? {
            return Err(self.core.missing(&self.location));
        }
        let presign =
            Presign { expires_s: expires.as_secs(), content_type: content_type.to_owned() };
        Ok(self.core.store.presign(&self.location.key, &presign).await?)
    }

    /// The link may have been swapped to another location since it was read.
    async fn read_again(&self, range: ByteRange) -> Result<ByteStream> {
        let key = keys::link(&self.blob.digest, &self.name);
        self.core.cache.forget(&self.name, &self.blob.digest);
        let link = self.core.read::<Link>(&key).await?;
        let Some(location) = link.as_ref().and_then(|link| link.value.live()) else {
            return Err(unknown(&self.name, &self.blob.digest));
        };
        let read = self.core.store.read(&location.key, range).await;
        read.map_err(|error| self.failed(location, error))
    }
}

impl Repository {
    /// Says whether the repository has a blob (end-2, HEAD). To a client that may push, and skips
    /// the upload on the response, a blob whose bytes are known to be missing is absent, so that it
    /// pushes them again.
    ///
    /// # Errors
    ///
    /// [`Error::BlobUnknown`] only if it is definitely not there; [`Error::Damaged`] with
    /// [`TouchPolicy::Never`] if its bytes are known to be missing; [`Error::Store`].
    pub async fn blob_stat(&self, digest: &Digest, touch: TouchPolicy) -> Result<Blob> {
        let (core, name) = (&self.core, &self.name);
        let touch = core.touch_policy(touch);
        let blob =
            |location: Location| Blob { digest: digest.clone(), size_bytes: location.size_bytes };
        let is_fit = |link: &CachedRecord<Location>| link.is_young(core.clock.now());
        if let Some(link) = core.cached_link(name, digest).filter(is_fit) {
            if core.can_rely_on(&link.value).await? {
                return Ok(blob(link.value));
            }
            // It may have been moved to other bytes by now.
            core.cache.forget(name, digest);
        }
        let location = match touch {
            TouchPolicy::IfOld => core.touch_link(core.open_window(), name, digest).await?,
            TouchPolicy::Never => self.find_location(digest).await?,
        };
        location.map(blob).ok_or_else(|| unknown(name, digest))
    }

    async fn find_location(&self, digest: &Digest) -> Result<Option<Location>> {
        let Some(link) = self.core.find_link(&self.name, digest).await? else { return Ok(None) };
        match self.core.can_rely_on(&link.value).await? {
            true => Ok(Some(link.value)),
            false => Err(self.core.missing(&link.value)),
        }
    }

    /// Opens a blob for reading (end-2, GET).
    ///
    /// # Errors
    ///
    /// As [`Repository::blob_stat`].
    pub async fn blob_open(&self, digest: &Digest) -> Result<BlobReader> {
        let link = self.core.find_link(&self.name, digest).await?;
        let location = link.ok_or_else(|| unknown(&self.name, digest))?.value;
        let blob = Blob { digest: digest.clone(), size_bytes: location.size_bytes };
        Ok(BlobReader { core: Arc::clone(&self.core), name: self.name.clone(), blob, location })
    }

    /// Removes a blob from the repository (end-10). Manifests that reference it are not checked,
    /// and other repositories keep it. A link that cannot be decoded is removed, too.
    ///
    /// # Errors
    ///
    /// [`Error::BlobUnknown`], [`Error::Immutable`], [`Error::Busy`], [`Error::Store`].
    pub async fn blob_delete(&self, digest: &Digest) -> Result<()> {
        self.check_blob_delete()?;
        let key = keys::link(digest, &self.name);
        let mut attempts = SwapAttempts::new("the blob is being changed by too many others");
        loop {
            attempts.next().await?;
            let found = self.core.find_record::<Link>(&key).await?;
            match found {
                FoundRecord::Valid(VersionedRecord { value: Link::Live(_), .. })
                | FoundRecord::Damaged(_) => {}
                FoundRecord::Valid(_) | FoundRecord::Absent => {
                    return Err(unknown(&self.name, digest));
                }
            }
            self.core.cache.forget(&self.name, digest);
            let swapped = self.core.swap(&key, found.etag(), Link::Deleted.encode()).await;
            self.core.cache.forget(&self.name, digest);
            if swapped?.is_some() {
                found.damaged().inspect(|damaged| self.core.damage.note_removed(&key, damaged));
                return Ok(());
            }
        }
    }

    /// Repositories that link a blob, for a mount without `from` (end-11); whether the client may
    /// read them is for the caller to check.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn mount_candidates(&self, digest: &Digest) -> Result<Vec<RepositoryName>> {
        self.core.linking_repositories(digest).await
    }

    /// Links a blob that `source` links to the repository (end-11). `None`: neither links it, or
    /// not with all its bytes.
    ///
    /// The destination is touched before the source: a mount onto a link that exists already, but
    /// old, must keep that one from GC.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Interrupted`], [`Error::Store`].
    pub async fn blob_mount(
        &self,
        digest: &Digest,
        source: &RepositoryName,
    ) -> Result<Option<Blob>> {
        let core = &self.core;
        let window = core.open_window();
        let blob =
            |location: Location| Blob { digest: digest.clone(), size_bytes: location.size_bytes };
        if core.rules.keep(Rule::TouchDestination)
            && let Some(location) = core.touch_complete_link(window, &self.name, digest).await?
        {
            return Ok(Some(blob(location)));
        }
        let Some(location) = core.touch_shareable_link(window, source, digest).await? else {
            return Ok(None);
        };
        match core.create_link(window, &self.name, digest, &location, LinkOrigin::Fresh).await? {
            LinkOutcome::Elsewhere(there) => Ok(Some(blob(there))),
            LinkOutcome::Here => Ok(Some(blob(location))),
            // Only a replay is kept from reviving a deleted link.
            LinkOutcome::Deleted => Ok(None),
        }
    }
}

impl Core {
    /// The error of bytes that are not where a link says.
    fn missing(&self, location: &Location) -> Error {
        let key = location.key.to_string();
        match self.is_read_only() {
            true => Error::NotArrived { what: format!("the object {key}") },
            false => Error::Damaged { key, reason: "the bytes of a blob are missing".to_owned() },
        }
    }
}

pub(crate) fn unknown(name: &RepositoryName, digest: &Digest) -> Error {
    Error::BlobUnknown { name: name.clone(), digest: digest.clone() }
}
