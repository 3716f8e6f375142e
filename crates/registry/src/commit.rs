//! Commits: from the last bytes of an upload to a blob that the repository holds.
//!
//! The bytes are at a key that is never used again. Committing is two small writes: the session is
//! closed, then a link names the bytes; nothing is copied. What came whole in one part needs no
//! session, and is one write.
//!
//! Deduplication is an optimisation that never fails a push: an upload keeps its own bytes until a
//! link names them or a complete copy of them, and a link whose bytes are missing is swapped to the
//! bytes that were just pushed.

use std::time::Duration;

use futures::future::join;
use jreg_oci::{ContentRange, Digest};
use jreg_storage::ErrorKind;

use crate::body::Incoming;
use crate::keys;
use crate::link::{Linked, Origin};
use crate::reaper::CLOSED_USE_MAX;
use crate::record::{Location, Stored, Versioned};
use crate::rules::Rule;
use crate::session::{Closed, Leftover, REPLAY_MAX, Session, State};
use crate::upload::{in_order, unknown};
use crate::window::Window;
use crate::writer::{OneStep, Purpose, Writer};
use crate::{Blob, Error, Repository, Result, UploadChunk, UploadId};

/// What comes with a closing PUT.
struct Ending {
    /// Opened before the session was read.
    window: Window,
    range: Option<ContentRange>,
    /// What was taken in, and stored, before the session was found.
    loose: Option<Location>,
    incoming: Incoming,
}

/// Who makes a closed upload true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settler {
    /// The only request that has ever heard of the bytes: there is no session.
    Alone,
    /// The request that closed the session.
    Closer,
    /// One that found it closed this long ago.
    Replay(Duration),
}

