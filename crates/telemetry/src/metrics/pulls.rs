//! Pull times: what was written and merged.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::{Counters, LabelValue, MetricLabels};

/// What is counted of pull times.
#[derive(Debug, Default)]
pub struct PullMetrics {
    times: Counter,
    writes: Counters<1>,
    merges: Counters<1>,
}

impl PullMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "pull_times_written",
            "Tags and digests whose last pull this process has written",
            self.times.clone(),
        );
        registry.register(
            "pull_times_writes",
            "Writes of pull times by this process, by outcome (ok, failed)",
            self.writes.clone(),
        );
        registry.register(
            "pull_times_merges",
            "Merges of pull times by this process, by outcome (ok, failed)",
            self.merges.clone(),
        );
    }
}

impl super::Metrics {
    /// Counts a write of the last pulls of so many tags and digests; none if there were none.
    pub fn count_pulls_written(&self, times: usize) {
        if times > 0 {
            self.pulls.times.inc_by(times as u64);
            self.pulls.writes.get_or_create(&outcome(true)).inc();
        }
    }

    /// Counts a write that failed.
    pub fn count_failed_pulls_write(&self) {
        self.pulls.writes.get_or_create(&outcome(false)).inc();
    }

    /// Counts a merge.
    pub fn count_pulls_merge(&self, is_ok: bool) {
        self.pulls.merges.get_or_create(&outcome(is_ok)).inc();
    }
}

fn outcome(is_ok: bool) -> MetricLabels<1> {
    MetricLabels([("outcome", LabelValue::Text(if is_ok { "ok" } else { "failed" }))])
}
