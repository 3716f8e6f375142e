//! Deduplication: links to equal blobs at several locations are moved to one of them.
//!
//! The digest in a link's key says what its bytes should be, not what they are. So the bytes at every
//! location concerned are read and hashed before a link is moved: a location whose bytes are wrong or
//! missing is a [`FsckFinding`], is never taken, and its own links are moved to right bytes, which repairs
//! them. What one run reads is bounded, and paced.

use jreg_oci::{Digest, RepositoryName};
use jreg_storage::{ETag, Key};

use super::action::{GcAction, GcActionKind, GcOutcome, GcStep};
use super::links::LinkCensus;
use super::observer::GcPhase;
use super::{GcRun, Result};
use crate::fingerprint;
use crate::fsck::{BlobDamage, FindingKind, FsckFinding, RepairStatus};
use crate::keys;
use crate::pace::ReadPace;
use crate::record::{Link, Location, VersionedRecord};
use crate::rules::Rule;
use crate::suspects::is_incomplete;

/// Maximum number of bytes that one run hashes; the rest is left to the next run. A blob that is
/// larger is still read, as the first of a run.
const HASH_BYTES_MAX: u64 = 256 * 1024 * 1024 * 1024;

/// Maximum rate of hashing.
const HASH_BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;

/// A live link of a repository with a manifest that references the blob.
struct DuplicateLink {
    name: RepositoryName,
    key: Key,
    etag: ETag,
    location: Location,
    /// Only a link older than the grace is moved.
    is_old: bool,
}

/// The verdict on the bytes at a location.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LocationVerdict {
    Intact,
    Damaged(BlobDamage),
    /// The store failed, so it is unknown.
    Unknown,
}

