//! [`ImageSource`]: the images of a source, whatever its format.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jreg_oci::{Digest, MediaType, RepositoryName, Tag};

use crate::{Result, SourcePlace};

/// The largest manifest of a source, in bytes: more than any registry takes.
pub const MANIFEST_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A manifest that a source lists, with its tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceImage {
    /// `None`: the source does not name its images.
    pub repository: Option<RepositoryName>,
    pub digest: Digest,
    /// What the list of the source says; the manifest itself may not.
    pub media_type: Option<MediaType>,
    pub tags: Vec<Tag>,
}

/// Something that a source has and that cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedItem {
    pub item: String,
    pub reason: String,
}

/// What a source has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceIndex {
    /// Those with tags first, in each repository.
    pub images: Vec<SourceImage>,
    pub skipped: Vec<SkippedItem>,
    /// What tags pointed to before; nothing says in which order.
    pub earlier: BTreeMap<(RepositoryName, Tag), BTreeSet<Digest>>,
    /// Remarks for the operator.
    pub notes: Vec<String>,
}

impl SourceIndex {
    pub(crate) fn skip(&mut self, item: impl Into<String>, reason: impl Into<String>) {
        self.skipped.push(SkippedItem { item: item.into(), reason: reason.into() });
    }
}

/// A manifest as the source has it. Its digest is for the caller to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceManifest {
    /// If the source says so.
    pub media_type: Option<MediaType>,
    pub bytes: Bytes,
}

/// What a source says to a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundManifest {
    Found(SourceManifest),
    /// It is there, and cannot be imported.
    Skipped(String),
    Absent,
}

/// A blob of a source. Its digest is for the caller to check.
pub struct SourceBlob {
    pub size_bytes: u64,
    /// Where it lies as a whole, if it does.
    pub place: Option<SourcePlace>,
    pub stream: BoxStream<'static, io::Result<Bytes>>,
}

impl Debug for SourceBlob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceBlob").field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}

/// Where images come from.
#[async_trait]
pub trait ImageSource: Debug + Send + Sync + 'static {
    /// Everything that it lists.
    ///
    /// # Errors
    ///
    /// [`ArchiveError`](crate::ArchiveError).
    async fn index(&self) -> Result<SourceIndex>;

    /// Reads a manifest of a repository of [`ImageSource::index`].
    ///
    /// # Errors
    ///
    /// [`ArchiveError`](crate::ArchiveError).
    async fn manifest(
        &self,
        repository: Option<&RepositoryName>,
        digest: &Digest,
    ) -> Result<FoundManifest>;

    /// Opens a blob; `None` if the repository does not have it.
    ///
    /// # Errors
    ///
    /// [`ArchiveError`](crate::ArchiveError).
    async fn blob(
        &self,
        repository: Option<&RepositoryName>,
        digest: &Digest,
    ) -> Result<Option<SourceBlob>>;

    /// Manifests that refer to this one and that [`ImageSource::index`] may not list.
    ///
    /// # Errors
    ///
    /// [`ArchiveError`](crate::ArchiveError).
    async fn referrers(
        &self,
        _repository: Option<&RepositoryName>,
        _digest: &Digest,
    ) -> Result<Vec<Digest>> {
        Ok(Vec::new())
    }
}

/// Why a document is no manifest that can be imported; `None`: it may be one.
pub(crate) fn unsupported(media_type: Option<&str>, bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct DeclaredManifest {
        schema_version: Option<u64>,
        media_type: Option<String>,
    }
    let declared: Option<DeclaredManifest> = serde_json::from_slice(bytes).ok();
    let of_body = declared.as_ref().and_then(|declared| declared.media_type.as_deref());
    let is_schema_1 = declared.as_ref().is_some_and(|declared| declared.schema_version == Some(1))
        || media_type.or(of_body).is_some_and(|kind| kind.contains("distribution.manifest.v1+"));
    is_schema_1.then(|| {
        "it is an image of schema 1, which clients and registries have dropped: push it again"
            .to_owned()
    })
}
