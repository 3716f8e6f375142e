//! [`Authorized`]: access to the registry limited to one granted right.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use jreg_auth::{CONDITIONS_EVALUATED_MAX, DecisionReason, Identity, cursor_key_id};
use jreg_mirror::MirrorError;
use jreg_oci::{Algorithm, Digest, MountSource, Reference, RepositoryName, Tag};
use jreg_registry::{
    Blob, BlobReader, ChangeOrigin, ContentSharing, DeleteProtection, DeletedManifest, Error,
    ExplainReport, GcOptions, LIST_KEYS_MAX, ListedUpload, ManifestDetails, ManifestPush,
    MaySetTag, PROTECTING_RECORDS_MAX, PROTECTING_TAGS_MAX, PageRequest, PoolUsage, PushedManifest,
    ReferencePrecondition, Referrer, Repository, RepositoryUsage, RestoredManifest, ResultPage,
    RetentionError, RetentionOptions, RetentionPreview, SharingLimits, StoredManifest, TagDetails,
    TagHistoryEntry, TagList, TagSummary, TagTransition, TouchPolicy, UploadChunk, UploadId,
    UploadProgress, list_requests_max,
};

use super::{AuthContext, AuthError, CredentialState, RefusedAccess, RegistryGate, Right};

/// Maximum number of names that one catalog page examines, unless its limit is larger: policy
/// conditions cost CPU time.
pub const CATALOG_NAMES_EXAMINED_MAX: usize = 1000;

/// Maximum number of repositories whose bytes one request counts.
pub const USAGE_REPOSITORIES_MAX: usize = 100;

/// Maximum number of names that one search examines: policy conditions cost CPU time.
pub const SEARCH_NAMES_EXAMINED_MAX: usize = 2000;
/// Names of a search that are examined before it looks whether it has enough.
const SEARCH_NAMES_AT_ONCE: usize = 100;
/// Maximum number of similar names that a search suggests if it finds fewer.
const SUGGESTIONS_MAX: usize = 8;
/// Maximum number of unfinished uploads that one request shows.
const UPLOADS_SHOWN_MAX: usize = 200;

/// What a search finds among the repositories that the identity may pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepositorySearch {
    /// The best first.
    pub found: Vec<RepositoryName>,
    /// Whether there may be more of them.
    pub has_more: bool,
    /// Similar names, if few were found.
    pub suggestions: Vec<RepositoryName>,
    /// Whether all repositories were looked at.
    pub is_whole: bool,
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The catalog cursor is invalid or has expired.
    #[error("the cursor in \"last\" is invalid or has expired: restart the listing without it")]
    Cursor,
    /// The right was not granted.
    #[error(transparent)]
    Denied(#[from] AuthError),
    /// The operation failed.
    #[error(transparent)]
    Registry(Box<jreg_registry::Error>),
    /// The operation failed at a mirror.
    #[error(transparent)]
    Mirror(Box<MirrorError>),
}

impl From<jreg_registry::Error> for AccessError {
    fn from(error: jreg_registry::Error) -> Self {
        Self::Registry(Box::new(error))
    }
}

pub(super) type Result<T> = std::result::Result<T, AccessError>;

/// Access to the registry limited to one granted right. Each method documents the right it
/// requires; any other right is [`AuthError::Forbidden`].
#[derive(Clone, Debug)]
pub struct Authorized {
    pub(super) gate: RegistryGate,
    pub(super) auth: AuthContext,
    pub(super) right: Right,
    reason: DecisionReason,
}

impl Authorized {
    pub(super) fn new(
        gate: RegistryGate,
        auth: AuthContext,
        right: Right,
        reason: DecisionReason,
    ) -> Self {
        Self { gate, auth, right, reason }
    }

    /// The authenticated identity.
    pub fn identity(&self) -> &Identity {
        &self.auth.principal.identity
    }

    /// Why the right was granted.
    pub fn reason(&self) -> &DecisionReason {
        &self.reason
    }

    /// The repository of the right, if it is [`Right::Pull`].
    fn pull(&self) -> Result<Repository> {
        match &self.right {
            Right::Pull(name) => Ok(self.gate.registry.repository(name.clone())),
            Right::Enter
            | Right::List
            | Right::See(_)
            | Right::Mount(_)
            | Right::Push(_)
            | Right::Delete(_)
            | Right::Fetch(_)
            | Right::Admin => Err(self.forbidden()),
        }
    }