impl GcRun<'_> {
    /// Moves links to the same bytes at several locations to one of them.
    pub(super) async fn deduplicate(&mut self, census: &LinkCensus) -> Result<()> {
        if census.duplicates.is_empty() {
            return Ok(());
        }
        self.watch.phase(GcPhase::Deduplicating);
        let pace = ReadPace::new(HASH_BYTES_PER_SECOND);
        let mut left_bytes = HASH_BYTES_MAX;
        for digest in &census.duplicates {
            let Some(held) = self.held_links(digest).await? else { continue };
            let locations = by_popularity(&held);
            if locations.len() < 2 || !held.iter().any(|link| link.is_old) {
                continue;
            }
            let bytes: u64 = locations.iter().map(|location| location.size_bytes).sum();
            if bytes > left_bytes && left_bytes < HASH_BYTES_MAX {
                break;
            }
            left_bytes = left_bytes.saturating_sub(bytes);
            self.deduplicate_blob(digest, &held, locations, &pace).await;
            self.watch.progress(1);
        }
        Ok(())
    }

    /// The links to a blob that stay. `None`: one of them cannot be read.
    async fn held_links(&self, digest: &Digest) -> Result<Option<Vec<DuplicateLink>>> {
        let mut held = Vec::new();
        let mut pages = self.core.list_pages(keys::links(digest));
        while let Some(page) = pages.next().await? {
            for listed in page.entries {
                let Some(name) = keys::linking_repository(&listed.key) else { continue };
                let is_kept = self.seen.kept.contains(fingerprint::content(&name, digest));
                match self.core.read::<Link>(&listed.key).await {
                    Ok(Some(VersionedRecord {
                        value: Link::Live(location),
                        etag,
                        last_modified,
                        ..
                    })) if is_kept => {
                        let is_old = self.is_old(last_modified);
                        held.push(DuplicateLink { name, key: listed.key, etag, location, is_old });
                    }
                    Ok(_) => {}
                    Err(_) => return Ok(None),
                }
            }
        }
        Ok(Some(held))
    }

    async fn deduplicate_blob(
        &mut self,
        digest: &Digest,
        held: &[DuplicateLink],
        locations: Vec<Location>,
        pace: &ReadPace,
    ) {
        let mut verdicts = Vec::with_capacity(locations.len());
        for location in locations {
            let verdict = self.verify(digest, &location, pace).await;
            verdicts.push((location, verdict));
        }
        let right = verdicts.iter().find(|(_, verdict)| *verdict == LocationVerdict::Intact);
        let keeper = right.and_then(|(target, _)| held.iter().find(|l| l.location == *target));
        if let Some(keeper) = keeper {
            for link in held.iter().filter(|link| link.is_old && link.location != keeper.location) {
                self.done.deduplicated.scan(link.location.size_bytes);
                // Whatever it is that fails, the next run tries again.
                let outcome = self.move_link(digest, link, keeper).await;
                let outcome = outcome.unwrap_or(GcOutcome::Failed);
                self.done.deduplicated.count(outcome, link.location.size_bytes);
            }
        }
        for (location, verdict) in verdicts {
            if let LocationVerdict::Damaged(damage) = verdict {
                self.report_damage(digest, held, &location, damage);
            }
        }
    }

    /// Reads the bytes at a location; if they seem wrong, once more.
    async fn verify(
        &self,
        digest: &Digest,
        location: &Location,
        pace: &ReadPace,
    ) -> LocationVerdict {
        if !self.core.rules.keep(Rule::DeduplicateHashes) {
            return LocationVerdict::Intact;
        }
        let hash = || self.core.hash_bytes(location, digest.algorithm(), pace);
        let mut hashed = hash().await;
        if hashed.as_ref().is_ok_and(|actual| actual != digest) {
            hashed = hash().await;
        }
        match hashed {
            // More bytes than the link says may follow.
            Ok(actual) if actual == *digest => match self.core.has_bytes(location).await {
                Ok(true) => LocationVerdict::Intact,
                Ok(false) => incomplete(location),
                Err(_) => LocationVerdict::Unknown,
            },
            Ok(actual) => {
                let detail = format!("its bytes have digest {actual}");
                LocationVerdict::Damaged(BlobDamage { kind: FindingKind::BytesDigest, detail })
            }
            Err(error) if is_incomplete(&error) => incomplete(location),
            Err(_) => LocationVerdict::Unknown,
        }
    }

    fn report_damage(
        &mut self,
        digest: &Digest,
        links: &[DuplicateLink],
        location: &Location,
        damage: BlobDamage,
    ) {
        damage.mark_suspect(&self.core, location);
        self.done.findings += 1;
        let holder = links.iter().find(|link| link.location == *location);
        self.watch.finding(&FsckFinding {
            kind: damage.kind,
            key: location.key.to_string(),
            repository: holder.map(|link| link.name.clone()),
            digest: Some(digest.clone()),
            detail: damage.detail,
            repair: RepairStatus::Possible,
        });
    }

    async fn move_link(
        &self,
        digest: &Digest,
        link: &DuplicateLink,
        keeper: &DuplicateLink,
    ) -> crate::Result<GcOutcome> {
        let (window, target) = (self.core.open_window(), &keeper.location);
        if !self.options.dry_run && self.core.rules.keep(Rule::DeduplicateTouches) {
            let held = self.core.touch_link(window, &keeper.name, digest).await?;
            if held.as_ref() != Some(target) {
                return Ok(GcOutcome::Changed);
            }
        }
        let action = GcAction {
            kind: GcActionKind::DeduplicateLink { to: target.key.to_string() },
            key: link.key.to_string(),
            repository: Some(link.name.clone()),
            digest: Some(digest.clone()),
            size_bytes: target.size_bytes,
        };
        self.core.check_window(window)?;
        let step = GcStep::Relink(&link.etag, target);
        let swap = self.sink.perform(&self.core, self.watch, &action, &link.key, step);
        Ok(self.core.send_within(Some(window), swap).await)
    }
}

/// The distinct locations that links name: the one that most name first.
fn by_popularity(held: &[DuplicateLink]) -> Vec<Location> {
    let mut locations: Vec<(usize, &Location)> = Vec::new();
    for link in held {
        match locations.iter_mut().find(|(_, location)| *location == &link.location) {
            Some((count, _)) => *count += 1,
            None => locations.push((1, &link.location)),
        }
    }
    locations.sort_by(|(one, at), (other, elsewhere)| {
        other.cmp(one).then_with(|| at.key.cmp(&elsewhere.key))
    });
    locations.into_iter().map(|(_, location)| location.clone()).collect()
}

fn incomplete(location: &Location) -> LocationVerdict {
    let detail = format!("its {} bytes are not all there", location.size_bytes);
    LocationVerdict::Damaged(BlobDamage { kind: FindingKind::BytesMissing, detail })
}
