//! Warnings of quotas: one log line and one event each time that the use of a pool grows beyond its threshold,
//! whichever instance sees it. A note in the store says whether there was one already; if it is lost, there is one more.

use std::sync::Arc;
use std::time::SystemTime;

use jreg_lifecycle::{LifecycleRules, QuotaPool, QuotaUsage};
use jreg_storage::error_chain;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::fingerprint::{self, Fingerprint};
use crate::quota_ledger::PoolLedger;
use crate::record::{JsonRecord, StoredRecord};
use crate::{Event, EventAction, EventDetail, Registry, Repository, Result, keys};

/// The use of one quota, as this instance counted it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolUsage {
    /// The number of the quota in the file, from 1.
    pub number: usize,
    /// `None`: nothing was pushed to the pool since the start, so that it was not counted.
    pub used: Option<u64>,
    pub limit: u64,
    /// Whether the use is beyond the threshold of warnings.
    pub is_warned: bool,
}

/// Whether there was a warning since the use was last below the threshold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WarningNote {
    warned: bool,
}

impl JsonRecord for WarningNote {}

/// What stands for a pool, whatever its limit.
pub(crate) fn pool_fingerprint(pool: &QuotaPool) -> Fingerprint {
    fingerprint::text(&format!("{:?}", pool.repositories))
}

impl Registry {
    /// The use of each quota of the rules, as it was counted last. Reads nothing.
    pub fn quota_usage(&self) -> Vec<PoolUsage> {
        let core = self.core();
        let rules = core.lifecycle.get();
        let pools = (1..).zip(rules.quotas().all());
        pools.map(|(number, pool)| core.pool_usage(number, pool)).collect()
    }
}

impl Repository {
    /// The use of the quotas that it counts in, as this process counted them last.
    pub fn quota_usage(&self) -> Vec<PoolUsage> {
        let pools = self.rules.quotas().pools(&self.name);
        pools.map(|(number, pool)| self.core.pool_usage(number, pool)).collect()
    }
}

impl Core {
    fn pool_usage(&self, number: usize, pool: &QuotaPool) -> PoolUsage {
        let used = self.quotas.pool(pool_fingerprint(pool)).used();
        let is_warned = used.is_some_and(|used| used >= pool.warn_bytes());
        PoolUsage { number, used, limit: pool.bytes, is_warned }
    }
}

impl Core {
    /// Warns, beside the request, if what was pushed has brought pools beyond their thresholds. Returns the use of
    /// those that are.
    pub(crate) fn warn_of_quotas(
        &self,
        rules: &Arc<LifecycleRules>,
        pools: &[(usize, Arc<PoolLedger>)],
    ) -> Vec<QuotaUsage> {
        let mut warnings = Vec::new();
        for (number, ledger) in pools {
            let pool = rules.quotas().all().get(number.wrapping_sub(1));
            let (Some(pool), Some(used)) = (pool, ledger.used()) else { continue };
            if used >= pool.warn_bytes() {
                warnings.push(pool.usage(*number, used));
            }
            if ledger.would_cross(pool) {
                let (core, pool, number) = (self.clone(), pool.clone(), *number);
                let ledger = Arc::clone(ledger);
                tokio::spawn(async move { core.note_crossing(number, &pool, &ledger).await });
            }
        }
        warnings
    }

    /// Notes that the use of a pool has crossed its threshold, if it has.
    pub(crate) async fn note_crossing(&self, number: usize, pool: &QuotaPool, ledger: &PoolLedger) {
        let Some((is_above, used)) = ledger.cross(pool) else { return };
        if let Err(error) = self.warn_once(number, pool, (is_above, used)).await {
            // The next push or count retries.
            ledger.forget_crossing();
            let error = error_chain(&error);
            tracing::warn!(number, error, "cannot note that a quota is nearly used");
        }
    }

    async fn warn_once(
        &self,
        number: usize,
        pool: &QuotaPool,
        (is_above, used): (bool, u64),
    ) -> Result<()> {
        let key = keys::note(&format!("quota-{:016x}", pool_fingerprint(pool)));
        let seen = self.find_record::<WarningNote>(&key).await?;
        let was_above = seen.valid().is_some_and(|read| read.value.warned);
        if was_above == is_above {
            return Ok(());
        }
        let note = WarningNote { warned: is_above };
        let is_first = self.swap(&key, seen.etag(), note.encode()).await?.is_some();
        if !is_first || !is_above {
            return Ok(());
        }
        let usage = pool.usage(number, used);
        tracing::warn!(number, used, limit = pool.bytes, "a quota is nearly used");
        let detail = usage_detail(&usage, pool, "used");
        self.queue_quota_warning(detail).await
    }

    pub(crate) async fn queue_quota_warning(&self, detail: EventDetail) -> Result<()> {
        let now: SystemTime = self.clock.now();
        self.queue_event(None, &Event::of_fact(EventAction::QuotaWarning, now, detail)).await
    }
}

/// What the event of a pool says.
pub(crate) fn usage_detail(usage: &QuotaUsage, pool: &QuotaPool, why: &str) -> EventDetail {
    let patterns: Vec<String> = pool.repositories.iter().map(ToString::to_string).collect();
    let fields: [(&str, serde_json::Value); 5] = [
        ("reason", why.into()),
        ("pool", usage.number.into()),
        ("repositories", patterns.into()),
        ("used", usage.used.into()),
        ("limit", usage.limit.into()),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