    /// The same repository; of a mirror, with the tags that were pulled through it.
    fn shown(&self) -> Result<Repository> {
        let repository = self.pull()?;
        let mirror = self.gate.mirrors.as_ref();
        match mirror.and_then(|mirrors| mirrors.repository(repository.name())) {
            Some(mirror) if !mirror.is_local() => Ok(repository.showing_mirrored_tags()),
            _ => Ok(repository),
        }
    }

    /// The repository of the right, if it is [`Right::Push`].
    fn push(&self) -> Result<Repository> {
        match &self.right {
            Right::Push(name) => Ok(self.changing(name)),
            Right::Enter
            | Right::List
            | Right::See(_)
            | Right::Mount(_)
            | Right::Pull(_)
            | Right::Delete(_)
            | Right::Fetch(_)
            | Right::Admin => Err(self.forbidden()),
        }
    }

    /// The repository of the right, if it is [`Right::Delete`].
    fn delete(&self) -> Result<Repository> {
        match &self.right {
            Right::Delete(name) => Ok(self.changing(name)),
            Right::Enter
            | Right::List
            | Right::See(_)
            | Right::Mount(_)
            | Right::Pull(_)
            | Right::Push(_)
            | Right::Fetch(_)
            | Right::Admin => Err(self.forbidden()),
        }
    }

    /// A repository whose changes name the identity and the request.
    fn changing(&self, name: &RepositoryName) -> Repository {
        let request = self.auth.request_info.request_id.as_deref().unwrap_or_default();
        let origin = ChangeOrigin::request(&self.identity().to_string(), request);
        self.gate.registry.repository(name.clone()).changed_by(origin)
    }

    /// Whether the identity has a further right.
    fn may(&self, right: &Right) -> bool {
        self.gate.authorizer.grant(&self.auth, right).is_ok()
    }

    /// Whether an existence check touches the records it finds. A client that may push skips an
    /// upload when the blob exists, so the blob must stay for a while.
    fn touch(&self, name: &RepositoryName) -> TouchPolicy {
        if self.may(&Right::Push(name.clone())) { TouchPolicy::IfOld } else { TouchPolicy::Never }
    }

    /// Lists the repositories that the identity may pull; requires [`Right::List`]. A page examines
    /// at most [`CATALOG_NAMES_EXAMINED_MAX`] names: it may be short, or empty, and still have a
    /// next page. The next page begins after the last visible name, or at an encrypted cursor if
    /// none is visible.
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
            // One store page at a time: how many names are needed is not known in advance.
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

    /// How many bytes the repositories of a catalog page hold, at most [`USAGE_REPOSITORIES_MAX`] of
    /// them; requires [`Right::List`]. Counted by reading, for few requests at the same time.
    pub async fn usage(&self, page: &PageRequest) -> Result<ResultPage<RepositoryUsage>> {
        let limit = page.limit.min(USAGE_REPOSITORIES_MAX);
        let catalog = PageRequest { limit, last: page.last.clone() };
        let ResultPage { items: names, next } = self.catalog(&catalog).await?;
        let _slot = self.gate.registry.usage_slot()?;
        let uploads = self.gate.registry.open_uploads().await?;
        let mut items = Vec::with_capacity(names.len());
        for name in names {
            items.push(self.gate.registry.repository(name).storage_usage(&uploads).await?);
        }
        Ok(ResultPage { items, next })
    }

    /// Searches the names of the repositories that the identity may pull; requires [`Right::List`]. It finds at
    /// most `limit`, and examines at most [`SEARCH_NAMES_EXAMINED_MAX`] names.
    pub async fn search(&self, query: &str, limit: usize) -> Result<RepositorySearch> {
        if self.right != Right::List {
            return Err(self.forbidden());
        }
        let matches = self.gate.registry.search_catalog(query, SEARCH_NAMES_EXAMINED_MAX).await?;
        let mut left = SEARCH_NAMES_EXAMINED_MAX;
        let mut search = RepositorySearch { is_whole: matches.is_whole, ..Default::default() };
        (search.found, search.has_more) = self.first_visible(matches.found, limit, &mut left).await;
        if search.found.len() < SUGGESTIONS_MAX {
            let suggestions = self.first_visible(matches.similar, SUGGESTIONS_MAX, &mut left);
            search.suggestions = suggestions.await.0;
        }
        Ok(search)
    }

