//! [`S3Store`]: a bucket of S3, or of a store that speaks its protocol.
//!
//! The bucket is the only state, and shared: other instances read and write it at the same time.
//! What keeps that safe is the store's own compare-and-swap (`If-None-Match: *` and `If-Match` on
//! PUT, `If-Match` on DELETE). Not every store that takes these headers honours them, which is
//! why [`S3Store::probe`] tries.
//!
//! - `bucket`: one signed request and its response; `credentials`: what signs it; `retry` and
//!   `failure`: when it is retried.
//! - `drift`: how far the store's clock is off, and what is not written then.
//! - `records`, `reading`, `listing`, `uploads`, `multipart_list`, `copying`: the operations.
//! - `probe`: what the bucket honours.

mod bucket;
mod continuation;
mod copying;
mod credentials;
mod drift;
mod failure;
mod http_client;
mod listing;
mod multipart_list;
mod options;
mod probe;
mod profile;
mod profile_file;
mod reading;
mod records;
mod retry;
mod sources;
mod uploads;
mod url;
mod xml;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};

pub use drift::CLOCK_DIFFERENCE_MAX;
pub use options::{PART_BYTES_MAX, PART_BYTES_MIN, S3Credentials, S3OpenError, S3Options};
pub use probe::BucketCapabilities;
pub use url::{Encryption, InvalidS3Url, S3Url};

use bucket::BucketClient;

use crate::{
    ByteRange, ByteStream, CopiedObject, CopySource, ETag, Error, ErrorKind, Key, ListPage,
    ListRequest, Multipart, OpenFile, Part, PartRules, Presign, PutMode, Record, Result,
    StagedUpload, Stat, Store, StoreCapabilities, StoreHealth, Written,
};

/// The most parts of one upload.
const PARTS_MAX: u64 = 10_000;

/// The longest that a presigned URL may work (SigV4): seven days.
const PRESIGN_S_MAX: u64 = 7 * 24 * 3600;

/// A store in a bucket.
///
/// A delete of a version is a conditional DELETE here. Where a delayed Create could bring the
/// key back, put [`TombstoneStore`](crate::TombstoneStore) around it.
#[derive(Clone, Debug)]
pub struct S3Store {
    bucket: Arc<BucketClient>,
}

impl S3Store {
    /// Makes the means to use a bucket, without asking anything of it: see [`S3Store::probe`].
    ///
    /// # Errors
    ///
    /// [`S3OpenError`] if the options cannot be used.
    pub fn open(options: S3Options) -> Result<Self, S3OpenError> {
        Ok(Self { bucket: Arc::new(BucketClient::open(options)?) })
    }

    /// Probes what the bucket honours, by concurrent attempts, and adapts to it. Leaves nothing
    /// behind in the bucket but what a crash in between leaves below `probe/`.
    ///
    /// # Errors
    ///
    /// The bucket cannot be reached or used at all, or its clock is more than
    /// [`CLOCK_DIFFERENCE_MAX`] off.
    pub async fn probe(&self) -> Result<BucketCapabilities> {
        self.bucket.probe().await
    }
}

#[async_trait]
impl Store for S3Store {
    fn capabilities(&self) -> StoreCapabilities {
        let part_bytes = self.bucket.options.part_bytes;
        StoreCapabilities::remote(PartRules { part_bytes, uniform: true, parts_max: PARTS_MAX })
    }

    fn health(&self) -> StoreHealth {
        StoreHealth { clock_difference: self.bucket.clock.difference(), ..StoreHealth::default() }
    }

    async fn get(&self, key: &Key) -> Result<Record> {
        self.bucket.get(key).await
    }

    async fn head(&self, key: &Key) -> Result<Stat> {
        self.bucket.head(key).await
    }

    async fn read(&self, key: &Key, range: ByteRange) -> Result<ByteStream> {
        self.bucket.read(key, range).await
    }

    async fn put(&self, key: &Key, bytes: Bytes, mode: PutMode) -> Result<Written> {
        self.bucket.put(key, bytes, &mode).await
    }

    async fn delete(&self, key: &Key, version: Option<&ETag>) -> Result<()> {
        self.bucket.delete(key, version).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        self.bucket.delete_many(keys).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.bucket.list(request).await
    }

    async fn create_multipart(&self, key: &Key, writer: u64, part_bytes: u64) -> Result<Multipart> {
        self.bucket.create_multipart(key, writer, part_bytes).await
    }

    /// Asks nothing of the bucket: it could not shut an earlier claim out. What such a claim
    /// spoils, or that the upload no longer exists, shows with the next part or at completion.
    async fn resume_multipart(&self, upload: &Multipart, writer: u64) -> Result<Multipart> {
        Ok(Multipart { writer, ..upload.clone() })
    }

    async fn put_part(&self, upload: &Multipart, offset: u64, bytes: Bytes) -> Result<Part> {
        self.bucket.put_part(upload, offset, bytes).await
    }

    /// A part is durable when it is stored.
    async fn sync_parts(&self, _upload: &Multipart) -> Result<()> {
        Ok(())
    }

    async fn complete_multipart(&self, upload: &Multipart) -> Result<()> {
        self.bucket.complete_multipart(upload).await
    }

    async fn abort_multipart(&self, upload: &Multipart) -> Result<()> {
        self.bucket.abort_multipart(upload).await
    }

    async fn copy_in(&self, key: &Key, source: &CopySource) -> Result<Option<CopiedObject>> {
        self.bucket.copy_in(key, source).await
    }

    /// One request for each thousand uploads, and one for each of them: only its parts say how large it is.
    async fn staged_uploads(&self, prefix: &str) -> Result<Vec<StagedUpload>> {
        self.bucket.multipart_uploads(prefix).await
    }

    async fn file(&self, _key: &Key) -> Result<Option<Arc<OpenFile>>> {
        Ok(None)
    }

    /// The URL works until it expires, or until the credentials do that signed it.
    async fn presign(&self, key: &Key, presign: &Presign) -> Result<Option<String>> {
        let failed = |error| Error::with_source(ErrorKind::Unavailable, key, error);
        let path = Path::parse(self.bucket.stored(key.as_str())).map_err(|e| failed(e.into()))?;
        let expires = Duration::from_secs(presign.expires_s.clamp(1, PRESIGN_S_MAX));
        let options = SignedUrlOptions::new()
            .with_query([("response-content-type", presign.content_type.as_str())]);
        let url = self.bucket.signer.signed_url_opts(Method::GET, &path, expires, &options);
        Ok(Some(url.await.map_err(failed)?.into()))
    }
}
