//! A store that gives little at a time: every page of a listing is cut after a few entries, as
//! S3 cuts it after a thousand.

#![deny(clippy::missing_trait_methods)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jreg_storage::{
    ByteRange, ByteStream, ETag, Key, ListPage, ListRequest, Locality, Multipart, OpenFile, Part,
    PartRules, Presign, Purged, Put, PutMode, Record, Result, Stat, Store, Written,
};

/// A store whose pages of listings have few entries, whatever is asked for.
#[derive(Debug)]
pub struct SmallPages {
    inner: Arc<dyn Store>,
    entries_max: usize,
}

impl SmallPages {
    /// Cuts the pages of `inner` after `entries_max` entries.
    pub fn new(inner: Arc<dyn Store>, entries_max: usize) -> Self {
        Self { inner, entries_max }
    }
}

#[async_trait::async_trait]
impl Store for SmallPages {
    fn locality(&self) -> Locality {
        self.inner.locality()
    }

    fn part_rules(&self) -> PartRules {
        self.inner.part_rules()
    }

    fn clock_difference(&self) -> Option<Duration> {
        self.inner.clock_difference()
    }

    fn longest_wait(&self) -> Option<Duration> {
        self.inner.longest_wait()
    }

    fn removes_versions(&self) -> bool {
        self.inner.removes_versions()
    }

    async fn purge(&self, request: &ListRequest, age_min: Duration) -> Result<Purged> {
        self.inner.purge(request, age_min).await
    }

    async fn get(&self, key: &Key) -> Result<Record> {
        self.inner.get(key).await
    }

    async fn head(&self, key: &Key) -> Result<Stat> {
        self.inner.head(key).await
    }

    async fn read(&self, key: &Key, range: ByteRange) -> Result<ByteStream> {
        self.inner.read(key, range).await
    }

    async fn put(&self, key: &Key, bytes: Bytes, mode: PutMode) -> Result<Written> {
        self.inner.put(key, bytes, mode).await
    }

    async fn put_both(&self, first: Put, then: Put) -> Result<Result<Written>> {
        self.put(&first.key, first.bytes, first.mode).await?;
        Ok(self.put(&then.key, then.bytes, then.mode).await)
    }

    async fn delete(&self, key: &Key, version: Option<&ETag>) -> Result<()> {
        self.inner.delete(key, version).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        self.inner.delete_many(keys).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let limit = request.limit.min(self.entries_max);
        self.inner.list(&ListRequest { limit, ..request.clone() }).await
    }

    async fn create_multipart(&self, key: &Key, writer: u64, part_bytes: u64) -> Result<Multipart> {
        self.inner.create_multipart(key, writer, part_bytes).await
    }

    async fn resume_multipart(&self, upload: &Multipart, writer: u64) -> Result<Multipart> {
        self.inner.resume_multipart(upload, writer).await
    }

    async fn put_part(&self, upload: &Multipart, offset: u64, bytes: Bytes) -> Result<Part> {
        self.inner.put_part(upload, offset, bytes).await
    }

    async fn sync_parts(&self, upload: &Multipart) -> Result<()> {
        self.inner.sync_parts(upload).await
    }

    async fn complete_multipart(&self, upload: &Multipart) -> Result<()> {
        self.inner.complete_multipart(upload).await
    }

    async fn abort_multipart(&self, upload: &Multipart) -> Result<()> {
        self.inner.abort_multipart(upload).await
    }

    async fn file(&self, key: &Key) -> Result<Option<Arc<OpenFile>>> {
        self.inner.file(key).await
    }

    async fn presign(&self, key: &Key, presign: &Presign) -> Result<Option<String>> {
        self.inner.presign(key, presign).await
    }
}
