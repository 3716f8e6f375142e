//! Uploads: how a blob comes in, in one request or over many, and is committed.
//!
//! The bytes go to a key that is never used again. Committing is two small writes: the session
//! is closed, then a link names the bytes; nothing is copied. `session.rs` has the states,
//! `writer.rs` moves the bytes.

use std::sync::Arc;

use futures::future::join;
use jreg_oci::{Algorithm, ContentRange, Digest, RepositoryName};
use jreg_storage::{ErrorKind, Locality};
use tokio::sync::OwnedSemaphorePermit;

use crate::body::Incoming;
use crate::core::{ATTEMPTS_MAX, Window};
use crate::keys;
use crate::link::{Linked, Origin};
use crate::record::{Location, Stored, Versioned};
use crate::session::{Closed, Leftover, REPLAY_MAX, Session, State};
use crate::writer::{Purpose, Writer};
use crate::{Blob, Chunk, Error, Repository, Result, UploadId};

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

    /// How far an upload is (end-13).
    ///
    /// # Errors
    ///
    /// [`Error::UploadUnknown`] for one that is finished, cancelled, too old or another
    /// repository's; [`Error::Store`].
    pub async fn upload_status(&self, id: &UploadId) -> Result<UploadProgress> {
        match self.session(id).await?.map(|session| session.value.state) {
            None => Ok(UploadProgress { offset: 0 }),
            Some(State::Open(open)) => Ok(UploadProgress { offset: open.offset }),
            Some(State::Closed(_) | State::Cancelled(_)) => Err(unknown(id)),
        }
    }

    /// Appends to an upload (end-5). Without a range the bytes go where the upload stands.
    ///
    /// # Errors
    ///
    /// [`Error::ChunkOutOfOrder`], [`Error::UploadSuperseded`] (the upload lives on),
    /// [`Error::UploadUnknown`], [`Error::SizeMismatch`], [`Error::Body`] (what came is kept),
    /// [`Error::BlobTooLarge`], [`Error::Busy`], [`Error::Store`].
    pub async fn upload_append(&self, id: &UploadId, chunk: Chunk) -> Result<UploadProgress> {
        let _slot = self.upload_slot()?;
        let range = chunk.range;
        if self.may_begin(range) {
            return self.append_first(id, range, Incoming::new(chunk)?).await;
        }
        let session = self.session(id).await?;
        let mut writer = match session {
            None => {
                in_order(range, 0)?;
                self.appender(id, chunk.length)
            }
            Some(session) => self.claim(id, session, range, Purpose::Append).await?,
        };
        let fed = writer.feed(&mut Incoming::new(chunk)?).await;
        keep(writer, fed).await
    }

    /// Appends a chunk that may be the first.
    async fn append_first(
        &self,
        id: &UploadId,
        range: Option<ContentRange>,
        mut incoming: Incoming,
    ) -> Result<UploadProgress> {
        self.check_age(id)?;
        let mut writer = self.appender(id, incoming.left());
        let filled = writer.fill(&mut incoming).await;
        let more = matches!(filled, Ok(false));
        if !more && writer.offset() > 0 && writer.begin().await? {
            return filled.map(|_| UploadProgress { offset: writer.offset() });
        }
        if let Some(session) = self.session(id).await? {
            let mut claimed = self.claim(id, session, range, Purpose::Append).await?;
            claimed.adopt(writer).await?;
            writer = claimed;
        }
        let fed = match filled {
            Ok(_) => writer.feed(&mut incoming).await,
            Err(error) => Err(error),
        };
        keep(writer, fed).await
    }

    /// Whether to take a chunk in before its session is looked for. Where a tail is an object of
    /// its own, a first chunk can be stored meanwhile; it mostly is the whole blob.
    fn may_begin(&self, range: Option<ContentRange>) -> bool {
        self.core.store.part_rules().uniform && in_order(range, 0).is_ok()
    }

    /// A writer of a blob that comes whole.
    fn whole_writer(&self, id: &UploadId, digest: &Digest, length: Option<u64>) -> Writer {
        let (algorithm, purpose) = (digest.algorithm(), Purpose::Whole(digest.clone()));
        Writer::fresh(&self.core, &self.name, id, algorithm, purpose, length)
    }

    /// A writer of an upload that has not begun.
    fn appender(&self, id: &UploadId, length: Option<u64>) -> Writer {
        Writer::fresh(&self.core, &self.name, id, id.algorithm(), Purpose::Append, length)
    }

    /// Appends the last bytes, if any, and makes the blob of the upload (end-6).
    ///
    /// # Errors
    ///
    /// [`Error::DigestMismatch`] (the upload is cancelled); as [`Repository::upload_append`]
    /// otherwise, except that nothing of a chunk that broke off is kept.
    pub async fn upload_finish(
        &self,
        id: &UploadId,
        digest: &Digest,
        chunk: Chunk,
    ) -> Result<Blob> {
        let _slot = self.upload_slot()?;
        let (range, incoming) = (chunk.range, Incoming::new(chunk)?);
        if self.may_begin(range) && incoming.left() != Some(0) {
            return self.finish_first(id, digest, range, incoming).await;
        }
        match self.session(id).await? {
            None => {
                in_order(range, 0)?;
                let writer = self.whole_writer(id, digest, incoming.left());
                self.finish_whole(id, digest, writer, incoming).await
            }
            Some(session) => {
                let ending = Ending { range, taken: None, incoming };
                self.finish_session(id, digest, session, ending).await
            }
        }
    }

    /// Finishes an upload with a body that may be the whole blob.
    async fn finish_first(
        &self,
        id: &UploadId,
        digest: &Digest,
        range: Option<ContentRange>,
        mut incoming: Incoming,
    ) -> Result<Blob> {
        self.check_age(id)?;
        let mut writer = self.whole_writer(id, digest, incoming.left());
        let is_all = writer.fill(&mut incoming).await?;
        let session = if is_all && writer.digest(digest.algorithm()).await? == *digest {
            let (session, loose) = join(self.session(id), writer.put_loose()).await;
            let loose = loose?;
            if let Ok(None) = session {
                let (digest, location) = (digest.clone(), loose.location);
                let closed = Closed { digest, location, multipart: None };
                return self.settle(id, &closed, self.core.window(), Origin::Fresh).await;
            }
            writer.take_back(loose).await?;
            session?
        } else {
            self.session(id).await?
        };
        match session {
            None => self.finish_whole(id, digest, writer, incoming).await,
            Some(session) => {
                let ending = Ending { range, taken: Some(writer), incoming };
                self.finish_session(id, digest, session, ending).await
            }
        }
    }

    /// Finishes an upload that has begun, or was finished before.
    async fn finish_session(
        &self,
        id: &UploadId,
        digest: &Digest,
        session: Versioned<Session>,
        ending: Ending,
    ) -> Result<Blob> {
        let Ending { range, taken, incoming } = ending;
        match &session.value.state {
            State::Open(open) if incoming.left() == Some(0) && !open.has_loose_tail() => {
                let (core, name, open) = (&self.core, &self.name, open.clone());
                let writer = Writer::resume(core, name, id, Purpose::Last, open, session.etag)?;
                self.finish_open(id, writer, digest, incoming).await
            }
            State::Open(_) => {
                let mut writer = self.claim(id, session, range, Purpose::Last).await?;
                if let Some(taken) = taken {
                    writer.adopt(taken).await?;
                }
                self.finish_open(id, writer, digest, incoming).await
            }
            State::Closed(_) => self.finish_again(id, session, digest).await,
            State::Cancelled(_) => Err(unknown(id)),
        }
    }

    /// Stores a blob whose digest is known before its bytes (single POST, end-4b).
    ///
    /// # Errors
    ///
    /// As [`Repository::upload_finish`].
    pub async fn blob_push(&self, digest: &Digest, chunk: Chunk) -> Result<Blob> {
        let _slot = self.upload_slot()?;
        let id = self.upload_start(Some(digest.algorithm()));
        let incoming = Incoming::new(chunk)?;
        let writer = self.whole_writer(&id, digest, incoming.left());
        self.finish_whole(&id, digest, writer, incoming).await
    }

    /// Gives an upload up (end-14) and frees its bytes. Again is fine.
    ///
    /// # Errors
    ///
    /// [`Error::UploadUnknown`] for one that is finished, too old or another repository's;
    /// [`Error::Busy`], [`Error::Store`].
    pub async fn upload_cancel(&self, id: &UploadId) -> Result<()> {
        for attempt in 0..ATTEMPTS_MAX {
            let (seen, leftover) = match self.session(id).await? {
                None => (None, Leftover::default()),
                Some(Versioned { value, etag, .. }) => match value.state {
                    State::Open(open) => (Some(etag), open.leftover()),
                    State::Cancelled(_) => return Ok(()),
                    State::Closed(_) => return Err(unknown(id)),
                },
            };
            let cancelled = self.recorded_as(State::Cancelled(leftover.clone())).encode();
            if self.core.swap(&keys::upload(id), seen.as_ref(), cancelled).await?.is_some() {
                return leftover.discard(&self.core).await;
            }
            self.core.back_off(attempt).await;
        }
        Err(Error::Busy { what: "the upload is being changed by too many others" })
    }

    /// One of the uploads that may send at the same time.
    fn upload_slot(&self) -> Result<OwnedSemaphorePermit> {
        let slot = Arc::clone(&self.core.upload_slots).try_acquire_owned();
        slot.map_err(|_| Error::Busy { what: "as many uploads as are allowed are running" })
    }

    /// An upload's session, if it has begun. An id that can be none of this repository's running
    /// uploads is unknown.
    async fn session(&self, id: &UploadId) -> Result<Option<Versioned<Session>>> {
        self.check_age(id)?;
        let session = self.core.read::<Session>(&keys::upload(id)).await?;
        match session {
            Some(session) if session.value.repository != self.name => Err(unknown(id)),
            session => Ok(session),
        }
    }

    fn check_age(&self, id: &UploadId) -> Result<()> {
        let age_max = self.core.options.limits.upload_age_max;
        if id.is_current(self.core.clock.now(), age_max) { Ok(()) } else { Err(unknown(id)) }
    }

    fn recorded_as(&self, state: State) -> Session {
        Session { repository: self.name.clone(), state }
    }

    /// Makes this request the one that may write to the upload.
    async fn claim(
        &self,
        id: &UploadId,
        mut seen: Versioned<Session>,
        range: Option<ContentRange>,
        purpose: Purpose,
    ) -> Result<Writer> {
        for attempt in 0..ATTEMPTS_MAX {
            let State::Open(mut open) = seen.value.state else { return Err(unknown(id)) };
            in_order(range, open.offset)?;
            open.claim += 1;
            let session = self.recorded_as(State::Open(open.clone()));
            let key = keys::upload(id);
            let swapped = self.core.swap(&key, Some(&seen.etag), session.encode()).await?;
            if let Some(written) = swapped {
                let (core, name) = (&self.core, &self.name);
                let mut writer = Writer::resume(core, name, id, purpose, open, written.etag)?;
                writer.take_over().await?;
                return Ok(writer);
            }
            self.core.back_off(attempt).await;
            seen = self.session(id).await?.ok_or_else(|| unknown(id))?;
        }
        Err(Error::Busy { what: "the upload is being changed by too many others" })
    }

    /// A blob in one request: its digest is known, and nothing of it has come before.
    async fn finish_whole(
        &self,
        id: &UploadId,
        digest: &Digest,
        mut writer: Writer,
        mut incoming: Incoming,
    ) -> Result<Blob> {
        let (core, algorithm) = (&self.core, digest.algorithm());
        let holder = match self.is_worth_looking_for(incoming.left(), writer.offset()) {
            true => core.donor(core.window(), digest, &self.name).await?,
            false => None,
        };
        if holder.is_some() {
            writer.only_hash();
        }
        writer.feed(&mut incoming).await?;
        let actual = writer.digest(algorithm).await?;
        if actual != *digest {
            writer.cancel().await?;
            return Err(Error::DigestMismatch { expected: digest.clone(), actual });
        }
        if let Some((holder, _)) = holder {
            return self.link_held(digest, &holder).await;
        }
        let closed = writer.close(digest).await?;
        self.settle(id, &closed, core.window(), Origin::Fresh).await
    }

    /// Whether to ask who holds a blob before it is stored. Where a request is a round trip, only
    /// for what is larger than a part: duplicates below that are folded later.
    fn is_worth_looking_for(&self, left: Option<u64>, taken: u64) -> bool {
        let part_bytes = self.core.store.part_rules().part_bytes;
        self.is_in_process() || left.is_none_or(|left| left + taken > part_bytes)
    }

    fn is_in_process(&self) -> bool {
        self.core.store.locality() == Locality::InProcess
    }

    /// Holds a blob, of which the client has shown all bytes, where `holder` held it before they
    /// came: that may be long ago, so it is looked at again.
    async fn link_held(&self, digest: &Digest, holder: &RepositoryName) -> Result<Blob> {
        let mounted = self.blob_mount(digest, holder).await?;
        mounted.ok_or(Error::Interrupted { what: "the blob, which was held elsewhere," })
    }

    async fn finish_open(
        &self,
        id: &UploadId,
        mut writer: Writer,
        digest: &Digest,
        mut incoming: Incoming,
    ) -> Result<Blob> {
        writer.feed(&mut incoming).await?;
        let actual = writer.digest(digest.algorithm()).await?;
        if actual != *digest {
            writer.cancel().await?;
            return Err(Error::DigestMismatch { expected: digest.clone(), actual });
        }
        let closed = writer.close(digest).await?;
        self.settle(id, &closed, self.core.window(), Origin::Fresh).await
    }

    /// A closing PUT that comes again, because its answer was lost or its process died.
    async fn finish_again(
        &self,
        id: &UploadId,
        session: Versioned<Session>,
        digest: &Digest,
    ) -> Result<Blob> {
        let (window, age) = (self.core.window(), session.age());
        let State::Closed(closed) = session.value.state else { return Err(unknown(id)) };
        if closed.digest != *digest {
            return Err(unknown(id));
        }
        if age <= REPLAY_MAX {
            return self.settle(id, &closed, window, Origin::Replay).await;
        }
        let held = self.core.hold_link(window, &self.name, digest).await?;
        let there = held.ok_or_else(|| unknown(id))?;
        Ok(Blob { digest: digest.clone(), size_bytes: there.size_bytes })
    }

    /// Makes true what a closed session says: the bytes at their place, and a link to them.
    async fn settle(
        &self,
        id: &UploadId,
        closed: &Closed,
        window: Window,
        origin: Origin,
    ) -> Result<Blob> {
        let (core, digest) = (&self.core, &closed.digest);
        let mut offer = closed.location.clone();
        if self.is_in_process()
            && let Some((_, there)) = core.donor(window, digest, &self.name).await?
        {
            offer = there;
        }
        if offer == closed.location {
            self.complete(id, closed).await?;
        }
        let there = match core.link(window, &self.name, digest, &offer, origin).await? {
            Linked::Here => offer,
            Linked::Elsewhere(there) => there,
            Linked::Deleted => return Err(unknown(id)),
        };
        if there != closed.location {
            // No link ever named these bytes: each write that would have has definitely failed.
            let objects = vec![closed.location.key.clone()];
            Leftover::new(closed.multipart.clone(), objects).discard(core).await?;
        }
        Ok(Blob { digest: digest.clone(), size_bytes: there.size_bytes })
    }

    /// Puts the parts of a closed session together, unless somebody already has.
    async fn complete(&self, id: &UploadId, closed: &Closed) -> Result<()> {
        let Some(upload) = &closed.multipart else { return Ok(()) };
        let completed = self.core.store.complete_multipart(upload).await;
        match completed {
            Ok(()) => return Ok(()),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {}
            Err(error) => return Err(error.into()),
        }
        match self.core.store.head(&closed.location.key).await {
            Ok(stat) if stat.size_bytes == closed.location.size_bytes => Ok(()),
            Ok(_) => Err(damaged(&closed.location)),
            Err(error) if error.is_not_found() => self.give_up_spoiled(id, closed).await,
            Err(error) => Err(error.into()),
        }
    }

    /// A superseded writer spoiled a part, so the bytes of a closed session can never be.
    async fn give_up_spoiled(&self, id: &UploadId, closed: &Closed) -> Result<()> {
        if let Some(session) = self.session(id).await?
            && session.value.state == State::Closed(closed.clone())
        {
            let leftover = Leftover::new(closed.multipart.clone(), Vec::new());
            let cancelled = self.recorded_as(State::Cancelled(leftover.clone())).encode();
            let swapped = self.core.swap(&keys::upload(id), Some(&session.etag), cancelled).await?;
            if swapped.is_some() {
                leftover.discard(&self.core).await?;
            }
        }
        Err(unknown(id))
    }
}

/// Records what was taken in, also if the client broke off.
async fn keep(mut writer: Writer, fed: Result<()>) -> Result<UploadProgress> {
    if let Ok(()) | Err(Error::Body(_) | Error::SizeMismatch { .. }) = fed {
        writer.checkpoint().await?;
    }
    fed.map(|()| UploadProgress { offset: writer.offset() })
}

/// What comes with a closing PUT.
struct Ending {
    range: Option<ContentRange>,
    /// What was taken in before the session was found.
    taken: Option<Writer>,
    incoming: Incoming,
}

/// A chunk that names its place must name the place where the upload stands. One without a byte
/// has no place.
fn in_order(range: Option<ContentRange>, offset: u64) -> Result<()> {
    match range {
        Some(range) if range.start != offset => {
            Err(Error::ChunkOutOfOrder { start: range.start, offset })
        }
        _ => Ok(()),
    }
}

fn unknown(id: &UploadId) -> Error {
    Error::UploadUnknown { id: id.clone() }
}

fn damaged(location: &Location) -> Error {
    let reason = format!("it does not have the {} bytes that were stored", location.size_bytes);
    Error::Damaged { key: location.key.to_string(), reason }
}
