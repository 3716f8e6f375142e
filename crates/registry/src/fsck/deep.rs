//! The deep pass: the bytes of every blob that a link references are read and hashed.
//!
//! Links are walked in the order of their keys, so those of one blob come together, and bytes that
//! several of them name are read once. After every few links the run notes how far it is, with the
//! damaged ones so far, so that a later run resumes there and still knows of them.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, Hasher};
use jreg_storage::{ByteRange, ETag, Key};
use serde::{Deserialize, Serialize};

use super::links::{BlobDamage, LiveLink};
use super::manifests::ManifestScope;
use super::read::{ReadRetries, RecordState, read_state};
use super::{FindingKind, FsckObserver, FsckPhase, FsckRun, RepairStatus};
use crate::Result;
use crate::core::Core;
use crate::fingerprint;
use crate::keys::{self, ParsedKey};
use crate::pace::ReadPace;
use crate::record::{JsonRecord, Link, Location, StoredRecord, VersionedRecord};

/// After how many links a run notes how far it is.
const LINKS_PER_NOTE: usize = 64;

/// Maximum age of a recorded position: after that, the blobs before it are hashed again.
const NOTE_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Maximum number of damaged links in a note. With more the position is not noted any more.
const BAD_MAX: usize = 1000;

/// The resume position of a deep pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct DeepPosition {
    /// The last link that was verified; `None`: a new pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    /// Links whose bytes were found damaged and were not repaired.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    bad: BTreeSet<Key>,
}

impl JsonRecord for DeepPosition {}

/// What reading some bytes has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
enum BlobVerdict {
    Intact,
    Damaged(BlobDamage),
    /// They are not there, or fewer: a cheap pass reports that.
    Missing,
}

/// Verdicts on the bytes of the last digest.
#[derive(Debug, Default)]
struct VerdictCache {
    digest: Option<Digest>,
    verdicts: Vec<(Location, BlobVerdict)>,
}

impl VerdictCache {
    fn of(&self, held: &LiveLink) -> Option<&BlobVerdict> {
        let is_same = self.digest.as_ref() == Some(&held.digest);
        let mut verdicts = self.verdicts.iter().filter(|_| is_same);
        verdicts.find(|(location, _)| *location == held.location).map(|(_, verdict)| verdict)
    }

    fn add(&mut self, held: &LiveLink, verdict: BlobVerdict) {
        if self.digest.as_ref() != Some(&held.digest) {
            *self = Self { digest: Some(held.digest.clone()), verdicts: Vec::new() };
        }
        self.verdicts.push((held.location.clone(), verdict));
    }
}

struct DeepPass {
    core: Core,
    pace: ReadPace,
    known: VerdictCache,
    position: DeepPosition,
    /// The version of the note that this pass resumes from.
    noted: Option<ETag>,
}

