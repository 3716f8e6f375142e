//! Uploads: how the bytes of a blob come in over several requests. `commit.rs` makes the blob of
//! them, `session.rs` has the states, `writer.rs` moves the bytes.

use std::sync::Arc;

use jreg_oci::{Algorithm, ContentRange};
use jreg_storage::Multipart;
use tokio::sync::OwnedSemaphorePermit;

use crate::attempts::SwapAttempts;
use crate::keys;
use crate::record::{StoredRecord, VersionedRecord};
use crate::rules::Rule;
use crate::session::{AbandonedBytes, SessionState, UploadSession};
use crate::upload_body::{EarlyBody, UploadBody};
use crate::writer::{UploadWriter, WritePurpose};
use crate::{Error, Repository, Result, UploadChunk, UploadId};

const UPLOAD_CONTENDED: &str = "the upload is being changed by too many others";

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadProgress {
    /// How many bytes are stored: where the next chunk starts.
    pub offset: u64,
}

impl Repository {
    /// Begins an upload (end-4a, end-4c); makes no store request.
    pub fn upload_start(&self, algorithm: Option<Algorithm>) -> UploadId {
        UploadId::new(self.core.clock.now(), algorithm)
    }

    /// How far an upload is (end-13). A finished one is known for 80 minutes; after that, its id
    /// counts as a new, empty upload.
    ///
    /// # Errors
    ///
    /// [`Error::UploadUnknown`] for one that is finished, cancelled, too old or another
    /// repository's; [`Error::Store`].
    pub async fn upload_status(&self, id: &UploadId) -> Result<UploadProgress> {
        match self.read_session(id).await?.map(|session| session.value.state) {
            None => Ok(UploadProgress { offset: 0 }),
            Some(SessionState::Open(open)) => {
                self.check_staged(id, open.multipart.as_ref()).await?;
                Ok(UploadProgress { offset: open.offset })
            }
            Some(SessionState::Closed(_) | SessionState::Cancelled(_)) => Err(unknown(id)),
        }
    }

