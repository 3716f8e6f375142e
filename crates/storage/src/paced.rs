//! [`PacedStore`]: a store with a limited request rate.
//!
//! For work beside the requests of clients, which must not crowd them out. It belongs outermost,
//! around the handle that such work uses: what clients use stays as fast as it is.

#![deny(clippy::missing_trait_methods)]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep_until};

use crate::{
    ListPage, ListRequest, Put, Result, SequenceOutcome, Store, StoreChange, forward_store,
};

/// What may be made up for at once after a pause: a timer is only so fine.
const BURST: Duration = Duration::from_millis(20);

/// So many entries of a listing cost the store as much as one more request.
const LISTED_PER_TURN: usize = 100;

/// A store whose requests are spread in time.
#[derive(Debug)]
pub struct PacedStore {
    inner: Arc<dyn Store>,
    /// The time that one request takes up.
    interval: Duration,
    /// When the next one may be sent.
    next: Mutex<Option<Instant>>,
}

impl PacedStore {
    /// Sends at most `per_second` requests a second to `inner`, at least one. A page of a listing counts
    /// once more for each hundred entries.
    pub fn new(inner: Arc<dyn Store>, per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { inner, interval, next: Mutex::default() }
    }

    async fn paced<T>(
        &self,
        _operation: &'static str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.turn().await;
        call.await
    }

    async fn turn(&self) {
        let now = Instant::now();
        let at = {
            // A poisoned lock is fine: every change leaves it consistent.
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
impl Store for PacedStore {
    forward_store! {
        inner:
        capabilities, health, clock, presign,
    }

    forward_store! {
        inner through paced:
        purge, get, head, read, put, delete, delete_many, create_multipart, resume_multipart,
        put_part, put_last_part, sync_parts, complete_multipart, abort_multipart, copy_in, staged_uploads, staged_file, file,
    }

    async fn put_after(&self, before: Vec<StoreChange>, then: Put) -> Result<SequenceOutcome> {
        self.turn().await;
        self.count(1);
        self.inner.put_after(before, then).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.turn().await;
        let page = self.inner.list(request).await?;
        // What comes next waits for it; this page is here.
        self.count(page.entries.len() / LISTED_PER_TURN);
        Ok(page)
    }
}
