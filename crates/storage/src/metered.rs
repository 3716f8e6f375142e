//! [`Metered`]: tells an observer how long each call took and how it ended.
//!
//! Its place is right around the store that does the work, below retries and caches, so that
//! every request to the store is counted once.

#![deny(clippy::missing_trait_methods)]

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use crate::{
    ByteRange, ByteStream, ETag, ErrorKind, Hedge, Key, ListPage, ListRequest, Locality, Multipart,
    OpenFile, Part, PartRules, Presign, Purged, Put, PutMode, Record, Result, Stat, Store, Written,
};

/// Is told of the calls to a store.
pub trait Observer: Debug + Send + Sync + 'static {
    /// A call ended. `operation` is the method's name; a stream that fails after it was opened
    /// is told as `read_stream`, with the time since it was opened. A call whose future was
    /// dropped is not told.
    fn observe(&self, operation: &'static str, duration: Duration, result: Result<(), ErrorKind>);

    /// A slow read was hedged, or would have been: see [`Hedged`](crate::Hedged).
    fn hedge(&self, hedge: Hedge);
}

/// A store that tells an [`Observer`] of every call.
#[derive(Debug)]
pub struct Metered {
    inner: Arc<dyn Store>,
    observer: Arc<dyn Observer>,
}

impl Metered {
    /// Observes the calls to `inner`.
    pub fn new(inner: Arc<dyn Store>, observer: Arc<dyn Observer>) -> Self {
        Self { inner, observer }
    }

    async fn timed<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let started = Instant::now();
        let answer = call.await;
        let result = answer.as_ref().map(|_| ()).map_err(|error| error.kind());
        self.observer.observe(operation, started.elapsed(), result);
        answer
    }
}

#[async_trait]
impl Store for Metered {
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
        self.timed("purge", self.inner.purge(request, age_min)).await
    }

    async fn get(&self, key: &Key) -> Result<Record> {
        self.timed("get", self.inner.get(key)).await
    }

    async fn head(&self, key: &Key) -> Result<Stat> {
        self.timed("head", self.inner.head(key)).await
    }

    async fn read(&self, key: &Key, range: ByteRange) -> Result<ByteStream> {
        let stream = self.timed("read", self.inner.read(key, range)).await?;
        let (observer, opened) = (self.observer.clone(), Instant::now());
        let observed = stream.inspect(move |chunk| {
            if let Err(error) = chunk {
                observer.observe("read_stream", opened.elapsed(), Err(error.kind()));
            }
        });
        Ok(observed.boxed())
    }

    async fn put(&self, key: &Key, bytes: Bytes, mode: PutMode) -> Result<Written> {
        self.timed("put", self.inner.put(key, bytes, mode)).await
    }

    async fn put_both(&self, first: Put, then: Put) -> Result<Result<Written>> {
        self.timed("put_both", self.inner.put_both(first, then)).await
    }

    async fn delete(&self, key: &Key, version: Option<&ETag>) -> Result<()> {
        self.timed("delete", self.inner.delete(key, version)).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        self.timed("delete_many", self.inner.delete_many(keys)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.timed("list", self.inner.list(request)).await
    }

    async fn create_multipart(&self, key: &Key, writer: u64, part_bytes: u64) -> Result<Multipart> {
        let begun = self.inner.create_multipart(key, writer, part_bytes);
        self.timed("create_multipart", begun).await
    }

    async fn resume_multipart(&self, upload: &Multipart, writer: u64) -> Result<Multipart> {
        self.timed("resume_multipart", self.inner.resume_multipart(upload, writer)).await
    }

    async fn put_part(&self, upload: &Multipart, offset: u64, bytes: Bytes) -> Result<Part> {
        self.timed("put_part", self.inner.put_part(upload, offset, bytes)).await
    }

    async fn sync_parts(&self, upload: &Multipart) -> Result<()> {
        self.timed("sync_parts", self.inner.sync_parts(upload)).await
    }

    async fn complete_multipart(&self, upload: &Multipart) -> Result<()> {
        self.timed("complete_multipart", self.inner.complete_multipart(upload)).await
    }

    async fn abort_multipart(&self, upload: &Multipart) -> Result<()> {
        self.timed("abort_multipart", self.inner.abort_multipart(upload)).await
    }

    async fn file(&self, key: &Key) -> Result<Option<Arc<OpenFile>>> {
        self.timed("file", self.inner.file(key)).await
    }

    async fn presign(&self, key: &Key, presign: &Presign) -> Result<Option<String>> {
        self.timed("presign", self.inner.presign(key, presign)).await
    }
}
