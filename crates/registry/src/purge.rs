//! Purging a manifest: what a DELETE keeps for a restore goes as well, and the blobs that nothing else in
//! the repository references are unlinked at once.

use std::collections::{BTreeMap, BTreeSet};

use jreg_oci::{Digest, Manifest, Reference, RepositoryName, Tag};
use jreg_storage::PutPurpose;
use serde::{Deserialize, Serialize};

use crate::attempts::SwapAttempts;
use crate::damaged::FoundRecord;
use crate::keys::{self, ParsedKey};
use crate::manifest_read::verified;
use crate::record::{JsonRecord, Link, Location, ManifestRecord, StoredRecord};
use crate::window::WriteWindow;
use crate::{ChangeId, Error, PurgeObstacle, Repository, Result, TagTransition};

/// That a manifest was purged: it must not be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PurgeMark {
    change: ChangeId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
}

impl JsonRecord for PurgeMark {}

/// What a purge removed, and what stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeReport {
    /// Whether the manifest was there.
    pub manifest_removed: bool,
    /// The tags that pointed to it and were deleted.
    pub tags_removed: Vec<Tag>,
    /// The changes that deleted them.
    #[serde(skip)]
    pub changes: BTreeMap<Tag, ChangeId>,
    /// Copies of earlier deletes that were removed.
    pub copies_removed: u64,
    /// Blobs that are not in the repository any more. Their bytes go with a GC run, if no
    /// other repository has them.
    pub blobs_removed: Vec<Digest>,
    /// Blobs and manifests that stay in the repository, each with a manifest that references it.
    pub referenced: BTreeMap<Digest, Digest>,
    /// Blobs that were removed here and that other repositories have: their bytes stay.
    pub elsewhere: BTreeMap<Digest, Vec<RepositoryName>>,
}

/// What the manifests and copies of a repository reference.
#[derive(Default)]
struct RepositoryContent {
    /// Each referenced digest, with a manifest that references it.
    referenced: BTreeMap<Digest, Digest>,
}

impl Repository {
    /// Removes a manifest for good, with the copies of earlier deletes, and unlinks the blobs that no
    /// other manifest or copy of the repository references. With `force` also if it is tagged or an
    /// index references it; then its tags are deleted.
    ///
    /// Reads every manifest of the repository, before and after it unlinks blobs: a blob that a push has begun
    /// to rely on meanwhile is linked again. A push that ends later finds it missing, as after a DELETE
    /// of the blob.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`] if there is neither the manifest nor a copy;
    /// [`Error::PurgeRefused`]; [`Error::Immutable`]; [`Error::Damaged`]; [`Error::Store`].
    pub async fn manifest_purge(&self, digest: &Digest, force: bool) -> Result<PurgeReport> {
        let own = self.own_references(digest).await?;
        let content = self.content_without(digest).await?;
        if !force {
            self.check_manifest_delete(digest).await?;
            let tags = self.tags_of(digest).await?;
            let by = content.referenced.get(digest).cloned().map(PurgeObstacle::Referenced);
            let tagged = (!tags.is_empty()).then_some(PurgeObstacle::Tagged(tags));
            if let Some(obstacle) = tagged.or(by) {
                let name = self.name.clone();
                let (digest, obstacle) = (digest.clone(), Box::new(obstacle));
                return Err(Error::PurgeRefused { name, digest, obstacle });
            }
        }
        if self.is_mirrored(digest).await? {
            // Before anything is removed: a pull in between would fetch it again.
            let blobs = own.iter().filter(|blob| !content.referenced.contains_key(blob));
            for blocked in std::iter::once(digest).chain(blobs) {
                self.block(blocked).await?;
            }
        }
        match force {
            true => self.clone().without_rules().purge(digest, own, content).await,
            false => self.purge(digest, own, content).await,
        }
    }

    /// Whether the manifest comes from a mirrored registry.
    async fn is_mirrored(&self, digest: &Digest) -> Result<bool> {
        let key = keys::manifest(&self.name, digest);
        let read = self.core.read::<ManifestRecord>(&key).await?;
        Ok(read.is_some_and(|read| read.value.header.is_mirrored()))
    }

