//! [`PartPipeline`]: the parts of an upload from memory to the store, a few in flight while the
//! next one fills.

use std::collections::VecDeque;
use std::sync::Arc;

use jreg_profile::WorkName;
use jreg_storage::{Multipart, Part};
use tokio::task::JoinHandle;

use super::part_memory::{FilledPart, PartMemory};
use crate::core::Core;
use crate::record::Location;
use crate::{Error, FillProgress, PartTask, Result};

/// What profiles call the task of a part.
const PART: WorkName = WorkName("upload part", "");

/// The stored part of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoredBytes {
    /// No byte.
    Nothing,
    /// All bytes as one object: short of a part, or completed from parts.
    Object(Location),
    /// Parts.
    Parts(Multipart),
    /// Parts, and the bytes after them, short of a part, as an object.
    PartsAndTail(Multipart, Location),
}

impl StoredBytes {
    pub(super) fn new(parts: Option<Multipart>, tail: Option<Location>) -> Self {
        match (parts, tail) {
            (None, None) => Self::Nothing,
            (None, Some(object)) => Self::Object(object),
            (Some(parts), None) => Self::Parts(parts),
            (Some(parts), Some(tail)) => Self::PartsAndTail(parts, tail),
        }
    }

    pub(super) fn into_parts_and_tail(self) -> (Option<Multipart>, Option<Location>) {
        match self {
            Self::Nothing => (None, None),
            Self::Object(object) => (None, Some(object)),
            Self::Parts(parts) => (Some(parts), None),
            Self::PartsAndTail(parts, tail) => (Some(parts), Some(tail)),
        }
    }

    pub(super) fn parts(&self) -> Option<&Multipart> {
        match self {
            Self::Nothing | Self::Object(_) => None,
            Self::Parts(parts) | Self::PartsAndTail(parts, _) => Some(parts),
        }
    }

    fn parts_mut(&mut self) -> Option<&mut Multipart> {
        match self {
            Self::Nothing | Self::Object(_) => None,
            Self::Parts(parts) | Self::PartsAndTail(parts, _) => Some(parts),
        }
    }
}

/// The parts of an upload in flight to the store.
#[derive(Debug)]
pub(super) struct PartPipeline {
    core: Arc<Core>,
    pub(super) memory: PartMemory,
    stored: StoredBytes,
    /// How many bytes were handed to the store as parts: where the part in memory starts.
    sent: u64,
    in_flight: VecDeque<JoinHandle<jreg_storage::Result<Part>>>,
    /// Whether parts were sent that are not durable yet.
    is_unsynced: bool,
    /// Where to say how much is stored.
    pub(super) progress: Option<Arc<FillProgress>>,
}

impl Drop for PartPipeline {
    /// Parts of a request that failed need not arrive.
    fn drop(&mut self) {
        for part in &self.in_flight {
            part.abort();
        }
    }
}

impl PartPipeline {
    pub(super) fn new(core: &Arc<Core>, part_bytes: u64, stored: StoredBytes) -> Self {
        let buffer = core.mappings.buffer();
        Self {
            core: Arc::clone(core),
            memory: PartMemory::new(core.upload_bytes.clone(), buffer, part_bytes),
            sent: stored.parts().map_or(0, Multipart::size_bytes),
            stored,
            in_flight: VecDeque::new(),
            is_unsynced: false,
            progress: None,
        }
    }

    pub(super) fn stored(&self) -> &StoredBytes {
        &self.stored
    }

    pub(super) fn set_stored(&mut self, stored: StoredBytes) {
        self.stored = stored;
    }

    pub(super) fn take_stored(&mut self) -> StoredBytes {
        std::mem::replace(&mut self.stored, StoredBytes::Nothing)
    }

    pub(super) fn parts(&self) -> Option<&Multipart> {
        self.stored.parts()
    }

