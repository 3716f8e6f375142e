//! Uploads.
use std::{fmt, str::FromStr};
use jreg_oci::{Algorithm, Digest};
use crate::*;

/// The id of an upload: a UUIDv7, and the digest algorithm if one was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UploadId;
impl fmt::Display for UploadId { fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result { todo!() } }
/// Not an upload id.
#[derive(Clone, Debug, thiserror::Error)]
#[error("not an upload id")]
pub struct InvalidUploadId;
impl FromStr for UploadId { type Err = InvalidUploadId; fn from_str(_: &str) -> std::result::Result<Self, InvalidUploadId> { todo!() } }

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadProgress {
    /// How many bytes are stored: where the next chunk starts.
    pub offset: u64,
}

impl Repository {
    /// Begins an upload; makes no store request.
    pub fn upload_start(&self, _algorithm: Option<Algorithm>) -> UploadId { todo!() }
    /// How far an upload is (end-13).
    pub async fn upload_status(&self, _id: &UploadId) -> Result<UploadProgress> { todo!() }
    /// Appends to an upload (end-5).
    pub async fn upload_append(&self, _id: &UploadId, _chunk: Chunk) -> Result<UploadProgress> { todo!() }
    /// Appends the last bytes, if any, and makes the blob of the upload (end-6).
    pub async fn upload_finish(&self, _id: &UploadId, _digest: &Digest, _chunk: Chunk) -> Result<Blob> { todo!() }
    /// Gives an upload up (end-14). Again is fine.
    pub async fn upload_cancel(&self, _id: &UploadId) -> Result<()> { todo!() }
}
