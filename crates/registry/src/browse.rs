//! What pages of people show: details of tags and manifests, and lists in memory in which they search.
//!
//! A list of names is read whole, at most once in [`LIST_AGE_MAX`] for all who ask at the same time, and shared
//! by them. It grants nothing: callers check the rights on each name that they show.

mod lists;
mod search;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_lifecycle::ImmutableRuleName;
use jreg_oci::{Digest, Manifest, MediaType, RepositoryName, Tag};

pub use search::{NameMatch, search_names};

use crate::gc::GcOptions;
use crate::keys::{self, ParsedKey};
use crate::tag_record::{TagRecord, TagTarget, is_deleted_tag};
use crate::{
    ChangeOrigin, Error, ExplainReport, ExplainRequest, MirrorTag, PageRequest, Registry,
    Repository, Result, ResultPage, RetentionError, RetentionOptions, RetentionVerdict,
    StoredManifest, TouchPolicy,
};

/// Maximum number of manifests of a repository in which a page looks for what keeps one.
pub const EXPLAINED_MANIFESTS_MAX: usize = 1000;
/// Maximum number of tags of a repository whose retention a page previews.
pub const PREVIEWED_TAGS_MAX: usize = 2000;
/// Maximum number of tags that are counted for a list of repositories.
pub const SUMMARY_TAGS_MAX: usize = 200;
/// What searching a name costs, as bytes to hash would.
const NAME_BYTES: usize = 64;

/// A tag with what its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagDetails {
    pub tag: Tag,
    pub digest: Digest,
    pub media_type: MediaType,
    /// Bytes of the manifest.
    pub manifest_bytes: u64,
    /// When it was last pushed, also with the same digest; of a mirrored registry when it was last checked there.
    pub pushed: SystemTime,
    pub created: Option<SystemTime>,
    /// Who made it point there.
    pub origin: ChangeOrigin,
    /// The rule by which it must not move or go.
    pub immutable: Option<ImmutableRuleName>,
}

/// How many tags a repository has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TagSummary {
    /// At most [`SUMMARY_TAGS_MAX`].
    pub tags: usize,
    pub has_more: bool,
    /// When one was last pushed; `None`: never, or there are too many to know.
    pub pushed: Option<SystemTime>,
}

/// A manifest of a repository, with its tags.
#[derive(Clone, Debug)]
pub struct ManifestDetails {
    pub manifest: Arc<StoredManifest>,
    pub artifact_type: Option<String>,
    pub subject: Option<Digest>,
    /// The tags that point to it.
    pub tags: Vec<Tag>,
    /// Whether there may be more of them.
    pub has_more_tags: bool,
}

/// What retention does with the tags of a repository.
#[derive(Clone, Debug, Default)]
pub struct RetentionPreview {
    /// The entry of the lifecycle file that decides, from 1.
    pub entry: Option<usize>,
    /// `None`: there are too many tags to judge them for a page ([`PREVIEWED_TAGS_MAX`]).
    pub verdicts: Option<Vec<RetentionVerdict>>,
}