impl FsckRun<'_> {
    /// Reads and hashes the bytes of every blob.
    pub(super) async fn hash_blobs(&mut self) -> Result<()> {
        self.watch.phase(FsckPhase::Hashing);
        let mut pass = self.begin_pass().await?;
        self.done.resumed = pass.position.after.is_some();
        let bad: Vec<_> = std::mem::take(&mut pass.position.bad).into_iter().collect();
        for links in bad.chunks(LINKS_PER_NOTE) {
            self.hash_links(&mut pass, links).await?;
        }
        let mut pages = self.core.list_pages(keys::LINKS);
        if let Some(after) = &pass.position.after {
            pages = pages.after(after.clone());
        }
        while let Some(page) = pages.next().await? {
            let links: Vec<_> = page.entries.into_iter().map(|entry| entry.key).collect();
            for links in links.chunks(LINKS_PER_NOTE) {
                self.hash_links(&mut pass, links).await?;
                pass.position.after = links.last().map(Key::to_string);
                pass.note().await?;
            }
        }
        pass.position = DeepPosition::default();
        pass.note().await?;
        if !self.seen.deleted_links.is_empty() {
            self.check_manifests(ManifestScope::DeletedReferences).await?;
        }
        Ok(())
    }

    async fn begin_pass(&self) -> Result<DeepPass> {
        let core = self.core.clone();
        let key = keys::note("fsck");
        let (position, noted) = match read_state::<DeepPosition>(&core, &key).await? {
            RecordState::Valid(read) if !self.options.restart && read.age() <= NOTE_AGE_MAX => {
                (read.value, Some(read.etag))
            }
            RecordState::Valid(read) => (DeepPosition::default(), Some(read.etag)),
            RecordState::Absent => (DeepPosition::default(), None),
            // It is only a note.
            RecordState::Unreadable(bad) => {
                (DeepPosition::default(), bad.record.map(|record| record.etag))
            }
        };
        let pace = ReadPace::new(self.options.bytes_per_second);
        Ok(DeepPass { core, pace, known: VerdictCache::default(), position, noted })
    }

    /// Reads some links, and the bytes that they name.
    async fn hash_links(&mut self, pass: &mut DeepPass, links: &[Key]) -> Result<()> {
        let core = pass.core.clone();
        let reads: Vec<_> = links.iter().map(|key| read_link(&core, key)).collect();
        let mut reads = stream::iter(reads).buffered(self.width());
        let mut live = Vec::new();
        while let Some(link) = reads.next().await {
            live.extend(link?);
        }
        drop(reads);
        let verdicts = self.hash_distinct(pass, &live).await?;
        for (link, verdict) in live.iter().zip(verdicts) {
            match verdict {
                BlobVerdict::Damaged(damage) => self.report_hashed(pass, link, damage).await?,
                BlobVerdict::Intact if link.location.is_unverified => {
                    note_verified(&core, link).await?;
                }
                BlobVerdict::Intact | BlobVerdict::Missing => {}
            }
        }
        Ok(())
    }

    /// The verdict on the bytes of each link, reading those that several name once.
    async fn hash_distinct(
        &mut self,
        pass: &mut DeepPass,
        links: &[LiveLink],
    ) -> Result<Vec<BlobVerdict>> {
        let is_first = |index: usize, link: &LiveLink| {
            !links.iter().take(index).any(|other| other.names_same_bytes(link))
        };
        let distinct = links.iter().enumerate();
        let distinct = distinct
            .filter(|(index, link)| pass.known.of(link).is_none() && is_first(*index, link))
            .map(|(_, link)| link);
        let distinct: Vec<_> = distinct.collect();
        let verdicts = self.hash_each(pass, &distinct).await?;
        let mut fresh: Vec<_> = distinct.into_iter().zip(verdicts).collect();
        let known = &mut pass.known;
        let mut verdicts = Vec::with_capacity(links.len());
        for link in links {
            if let Some(index) = fresh.iter().position(|(other, _)| other.names_same_bytes(link)) {
                let (first, verdict) = fresh.swap_remove(index);
                known.add(first, verdict);
            }
            verdicts.push(known.of(link).cloned().unwrap_or(BlobVerdict::Missing));
        }
        Ok(verdicts)
    }

    /// Reads the bytes that each link references.
    async fn hash_each(
        &mut self,
        pass: &DeepPass,
        links: &[&LiveLink],
    ) -> Result<Vec<BlobVerdict>> {
        let jobs = links.iter().map(|link| verify(&pass.core, link, &pass.pace, self.watch));
        let jobs: Vec<_> = jobs.collect();
        // Several that share a narrow pace would each wait for so long that a store may hang up.
        let is_paced = self.options.bytes_per_second > 0;
        let jobs = stream::iter(jobs).buffered(if is_paced { 1 } else { self.width() });
        let verdicts: Vec<_> = jobs.try_collect().await?;
        self.done.hashed += verdicts.len() as u64;
        self.done.hashed_bytes += links.iter().map(|link| link.location.size_bytes).sum::<u64>();
        Ok(verdicts)
    }

    async fn report_hashed(
        &mut self,
        pass: &mut DeepPass,
        held: &LiveLink,
        bad: BlobDamage,
    ) -> Result<()> {
        match self.report_bytes(held, bad).await? {
            None => {}
            Some(RepairStatus::Done) => {
                self.seen.deleted_links.insert(fingerprint::content(&held.name, &held.digest));
            }
            Some(_) => {
                pass.position.bad.insert(keys::link(&held.digest, &held.name));
            }
        }
        Ok(())
    }
}

