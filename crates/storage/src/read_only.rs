//! [`ReadOnlyStore`]: refuses every write, whatever the code above it does.
//!
//! It belongs right around the store that does the work, so that nothing can write past it: that is the
//! proof that a registry over it changes nothing. Each method of [`Store`] is either passed on, and reads, or
//! is refused here ([`ErrorKind::ReadOnly`]); tombstones are left to a writer to remove.

#![deny(clippy::missing_trait_methods)]

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    CopiedObject, CopySource, ETag, Error, ErrorKind, Key, ListRequest, Multipart, Part, Purged,
    Put, PutMode, Result, SequenceOutcome, Store, StoreCapabilities, StoreChange, Written,
    forward_store,
};

/// A store that only reads.
#[derive(Debug)]
pub struct ReadOnlyStore {
    inner: Arc<dyn Store>,
}

impl ReadOnlyStore {
    /// Refuses every write to `inner`.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner }
    }
}

fn refuse<T>(key: impl Display) -> Result<T> {
    Err(Error::new(ErrorKind::ReadOnly, key))
}

#[async_trait]
impl Store for ReadOnlyStore {
    /// Others may change the store: nothing that was read stays true.
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities { is_read_only: true, is_exclusive: false, ..self.inner.capabilities() }
    }

    forward_store! { inner: health, clock, get, head, read, list, staged_uploads, staged_file, file, presign }

    async fn purge(&self, _: &ListRequest, _: Duration) -> Result<Purged> {
        Ok(Purged::default())
    }

    async fn put(&self, key: &Key, _: Bytes, _: PutMode) -> Result<Written> {
        refuse(key)
    }

    async fn put_after(&self, _: Vec<StoreChange>, then: Put) -> Result<SequenceOutcome> {
        refuse(then.key)
    }

    async fn delete(&self, key: &Key, _: Option<&ETag>) -> Result<()> {
        refuse(key)
    }

    async fn delete_many(&self, _: &[Key]) -> Result<()> {
        refuse("several keys")
    }

    async fn create_multipart(&self, key: &Key, _: u64, _: u64) -> Result<Multipart> {
        refuse(key)
    }

    async fn resume_multipart(&self, upload: &Multipart, _: u64) -> Result<Multipart> {
        refuse(&upload.key)
    }

    async fn put_part(&self, upload: &Multipart, _: u64, _: Bytes) -> Result<Part> {
        refuse(&upload.key)
    }

    async fn put_last_part(&self, upload: &Multipart, _: u64, _: Bytes) -> Result<Part> {
        refuse(&upload.key)
    }

    async fn sync_parts(&self, upload: &Multipart) -> Result<()> {
        refuse(&upload.key)
    }

    async fn complete_multipart(&self, upload: &Multipart) -> Result<()> {
        refuse(&upload.key)
    }

    async fn abort_multipart(&self, upload: &Multipart) -> Result<()> {
        refuse(&upload.key)
    }

    async fn copy_in(&self, key: &Key, _: &CopySource) -> Result<Option<CopiedObject>> {
        refuse(key)
    }
}
