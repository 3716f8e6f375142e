//! [`SingleWriter`]: conditions kept in this process, for a store that does not keep them itself.
//!
//! A write under a condition becomes a look and then a write without one, under a lock. That is
//! right only while no other process writes to the store, and while the store does nothing late:
//! a write that it has sat on, and that was repeated meanwhile, may still revert a newer one.
//!
//! Its place is right around the store.

#![deny(clippy::missing_trait_methods)]

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    ByteRange, ByteStream, ETag, Error, ErrorKind, Key, ListPage, ListRequest, Locality, Multipart,
    OpenFile, Part, PartRules, Presign, Purged, Put, PutMode, Record, Result, Stat, Store, Written,
};

/// How many writes can be under way at once; two keys rarely share a lock.
const LOCKS: usize = 256;

/// A store whose conditions are kept by this value alone.
#[derive(Debug)]
pub struct SingleWriter<S> {
    inner: S,
    locks: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl<S: Store> SingleWriter<S> {
    /// Keeps the conditions of writes to `inner`, of which this must be the only writer.
    pub fn new(inner: S) -> Self {
        let locks = (0..LOCKS).map(|_| Mutex::default()).collect();
        Self { inner, locks, hasher: RandomState::new() }
    }

    async fn lock(&self, key: &Key) -> MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one(key.as_str());
        let index = usize::try_from(hash % LOCKS as u64).expect("there are few locks");
        self.locks.get(index).expect("the index is below their number").lock().await
    }

    async fn check_absent(&self, key: &Key) -> Result<()> {
        match self.inner.head(key).await {
            Ok(_) => Err(Error::new(ErrorKind::AlreadyExists, key)),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn check_version(&self, key: &Key, etag: &ETag) -> Result<()> {
        match self.inner.get(key).await {
            Ok(record) if record.etag == *etag => Ok(()),
            Err(error) if !error.is_not_found() => Err(error),
            _ => Err(Error::new(ErrorKind::Precondition, key)),
        }
    }
}

#[async_trait]
impl<S: Store> Store for SingleWriter<S> {
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

    /// It looks, and then removes whatever is there.
    fn removes_versions(&self) -> bool {
        true
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
        let _lock = self.lock(key).await;
        match &mode {
            PutMode::Create => self.check_absent(key).await?,
            PutMode::Match(etag) => self.check_version(key, etag).await?,
            PutMode::Overwrite => {}
        }
        self.inner.put(key, bytes, PutMode::Overwrite).await
    }

    async fn put_both(&self, first: Put, then: Put) -> Result<Result<Written>> {
        self.put(&first.key, first.bytes, first.mode).await?;
        Ok(self.put(&then.key, then.bytes, then.mode).await)
    }

    async fn delete(&self, key: &Key, version: Option<&ETag>) -> Result<()> {
        let _lock = self.lock(key).await;
        if let Some(etag) = version {
            self.check_version(key, etag).await?;
        }
        self.inner.delete(key, None).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        self.inner.delete_many(keys).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.inner.list(request).await
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
