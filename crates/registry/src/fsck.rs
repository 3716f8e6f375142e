//! fsck: verifies the whole store while pushes, pulls and GC continue; with `repair` it repairs
//! what can be repaired without losing data.
//!
//! The *cheap passes* read every record once and compare sizes and references with what listings
//! show. The *deep pass* reads the bytes of every blob and hashes them; it records its position,
//! and resumes there if it was interrupted.
//!
//! - A listing is not one moment, and records come and go while it is read. So an inconsistency
//!   between listings is only a suspicion: it becomes a [`FsckFinding`] once direct reads show it,
//!   with the same version of the record that it depends on before and after.
//! - A record that a push in flight may still write is not reported as missing.
//! - Of each object no more than 8 or 16 bytes are kept. Two that collide would hide that one is
//!   missing, which 64 bits make negligible.
//! - A repair is a write like any other: on the version that was judged, never over another. What
//!   cannot be understood is copied to `quarantine/` before it is removed. What has a key or a version
//!   that this code does not know is never touched.

mod blobs;
mod deep;
mod finding;
mod history;
mod images;
mod keys;
mod links;
mod manifests;
mod observer;
mod pulls;
mod read;
mod records;
mod repair;
mod repositories;
mod uploads;

use std::collections::HashSet;

use jreg_oci::{Digest, RepositoryName};
use jreg_storage::{Key, ListPage};
use serde::{Deserialize, Serialize};

pub use finding::{FindingKind, FsckFinding, RepairStatus, Severity};
pub(crate) use links::BlobDamage;
pub use observer::{FsckObserver, FsckPhase};
pub(crate) use repair::{LostBytes, QuarantinedLocations};

use self::manifests::ManifestScope;
use crate::core::Core;
use crate::fingerprint::{Fingerprint, FingerprintSet};
use crate::pace::paced;
use crate::{HeldUploads, Registry, Result};

/// What fsck verifies, and how fast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckOptions {
    /// Whether to read and hash the bytes of blobs, too.
    pub deep: bool,
    /// Whether to repair what can be repaired without losing data.
    pub repair: bool,
    /// Maximum number of store requests a second; 0 is no limit.
    pub requests_per_second: u32,
    /// Maximum bytes of blobs read for hashing a second; 0 is no limit.
    pub bytes_per_second: u64,
    /// Maximum number of concurrent store requests.
    pub requests_at_once: usize,
    /// Whether to start a deep pass from the beginning although an earlier one was interrupted.
    pub restart: bool,
}

impl Default for FsckOptions {
    fn default() -> Self {
        Self {
            deep: false,
            repair: false,
            requests_per_second: 0,
            bytes_per_second: 0,
            requests_at_once: 16,
            restart: false,
        }
    }
}

/// What an fsck did, and how many findings it had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckReport {
    /// Number of objects that were examined.
    pub objects: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Number of blobs that were read and hashed.
    pub hashed: u64,
    /// Their size in bytes.
    pub hashed_bytes: u64,
    /// Findings of [`Severity::Note`].
    pub notes: u64,
    /// Findings of [`Severity::Untidy`].
    pub untidy: u64,
    /// Findings of [`Severity::Damage`].
    pub damage: u64,
    /// Findings that were repaired.
    pub repaired: u64,
    /// Findings of [`Severity::Untidy`] or [`Severity::Damage`] that remain.
    pub left: u64,
    /// Whether the deep pass resumed an interrupted one.
    pub resumed: bool,
    /// What unfinished uploads hold, if that was counted.
    #[serde(default)]
    pub held: HeldUploads,
}

struct FsckRun<'a> {
    /// The registry's, with a store that is limited to the request rate of the options.
    core: Core,
    options: &'a FsckOptions,
    watch: &'a dyn FsckObserver,
    done: FsckReport,
    seen: FsckInventory,
}

