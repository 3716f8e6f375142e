//! The sweep: finds and deletes orphaned bytes, which no record references.
//!
//! A process that dies between storing bytes and linking them leaves such bytes, and so does a blob
//! that is deleted by the API, or whose link was moved to other bytes. Their age cannot be read
//! from them: a store may give the time at which a multipart upload was begun. So two sweeps at
//! least a grace apart must both find that neither a session nor a link references them. Bytes are
//! listed first, then sessions, then links: a link that is written while that continues references
//! bytes that were listed before and a session that was. A blob may also move during the listing:
//! mounted to a part of the listing that was already read, then deleted in a part that was not. So
//! where a link was just deleted, all links to its blob are re-read. A link that references absent
//! bytes may be corrupt: candidates for its bytes stay.

use futures::stream::{self, StreamExt};
use jreg_storage::{Key, Listed};

use super::action::{GcAction, GcActionKind};
use super::links::LinkTarget;
use super::manifests::{recall, remember};
use super::memo::{Memo, MemoKind};
use super::observer::GcPhase;
use super::{GcRun, Result, last_key, seconds};
use crate::fingerprint::{self, Fingerprint, FingerprintSet, ListedVersion};
use crate::fsck::LostBytes;
use crate::keys::{self, ParsedKey, UploadKey};
use crate::record::VersionedRecord;
use crate::rules::Rule;
use crate::session::UploadSession;

/// Locations of bytes that were listed, and which of them are referenced.
#[derive(Debug, Default)]
pub(super) struct BlobLocations {
    listed: FingerprintSet,
    named: Vec<bool>,
    /// A record that may reference any of them cannot be read: nothing is deleted.
    is_uncertain: bool,
    /// What links name that was not listed.
    pub(super) lost: LostBytes,
}

impl BlobLocations {
    /// A record references this location.
    fn mark_named(&mut self, location: Fingerprint) {
        let index = self.listed.index(location);
        if let Some(named) = index.and_then(|index| self.named.get_mut(index)) {
            *named = true;
        }
    }

    /// A record that may name any location cannot be read.
    fn mark_uncertain(&mut self) {
        self.is_uncertain = true;
    }

    /// A link references this.
    pub(super) fn mark_target(&mut self, target: LinkTarget) {
        match target {
            LinkTarget::Location(location) => self.mark_named(location),
            LinkTarget::Nothing => {}
            LinkTarget::Unreadable => self.mark_uncertain(),
        }
    }

    /// Whether a link references a location that was not listed.
    pub(super) fn lacks(&self, target: LinkTarget) -> bool {
        match target {
            LinkTarget::Location(location) => self.listed.index(location).is_none(),
            LinkTarget::Nothing | LinkTarget::Unreadable => false,
        }
    }

    /// Whether everything that may name bytes could be read.
    pub(super) fn is_certain(&self) -> bool {
        !self.is_uncertain
    }

    fn is_orphan(&self, location: Fingerprint) -> bool {
        let index = self.listed.index(location);
        index.and_then(|index| self.named.get(index)).is_some_and(|named| !named)
    }
}

