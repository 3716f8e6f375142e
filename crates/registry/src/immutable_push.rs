//! What a push does for the immutable tags that it sets before it reads anything else.
//!
//! A hint is written at the manifest and at every manifest that an index needs, through indexes too, and after the
//! hint each of these is touched, however young it is. So a delete of one of them sees the hint, or misses
//! the version.

use std::collections::HashSet;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, Manifest, ManifestReference, ReferenceKind, Tag};

use crate::damaged::absent_if_damaged;
use crate::keys;
use crate::record::PresenceMark;
use crate::rules::Rule;
use crate::window::{TOUCH_AGE, WriteWindow};
use crate::{
    Error, PROTECTING_RECORDS_MAX, PROTECTING_TAGS_MAX, ReferencePolicy, Repository, Result,
};

/// Maximum number of manifests of one level that are read concurrently.
const MANIFEST_READS_MAX: usize = 8;

impl Repository {
    /// Holds a manifest with all that it needs for the immutable tags that it is pushed to. Returns the manifests
    /// below it, which exist and are young.
    ///
    /// # Errors
    ///
    /// [`Error::ReferencesUnknown`]: where the policy of references is strict, what an index below it needs, too, must
    /// be there.
    pub(crate) async fn hold_for_tags(
        &self,
        window: WriteWindow,
        tags: &[Tag],
        (digest, references): (&Digest, &[ManifestReference]),
    ) -> Result<HashSet<Digest>> {
        let rules = self.core.rules;
        let is_immutable = |tag: &&Tag| self.immutable_rule(tag).is_some();
        let tags: Vec<_> = tags.iter().filter(is_immutable).collect();
        let mut held = HashSet::new();
        if tags.is_empty() || !rules.keep(Rule::ImmutableHint) {
            return Ok(held);
        }
        let mut level = children(references);
        let hinted = level.iter().filter(|_| rules.keep(Rule::ChildHints));
        self.write_hints(window, &tags, std::iter::once(digest).chain(hinted)).await?;
        let mut seen: HashSet<Digest> = level.iter().cloned().collect();
        // Those of the manifest itself are checked with its other references.
        let mut is_checked = true;
        while !level.is_empty() {
            let touched = self.touch_level(window, level).await?;
            level = Vec::new();
            let mut missing = Vec::new();
            for (of, below) in touched {
                let Some(below) = below else {
                    if !is_checked && !self.is_held_otherwise(window, &of).await? {
                        missing.push(of);
                    }
                    continue;
                };
                held.insert(of);
                level.extend(below.into_iter().filter(|digest| seen.insert(digest.clone())));
            }
            if !missing.is_empty() {
                return Err(Error::ReferencesUnknown { name: self.name.clone(), missing });
            }
            is_checked = false;
            if !rules.keep(Rule::NestedHints) {
                break;
            }
            if seen.len() > PROTECTING_RECORDS_MAX {
                let (tags_max, records_max) = (PROTECTING_TAGS_MAX, PROTECTING_RECORDS_MAX);
                let name = self.name.clone();
                return Err(Error::ProtectionUnknown { name, tags_max, records_max });
            }
            self.write_hints(window, &tags, level.iter()).await?;
        }
        Ok(held)
    }

    /// Makes sure that each manifest has a young hint of each tag.
    async fn write_hints<'a>(
        &self,
        window: WriteWindow,
        tags: &[&Tag],
        digests: impl Iterator<Item = &'a Digest>,
    ) -> Result<()> {
        let hints = digests
            .flat_map(|digest| tags.iter().map(|tag| keys::tag_hint(&self.name, digest, tag)));
        let writes = hints.map(|hint| async move {
            self.core.ensure_record(window, &hint, &PresenceMark {}).await
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let writes: Vec<_> = writes.collect();
        let writes = stream::iter(writes).buffered(self.core.reads_in_flight_max());
        writes.try_collect().await
    }

    /// Whether what an index lists need not be a manifest: a blob, or nothing at all.
    async fn is_held_otherwise(&self, window: WriteWindow, digest: &Digest) -> Result<bool> {
        let core = &self.core;
        if core.options.references != ReferencePolicy::Strict {
            return Ok(true);
        }
        Ok(core.touch_link(window, &self.name, digest).await?.is_some())
    }

    /// Touches those manifests that exist, and returns each with its children.
    async fn touch_level(
        &self,
        window: WriteWindow,
        level: Vec<Digest>,
    ) -> Result<Vec<(Digest, Option<Vec<Digest>>)>> {
        let touches = level.into_iter().map(|digest| async move {
            let below = self.touch_and_parse(window, &digest).await?;
            Ok::<_, Error>((digest, below))
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let touches: Vec<_> = touches.collect();
        stream::iter(touches).buffered(MANIFEST_READS_MAX).try_collect().await
    }

    /// Touches a manifest, and returns its children. `None`: it is absent (an index may list layers), or damaged.
    async fn touch_and_parse(
        &self,
        window: WriteWindow,
        digest: &Digest,
    ) -> Result<Option<Vec<Digest>>> {
        let (core, key) = (&self.core, keys::manifest(&self.name, digest));
        let touch_age = match core.rules.keep(Rule::TouchYoungChild) {
            true => Duration::ZERO,
            false => TOUCH_AGE,
        };
        let Some(stat) = core.stat(&key).await? else { return Ok(None) };
        let _room = core.reserve_touch_memory(stat.size_bytes).await?;
        let touched = core.touch_manifest(window, &key, digest, touch_age).await;
        let Some(touched) = absent_if_damaged(touched)? else { return Ok(None) };
        let (stored, bytes) = (touched.manifest, stat.size_bytes);
        let parse = move || {
            let parsed = Manifest::parse_stored(&stored.media_type, &stored.bytes);
            // What cannot be read protects nothing, and is found by fsck.
            parsed.map(|manifest| children(&manifest.references)).unwrap_or_default()
        };
        core.compute.run(usize::try_from(bytes).unwrap_or(usize::MAX), parse).await.map(Some)
    }
}

fn children(references: &[ManifestReference]) -> Vec<Digest> {
    let children = references.iter().filter(|reference| reference.kind == ReferenceKind::Child);
    children.map(|child| child.digest.clone()).collect()
}
