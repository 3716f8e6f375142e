//! [`MeteredStore`]: reports to an observer how long each call took and how it ended.
//!
//! It belongs right around the store that does the work, below retries and caches, so that every
//! request to the store is counted once.

#![deny(clippy::missing_trait_methods)]

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use jreg_profile::{WorkName, work};

use crate::{ByteRange, ByteStream, ErrorKind, Hedge, Key, Result, Store, forward_store};

/// Receives the calls to a store.
pub trait StoreObserver: Debug + Send + Sync + 'static {
    /// A call ended. `operation` is the method's name; a stream that fails after it was opened
    /// is reported as `read_stream`, with the time since it was opened. A call whose future was
    /// dropped is not reported.
    fn observe(&self, operation: &'static str, duration: Duration, result: Result<(), ErrorKind>);

    /// A slow read was hedged, or would have been: see [`HedgedStore`](crate::HedgedStore).
    fn hedge(&self, hedge: Hedge);
}

/// A store that reports every call to a [`StoreObserver`].
#[derive(Debug)]
pub struct MeteredStore {
    inner: Arc<dyn Store>,
    observer: Arc<dyn StoreObserver>,
}

impl MeteredStore {
    /// Observes the calls to `inner`.
    pub fn new(inner: Arc<dyn Store>, observer: Arc<dyn StoreObserver>) -> Self {
        Self { inner, observer }
    }

    async fn timed<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let started = Instant::now();
        let outcome = work(WorkName("store", operation), call).await;
        let result = outcome.as_ref().map(|_| ()).map_err(|error| error.kind());
        self.observer.observe(operation, started.elapsed(), result);
        outcome
    }
}

#[async_trait]
impl Store for MeteredStore {
    forward_store! {
        inner:
        capabilities, health, clock,
    }

    forward_store! {
        inner through timed:
        purge, get, head, put, put_after, delete, delete_many, list, create_multipart,
        resume_multipart, put_part, put_last_part, sync_parts, complete_multipart, abort_multipart, copy_in, staged_uploads, staged_file, file,
        presign,
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
}
