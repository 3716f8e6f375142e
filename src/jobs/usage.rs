//! [`UsageJob`]: counts what repositories hold, for metrics.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use jreg_registry::{LIST_KEYS_MAX, PageRequest, Registry, RepositoryUsage, Result};
use jreg_storage::error_chain;
use jreg_telemetry::metrics::Metrics;

use super::Job;

/// How often repositories are counted.
const INTERVAL: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
pub struct UsageJob {
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
    /// Maximum number of repositories that are shown by name.
    pub largest_max: usize,
}

impl Job for UsageJob {
    fn interval(&self) -> Duration {
        INTERVAL
    }

    async fn run(&self) {
        match self.count().await {
            Ok((largest, others)) => self.metrics.usage.set_repositories(&largest, others),
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(error, "cannot count what repositories hold; retrying later");
            }
        }
    }
}

impl UsageJob {
    /// The largest repositories, and what the others hold: live, deleted and kept, in uploads.
    async fn count(&self) -> Result<(Vec<RepositoryUsage>, [u64; 3])> {
        let (mut largest, mut others) = (Vec::new(), [0; 3]);
        let uploads = self.registry.open_uploads().await?;
        let mut page = PageRequest { limit: LIST_KEYS_MAX, last: None };
        loop {
            let names = self.registry.catalog(&page).await?;
            for name in names.items {
                largest.push(self.registry.repository(name).storage_usage(&uploads).await?);
                if largest.len() > 2 * self.largest_max {
                    keep_largest(&mut largest, self.largest_max, &mut others);
                }
            }
            match names.next {
                Some(next) => page.last = Some(next),
                None => break,
            }
        }
        keep_largest(&mut largest, self.largest_max, &mut others);
        Ok((largest, others))
    }
}

/// Keeps the largest, and adds the rest to others.
fn keep_largest(usage: &mut Vec<RepositoryUsage>, max: usize, others: &mut [u64; 3]) {
    let bytes = |usage: &RepositoryUsage| {
        let live = usage.manifest_bytes + usage.blob_bytes;
        [live, usage.deleted_bytes, usage.upload_bytes]
    };
    usage.sort_by_key(|usage| Reverse(bytes(usage).iter().sum::<u64>()));
    for rest in usage.split_off(max.min(usage.len())) {
        for (sum, bytes) in others.iter_mut().zip(bytes(&rest)) {
            *sum += bytes;
        }
    }
}
