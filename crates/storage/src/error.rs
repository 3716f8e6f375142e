//! What can go wrong in a store: one struct, few kinds.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// A failed store operation: its kind, key and source. A clone is the same failure, for several
/// readers that shared one request.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    key: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kinds of failure that a caller treats differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The key, or the upload, is definitely absent.
    NotFound,
    /// `PutMode::Create` found the key taken. Nothing was written.
    AlreadyExists,
    /// The version, or the claim, is not the expected one. Nothing was written.
    Precondition,
    /// The range starts or ends beyond the object.
    OutOfRange,
    /// The object is larger than the operation can return.
    TooLarge,
    /// The store throttles (S3: SlowDown). Nothing was written; retry later.
    Throttled,
    /// The store failed or could not be reached; a write may or may not have happened.
    Unavailable,
    /// The store refuses this process: credentials, permissions, names it cannot hold.
    Refused,
    /// The store has no room left: the disk, or a quota. Nothing was written; deleting helps.
    Full,
    /// The store was opened to be read only. Nothing was written.
    ReadOnly,
}

impl Error {
    /// A failure without an underlying error.
    pub fn new(kind: ErrorKind, key: impl fmt::Display) -> Self {
        Self { kind, key: key.to_string(), source: None }
    }

    /// A failure with what caused it.
    pub fn with_source(
        kind: ErrorKind,
        key: impl fmt::Display,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, key: key.to_string(), source: Some(Arc::from(source.into())) }
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The key (or prefix, or upload) of the operation.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether the key is definitely absent.
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }

    /// Whether a conditional write definitely did not happen because its condition failed.
    pub fn is_conflict(&self) -> bool {
        matches!(self.kind, ErrorKind::AlreadyExists | ErrorKind::Precondition)
    }
}

/// An error and everything that lies under it, on one line.
pub fn error_chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors repeat the words of their cause.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ErrorKind::NotFound => "not found",
            ErrorKind::AlreadyExists => "already exists",
            ErrorKind::Precondition => "changed by another writer",
            ErrorKind::OutOfRange => "range beyond the end",
            ErrorKind::TooLarge => "too large to read whole",
            ErrorKind::Throttled => "store asks to slow down",
            ErrorKind::Unavailable => "store unavailable",
            ErrorKind::Refused => "store refused",
            ErrorKind::Full => "store is full",
            ErrorKind::ReadOnly => "store is read-only",
        };
        write!(f, "{what}: {}", self.key)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Layer(&'static str, #[source] Option<Box<Layer>>);
        let error =
            Layer("top", Some(Box::new(Layer("middle", Some(Box::new(Layer("middle", None)))))));
        assert_eq!(error_chain(&error), "top: middle");
    }
}
