//! Quotas: how much the repositories of a pool may hold together.
//!
//! A pool is counted by reading (`storage_usage.rs`), by each instance, and what this instance pushes is added. Nothing is
//! written for it. A push waits for the first count a while only, and passes if it takes longer. A manifest is judged by the
//! unique contents that it would add; an upload by its bytes, beside all open uploads. Only a push that succeeded
//! is added.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use jreg_lifecycle::{LifecycleRules, QuotaPool, QuotaUsage, QuotaVerdict};
use jreg_oci::{Digest, ManifestReference, ReferenceKind};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::core::Core;
use crate::fingerprint::{self, Fingerprint};
use crate::quota_ledger::{PoolCount, PoolLedger, PoolState};
use crate::quota_warning::pool_fingerprint;
use crate::{
    BodyError, Error, LIST_KEYS_MAX, PageRequest, Registry, Repository, Result, UploadChunk,
};

/// After how long the next push lets a pool be counted again, beside it.
const COUNT_AGE_MAX: Duration = Duration::from_secs(60);
/// How old a count may be by which a request is refused.
const COUNT_AGE_REFUSE_MAX: Duration = Duration::from_secs(10);
/// How long a request waits for a count. It goes on, and counts for later ones.
const COUNT_WAIT_MAX: Duration = Duration::from_secs(10);

/// Maximum bytes of a refused body that are read. After more, the connection is closed.
const REFUSED_BYTES_MAX: u64 = 64 << 30;

/// Contents that a push adds, to the pools of its repository.
#[derive(Debug, Default)]
pub(crate) struct QuotaCharge {
    /// With the numbers of their quotas.
    pools: Vec<(usize, Arc<PoolLedger>)>,
    contents: Vec<(Fingerprint, u64)>,
}

/// Whether the body of an upload outgrew a quota.
#[derive(Debug, Default)]
pub(crate) struct BodyQuota(Option<(Arc<AtomicBool>, QuotaUsage)>);

impl Repository {
    /// Refuses a manifest for which a pool has no room.
    pub(crate) async fn check_manifest_quota(
        &self,
        digest: &Digest,
        size: u64,
        references: &[ManifestReference],
    ) -> Result<QuotaCharge> {
        let mut charge = QuotaCharge::default();
        if self.rules.quotas().pools(&self.name).next().is_none() {
            return Ok(charge);
        }
        charge.contents.push((fingerprint::digest(digest), size));
        // Children were pushed, and are counted, themselves.
        let blobs = references.iter().filter(|reference| reference.kind != ReferenceKind::Child);
        for blob in blobs {
            if let Some(size) = self.core.blob_size(&self.name, &blob.digest).await? {
                charge.contents.push((fingerprint::digest(&blob.digest), size));
            }
        }
        let contents = charge.contents.clone();
        let adding = move |state: &PoolState| {
            let new = contents.iter().filter(|(content, _)| !state.contains(*content));
            // Bytes of uploads may be those of these blobs.
            (state.content_bytes(), new.map(|(_, size)| size).sum())
        };
        for (number, pool) in self.rules.quotas().pools(&self.name) {
            let ledger = self.core.quotas.pool(pool_fingerprint(pool));
            self.judge(number, pool, &ledger, &adding).await?;
            charge.pools.push((number, ledger));
        }
        Ok(charge)
    }

    /// Refuses an upload for which a pool has no room, and limits one of unknown length to the room that
    /// there is: the rest is read, so that its client reads the response, and thrown away.
    ///
    /// A digest is only what the client says until its bytes have come. So what the pool counts already adds nothing only
    /// if this repository has it: the response must not tell what others of the pool have.
    pub(crate) async fn check_upload_quota(
        &self,
        digest: Option<&Digest>,
        chunk: UploadChunk,
    ) -> Result<(UploadChunk, BodyQuota)> {
        let announced = chunk.length.unwrap_or(0);
        let used = |state: &PoolState| state.content_bytes() + state.upload_bytes();
        let mut least: Option<(u64, QuotaUsage)> = None;
        for (number, pool) in self.rules.quotas().pools(&self.name) {
            if announced == 0 && chunk.length.is_some() {
                break;
            }
            let ledger = self.core.quotas.pool(pool_fingerprint(pool));
            let judged = self.judge(number, pool, &ledger, &|state| (used(state), announced)).await;
            match (judged, digest) {
                (Err(Error::Quota(_)), Some(digest)) if self.has_blob(digest).await? => {
                    let content = fingerprint::digest(digest);
                    let adding = |state: &PoolState| {
                        (used(state), if state.contains(content) { 0 } else { announced })
                    };
                    self.judge(number, pool, &ledger, &adding).await?;
                }
                (judged, _) => judged?,
            }
            let used = used(&ledger.state());
            let room = pool.bytes.saturating_sub(used);
            let is_less = least.as_ref().is_none_or(|(least, _)| room < *least);
            if let QuotaVerdict::Exceeded(usage) = pool.judge(number, used, room.saturating_add(1))
                && chunk.length.is_none()
                && is_less
            {
                least = Some((room, usage));
            }
        }
        Ok(match least {
            Some((room, usage)) => limited(chunk, room, usage),
            None => (chunk, BodyQuota::default()),
        })
    }