impl Repository {
    /// What the records of these tags say, read at the same time; one without a readable record is left out.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn tag_details(&self, tags: Vec<Tag>) -> Result<Vec<TagDetails>> {
        let reads = tags.into_iter().map(|tag| async move {
            if self.shows_mirrored {
                return self.mirrored_details(tag).await;
            }
            let found = self.core.find_record::<TagRecord>(&keys::tag(&self.name, &tag)).await?;
            let target = found.target().cloned();
            Ok::<_, Error>(target.map(|target| self.details(tag, target)))
        });
        let reads: Vec<_> = reads.collect();
        let found = stream::iter(reads).buffered(self.core.reads_in_flight_max());
        found.try_filter_map(|details| async { Ok(details) }).try_collect().await
    }

    /// The same repository, whose tags are those that were pulled through a mirror: for listings, and to read what a
    /// tag points to, without a request to the mirrored registry.
    #[must_use]
    pub fn showing_mirrored_tags(self) -> Self {
        Self { shows_mirrored: true, ..self }
    }

    /// Where the tags are that it lists.
    pub(crate) fn tag_keys(&self) -> String {
        match self.shows_mirrored {
            true => keys::mirror_tags(&self.name),
            false => keys::tags(&self.name),
        }
    }

    /// What is stored of a tag of a mirrored registry; `None`: its manifest was evicted, or never stored.
    async fn mirrored_details(&self, tag: Tag) -> Result<Option<TagDetails>> {
        let Some(MirrorTag { digest, age }) = self.mirror_tag(&tag).await?.tag else {
            return Ok(None);
        };
        let manifest = match self.find_manifest(&digest, TouchPolicy::Never).await {
            Ok(Some(manifest)) => manifest,
            Ok(None) | Err(Error::Damaged { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let checked = self.core.clock.now().checked_sub(age);
        Ok(Some(TagDetails {
            tag,
            digest,
            media_type: manifest.media_type.clone(),
            manifest_bytes: manifest.bytes.len() as u64,
            pushed: checked.unwrap_or(SystemTime::UNIX_EPOCH),
            created: None,
            origin: ChangeOrigin::default(),
            immutable: None,
        }))
    }

    fn details(&self, tag: Tag, target: TagTarget) -> TagDetails {
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        TagDetails {
            immutable: self.immutable_rule(&tag),
            tag,
            digest: target.digest,
            media_type: target.media_type,
            manifest_bytes: target.size,
            pushed: time(target.pushed),
            created: target.created.map(time),
            origin: target.change.origin,
        }
    }

    /// How many tags there are, and when one was last pushed: one listing.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn tag_summary(&self) -> Result<TagSummary> {
        let listing = self.core.list(self.tag_keys(), None, SUMMARY_TAGS_MAX).await?;
        let tags: Vec<_> = listing.entries.iter().filter(|tag| !is_deleted_tag(tag)).collect();
        let pushed = tags.iter().map(|tag| tag.last_modified).max();
        Ok(TagSummary {
            tags: tags.len(),
            has_more: listing.more,
            // Of the first of many it says nothing.
            pushed: pushed.filter(|_| !listing.more),
        })
    }

    /// The tags that point to a manifest, at most `limit`, and whether there may be more: one listing, and a read
    /// of each tag that may.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn tags_of_manifest(
        &self,
        digest: &Digest,
        limit: usize,
    ) -> Result<(Vec<Tag>, bool)> {
        let listing = self.core.list(keys::tagged(&self.name, digest), None, limit).await?;
        let hints = listing.entries.iter().filter_map(|entry| keys::tag_of(&entry.key)).collect();
        let details = self.tag_details(hints).await?;
        let pointing = details.into_iter().filter(|details| details.digest == *digest);
        Ok((pointing.map(|details| details.tag).collect(), listing.more))
    }

    /// The manifests of the repository in the order of their digests, each with its tags: two or three store
    /// requests for each.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn manifests(
        &self,
        page: &PageRequest,
        tags_max: usize,
    ) -> Result<ResultPage<ManifestDetails>> {
        let prefix = keys::manifests(&self.name);
        let after = page.last.as_deref().map(|last| format!("{prefix}{}", last.replace(':', "/")));
        let listing = self.core.list(prefix, after, page.limit).await?;
        let digests =
            listing.entries.iter().filter_map(|entry| match ParsedKey::parse(&entry.key) {
                Some(ParsedKey::Manifest(_, digest)) => Some(digest),
                _ => None,
            });
        let digests: Vec<Digest> = digests.collect();
        let next = digests.last().filter(|_| listing.more).map(ToString::to_string);
        let reads: Vec<_> =
            digests.into_iter().map(|digest| self.manifest_details(digest, tags_max)).collect();
        let found = stream::iter(reads).buffered(self.core.reads_in_flight_max());
        let items = found.try_filter_map(|details| async { Ok(details) }).try_collect().await?;
        Ok(ResultPage { items, next })
    }

    /// `None`: it is not there any more, or cannot be read.
    async fn manifest_details(
        &self,
        digest: Digest,
        tags_max: usize,
    ) -> Result<Option<ManifestDetails>> {
        let manifest = match self.find_manifest(&digest, TouchPolicy::Never).await {
            Ok(Some(manifest)) => manifest,
            Ok(None) | Err(Error::Damaged { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (tags, has_more_tags) = self.tags_of_manifest(&digest, tags_max).await?;
        let parsed = Manifest::parse_stored(&manifest.media_type, &manifest.bytes).ok();
        let subject = parsed.as_ref().and_then(|parsed| parsed.subject.as_ref());
        Ok(Some(ManifestDetails {
            subject: subject.map(|subject| subject.digest.clone()),
            artifact_type: parsed.and_then(|parsed| parsed.artifact_type),
            manifest,
            tags,
            has_more_tags,
        }))
    }

    /// Lists why a manifest or blob of this repository is kept ([`Registry::explain`]); `None`: the repository has
    /// too many manifests or tags to read them for a page ([`EXPLAINED_MANIFESTS_MAX`], [`PREVIEWED_TAGS_MAX`]).
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Store`], [`Error::Damaged`].
    pub async fn explain_here(
        &self,
        digest: &Digest,
        options: &GcOptions,
    ) -> Result<Option<ExplainReport>> {
        let prefix = keys::manifests(&self.name);
        let has_many = self.core.list(prefix, None, EXPLAINED_MANIFESTS_MAX).await?.more;
        if has_many || self.has_many_tags().await? {
            return Ok(None);
        }
        let registry = Registry::of_core((*self.core).clone());
        let _slot = registry.usage_slot()?;
        let request =
            ExplainRequest { digest: digest.clone(), repository: Some(self.name.clone()) };
        registry.explain(request, options).await.map(Some)
    }

    /// What the next retention run does with each tag.
    ///
    /// # Errors
    ///
    /// [`RetentionError`].
    pub async fn preview_retention(
        &self,
        options: &RetentionOptions,
    ) -> Result<RetentionPreview, RetentionError> {
        let entry = self.rules.retention_of(&self.name).map(|(number, _)| number);
        if entry.is_none() && self.rules.retention().is_empty() {
            return Ok(RetentionPreview { entry, verdicts: Some(Vec::new()) });
        }
        if self.has_many_tags().await? {
            return Ok(RetentionPreview { entry, verdicts: None });
        }
        let registry = Registry::of_core((*self.core).clone());
        let _slot = registry.usage_slot()?;
        let verdicts = registry.judge_repository(&self.name, options).await?;
        Ok(RetentionPreview { entry, verdicts: Some(verdicts) })
    }

    async fn has_many_tags(&self) -> Result<bool> {
        Ok(self.core.list(keys::tags(&self.name), None, PREVIEWED_TAGS_MAX).await?.more)
    }

    /// A manifest that is in memory; nothing is read.
    pub fn manifest_in_memory(&self, digest: &Digest) -> Option<Arc<StoredManifest>> {
        self.cached_manifest(digest, TouchPolicy::Never)
    }
}

/// Names of the catalog that match a query, of all repositories: the caller checks which may be seen.
#[derive(Clone, Debug, Default)]
pub struct CatalogMatches {
    /// Those that contain the query, the best first.
    pub found: Vec<RepositoryName>,
    /// Those that do but for typing errors.
    pub similar: Vec<RepositoryName>,
    /// Whether all repositories were looked at.
    pub is_whole: bool,
}

impl Registry {
    /// Whether each store request travels: pages show less then, unless they are asked for more.
    pub fn is_remote(&self) -> bool {
        self.core().store.capabilities().is_remote
    }

    /// Searches the names of all repositories, in memory. At most `limit` of each kind.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn search_catalog(&self, query: &str, limit: usize) -> Result<CatalogMatches> {
        let list = self.catalog_list().await?;
        let query = query.to_owned();
        let bytes = list.names.len().saturating_mul(NAME_BYTES);
        let work = move || {
            let names = || list.names.iter().map(RepositoryName::as_str);
            let ranked = search_names(&query, names(), true);
            let is_similar = |quality: &NameMatch| matches!(quality, NameMatch::Typo(_));
            let pick = |similar: bool| {
                let picked = ranked.iter().filter(|(quality, _)| is_similar(quality) == similar);
                picked.take(limit).map(|(_, index)| list.names[*index].clone()).collect()
            };
            CatalogMatches { found: pick(false), similar: pick(true), is_whole: list.is_whole }
        };
        self.core().compute.run(bytes, work).await
    }
}
