//! The bytes that a client sends, as the registry sees them.

use std::fmt;

use bytes::Bytes;
use futures::stream::{BoxStream, Fuse, StreamExt};
use jreg_oci::ContentRange;

use crate::budget::{MemoryBudget, ReservationGauge};
use crate::{BodyError, Error};

/// A client's stream of bytes. An error ends it.
pub type BodyStream = BoxStream<'static, Result<Bytes, BodyError>>;

/// A body with its announced length and digest.
pub struct UploadChunk {
    /// Where the bytes belong, if the client said so (`Content-Range`).
    pub range: Option<ContentRange>,
    /// How many bytes will come, if the client said so (`Content-Length`).
    pub length: Option<u64>,
    pub body: BodyStream,
    /// Where the registry says how much of a budget is reserved for the body.
    pub gauge: ReservationGauge,
}

impl UploadChunk {
    /// A chunk without a byte.
    pub fn empty() -> Self {
        Self::new(None, Some(0), futures::stream::empty().boxed())
    }

    /// A chunk whose room is of no interest to its reader.
    pub fn new(range: Option<ContentRange>, length: Option<u64>, body: BodyStream) -> Self {
        Self { range, length, body, gauge: ReservationGauge::default() }
    }

    /// A chunk of bytes that are at hand.
    pub fn of(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let length = Some(bytes.len() as u64);
        let body = futures::stream::iter([Ok(bytes)]).boxed();
        Self::new(None, length, body)
    }
}

/// A chunk that is being read, checked against what the request announced.
pub(crate) struct IncomingBody {
    body: Fuse<BodyStream>,
    /// How many bytes must come, if the request said so.
    announced: Option<u64>,
    /// How many bytes have been handed out.
    came: u64,
    put_back: Option<Bytes>,
    gauge: ReservationGauge,
}

impl IncomingBody {
    /// # Errors
    ///
    /// [`Error::SizeMismatch`] if Content-Range and Content-Length contradict each other.
    pub(crate) fn new(chunk: UploadChunk) -> Result<Self, Error> {
        let UploadChunk { range, length, body, gauge } = chunk;
        let announced = range.map(|range| range.len()).or(length);
        match (announced, length) {
            (Some(expected), Some(actual)) if expected != actual => {
                Err(Error::SizeMismatch { expected, actual })
            }
            _ => Ok(Self { body: body.fuse(), announced, came: 0, put_back: None, gauge }),
        }
    }

    /// How many bytes are still to be handed out, if that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        self.announced.map(|announced| announced.saturating_sub(self.came))
    }

    /// Says how much of a budget is reserved while the next bytes are awaited.
    pub(crate) fn note_reserved(&self, budget: &MemoryBudget, bytes: u64) {
        self.gauge.set(budget, bytes);
    }

    /// The next bytes; `None` at the end, if as many came as were announced.
    ///
    /// # Errors
    ///
    /// [`Error::Body`], [`Error::SizeMismatch`].
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let frame = match self.put_back.take() {
            Some(frame) => Some(frame),
            None => self.body.next().await.transpose()?,
        };
        let actual = self.came + frame.as_ref().map_or(0, |frame| frame.len() as u64);
        let ended = frame.is_none();
        match self.announced {
            Some(expected) if actual > expected || (ended && actual < expected) => {
                Err(Error::SizeMismatch { expected, actual })
            }
            _ => {
                self.came = actual;
                Ok(frame)
            }
        }
    }

    /// Returns the unused rest of the last chunk: it is read next.
    pub(crate) fn put_back(&mut self, unused: Bytes) {
        self.came -= unused.len() as u64;
        self.put_back = Some(unused);
    }
}

impl fmt::Debug for UploadChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadChunk")
            .field("range", &self.range)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}