impl Repository {
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
        chunk: UploadChunk,
    ) -> Result<Blob> {
        let _slot = self.upload_slot()?;
        match self.finish(id, digest, chunk).await {
            Err(lost @ (Error::UploadSuperseded { .. } | Error::UploadUnknown { .. })) => {
                // The same PUT, sent again while the first still ran, may have been faster.
                let window = self.core.open_window();
                match self.session(id).await? {
                    Some(session) if session.value.is_closed_with(digest) => {
                        self.finish_again(id, window, session, digest).await
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
        let _slot = self.upload_slot()?;
        let id = self.upload_start(Some(digest.algorithm()));
        let incoming = Incoming::new(chunk)?;
        let mut writer = self.whole_writer(&id, digest, incoming.left());
        match take_whole(digest, &mut writer, incoming).await {
            Ok(()) => self.close(&id, digest, writer).await,
            Err(error) => {
                if writer.is_recorded() {
                    // If this fails, the reaper has it.
                    writer.abandon().await.ok();
                }
                Err(error)
            }
        }
    }

    async fn finish(&self, id: &UploadId, digest: &Digest, chunk: UploadChunk) -> Result<Blob> {
        let (range, incoming) = (chunk.range, Incoming::new(chunk)?);
        if self.may_begin(range) && incoming.left() != Some(0) {
            return self.finish_first(id, digest, range, incoming).await;
        }
        if incoming.left() == Some(0)
            && let Some(finished) = self.finish_remembered(id, digest).await?
        {
            return Ok(finished);
        }
        let window = self.core.open_window();
        match self.session(id).await? {
            None => {
                in_order(range, 0)?;
                let writer = self.whole_writer(id, digest, incoming.left());
                self.finish_whole(id, digest, writer, incoming).await
            }
            Some(session) => {
                let ending = Ending { window, range, loose: None, incoming };
                self.finish_session(id, digest, session, ending).await
            }
        }
    }

    /// Finishes an upload whose bytes have all come, if this process remembers it as it still
    /// stands. `None`: it does not, or somebody went on with it, and nothing has been done.
    async fn finish_remembered(&self, id: &UploadId, digest: &Digest) -> Result<Option<Blob>> {
        self.check_age(id)?;
        let Some((session, etag)) = self.core.sessions.take(id) else { return Ok(None) };
        let State::Open(open) = session.state else { return Ok(None) };
        if session.repository != self.name || !open.is_whole_for(digest) {
            return Ok(None);
        }
        let writer = Writer::resume(&self.core, &self.name, id, Purpose::Last, open, etag)?;
        let nothing = Incoming::new(UploadChunk::empty())?;
        let finished = self.finish_open(id, writer, digest, nothing).await;
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
        mut incoming: Incoming,
    ) -> Result<Blob> {
        self.check_age(id)?;
        let mut writer = self.whole_writer(id, digest, incoming.left());
        let is_all = writer.fill(&mut incoming).await?;
        let window = self.core.open_window();
        let (session, mut loose) = if is_all && writer.digest(digest.algorithm()).await? == *digest
        {
            let (session, loose) = join(self.session(id), writer.put_loose()).await;
            (session, Some(loose?))
        } else {
            (self.session(id).await, None)
        };
        let finished = match (session, &loose) {
            (Ok(None), Some(loose)) => {
                let closed = Closed::new(digest.clone(), loose.clone(), None);
                let window = self.core.window_since(window);
                return self.settle(id, &closed, window, Settler::Alone).await;
            }
            (Ok(None), None) => return self.finish_whole(id, digest, writer, incoming).await,
            (Ok(Some(session)), _) => {
                if loose.is_none() && writer.offset() > 0 {
                    loose = Some(writer.put_loose().await?);
                }
                // With its place in the budget, for which the next one may have to wait.
                drop(writer);
                let ending = Ending { window, range, loose: loose.clone(), incoming };
                self.finish_session(id, digest, session, ending).await
            }
            (Err(error), _) => Err(error),
        };
        self.core.discard_loose(loose).await;
        finished
    }

    /// Finishes an upload that has begun, or was finished before.
    async fn finish_session(
        &self,
        id: &UploadId,
        digest: &Digest,
        session: Versioned<Session>,
        ending: Ending,
    ) -> Result<Blob> {
        let Ending { window, range, loose, incoming } = ending;
        match &session.value.state {
            // Nothing is to be written but the record, and that is a claim of its own.
            State::Open(open)
                if loose.is_none() && incoming.left() == Some(0) && open.is_whole_for(digest) =>
            {
                let (core, name, open) = (&self.core, &self.name, open.clone());
                let writer = Writer::resume(core, name, id, Purpose::Last, open, session.etag)?;
                self.finish_open(id, writer, digest, incoming).await
            }
            State::Open(_) => {
                let mut writer = self.claim(id, session, range, Purpose::Last).await?;
                if let Some(loose) = loose {
                    writer.adopt(&loose, incoming.left()).await?;
                }
                self.finish_open(id, writer, digest, incoming).await
            }
            State::Closed(_) => self.finish_again(id, window, session, digest).await,
            State::Cancelled(_) => Err(unknown(id)),
        }
    }

    /// A writer of a blob that comes whole.
    fn whole_writer(&self, id: &UploadId, digest: &Digest, length: Option<u64>) -> Writer {
        let (algorithm, purpose) = (digest.algorithm(), Purpose::Whole(digest.clone()));
        Writer::fresh(&self.core, &self.name, id, algorithm, purpose, length)
    }

    /// A blob in one closing PUT: its digest is known, and nothing of it has come before.
    async fn finish_whole(
        &self,
        id: &UploadId,
        digest: &Digest,
        mut writer: Writer,
        incoming: Incoming,
    ) -> Result<Blob> {
        match take_whole(digest, &mut writer, incoming).await {
            Ok(()) => self.close(id, digest, writer).await,
            Err(error) => {
                match error {
                    Error::DigestMismatch { .. }
                        if writer.offset() == 0 && self.may_be_over(id) =>
                    {
                        return self.find_held(id, self.core.open_window(), digest).await;
                    }
                    Error::DigestMismatch { .. } => writer.cancel().await?,
                    // The client may send it again: to an upload that has nothing yet.
                    Error::Body(_) | Error::SizeMismatch { .. } => writer.rewind().await?,
                    ref error => writer.free_after(error).await,
                }
                Err(error)
            }
        }
    }

    /// Whether the upload may have been finished so long ago that its session is gone.
    fn may_be_over(&self, id: &UploadId) -> bool {
        id.is_older_than(CLOSED_USE_MAX, self.core.clock.now())
    }

    /// The blob that an upload made, if the repository holds it.
    async fn find_held(&self, id: &UploadId, window: Window, digest: &Digest) -> Result<Blob> {
        let held = self.core.hold_bytes(window, &self.name, digest).await?;
        let there = held.ok_or_else(|| unknown(id))?;
        Ok(Blob { digest: digest.clone(), size_bytes: there.size_bytes })
    }

    /// Closes an upload whose digest is right, and makes that true.
    async fn close(&self, id: &UploadId, digest: &Digest, mut writer: Writer) -> Result<Blob> {
        if self.is_worth_deduplicating(&writer) {
            writer.free_before_link().await?;
            if let Some(there) = self.core.deduplicate(&self.name, digest).await {
                let size_bytes = there.size_bytes;
                // The blob is linked. If the session cannot be closed, the reaper has it.
                writer.close_deduplicated(digest, there).await.ok();
                return Ok(Blob { digest: digest.clone(), size_bytes });
            }
        }
        let settler = if writer.is_recorded() { Settler::Closer } else { Settler::Alone };
        let (closed, window) = match self.seal(&mut writer, digest).await {
            Ok(OneStep::Linked(Location { size_bytes, .. })) => {
                return Ok(Blob { digest: digest.clone(), size_bytes });
            }
            Ok(OneStep::Closed(closed, window)) => (*closed, window),
            Ok(OneStep::Apart) => return Err(Error::Stopped),
            Err(error) => {
                writer.free_after(&error).await;
                return Err(error);
            }
        };
        self.settle(id, &closed, self.core.window_since(window), settler).await
    }

    async fn seal(&self, writer: &mut Writer, digest: &Digest) -> Result<OneStep> {
        match writer.close_and_link(digest).await? {
            OneStep::Apart => {
                let (closed, window) = writer.close(digest).await?;
                Ok(OneStep::Closed(Box::new(closed), window))
            }
            done => Ok(done),
        }
    }

    /// Whether to look for another copy of a blob before its own bytes are linked. Where a request
    /// is a round trip, only for what is larger than a part: other duplicates are deduplicated by
    /// GC.
    fn is_worth_deduplicating(&self, writer: &Writer) -> bool {
        !self.core.store.capabilities().is_remote || writer.has_parts()
    }

    async fn finish_open(
        &self,
        id: &UploadId,
        mut writer: Writer,
        digest: &Digest,
        mut incoming: Incoming,
    ) -> Result<Blob> {
        if let Err(error) = writer.feed(&mut incoming).await {
            writer.free_after(&error).await;
            return Err(error);
        }
        if let Err(error) = check(digest, &mut writer).await {
            if let Error::DigestMismatch { .. } = error {
                writer.cancel().await?;
            }
            return Err(error);
        }
        self.close(id, digest, writer).await
    }

    /// A closing PUT that comes again, because its answer was lost or its process died.
    async fn finish_again(
        &self,
        id: &UploadId,
        window: Window,
        session: Versioned<Session>,
        digest: &Digest,
    ) -> Result<Blob> {
        let (window, age) = (self.core.window_since(window), session.age());
        let State::Closed(closed) = session.value.state else { return Err(unknown(id)) };
        if closed.digest != *digest {
            return Err(unknown(id));
        }
        if self.may_link(age) && closed.spare.is_none() {
            return self.settle(id, &closed, window, Settler::Replay(age)).await;
        }
        self.find_held(id, window, digest).await
    }

    /// Whether a session that was closed so long ago may still write its link.
    fn may_link(&self, age: Duration) -> bool {
        age <= REPLAY_MAX || !self.core.rules.keep(Rule::ReplayWindow)
    }

    /// The window in which a closed session may write its link once its parts are put together,
    /// which may take a store longer than one window. The session names the bytes all that time,
    /// and is not removed before a link that is written within [`REPLAY_MAX`] has arrived.
    fn window_after_completion(&self, window: Window, settler: Settler) -> Result<Window> {
        let age = match settler {
            Settler::Alone => return Ok(window),
            Settler::Closer => Duration::ZERO,
            Settler::Replay(age) => age,
        };
        match self.may_link(age + window.elapsed(&*self.core.clock)) {
            true => Ok(self.core.open_window()),
            false => {
                Err(Error::Interrupted { what: "content that this request relies on may have" })
            }
        }
    }

    /// Makes true what a closed session says: the bytes at their place, and a link to them.
    async fn settle(
        &self,
        id: &UploadId,
        closed: &Closed,
        window: Window,
        settler: Settler,
    ) -> Result<Blob> {
        let (core, digest) = (&self.core, &closed.digest);
        self.complete(id, closed, settler).await?;
        let window = match &closed.multipart {
            Some(_) => self.window_after_completion(window, settler)?,
            None => window,
        };
        let origin = match settler {
            Settler::Alone | Settler::Closer => Origin::Fresh,
            Settler::Replay(_) => Origin::Replay,
        };
        let offer = &closed.location;
        let there = match core.link(window, &self.name, digest, offer, origin).await {
            Ok(Linked::Here) => offer.clone(),
            Ok(Linked::Elsewhere(there)) => there,
            Ok(Linked::Deleted) => return Err(unknown(id)),
            Err(error) => {
                if settler == Settler::Alone {
                    core.discard_unlinked(offer, &error).await;
                }
                return Err(error);
            }
        };
        if there != *offer && settler == Settler::Alone {
            // No link ever named these bytes: the only write that would have has definitely
            // failed. Those of a session others may have linked since it was closed. If this
            // fails, the bytes are left to the sweep.
            let own = Leftover::new(None, vec![offer.key.clone()]);
            own.discard(core).await.ok();
        }
        Ok(Blob { digest: digest.clone(), size_bytes: there.size_bytes })
    }

    /// Makes sure that the bytes of a closed session are at their place, and puts its parts
    /// together if nobody has.
    async fn complete(&self, id: &UploadId, closed: &Closed, settler: Settler) -> Result<()> {
        let store = &self.core.store;
        match &closed.multipart {
            None if !matches!(settler, Settler::Replay(_)) => return Ok(()),
            None => {}
            Some(upload) => match store.complete_multipart(upload).await {
                Ok(()) => return Ok(()),
                Err(error) if is_gone_or_done(error.kind()) => {}
                Err(error) => return Err(error.into()),
            },
        }
        match store.head(&closed.location.key).await {
            Ok(stat) if stat.size_bytes == closed.location.size_bytes => Ok(()),
            Ok(_) => Err(damaged(&closed.location)),
            Err(error) if error.is_not_found() => self.give_up_spoiled(id, closed).await,
            Err(error) => Err(error.into()),
        }
    }

    /// The bytes of a closed session can never be: a superseded writer spoiled a part.
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

/// The completion of a multipart upload failed because there is nothing left to complete.
pub(crate) fn is_gone_or_done(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::AlreadyExists)
}

/// Takes in the whole of a blob.
async fn take_whole(digest: &Digest, writer: &mut Writer, mut incoming: Incoming) -> Result<()> {
    writer.feed(&mut incoming).await?;
    check(digest, writer).await
}

/// Holds what has come against the digest that it should have.
async fn check(expected: &Digest, writer: &mut Writer) -> Result<()> {
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
