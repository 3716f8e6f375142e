//! [`Paced`]: a store that is asked no faster than so often a second.
//!
//! For work beside the requests of clients, which must not crowd them out. Its place is outermost,
//! around the handle that such work uses: what clients use stays as fast as it is.

#![deny(clippy::missing_trait_methods)]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use crate::{
    ByteRange, ByteStream, ETag, Key, ListPage, ListRequest, Locality, Multipart, OpenFile, Part,
    PartRules, Presign, Purged, Put, PutMode, Record, Result, Stat, Store, Written,
};

/// What may be made up for at once after a pause: a timer is only so fine.
const BURST: Duration = Duration::from_millis(20);

/// So many entries of a listing cost the store as much as one more request.
const LISTED_PER_TURN: usize = 100;

/// A store whose requests are spread in time.
#[derive(Debug)]
pub struct Paced {
    inner: Arc<dyn Store>,
    /// The time that one request takes up.
    interval: Duration,
    /// When the next one may be sent.
    next: Mutex<Option<Instant>>,
}

impl Paced {
    /// Asks `inner` at most `per_second` times a second, at least once. A page of a listing counts
    /// once more for each hundred entries.
    pub fn new(inner: Arc<dyn Store>, per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { inner, interval, next: Mutex::default() }
    }

    async fn turn(&self) {
        let now = Instant::now();
        let at = {
            // It is whole between any two of its own changes, so a panic elsewhere spoils nothing.
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = now.checked_sub(BURST).unwrap_or(now);
            let at = next.map_or(now, |next| next.max(earliest));
            *next = Some(at + self.interval);
            at
        };
        if at > now {
            sleep_until(at).await;
        }
    }

    /// What a request turned out to have cost besides.
    fn count(&self, turns: usize) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let more = self.interval * u32::try_from(turns).unwrap_or(u32::MAX);
        *next = next.map(|next| next + more);
    }
}

#[async_trait]
impl Store for Paced {
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
        self.turn().await;
        self.inner.purge(request, age_min).await
    }

    async fn get(&self, key: &Key) -> Result<Record> {
        self.turn().await;
        self.inner.get(key).await
    }

    async fn head(&self, key: &Key) -> Result<Stat> {
        self.turn().await;
        self.inner.head(key).await
    }

    async fn read(&self, key: &Key, range: ByteRange) -> Result<ByteStream> {
        self.turn().await;
        self.inner.read(key, range).await
    }

    async fn put(&self, key: &Key, bytes: Bytes, mode: PutMode) -> Result<Written> {
        self.turn().await;
        self.inner.put(key, bytes, mode).await
    }

    async fn put_both(&self, first: Put, then: Put) -> Result<Result<Written>> {
        self.turn().await;
        self.count(1);
        self.inner.put_both(first, then).await
    }

    async fn delete(&self, key: &Key, version: Option<&ETag>) -> Result<()> {
        self.turn().await;
        self.inner.delete(key, version).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        self.turn().await;
        self.inner.delete_many(keys).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.turn().await;
        let page = self.inner.list(request).await?;
        // What comes next waits for it; this page is here.
        self.count(page.entries.len() / LISTED_PER_TURN);
        Ok(page)
    }

    async fn create_multipart(&self, key: &Key, writer: u64, part_bytes: u64) -> Result<Multipart> {
        self.turn().await;
        self.inner.create_multipart(key, writer, part_bytes).await
    }

    async fn resume_multipart(&self, upload: &Multipart, writer: u64) -> Result<Multipart> {
        self.turn().await;
        self.inner.resume_multipart(upload, writer).await
    }

    async fn put_part(&self, upload: &Multipart, offset: u64, bytes: Bytes) -> Result<Part> {
        self.turn().await;
        self.inner.put_part(upload, offset, bytes).await
    }

    async fn sync_parts(&self, upload: &Multipart) -> Result<()> {
        self.turn().await;
        self.inner.sync_parts(upload).await
    }

    async fn complete_multipart(&self, upload: &Multipart) -> Result<()> {
        self.turn().await;
        self.inner.complete_multipart(upload).await
    }

    async fn abort_multipart(&self, upload: &Multipart) -> Result<()> {
        self.turn().await;
        self.inner.abort_multipart(upload).await
    }

    async fn file(&self, key: &Key) -> Result<Option<Arc<OpenFile>>> {
        self.turn().await;
        self.inner.file(key).await
    }

    async fn presign(&self, key: &Key, presign: &Presign) -> Result<Option<String>> {
        self.inner.presign(key, presign).await
    }
}
