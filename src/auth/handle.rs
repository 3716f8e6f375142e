//! [`Authorized`]: the registry as far as one granted right reaches.

use std::sync::Arc;

use jreg_auth::{Identity, Reason};
use jreg_oci::{Algorithm, Descriptor, Digest, MountSource, Reference, RepositoryName, Tag};
use jreg_registry::{
    Blob, BlobReader, Chunk, Condition, Error, ManifestPush, PROTECTING_MANIFESTS_MAX,
    PROTECTING_TAGS_MAX, Page, PageRequest, Protection, PushedManifest, Repository, StoredManifest,
    Touch, UploadId, UploadProgress,
};

use super::{Credentialed, Denied, Gate, RefusedAccess, Right, Session};

/// Why an operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The right for it was not granted.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It was granted, and failed.
    #[error(transparent)]
    Registry(Box<jreg_registry::Error>),
}

impl From<jreg_registry::Error> for AccessError {
    fn from(error: jreg_registry::Error) -> Self {
        Self::Registry(Box::new(error))
    }
}

type Result<T> = std::result::Result<T, AccessError>;

/// The registry as far as one granted right reaches. Each method says which right it takes; with
/// any other it is [`Denied::Forbidden`].
#[derive(Clone, Debug)]
pub struct Authorized {
    gate: Gate,
    session: Session,
    right: Right,
    reason: Reason,
}

impl Authorized {
    pub(super) fn new(gate: Gate, session: Session, right: Right, reason: Reason) -> Self {
        Self { gate, session, right, reason }
    }

    /// Who asked.
    pub fn identity(&self) -> &Identity {
        &self.session.bearer.identity
    }

    /// By what the right was granted.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// The repository that the right is about, if it is a right to read.
    fn pull(&self) -> Result<Repository> {
        match &self.right {
            Right::Pull(name) => Ok(self.gate.registry.repository(name.clone())),
            Right::Enter
            | Right::List
            | Right::See(_)
            | Right::Mount(_)
            | Right::Push(_)
            | Right::Delete(_) => Err(self.forbidden()),
        }
    }

    /// The repository that the right is about, if it is a right to write.
    fn push(&self) -> Result<Repository> {
        match &self.right {
            Right::Push(name) => Ok(self.gate.registry.repository(name.clone())),
            Right::Enter
            | Right::List
            | Right::See(_)
            | Right::Mount(_)
            | Right::Pull(_)
            | Right::Delete(_) => Err(self.forbidden()),
        }
    }

    /// The repository that the right is about, if it is a right to delete.
    fn delete(&self) -> Result<Repository> {
        match &self.right {
            Right::Delete(name) => Ok(self.gate.registry.repository(name.clone())),
            Right::Enter
            | Right::List
            | Right::See(_)
            | Right::Mount(_)
            | Right::Pull(_)
            | Right::Push(_) => Err(self.forbidden()),
        }
    }

    /// Whether the asker has a further right.
    fn may(&self, right: &Right) -> bool {
        self.gate.authorizer.grant(&self.session, right).is_ok()
    }

    /// What an existence check does to what it finds: someone who may push will skip an upload on
    /// the answer, so it must stay for a while.
    fn touch(&self, name: &RepositoryName) -> Touch {
        if self.may(&Right::Push(name.clone())) { Touch::IfOld } else { Touch::Never }
    }

    /// The repositories; takes [`Right::List`]. Those that may not be pulled from are left out,
    /// so a page may be short of its limit and still have a next one, which begins after
    /// the last name that may be seen.
    pub async fn catalog(&self, page: &PageRequest) -> Result<Page<RepositoryName>> {
        if self.right != Right::List {
            return Err(self.forbidden());
        }
        let mut visible = Vec::new();
        let mut wanted = page.clone();
        // A page of hidden names only is followed at once: its end must not be named, and without
        // a name the listing would end there.
        loop {
            let Page { items, next } = self.gate.registry.catalog(&wanted).await?;
            visible.extend(self.gate.authorizer.visible(&self.session, items).await);
            if visible.is_empty() && next.is_some() {
                wanted.last = next;
                continue;
            }
            // After the last name that may be seen, the hidden ones behind it are met again.
            let next = next.and_then(|_| visible.last().map(ToString::to_string));
            return Ok(Page { items: visible, next });
        }
    }

    /// [`Repository::tags`]; takes [`Right::Pull`].
    pub async fn tags(&self, page: &PageRequest) -> Result<Page<Tag>> {
        Ok(self.pull()?.tags(page).await?)
    }