    /// The first names that the identity sees, and whether others were not examined.
    async fn first_visible(
        &self,
        names: Vec<RepositoryName>,
        limit: usize,
        left: &mut usize,
    ) -> (Vec<RepositoryName>, bool) {
        let mut seen = Vec::new();
        let mut has_more = false;
        for chunk in names.chunks(SEARCH_NAMES_AT_ONCE) {
            let examined = chunk.len().min(*left);
            if examined == 0 || seen.len() >= limit {
                has_more = true;
                break;
            }
            *left -= examined;
            let chunk = chunk.iter().take(examined).cloned().collect();
            seen.extend(self.gate.authorizer.visible(&self.auth, chunk).await);
        }
        has_more |= seen.len() > limit;
        seen.truncate(limit);
        (seen, has_more)
    }

    /// A catalog page whose next page begins after `place`.
    async fn cut(
        &self,
        items: Vec<RepositoryName>,
        place: Option<RepositoryName>,
    ) -> Result<ResultPage<RepositoryName>> {
        // After the last visible name: the next page examines the hidden names behind it again.
        let next = match (items.last(), place) {
            (Some(last), Some(_)) => Some(last.to_string()),
            (None, Some(place)) => Some(self.gate.authorizer.catalog_cursor(&place).await?),
            (_, None) => None,
        };
        Ok(ResultPage { items, next })
    }

    /// The name that a catalog page begins after, decrypted if it is a cursor.
    async fn place(&self, last: &Option<String>) -> Result<Option<String>> {
        let Some(cursor) = last.as_deref().filter(|last| cursor_key_id(last).is_some()) else {
            return Ok(last.clone());
        };
        match self.gate.authorizer.open_catalog_cursor(cursor).await? {
            Some(name) => Ok(Some(name.to_string())),
            None => Err(AccessError::Cursor),
        }
    }

    /// [`Repository::tags`]; requires [`Right::Pull`].
    pub async fn tags(&self, page: &PageRequest) -> Result<ResultPage<Tag>> {
        Ok(self.shown()?.tags(page).await?)
    }

    /// [`Repository::tag_details`]; requires [`Right::Pull`].
    pub async fn tag_details(&self, tags: Vec<Tag>) -> Result<Vec<TagDetails>> {
        Ok(self.shown()?.tag_details(tags).await?)
    }

    /// [`Repository::last_pulls`]; requires [`Right::Pull`].
    pub async fn last_pulls(&self, tags: &[(Tag, Digest)]) -> Result<Vec<Option<SystemTime>>> {
        Ok(self.pull()?.last_pulls(tags).await?)
    }

    /// [`Repository::deleted_tags`]; requires [`Right::Delete`].
    pub async fn deleted_tags(&self, page: &PageRequest) -> Result<ResultPage<Tag>> {
        Ok(self.delete()?.deleted_tags(page).await?)
    }

    /// [`Repository::quota_usage`]; requires [`Right::Push`].
    pub fn quota_usage(&self) -> Result<Vec<PoolUsage>> {
        Ok(self.push()?.quota_usage())
    }

    /// [`Repository::tag_summary`]; requires [`Right::Pull`].
    pub async fn tag_summary(&self) -> Result<TagSummary> {
        Ok(self.shown()?.tag_summary().await?)
    }

    /// [`Repository::tag_list`]; requires [`Right::Pull`].
    pub async fn tag_list(&self) -> Result<Arc<TagList>> {
        Ok(self.shown()?.tag_list().await?)
    }

    /// [`Repository::tags_of_manifest`]; requires [`Right::Pull`].
    pub async fn tags_of_manifest(
        &self,
        digest: &Digest,
        limit: usize,
    ) -> Result<(Vec<Tag>, bool)> {
        Ok(self.pull()?.tags_of_manifest(digest, limit).await?)
    }

    /// [`Repository::manifests`]; requires [`Right::Pull`].
    pub async fn manifests(
        &self,
        page: &PageRequest,
        tags_max: usize,
    ) -> Result<ResultPage<ManifestDetails>> {
        Ok(self.pull()?.manifests(page, tags_max).await?)
    }

    /// [`Repository::explain_here`]; requires [`Right::Pull`].
    pub async fn explain(
        &self,
        digest: &Digest,
        options: &GcOptions,
    ) -> Result<Option<ExplainReport>> {
        Ok(self.pull()?.explain_here(digest, options).await?)
    }

