//! Manifests.
use bytes::Bytes;
use std::sync::Arc;
use jreg_oci::{Digest, MediaType, Reference, Tag};
use crate::*;

/// A manifest as it was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredManifest {
    /// Its digest.
    pub digest: Digest,
    /// Its media type as pushed.
    pub media_type: MediaType,
    /// The exact bytes that were pushed.
    pub bytes: Bytes,
}

/// A condition on what a tag or digest points to now (`If-Match`, `If-None-Match: *`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It must exist and be one of these.
    IsOneOf(Vec<Digest>),
    /// It must exist.
    Exists,
    /// It must not exist.
    Absent,
}

/// A manifest to push.
#[derive(Clone, Debug)]
pub struct ManifestPush {
    /// The tag or digest in the path.
    pub reference: Reference,
    /// Further tags, with a digest in the path (end-7b).
    pub tags: Vec<Tag>,
    /// The Content-Type, if one was given.
    pub media_type: Option<MediaType>,
    /// The exact bytes.
    pub bytes: Bytes,
    /// What must hold of `reference` for the push to happen.
    pub condition: Option<Condition>,
}

/// What a push made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedManifest {
    /// The manifest's digest.
    pub digest: Digest,
    /// Its subject, if it has one (`OCI-Subject`).
    pub subject: Option<Digest>,
    /// The tags of [`ManifestPush::tags`] that were written (`OCI-Tag`).
    pub tags: Vec<Tag>,
}

impl Repository {
    /// Reads a manifest (end-3).
    pub async fn manifest_get(&self, _reference: &Reference, _touch: Touch) -> Result<Arc<StoredManifest>> { todo!() }
    /// Stores a manifest (end-7).
    pub async fn manifest_put(&self, _push: ManifestPush) -> Result<PushedManifest> { todo!() }
    /// Removes a tag, or a manifest with its tags and its referrer entry (end-9).
    pub async fn manifest_delete(&self, _reference: &Reference, _condition: Option<Condition>) -> Result<()> { todo!() }
}
