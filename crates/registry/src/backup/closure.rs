//! [`BackupClosure`]: the records of a backup, read in an order in which nothing that they name is overlooked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, Manifest, RepositoryName, Tag};
use jreg_storage::Key;

use super::bytes::StoredBlob;
use super::snapshot::SnapshotRecords;
use super::{BackupError, BackupObserver, MissingContent};
use crate::core::Core;
use crate::keys::{self, ParsedKey};
use crate::manifest::is_required;
use crate::manifest_copy::ManifestCopy;
use crate::manifest_read::verified;
use crate::record::{Link, ManifestRecord, ReferrerEntry, StoredRecord};
use crate::tag_record::TagRecord;
use crate::{ReferencePolicy, Result};

/// What references the blobs of a repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Referrer {
    Manifest(Digest),
    /// A copy of a deleted manifest, by its key.
    Copy(Key),
}

/// A blob, or a manifest, that a repository needs.
#[derive(Clone, Debug)]
struct NeededContent {
    by: Referrer,
    /// Whether what references it is incomplete without it.
    is_required: bool,
}

/// The records of a backup.
pub(super) struct BackupClosure<'a> {
    core: &'a Core,
    observer: &'a dyn BackupObserver,
    records: BTreeMap<Key, Bytes>,
    /// Manifests and copies whose references are to be followed.
    queue: VecDeque<(RepositoryName, Referrer)>,
    needed: BTreeMap<(RepositoryName, Digest), NeededContent>,
    missing: BTreeSet<MissingContent>,
}

impl<'a> BackupClosure<'a> {
    /// Reads everything but bytes.
    pub(super) async fn read(
        core: &'a Core,
        with_secrets: bool,
        observer: &'a dyn BackupObserver,
    ) -> Result<Self, BackupError> {
        let mut closure = Self {
            core,
            observer,
            records: BTreeMap::new(),
            queue: VecDeque::new(),
            needed: BTreeMap::new(),
            missing: BTreeSet::new(),
        };
        observer.phase("tags");
        let is_tag = |key: &Key| matches!(ParsedKey::parse(key), Some(ParsedKey::Tag(..)));
        closure.read_below(keys::REPOSITORIES, is_tag).await?;
        observer.phase("manifests");
        let is_other = |key: &Key| {
            let parsed = ParsedKey::parse(key);
            parsed.is_some() && !matches!(parsed, Some(ParsedKey::Tag(..)))
        };
        closure.read_below(keys::REPOSITORIES, is_other).await?;
        for prefix in [keys::CATALOG, keys::HISTORY, keys::DELETED_MANIFESTS] {
            closure.read_below(prefix, |key| ParsedKey::parse(key).is_some()).await?;
        }
        closure.read_below(keys::AUTH, |key| is_backed_up(key, with_secrets)).await?;
        closure.follow_all().await?;
        observer.phase("links");
        closure.read_links().await?;
        Ok(closure)
    }

    /// Reads the wanted records below a prefix.
    async fn read_below(
        &mut self,
        prefix: &str,
        is_wanted: impl Fn(&Key) -> bool,
    ) -> Result<(), BackupError> {
        let mut pages = self.core.list_pages(prefix);
        while let Some(page) = pages.next().await? {
            let keys = page.entries.into_iter().map(|entry| entry.key).filter(&is_wanted);
            let keys: Vec<Key> = keys.collect();
            let core = self.core;
            let reads = keys.into_iter().map(|key| async move {
                get(core, &key).await.map(|bytes| bytes.map(|bytes| (key, bytes)))
            });
            let reads: Vec<_> = reads.collect();
            let read: Vec<_> =
                stream::iter(reads).buffered(core.reads_in_flight_max()).try_collect().await?;
            for (key, bytes) in read.into_iter().flatten() {
                self.observer.progress(1, 0);
                self.add(key, bytes);
            }
        }
        Ok(())
    }

    /// Takes a record, unless it is damaged.
    fn add(&mut self, key: Key, bytes: Bytes) {
        let check = match ParsedKey::parse(&key) {
            Some(ParsedKey::Tag(..)) => TagRecord::decode(&bytes).map(drop),
            Some(ParsedKey::Manifest(name, digest)) => match manifest(&key, &digest, &bytes) {
                Ok(_) => {
                    self.queue.push_back((name, Referrer::Manifest(digest)));
                    Ok(())
                }
                Err(reason) => Err(reason),
            },
            Some(ParsedKey::ManifestCopy(name, ..)) => match ManifestCopy::decode(&bytes) {
                Ok(_) => {
                    self.queue.push_back((name, Referrer::Copy(key.clone())));
                    Ok(())
                }
                Err(reason) => Err(reason),
            },
            _ => crate::record::verify_checksum(&bytes).map(drop),
        };
        match check {
            Ok(()) => {
                self.records.insert(key, bytes);
            }
            Err(reason) => self.note(key.to_string(), reason),
        }
    }

