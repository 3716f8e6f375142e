//! [`RegistryActivity`]: what the page of activity says of the registry as a whole.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures::future::BoxFuture;
use jreg_http::{ActivityRow, ActivitySection, ActivitySource, ActivityState, ServiceActivity};
use jreg_registry::{Registry, Result};
use jreg_storage::error_chain;
use jreg_telemetry::metrics::Metrics;

/// Reads what is known of jobs, sinks and rules.
#[derive(Debug)]
pub(crate) struct RegistryActivity {
    pub(crate) registry: Registry,
    pub(crate) metrics: Arc<Metrics>,
}

impl ActivitySource for RegistryActivity {
    fn activity(&self) -> BoxFuture<'_, ServiceActivity> {
        Box::pin(async {
            let sinks = self.sinks().await.unwrap_or_else(|error| {
                let text = format!("cannot be read: {}", error_chain(&error));
                vec![ActivityRow { state: ActivityState::Bad, text, ..ActivityRow::default() }]
            });
            let section = |heading: &str, empty: &str, rows| ActivitySection {
                heading: heading.to_owned(),
                empty: empty.to_owned(),
                rows,
            };
            ServiceActivity {
                sections: vec![
                    section("Background jobs of this instance", "None has run yet.", self.jobs()),
                    section("Event sinks", "No sink was ever sent events.", sinks),
                    section("Quotas", "The lifecycle file has no quotas.", self.quotas()),
                ],
            }
        })
    }
}

impl RegistryActivity {
    fn jobs(&self) -> Vec<ActivityRow> {
        let runs = self.metrics.last_runs().into_iter();
        let rows = runs.filter(|run| run.completed + run.failed > 0).map(|run| ActivityRow {
            name: run.job.to_owned(),
            state: match (run.failed, run.completed) {
                (0, _) => ActivityState::Good,
                (_, 0) => ActivityState::Bad,
                _ => ActivityState::Warn,
            },
            text: format!("{} completed, {} failed{}", run.completed, run.failed, run.detail),
            at: run.last_success,
        });
        rows.collect()
    }

    async fn sinks(&self) -> Result<Vec<ActivityRow>> {
        let names = self.registry.sinks_with_cursor().await?;
        let end = if names.is_empty() { 0 } else { self.registry.event_log_end().await? };
        let mut rows = Vec::new();
        for name in names {
            let Some(cursor) = self.registry.find_sink_cursor(&name).await? else { continue };
            let lag = end.saturating_sub(cursor.sequence);
            let failing = cursor.error.as_deref().filter(|_| cursor.failing_since.is_some());
            let error = failing.map(|error| format!("; failing: {error}")).unwrap_or_default();
            rows.push(ActivityRow {
                name: name.as_str().to_owned(),
                state: match (failing.is_some(), cursor.dead) {
                    (true, _) => ActivityState::Bad,
                    (false, 0) => ActivityState::Good,
                    (false, _) => ActivityState::Warn,
                },
                text: format!("{lag} events to send, {} dead letters{error}", cursor.dead),
                at: cursor.failing_since.map(|since| UNIX_EPOCH + Duration::from_secs(since)),
            });
        }
        Ok(rows)
    }

    fn quotas(&self) -> Vec<ActivityRow> {
        let rules = self.registry.lifecycle();
        let pools = (1..).zip(rules.quotas().all());
        let rows = pools.map(|(number, pool): (usize, _)| ActivityRow {
            name: format!("Quota {number}"),
            text: pool.sentence(),
            ..ActivityRow::default()
        });
        rows.collect()
    }
}
