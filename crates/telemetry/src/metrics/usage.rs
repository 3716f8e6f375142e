//! What repositories and the pools of quotas hold. Labels are the numbers of quotas in the lifecycle file, and of so many
//! repositories as the settings say their names.

use std::sync::{Mutex, PoisonError};

use jreg_registry::{PoolUsage, RepositoryUsage};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// The label of all repositories that are not among the largest. No repository has such a name.
const OTHERS: &str = "_others";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RepositoryLabels {
    repository: String,
    content: &'static str,
}

/// What is held.
#[derive(Debug, Default)]
pub struct UsageMetrics {
    quota_used: Family<PoolLabels, Gauge>,
    quota_limit: Family<PoolLabels, Gauge>,
    quota_warned: Family<PoolLabels, Gauge>,
    repositories: Family<RepositoryLabels, Gauge>,
    /// How many quotas are shown.
    quotas: Mutex<usize>,
}

impl UsageMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "quota_used",
            "Use of each quota, by its number in the lifecycle file, as this process counted it last",
            Unit::Bytes,
            self.quota_used.clone(),
        );
        registry.register_with_unit(
            "quota_limit",
            "Limit of each quota",
            Unit::Bytes,
            self.quota_limit.clone(),
        );
        registry.register(
            "quota_warned",
            "Whether the use of each quota is beyond its threshold of warnings",
            self.quota_warned.clone(),
        );
        registry.register_with_unit(
            "repository",
            "Unique bytes of the largest repositories, and of all others (_others), by content (live, deleted, \
             uploads), if usage-metrics is set",
            Unit::Bytes,
            self.repositories.clone(),
        );
    }

    /// Takes over the use of the quotas in use.
    pub fn set_quotas(&self, quotas: &[PoolUsage]) {
        // A poisoned lock is fine: it is only a number.
        let mut shown = self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
        for number in quotas.len() + 1..=*shown {
            let labels = PoolLabels { pool: number.to_string() };
            self.quota_used.remove(&labels);
            self.quota_limit.remove(&labels);
            self.quota_warned.remove(&labels);
        }
        *shown = quotas.len();
        for PoolUsage { number, used, limit, is_warned } in quotas {
            let labels = PoolLabels { pool: number.to_string() };
            match used {
                Some(used) => drop(self.quota_used.get_or_create(&labels).set(saturated(*used))),
                None => drop(self.quota_used.remove(&labels)),
            }
            self.quota_limit.get_or_create(&labels).set(saturated(*limit));
            self.quota_warned.get_or_create(&labels).set(i64::from(*is_warned));
        }
    }

    /// Takes over what the largest repositories hold, and the others together.
    pub fn set_repositories(&self, largest: &[RepositoryUsage], others: [u64; 3]) {
        self.repositories.clear();
        for usage in largest {
            let live = usage.manifest_bytes + usage.blob_bytes;
            let bytes = [live, usage.deleted_bytes, usage.upload_bytes];
            self.set_repository(usage.repository.as_str(), bytes);
        }
        self.set_repository(OTHERS, others);
    }

    fn set_repository(&self, name: &str, bytes: [u64; 3]) {
        for (content, bytes) in ["live", "deleted", "uploads"].into_iter().zip(bytes) {
            let labels = RepositoryLabels { repository: name.to_owned(), content };
            self.repositories.get_or_create(&labels).set(saturated(bytes));
        }
    }
}

fn saturated(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