    fn note(&mut self, content: String, reason: impl Into<String>) {
        self.missing.insert(MissingContent { content, reason: reason.into() });
    }

    /// Follows references, tags and lists of referrers until nothing is missing that can be had.
    async fn follow_all(&mut self) -> Result<(), BackupError> {
        self.follow_references().await?;
        self.check_tags().await?;
        self.check_referrers().await?;
        self.follow_references().await
    }

    async fn follow_references(&mut self) -> Result<(), BackupError> {
        while let Some((name, by)) = self.queue.pop_front() {
            let Some(parsed) = self.parse(&name, &by) else { continue };
            for reference in parsed.references {
                let digest = reference.digest.clone();
                if reference.kind.may_be_manifest() {
                    self.read_manifest(&name, &digest).await?;
                }
                let is_required = is_required(ReferencePolicy::SparseIndex, &reference);
                let needed = NeededContent { by: by.clone(), is_required };
                let entry = self.needed.entry((name.clone(), digest));
                let entry = entry.or_insert_with(|| needed.clone());
                if is_required && !entry.is_required {
                    *entry = needed;
                }
            }
        }
        Ok(())
    }

    /// What a record of the backup references.
    fn parse(&self, name: &RepositoryName, by: &Referrer) -> Option<Manifest> {
        let (media_type, bytes) = match by {
            Referrer::Manifest(digest) => {
                let record = self.records.get(&keys::manifest(name, digest))?;
                let record = ManifestRecord::decode(record).ok()?;
                (record.header.media_type, record.bytes)
            }
            Referrer::Copy(key) => {
                let copy = ManifestCopy::decode(self.records.get(key)?).ok()?;
                (copy.manifest.header.media_type, copy.manifest.bytes)
            }
        };
        Manifest::parse_stored(&media_type, &bytes).ok()
    }

