//! Commits: from the last bytes of an upload to a blob of the repository.
//!
//! The bytes are at a key that is never used again. Committing is two small writes: the session is
//! closed, then a link references the bytes; nothing is copied. A folder makes both, and the object
//! of the parts between them, durable at once. A blob that arrived whole in one part, or in a folder
//! with a known digest, needs no session.
//!
//! Deduplication is an optimisation that never fails a push: an upload keeps its own bytes until a
//! link references them or a complete copy of them, and a link whose bytes are missing is swapped
//! to the bytes that were just pushed.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::join;
use jreg_oci::{ContentRange, Digest};

use crate::keys;
use crate::link::{Deduplication, LinkOrigin, LinkOutcome};
use crate::reaper::CLOSED_USE_MAX;
use crate::record::{Location, StoredRecord, VersionedRecord};
use crate::rules::Rule;
use crate::session::{AbandonedBytes, ClosedUpload, REPLAY_MAX, SessionState, UploadSession};
use crate::unrecorded::WriterGuard;
use crate::upload::{check_offset, unknown};
use crate::upload_body::{EarlyBody, UploadBody};
use crate::window::WriteWindow;
use crate::writer::{CloseOutcome, UploadWriter, WritePurpose};
use crate::{Blob, Error, FillProgress, Repository, Result, UploadChunk, UploadId};

/// A closing PUT.
struct ClosingRequest {
    /// Opened before the session was read.
    window: WriteWindow,
    range: Option<ContentRange>,
    body: UploadBody,
}

/// Which request links the bytes of a closed upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitRole {
    /// The only request that has ever heard of the bytes: there is no session.
    Sessionless,
    /// The request that closed the session.
    Closer,
    /// One that found it closed at a time of the store's, so long ago.
    Replay { closed_at: SystemTime, age: Duration },
}

impl Repository {
    /// Appends the last bytes, if any, and makes the blob of the upload (end-6).
    ///
    /// # Errors
    ///
    /// [`Error::DigestMismatch`] (the upload is cancelled); as [`Repository::upload_append`]
    /// otherwise, except that no part of an interrupted chunk is kept.
    pub async fn upload_finish(
        &self,
        id: &UploadId,
        digest: &Digest,
        chunk: UploadChunk,
    ) -> Result<Blob> {
        let (chunk, quota) = Box::pin(self.check_upload_quota(Some(digest), chunk)).await?;
        let (finished, is_refused) =
            quota.judge(Box::pin(self.finish_chunk(id, digest, chunk)).await);
        if is_refused {
            // If this fails, the reaper has it.
            Box::pin(self.upload_cancel(id)).await.ok();
        }
        finished
    }

    async fn finish_chunk(
        &self,
        id: &UploadId,
        digest: &Digest,
        chunk: UploadChunk,
    ) -> Result<Blob> {
        let _slot = self.upload_slot()?;
        match self.finish(id, digest, chunk).await {
            Err(lost @ (Error::UploadSuperseded { .. } | Error::UploadUnknown { .. })) => {
                // A retry of the same PUT, sent while the first still ran, may have been faster.
                let window = self.core.open_window();
                match self.read_session(id).await? {
                    Some(session) if session.value.is_closed_with(digest) => {
                        self.replay_finish(id, window, session, digest).await
                    }
                    _ => Err(lost),
                }
            }
            finished => finished,
        }
    }

    /// Stores a blob whose digest is known before its bytes (single POST, end-4b).
    ///
    /// # Errors
    ///
    /// As [`Repository::upload_finish`].
    pub async fn blob_push(&self, digest: &Digest, chunk: UploadChunk) -> Result<Blob> {
        let (chunk, quota) = Box::pin(self.check_upload_quota(Some(digest), chunk)).await?;
        quota.judge(Box::pin(self.push_chunk(digest, chunk)).await).0
    }

    async fn push_chunk(&self, digest: &Digest, chunk: UploadChunk) -> Result<Blob> {
        let _slot = self.upload_slot()?;
        let id = self.upload_start(Some(digest.algorithm()));
        self.push_whole(&id, digest, chunk, None).await
    }

