//! [`LastRun`]: what is known of the runs of background jobs in this process.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{MetricLabels, Metrics, RunEnd};

/// The runs of a job in this process.
#[derive(Clone, Debug, PartialEq)]
pub struct LastRun {
    pub job: &'static str,
    pub completed: u64,
    pub failed: u64,
    /// When the last one that completed ended.
    pub last_success: Option<SystemTime>,
    /// What it found, for the end of a sentence.
    pub detail: String,
}

impl Metrics {
    /// The runs of GC, fsck and retention.
    pub fn last_runs(&self) -> Vec<LastRun> {
        let damage = MetricLabels([("severity", super::LabelValue::Text("damage"))]);
        let damage = self.fsck_findings.get(&damage).map_or(0, |found| found.get());
        let found = match damage {
            0 => String::new(),
            count => format!("; the last found {count} damaged objects: run jreg fsck"),
        };
        [
            ("Garbage collection", &self.gc_runs, &self.gc_last_success, String::new()),
            ("fsck", &self.fsck_runs, &self.fsck_last_success, found),
            ("Retention", &self.retention_runs, &self.retention_last_success, String::new()),
        ]
        .into_iter()
        .map(|(job, runs, last, detail)| {
            let count = |end: RunEnd| {
                runs.get(&MetricLabels([("outcome", end.word())])).map_or(0, |count| count.get())
            };
            let last = last.get();
            let at = || UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(last).ok()?);
            LastRun {
                job,
                completed: count(RunEnd::Ok),
                failed: count(RunEnd::Failed) + count(RunEnd::Damaged),
                last_success: if last > 0.0 { at() } else { None },
                detail,
            }
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn runs_are_counted_by_job() {
        let metrics = Metrics::new();
        assert!(
            metrics.last_runs().iter().all(|run| run.completed == 0 && run.last_success.is_none())
        );
        metrics.count_gc_run(&Default::default(), Duration::from_secs(1));
        metrics.count_failed_gc_run(RunEnd::Damaged);
        let runs = metrics.last_runs();
        assert_eq!((runs[0].completed, runs[0].failed, runs[1].completed), (1, 1, 0));
        assert!(runs[0].last_success.unwrap() > UNIX_EPOCH);
    }
}
