//! C2: the listing of `repositories/`, and the references of the manifests.

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, Manifest, ManifestReference, ReferenceKind, RepositoryName};
use jreg_storage::{Key, Listed};

use super::memo::{Memo, MemoKind};
use super::observer::GcPhase;
use super::{GcError, GcRun, Result, last_key};
use crate::fingerprint::{self, Fingerprint, ListedVersion};
use crate::keys::{self, ParsedKey};
use crate::manifest_copy::ManifestCopy;
use crate::manifest_read::verified;
use crate::record::ManifestRecord;
use crate::rules::Rule;
use crate::tag_record::{TagRecord, is_deleted_tag};

/// A record that must be read, because no memo has this version of it.
struct UnreadRecord<T> {
    of: T,
    key: Key,
    version: Option<ListedVersion>,
}

type ManifestName = (RepositoryName, Digest);

/// What a manifest references, as fingerprints.
struct NamedContent {
    subject: Option<Fingerprint>,
    references: Vec<Fingerprint>,
}

impl NamedContent {
    /// The values of a manifest in a memo: its subject, or 0, which no fingerprint is; then its
    /// references.
    fn from_memo(values: &[u64]) -> Option<Self> {
        let (subject, references) = values.split_first()?;
        let subject = (*subject != 0).then_some(*subject);
        Some(Self { subject, references: references.to_vec() })
    }

    fn to_memo(&self) -> Vec<u64> {
        let subject = self.subject.unwrap_or(0);
        std::iter::once(subject).chain(self.references.iter().copied()).collect()
    }
}

/// A manifest with a subject: kept, if that turns out to be there.
struct PendingReferrer {
    own: Fingerprint,
    subject: Fingerprint,
}

