//! [`SessionRecord`]: the session as this request last wrote or read it, and the writes that
//! replace that version.

use std::sync::Arc;

use jreg_oci::{HashState, RepositoryName};
use jreg_storage::{ETag, ErrorKind, Multipart, Put, Written};

use super::closing::is_definite;
use crate::core::{Core, swap_mode};
use crate::keys;
use crate::record::{Location, StoredRecord};
use crate::session::{OpenUpload, SessionState, UploadSession};
use crate::window::WriteWindow;
use crate::{Error, Result, UploadId};

/// How far the upload is by its record.
#[derive(Clone, Debug)]
pub(super) struct SavedProgress {
    pub(super) offset: u64,
    pub(super) hash: HashState,
    /// The bytes after the parts.
    pub(super) tail: Option<Location>,
}

/// The record of an upload's session.
#[derive(Debug)]
pub(super) struct SessionRecord {
    core: Arc<Core>,
    name: RepositoryName,
    id: UploadId,
    pub(super) claim: u64,
    pub(super) part_bytes: u64,
    /// The version in the store; `None` until there is one.
    version: Option<ETag>,
    saved: SavedProgress,
    /// Whether a write of the record failed that may have arrived.
    may_have_arrived: bool,
    /// Opened before an object was stored that no record references yet.
    unreferenced_since: Option<WriteWindow>,
    /// Whether the upload is one of [`UnrecordedUploads`](crate::unrecorded): its bytes are acknowledged.
    is_acknowledged: bool,
}

impl SessionRecord {
    /// The record of an upload that has none yet.
    pub(super) fn unrecorded(
        core: &Arc<Core>,
        name: &RepositoryName,
        id: &UploadId,
        part_bytes: u64,
        hash: HashState,
    ) -> Self {
        Self {
            core: Arc::clone(core),
            name: name.clone(),
            id: id.clone(),
            claim: 1,
            part_bytes,
            version: None,
            saved: SavedProgress { offset: 0, hash, tail: None },
            may_have_arrived: false,
            unreferenced_since: None,
            is_acknowledged: false,
        }
    }

    /// The record that says `open`, in this version.
    pub(super) fn recorded(
        core: &Arc<Core>,
        name: &RepositoryName,
        id: &UploadId,
        open: &OpenUpload,
        version: ETag,
    ) -> Self {
        let (hash, tail) = (open.hash.clone(), open.tail.clone());
        Self {
            claim: open.claim,
            version: Some(version),
            saved: SavedProgress { offset: open.offset, hash: hash.clone(), tail },
            ..Self::unrecorded(core, name, id, open.part_bytes, hash)
        }
    }

    pub(super) fn id(&self) -> &UploadId {
        &self.id
    }

    pub(super) fn repository(&self) -> &RepositoryName {
        &self.name
    }

    /// Whether others can know of the upload.
    pub(super) fn is_recorded(&self) -> bool {
        self.version.is_some()
    }

    /// Notes whether the bytes are acknowledged before they are recorded.
    pub(super) fn set_acknowledged(&mut self, is_acknowledged: bool) {
        self.is_acknowledged = is_acknowledged;
    }

    /// Before the first record: another stream of the same upload, whose bytes are acknowledged, has
    /// precedence. If it cannot be recorded, it is lost.
    async fn yield_to_acknowledged(&self) {
        if !self.is_recorded() && !self.is_acknowledged {
            self.core.unrecorded.record(&self.id).await.ok();
        }
    }

    /// Whether a record may be in the store.
    pub(super) fn may_be_recorded(&self) -> bool {
        self.may_have_arrived || self.is_recorded()
    }

    pub(super) fn saved(&self) -> &SavedProgress {
        &self.saved
    }

    pub(super) fn take_tail(&mut self) -> Option<Location> {
        self.saved.tail.take()
    }

    /// To be called before an object is stored that the next record is to name.
    pub(super) fn expect_reference(&mut self) {
        self.unreferenced_since = Some(self.core.open_window());
    }

    /// The object is deleted: no record has to reference it.
    pub(super) fn forget_reference(&mut self) {
        self.unreferenced_since = None;
    }

    pub(super) fn unreferenced_since(&self) -> Option<WriteWindow> {
        self.unreferenced_since
    }

