//! Copies of deleted manifests that end early: where they alone hold more than a quota allows, the oldest go first.
//!
//! They are removed where expired copies are, at the end of the run, which has counted their references; and none that is
//! younger than the grace. So to everything else it is as if `history-keep` had been shorter for them.

use std::collections::{HashMap, HashSet};

use jreg_lifecycle::QuotaPool;
use jreg_oci::{Digest, RepositoryName};
use jreg_storage::Key;

use super::manifests::damaged;
use super::{GcRun, Result};
use crate::ChangeId;
use crate::content_sizes::Sizes;
use crate::fingerprint::{self, Fingerprint, FingerprintSet};
use crate::keys::{self, ParsedKey};
use crate::manifest_copy::ManifestCopy;
use crate::quota_warning::usage_detail;
use crate::size_cache::SizeList;

/// A copy, with what it holds.
struct SizedCopy {
    change: ChangeId,
    key: Key,
    sizes: SizeList,
}

/// What copies hold together, each content once.
#[derive(Default)]
struct HeldContent {
    /// The size of each content, and how many copies hold it.
    counted: HashMap<Fingerprint, (u64, usize)>,
    bytes: u64,
}

impl HeldContent {
    fn add(&mut self, sizes: &SizeList, live: &Sizes) {
        for (content, size) in sizes.iter().filter(|(content, _)| !live.contains_key(content)) {
            let (_, copies) = self.counted.entry(*content).or_insert((*size, 0));
            if *copies == 0 {
                self.bytes += size;
            }
            *copies += 1;
        }
    }

    fn remove(&mut self, sizes: &SizeList) {
        for (content, _) in sizes.iter() {
            let Some((size, copies)) = self.counted.get_mut(content) else { continue };
            *copies -= 1;
            if *copies == 0 {
                self.bytes -= *size;
                self.counted.remove(content);
            }
        }
    }
}

impl GcRun<'_> {
    /// The copies that end early.
    pub(super) async fn copies_over_quota(&self) -> Result<HashSet<Key>> {
        let mut over = HashSet::new();
        for (number, pool) in (1..).zip(self.rules.quotas().all()) {
            let mut copies = self.copies_of_pool(pool).await?;
            if held_by(&copies, &Sizes::new()).bytes <= pool.bytes {
                continue;
            }
            // What manifests reference as well does not count.
            let mut held = held_by(&copies, &self.live_sizes(pool).await?);
            let bytes_before = held.bytes;
            copies.sort_by_key(|copy| copy.change);
            let mut ended = 0_u64;
            for copy in copies {
                if held.bytes <= pool.bytes || !self.is_old(copy.change.time()) {
                    break;
                }
                held.remove(&copy.sizes);
                ended += u64::from(over.insert(copy.key));
            }
            if ended > 0 && !self.options.dry_run {
                let usage = pool.usage(number, bytes_before);
                let limit = pool.bytes;
                tracing::warn!(
                    number,
                    ended,
                    bytes_before,
                    limit,
                    "kept deleted manifests exceed a quota: the oldest end early"
                );
                let mut detail = usage_detail(&usage, pool, "deleted-content");
                detail.insert("ended".to_owned(), ended.into());
                self.core.queue_quota_warning(detail).await?;
            }
        }
        Ok(over)
    }

    /// The copies in the repositories of a pool.
    async fn copies_of_pool(&self, pool: &QuotaPool) -> Result<Vec<SizedCopy>> {
        let mut copies = Vec::new();
        let mut pages = self.core.list_pages(keys::DELETED_MANIFESTS);
        while let Some(page) = pages.next().await? {
            for entry in page.entries {
                let Some(ParsedKey::ManifestCopy(name, digest, change)) =
                    ParsedKey::parse(&entry.key)
                else {
                    continue;
                };
                if !pool.matches(&name) {
                    continue;
                }
                if let Some(sizes) = self.sizes_of_copy(&name, &digest, &entry.key).await? {
                    copies.push(SizedCopy { change, key: entry.key, sizes });
                }
            }
        }
        Ok(copies)
    }

    /// What a copy holds; what a manifest references never changes, so it may be remembered.
    async fn sizes_of_copy(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        key: &Key,
    ) -> Result<Option<SizeList>> {
        let content = fingerprint::content(name, digest);
        if let Some(sizes) = self.core.sizes.get(content) {
            return Ok(Some(sizes));
        }
        let copy = self.core.read::<ManifestCopy>(key).await.map_err(damaged)?;
        let Some(copy) = copy else { return Ok(None) };
        let (none, record) = (FingerprintSet::default(), &copy.value.manifest);
        let found = self.core.sizes_in(name, digest, record, &none).await?;
        Ok(found.map(|(sizes, is_complete)| {
            if is_complete {
                self.core.sizes.insert(content, &sizes);
            }
            sizes
        }))
    }

    /// What the manifests of a pool hold.
    async fn live_sizes(&self, pool: &QuotaPool) -> Result<Sizes> {
        let mut live = Sizes::new();
        let mut pages = self.core.list_pages(keys::CATALOG);
        while let Some(page) = pages.next().await? {
            for name in page.entries.iter().filter_map(|entry| keys::catalog_name(&entry.key)) {
                if pool.matches(&name) {
                    self.core.add_sizes(&name, &mut live).await?;
                }
            }
        }
        Ok(live)
    }
}

fn held_by(copies: &[SizedCopy], live: &Sizes) -> HeldContent {
    let mut held = HeldContent::default();
    copies.iter().for_each(|copy| held.add(&copy.sizes, live));
    held
}