    /// [`Repository::preview_retention`]; requires [`Right::Pull`].
    pub async fn preview_retention(&self, options: &RetentionOptions) -> Result<RetentionPreview> {
        match self.pull()?.preview_retention(options).await {
            Ok(preview) => Ok(preview),
            Err(RetentionError::Registry(error)) => Err(error.into()),
            // Only of plans.
            Err(_) => Ok(RetentionPreview::default()),
        }
    }

    /// [`Repository::manifest_in_memory`]; `None` also without [`Right::Pull`].
    pub fn cached_manifest(&self, digest: &Digest) -> Option<Arc<StoredManifest>> {
        self.pull().ok()?.manifest_in_memory(digest)
    }

    /// What the repository holds ([`Repository::storage_usage`]), counted by reading, for few requests at the same
    /// time; requires [`Right::Pull`].
    pub async fn repository_usage(&self) -> Result<RepositoryUsage> {
        let repository = self.pull()?;
        let _slot = self.gate.registry.usage_slot()?;
        let uploads = self.gate.registry.open_uploads().await?;
        Ok(repository.storage_usage(&uploads).await?)
    }

    /// Which content of an image, or of the whole repository, is needed elsewhere
    /// ([`Repository::content_sharing`]); requires [`Right::Pull`]. Repositories that the identity may not pull are
    /// left out, and those that are too many to examine.
    pub async fn content_sharing(
        &self,
        image: Option<&Digest>,
        limits: SharingLimits,
    ) -> Result<Option<ContentSharing>> {
        let repository = self.pull()?;
        let _slot = match limits == SharingLimits::SMALL {
            true => None,
            false => Some(self.gate.registry.usage_slot()?),
        };
        let Some(mut found) = repository.content_sharing(image, limits).await? else {
            return Ok(None);
        };
        let names = found.listed.iter().flat_map(|blob| blob.repositories.iter().cloned());
        let names: BTreeSet<RepositoryName> = names.collect();
        let names = names.into_iter().take(SEARCH_NAMES_EXAMINED_MAX).collect();
        let visible = self.gate.authorizer.visible(&self.auth, names).await;
        let visible: BTreeSet<RepositoryName> = visible.into_iter().collect();
        for blob in &mut found.listed {
            blob.repositories.retain(|name| visible.contains(name));
        }
        Ok(Some(found))
    }

    /// The unfinished uploads of the repositories that the identity may pull; requires [`Right::List`].
    pub async fn uploads(&self) -> Result<Vec<ListedUpload>> {
        if self.right != Right::List {
            return Err(self.forbidden());
        }
        let _slot = self.gate.registry.usage_slot()?;
        let listed = self.gate.registry.list_sessions().await?;
        let sees = |upload: &ListedUpload| {
            let name = upload.repository.as_ref();
            name.is_some_and(|name| self.may(&Right::See(name.clone())))
        };
        let listed = listed.into_iter().filter(sees);
        Ok(listed.take(UPLOADS_SHOWN_MAX).collect())
    }

