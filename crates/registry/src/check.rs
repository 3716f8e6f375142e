//! The check: walks the whole store and says what is not as it should be, while pushes, pulls and
//! collections go on; where it is asked to, it mends what can be mended without a loss.
//!
//! The *cheap passes* read every record once and hold sizes and references against what listings
//! show. The *deep pass* reads the bytes of every blob and hashes them; it notes how far it is, and
//! goes on there if it was cut off.
//!
//! - A listing is not one moment, and records come and go while it is read. So what the listings
//!   make look wrong is only a suspicion: it becomes a [`Finding`] once direct reads show it, with
//!   the same version of the record that it depends on before and after.
//! - What a push may still be about to write is not missed until no push can write it any more.
//! - Of each object no more than 8 or 16 bytes are kept. Two that collide would hide that one is
//!   missing, which nobody has to expect of 64 bits.
//! - A repair is a write like any other: on the version that was judged, never over another. What
//!   cannot be understood is copied to `quarantine/` before it goes. What has a key or a version
//!   that this code does not know is never touched.

mod bytes;
mod finding;
mod hashing;
mod images;
mod keys;
mod links;
mod manifests;
mod mend;
mod read;
mod records;
mod repositories;
mod uploads;
mod watch;

use std::collections::HashSet;

use jreg_oci::{Digest, RepositoryName};
use jreg_storage::{Key, ListPage};
use serde::{Deserialize, Serialize};

pub use finding::{Finding, FindingKind, Repair, Severity};
pub(crate) use mend::{LostBytes, QuarantinedPlaces};
pub use watch::{CheckPhase, CheckWatch};

use self::manifests::Scope;
use crate::collect::paced;
use crate::core::Core;
use crate::fingerprint::{Fingerprint, Fingerprints};
use crate::{Registry, Result};

/// How to check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckOptions {
    /// Whether the bytes of blobs are read and hashed, too.
    pub deep: bool,
    /// Whether what can be mended without a loss is mended.
    pub repair: bool,
    /// The most store requests a second; 0 is as many as the store answers.
    pub requests_per_second: u32,
    /// The most bytes of blobs a second that are read to be hashed; 0 is as many as come.
    pub bytes_per_second: u64,
    /// The most store requests at the same time.
    pub requests_at_once: usize,
    /// Whether a deep pass begins anew although an earlier one was cut off.
    pub restart: bool,
}

impl Default for CheckOptions {
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

/// What a check did, and how many findings it had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// How many objects were looked at.
    pub objects: u64,
    /// How many bytes these have.
    pub bytes: u64,
    /// How many blobs were read and hashed.
    pub hashed: u64,
    /// How many bytes these have.
    pub hashed_bytes: u64,
    /// Findings of [`Severity::Note`].
    pub notes: u64,
    /// Findings of [`Severity::Untidy`].
    pub untidy: u64,
    /// Findings of [`Severity::Damage`].
    pub damage: u64,
    /// Findings that were mended.
    pub repaired: u64,
    /// Findings of [`Severity::Untidy`] or [`Severity::Damage`] that remain.
    pub left: u64,
    /// Whether the deep pass went on where an earlier one had been cut off.
    pub resumed: bool,
}

/// A check that runs.
struct Run<'a> {
    /// The registry's, but for a store that is asked no faster than the options say.
    core: Core,
    options: &'a CheckOptions,
    watch: &'a dyn CheckWatch,
    done: Checked,
    seen: Seen,
}

/// What the listings have shown, as fingerprints.
#[derive(Debug, Default)]
struct Seen {
    /// The bytes of blobs: where they are, with their size.
    bytes: Fingerprints,
    /// Places that a link or a session names.
    named: Fingerprints,
    /// Something cannot be read that may name any place.
    may_name_any: bool,
    /// The blobs that repositories hold.
    held: Fingerprints,
    /// The manifests.
    manifests: Fingerprints,
    /// The repositories that have one.
    repositories: Fingerprints,
    /// The tags.
    tags: Fingerprints,
    /// The hints.
    hints: Fingerprints,
    /// The repositories that the catalog lists.
    listed: Fingerprints,
    /// The entries of lists of referrers that manifests call for.
    entries: Fingerprints,
    /// Places that links name that a repair has quarantined.
    quarantined: Option<QuarantinedPlaces>,
    /// Manifests that this run has put aside.
    put_aside: HashSet<Fingerprint>,
    /// Blobs that this run has let go after the manifests were looked at.
    let_go: HashSet<Fingerprint>,
    /// What the repositories of the last repairs refer to.
    references: images::KnownReferences,
    /// Manifests that were missing from the list of their subject's referrers.
    unlisted: Vec<(RepositoryName, Digest)>,
    /// Repositories of which it was told that the catalog lacks them.
    told_unlisted: HashSet<Fingerprint>,
}

/// What a finding is about.
#[derive(Clone, Copy)]
struct Subject<'s> {
    key: &'s Key,
    repository: Option<&'s RepositoryName>,
    digest: Option<&'s Digest>,
}

impl<'s> Subject<'s> {
    fn of(key: &'s Key) -> Self {
        Self { key, repository: None, digest: None }
    }

    fn content(key: &'s Key, repository: &'s RepositoryName, digest: &'s Digest) -> Self {
        Self { key, repository: Some(repository), digest: Some(digest) }
    }
}

impl Registry {
    /// Checks the store. Dropping the future stops the check wherever it is.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error): the check is not finished. What it found by then was told to
    /// `watch`.
    pub async fn check(&self, options: &CheckOptions, watch: &dyn CheckWatch) -> Result<Checked> {
        let core = paced(self.core(), options.requests_per_second);
        let (done, seen) = (Checked::default(), Seen::default());
        let mut run = Run { core, options, watch, done, seen };
        // It is large, and awaited in other futures.
        Box::pin(run.check()).await?;
        Ok(run.done)
    }
}

impl Run<'_> {
    async fn check(&mut self) -> Result<()> {
        self.check_keys().await?;
        self.list_bytes().await?;
        self.check_uploads().await?;
        self.check_links().await?;
        self.find_orphans().await?;
        // Not asked for any more.
        (self.seen.bytes, self.seen.named) = Default::default();
        self.list_repositories().await?;
        self.check_catalog().await?;
        self.check_manifests(Scope::Everything).await?;
        self.check_records().await?;
        self.look_again().await?;
        if self.options.deep {
            self.hash_blobs().await?;
        }
        Ok(())
    }

    /// Tells of something, and counts it.
    fn report(
        &mut self,
        kind: FindingKind,
        of: &Subject<'_>,
        detail: impl Into<String>,
        repair: Repair,
    ) {
        let finding = Finding {
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
        done.repaired += u64::from(repair == Repair::Done);
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