    async fn purge(
        &self,
        digest: &Digest,
        own: BTreeSet<Digest>,
        content: RepositoryContent,
    ) -> Result<PurgeReport> {
        let core = &self.core;
        let mut report = PurgeReport::default();
        self.remove_marked(digest, &mut report).await?;
        let mut unlinked = Vec::new();
        for blob in own {
            if let Some(by) = content.referenced.get(&blob) {
                report.referenced.insert(blob, by.clone());
            } else if let Some(location) = self.unlink(&blob).await? {
                unlinked.push((blob, location));
            }
        }
        // A push may have relied on a link while it was removed.
        let content = self.content_without(digest).await?;
        for (blob, location) in unlinked {
            if let Some(by) = content.referenced.get(&blob) {
                self.link_again(&blob, location).await?;
                report.referenced.insert(blob, by.clone());
                continue;
            }
            let others = core.repositories_with_blob(&blob).await?;
            if !others.is_empty() {
                report.elsewhere.insert(blob.clone(), others);
            }
            report.blobs_removed.push(blob);
        }
        Ok(report)
    }

    /// Removes a manifest and its copies within a window from the mark on: GC removes the mark, for which a
    /// restore looks, long after that.
    async fn remove_marked(&self, digest: &Digest, report: &mut PurgeReport) -> Result<()> {
        let core = &self.core;
        let mut attempts = SwapAttempts::new("the store is too slow for a purge");
        loop {
            attempts.next().await?;
            let window = core.open_window();
            let mark = self.mark_purged(window, digest).await?;
            let copies = core.list_all(keys::copies(&self.name, digest)).await?;
            let is_copy =
                |key: &_| matches!(ParsedKey::parse(key), Some(ParsedKey::ManifestCopy(..)));
            let copies: Vec<_> = copies.into_iter().filter(is_copy).collect();
            core.store.delete_many(&copies).await?;
            report.copies_removed += copies.len() as u64;
            let deleted = self.delete_purged(digest).await;
            if let Err(Error::Immutable(_)) = deleted {
                // The tag was set since the check: nothing is purged.
                self.remove_mark(digest, mark).await;
            }
            if let Some(tags) = deleted? {
                report.manifest_removed = true;
                for TagTransition { tag, change, .. } in tags {
                    report.changes.insert(tag.clone(), change);
                    report.tags_removed.push(tag);
                }
            }
            if core.check_window(window).is_ok() {
                return Ok(());
            }
        }
    }

