//! The bytes that a client sends, as the registry sees them.

use std::fmt;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use jreg_oci::ContentRange;

/// A client's stream of bytes. An error ends it.
pub type BodyStream = BoxStream<'static, Result<Bytes, BodyError>>;

/// Why a client's body ended early: the client's doing or the network's, never ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The connection broke, or the encoding of the body was wrong.
    #[error("the client's body broke off")]
    Broken,
    /// Nothing came for longer than the idle limit.
    #[error("the client sent nothing for {limit_s} seconds")]
    Idle {
        /// The limit.
        limit_s: u64,
    },
    /// The body outgrew a limit.
    #[error("the body has more than {max_bytes} bytes")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
}

/// A body with what the request said about it.
pub struct Chunk {
    /// Where the bytes belong, if the client said so (`Content-Range`).
    pub range: Option<ContentRange>,
    /// How many bytes will come, if the client said so (`Content-Length`).
    pub length: Option<u64>,
    /// The bytes.
    pub body: BodyStream,
}

impl Chunk {
    /// A chunk without a byte.
    pub fn empty() -> Self {
        Self { range: None, length: Some(0), body: futures::stream::empty().boxed() }
    }

    /// A chunk of bytes that are at hand.
    pub fn of(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let length = Some(bytes.len() as u64);
        let body = futures::stream::iter([Ok(bytes)]).boxed();
        Self { range: None, length, body }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("range", &self.range)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}