impl GcRun<'_> {
    /// Lists bytes, then sessions.
    pub(super) async fn list_bytes(&mut self) -> Result<BlobLocations> {
        self.watch.phase(GcPhase::Bytes);
        let mut locations = BlobLocations::default();
        let mut pages = self.core.list_pages(keys::BLOBS);
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                if let Some(ParsedKey::Blob(_)) = ParsedKey::parse(&entry.key) {
                    self.done.blobs.scan(entry.size_bytes);
                    locations.listed.insert(fingerprint::key(&entry.key));
                }
            }
            self.watch.progress(page.entries.len() as u64);
        }
        locations.listed.seal();
        locations.named = vec![false; locations.listed.len()];
        if self.core.rules.keep(Rule::SweepSessions) {
            self.read_sessions(&mut locations).await?;
        }
        Ok(locations)
    }

    /// Marks what sessions name, in whatever state they are.
    async fn read_sessions(&mut self, locations: &mut BlobLocations) -> Result<()> {
        let core = self.core.clone();
        let mut memo = Memo::open(&core, MemoKind::Sessions, !self.options.dry_run).await?;
        let mut pages = self.core.list_pages(keys::UPLOADS);
        while let Some(page) = pages.next().await? {
            let mut unread = Vec::new();
            for entry in &page.entries {
                let Some(UploadKey::Session(_)) = keys::upload_key(&entry.key) else { continue };
                let version = ListedVersion::of(entry, page.date);
                match recall(&mut memo, &entry.key, version).await {
                    Some(named) => {
                        named.iter().for_each(|location| locations.mark_named(*location))
                    }
                    None => unread.push((entry.key.clone(), version)),
                }
            }
            self.read_unread_sessions(unread, locations, &mut memo).await?;
            memo.end_page(last_key(&page.entries)).await?;
        }
        Ok(memo.finish().await?)
    }

    async fn read_unread_sessions(
        &self,
        unread: Vec<(Key, Option<ListedVersion>)>,
        locations: &mut BlobLocations,
        memo: &mut Memo<'_>,
    ) -> Result<()> {
        let reads = unread.into_iter().map(|(key, version)| {
            let core = self.core.clone();
            async move { (version, core.read::<UploadSession>(&key).await) }
        });
        let mut reads = stream::iter(reads).buffer_unordered(self.width());
        while let Some((version, session)) = reads.next().await {
            match session {
                Ok(Some(VersionedRecord { value, .. })) => {
                    let named: Vec<_> = value.object_keys().iter().map(fingerprint::key).collect();
                    named.iter().for_each(|location| locations.mark_named(*location));
                    remember(memo, version, &named);
                }
                Ok(None) => {}
                Err(crate::Error::Damaged { .. }) => locations.mark_uncertain(),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Removes the orphans that a sweep a grace ago or more has found as well; notes the others.
    pub(super) async fn sweep(&mut self, locations: BlobLocations) -> Result<()> {
        self.watch.phase(GcPhase::Sweep);
        let core = self.core.clone();
        let mut memo = Memo::open(&core, MemoKind::Orphans, !self.options.dry_run).await?;
        let mut pages = self.core.list_pages(keys::BLOBS);
        while let Some(page) = pages.next().await? {
            let mut free = Vec::new();
            for entry in &page.entries {
                if !locations.is_orphan(fingerprint::key(&entry.key)) {
                    continue;
                }
                let version = ListedVersion::of_key(&entry.key);
                let since = memo.get(&entry.key, version).await;
                let since = since.and_then(|values| values.first().copied());
                if self.is_past_grace(since) {
                    free.push(entry);
                } else {
                    self.done.blobs.young += 1;
                    // From now on, and not from when this run began: bytes listed since then may
                    // have been referenced until a moment ago.
                    memo.put(version, &[since.unwrap_or(seconds(page.date))]);
                }
            }
            if !free.is_empty() {
                let quarantined = self.quarantined().await?;
                free.retain(|Listed { key, size_bytes, .. }| {
                    !quarantined.may_name(key, *size_bytes)
                        && !locations.lost.may_include(key, *size_bytes)
                });
            }
            self.remove_orphans(&free).await;
            self.watch.progress(page.entries.len() as u64);
            memo.end_page(last_key(&page.entries)).await?;
        }
        Ok(memo.finish().await?)
    }

    /// Whether a grace has passed between an earlier run and this one.
    pub(super) fn is_past_grace(&self, since: Option<u64>) -> bool {
        match since {
            Some(since) => {
                let passed = seconds(self.began).saturating_sub(since);
                passed >= self.options.grace.as_secs()
            }
            None => !self.core.rules.keep(Rule::SweepTwice),
        }
    }

    async fn remove_orphans(&mut self, entries: &[&Listed]) {
        let actions: Vec<_> = entries
            .iter()
            .map(|entry| GcAction {
                kind: GcActionKind::RemoveBytes,
                key: entry.key.to_string(),
                repository: None,
                digest: match ParsedKey::parse(&entry.key) {
                    Some(ParsedKey::Blob(digest)) => digest,
                    _ => None,
                },
                size_bytes: entry.size_bytes,
            })
            .collect();
        let keys: Vec<_> = entries.iter().map(|entry| entry.key.clone()).collect();
        self.remove_bytes(&actions, &keys).await;
    }
}