    /// Stores a blob by an upload of this id, of which no client knows.
    pub(crate) async fn push_whole(
        &self,
        id: &UploadId,
        digest: &Digest,
        chunk: UploadChunk,
        progress: Option<&Arc<FillProgress>>,
    ) -> Result<Blob> {
        let mut body = UploadBody::new(chunk)?;
        let mut writer = self.new_whole_writer(id, digest, body.left());
        if let Some(progress) = progress {
            writer.report_to(progress);
        }
        match take_whole(digest, &mut writer, &mut body).await {
            Ok(()) => self.close_and_commit(id, digest, writer).await,
            Err(error) => {
                // If this fails, the reaper has it.
                writer.abandon().await.ok();
                Err(error)
            }
        }
    }

    async fn finish(&self, id: &UploadId, digest: &Digest, chunk: UploadChunk) -> Result<Blob> {
        let (range, body) = (chunk.range, UploadBody::new(chunk)?);
        if self.can_take_early(range) && !body.is_empty() {
            return self.finish_first(id, digest, range, body).await;
        }
        if body.is_empty() {
            if let Some(finished) = self.finish_unrecorded(id, digest).await? {
                return Ok(finished);
            }
            if let Some(finished) = self.finish_remembered(id, digest).await? {
                return Ok(finished);
            }
        }
        let window = self.core.open_window();
        match self.read_session(id).await? {
            None => {
                check_offset(range, 0)?;
                let writer = self.new_whole_writer(id, digest, body.left());
                self.finish_whole(id, digest, writer, body).await
            }
            Some(session) => {
                let closing = ClosingRequest { window, range, body };
                self.finish_session(id, digest, session, closing).await
            }
        }
    }