    /// Unlinks a blob. `None`: it was not linked.
    async fn unlink(&self, blob: &Digest) -> Result<Option<Location>> {
        let link = self.core.read::<Link>(&keys::link(blob, &self.name)).await?;
        let Some(Link::Live(location)) = link.map(|link| link.value) else { return Ok(None) };
        // That no manifest references it was checked.
        match self.clone().without_rules().blob_delete(blob).await {
            Ok(()) => Ok(Some(location)),
            Err(Error::BlobUnknown { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Links a blob as it was, unless it was pushed again. Its bytes stay for an hour at least.
    async fn link_again(&self, blob: &Digest, location: Location) -> Result<()> {
        let (core, key) = (&self.core, keys::link(blob, &self.name));
        let window = core.open_window();
        if let Some(seen) = core.read::<Link>(&key).await?
            && seen.value == Link::Deleted
        {
            core.cache.forget(&self.name, blob);
            let link = Link::Live(location).encode();
            core.swap_within(window, &key, Some(&seen.etag), link).await?;
        }
        Ok(())
    }

    /// Marks a manifest as purged. Returns the change that the mark has.
    async fn mark_purged(&self, window: WriteWindow, digest: &Digest) -> Result<ChangeId> {
        let core = &self.core;
        core.require_history().await?;
        let key = keys::purge_mark(&self.name, digest);
        let mark = self.new_mark();
        core.write_new_version(window, &key, &mark, PutPurpose::Delete).await?;
        Ok(mark.change)
    }

    /// Removes the mark of this purge, unless another one has marked the manifest since. If that fails, or the
    /// store cannot remove a version, GC removes it.
    async fn remove_mark(&self, digest: &Digest, change: ChangeId) {
        let key = keys::purge_mark(&self.name, digest);
        let removed = match self.core.read::<PurgeMark>(&key).await {
            Ok(Some(read)) if read.value.change == change => {
                self.core.remove(&key, &read.etag).await.map(drop)
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            let error = jreg_storage::error_chain(&error);
            tracing::warn!(%key, error, "cannot remove the mark of a purge that was refused");
        }
    }

    fn new_mark(&self) -> PurgeMark {
        let change = ChangeId::after(None, self.core.clock.now());
        PurgeMark { change, actor: self.origin.actor().map(str::to_owned) }
    }

    /// Writes the mark of a purge again, so that it stays for another grace: a delete may have read what is
    /// about to be removed beside it, and write a copy of that. `false`: another has written it.
    pub(crate) async fn touch_purge_mark(
        &self,
        window: WriteWindow,
        digest: &Digest,
    ) -> Result<bool> {
        let (core, key) = (&self.core, keys::purge_mark(&self.name, digest));
        let found = core.find_record::<PurgeMark>(&key).await?;
        let bytes = match &found {
            FoundRecord::Valid(mark) => mark.renewed(),
            // It is its key that counts.
            FoundRecord::Damaged(_) => self.new_mark().encode(),
            FoundRecord::Absent => return Ok(true),
        };
        Ok(core.swap_within(window, &key, found.etag(), bytes).await?.is_some())
    }

    /// Deletes a manifest without a copy, with its tags. `None`: it was not there.
    async fn delete_purged(&self, digest: &Digest) -> Result<Option<Vec<TagTransition>>> {
        match self.delete_without_copy(digest).await {
            Ok(removed) => Ok(Some(removed)),
            Err(Error::ManifestUnknown { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a manifest references, or its copy.
    async fn own_references(&self, digest: &Digest) -> Result<BTreeSet<Digest>> {
        let core = &self.core;
        let key = keys::manifest(&self.name, digest);
        let manifest = match core.read::<ManifestRecord>(&key).await? {
            Some(read) => read.value,
            None => match self.latest_copy_of_any(digest).await? {
                Some(copy) => copy.manifest,
                None => return Err(self.unknown(&Reference::Digest(digest.clone()))),
            },
        };
        let stored = core.verified(key, digest, manifest).await?;
        let parsed = Manifest::parse_stored(&stored.media_type, &stored.bytes)?;
        Ok(parsed.references.into_iter().map(|reference| reference.digest).collect())
    }

    /// What every other manifest and copy of the repository references.
    async fn content_without(&self, digest: &Digest) -> Result<RepositoryContent> {
        let mut content = RepositoryContent::default();
        for prefix in [keys::manifests(&self.name), keys::deleted_manifests(&self.name)] {
            for key in self.core.list_all(prefix).await? {
                let (of, manifest) = match ParsedKey::parse(&key) {
                    Some(ParsedKey::Manifest(_, of)) if of != *digest => {
                        let read = self.core.read::<ManifestRecord>(&key).await?;
                        (of, read.map(|read| read.value))
                    }
                    Some(ParsedKey::ManifestCopy(_, of, _)) if of != *digest => {
                        let read =
                            self.core.read::<crate::manifest_copy::ManifestCopy>(&key).await?;
                        (of, read.map(|read| read.value.manifest))
                    }
                    _ => continue,
                };
                let Some(manifest) = manifest else { continue };
                let stored = verified(&key, &of, manifest)?;
                let parsed = Manifest::parse_stored(&stored.media_type, &stored.bytes)?;
                for reference in parsed.references {
                    content.referenced.entry(reference.digest).or_insert_with(|| of.clone());
                }
            }
        }
        Ok(content)
    }
}
