//! [`BlobLanding`]: where blobs of an archive go that is read once, before it is known which image they are of.
//!
//! They are linked to one repository: that of the first image, if the archive lists its images before its blobs, else
//! the one that `--into` names. Other repositories of the archive get them from there by mounts. Links that no manifest needs
//! in the end are unreferenced, as those of an interrupted push, and garbage collection removes them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use jreg_archive::{BlobReceiver, SourceBlob};
use jreg_oci::{Algorithm, Digest, RepositoryName};
use jreg_storage::error_chain;

use super::access::{HashedStream, OpenBlob, RegistryAccess, Result, TransferError};
use super::progress::MoveProgress;

/// Takes the blobs of an archive.
#[derive(Debug)]
pub(super) struct BlobLanding {
    target: Arc<dyn RegistryAccess>,
    progress: Arc<MoveProgress>,
    into: Option<RepositoryName>,
    dry_run: bool,
    /// Where they are linked, once that is known.
    repository: OnceLock<RepositoryName>,
    blobs: Mutex<LandedBlobs>,
}

#[derive(Debug, Default)]
struct LandedBlobs {
    all: HashSet<Digest>,
    /// Bytes that were written and that no image has counted.
    written: HashMap<Digest, u64>,
}

impl BlobLanding {
    pub(super) fn new(
        target: Arc<dyn RegistryAccess>,
        progress: Arc<MoveProgress>,
        into: Option<RepositoryName>,
        dry_run: bool,
    ) -> Self {
        let (repository, blobs) = (OnceLock::new(), Mutex::default());
        Self { target, progress, into, dry_run, repository, blobs }
    }

    /// Whether a blob came.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).all.contains(digest)
    }

    /// How many bytes were written of a blob; each is counted once.
    pub(super) fn take_written(&self, digest: &Digest) -> Option<u64> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).written.remove(digest)
    }

    fn repository(&self) -> Result<&RepositoryName> {
        let unknown = || TransferError::Content("no repository is known for the blob".to_owned());
        if let (None, Some(into)) = (self.repository.get(), &self.into) {
            return Ok(self.repository.get_or_init(|| into.clone()));
        }
        self.repository.get().ok_or_else(unknown)
    }

    async fn land(&self, digest: Option<&Digest>, blob: SourceBlob) -> Result<Digest> {
        let SourceBlob { size_bytes, stream, .. } = blob;
        if self.dry_run {
            return match digest {
                Some(digest) => Ok(digest.clone()),
                None => hash(stream).await,
            };
        }
        let name = self.repository()?;
        if let Some(digest) = digest
            && (self.target.has_blob(name, digest).await?
                || self.target.mount(name, digest).await?)
        {
            return Ok(digest.clone());
        }
        let progress = Arc::clone(&self.progress);
        let stream = stream.inspect_ok(move |chunk| progress.add_bytes(chunk.len() as u64)).boxed();
        let blob = OpenBlob { size_bytes, place: None, stream };
        let digest = match digest {
            Some(digest) => {
                self.target.push_blob(name, digest, blob).await?;
                digest.clone()
            }
            None => self.target.push_unnamed_blob(name, blob).await?,
        };
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        *blobs.written.entry(digest.clone()).or_default() += size_bytes;
        Ok(digest)
    }
}

async fn hash(stream: BoxStream<'static, io::Result<Bytes>>) -> Result<Digest> {
    let (mut stream, hashed) = HashedStream::new(stream, Algorithm::Sha256);
    while stream.try_next().await.map_err(TransferError::io("read the archive"))?.is_some() {}
    Ok(hashed.digest())
}

#[async_trait]
impl BlobReceiver for BlobLanding {
    fn announce(&self, repository: &RepositoryName) {
        let name = match &self.into {
            None => Some(repository.clone()),
            Some(prefix) => format!("{prefix}/{repository}").parse().ok(),
        };
        if let Some(name) = name {
            self.repository.get_or_init(|| name);
        }
    }

    fn takes_blobs(&self) -> bool {
        self.dry_run || self.into.is_some() || self.repository.get().is_some()
    }

    async fn store(&self, digest: Option<&Digest>, blob: SourceBlob) -> Result<Digest, String> {
        let digest = self.land(digest, blob).await.map_err(|error| error_chain(&error))?;
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        blobs.all.insert(digest.clone());
        Ok(digest)
    }

    async fn open(&self, digest: &Digest) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        let name = self.repository().map_err(io::Error::other)?;
        let blob = self.target.blob(name, digest).await.map_err(io::Error::other)?;
        let gone = || io::Error::other(format!("blob {digest} was deleted during the import"));
        Ok(blob.ok_or_else(gone)?.stream)
    }
}
