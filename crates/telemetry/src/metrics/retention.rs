//! The lifecycle file and retention: reloads, runs, and what became of tags.

use jreg_registry::RetentionReport;
use prometheus_client::registry::Unit;

use super::{LabelValue, MetricLabels, Metrics, RunEnd, unix_time};

impl Metrics {
    pub(super) fn register_lifecycle(&mut self) {
        let registry = &mut self.registry;
        let text = "Reloads of the lifecycle file, by outcome (ok, failed)";
        registry.register("lifecycle_reloads", text, self.lifecycle_reloads.clone());
        let text = "The first 48 bits of the SHA-256 of the lifecycle file in use; 0 without one";
        registry.register("lifecycle_rules_hash", text, self.lifecycle_rules_hash.clone());
        let text = "Retention runs, by outcome (ok, failed)";
        registry.register("retention_runs", text, self.retention_runs.clone());
        registry.register_with_unit(
            "retention_last_success_timestamp",
            "End of the last retention run of this process, in seconds of the Unix epoch",
            Unit::Seconds,
            self.retention_last_success.clone(),
        );
        let text = "Tags that retention runs judged, by outcome (kept, unevaluated, protected, removed, \
                    withheld, changed, failed)";
        registry.register("retention_tags", text, self.retention_tags.clone());
    }

    /// Counts a reload of the lifecycle file.
    pub fn count_lifecycle_reload(&self, outcome: &'static str) {
        self.lifecycle_reloads
            .get_or_create(&MetricLabels([("outcome", LabelValue::Text(outcome))]))
            .inc();
    }

    /// Sets the hash of the lifecycle file in use: at most 53 bits, which the metric shows exactly.
    pub fn set_lifecycle_rules(&self, hash: u64) {
        #[expect(clippy::cast_precision_loss, reason = "53 bits have their place")]
        self.lifecycle_rules_hash.set(hash as f64);
    }

    /// Counts a retention run that ended well.
    pub fn count_retention_run(&self, done: &RetentionReport) {
        self.retention_runs.get_or_create(&MetricLabels([("outcome", RunEnd::Ok.word())])).inc();
        self.retention_last_success.set(unix_time());
        for (outcome, count) in [
            ("kept", done.kept.saturating_sub(done.unevaluated)),
            ("unevaluated", done.unevaluated),
            ("protected", done.protected),
            ("removed", done.removed),
            ("withheld", done.withheld),
            ("changed", done.changed),
            ("failed", done.failed),
        ] {
            let labels = MetricLabels([("outcome", LabelValue::Text(outcome))]);
            self.retention_tags.get_or_create(&labels).inc_by(count);
        }
    }

    /// Counts a retention run that failed.
    pub fn count_failed_retention_run(&self, end: RunEnd) {
        self.retention_runs.get_or_create(&MetricLabels([("outcome", end.word())])).inc();
    }
}
