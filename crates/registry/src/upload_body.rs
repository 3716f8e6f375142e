//! [`UploadBody`]: a request's body in flight to an upload: body first, session afterwards.
//!
//! Where a tail is an object of its own, a first chunk is mostly the whole blob. So its first part
//! is received, and stored if no more follows, before the session is looked up. If the upload has
//! begun already, that object is an orphan: its bytes are appended to the session, and it is
//! deleted.

use crate::Result;
use crate::body::IncomingBody;
use crate::core::Core;
use crate::record::{Location, VersionedRecord};
use crate::session::UploadSession;
use crate::writer::UploadWriter;
use crate::{Error, UploadChunk};

/// A request's body in flight to an upload.
pub(crate) struct UploadBody {
    incoming: IncomingBody,
    /// Its first bytes, which were stored before the session was looked up.
    orphan: Option<Location>,
    /// How the body ended while its first part was taken in, if not well.
    broke_off: Option<Error>,
}

/// The state of a body whose first part was received before the session was looked up.
pub(crate) enum EarlyBody {
    /// The upload has no session, and the body is stored at a location that no record references.
    Stored(Location),
    /// The upload has no session, and the writer has what came so far.
    Begins(Box<UploadWriter>, Box<UploadBody>),
    /// The upload has begun.
    Continues(Box<VersionedRecord<UploadSession>>, Box<UploadBody>),
}

impl UploadBody {
    /// # Errors
    ///
    /// [`Error::SizeMismatch`] if Content-Range and Content-Length contradict each other.
    pub(crate) fn new(chunk: UploadChunk) -> Result<Self> {
        Ok(Self { incoming: IncomingBody::new(chunk)?, orphan: None, broke_off: None })
    }

    /// How many bytes are still to come from the client, if that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        self.incoming.left()
    }

    /// Whether it has no byte to append.
    pub(crate) fn is_empty(&self) -> bool {
        self.orphan.is_none() && self.left() == Some(0)
    }

    /// Takes in what fits into the writer's first part. `true`: no more follows, as the body ended
    /// or broke off.
    pub(crate) async fn fill(&mut self, writer: &mut UploadWriter) -> bool {
        match writer.fill(&mut self.incoming).await {
            Ok(is_all) => is_all,
            Err(error) => {
                self.broke_off = Some(error);
                true
            }
        }
    }

    /// Fails if the body broke off while its first part was taken in.
    pub(crate) fn check_end(&mut self) -> Result<()> {
        self.broke_off.take().map_or(Ok(()), Err)
    }

    /// Records where the received bytes are stored, though no session references them.
    pub(crate) fn set_orphan(&mut self, orphan: Location) {
        self.orphan = Some(orphan);
    }

    /// Checks the session that was found once the writer had the first part.
    ///
    /// # Errors
    ///
    /// Those of the session's read; [`Error::Store`].
    pub(crate) async fn meet_session(
        mut self,
        core: &Core,
        session: Result<Option<VersionedRecord<UploadSession>>>,
        mut writer: UploadWriter,
    ) -> Result<EarlyBody> {
        match session {
            Ok(None) => Ok(match self.orphan.take() {
                Some(orphan) => EarlyBody::Stored(orphan),
                None => EarlyBody::Begins(Box::new(writer), Box::new(self)),
            }),
            Ok(Some(session)) => {
                if self.orphan.is_none() && writer.offset() > 0 {
                    self.orphan = Some(writer.put_orphan().await?);
                }
                // With its room in the budget, for which the next writer may have to wait.
                drop(writer);
                Ok(EarlyBody::Continues(Box::new(session), Box::new(self)))
            }
            Err(error) => {
                self.discard_orphan(core).await;
                Err(error)
            }
        }
    }

    /// Appends all of it: the bytes stored before the session was found, then the rest.
    ///
    /// # Errors
    ///
    /// As [`UploadWriter::feed`].
    pub(crate) async fn append_to(&mut self, writer: &mut UploadWriter) -> Result<()> {
        if let Some(orphan) = &self.orphan {
            writer.append_stored(orphan, self.incoming.left()).await?;
        }
        self.check_end()?;
        writer.feed(&mut self.incoming).await
    }

    /// Deletes the object stored before the session was found.
    pub(crate) async fn discard_orphan(&mut self, core: &Core) {
        core.discard_orphan(self.orphan.take()).await;
    }
}