impl GcRun<'_> {
    /// What tags point to is kept.
    pub(super) async fn read_tags(&mut self) -> Result<()> {
        self.watch.phase(GcPhase::Tags);
        let core = self.core.clone();
        let mut memo = Memo::open(&core, MemoKind::Tags, !self.options.dry_run).await?;
        let mut pages = self.core.list_pages(keys::REPOSITORIES);
        while let Some(page) = pages.next().await? {
            let mut unread = Vec::new();
            for entry in &page.entries {
                let Some(ParsedKey::Tag(name, _)) = ParsedKey::parse(&entry.key) else { continue };
                let version = ListedVersion::of(entry, page.date);
                match recall(&mut memo, &entry.key, version).await {
                    Some(target) => target.iter().for_each(|target| self.seen.kept.insert(*target)),
                    None => unread.push(UnreadRecord { of: name, key: entry.key.clone(), version }),
                }
            }
            for (version, target) in self.read_each(unread, read_tag).await? {
                self.seen.kept.insert(target);
                remember(&mut memo, version, &[target]);
            }
            self.watch.progress(page.entries.len() as u64);
            memo.end_page(last_key(&page.entries)).await?;
        }
        Ok(memo.finish().await?)
    }

    /// What manifests reference is kept.
    pub(super) async fn read_manifests(&mut self) -> Result<()> {
        self.watch.phase(GcPhase::Manifests);
        let core = self.core.clone();
        let mut memo = Memo::open(&core, MemoKind::Manifests, !self.options.dry_run).await?;
        let mut referrers: Vec<PendingReferrer> = Vec::new();
        let mut pages = self.core.list_pages(keys::REPOSITORIES);
        while let Some(page) = pages.next().await? {
            let mut unread = Vec::new();
            for entry in &page.entries {
                let Some(found) = self.note(entry)? else { continue };
                let version = ListedVersion::of(entry, page.date);
                let values = recall(&mut memo, &entry.key, version).await;
                match values.and_then(|values| NamedContent::from_memo(&values)) {
                    Some(named) => self.keep(&found, &named, &mut referrers),
                    None => {
                        unread.push(UnreadRecord { of: found, key: entry.key.clone(), version })
                    }
                }
            }
            self.done.manifests_read += unread.len() as u64;
            for (version, (found, named)) in self.read_each(unread, read_manifest).await? {
                remember(&mut memo, version, &named.to_memo());
                self.keep(&found, &named, &mut referrers);
            }
            self.watch.progress(page.entries.len() as u64);
            memo.end_page(last_key(&page.entries)).await?;
        }
        memo.finish().await?;
        self.seen.manifests.seal();
        if self.core.rules.keep(Rule::SubjectKeeps) {
            for referrer in referrers {
                if self.seen.manifests.contains(referrer.subject) {
                    self.seen.kept.insert(referrer.own);
                }
            }
        }
        Ok(())
    }

    /// Records an entry below `repositories/`; a manifest is returned, to be read.
    fn note(&mut self, entry: &Listed) -> Result<Option<ManifestName>> {
        match ParsedKey::parse(&entry.key) {
            Some(ParsedKey::Manifest(name, digest)) => {
                self.done.manifests.scan(entry.size_bytes);
                self.seen.manifests.insert(fingerprint::content(&name, &digest));
                self.seen.repositories.insert(fingerprint::repository(&name));
                Ok(Some((name, digest)))
            }
            Some(ParsedKey::Tag(..)) if is_deleted_tag(entry) => Ok(None),
            Some(ParsedKey::Tag(..)) => {
                self.seen.tags.insert(fingerprint::key(&entry.key));
                Ok(None)
            }
            None if entry.key.as_str().contains("/_manifests/") => Err(GcError::Damaged {
                key: entry.key.to_string(),
                reason: "no manifest that this version knows has such a name".to_owned(),
            }),
            _ => Ok(None),
        }
    }

    fn keep(
        &mut self,
        (name, digest): &ManifestName,
        named: &NamedContent,
        referrers: &mut Vec<PendingReferrer>,
    ) {
        let own = fingerprint::content(name, digest);
        if let (Some(subject), true) = (named.subject, self.judges_untagged) {
            referrers.push(PendingReferrer { own, subject });
        }
        if !self.core.rules.keep(Rule::OneStep) {
            // As if manifests to be deleted in this run had no references.
            self.seen.kept.seal();
            if !self.seen.kept.contains(own) {
                return;
            }
        }
        named.references.iter().for_each(|reference| self.seen.kept.insert(*reference));
    }

    /// Reads several records at a time. One that is gone has no references.
    async fn read_each<T, U, F>(
        &self,
        unread: Vec<UnreadRecord<T>>,
        read: impl Fn(crate::core::Core, Key, T) -> F,
    ) -> Result<Vec<(Option<ListedVersion>, U)>>
    where
        F: Future<Output = Result<Option<U>>>,
    {
        let reads = unread.into_iter().map(|unread| {
            let reading = read(self.core.clone(), unread.key, unread.of);
            async move { Ok(reading.await?.map(|found| (unread.version, found))) }
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let reads: Vec<_> = reads.collect();
        let read = stream::iter(reads).buffered(self.width());
        read.try_filter_map(|found| async { Ok(found) }).try_collect().await
    }
}

async fn read_tag(
    core: crate::core::Core,
    key: Key,
    name: RepositoryName,
) -> Result<Option<Fingerprint>> {
    let read = core.read::<TagRecord>(&key).await.map_err(damaged)?;
    let target = read.and_then(|read| read.value.into_live());
    Ok(target.map(|target| fingerprint::content(&name, &target.digest)))
}

async fn read_manifest(
    core: crate::core::Core,
    key: Key,
    (name, digest): ManifestName,
) -> Result<Option<(ManifestName, NamedContent)>> {
    let Some(record) = core.read::<ManifestRecord>(&key).await.map_err(damaged)? else {
        return Ok(None);
    };
    let length = record.value.bytes.len();
    let every_reading = core.rules.keep(Rule::EveryReading);
    let read = move || {
        let stored = verified(&key, &digest, record.value).map_err(damaged)?;
        let named = named(&name, &key, &stored, every_reading)?;
        Ok(Some(((name, digest), named)))
    };
    core.compute.run(length, read).await?
}

/// What a copy of a deleted manifest references, as fingerprints; `None` if it has been removed.
pub(super) async fn copied_references(
    core: crate::core::Core,
    key: Key,
    name: RepositoryName,
    digest: Digest,
) -> Result<Option<Vec<Fingerprint>>> {
    let Some(copy) = core.read::<ManifestCopy>(&key).await.map_err(damaged)? else {
        return Ok(None);
    };
    let length = copy.value.manifest.bytes.len();
    let read = move || {
        let stored = verified(&key, &digest, copy.value.manifest).map_err(damaged)?;
        Ok(Some(named(&name, &key, &stored, true)?.references))
    };
    core.compute.run(length, read).await?
}

fn named(
    name: &RepositoryName,
    key: &Key,
    stored: &crate::StoredManifest,
    every_reading: bool,
) -> Result<NamedContent> {
    let manifest = Manifest::parse_stored(&stored.media_type, &stored.bytes);
    let manifest = manifest
        .map_err(|error| GcError::Damaged { key: key.to_string(), reason: error.to_string() })?;
    let subject = manifest.subject.as_ref();
    let subject = subject.map(|subject| fingerprint::content(name, &subject.digest));
    let is_kept =
        |reference: &&ManifestReference| every_reading || reference.kind != ReferenceKind::Any;
    let references = manifest.references.iter().filter(is_kept);
    let references = references.map(|reference| fingerprint::content(name, &reference.digest));
    Ok(NamedContent { subject, references: references.collect() })
}

/// A record that cannot be decoded ends the run.
pub(super) fn damaged(error: crate::Error) -> GcError {
    match error {
        crate::Error::Damaged { key, reason } => GcError::Damaged { key, reason },
        other => GcError::Registry(other),
    }
}

/// The memo's values for a version of a record, if it is distinguishable from others.
pub(super) async fn recall(
    memo: &mut Memo<'_>,
    key: &Key,
    version: Option<ListedVersion>,
) -> Option<Vec<u64>> {
    let version = version?;
    let values = memo.get(key, version).await?;
    memo.put(version, &values);
    Some(values)
}

pub(super) fn remember(memo: &mut Memo<'_>, version: Option<ListedVersion>, values: &[u64]) {
    if let Some(version) = version {
        memo.put(version, values);
    }
}
