//! Protected content: what a requester who may delete from a repository, but not every tag of it,
//! must not remove by digest.
//!
//! A tag that may not be removed protects the manifest that it points to and everything that this
//! manifest refers to, through indexes too. What refers to it as a subject is not protected.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, Manifest, Reference, ReferenceKind, Tag};

use crate::keys;
use crate::record::TagTarget;
use crate::tag::TagChange;
use crate::{Condition, Error, Repository, Result, Touch};

/// The most tags of a repository that are looked at for one delete.
pub const PROTECTING_TAGS_MAX: usize = 10_000;
/// The most manifests that are read for one delete.
pub const PROTECTING_MANIFESTS_MAX: usize = 4096;
/// How many tags are listed at a time.
const TAGS_PER_PAGE: usize = 1000;

/// Says whether the requester may remove a tag.
pub type MayRemove<'a> = &'a (dyn Fn(&Tag) -> bool + Send + Sync);

/// What protects some content from a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Nothing.
    None,
    /// This tag, which the requester may not remove, points to it or to what refers to it.
    Tag(Tag),
    /// Unknown: the repository has too many tags or manifests to find out
    /// ([`PROTECTING_TAGS_MAX`], [`PROTECTING_MANIFESTS_MAX`]).
    TooMany,
}

/// The removal of a manifest's tags: which may be removed, and which were.
pub(crate) struct TagRemoval<'a> {
    may_remove: MayRemove<'a>,
    removed: Mutex<Vec<Tag>>,
}

/// The search for what protects a digest.
struct Search<'a> {
    digest: &'a Digest,
    seen: HashSet<Digest>,
}

impl<'a> TagRemoval<'a> {
    fn new(may_remove: MayRemove<'a>) -> Self {
        Self { may_remove, removed: Mutex::default() }
    }

    fn into_removed(self) -> Vec<Tag> {
        self.removed.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TagRemoval<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TagRemoval").field("removed", &self.removed).finish_non_exhaustive()
    }
}

impl Repository {
    /// Removes a tag, or a manifest with its tags and its referrer entry (end-9).
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`], [`Error::PreconditionFailed`], [`Error::Busy`],
    /// [`Error::Store`].
    pub async fn manifest_delete(
        &self,
        reference: &Reference,
        condition: Option<Condition>,
    ) -> Result<()> {
        self.manifest_delete_if(reference, condition, &|_| true).await.map(drop)
    }

    /// The same for a requester who may not remove every tag. A manifest stays if a tag points to
    /// it that `may_remove` refuses, also if that tag was set during the delete. Returns the tags
    /// that were removed with the manifest.
    ///
    /// # Errors
    ///
    /// As [`Repository::manifest_delete`], and [`Error::TagProtected`].
    pub async fn manifest_delete_if(
        &self,
        reference: &Reference,
        condition: Option<Condition>,
        may_remove: MayRemove<'_>,
    ) -> Result<Vec<Tag>> {
        let removal = TagRemoval::new(may_remove);
        self.delete_reference(reference, condition, &removal).await?;
        Ok(removal.into_removed())
    }

    /// Removes a tag if it points to a manifest that is being removed.
    pub(crate) async fn remove_tag_of(
        &self,
        digest: &Digest,
        tag: &Tag,
        removal: &TagRemoval<'_>,
    ) -> Result<()> {
        if !(removal.may_remove)(tag) {
            let target = self.core.read::<TagTarget>(&keys::tag(&self.name, tag)).await?;
            // The hint may be of a tag that was moved.
            return match target {
                Some(target) if target.value.digest == *digest => {
                    Err(Error::TagProtected { name: self.name.clone(), tag: tag.clone() })
                }
                _ => Ok(()),
            };
        }
        if self.change_tag(tag, None, None, TagChange::RemoveFrom(digest)).await? {
            let mut removed = removal.removed.lock().unwrap_or_else(PoisonError::into_inner);
            removed.push(tag.clone());
        }
        Ok(())
    }

    /// What protects a manifest or blob of the repository from a requester who may remove only the
    /// tags for which `may_remove` holds.
    ///
    /// # Errors
    ///
    /// [`Error::Store`], [`Error::Damaged`]: what cannot be read may protect it.
    pub async fn protection(
        &self,
        digest: &Digest,
        may_remove: MayRemove<'_>,
    ) -> Result<Protection> {
        let mut search = Search { digest, seen: HashSet::new() };
        let (mut after, mut looked_at) = (None, 0);
        loop {
            let page = self.core.list(keys::tags(&self.name), after, TAGS_PER_PAGE).await?;
            looked_at += page.entries.len();
            if looked_at > PROTECTING_TAGS_MAX {
                return Ok(Protection::TooMany);
            }
            let tags = page.entries.iter().filter_map(|entry| keys::tag_of(&entry.key));
            let kept: Vec<_> = tags.filter(|tag| !may_remove(tag)).collect();
            let protection = self.protection_by(kept, &mut search).await?;
            if protection != Protection::None {
                return Ok(protection);
            }
            match page.entries.last() {
                Some(last) if page.more => after = Some(last.key.to_string()),
                _ => return Ok(Protection::None),
            }
        }
    }

    /// What protects it among some tags: they are followed all at once, level by level.
    async fn protection_by(&self, tags: Vec<Tag>, search: &mut Search<'_>) -> Result<Protection> {
        let records = tags.iter().map(|tag| keys::tag(&self.name, tag)).collect();
        let targets = self.core.read_all::<TagTarget>(records).await?;
        let pointed = tags.into_iter().zip(targets);
        let mut level: Vec<_> =
            pointed.filter_map(|(tag, target)| Some((tag, target?.value.digest))).collect();
        while !level.is_empty() {
            if let Some((tag, _)) = level.iter().find(|(_, digest)| digest == search.digest) {
                return Ok(Protection::Tag(tag.clone()));
            }
            level.retain(|(_, digest)| search.seen.insert(digest.clone()));
            if search.seen.len() > PROTECTING_MANIFESTS_MAX {
                return Ok(Protection::TooMany);
            }
            let reads = level.into_iter().map(|(tag, digest)| async move {
                let references = self.references_of(&digest).await?;
                Ok::<_, Error>((tag, references))
            });
            // Made before the first is awaited: a borrowing closure kept across an await is not
            // `Send`.
            let reads: Vec<_> = reads.collect();
            let reads = stream::iter(reads).buffered(self.core.wave_width());
            let read: Vec<(Tag, Vec<(Digest, bool)>)> = reads.try_collect().await?;
            let mut next = Vec::new();
            for (tag, references) in read {
                for (digest, may_refer) in references {
                    if digest == *search.digest {
                        return Ok(Protection::Tag(tag));
                    }
                    if may_refer {
                        next.push((tag.clone(), digest));
                    }
                }
            }
            level = next;
        }
        Ok(Protection::None)
    }

    /// What a manifest refers to, each with whether that may be a manifest; nothing if it is
    /// absent.
    async fn references_of(&self, digest: &Digest) -> Result<Vec<(Digest, bool)>> {
        let Some(stored) = self.find_manifest(digest, Touch::Never).await? else {
            return Ok(Vec::new());
        };
        let parsed = Manifest::parse_stored(&stored.media_type, &stored.bytes);
        let manifest = parsed.map_err(|error| Error::Damaged {
            key: keys::manifest(&self.name, digest).to_string(),
            reason: error.to_string(),
        })?;
        let references = manifest.references.into_iter().map(|reference| {
            let may_refer = matches!(reference.kind, ReferenceKind::Child | ReferenceKind::Any);
            (reference.digest, may_refer)
        });
        Ok(references.collect())
    }
}