    async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        Ok(self.core.blob_size(&self.name, digest).await?.is_some())
    }

    /// Judges what a request adds to a pool, by a count that is as fresh as the verdict needs.
    async fn judge(
        &self,
        number: usize,
        pool: &QuotaPool,
        ledger: &Arc<PoolLedger>,
        adding: &(dyn Fn(&PoolState) -> (u64, u64) + Sync),
    ) -> Result<()> {
        let verdict = || {
            let state = ledger.state();
            let (used, adding) = adding(&state);
            match state.is_counted() {
                true => pool.judge(number, used, adding),
                false => QuotaVerdict::Within,
            }
        };
        let count = self.core.count_pool((number, pool), ledger, COUNT_AGE_MAX);
        if !ledger.state().is_counted() {
            wait_for(count, ledger).await?;
        }
        if let QuotaVerdict::Exceeded(_) = verdict() {
            let count = self.core.count_pool((number, pool), ledger, COUNT_AGE_REFUSE_MAX);
            wait_for(count, ledger).await?;
        }
        match verdict() {
            QuotaVerdict::Exceeded(usage) => Err(Error::Quota(Box::new(usage))),
            QuotaVerdict::Within | QuotaVerdict::Warn(_) => Ok(()),
        }
    }
}

impl QuotaCharge {
    /// The push has succeeded. Returns the use of pools that are nearly used.
    pub(crate) fn commit(self, core: &Core, rules: &Arc<LifecycleRules>) -> Vec<QuotaUsage> {
        let now = core.clock.monotonic();
        for (_, pool) in &self.pools {
            let mut state = pool.state();
            for (content, size) in &self.contents {
                state.add(now, *content, *size);
            }
        }
        core.warn_of_quotas(rules, &self.pools)
    }
}

impl BodyQuota {
    /// The result of an upload, and whether it was refused for what came.
    pub(crate) fn judge<T>(self, result: Result<T>) -> (Result<T>, bool) {
        match self.0 {
            Some((exceeded, usage)) if exceeded.load(Ordering::Acquire) => {
                (Err(Error::Quota(Box::new(usage))), true)
            }
            _ => (result, false),
        }
    }
}

/// A body of which no more than `room` bytes are taken.
fn limited(chunk: UploadChunk, room: u64, usage: QuotaUsage) -> (UploadChunk, BodyQuota) {
    let exceeded = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&exceeded);
    let UploadChunk { range, length, body, gauge } = chunk;
    let body = stream::unfold(Some((body, 0)), move |rest| {
        let flag = Arc::clone(&flag);
        async move {
            let (mut body, came) = rest?;
            let frame = body.next().await?;
            let came = came + frame.as_ref().map_or(0, |frame| frame.len() as u64);
            if came <= room {
                return Some((frame, Some((body, came))));
            }
            let mut read = came;
            while read < REFUSED_BYTES_MAX
                && let Some(Ok(frame)) = body.next().await
            {
                read += frame.len() as u64;
            }
            flag.store(true, Ordering::Release);
            Some((Err(BodyError::TooLarge { max_bytes: room }), None))
        }
    });
    let chunk = UploadChunk { range, length, body: body.boxed(), gauge };
    (chunk, BodyQuota(Some((exceeded, usage))))
}

/// Waits a while for a count, which goes on if it takes longer.
async fn wait_for(count: Option<JoinHandle<Result<()>>>, ledger: &PoolLedger) -> Result<()> {
    let Some(count) = count else { return Ok(()) };
    match timeout(COUNT_WAIT_MAX, count).await {
        // An older count is better than none.
        Ok(Ok(Err(error))) if !ledger.state().is_counted() => Err(error),
        _ => Ok(()),
    }
}

impl Registry {
    /// Counts the pools of quotas that were not counted in the last minute, one after the other, and waits for it no
    /// longer than a push does. What takes longer goes on.
    pub async fn count_quotas(&self) {
        let (core, rules) = (self.core(), self.core().lifecycle.get());
        let count = async {
            for (number, pool) in (1..).zip(rules.quotas().all()) {
                let ledger = core.quotas.pool(pool_fingerprint(pool));
                if let Some(count) = core.count_pool((number, pool), &ledger, COUNT_AGE_MAX) {
                    // An older count is better than none.
                    let _ = count.await;
                }
            }
        };
        let _ = timeout(COUNT_WAIT_MAX, count).await;
    }
}

impl Core {
    /// Counts a pool, unless that was done so short a time ago.
    fn count_pool(
        &self,
        (number, pool): (usize, &QuotaPool),
        ledger: &Arc<PoolLedger>,
        age_max: Duration,
    ) -> Option<JoinHandle<Result<()>>> {
        if ledger.state().is_fresh(self.clock.monotonic(), age_max) {
            return None;
        }
        let (core, pool, counted) = (self.clone(), pool.clone(), Arc::clone(ledger));
        Some(tokio::spawn(async move {
            let _turn = counted.counting.lock().await;
            let began = core.clock.monotonic();
            if counted.state().is_fresh(began, age_max) {
                return Ok(());
            }
            let count = Box::pin(core.pool_count(&pool)).await?;
            let took = core.clock.monotonic().saturating_sub(began);
            counted.replace(began, took, count);
            core.note_crossing(number, &pool, &counted).await;
            Ok(())
        }))
    }

    async fn pool_count(&self, pool: &QuotaPool) -> Result<PoolCount> {
        let registry = Registry::of_core(self.clone());
        let mut count = PoolCount { sizes: HashMap::new(), upload_bytes: 0 };
        let uploads = registry.open_uploads().await?;
        count.upload_bytes = uploads.bytes_of(|name| pool.matches(name));
        let mut page = PageRequest { limit: LIST_KEYS_MAX, last: None };
        loop {
            let names = registry.catalog(&page).await?;
            for name in names.items.iter().filter(|name| pool.matches(name)) {
                self.add_sizes(name, &mut count.sizes).await?;
            }
            match names.next {
                Some(next) => page.last = Some(next),
                None => return Ok(count),
            }
        }
    }
}