async fn read_link(core: &Core, key: &Key) -> Result<Option<LiveLink>> {
    let Some(ParsedKey::Link(digest, name)) = ParsedKey::parse(key) else { return Ok(None) };
    Ok(match read_state::<Link>(core, key).await? {
        RecordState::Valid(VersionedRecord { value: Link::Live(location), etag, .. }) => {
            Some(LiveLink { name, digest, location, etag })
        }
        _ => None,
    })
}

/// The bytes of a link that were not hashed when they were imported are right. If another changes the link
/// meanwhile, a later run finds it.
async fn note_verified(core: &Core, link: &LiveLink) -> Result<()> {
    if core.store.capabilities().is_read_only {
        return Ok(());
    }
    let location = Location { is_unverified: false, ..link.location.clone() };
    let key = keys::link(&link.digest, &link.name);
    core.swap(&key, Some(&link.etag), Link::Live(location).encode()).await?;
    core.cache.forget(&link.name, &link.digest);
    Ok(())
}

impl DeepPass {
    /// Writes the position. If a concurrent fsck was faster, its note is as good.
    async fn note(&mut self) -> Result<()> {
        if self.position.bad.len() > BAD_MAX {
            return Ok(());
        }
        let key = keys::note("fsck");
        let record = self.position.encode();
        self.noted = match self.core.swap(&key, self.noted.as_ref(), record).await? {
            Some(written) => Some(written.etag),
            None => self.core.read_etag(&key).await?,
        };
        Ok(())
    }
}

/// Reads bytes and hashes them; if they seem wrong, once more.
async fn verify(
    core: &Core,
    held: &LiveLink,
    pace: &ReadPace,
    watch: &dyn FsckObserver,
) -> Result<BlobVerdict> {
    let mut patience = ReadRetries::new();
    let mut was_other = false;
    let verdict = loop {
        match hash(core, held, pace, watch).await {
            Ok(actual) if actual == held.digest => break BlobVerdict::Intact,
            Ok(actual) if was_other => {
                let detail = format!("its bytes have digest {actual}");
                break BlobVerdict::Damaged(BlobDamage { kind: FindingKind::BytesDigest, detail });
            }
            Ok(_) => was_other = true,
            Err(error) if is_gone(&error) => break BlobVerdict::Missing,
            Err(error) => {
                if let Some(detail) = patience.lose(core, error).await? {
                    break BlobVerdict::Damaged(BlobDamage {
                        kind: FindingKind::ReadFails,
                        detail,
                    });
                }
            }
        }
    };
    watch.progress(1, 0);
    Ok(verdict)
}

fn is_gone(error: &jreg_storage::Error) -> bool {
    use jreg_storage::ErrorKind::{NotFound, OutOfRange};
    matches!(error.kind(), NotFound | OutOfRange)
}

async fn hash(
    core: &Core,
    held: &LiveLink,
    pace: &ReadPace,
    watch: &dyn FsckObserver,
) -> jreg_storage::Result<Digest> {
    let range = ByteRange { start: 0, end: held.location.size_bytes };
    let mut stream = core.store.read(&held.location.key, range).await?;
    let mut hasher = Hasher::new(held.digest.algorithm());
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        hasher.update(&chunk);
        watch.progress(0, chunk.len() as u64);
        pace.took(chunk.len() as u64).await;
    }
    Ok(hasher.finish())
}