    /// [`Repository::referrers`]; requires [`Right::Pull`].
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        page: &PageRequest,
    ) -> Result<ResultPage<Referrer>> {
        Ok(self.pull()?.referrers(subject, artifact_type, page).await?)
    }

    /// [`Repository::blob_stat`]; requires [`Right::Pull`].
    pub async fn blob_stat(&self, digest: &Digest) -> Result<Blob> {
        let repository = self.pull()?;
        let touch = self.touch(repository.name());
        Ok(repository.blob_stat(digest, touch).await?)
    }

    /// [`Repository::blob_open`]; requires [`Right::Pull`].
    pub async fn blob_open(&self, digest: &Digest) -> Result<BlobReader> {
        Ok(self.pull()?.blob_open(digest).await?)
    }

    /// [`Repository::blob_delete`]; requires [`Right::Delete`], also for every tag whose manifest
    /// references the blob.
    pub async fn blob_delete(&self, digest: &Digest) -> Result<()> {
        let repository = self.delete()?;
        self.check_protection(&repository, digest).await?;
        Ok(repository.blob_delete(digest).await?)
    }

    /// [`Repository::blob_push`]; requires [`Right::Push`].
    pub async fn blob_push(&self, digest: &Digest, chunk: UploadChunk) -> Result<Blob> {
        Ok(self.push()?.blob_push(digest, chunk).await?)
    }

    /// Mounts a blob from the given source, or from any readable repository; requires
    /// [`Right::Push`], and [`Right::Mount`] on the source, which is returned with the blob.
    /// `None`: no readable repository has it, which is indistinguishable from a blob that does not
    /// exist.
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

    /// [`Repository::upload_start`]; requires [`Right::Push`].
    pub fn upload_start(&self, algorithm: Option<Algorithm>) -> Result<UploadId> {
        Ok(self.push()?.upload_start(algorithm))
    }

    /// [`Repository::upload_status`]; requires [`Right::Push`].
    pub async fn upload_status(&self, id: &UploadId) -> Result<UploadProgress> {
        Ok(self.push()?.upload_status(id).await?)
    }

    /// [`Repository::upload_append`]; requires [`Right::Push`].
    pub async fn upload_append(&self, id: &UploadId, chunk: UploadChunk) -> Result<UploadProgress> {
        Ok(self.push()?.upload_append(id, chunk).await?)
    }

    /// [`Repository::upload_finish`]; requires [`Right::Push`].
    pub async fn upload_finish(
        &self,
        id: &UploadId,
        digest: &Digest,
        chunk: UploadChunk,
    ) -> Result<Blob> {
        Ok(self.push()?.upload_finish(id, digest, chunk).await?)
    }

    /// [`Repository::upload_cancel`]; requires [`Right::Push`].
    pub async fn upload_cancel(&self, id: &UploadId) -> Result<()> {
        Ok(self.push()?.upload_cancel(id).await?)
    }

    /// [`Repository::manifest_get`] to read it; requires [`Right::Pull`].
    pub async fn manifest_get(&self, reference: &Reference) -> Result<Arc<StoredManifest>> {
        Ok(self.shown()?.manifest_get(reference, TouchPolicy::Never).await?)
    }

    /// [`Repository::manifest_get`] to check whether it exists; requires [`Right::Pull`].
    pub async fn manifest_stat(&self, reference: &Reference) -> Result<Arc<StoredManifest>> {
        let repository = self.pull()?;
        let touch = self.touch(repository.name());
        Ok(repository.manifest_get(reference, touch).await?)
    }

    /// [`Repository::record_pull`] of what this request was granted; without [`Right::Pull`] there is none.
    pub fn record_pull(&self, reference: &Reference, manifest: &StoredManifest) {
        if let Ok(repository) = self.pull() {
            repository.record_pull(reference, manifest);
        }
    }

    /// [`Repository::manifest_put`]; requires [`Right::Push`]. Without [`Right::Pull`] what it tells of tags is left
    /// out.
    pub async fn manifest_put(&self, push: ManifestPush) -> Result<PushedManifest> {
        let repository = self.push()?;
        let pushed = repository.manifest_put(push).await;
        let pushed = pushed.map_err(|error| self.shown_error(&repository, error))?;
        match pushed.refused.is_empty() || self.may_pull(&repository) {
            true => Ok(pushed),
            false => Ok(pushed.without_targets()),
        }
    }

    /// [`Repository::manifest_delete_if`]; requires [`Right::Delete`]. A delete by digest also
    /// requires that right for every tag that points to the manifest or to an index that lists it.
    /// Deleted tags are added to `removed`, even if a later step fails.
    pub async fn manifest_delete(
        &self,
        reference: &Reference,
        condition: Option<ReferencePrecondition>,
        removed: &mut Vec<TagTransition>,
    ) -> Result<()> {
        if let Some(evicted) = self.evict(reference).await {
            return evicted;
        }
        let repository = self.delete()?;
        if let Reference::Digest(digest) = reference {
            self.check_protection(&repository, digest).await?;
        }
        let may_remove = |tag: &Tag| self.has_right_on_tag(tag);
        let deleted = repository.manifest_delete_if(reference, condition, &may_remove, removed);
        deleted.await.map_err(|error| match error {
            Error::TagProtected { tag, .. } => self.protected_by(&repository, &tag),
            error => self.shown_error(&repository, error),
        })
    }

    /// [`Repository::tag_history`]; requires [`Right::Pull`].
    pub async fn tag_history(
        &self,
        tag: &Tag,
        page: &PageRequest,
    ) -> Result<ResultPage<TagHistoryEntry>> {
        Ok(self.pull()?.tag_history(tag, page).await?)
    }

    /// [`Repository::tag_restore`]; requires [`Right::Push`] and [`Right::Pull`].
    pub async fn tag_restore(
        &self,
        tag: &Tag,
        digest: &Digest,
        condition: Option<ReferencePrecondition>,
    ) -> Result<TagTransition> {
        Ok(self.restorable()?.tag_restore(tag, digest, condition).await?)
    }

    /// [`Repository::deleted_manifests`]; requires [`Right::Delete`].
    pub async fn deleted_manifests(
        &self,
        page: &PageRequest,
    ) -> Result<ResultPage<DeletedManifest>> {
        Ok(self.delete()?.deleted_manifests(page).await?)
    }

    /// [`Repository::manifest_restore_if`]; requires [`Right::Push`] and [`Right::Pull`], with tags the former also
    /// for each tag that the manifest had.
    pub async fn manifest_restore(
        &self,
        digest: &Digest,
        with_tags: bool,
        restored: &mut Vec<TagTransition>,
    ) -> Result<RestoredManifest> {
        let repository = self.restorable()?;
        let may_set: MaySetTag<'_> = &|tag| self.has_right_on_tag(tag);
        let may_set = with_tags.then_some(may_set);
        let restored = repository.manifest_restore_if(digest, may_set, restored).await;
        restored.map_err(|error| match error {
            Error::TagProtected { tag, .. } => {
                self.refused(format!("tag {tag} would be set and may not be pushed"))
            }
            error => error.into(),
        })
    }

    /// Whether the granted right extends to a tag that the request need not name.
    fn has_right_on_tag(&self, tag: &Tag) -> bool {
        self.gate.authorizer.grant_tag(&self.auth, &self.right, tag).is_ok()
    }

    /// Refuses a delete by digest of content that a tag references which the identity may not
    /// delete. If the policy does not depend on tags, nothing is read.
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
            DeleteProtection::Tag(tag) => Err(self.protected_by(repository, &tag)),
            DeleteProtection::TooMany => Err(self.refused(format!(
                "the repository has more than {PROTECTING_TAGS_MAX} tags, or more than \
                 {PROTECTING_RECORDS_MAX} tags that may not be deleted and manifests below them, or \
                 rules with {CONDITIONS_EVALUATED_MAX} conditions or more on its tags; delete by tag"
            ))),
        }
    }

    /// The error for content that a tag protects.
    fn protected_by(&self, repository: &Repository, tag: &Tag) -> AccessError {
        self.refused(match self.may_pull(repository) {
            true => format!("tag {tag} references it and may not be deleted"),
            false => "a tag that may not be deleted references it".to_owned(),
        })
    }

    /// The repository of the right, if it is [`Right::Push`] and the identity also has [`Right::Pull`]: a restore acts
    /// on content that its client need not have, and tells what was there.
    fn restorable(&self) -> Result<Repository> {
        let repository = self.push()?;
        let right = Right::Pull(repository.name().clone());
        match self.gate.authorizer.grant(&self.auth, &right) {
            Ok(_) => Ok(repository),
            // Other credentials, or a token of a wider scope, may help.
            Err(error @ AuthError::Unauthenticated { .. }) => Err(error.into()),
            Err(_) => Err(self.refused("a restore also requires the action pull".to_owned())),
        }
    }

    fn may_pull(&self, repository: &Repository) -> bool {
        self.may(&Right::Pull(repository.name().clone()))
    }

    /// The error of a change; without [`Right::Pull`] it does not tell what tags point to.
    fn shown_error(&self, repository: &Repository, error: Error) -> AccessError {
        match self.may_pull(repository) {
            true => error.into(),
            false => error.without_targets().into(),
        }
    }

    fn refused(&self, cause: String) -> AccessError {
        let by = CredentialState::as_identity(self.identity());
        let access = RefusedAccess::new(by, &self.right).because(cause.clone());
        AccessError::Denied(AuthError::Forbidden { access, reason: cause })
    }

    /// The registry, for its events; requires [`Right::Admin`].
    pub(super) fn administered_registry(&self) -> Result<&jreg_registry::Registry> {
        if self.right == Right::Admin { Ok(&self.gate.registry) } else { Err(self.forbidden()) }
    }

    pub(super) fn forbidden(&self) -> AccessError {
        self.refused("the request has another permission".to_owned())
    }
}
