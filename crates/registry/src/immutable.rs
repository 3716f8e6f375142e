//! Immutable tags: changes that the rules file forbids.
//!
//! A tag is judged when it is read, before anything is written, and again on the version that a swap
//! replaces. The hint of an immutable tag is written before a push reads anything, and a delete of the manifest
//! looks at hints after it has read the version that it removes. So either the delete sees the hint, or the
//! push has written a later version of the manifest, which is not removed. The same holds for what an index
//! needs (`immutable_push.rs`).

use jreg_lifecycle::{ImmutableRefusal, ImmutableRuleName};
use jreg_oci::{Digest, Tag};
use jreg_storage::Listed;

use crate::keys;
use crate::rules::Rule;
use crate::tag::TagVersion;
use crate::tag_record::TagRecord;
use crate::window::HINT_IN_FLIGHT_MAX;
use crate::{
    DeleteProtection, Error, PROTECTING_RECORDS_MAX, PROTECTING_TAGS_MAX, Repository, Result,
};

impl Repository {
    /// The rule by which a tag may not change.
    pub(crate) fn immutable_rule(&self, tag: &Tag) -> Option<ImmutableRuleName> {
        self.rules.immutable().judge(&self.name, tag)
    }

    /// Refuses to set an immutable tag that points elsewhere. A damaged one is set: that heals it.
    pub(crate) fn check_move(
        &self,
        tag: &Tag,
        seen: &TagVersion,
        to: &Digest,
    ) -> Result<(), Box<ImmutableRefusal>> {
        match (seen.target(), self.immutable_rule(tag)) {
            (Some(target), Some(rule)) if target.digest != *to => {
                let (tag, present) = (tag.clone(), Some(target.digest.clone()));
                Err(Box::new(ImmutableRefusal::Move { rule, tag, present }))
            }
            _ => Ok(()),
        }
    }

    /// Refuses to delete an immutable tag.
    pub(crate) fn check_tag_delete(
        &self,
        tag: &Tag,
        seen: &TagVersion,
    ) -> Result<(), Box<ImmutableRefusal>> {
        match (seen.target(), self.immutable_rule(tag)) {
            (Some(target), Some(rule)) => {
                let (tag, present) = (tag.clone(), Some(target.digest.clone()));
                Err(Box::new(ImmutableRefusal::DeleteTag { rule, tag, present }))
            }
            _ => Ok(()),
        }
    }

    /// Refuses to delete a blob where tags are immutable.
    pub(crate) fn check_blob_delete(&self) -> Result<()> {
        match self.rules.immutable().judge_repository(&self.name) {
            Some(rule) => {
                let repository = self.name.clone();
                Err(Box::new(ImmutableRefusal::DeleteBlob { rule, repository }).into())
            }
            None => Ok(()),
        }
    }

    /// Refuses to delete a manifest that an immutable tag points to, or is about to, or that an index of such a
    /// tag references. To be called after the version was read that is to be removed.
    pub(crate) async fn check_manifest_delete(&self, digest: &Digest) -> Result<()> {
        if self.rules.immutable().judge_repository(&self.name).is_none() {
            return Ok(());
        }
        self.check_hints(digest).await?;
        let Some(tags) = self.list_all_tags().await? else {
            return Err(self.protection_unknown());
        };
        let immutable = tags.into_iter().filter(|tag| self.immutable_rule(tag).is_some());
        let tag = match self.find_protection(digest, immutable.collect()).await? {
            DeleteProtection::None => return Ok(()),
            DeleteProtection::TooMany => {
                return Err(self.protection_unknown());
            }
            DeleteProtection::Tag(tag) => tag,
        };
        let found: TagVersion = self.core.find_record(&keys::tag(&self.name, &tag)).await?;
        match found.target() {
            Some(target) => self.refuse_manifest_delete(digest, tag, target.digest.clone()),
            None => Ok(()),
        }
    }

    fn protection_unknown(&self) -> Error {
        let (tags_max, records_max) = (PROTECTING_TAGS_MAX, PROTECTING_RECORDS_MAX);
        Error::ProtectionUnknown { name: self.name.clone(), tags_max, records_max }
    }

    fn refuse_manifest_delete(&self, digest: &Digest, tag: Tag, present: Digest) -> Result<()> {
        match self.immutable_rule(&tag) {
            Some(rule) => {
                let manifest = digest.clone();
                let refusal = ImmutableRefusal::DeleteManifest { rule, tag, present, manifest };
                Err(Box::new(refusal).into())
            }
            None => Ok(()),
        }
    }

    /// A young hint of an immutable tag that does not exist is of a push in flight.
    async fn check_hints(&self, digest: &Digest) -> Result<()> {
        let mut pages = self.core.list_pages(keys::tagged(&self.name, digest));
        while let Some(page) = pages.next().await? {
            let is_young = |hint: &&Listed| {
                let age = page.date.duration_since(hint.last_modified).unwrap_or_default();
                age <= HINT_IN_FLIGHT_MAX && self.core.rules.keep(Rule::ImmutableHint)
            };
            for hint in page.entries.iter().filter(is_young) {
                let Some(tag) = keys::tag_of(&hint.key) else { continue };
                if self.immutable_rule(&tag).is_none() {
                    continue;
                }
                let found =
                    self.core.find_record::<TagRecord>(&keys::tag(&self.name, &tag)).await?;
                match found.target() {
                    // It never moves here.
                    Some(target) if target.digest != *digest => {}
                    _ => self.refuse_manifest_delete(digest, tag, digest.clone())?,
                }
            }
        }
        Ok(())
    }
}