    /// Reads a manifest that the backup does not have. `false`: it is absent.
    async fn read_manifest(
        &mut self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, BackupError> {
        let key = keys::manifest(name, digest);
        if self.records.contains_key(&key) {
            return Ok(true);
        }
        let Some(bytes) = get(self.core, &key).await? else { return Ok(false) };
        self.add(key.clone(), bytes);
        Ok(self.records.contains_key(&key))
    }

    /// Every tag leads to a manifest of the backup: one that does not is looked at again.
    async fn check_tags(&mut self) -> Result<(), BackupError> {
        let is_tag = |key: &&Key| matches!(ParsedKey::parse(key), Some(ParsedKey::Tag(..)));
        let tags: Vec<Key> = self.records.keys().filter(is_tag).cloned().collect();
        for key in tags {
            let Some(ParsedKey::Tag(name, tag)) = ParsedKey::parse(&key) else { continue };
            self.check_tag(&key, &name, &tag).await?;
        }
        Ok(())
    }

    async fn check_tag(
        &mut self,
        key: &Key,
        name: &RepositoryName,
        tag: &Tag,
    ) -> Result<(), BackupError> {
        while let Some(seen) = self.records.get(key).cloned() {
            let target = TagRecord::decode(&seen).ok().and_then(TagRecord::into_live);
            let Some(target) = target else { return Ok(()) };
            if self.read_manifest(name, &target.digest).await? {
                return Ok(());
            }
            match get(self.core, key).await? {
                Some(now) if now == seen => {
                    // It is missing in the registry, too.
                    let digest = target.digest;
                    self.note(format!("{name}:{tag}"), format!("its manifest {digest} is absent"));
                    return Ok(());
                }
                Some(now) => self.add(key.clone(), now),
                None => {
                    self.records.remove(key);
                }
            }
        }
        Ok(())
    }

    /// An entry of a list of referrers has its manifest; one without is dropped.
    async fn check_referrers(&mut self) -> Result<(), BackupError> {
        let entries: Vec<Key> = self.records.keys().cloned().collect();
        for key in entries {
            let Some(ParsedKey::Referrer(name, _, referrer)) = ParsedKey::parse(&key) else {
                continue;
            };
            let is_valid =
                self.records.get(&key).is_some_and(|bytes| ReferrerEntry::decode(bytes).is_ok());
            if !is_valid || !self.read_manifest(&name, &referrer).await? {
                self.records.remove(&key);
            }
        }
        Ok(())
    }

    /// Reads the links of everything that is needed.
    async fn read_links(&mut self) -> Result<(), BackupError> {
        loop {
            let wanted: Vec<_> = self
                .needed
                .keys()
                .filter(|(name, digest)| !self.records.contains_key(&keys::link(digest, name)))
                .cloned()
                .collect();
            let core = self.core;
            let reads = wanted.into_iter().map(|(name, digest)| async move {
                let key = keys::link(&digest, &name);
                get(core, &key).await.map(|bytes| (name, digest, key, bytes))
            });
            let reads: Vec<_> = reads.collect();
            let read: Vec<_> =
                stream::iter(reads).buffered(core.reads_in_flight_max()).try_collect().await?;
            let mut is_changed = false;
            for (name, digest, key, bytes) in read {
                self.observer.progress(1, 0);
                match bytes.as_ref().map(Link::decode) {
                    Some(Ok(Link::Live(_))) => {
                        self.records.extend(bytes.map(|bytes| (key, bytes)));
                    }
                    Some(Err(reason)) => self.note(key.to_string(), reason),
                    Some(Ok(Link::Deleted)) | None => {
                        is_changed |= self.without_link(&name, &digest).await?;
                    }
                }
            }
            if !is_changed {
                return Ok(());
            }
            self.follow_all().await?;
        }
    }

    /// A repository lacks something that a manifest references. `true`: the manifest is gone by now.
    async fn without_link(
        &mut self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<bool, BackupError> {
        let Some(needed) = self.needed.remove(&(name.clone(), digest.clone())) else {
            return Ok(false);
        };
        let is_manifest = self.records.contains_key(&keys::manifest(name, digest));
        if is_manifest || !needed.is_required {
            return Ok(false);
        }
        let by = match &needed.by {
            Referrer::Manifest(manifest) => keys::manifest(name, manifest),
            Referrer::Copy(key) => key.clone(),
        };
        if get(self.core, &by).await?.is_none() {
            self.records.remove(&by);
            return Ok(true);
        }
        self.note(format!("{name}@{digest}"), format!("{by} references it, and it is absent"));
        Ok(false)
    }

    /// Where the bytes of all links lie.
    pub(super) fn locations(&self) -> Vec<StoredBlob> {
        SnapshotRecords(self.records.clone()).blobs().into_iter().collect()
    }

    /// Looks again at links whose bytes are gone: they may have been moved to others.
    pub(super) async fn find_again(&mut self, gone: Vec<StoredBlob>) -> Result<(), BackupError> {
        for blob in gone {
            let of_blob = |(key, bytes): (&Key, &Bytes)| match Link::decode(bytes) {
                Ok(Link::Live(at)) if at.key == blob.key => Some(key.clone()),
                _ => None,
            };
            let below = keys::links(&blob.digest);
            let links =
                self.records.range::<str, _>((Bound::Included(below.as_str()), Bound::Unbounded));
            let links = links.take_while(|(key, _)| key.as_str().starts_with(&below));
            let links: Vec<Key> = links.filter_map(of_blob).collect();
            for key in links {
                let seen = self.records.remove(&key);
                let now = get(self.core, &key).await?;
                let Some(ParsedKey::Link(digest, name)) = ParsedKey::parse(&key) else { continue };
                match now {
                    Some(now) if Some(&now) != seen.as_ref() => {
                        if matches!(Link::decode(&now), Ok(Link::Live(_))) {
                            self.records.insert(key, now);
                        }
                    }
                    Some(_) => {
                        self.note(format!("{name}@{digest}"), format!("{} is absent", blob.key));
                    }
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Notes that bytes are wrong. The link is left out: what it names is not in the backup.
    pub(super) fn note_damaged(&mut self, blob: &StoredBlob, reason: String) {
        self.note(format!("{} ({})", blob.digest, blob.key), reason);
        let below = keys::links(&blob.digest);
        self.records.retain(|key, bytes| {
            let is_of_digest = key.as_str().starts_with(&below);
            let names_it =
                || matches!(Link::decode(bytes), Ok(Link::Live(at)) if at.key == blob.key);
            !(is_of_digest && names_it())
        });
    }

    /// The records, and what is missing.
    pub(super) fn finish(self) -> (SnapshotRecords, Vec<MissingContent>) {
        (SnapshotRecords(self.records), self.missing.into_iter().collect())
    }
}

/// Whether a record of authentication is copied. Orders of certificates are of the moment.
fn is_backed_up(key: &Key, with_secrets: bool) -> bool {
    if ParsedKey::parse(key) != Some(ParsedKey::Auth) || *key == keys::acme_order() {
        return false;
    }
    let is_token = [keys::ACCESS_TOKENS, keys::LEGACY_ACCESS_TOKENS, keys::SESSIONS]
        .iter()
        .any(|prefix| key.as_str().starts_with(prefix));
    is_token || with_secrets
}

fn manifest(key: &Key, digest: &Digest, bytes: &Bytes) -> Result<(), String> {
    let record = ManifestRecord::decode(bytes)?;
    verified(key, digest, record).map(drop).map_err(|error| error.to_string())
}

async fn get(core: &Core, key: &Key) -> Result<Option<Bytes>, BackupError> {
    match core.store.get(key).await {
        Ok(record) => Ok(Some(record.bytes)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