    /// Fails if a stored object may be deleted before the record references it.
    pub(super) fn check_window(&self) -> Result<()> {
        let check = |window| self.core.check_window(self.core.window_since(window));
        self.unreferenced_since.map_or(Ok(()), check)
    }

    /// Writes how far the upload is.
    pub(super) async fn save(
        &mut self,
        progress: SavedProgress,
        parts: Option<Multipart>,
    ) -> Result<()> {
        Box::pin(self.yield_to_acknowledged()).await;
        let state = self.open(&progress, parts);
        self.check_window()?;
        let window = self.unreferenced_since.map(|window| self.core.window_since(window));
        let core = Arc::clone(&self.core);
        core.send_within(window, self.swap(state)).await?;
        self.note_saved(progress).await;
        Ok(())
    }

    /// Stores an object, and writes how far the upload is with it. `false`: another request has
    /// changed the session, and the object is only stored.
    pub(super) async fn put_and_save(
        &mut self,
        object: Put,
        progress: SavedProgress,
        parts: Option<Multipart>,
    ) -> Result<bool> {
        Box::pin(self.yield_to_acknowledged()).await;
        let window = parts.is_none().then(|| self.core.open_window());
        let record = self.put(self.open(&progress, parts));
        let written = self.core.put_then(window, object, record).await;
        self.note_sent(&written);
        let Some(written) = written? else { return Ok(false) };
        self.version = Some(written.etag);
        self.note_saved(progress).await;
        Ok(true)
    }

    /// Writes a state over the version that is known.
    pub(super) async fn swap(&mut self, state: SessionState) -> Result<()> {
        let Put { key, bytes, .. } = self.put(state);
        let core = Arc::clone(&self.core);
        let swapped = core.swap(&key, self.version.as_ref(), bytes).await;
        self.note_sent(&swapped);
        self.version = Some(swapped?.ok_or_else(|| self.superseded())?.etag);
        Ok(())
    }

    /// Only a write whose outcome is unknown may have arrived, if it is not the version.
    fn note_sent(&mut self, written: &Result<Option<Written>>) {
        self.may_have_arrived |= matches!(written, Err(error) if !is_definite(error));
    }

    /// The write of a state over the version that is known.
    pub(super) fn put(&self, state: SessionState) -> Put {
        let session = UploadSession { repository: self.name.clone(), state };
        let mode = swap_mode(self.version.as_ref());
        Put::new(keys::upload(&self.id), session.encode(), mode)
    }

    /// A tail that the record no longer references is deleted at once where that costs little, and
    /// otherwise by a sweep.
    async fn note_saved(&mut self, progress: SavedProgress) {
        let before = std::mem::replace(&mut self.saved, progress).tail;
        self.unreferenced_since = None;
        let orphan = before.filter(|before| self.saved.tail.as_ref() != Some(before));
        if !self.core.store.capabilities().is_remote {
            self.core.discard_orphan(orphan).await;
        }
    }

    fn open(&self, progress: &SavedProgress, parts: Option<Multipart>) -> SessionState {
        SessionState::Open(OpenUpload {
            claim: self.claim,
            part_bytes: self.part_bytes,
            offset: progress.offset,
            hash: progress.hash.clone(),
            multipart: parts,
            tail: progress.tail.clone(),
        })
    }

    /// Saves a closing request that follows the read of the session, if a read is a round trip.
    pub(super) fn remember(&self) {
        let Some(version) = &self.version else { return };
        if self.core.store.capabilities().is_remote {
            let state = self.open(&self.saved, None);
            let session = UploadSession { repository: self.name.clone(), state };
            self.core.sessions.keep(&self.id, session, version.clone());
        }
    }

    /// What a failed write of a part means: a newer claim superseded this request, or the upload
    /// was cancelled.
    pub(super) fn part_error(&self, error: Error) -> Error {
        match error {
            Error::Store(error) if error.kind() == ErrorKind::Precondition => self.superseded(),
            Error::Store(error) if error.kind() == ErrorKind::NotFound => self.unknown(),
            error => error,
        }
    }

    pub(super) fn superseded(&self) -> Error {
        Error::UploadSuperseded { offset: self.saved.offset }
    }

    pub(super) fn unknown(&self) -> Error {
        Error::UploadUnknown { id: self.id.clone() }
    }
}
