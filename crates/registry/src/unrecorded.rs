//! [`UnrecordedUploads`]: uploads in memory between the stream of their bytes and the request that closes
//! them.
//!
//! Most clients stream a blob in one PATCH and close the upload with the next request, milliseconds later.
//! A session record between the two is a file that is created to be replaced at once: a third of the
//! processor time of a push of 4 KiB to a folder (issue 16). So in a folder with relaxed durability
//! (`StoreCapabilities::defers_upload_records`) the writer of such a stream waits here. It is recorded after
//! [`RECORDED_AFTER`], when the process stops, and before any other request of the upload is served.
//!
//! A crash before that loses the upload: its client begins anew. A client that sends chunks
//! (`Content-Range`) may mean to resume: its chunks are recorded before they are acknowledged. With strict
//! durability everything is.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use jreg_oci::Digest;
use quick_cache::unsync::Cache as Lru;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::task::AbortHandle;

use crate::{Result, UploadId};

/// After this time an upload that waits is recorded.
const RECORDED_AFTER: Duration = Duration::from_secs(1);

/// How many uploads wait at most: each has up to a part in memory. Others are recorded at once.
const WAITING_MAX: usize = 64;

/// How many closed uploads are remembered for retries of their last request: some 150 bytes each.
const CLOSED_MAX: usize = 4096;

/// The writer of an upload, as far as it is known here: [`UploadWriter`](crate::writer::UploadWriter).
pub(crate) trait WaitingWriter: Any + Send {
    /// Writes the session record, or frees the bytes if that fails.
    fn record(&mut self) -> BoxFuture<'_, Result<()>>;
}

/// The writer of an upload, until a request has taken or recorded it.
type WriterSlot = AsyncMutex<Option<Box<dyn WaitingWriter>>>;

/// The writer of an upload, for the request that closes it.
pub(crate) type WriterGuard = OwnedMutexGuard<Option<Box<dyn WaitingWriter>>>;

/// Uploads of this process that have no session record yet.
pub(crate) struct UnrecordedUploads(Mutex<UploadTable>);

struct UploadTable {
    waiting: HashMap<UploadId, WaitingUpload>,
    closed: Lru<UploadId, Digest>,
    /// No upload waits any more.
    is_stopping: bool,
}

struct WaitingUpload {
    /// The task owns the writer: with the runtime both end.
    slot: Weak<WriterSlot>,
    /// What will record it.
    task: AbortHandle,
}

impl UnrecordedUploads {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(UploadTable {
            waiting: HashMap::new(),
            closed: Lru::new(CLOSED_MAX),
            is_stopping: false,
        }))
    }

    /// Keeps a writer for the request that closes its upload. It is returned if too many wait, or the
    /// process stops.
    pub(crate) fn keep<W: WaitingWriter>(
        self: &Arc<Self>,
        id: &UploadId,
        writer: Box<W>,
    ) -> Option<Box<W>> {
        let mut table = self.table();
        let is_full = table.is_stopping || table.waiting.len() >= WAITING_MAX;
        if is_full || table.waiting.contains_key(id) {
            return Some(writer);
        }
        let writer: Box<dyn WaitingWriter> = writer;
        let slot = Arc::new(AsyncMutex::new(Some(writer)));
        let (uploads, own, waiting) = (Arc::clone(self), id.clone(), Arc::downgrade(&slot));
        let task = tokio::spawn(async move {
            tokio::time::sleep(RECORDED_AFTER).await;
            // Few uploads come so far: the others do not have room for it.
            Box::pin(uploads.record_late(&own, slot)).await;
        });
        let task = task.abort_handle();
        table.waiting.insert(id.clone(), WaitingUpload { slot: waiting, task });
        None
    }

    /// Records an upload if it waits. Once this returns, its session is in the store.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error::Store); the upload is lost then.
    pub(crate) async fn record(&self, id: &UploadId) -> Result<()> {
        let Some(slot) = self.slot(id) else { return Ok(()) };
        let mut held = slot.lock().await;
        let Some(mut writer) = held.take() else { return Ok(()) };
        let recorded = writer.record().await;
        self.table().waiting.remove(id);
        recorded
    }

    async fn record_late(&self, id: &UploadId, slot: Arc<WriterSlot>) {
        if let Err(error) = self.record(id).await {
            tracing::warn!(upload = %id, error = %error, "upload session not recorded");
        }
        drop(slot);
    }

    /// Records all uploads that wait. From now on none does.
    pub(crate) async fn stop(&self) {
        let waiting: Vec<_> = {
            let mut table = self.table();
            table.is_stopping = true;
            table
                .waiting
                .iter()
                .filter_map(|(id, waiting)| Some((id.clone(), waiting.slot.upgrade()?)))
                .collect()
        };
        for (id, slot) in waiting {
            self.record_late(&id, slot).await;
        }
    }

    /// The writer of an upload that waits, for the request that closes it. Others wait while this is held.
    pub(crate) async fn lock(&self, id: &UploadId) -> Option<WriterGuard> {
        Some(self.slot(id)?.lock_owned().await)
    }

    /// Notes that an upload was closed with this digest, or failed, and has no record.
    pub(crate) fn end(&self, id: &UploadId, closed: Option<&Digest>) {
        let mut table = self.table();
        if let Some(waiting) = table.waiting.remove(id) {
            waiting.task.abort();
        }
        if let Some(digest) = closed {
            table.closed.insert(id.clone(), digest.clone());
        }
    }

    /// The digest with which an upload was closed here, if that was lately.
    pub(crate) fn closed_with(&self, id: &UploadId) -> Option<Digest> {
        self.table().closed.get(id).cloned()
    }

    fn slot(&self, id: &UploadId) -> Option<Arc<WriterSlot>> {
        self.table().waiting.get(id)?.slot.upgrade()
    }

    fn table(&self) -> MutexGuard<'_, UploadTable> {
        // A poisoned lock is fine: every change leaves it consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for UnrecordedUploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnrecordedUploads").finish_non_exhaustive()
    }
}
