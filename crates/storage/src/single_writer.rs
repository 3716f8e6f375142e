//! [`SingleWriterStore`]: conditions kept in this process, for a store that does not keep them itself.
//!
//! A conditional write becomes a read and then an unconditional write, under a lock. That is right
//! only while no other process writes to the store, and while the store does nothing late: a
//! delayed write that was retried meanwhile may still revert a newer one.
//!
//! It belongs right around the store.

#![deny(clippy::missing_trait_methods)]

use std::hash::{BuildHasher, RandomState};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    ETag, Error, ErrorKind, Key, Put, PutMode, Result, SequenceOutcome, Store, StoreCapabilities,
    StoreChange, Written, forward_store, put_in_sequence,
};

/// How many writes can be in flight at once; two keys rarely share a lock.
const LOCKS: usize = 256;

/// A store whose conditions are kept by this value alone.
#[derive(Debug)]
pub struct SingleWriterStore<S> {
    inner: S,
    locks: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl<S: Store> SingleWriterStore<S> {
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
impl<S: Store> Store for SingleWriterStore<S> {
    /// A delete of a version reads, and then deletes unconditionally.
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities { deletes_versions: true, ..self.inner.capabilities() }
    }

    forward_store! {
        inner:
        health, clock, purge, get, head, read, delete_many, list, create_multipart, resume_multipart,
        put_part, put_last_part, sync_parts, complete_multipart, abort_multipart, copy_in, staged_uploads, staged_file, file, presign,
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

    async fn put_after(&self, before: Vec<StoreChange>, then: Put) -> Result<SequenceOutcome> {
        put_in_sequence(self, before, then).await
    }

    async fn delete(&self, key: &Key, version: Option<&ETag>) -> Result<()> {
        let _lock = self.lock(key).await;
        if let Some(etag) = version {
            self.check_version(key, etag).await?;
        }
        self.inner.delete(key, None).await
    }
}
