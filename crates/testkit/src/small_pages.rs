//! A store that gives little at a time: every page of a listing is cut after a few entries, as
//! S3 cuts it after a thousand.

#![deny(clippy::missing_trait_methods)]

use std::sync::Arc;

use jreg_storage::{
    ListPage, ListRequest, Put, Result, SequenceOutcome, Store, StoreChange, forward_store,
    put_in_sequence,
};

/// A store whose pages of listings have few entries, whatever is asked for.
#[derive(Debug)]
pub struct SmallPagesStore {
    inner: Arc<dyn Store>,
    entries_max: usize,
}

impl SmallPagesStore {
    /// Cuts the pages of `inner` after `entries_max` entries.
    pub fn new(inner: Arc<dyn Store>, entries_max: usize) -> Self {
        Self { inner, entries_max }
    }
}

#[async_trait::async_trait]
impl Store for SmallPagesStore {
    forward_store! {
        inner:
        capabilities, health, clock, purge, get, head, read, put, delete, delete_many, create_multipart,
        resume_multipart, put_part, put_last_part, sync_parts, complete_multipart, abort_multipart, copy_in, staged_uploads, staged_file, file,
        presign,
    }

    async fn put_after(&self, before: Vec<StoreChange>, then: Put) -> Result<SequenceOutcome> {
        put_in_sequence(self, before, then).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let limit = request.limit.min(self.entries_max);
        self.inner.list(&ListRequest { limit, ..request.clone() }).await
    }
}