    /// Finishes an upload whose bytes have all arrived, if it has no record yet, or had none when it was
    /// closed. `None`: nothing was done.
    async fn finish_unrecorded(&self, id: &UploadId, digest: &Digest) -> Result<Option<Blob>> {
        self.check_age(id)?;
        let unrecorded = &self.core.unrecorded;
        // Held to the end: a retry of this request waits for its outcome.
        let mut held = unrecorded.lock(id).await;
        if let Some(writer) = held.as_mut().and_then(|held| self.take_for(digest, held)) {
            let mut nothing = UploadBody::new(UploadChunk::empty())?;
            let finished = self.finish_open(id, *writer, digest, &mut nothing).await;
            unrecorded.end(id, finished.is_ok().then_some(digest));
            if !matches!(finished, Ok(_) | Err(Error::DigestMismatch { .. })) {
                // Its bytes are gone: a retry must not begin an empty upload. If this fails, it does.
                self.upload_cancel(id).await.ok();
            }
            return finished.map(Some);
        }
        match unrecorded.closed_with(id) {
            Some(closed) if closed == *digest => {
                self.find_linked_blob(id, self.core.open_window(), digest).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The writer of this repository's upload, if it hashes with the digest's algorithm.
    fn take_for(&self, digest: &Digest, held: &mut WriterGuard) -> Option<Box<UploadWriter>> {
        let taken: Box<dyn Any> = held.take_if(|writer| {
            let writer: &dyn Any = &**writer;
            writer.downcast_ref::<UploadWriter>().is_some_and(|writer| {
                *writer.repository() == self.name && writer.algorithm() == digest.algorithm()
            })
        })?;
        taken.downcast().ok()
    }

    /// Finishes an upload whose bytes have all arrived, if this process has its current session
    /// cached. `None`: it has not, or another request continued it, and nothing was done.
    async fn finish_remembered(&self, id: &UploadId, digest: &Digest) -> Result<Option<Blob>> {
        self.check_age(id)?;
        let Some((session, etag)) = self.core.sessions.take(id) else { return Ok(None) };
        let SessionState::Open(open) = session.state else { return Ok(None) };
        if session.repository != self.name || !open.is_whole_for(digest) {
            return Ok(None);
        }
        let writer =
            UploadWriter::resume(&self.core, &self.name, id, WritePurpose::Last, open, etag)?;
        let mut nothing = UploadBody::new(UploadChunk::empty())?;
        let finished = self.finish_open(id, writer, digest, &mut nothing).await;
        match finished {
            Err(Error::UploadSuperseded { .. }) => Ok(None),
            finished => finished.map(Some),
        }
    }

    /// Finishes an upload with a body that may be the whole blob.
    async fn finish_first(
        &self,
        id: &UploadId,
        digest: &Digest,
        range: Option<ContentRange>,
        mut body: UploadBody,
    ) -> Result<Blob> {
        self.check_age(id)?;
        let mut writer = self.new_whole_writer(id, digest, body.left());
        let is_all = body.fill(&mut writer).await;
        body.check_end()?;
        let window = self.core.open_window();
        let session = if is_all && writer.digest(digest.algorithm()).await? == *digest {
            let (session, orphan) = join(self.read_session(id), writer.put_orphan()).await;
            body.set_orphan(orphan?);
            session
        } else {
            self.read_session(id).await
        };
        match body.meet_session(&self.core, session, writer).await? {
            EarlyBody::Stored(location) => {
                let closed = ClosedUpload::new(digest.clone(), location, None);
                let window = self.core.window_since(window);
                self.commit_closed(id, &closed, window, CommitRole::Sessionless).await
            }
            EarlyBody::Begins(writer, body) => self.finish_whole(id, digest, *writer, *body).await,
            EarlyBody::Continues(session, body) => {
                let closing = ClosingRequest { window, range, body: *body };
                self.finish_session(id, digest, *session, closing).await
            }
        }
    }

    /// Finishes an upload that has begun, or was finished before.
    async fn finish_session(
        &self,
        id: &UploadId,
        digest: &Digest,
        session: VersionedRecord<UploadSession>,
        mut closing: ClosingRequest,
    ) -> Result<Blob> {
        let finished = match &session.value.state {
            SessionState::Open(_) => self.finish_begun(id, digest, session, &mut closing).await,
            SessionState::Closed(_) => {
                self.replay_finish(id, closing.window, session, digest).await
            }
            SessionState::Cancelled(_) => Err(unknown(id)),
        };
        closing.body.discard_orphan(&self.core).await;
        finished
    }

    async fn finish_begun(
        &self,
        id: &UploadId,
        digest: &Digest,
        session: VersionedRecord<UploadSession>,
        closing: &mut ClosingRequest,
    ) -> Result<Blob> {
        let writer = match &session.value.state {
            // Only the record is written, and that is a claim of its own.
            SessionState::Open(open) if closing.body.is_empty() && open.is_whole_for(digest) => {
                let (core, name, open) = (&self.core, &self.name, open.clone());
                UploadWriter::resume(core, name, id, WritePurpose::Last, open, session.etag)?
            }
            _ => self.claim(id, session, closing.range, WritePurpose::Last).await?,
        };
        self.finish_open(id, writer, digest, &mut closing.body).await
    }

    /// A writer of a blob that comes whole.
    fn new_whole_writer(
        &self,
        id: &UploadId,
        digest: &Digest,
        length: Option<u64>,
    ) -> UploadWriter {
        let (algorithm, purpose) = (digest.algorithm(), WritePurpose::Whole(digest.clone()));
        UploadWriter::fresh(&self.core, &self.name, id, algorithm, purpose, length)
    }

    /// A blob in one closing PUT: its digest is known, and no bytes arrived before.
    async fn finish_whole(
        &self,
        id: &UploadId,
        digest: &Digest,
        mut writer: UploadWriter,
        mut body: UploadBody,
    ) -> Result<Blob> {
        match take_whole(digest, &mut writer, &mut body).await {
            Ok(()) => self.close_and_commit(id, digest, writer).await,
            Err(error) => {
                match error {
                    Error::DigestMismatch { .. }
                        if writer.offset() == 0 && self.can_be_expired(id) =>
                    {
                        return self.find_linked_blob(id, self.core.open_window(), digest).await;
                    }
                    Error::DigestMismatch { .. } => writer.cancel().await?,
                    // The client may retry: to an empty upload.
                    Error::Body(_) | Error::SizeMismatch { .. } => writer.rewind().await?,
                    ref error => writer.free_after(error).await,
                }
                Err(error)
            }
        }
    }

    /// Whether the upload may have been finished so long ago that its session no longer exists.
    fn can_be_expired(&self, id: &UploadId) -> bool {
        id.is_older_than(CLOSED_USE_MAX, self.core.clock.now())
    }

    /// The blob that an upload made, if the repository links it.
    async fn find_linked_blob(
        &self,
        id: &UploadId,
        window: WriteWindow,
        digest: &Digest,
    ) -> Result<Blob> {
        let held = self.core.touch_complete_link(window, &self.name, digest).await?;
        let there = held.ok_or_else(|| unknown(id))?;
        Ok(Blob { digest: digest.clone(), size_bytes: there.size_bytes })
    }

    /// Closes an upload whose digest is right, and makes that true.
    async fn close_and_commit(
        &self,
        id: &UploadId,
        digest: &Digest,
        mut writer: UploadWriter,
    ) -> Result<Blob> {
        let mut has_record = true;
        if self.is_worth_deduplicating(&writer) {
            writer.free_before_link().await?;
            match self.core.deduplicate(&self.name, digest).await {
                Deduplication::Linked(there) => {
                    let size_bytes = there.size_bytes;
                    // The blob is linked. If the session cannot be closed, the reaper has it.
                    writer.close_deduplicated(digest, there).await.ok();
                    return Ok(Blob { digest: digest.clone(), size_bytes });
                }
                Deduplication::NoRecord => has_record = false,
                Deduplication::NoCopy => {}
            }
        }
        let role = if writer.is_recorded() { CommitRole::Closer } else { CommitRole::Sessionless };
        match writer.close(digest, has_record).await {
            Ok(CloseOutcome::Linked(Location { size_bytes, .. })) => {
                Ok(Blob { digest: digest.clone(), size_bytes })
            }
            Ok(CloseOutcome::Closed(closed, window)) => {
                let window = self.core.window_since(window);
                self.commit_closed(id, &closed, window, role).await
            }
            Err(error) => {
                writer.free_after(&error).await;
                Err(error)
            }
        }
    }

    /// Whether to search for another copy of a blob before its own bytes are linked. Where a
    /// request is a round trip, only for what is larger than a part: other duplicates are
    /// deduplicated by GC.
    fn is_worth_deduplicating(&self, writer: &UploadWriter) -> bool {
        !self.core.store.capabilities().is_remote || writer.has_parts()
    }

    async fn finish_open(
        &self,
        id: &UploadId,
        mut writer: UploadWriter,
        digest: &Digest,
        body: &mut UploadBody,
    ) -> Result<Blob> {
        if let Err(error) = body.append_to(&mut writer).await {
            writer.free_after(&error).await;
            return Err(error);
        }
        if let Err(error) = check_digest(digest, &mut writer).await {
            if let Error::DigestMismatch { .. } = error {
                writer.cancel().await?;
            }
            return Err(error);
        }
        self.close_and_commit(id, digest, writer).await
    }

    /// A retry of a closing PUT whose response was lost or whose process died.
    async fn replay_finish(
        &self,
        id: &UploadId,
        window: WriteWindow,
        session: VersionedRecord<UploadSession>,
        digest: &Digest,
    ) -> Result<Blob> {
        let (window, age) = (self.core.window_since(window), session.age());
        let closed_at = session.last_modified;
        let SessionState::Closed(closed) = session.value.state else { return Err(unknown(id)) };
        if closed.digest != *digest {
            return Err(unknown(id));
        }
        if self.can_link(age) && closed.replaced.is_none() {
            let role = CommitRole::Replay { closed_at, age };
            return self.commit_closed(id, &closed, window, role).await;
        }
        self.find_linked_blob(id, window, digest).await
    }

    /// Whether a session that was closed so long ago may still write its link.
    fn can_link(&self, age: Duration) -> bool {
        age <= REPLAY_MAX || !self.core.rules.keep(Rule::ReplayWindow)
    }

    /// The window in which a closed session may write its link once its parts are completed, which
    /// may take a store longer than one window. The session references the bytes all that time, and
    /// is not removed before a link that is written within [`REPLAY_MAX`] has arrived.
    fn open_window_after_completion(
        &self,
        window: WriteWindow,
        role: CommitRole,
    ) -> Result<WriteWindow> {
        let age = match role {
            CommitRole::Sessionless => return Ok(window),
            CommitRole::Closer => Duration::ZERO,
            CommitRole::Replay { age, .. } => age,
        };
        match self.can_link(age + window.elapsed(&*self.core.clock)) {
            true => Ok(self.core.open_window()),
            false => {
                Err(Error::Interrupted { what: "content that this request relies on may have" })
            }
        }
    }

    /// Finishes what a closed session records: the bytes at their location, and a link to them.
    pub(crate) async fn commit_closed(
        &self,
        id: &UploadId,
        closed: &ClosedUpload,
        window: WriteWindow,
        role: CommitRole,
    ) -> Result<Blob> {
        let (core, digest) = (&self.core, &closed.digest);
        if let Err(error) = self.complete(id, closed, role).await {
            if let (CommitRole::Sessionless, Some(parts)) = (role, &closed.multipart) {
                // No record names them. What this does not free, the next run of the store does.
                core.store.abort_multipart(parts).await.ok();
            }
            return Err(error);
        }
        let window = match &closed.multipart {
            Some(_) => self.open_window_after_completion(window, role)?,
            None => window,
        };
        let origin = match role {
            CommitRole::Sessionless | CommitRole::Closer => LinkOrigin::Fresh,
            CommitRole::Replay { closed_at, .. } => LinkOrigin::Replay { closed_at },
        };
        let offer = &closed.location;
        let there = match core.create_link(window, &self.name, digest, offer, origin).await {
            Ok(LinkOutcome::Here) => offer.clone(),
            Ok(LinkOutcome::Elsewhere(there)) => there,
            Ok(LinkOutcome::Deleted) => return Err(unknown(id)),
            Err(error) => {
                if role == CommitRole::Sessionless {
                    core.discard_unlinked(offer, &error).await;
                }
                return Err(error);
            }
        };
        if there != *offer && role == CommitRole::Sessionless {
            // No link ever referenced these bytes: the only such write has definitely failed.
            // (Bytes of a closed session may have been linked by other requests.) If this fails,
            // the bytes are left to the sweep.
            let own = AbandonedBytes::new(None, vec![offer.key.clone()]);
            own.discard(core).await.ok();
        }
        Ok(Blob { digest: digest.clone(), size_bytes: there.size_bytes })
    }

    /// Ensures that the bytes of a closed session are at their location: completes the multipart
    /// upload unless another request has.
    async fn complete(&self, id: &UploadId, closed: &ClosedUpload, role: CommitRole) -> Result<()> {
        let store = &self.core.store;
        match &closed.multipart {
            None if !matches!(role, CommitRole::Replay { .. }) => return Ok(()),
            None => {}
            Some(parts) if self.core.complete_parts(parts).await? => return Ok(()),
            Some(_) => {}
        }
        match store.head(&closed.location.key).await {
            Ok(stat) if stat.size_bytes == closed.location.size_bytes => Ok(()),
            Ok(_) => Err(damaged(&closed.location)),
            // Without a session there is nothing to cancel.
            Err(error) if error.is_not_found() && role == CommitRole::Sessionless => {
                Err(unknown(id))
            }
            Err(error) if error.is_not_found() => self.cancel_spoiled(id, closed).await,
            Err(error) => Err(error.into()),
        }
    }

    /// The bytes of a closed session can never be: a superseded writer spoiled a part.
    async fn cancel_spoiled(&self, id: &UploadId, closed: &ClosedUpload) -> Result<()> {
        if let Some(session) = self.read_session(id).await?
            && session.value.state == SessionState::Closed(closed.clone())
        {
            let leftover = AbandonedBytes::new(closed.multipart.clone(), Vec::new());
            let cancelled =
                self.session_in_state(SessionState::Cancelled(leftover.clone())).encode();
            let swapped = self.core.swap(&keys::upload(id), Some(&session.etag), cancelled).await?;
            if swapped.is_some() {
                leftover.discard(&self.core).await?;
            }
        }
        Err(unknown(id))
    }
}

/// Takes in the whole of a blob.
async fn take_whole(
    digest: &Digest,
    writer: &mut UploadWriter,
    body: &mut UploadBody,
) -> Result<()> {
    body.append_to(writer).await?;
    check_digest(digest, writer).await
}

/// Compares what has come with the digest that it should have.
async fn check_digest(expected: &Digest, writer: &mut UploadWriter) -> Result<()> {
    let actual = writer.digest(expected.algorithm()).await?;
    if actual == *expected {
        return Ok(());
    }
    Err(Error::DigestMismatch { expected: expected.clone(), actual })
}

fn damaged(location: &Location) -> Error {
    let reason = format!("it does not have the {} bytes that were stored", location.size_bytes);
    Error::Damaged { key: location.key.to_string(), reason }
}
