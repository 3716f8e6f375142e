//! [`TombstoneStore`]: a store in which a deleted record cannot come back by accident.
//!
//! A Create whose response was lost may land minutes later, on a key that was deleted meanwhile,
//! and bring back a deleted record. So the delete of a version writes a *tombstone* instead: a
//! mark and a nonce, of one fixed size that no record has, so that a listing shows it by its
//! size. Every reader sees it as absent, and only a compare-and-swap replaces it.
//!
//! It belongs right around a store that others share, below whatever observes it.

#![deny(clippy::missing_trait_methods)]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use crate::{
    ByteRange, ByteStream, Clock, ETag, Error, ErrorKind, Key, ListPage, ListRequest, Listed,
    Purged, Put, PutMode, Record, Result, SequenceOutcome, Stat, Store, StoreCapabilities,
    StoreChange, SystemClock, Written, forward_store, put_in_sequence,
};

/// The size of a tombstone. No record may have it.
pub const TOMBSTONE_BYTES: u64 = 24;

const MARK: &[u8; 8] = b"\0deleted";

/// How often a Create that meets a tombstone tries to replace it.
const ATTEMPTS_MAX: u32 = 16;

/// For how long it tries, by a clock that continues while the machine sleeps: GC reckons with a
/// minute from a Create to the last request that it makes.
const REVIVE_MAX: Duration = Duration::from_secs(60);

/// A store whose deletes of a version leave a tombstone.
#[derive(Debug)]
pub struct TombstoneStore<S> {
    inner: S,
    is_record: fn(&Key) -> bool,
    removes: bool,
    clock: Arc<dyn Clock>,
}

impl<S: Store> TombstoneStore<S> {
    /// Keeps tombstones at the keys that `is_record` names. All other keys hold bytes of any
    /// size, are written once, and are deleted plainly.
    pub fn new(inner: S, is_record: fn(&Key) -> bool) -> Self {
        Self { inner, is_record, removes: true, clock: Arc::new(SystemClock::new()) }
    }

    /// The same, by another clock than the system's.
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// The store below cannot remove a version: tombstones stay, and the delete of a version of
    /// any other key is refused.
    pub fn that_stay(self) -> Self {
        Self { removes: false, ..self }
    }

    /// The store below.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// As [`Store::list`], but the tombstones are what is listed. With `delimiter` only those
    /// right below the prefix are.
    ///
    /// # Errors
    ///
    /// As [`Store::list`].
    pub async fn list_tombstones(&self, request: &ListRequest) -> Result<ListPage> {
        let mut page = self.inner.list(request).await?;
        page.entries.retain(|entry| self.is_tombstone(entry));
        page.prefixes.clear();
        Ok(page)
    }

    /// Removes a tombstone for good, unless the key has been written since. No write that was sent
    /// before the tombstone may still be in flight, so it must be old.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Precondition`] if it is there no more; otherwise as [`Store::delete`].
    pub async fn remove_tombstone(&self, tombstone: &Listed) -> Result<()> {
        let record = self.inner.get(&tombstone.key).await;
        let record = record.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::new(ErrorKind::Precondition, &tombstone.key),
            _ => error,
        })?;
        if !is_mark(&record.bytes) || record.last_modified != tombstone.last_modified {
            return Err(Error::new(ErrorKind::Precondition, &tombstone.key));
        }
        self.inner.delete(&tombstone.key, Some(&record.etag)).await
    }

    fn is_tombstone(&self, entry: &Listed) -> bool {
        entry.size_bytes == TOMBSTONE_BYTES && (self.is_record)(&entry.key)
    }

    fn check(&self, key: &Key, bytes: &Bytes) -> Result<()> {
        if bytes.len() as u64 != TOMBSTONE_BYTES || !(self.is_record)(key) {
            return Ok(());
        }
        let why = "a record of the size of a tombstone would not be listed";
        Err(Error::with_source(ErrorKind::Refused, key, why))
    }

    /// After a Create found the key taken: by a tombstone, it takes the tombstone's place.
    async fn revive(&self, key: &Key, bytes: Bytes, began: SystemTime) -> Result<Written> {
        let late = || Error::with_source(ErrorKind::Throttled, key, "it took too long");
        let taken = || Error::new(ErrorKind::AlreadyExists, key);
        for _ in 0..ATTEMPTS_MAX {
            let mode = match self.inner.get(key).await {
                Ok(record) if is_mark(&record.bytes) => PutMode::Match(record.etag),
                Ok(_) => return Err(taken()),
                Err(error) if error.kind() == ErrorKind::TooLarge => return Err(taken()),
                Err(error) if error.is_not_found() => PutMode::Create,
                Err(error) => return Err(error),
            };
            if self.clock.now().duration_since(began).unwrap_or_default() > REVIVE_MAX {
                return Err(late());
            }
            match self.inner.put(key, bytes.clone(), mode).await {
                Err(error) if error.is_conflict() => {}
                outcome => return outcome,
            }
        }
        Err(Error::with_source(ErrorKind::Throttled, key, "too many others write this key"))
    }
}

