//! The registry's domain over any store. See `registry.rs` for the value a caller starts with.

mod blob;
mod body;
mod error;
mod manifest;
mod options;
mod page;
mod registry;
mod upload;

pub use blob::{Blob, BlobReader, Touch};
pub use body::{BodyError, BodyStream, Chunk};
pub use error::{Error, Result};
pub use manifest::{Condition, ManifestPush, PushedManifest, StoredManifest};
pub use options::{Limits, Options, ReferencePolicy};
pub use page::{Page, PageRequest};
pub use registry::{OpenError, Registry, Repository};
pub use upload::{UploadId, UploadProgress};