    /// Takes away the object behind the parts: its bytes continue in memory, or as the whole blob.
    pub(super) fn take_tail(&mut self) -> Option<Location> {
        let (parts, tail) = self.take_stored().into_parts_and_tail();
        self.stored = StoredBytes::new(parts, None);
        tail
    }

    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent
    }

    /// Sends a part once there are few enough in flight. The multipart upload must have begun.
    pub(super) async fn send(&mut self, part: FilledPart) -> Result<()> {
        let store = Arc::clone(&self.core.store);
        while self.in_flight.len() >= self.core.options.limits.parts_in_flight.max(1) {
            self.land_one().await?;
        }
        let Some(upload) = self.stored.parts() else { return Err(Error::Stopped) };
        let parts_max = store.capabilities().parts.parts_max;
        if (upload.parts.len() + self.in_flight.len()) as u64 >= parts_max {
            return Err(Error::BlobTooLarge { max_bytes: self.memory.parts_bytes(parts_max) });
        }
        let upload = Multipart { parts: Vec::new(), ..upload.clone() };
        let (offset, FilledPart { bytes, reservation }) = (self.sent, part);
        self.sent += bytes.len() as u64;
        self.is_unsynced = true;
        let work = async move {
            let part = store.put_part(&upload, offset, bytes).await;
            drop(reservation);
            part
        };
        let PartTask(wrap) = self.core.options.part_task;
        let work = jreg_profile::work(PART, wrap(Box::pin(work)));
        self.in_flight.push_back(tokio::spawn(work));
        Ok(())
    }

    /// Stores the last part of a request once no other is in flight, and makes all of them durable.
    pub(super) async fn put_last(&mut self, part: FilledPart) -> Result<()> {
        self.land_parts().await?;
        let parts_max = self.core.store.capabilities().parts.parts_max;
        let Some(upload) = self.stored.parts_mut() else { return Err(Error::Stopped) };
        if upload.parts.len() as u64 >= parts_max {
            return Err(Error::BlobTooLarge { max_bytes: self.memory.parts_bytes(parts_max) });
        }
        let (offset, FilledPart { bytes, reservation: _reservation }) = (self.sent, part);
        self.sent += bytes.len() as u64;
        self.is_unsynced = true;
        let stored = self.core.store.put_last_part(upload, offset, bytes).await?;
        upload.record(stored);
        self.is_unsynced = false;
        self.report();
        Ok(())
    }

    fn report(&self) {
        if let (Some(progress), Some(upload)) = (&self.progress, self.stored.parts()) {
            progress.set(upload);
        }
    }

    async fn land_one(&mut self) -> Result<()> {
        let Some(part) = self.in_flight.pop_front() else { return Ok(()) };
        let part = part.await.map_err(|_| Error::Stopped)??;
        if let Some(upload) = self.stored.parts_mut() {
            upload.record(part);
        }
        self.report();
        Ok(())
    }

    /// Waits until every part that was sent is stored.
    pub(super) async fn land_parts(&mut self) -> Result<()> {
        while !self.in_flight.is_empty() {
            self.land_one().await?;
        }
        Ok(())
    }

    /// Makes the parts that were sent durable. Those of earlier requests are: a record names them.
    pub(super) async fn sync_parts(&mut self) -> Result<()> {
        if let (Some(upload), true) = (self.stored.parts(), self.is_unsynced) {
            self.core.store.sync_parts(upload).await?;
        }
        self.is_unsynced = false;
        Ok(())
    }

    /// Waits until no part is in flight, whatever became of it: one that lands after an abort
    /// would be left behind.
    pub(super) async fn drain(&mut self) -> Result<()> {
        for part in std::mem::take(&mut self.in_flight) {
            part.await.map_err(|_| Error::Stopped)?.ok();
        }
        Ok(())
    }

    /// Makes the store drop the parts beyond the first `kept_bytes`.
    pub(super) async fn truncate(&mut self, kept_bytes: u64, claim: u64) -> Result<()> {
        self.drain().await?;
        let Some(upload) = self.stored.parts_mut() else { return Ok(()) };
        *upload = self.core.store.resume_multipart(&upload.cut_to(kept_bytes), claim).await?;
        Ok(())
    }
}