    /// [`Repository::referrers`]; takes [`Right::Pull`].
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        page: &PageRequest,
    ) -> Result<Page<Descriptor>> {
        Ok(self.pull()?.referrers(subject, artifact_type, page).await?)
    }

    /// [`Repository::blob_stat`]; takes [`Right::Pull`].
    pub async fn blob_stat(&self, digest: &Digest) -> Result<Blob> {
        let repository = self.pull()?;
        let touch = self.touch(repository.name());
        Ok(repository.blob_stat(digest, touch).await?)
    }

    /// [`Repository::blob_open`]; takes [`Right::Pull`].
    pub async fn blob_open(&self, digest: &Digest) -> Result<BlobReader> {
        Ok(self.pull()?.blob_open(digest).await?)
    }

    /// [`Repository::blob_delete`]; takes [`Right::Delete`], also of every tag whose manifest
    /// refers to the blob.
    pub async fn blob_delete(&self, digest: &Digest) -> Result<()> {
        let repository = self.delete()?;
        self.check_protection(&repository, digest).await?;
        Ok(repository.blob_delete(digest).await?)
    }

    /// [`Repository::blob_push`]; takes [`Right::Push`].
    pub async fn blob_push(&self, digest: &Digest, chunk: Chunk) -> Result<Blob> {
        Ok(self.push()?.blob_push(digest, chunk).await?)
    }

    /// Mounts a blob from where the client says, or from wherever it may be read; takes
    /// [`Right::Push`], and [`Right::Mount`] on the source, which is named with the blob. `None`: it
    /// is in no repository that may be read, which looks the same as one that does not exist.
    pub async fn blob_mount(
        &self,
        digest: &Digest,
        from: &MountSource,
    ) -> Result<Option<(Blob, RepositoryName)>> {
        let repository = self.push()?;
        let sources = match from {
            MountSource::Any => repository.mount_candidates(digest).await?,
            MountSource::Repository(name) => vec![name.clone()],
            MountSource::Unknown => Vec::new(),
        };
        for source in sources {
            if !self.may(&Right::Mount(source.clone())) {
                continue;
            }
            if let Some(blob) = repository.blob_mount(digest, &source).await? {
                return Ok(Some((blob, source)));
            }
        }
        Ok(None)
    }

    /// [`Repository::upload_start`]; takes [`Right::Push`].
    pub fn upload_start(&self, algorithm: Option<Algorithm>) -> Result<UploadId> {
        Ok(self.push()?.upload_start(algorithm))
    }

    /// [`Repository::upload_status`]; takes [`Right::Push`].
    pub async fn upload_status(&self, id: &UploadId) -> Result<UploadProgress> {
        Ok(self.push()?.upload_status(id).await?)
    }

    /// [`Repository::upload_append`]; takes [`Right::Push`].
    pub async fn upload_append(&self, id: &UploadId, chunk: Chunk) -> Result<UploadProgress> {
        Ok(self.push()?.upload_append(id, chunk).await?)
    }

    /// [`Repository::upload_finish`]; takes [`Right::Push`].
    pub async fn upload_finish(
        &self,
        id: &UploadId,
        digest: &Digest,
        chunk: Chunk,
    ) -> Result<Blob> {
        Ok(self.push()?.upload_finish(id, digest, chunk).await?)
    }

    /// [`Repository::upload_cancel`]; takes [`Right::Push`].
    pub async fn upload_cancel(&self, id: &UploadId) -> Result<()> {
        Ok(self.push()?.upload_cancel(id).await?)
    }

    /// [`Repository::manifest_get`] to read it; takes [`Right::Pull`].
    pub async fn manifest_get(&self, reference: &Reference) -> Result<Arc<StoredManifest>> {
        Ok(self.pull()?.manifest_get(reference, Touch::Never).await?)
    }

    /// [`Repository::manifest_get`] to learn whether it exists; takes [`Right::Pull`].
    pub async fn manifest_stat(&self, reference: &Reference) -> Result<Arc<StoredManifest>> {
        let repository = self.pull()?;
        let touch = self.touch(repository.name());
        Ok(repository.manifest_get(reference, touch).await?)
    }

    /// [`Repository::manifest_put`]; takes [`Right::Push`].
    pub async fn manifest_put(&self, push: ManifestPush) -> Result<PushedManifest> {
        Ok(self.push()?.manifest_put(push).await?)
    }

    /// [`Repository::manifest_delete_if`]; takes [`Right::Delete`]. By digest, it also takes that
    /// right of every tag that points to the manifest or to an index with it.
    pub async fn manifest_delete(
        &self,
        reference: &Reference,
        condition: Option<Condition>,
    ) -> Result<Vec<Tag>> {
        let repository = self.delete()?;
        if let Reference::Digest(digest) = reference {
            self.check_protection(&repository, digest).await?;
        }
        let may_remove = |tag: &Tag| self.may_delete_tag(tag);
        let deleted = repository.manifest_delete_if(reference, condition, &may_remove).await;
        deleted.map_err(|error| match error {
            Error::TagProtected { tag, .. } => self.protected_by(&tag),
            error => error.into(),
        })
    }

    fn may_delete_tag(&self, tag: &Tag) -> bool {
        self.gate.authorizer.grant_tag(&self.session, &self.right, tag).is_ok()
    }

    /// Refuses to delete by digest what a tag needs that the requester may not delete. Where all
    /// tags are equal before the rules, nothing is read.
    async fn check_protection(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        if !self.gate.authorizer.depends_on_tag(&self.session, &self.right) {
            return Ok(());
        }
        let may_remove = |tag: &Tag| self.may_delete_tag(tag);
        match repository.protection(digest, &may_remove).await? {
            Protection::None => Ok(()),
            Protection::Tag(tag) => Err(self.protected_by(&tag)),
            Protection::TooMany => Err(self.refused(format!(
                "the repository has more than {PROTECTING_TAGS_MAX} tags, or more than \
                 {PROTECTING_MANIFESTS_MAX} manifests below tags that may not be deleted; \
                 delete by tag"
            ))),
        }
    }

    /// The refusal of what a tag protects.
    fn protected_by(&self, tag: &Tag) -> AccessError {
        self.refused(format!("tag {tag} needs it and may not be deleted"))
    }

    fn refused(&self, cause: String) -> AccessError {
        let by = Credentialed::as_identity(self.identity());
        let access = RefusedAccess::new(by, &self.right).because(cause.clone());
        AccessError::Denied(Denied::Forbidden { access, reason: cause })
    }

    fn forbidden(&self) -> AccessError {
        self.refused("the handle is for another right".to_owned())
    }
}
