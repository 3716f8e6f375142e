//! [`InterceptedStore`]: a store whose every call passes an [`Interceptor`] first.
//!
//! The other stores of this module are interceptors; only this file repeats the trait.

#![deny(clippy::missing_trait_methods)]

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    ByteRange, ByteStream, CopiedObject, CopySource, ETag, Key, ListPage, ListRequest, Multipart,
    OpenFile, Part, Presign, Purged, Put, PutMode, Record, Result, SequenceOutcome, StagedUpload,
    Stat, Store, StoreChange, Written, forward_store, put_in_sequence,
};

/// A call to a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The method's name.
    pub operation: &'static str,
    /// The key; the prefix of a `list`; the keys of a `delete_many`, separated by spaces.
    pub key: String,
    /// How many bytes were sent (`put`, `put_part`) or asked for (`read`).
    pub bytes: u64,
}

impl Call {
    fn new(operation: &'static str, key: impl ToString, bytes: u64) -> Self {
        Self { operation, key: key.to_string(), bytes }
    }

    /// Whether the call changes nothing: `get`, `head`, `read`, `list`, `presign`.
    pub fn is_read(&self) -> bool {
        matches!(self.operation, "get" | "head" | "read" | "list" | "presign")
    }
}

/// What an [`InterceptedStore`] asks before and after each call.
#[async_trait]
pub trait Interceptor: Debug + Send + Sync + 'static {
    /// What `before` wants `after` to know of the same call.
    type Plan: Send;

    /// The call is about to be applied; an error is the response instead.
    async fn before(&self, call: &Call) -> Result<Self::Plan>;

    /// The call was applied; an error is the response in place of the store's.
    async fn after(&self, call: &Call, plan: &Self::Plan) -> Result<()>;

    /// A stream was opened.
    fn stream(&self, call: &Call, plan: &Self::Plan, stream: ByteStream) -> ByteStream;
}

/// A store whose calls an interceptor sees.
#[derive(Debug)]
pub struct InterceptedStore<I> {
    inner: Arc<dyn Store>,
    pub(super) interceptor: I,
}

impl<I: Interceptor> InterceptedStore<I> {
    /// Puts an interceptor before `inner`.
    pub fn with(inner: Arc<dyn Store>, interceptor: I) -> Self {
        Self { inner, interceptor }
    }

    /// What every call passes.
    pub fn interceptor(&self) -> &I {
        &self.interceptor
    }

    async fn run<T>(
        &self,
        call: &Call,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<(T, I::Plan)> {
        let plan = self.interceptor.before(call).await?;
        let outcome = work.await;
        self.interceptor.after(call, &plan).await?;
        Ok((outcome?, plan))
    }

    async fn intercept<T>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.run(&call, work).await.map(|(outcome, _)| outcome)
    }
}

#[async_trait]
impl<I: Interceptor> Store for InterceptedStore<I> {
    forward_store! { inner: capabilities, health, clock }

    async fn purge(&self, request: &ListRequest, age_min: Duration) -> Result<Purged> {
        let call = Call::new("purge", &request.prefix, 0);
        self.intercept(call, self.inner.purge(request, age_min)).await
    }

    async fn get(&self, key: &Key) -> Result<Record> {
        self.intercept(Call::new("get", key, 0), self.inner.get(key)).await
    }

    async fn head(&self, key: &Key) -> Result<Stat> {
        self.intercept(Call::new("head", key, 0), self.inner.head(key)).await
    }

    async fn read(&self, key: &Key, range: ByteRange) -> Result<ByteStream> {
        let call = Call::new("read", key, range.len());
        let (stream, plan) = self.run(&call, self.inner.read(key, range)).await?;
        Ok(self.interceptor.stream(&call, &plan, stream))
    }

    async fn put(&self, key: &Key, bytes: Bytes, mode: PutMode) -> Result<Written> {
        let call = Call::new("put", key, bytes.len() as u64);
        self.intercept(call, self.inner.put(key, bytes, mode)).await
    }

    // One after the other: what watches this store sees each.
    async fn put_after(&self, before: Vec<StoreChange>, then: Put) -> Result<SequenceOutcome> {
        put_in_sequence(self, before, then).await
    }

    async fn delete(&self, key: &Key, version: Option<&ETag>) -> Result<()> {
        self.intercept(Call::new("delete", key, 0), self.inner.delete(key, version)).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        let names = keys.iter().map(Key::as_str).collect::<Vec<_>>().join(" ");
        self.intercept(Call::new("delete_many", names, 0), self.inner.delete_many(keys)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.intercept(Call::new("list", &request.prefix, 0), self.inner.list(request)).await
    }

    async fn create_multipart(&self, key: &Key, writer: u64, part_bytes: u64) -> Result<Multipart> {
        let call = Call::new("create_multipart", key, 0);
        self.intercept(call, self.inner.create_multipart(key, writer, part_bytes)).await
    }

    async fn resume_multipart(&self, upload: &Multipart, writer: u64) -> Result<Multipart> {
        let call = Call::new("resume_multipart", &upload.key, 0);
        self.intercept(call, self.inner.resume_multipart(upload, writer)).await
    }

    async fn put_part(&self, upload: &Multipart, offset: u64, bytes: Bytes) -> Result<Part> {
        let call = Call::new("put_part", &upload.key, bytes.len() as u64);
        self.intercept(call, self.inner.put_part(upload, offset, bytes)).await
    }

    async fn put_last_part(&self, upload: &Multipart, offset: u64, bytes: Bytes) -> Result<Part> {
        let part = self.put_part(upload, offset, bytes).await?;
        self.sync_parts(upload).await?;
        Ok(part)
    }

    async fn sync_parts(&self, upload: &Multipart) -> Result<()> {
        self.intercept(Call::new("sync_parts", &upload.key, 0), self.inner.sync_parts(upload)).await
    }

    async fn complete_multipart(&self, upload: &Multipart) -> Result<()> {
        let call = Call::new("complete_multipart", &upload.key, 0);
        self.intercept(call, self.inner.complete_multipart(upload)).await
    }

    async fn abort_multipart(&self, upload: &Multipart) -> Result<()> {
        let call = Call::new("abort_multipart", &upload.key, 0);
        self.intercept(call, self.inner.abort_multipart(upload)).await
    }

    async fn copy_in(&self, key: &Key, source: &CopySource) -> Result<Option<CopiedObject>> {
        self.intercept(Call::new("copy_in", key, 0), self.inner.copy_in(key, source)).await
    }

    async fn staged_uploads(&self, prefix: &str) -> Result<Vec<StagedUpload>> {
        let call = Call::new("staged_uploads", prefix, 0);
        self.intercept(call, self.inner.staged_uploads(prefix)).await
    }

    async fn staged_file(&self, upload: &Multipart) -> Result<Option<Arc<OpenFile>>> {
        let call = Call::new("staged_file", &upload.key, 0);
        self.intercept(call, self.inner.staged_file(upload)).await
    }

    async fn file(&self, key: &Key) -> Result<Option<Arc<OpenFile>>> {
        self.intercept(Call::new("file", key, 0), self.inner.file(key)).await
    }

    async fn presign(&self, key: &Key, presign: &Presign) -> Result<Option<String>> {
        self.intercept(Call::new("presign", key, 0), self.inner.presign(key, presign)).await
    }
}
