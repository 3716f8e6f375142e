//! [`ArchiveError`]: why a source cannot be read.

use std::io;

pub type Result<T, E = ArchiveError> = std::result::Result<T, E>;

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("cannot read {what}")]
    Io { what: String, source: io::Error },
    /// A member of an archive is none that an image has, or one that programs read differently.
    #[error("the archive is refused: member {name:?} {reason}")]
    Member { name: String, reason: &'static str },
    /// It is not a tar archive, or it is cut or damaged.
    #[error("the archive is damaged at byte {offset}: {reason}")]
    Damaged { offset: u64, reason: String },
    /// A limit that keeps small archives from filling disk or memory.
    #[error("the archive is refused: {reason}")]
    TooLarge { reason: String },
    /// A document of the source cannot be understood.
    #[error("{path} is invalid: {reason}")]
    Document { path: String, reason: String },
    /// Nothing that is known was found.
    #[error(
        "{place} is no source of images: expected an OCI image layout, an archive of docker save, the storage \
         of distribution, Harbor or zot, or a folder or bucket of jreg"
    )]
    Unknown { place: String },
}

impl ArchiveError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(crate) fn document(path: &str, reason: impl ToString) -> Self {
        Self::Document { path: path.to_owned(), reason: reason.to_string() }
    }
}