fn is_mark(bytes: &[u8]) -> bool {
    bytes.len() as u64 == TOMBSTONE_BYTES && bytes.starts_with(MARK)
}

fn tombstone() -> Bytes {
    [MARK.as_slice(), Uuid::new_v4().as_bytes()].concat().into()
}

#[async_trait]
impl<S: Store> Store for TombstoneStore<S> {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities { deletes_versions: self.removes, ..self.inner.capabilities() }
    }

    forward_store! {
        inner:
        health, clock, delete_many, create_multipart, resume_multipart, put_part, put_last_part, sync_parts,
        complete_multipart, abort_multipart, copy_in, staged_uploads, staged_file, file, presign,
    }

    /// Removes old tombstones, where the store below can remove a version.
    async fn purge(&self, request: &ListRequest, age_min: Duration) -> Result<Purged> {
        if !self.removes {
            return Ok(Purged::default());
        }
        let page = self.list_tombstones(request).await?;
        let is_old = |entry: &&Listed| {
            page.date.duration_since(entry.last_modified).is_ok_and(|age| age > age_min)
        };
        let mut purged = Purged { removed: 0, next: page.next };
        for tombstone in page.entries.iter().filter(is_old) {
            match self.remove_tombstone(tombstone).await {
                Ok(()) => purged.removed += 1,
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(purged)
    }

    async fn get(&self, key: &Key) -> Result<Record> {
        match self.inner.get(key).await {
            Ok(record) if (self.is_record)(key) && is_mark(&record.bytes) => {
                Err(Error::new(ErrorKind::NotFound, key))
            }
            outcome => outcome,
        }
    }

    async fn head(&self, key: &Key) -> Result<Stat> {
        match self.inner.head(key).await {
            Ok(stat) if (self.is_record)(key) && stat.size_bytes == TOMBSTONE_BYTES => {
                Err(Error::new(ErrorKind::NotFound, key))
            }
            outcome => outcome,
        }
    }

    async fn read(&self, key: &Key, range: ByteRange) -> Result<ByteStream> {
        if (self.is_record)(key) {
            self.head(key).await?;
        }
        self.inner.read(key, range).await
    }

    async fn put(&self, key: &Key, bytes: Bytes, mode: PutMode) -> Result<Written> {
        self.check(key, &bytes)?;
        if mode != PutMode::Create || !(self.is_record)(key) {
            return self.inner.put(key, bytes, mode).await;
        }
        let began = self.clock.now();
        match self.inner.put(key, bytes.clone(), mode).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.revive(key, bytes, began).await
            }
            outcome => outcome,
        }
    }

    async fn put_after(&self, before: Vec<StoreChange>, then: Put) -> Result<SequenceOutcome> {
        put_in_sequence(self, before, then).await
    }

    async fn delete(&self, key: &Key, version: Option<&ETag>) -> Result<()> {
        match version {
            Some(etag) if (self.is_record)(key) => {
                let mode = PutMode::Match(etag.clone());
                self.inner.put(key, tombstone(), mode).await.map(|_| ())
            }
            Some(_) if !self.removes => Err(Error::new(ErrorKind::Refused, key)),
            version => self.inner.delete(key, version).await,
        }
    }

    /// A common prefix may stand for tombstones alone.
    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let mut page = self.inner.list(request).await?;
        page.entries.retain(|entry| !self.is_tombstone(entry));
        Ok(page)
    }
}
