//! Uploads: how the bytes of a blob come in over several requests. `commit.rs` makes the blob of
//! them, `session.rs` has the states, `writer.rs` moves the bytes.

use std::sync::Arc;

use jreg_oci::{Algorithm, ContentRange};
use tokio::sync::OwnedSemaphorePermit;

use crate::attempts::SwapAttempts;
use crate::body::Incoming;
use crate::keys;
use crate::record::{Location, Stored, Versioned};
use crate::rules::Rule;
use crate::session::{Leftover, Session, State};
use crate::writer::{Purpose, Writer};
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

    /// How far an upload is (end-13). One that was finished is known for 80 minutes; after that, its id
    /// may begin an upload anew, and is answered like one that has nothing yet.
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
    pub async fn upload_append(&self, id: &UploadId, chunk: UploadChunk) -> Result<UploadProgress> {
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
        let mut loose = None;
        if !more && writer.offset() > 0 {
            loose = writer.begin().await?;
            if loose.is_none() {
                writer.remember();
                return filled.map(|_| UploadProgress { offset: writer.offset() });
            }
        }
        let rest = Rest { filled: filled.map(|_| ()), incoming };
        let appended = match self.session(id).await? {
            Some(session) => {
                if loose.is_none() && writer.offset() > 0 {
                    loose = Some(writer.put_loose().await?);
                }
                // With its place in the budget, for which the next one may have to wait.
                drop(writer);
                self.append_loose(id, session, range, loose.as_ref(), rest).await
            }
            // Whoever had begun it did so long ago that the session is gone.
            None if loose.is_some() => Err(unknown(id)),
            None => return rest.append(writer).await,
        };
        self.core.discard_loose(loose).await;
        appended
    }

    /// Appends to an upload that somebody has begun what was stored before that was known, and
    /// what follows.
    async fn append_loose(
        &self,
        id: &UploadId,
        session: Versioned<Session>,
        range: Option<ContentRange>,
        loose: Option<&Location>,
        rest: Rest,
    ) -> Result<UploadProgress> {
        let mut writer = self.claim(id, session, range, Purpose::Append).await?;
        if let Some(loose) = loose {
            writer.adopt(loose, rest.incoming.left()).await?;
        }
        rest.append(writer).await
    }

    /// Whether to take a chunk in before its session is looked for. Where a tail is an object of
    /// its own, a first chunk can be stored meanwhile; it mostly is the whole blob.
    pub(crate) fn may_begin(&self, range: Option<ContentRange>) -> bool {
        self.core.store.capabilities().parts.uniform && in_order(range, 0).is_ok()
    }

    /// A writer of an upload that has not begun.
    fn appender(&self, id: &UploadId, length: Option<u64>) -> Writer {
        Writer::fresh(&self.core, &self.name, id, id.algorithm(), Purpose::Append, length)
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
            let (seen, leftover) = match self.session(id).await? {
                None => (None, Leftover::default()),
                Some(Versioned { value, etag, .. }) => match value.state {
                    State::Open(open) => (Some(etag), open.leftover()),
                    State::Cancelled(_) => return Ok(()),
                    State::Closed(_) => return Err(unknown(id)),
                },
            };
            let cancelled = self.recorded_as(State::Cancelled(leftover.clone())).encode();
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
    pub(crate) async fn session(&self, id: &UploadId) -> Result<Option<Versioned<Session>>> {
        self.check_age(id)?;
        let session = self.core.read::<Session>(&keys::upload(id)).await?;
        match session {
            Some(session) if session.value.repository != self.name => Err(unknown(id)),
            session => Ok(session),
        }
    }

    pub(crate) fn check_age(&self, id: &UploadId) -> Result<()> {
        let age_max = self.core.options.limits.upload_age_max;
        if id.is_current(self.core.clock.now(), age_max) { Ok(()) } else { Err(unknown(id)) }
    }

    pub(crate) fn recorded_as(&self, state: State) -> Session {
        Session { repository: self.name.clone(), state }
    }

    /// Makes this request the one that may write to the upload.
    pub(crate) async fn claim(
        &self,
        id: &UploadId,
        mut seen: Versioned<Session>,
        range: Option<ContentRange>,
        purpose: Purpose,
    ) -> Result<Writer> {
        let mut attempts = SwapAttempts::new(UPLOAD_CONTENDED);
        attempts.next().await?;
        loop {
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
            attempts.next().await?;
            seen = self.session(id).await?.ok_or_else(|| unknown(id))?;
        }
    }
}

/// What is to come of a body of which the first part was taken in.
struct Rest {
    /// Whether that went well.
    filled: Result<()>,
    incoming: Incoming,
}

impl Rest {
    async fn append(mut self, mut writer: Writer) -> Result<UploadProgress> {
        let fed = match self.filled {
            Ok(()) => writer.feed(&mut self.incoming).await,
            Err(error) => Err(error),
        };
        keep(writer, fed).await
    }
}

/// Records what was taken in, also if the client broke off.
async fn keep(mut writer: Writer, fed: Result<()>) -> Result<UploadProgress> {
    let is_kept = matches!(fed, Ok(()) | Err(Error::Body(_) | Error::SizeMismatch { .. }));
    let (kept, fed) = match is_kept {
        true => (writer.checkpoint().await, fed),
        false => (fed, Ok(())),
    };
    if let Err(error) = kept {
        writer.free_after(&error).await;
        return Err(error);
    }
    writer.remember();
    fed.map(|()| UploadProgress { offset: writer.offset() })
}

/// A chunk that names its place must name the place where the upload stands. One without a byte
/// has no place.
pub(crate) fn in_order(range: Option<ContentRange>, offset: u64) -> Result<()> {
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
