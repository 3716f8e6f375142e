//! [`Authorized`]: the registry as far as one granted right reaches.

use std::sync::Arc;

use jreg_auth::{CONDITIONS_EVALUATED_MAX, DecisionReason, Identity, cursor_key_id};
use jreg_oci::{Algorithm, Digest, MountSource, Reference, RepositoryName, Tag};
use jreg_registry::{
    Blob, BlobReader, DeleteProtection, Error, LIST_KEYS_MAX, ManifestPush, PROTECTING_RECORDS_MAX,
    PROTECTING_TAGS_MAX, PageRequest, PushedManifest, ReferencePrecondition, Referrer, Repository,
    ResultPage, StoredManifest, TouchPolicy, UploadChunk, UploadId, UploadProgress,
    list_requests_max,
};

use super::{AuthContext, AuthError, Credentialed, Gate, RefusedAccess, Right};

/// The most names of the catalog that one page decides about, or its limit if that is more: rules with
/// conditions take their time.
pub const CATALOG_NAMES_EXAMINED_MAX: usize = 1000;

/// Why an operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The place to go on from is none, or none any more.
    #[error("the cursor in \"last\" is invalid or has expired: restart the listing without it")]
    Cursor,
    /// The right for it was not granted.
    #[error(transparent)]
    Denied(#[from] AuthError),
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
/// any other it is [`AuthError::Forbidden`].
#[derive(Clone, Debug)]
pub struct Authorized {
    gate: Gate,
    auth: AuthContext,
    right: Right,
    reason: DecisionReason,
}

impl Authorized {
    pub(super) fn new(gate: Gate, auth: AuthContext, right: Right, reason: DecisionReason) -> Self {
        Self { gate, auth, right, reason }
    }

    /// Who asked.
    pub fn identity(&self) -> &Identity {
        &self.auth.bearer.identity
    }

    /// By what the right was granted.
    pub fn reason(&self) -> &DecisionReason {
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
        self.gate.authorizer.grant(&self.auth, right).is_ok()
    }

    /// What an existence check does to what it finds: someone who may push will skip an upload on
    /// the answer, so it must stay for a while.
    fn touch(&self, name: &RepositoryName) -> TouchPolicy {
        if self.may(&Right::Push(name.clone())) { TouchPolicy::IfOld } else { TouchPolicy::Never }
    }

    /// The repositories; takes [`Right::List`]. Those that may not be pulled from are left out. A
    /// page looks at [`CATALOG_NAMES_EXAMINED_MAX`] names at the most: it may be short of its limit,
    /// or empty, and still have a next one. That begins after the last name that may be seen, or where
    /// none may, at a cursor that tells nothing.
    pub async fn catalog(&self, page: &PageRequest) -> Result<ResultPage<RepositoryName>> {
        if self.right != Right::List {
            return Err(self.forbidden());
        }
        let mut wanted = PageRequest { limit: page.limit, last: self.place(&page.last).await? };
        let mut visible: Vec<RepositoryName> = Vec::new();
        let examined_max = page.limit.max(CATALOG_NAMES_EXAMINED_MAX);
        let mut examined = 0;
        let mut place = None;
        for _ in 0..list_requests_max(page.limit) {
            // Names are asked for one store request at a time: how many are needed is not known.
            let ResultPage { items: mut names, next } =
                self.gate.registry.catalog_within(&wanted, 1).await?;
            let more = next.is_some() || names.len() > examined_max - examined;
            names.truncate(examined_max - examined);
            examined += names.len();
            let seen = self.gate.authorizer.visible(&self.auth, names.clone()).await;
            let (mut seen, count) = (seen.into_iter().peekable(), names.len());
            for (index, name) in names.into_iter().enumerate() {
                if visible.len() == page.limit {
                    return self.cut(visible, place).await;
                }
                visible.extend(seen.next_if_eq(&name));
                place = (more || index + 1 < count).then_some(name);
            }
            if !more {
                return Ok(ResultPage { items: visible, next: None });
            }
            if examined == examined_max {
                break;
            }
            let Some(next) = next else { break };
            place = next.parse().ok().or(place);
            if visible.len() == page.limit {
                break;
            }
            wanted = PageRequest { limit: LIST_KEYS_MAX, last: Some(next) };
        }
        self.cut(visible, place).await
    }

    /// A page of the catalog that has a next one after `place`.
    async fn cut(
        &self,
        items: Vec<RepositoryName>,
        place: Option<RepositoryName>,
    ) -> Result<ResultPage<RepositoryName>> {
        // After the last name that may be seen, the hidden ones behind it are met again.
        let next = match (items.last(), place) {
            (Some(last), Some(_)) => Some(last.to_string()),
            (None, Some(place)) => Some(self.gate.authorizer.catalog_cursor(&place).await?),
            (_, None) => None,
        };
        Ok(ResultPage { items, next })
    }

    /// Where a page of the catalog begins: after a name, or what a cursor stands for.
    async fn place(&self, last: &Option<String>) -> Result<Option<String>> {
        let Some(cursor) = last.as_deref().filter(|last| cursor_key_id(last).is_some()) else {
            return Ok(last.clone());
        };
        match self.gate.authorizer.catalog_place(cursor).await? {
            Some(name) => Ok(Some(name.to_string())),
            None => Err(AccessError::Cursor),
        }
    }

    /// [`Repository::tags`]; takes [`Right::Pull`].
    pub async fn tags(&self, page: &PageRequest) -> Result<ResultPage<Tag>> {
        Ok(self.pull()?.tags(page).await?)
    }

    /// [`Repository::referrers`]; takes [`Right::Pull`].
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        page: &PageRequest,
    ) -> Result<ResultPage<Referrer>> {
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
    pub async fn blob_push(&self, digest: &Digest, chunk: UploadChunk) -> Result<Blob> {
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
    pub async fn upload_append(&self, id: &UploadId, chunk: UploadChunk) -> Result<UploadProgress> {
        Ok(self.push()?.upload_append(id, chunk).await?)
    }

    /// [`Repository::upload_finish`]; takes [`Right::Push`].
    pub async fn upload_finish(
        &self,
        id: &UploadId,
        digest: &Digest,
        chunk: UploadChunk,
    ) -> Result<Blob> {
        Ok(self.push()?.upload_finish(id, digest, chunk).await?)
    }

    /// [`Repository::upload_cancel`]; takes [`Right::Push`].
    pub async fn upload_cancel(&self, id: &UploadId) -> Result<()> {
        Ok(self.push()?.upload_cancel(id).await?)
    }

    /// [`Repository::manifest_get`] to read it; takes [`Right::Pull`].
    pub async fn manifest_get(&self, reference: &Reference) -> Result<Arc<StoredManifest>> {
        Ok(self.pull()?.manifest_get(reference, TouchPolicy::Never).await?)
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
    /// right of every tag that points to the manifest or to an index with it. The tags that go are
    /// added to `removed`, also if it fails after that.
    pub async fn manifest_delete(
        &self,
        reference: &Reference,
        condition: Option<ReferencePrecondition>,
        removed: &mut Vec<Tag>,
    ) -> Result<()> {
        let repository = self.delete()?;
        if let Reference::Digest(digest) = reference {
            self.check_protection(&repository, digest).await?;
        }
        let may_remove = |tag: &Tag| self.may_delete_tag(tag);
        let deleted = repository.manifest_delete_if(reference, condition, &may_remove, removed);
        deleted.await.map_err(|error| match error {
            Error::TagProtected { tag, .. } => self.protected_by(&tag),
            error => error.into(),
        })
    }

    fn may_delete_tag(&self, tag: &Tag) -> bool {
        self.gate.authorizer.grant_tag(&self.auth, &self.right, tag).is_ok()
    }

    /// Refuses to delete by digest what a tag needs that the requester may not delete. Where all
    /// tags are equal before the rules, nothing is read.
    async fn check_protection(&self, repository: &Repository, digest: &Digest) -> Result<()> {
        if !self.gate.authorizer.depends_on_tag(&self.auth, &self.right) {
            return Ok(());
        }
        let denied = match repository.list_all_tags().await? {
            Some(tags) => self.gate.authorizer.denied_tags(&self.auth, &self.right, tags).await,
            None => None,
        };
        let protection = match denied {
            Some(tags) => repository.find_protection(digest, tags).await?,
            None => DeleteProtection::TooMany,
        };
        match protection {
            DeleteProtection::None => Ok(()),
            DeleteProtection::Tag(tag) => Err(self.protected_by(&tag)),
            DeleteProtection::TooMany => Err(self.refused(format!(
                "the repository has more than {PROTECTING_TAGS_MAX} tags, or more than \
                 {PROTECTING_RECORDS_MAX} tags that may not be deleted and manifests below them, or \
                 rules with {CONDITIONS_EVALUATED_MAX} conditions or more on its tags; delete by tag"
            ))),
        }
    }

    /// The refusal of what a tag protects.
    fn protected_by(&self, tag: &Tag) -> AccessError {
        self.refused(format!("tag {tag} references it and may not be deleted"))
    }

    fn refused(&self, cause: String) -> AccessError {
        let by = Credentialed::as_identity(self.identity());
        let access = RefusedAccess::new(by, &self.right).because(cause.clone());
        AccessError::Denied(AuthError::Forbidden { access, reason: cause })
    }

    fn forbidden(&self) -> AccessError {
        self.refused("the request has another permission".to_owned())
    }
}