/// The contents of the listings, as fingerprints.
#[derive(Debug, Default)]
struct FsckInventory {
    /// Locations of blob bytes, with their size.
    bytes: FingerprintSet,
    /// Locations that a link or a session references.
    named: FingerprintSet,
    /// A record that may name any location cannot be read.
    may_name_any: bool,
    /// Blobs that have a link, by repository.
    linked: FingerprintSet,
    manifests: FingerprintSet,
    /// Repositories that have a manifest.
    repositories: FingerprintSet,
    tags: FingerprintSet,
    hints: FingerprintSet,
    /// Repositories that the catalog lists.
    listed: FingerprintSet,
    /// Referrer entries that manifests with a subject require.
    entries: FingerprintSet,
    /// Locations that quarantined links name.
    quarantined: Option<QuarantinedLocations>,
    /// Manifests that this run has quarantined.
    quarantined_manifests: HashSet<Fingerprint>,
    /// Blobs whose links this run has deleted after the manifests were read.
    deleted_links: HashSet<Fingerprint>,
    /// References of the repositories of the last repairs.
    references: images::KnownReferences,
    /// Manifests that were missing from the list of their subject's referrers.
    unlisted: Vec<(RepositoryName, Digest)>,
    /// Repositories that were reported as missing from the catalog.
    reported_unlisted: HashSet<Fingerprint>,
}

/// The object of a finding.
#[derive(Clone, Copy)]
struct FindingSubject<'s> {
    key: &'s Key,
    repository: Option<&'s RepositoryName>,
    digest: Option<&'s Digest>,
}

impl<'s> FindingSubject<'s> {
    fn of(key: &'s Key) -> Self {
        Self { key, repository: None, digest: None }
    }

    fn content(key: &'s Key, repository: &'s RepositoryName, digest: &'s Digest) -> Self {
        Self { key, repository: Some(repository), digest: Some(digest) }
    }
}

impl Registry {
    /// Verifies the store. Dropping the future stops it anywhere.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error): fsck did not finish. Findings up to then were reported to
    /// `watch`.
    pub async fn fsck(
        &self,
        options: &FsckOptions,
        watch: &dyn FsckObserver,
    ) -> Result<FsckReport> {
        let core = paced(self.core(), options.requests_per_second);
        let (done, seen) = (FsckReport::default(), FsckInventory::default());
        let mut run = FsckRun { core, options, watch, done, seen };
        // It is large, and awaited in other futures.
        Box::pin(run.check()).await?;
        Ok(run.done)
    }
}

impl FsckRun<'_> {
    async fn check(&mut self) -> Result<()> {
        self.check_keys().await?;
        self.list_bytes().await?;
        self.check_uploads().await?;
        self.check_links().await?;
        self.find_orphans().await?;
        // Not needed any more.
        (self.seen.bytes, self.seen.named) = Default::default();
        self.list_repositories().await?;
        self.check_catalog().await?;
        self.check_manifests(ManifestScope::Everything).await?;
        self.check_records().await?;
        self.check_history().await?;
        self.recheck_referrers().await?;
        if self.options.deep {
            self.hash_blobs().await?;
        }
        Ok(())
    }

    /// Reports and counts a finding.
    fn report(
        &mut self,
        kind: FindingKind,
        of: &FindingSubject<'_>,
        detail: impl Into<String>,
        repair: RepairStatus,
    ) {
        let finding = FsckFinding {
            kind,
            key: of.key.to_string(),
            repository: of.repository.cloned(),
            digest: of.digest.cloned(),
            detail: detail.into(),
            repair,
        };
        let done = &mut self.done;
        match finding.severity() {
            Severity::Note => done.notes += 1,
            Severity::Untidy => done.untidy += 1,
            Severity::Damage => done.damage += 1,
        }
        done.repaired += u64::from(repair == RepairStatus::Done);
        done.left += u64::from(finding.is_left());
        self.watch.finding(&finding);
    }

    /// Counts a page of a listing.
    fn count(&mut self, page: &ListPage) {
        let objects = page.entries.len() as u64;
        let bytes = page.entries.iter().map(|entry| entry.size_bytes).sum::<u64>();
        self.done.objects += objects;
        self.done.bytes += bytes;
        self.watch.progress(objects, bytes);
    }

    fn width(&self) -> usize {
        self.options.requests_at_once.max(1)
    }
}