    /// Fails if a store that keeps parts in a file does not have that of an upload any more. A bucket is not asked.
    async fn check_staged(&self, id: &UploadId, multipart: Option<&Multipart>) -> Result<()> {
        let Some(multipart) = multipart else { return Ok(()) };
        match self.core.store.staged_file(multipart).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Err(unknown(id)),
            Err(error) => Err(error.into()),
        }
    }

    /// Appends to an upload (end-5). Without a range the bytes go where the upload stands.
    ///
    /// # Errors
    ///
    /// [`Error::ChunkOutOfOrder`], [`Error::UploadSuperseded`] (the upload lives on),
    /// [`Error::UploadUnknown`], [`Error::SizeMismatch`], [`Error::Body`] (what came is kept),
    /// [`Error::BlobTooLarge`], [`Error::Busy`], [`Error::Store`].
    pub async fn upload_append(&self, id: &UploadId, chunk: UploadChunk) -> Result<UploadProgress> {
        let (chunk, quota) = Box::pin(self.check_upload_quota(None, chunk)).await?;
        let (appended, is_refused) = quota.judge(Box::pin(self.append_chunk(id, chunk)).await);
        if is_refused {
            // If this fails, the reaper has it.
            Box::pin(self.upload_cancel(id)).await.ok();
        }
        appended
    }

    async fn append_chunk(&self, id: &UploadId, chunk: UploadChunk) -> Result<UploadProgress> {
        let _slot = self.upload_slot()?;
        let (range, body) = (chunk.range, UploadBody::new(chunk)?);
        if self.can_take_early(range) {
            return self.append_first(id, range, body).await;
        }
        match self.read_session(id).await? {
            None => {
                check_offset(range, 0)?;
                let writer = self.new_appender(id, body.left());
                match range {
                    None => self.append_stream(id, writer, body).await,
                    Some(_) => append(writer, body).await,
                }
            }
            Some(session) => self.append_to_session(id, session, range, body).await,
        }
    }

    /// Takes in a stream that is mostly the whole blob. Where the store says so, the upload may stay without
    /// a record until the next request ([`UnrecordedUploads`](crate::unrecorded)).
    async fn append_stream(
        &self,
        id: &UploadId,
        mut writer: UploadWriter,
        mut body: UploadBody,
    ) -> Result<UploadProgress> {
        if !self.core.store.capabilities().defers_upload_records {
            return append(writer, body).await;
        }
        let appended = body.append_to(&mut writer).await;
        let offset = writer.offset();
        // Another request may have begun the upload meanwhile.
        let is_first = appended.is_ok()
            && offset > 0
            && !writer.is_recorded()
            && matches!(self.read_session(id).await, Ok(None));
        if is_first {
            writer.set_acknowledged(true);
            match self.core.unrecorded.keep(id, Box::new(writer)) {
                None => return Ok(UploadProgress { offset }),
                Some(returned) => writer = *returned,
            }
            writer.set_acknowledged(false);
        }
        keep(&mut writer, appended).await
    }

    /// Appends a chunk that may be the first.
    async fn append_first(
        &self,
        id: &UploadId,
        range: Option<ContentRange>,
        mut body: UploadBody,
    ) -> Result<UploadProgress> {
        self.check_age(id)?;
        let mut writer = self.new_appender(id, body.left());
        if body.fill(&mut writer).await && writer.offset() > 0 {
            let Some(orphan) = writer.begin().await? else {
                writer.remember();
                return body.check_end().map(|()| UploadProgress { offset: writer.offset() });
            };
            body.set_orphan(orphan);
        }
        let session = self.read_session(id).await;
        match body.meet_session(&self.core, session, writer).await? {
            EarlyBody::Stored(orphan) => {
                self.core.discard_orphan(Some(orphan)).await;
                // It was begun so long ago that the session was deleted.
                Err(unknown(id))
            }
            EarlyBody::Begins(writer, body) => append(*writer, *body).await,
            EarlyBody::Continues(session, body) => {
                self.append_to_session(id, *session, range, *body).await
            }
        }
    }

    /// Appends to an upload that has begun.
    async fn append_to_session(
        &self,
        id: &UploadId,
        session: VersionedRecord<UploadSession>,
        range: Option<ContentRange>,
        mut body: UploadBody,
    ) -> Result<UploadProgress> {
        match self.claim(id, session, range, WritePurpose::Append).await {
            Ok(mut writer) => {
                let appended = body.append_to(&mut writer).await;
                let kept = keep(&mut writer, appended).await;
                body.discard_orphan(&self.core).await;
                kept
            }
            Err(error) => {
                body.discard_orphan(&self.core).await;
                Err(error)
            }
        }
    }

    /// Whether to receive a chunk before its session is looked up ([`UploadBody`]).
    pub(crate) fn can_take_early(&self, range: Option<ContentRange>) -> bool {
        self.core.store.capabilities().parts.uniform && check_offset(range, 0).is_ok()
    }

    /// A writer of an upload that has not begun.
    fn new_appender(&self, id: &UploadId, length: Option<u64>) -> UploadWriter {
        UploadWriter::fresh(
            &self.core,
            &self.name,
            id,
            id.algorithm(),
            WritePurpose::Append,
            length,
        )
    }

    /// Gives an upload up (end-14) and frees its bytes. Again is fine.
    ///
    /// # Errors
    ///
    /// [`Error::UploadUnknown`] for one that is finished, too old or another repository's;
    /// [`Error::Busy`], [`Error::Store`].
    pub async fn upload_cancel(&self, id: &UploadId) -> Result<()> {
        let mut attempts = SwapAttempts::new(UPLOAD_CONTENDED);
        loop {
            attempts.next().await?;
            let (seen, leftover) = match self.read_session(id).await? {
                None => (None, AbandonedBytes::default()),
                Some(VersionedRecord { value, etag, .. }) => match value.state {
                    SessionState::Open(open) => (Some(etag), open.into_abandoned()),
                    SessionState::Cancelled(_) => return Ok(()),
                    SessionState::Closed(_) => return Err(unknown(id)),
                },
            };
            let cancelled =
                self.session_in_state(SessionState::Cancelled(leftover.clone())).encode();
            if !self.core.rules.keep(Rule::CancelFirst) {
                return leftover.discard(&self.core).await;
            }
            if self.core.swap(&keys::upload(id), seen.as_ref(), cancelled).await?.is_some() {
                return leftover.discard(&self.core).await;
            }
        }
    }

    /// One of the uploads that may send at the same time.
    pub(crate) fn upload_slot(&self) -> Result<OwnedSemaphorePermit> {
        let slot = Arc::clone(&self.core.upload_slots).try_acquire_owned();
        slot.map_err(|_| Error::Busy { what: "as many uploads as are allowed are running" })
    }

    /// An upload's session, if it has begun. An id that can be none of this repository's running
    /// uploads is unknown.
    pub(crate) async fn read_session(
        &self,
        id: &UploadId,
    ) -> Result<Option<VersionedRecord<UploadSession>>> {
        self.check_age(id)?;
        self.core.unrecorded.record(id).await?;
        if self.core.unrecorded.closed_with(id).is_some() {
            return Err(unknown(id));
        }
        let session = self.core.read::<UploadSession>(&keys::upload(id)).await?;
        match session {
            Some(session) if session.value.repository != self.name => Err(unknown(id)),
            session => Ok(session),
        }
    }

    pub(crate) fn check_age(&self, id: &UploadId) -> Result<()> {
        let age_max = self.core.options.limits.upload_age_max;
        if id.is_current(self.core.clock.now(), age_max) { Ok(()) } else { Err(unknown(id)) }
    }

    pub(crate) fn session_in_state(&self, state: SessionState) -> UploadSession {
        UploadSession { repository: self.name.clone(), state }
    }

    /// Makes this request the one that may write to the upload.
    pub(crate) async fn claim(
        &self,
        id: &UploadId,
        mut seen: VersionedRecord<UploadSession>,
        range: Option<ContentRange>,
        purpose: WritePurpose,
    ) -> Result<UploadWriter> {
        let mut attempts = SwapAttempts::new(UPLOAD_CONTENDED);
        attempts.next().await?;
        loop {
            let SessionState::Open(mut open) = seen.value.state else { return Err(unknown(id)) };
            check_offset(range, open.offset)?;
            open.claim += 1;
            let session = self.session_in_state(SessionState::Open(open.clone()));
            let key = keys::upload(id);
            let swapped = self.core.swap(&key, Some(&seen.etag), session.encode()).await?;
            if let Some(written) = swapped {
                let (core, name) = (&self.core, &self.name);
                let mut writer = UploadWriter::resume(core, name, id, purpose, open, written.etag)?;
                writer.take_over().await?;
                return Ok(writer);
            }
            attempts.next().await?;
            seen = self.read_session(id).await?.ok_or_else(|| unknown(id))?;
        }
    }
}

