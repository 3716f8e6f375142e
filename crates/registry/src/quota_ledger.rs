//! [`QuotaLedger`]: what the pools of quotas hold, as this process counted it last, and what it has added since.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jreg_lifecycle::QuotaPool;

use crate::fingerprint::Fingerprint;

/// Maximum number of pools that are remembered: more than a rules file can have.
const POOLS_MAX: usize = 2000;

/// A pool is not counted again before so many times the time that its last count took.
const COUNTS_SHARE: u32 = 10;

/// The pools, by the fingerprint of their patterns.
#[derive(Debug, Default)]
pub(crate) struct QuotaLedger(Mutex<HashMap<Fingerprint, Arc<PoolLedger>>>);

/// One pool.
#[derive(Debug, Default)]
pub(crate) struct PoolLedger {
    state: Mutex<PoolState>,
    /// Held by what counts.
    pub(crate) counting: tokio::sync::Mutex<()>,
    /// Whether the use was beyond the threshold of warnings when that was last looked at.
    is_warned: Mutex<Option<bool>>,
}

/// What a pool holds.
#[derive(Debug, Default)]
pub(crate) struct PoolState {
    /// When the last count began; `None`: there was none.
    counted: Option<Duration>,
    /// How long it took.
    took: Duration,
    sizes: HashMap<Fingerprint, u64>,
    content_bytes: u64,
    upload_bytes: u64,
    /// What was added, and when, since the last count began.
    added: Vec<(Duration, Fingerprint, u64)>,
}

/// The result of counting a pool.
#[derive(Debug, Default)]
pub(crate) struct PoolCount {
    /// Unique contents, with their sizes.
    pub(crate) sizes: HashMap<Fingerprint, u64>,
    pub(crate) upload_bytes: u64,
}

impl QuotaLedger {
    pub(crate) fn pool(&self, pool: Fingerprint) -> Arc<PoolLedger> {
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of earlier rules.
        if pools.len() >= POOLS_MAX {
            pools.clear();
        }
        Arc::clone(pools.entry(pool).or_default())
    }
}

impl PoolLedger {
    pub(crate) fn state(&self) -> MutexGuard<'_, PoolState> {
        // A poisoned lock is fine: every change leaves it consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of content, if they were counted.
    pub(crate) fn used(&self) -> Option<u64> {
        let state = self.state();
        state.is_counted().then_some(state.content_bytes)
    }

    fn is_warned(&self) -> MutexGuard<'_, Option<bool>> {
        self.is_warned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the use has crossed the threshold of warnings since that was last looked at.
    pub(crate) fn would_cross(&self, pool: &QuotaPool) -> bool {
        let was_above = *self.is_warned();
        self.used().is_some_and(|used| crossing(pool, used, was_above).is_some())
    }

    /// The same, looking at it. In which direction, and by which use.
    pub(crate) fn cross(&self, pool: &QuotaPool) -> Option<(bool, u64)> {
        let used = self.used()?;
        let mut was_above = self.is_warned();
        let is_above = crossing(pool, used, *was_above)?;
        *was_above = Some(is_above);
        Some((is_above, used))
    }

    /// What was done of a crossing has failed.
    pub(crate) fn forget_crossing(&self) {
        *self.is_warned() = None;
    }

    /// Takes over a count that began then, and what was added meanwhile.
    pub(crate) fn replace(&self, began: Duration, took: Duration, count: PoolCount) {
        let mut state = self.state();
        let content_bytes = count.sizes.values().sum();
        let PoolCount { sizes, upload_bytes } = count;
        let added = std::mem::take(&mut state.added);
        *state = PoolState {
            counted: Some(began),
            took,
            sizes,
            content_bytes,
            upload_bytes,
            added: Vec::new(),
        };
        for (at, content, size) in added.into_iter().filter(|(at, ..)| *at >= began) {
            state.add(at, content, size);
        }
    }
}

/// Whether a use is beyond the threshold from now on; `None`: nothing has changed.
fn crossing(pool: &QuotaPool, used: u64, was_above: Option<bool>) -> Option<bool> {
    let is_above = match was_above {
        Some(true) => used >= pool.calm_bytes(),
        Some(false) | None => used >= pool.warn_bytes(),
    };
    (was_above != Some(is_above)).then_some(is_above)
}

impl PoolState {
    pub(crate) fn is_counted(&self) -> bool {
        self.counted.is_some()
    }

    /// Whether the last count began less than so long ago, or ten times as long as it took: no more than a
    /// tenth of the time is spent on counting.
    pub(crate) fn is_fresh(&self, now: Duration, age_max: Duration) -> bool {
        let age_max = age_max.max(self.took.saturating_mul(COUNTS_SHARE));
        self.counted.is_some_and(|began| now.saturating_sub(began) < age_max)
    }

    /// The unique bytes of manifests and of the blobs that they reference.
    pub(crate) fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    pub(crate) fn upload_bytes(&self) -> u64 {
        self.upload_bytes
    }

    pub(crate) fn contains(&self, content: Fingerprint) -> bool {
        self.sizes.contains_key(&content)
    }

    /// A push has added this. The same again is counted once.
    pub(crate) fn add(&mut self, now: Duration, content: Fingerprint, size: u64) {
        if self.counted.is_none() || self.sizes.insert(content, size).is_some() {
            return;
        }
        self.content_bytes += size;
        self.added.push((now, content, size));
    }
}
