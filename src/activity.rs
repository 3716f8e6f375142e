//! [`RegistryActivity`]: what pages say of the registry as a whole.

mod mirrors;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use jreg_http::{
    ActivityRow, ActivitySection, ActivitySource, ActivityState, GcNote, MirrorFacts, QuotaRow,
    ServiceActivity, ServiceUsage, format_bytes,
};
use jreg_mirror::{MirrorStatus, Mirrors};
use jreg_registry::{GcSummary, Registry, Result};
use jreg_storage::error_chain;
use jreg_telemetry::metrics::Metrics;

/// Reads what is known of jobs, sinks, mirrors and rules.
#[derive(Debug)]
pub(crate) struct RegistryActivity {
    pub(crate) registry: Registry,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) mirrors: Option<Mirrors>,
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
                gc: self.gc().await,
                sections: vec![
                    section("Background jobs of this instance", "None has run yet.", self.jobs()),
                    section("Mirrors", "No registry is mirrored.", self.mirror_rows()),
                    section("Event sinks", "No sink was ever sent events.", sinks),
                ],
                quotas: self.quotas(),
            }
        })
    }

    fn usage(&self, counts: bool) -> BoxFuture<'_, ServiceUsage> {
        Box::pin(async move {
            if counts {
                self.registry.count_quotas().await;
            }
            ServiceUsage { gc: self.gc().await, quotas: self.quotas() }
        })
    }

    fn mirrors(&self, counts: bool) -> BoxFuture<'_, Vec<MirrorFacts>> {
        Box::pin(mirrors::facts(&self.registry, self.mirrors.as_ref(), counts))
    }
}

impl RegistryActivity {
    /// What the last run of GC did, on any instance. That it cannot be read is as if it were not there.
    async fn gc(&self) -> Option<GcNote> {
        self.registry.gc_summary().await.ok().flatten().map(gc_note)
    }

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

    fn mirror_rows(&self) -> Vec<ActivityRow> {
        let status = self.mirrors.as_ref().map(Mirrors::status).unwrap_or_default();
        status.into_iter().map(mirror_row).collect()
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
                at: cursor.failing_since.map(time),
            });
        }
        Ok(rows)
    }

    fn quotas(&self) -> Vec<QuotaRow> {
        let rules = self.registry.lifecycle();
        let usage = self.registry.quota_usage();
        let rows = rules.quotas().all().iter().zip(usage).map(|(pool, usage)| QuotaRow {
            number: usage.number,
            sentence: pool.sentence(),
            used: usage.used,
            limit: usage.limit,
            is_warned: usage.is_warned,
        });
        rows.collect()
    }
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}

fn gc_note(summary: GcSummary) -> GcNote {
    let GcSummary { completed, failed, stored } = summary;
    let report = completed.as_ref().map(|run| run.report).unwrap_or_default();
    GcNote {
        completed: completed.map(|run| (time(run.at), Duration::from_secs(run.took_s))),
        failed: failed.map(|run| (time(run.at), run.reason)),
        stored: stored.map(|blobs| (time(blobs.at), blobs.bytes, blobs.locations)),
        manifests: report.manifests.scanned,
        links: report.links.scanned,
        removed_manifests: report.manifests.removed,
        removed_bytes: report.blobs.removed_bytes,
        queued_bytes: report.queued_bytes,
    }
}

fn mirror_row(status: MirrorStatus) -> ActivityRow {
    let MirrorStatus { namespace, prefix, upstream, requests, failed, limited, .. } = status;
    let left = status.rate_limit.and_then(|of| Some((of.remaining?, of.limit)));
    let limit = match left {
        Some((left, Some(limit))) => format!("; {left} of {limit} pulls left"),
        Some((left, None)) => format!("; {left} pulls left"),
        None => String::new(),
    };
    let is_out = left.is_some_and(|(left, _)| left == 0);
    ActivityRow {
        name: namespace,
        state: match (requests, failed + limited) {
            _ if is_out => ActivityState::Bad,
            (0, _) => ActivityState::Neutral,
            (_, 0) => ActivityState::Good,
            (requests, bad) if bad == requests => ActivityState::Bad,
            _ => ActivityState::Warn,
        },
        text: format!(
            "{prefix}/ from {}: {requests} requests, {failed} failed, {limited} rate-limited, {} received{limit}",
            upstream.join(", "),
            format_bytes(status.received_bytes),
        ),
        at: None,
    }
}