/// Appends a body to an upload that has no session yet.
async fn append(mut writer: UploadWriter, mut body: UploadBody) -> Result<UploadProgress> {
    let appended = body.append_to(&mut writer).await;
    keep(&mut writer, appended).await
}

/// Records the received bytes, also if the client disconnected.
async fn keep(writer: &mut UploadWriter, appended: Result<()>) -> Result<UploadProgress> {
    let is_kept = matches!(appended, Ok(()) | Err(Error::Body(_) | Error::SizeMismatch { .. }));
    let (kept, appended) = match is_kept {
        true => (writer.checkpoint().await, appended),
        false => (appended, Ok(())),
    };
    if let Err(error) = kept {
        writer.free_after(&error).await;
        return Err(error);
    }
    writer.remember();
    appended.map(|()| UploadProgress { offset: writer.offset() })
}

/// A chunk with a range must start at the upload's offset. One without a byte has no range.
pub(crate) fn check_offset(range: Option<ContentRange>, offset: u64) -> Result<()> {
    match range {
        Some(range) if range.start != offset => {
            Err(Error::ChunkOutOfOrder { start: range.start, offset })
        }
        _ => Ok(()),
    }
}

pub(crate) fn unknown(id: &UploadId) -> Error {
    Error::UploadUnknown { id: id.clone() }
}
