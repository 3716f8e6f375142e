//! [`MirroredHandle`]: access to one repository of a mirrored registry.

use jreg_mirror::{
    MirrorError, MirrorRepository, MirroredBlob, MirroredManifest, MirroredReferrers, MirroredTags,
    RequestedMethod,
};
use jreg_oci::{Digest, Reference};
use jreg_registry::PageRequest;

use super::handle::{AccessError, Authorized, Result};
use super::{AuthError, Right};

/// Access to a repository of a mirrored registry, for a client that may pull from it.
#[derive(Clone, Debug)]
pub struct MirroredHandle {
    mirror: MirrorRepository,
    /// Whether the client may have the mirrored registry asked, or why not.
    fetch: std::result::Result<(), AuthError>,
}

impl Authorized {
    /// The mirror that the repository belongs to, if it does; requires [`Right::Pull`].
    ///
    /// # Errors
    ///
    /// [`AuthError::Forbidden`].
    pub fn mirrored(&self) -> Result<Option<MirroredHandle>> {
        let Some(mirrors) = &self.gate.mirrors else { return Ok(None) };
        let Right::Pull(name) = &self.right else { return Err(self.forbidden()) };
        let Some(mirror) = mirrors.repository(name) else { return Ok(None) };
        let fetch = self.gate.authorizer.grant(&self.auth, &Right::Fetch(name.clone()));
        Ok(Some(MirroredHandle { mirror, fetch: fetch.map(|_| ()) }))
    }

    /// Evicts a tag or a manifest of a mirror; requires [`Right::Delete`]. `None`: the repository is none.
    pub(super) async fn evict(&self, reference: &Reference) -> Option<Result<()>> {
        let Right::Delete(name) = &self.right else { return None };
        let mirror = self.gate.mirrors.as_ref()?.repository(name)?;
        Some(mirror.evict(reference).await.map_err(|error| AccessError::Mirror(Box::new(error))))
    }
}

impl MirroredHandle {
    /// Reads a manifest.
    pub async fn manifest(
        &self,
        reference: &Reference,
        method: RequestedMethod,
    ) -> Result<MirroredManifest> {
        self.settle(self.mirror.manifest(reference, method, self.may_fetch()).await)
    }

    /// The size of a blob.
    pub async fn blob_size(&self, digest: &Digest) -> Result<u64> {
        self.settle(self.mirror.blob_size(digest, self.may_fetch()).await)
    }

    /// Opens a blob.
    pub async fn blob_open(&self, digest: &Digest) -> Result<MirroredBlob> {
        self.settle(self.mirror.blob_open(digest, self.may_fetch()).await)
    }

    /// The referrers of a manifest.
    pub async fn referrers(&self, subject: &Digest) -> Result<MirroredReferrers> {
        self.settle(self.mirror.referrers(subject, self.may_fetch()).await)
    }

    /// A page of the tags.
    pub async fn tags(&self, page: &PageRequest) -> Result<MirroredTags> {
        self.settle(self.mirror.tags(page, self.may_fetch()).await)
    }

    fn may_fetch(&self) -> bool {
        self.fetch.is_ok()
    }

    fn settle<T>(&self, result: std::result::Result<T, MirrorError>) -> Result<T> {
        result.map_err(|error| match (error, &self.fetch) {
            (MirrorError::FetchRefused, Err(refused)) => AccessError::Denied(refused.clone()),
            (error, _) => AccessError::Mirror(Box::new(error)),
        })
    }
}
