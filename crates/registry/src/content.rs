//! What operations on a repository take and return: blobs, manifests, referrers, and the conditions on
//! them.

use bytes::Bytes;
use jreg_oci::{Digest, MediaType, Reference};

use crate::{Error, Result};

/// A blob of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub digest: Digest,
    pub size_bytes: u64,
}

/// Whether an existence check also touches what it found: for clients that may push and skip an
/// upload because of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TouchPolicy {
    /// Touch it if it is old.
    IfOld,
    /// Only check.
    Never,
}

/// A manifest as it was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredManifest {
    pub digest: Digest,
    /// Its media type as pushed.
    pub media_type: MediaType,
    /// The exact bytes that were pushed.
    pub bytes: Bytes,
    /// What it refers to as its subject (image-spec, `subject`).
    pub subject: Option<Digest>,
}

/// One entry of a list of referrers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// The manifest that refers to the subject.
    pub digest: Digest,
    /// What kind of artifact it is.
    pub artifact_type: Option<String>,
    /// Its descriptor (image-spec, "Content Descriptors"), as JSON text.
    pub json: Bytes,
}

/// A condition on what a tag or digest points to now (`If-Match`, `If-None-Match: *`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReferencePrecondition {
    /// It must exist and be one of these.
    IsOneOf(Vec<Digest>),
    /// It must exist.
    Exists,
    /// It must not exist.
    Absent,
}

impl ReferencePrecondition {
    /// Holds the condition against what `reference` points to.
    pub(crate) fn check(&self, reference: &Reference, current: Option<&Digest>) -> Result<()> {
        let holds = match (self, current) {
            (Self::IsOneOf(digests), Some(current)) => digests.contains(current),
            (Self::Exists, current) => current.is_some(),
            (Self::Absent, current) => current.is_none(),
            (Self::IsOneOf(_), None) => false,
        };
        if holds {
            return Ok(());
        }
        self.fail(reference, current)
    }

    pub(crate) fn fail(&self, reference: &Reference, current: Option<&Digest>) -> Result<()> {
        let (reference, current) = (reference.clone(), current.cloned());
        Err(Error::PreconditionFailed { reference, current })
    }
}
