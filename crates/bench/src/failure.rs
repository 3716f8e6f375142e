//! Why an operation failed: what is counted, by its name, beside the operations that did not.

use std::io;

use thiserror::Error;

/// Why an operation failed.
#[derive(Debug, Error)]
pub enum OperationError {
    /// No connection was made.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The connection broke before the response was whole.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// No response within the time of `--timeout`.
    #[error("no response in time")]
    TimedOut,
    /// What came is no HTTP/1.1, or exceeds a limit.
    #[error("the response has {0}")]
    Protocol(&'static str),
    /// A status that the specification does not have for what was asked.
    #[error("status {0}")]
    Status(u16),
    /// A body of another length than what was asked for.
    #[error("{received} bytes instead of {expected}")]
    Length {
        /// What came.
        received: u64,
        /// What is stored there.
        expected: u64,
    },
    /// A body whose digest is another one.
    #[error("bytes that are not those of the digest")]
    Digest,
    /// A list without what must be in it.
    #[error("a list that is not what was stored")]
    List,
    /// A whole list where a page of it was asked for, which a registry may send.
    #[error("a whole list instead of a page")]
    Unpaged,
    /// The server of tokens gave none.
    #[error("no token: {0}")]
    Token(&'static str),
}

impl OperationError {
    /// What it is counted as. There are as many as there are statuses, and a few more.
    pub fn name(&self) -> String {
        match self {
            Self::Connect(_) => "connect".to_owned(),
            Self::Broken(_) => "broken".to_owned(),
            Self::TimedOut => "timeout".to_owned(),
            Self::Protocol(_) => "protocol".to_owned(),
            Self::Status(status) => format!("status {status}"),
            Self::Length { .. } => "length".to_owned(),
            Self::Digest => "digest".to_owned(),
            Self::List => "list".to_owned(),
            Self::Unpaged => "no pages".to_owned(),
            Self::Token(_) => "token".to_owned(),
        }
    }

    /// Whether the server says that it does not have what was asked of it at all.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Status(400 | 404 | 405 | 501))
    }
}
