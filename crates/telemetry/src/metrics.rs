//! What the process counts, and how Prometheus reads it.
//!
//! Labels take only values from closed sets (endpoints, statuses, operations, sinks of the settings, numbers of quotas): no
//! name of a client ever becomes one, and of repositories only as many as `usage-metrics` says, so their number is bounded.

mod events;
mod exemplars;
mod form;
mod last_runs;
mod mirror;
mod process;
mod pulls;
mod retention;
mod usage;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use jreg_registry::{BudgetUsage, FsckReport, GcReport, GcTally, RegistryUsage};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use crate::logging::dropped_lines;

pub use last_runs::LastRun;

pub use events::{DeliveryOutcome, EventMetrics};
pub use form::MetricsForm;
pub use mirror::MirrorMetrics;
pub use pulls::PullMetrics;
pub use usage::UsageMetrics;

/// What clients accept that read [`MetricsForm::OpenMetrics`]. The others get [`MetricsForm::Text`].
pub const OPENMETRICS: &str = "application/openmetrics-text";

/// Upper bounds of the latency histograms, in seconds: from a memory read to a slow upload.
const LATENCY_BOUNDS_S: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// One counter of a family, which counts without looking it up.
#[derive(Clone, Debug)]
pub struct CounterHandle(Counter);

impl CounterHandle {
    /// Counts one.
    pub fn inc(&self) {
        self.0.inc();
    }
}

/// A label set that is one or two pairs of a fixed name and a value of a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MetricLabels<const N: usize>([(&'static str, LabelValue); N]);

/// By the values alone: the names are the same wherever two are compared, and each request is counted
/// several times.
impl<const N: usize> Hash for MetricLabels<N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for (_, value) in self.0 {
            match value {
                LabelValue::Text(text) => state.write(text.as_bytes()),
                LabelValue::Number(number) => state.write_u16(number),
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LabelValue {
    Text(&'static str),
    Number(u16),
}

impl<const N: usize> EncodeLabelSet for MetricLabels<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        use prometheus_client::encoding::EncodeLabel;
        for (name, value) in self.0 {
            match value {
                LabelValue::Text(text) => (name, text).encode(encoder.encode_label())?,
                LabelValue::Number(number) => (name, number).encode(encoder.encode_label())?,
            }
        }
        Ok(())
    }
}

type Counters<const N: usize> = Family<MetricLabels<N>, Counter>;
type Histograms = Family<MetricLabels<1>, Histogram, fn() -> Histogram>;

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Counters<2>,
    request_seconds: exemplars::TracedHistograms,
    received_bytes: Counters<1>,
    sent_bytes: Counters<1>,
    /// Requests in flight.
    pub in_flight: Gauge,
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections that were refused because too many were open.
    pub connections_refused: Counter,
    /// Bytes of the large HTTP/2 receive windows of connections.
    pub h2_window_bytes: Gauge,
    /// HTTP/2 connections that had to take small receive windows.
    pub h2_small_windows: Counter,
    /// Connections that could not be accepted, for want of file descriptors for example.
    pub accept_errors: Counter,
    /// Uploads whose bytes are coming in.
    pub uploads: Gauge,
    /// Uploads that were never finished and are removed.
    pub uploads_expired: Counter,
    upload_slots_free: Gauge,
    upload_buffer_free: Gauge,
    manifest_buffer_free: Gauge,
    waiting: Family<MetricLabels<1>, Gauge>,
    waits: Counters<2>,
    log_lines_dropped: Counter,
    cache_lookups: Counters<1>,
    damaged_records_replaced: Counter,
    store_requests: Counters<2>,
    store_seconds: Histograms,
    clock_difference: Gauge<f64, AtomicU64>,
    store_writable: Gauge,
    /// When a write to the store ended last.
    store_written: Mutex<Option<Instant>>,
    /// The storage folder, if there is one.
    folder: OnceLock<PathBuf>,
    store_hedges: Counters<1>,
    /// Collections that run now.
    pub gc_running: Gauge,
    gc_runs: Counters<1>,
    gc_seconds: Counter<f64, AtomicU64>,
    gc_last_success: Gauge<f64, AtomicU64>,
    gc_objects: Counters<2>,
    gc_removed_bytes: Counters<1>,
    gc_queued_bytes: Counter,
    stored_bytes: Family<MetricLabels<1>, Gauge>,
    fsck_runs: Counters<1>,
    fsck_last_success: Gauge<f64, AtomicU64>,
    fsck_findings: Family<MetricLabels<1>, Gauge>,
    fsck_hashed_bytes: Counter,
    auth_attempts: Counters<2>,
    auth_tokens: Counters<1>,
    auth_reloads: Counters<2>,
    lifecycle_reloads: Counters<1>,
    lifecycle_rules_hash: Gauge<f64, AtomicU64>,
    retention_runs: Counters<1>,
    retention_last_success: Gauge<f64, AtomicU64>,
    retention_tags: Counters<1>,
    tls_handshakes: Counters<1>,
    tls_reloads: Counters<1>,
    tls_expiry: Gauge<f64, AtomicU64>,
    acme_orders: Counters<1>,
    audit_lines: Counters<1>,
    traces: Counters<1>,
    limited: Counters<1>,
    connections_cut: Counters<1>,
    pulls: PullMetrics,
    /// What is held.
    pub usage: UsageMetrics,
    /// Those of events.
    pub events: EventMetrics,
    /// Those of mirrors.
    pub mirror: MirrorMetrics,
}

/// How a run of a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// It did all that there was to do.
    Ok,
    /// The store failed.
    Failed,
    /// Something in the store could not be understood.
    Damaged,
}

impl RunEnd {
    fn word(self) -> LabelValue {
        LabelValue::Text(match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Damaged => "damaged",
        })
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn latency() -> Histogram {
    Histogram::new(LATENCY_BOUNDS_S)
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut metrics = Self::unregistered();
        metrics.register_http();
        metrics.register_process();
        metrics.register_registry();
        metrics.register_store();
        metrics.register_gc();
        metrics.register_fsck();
        metrics.register_auth();
        metrics.register_lifecycle();
        metrics.register_tls();
        metrics.pulls.register(&mut metrics.registry);
        metrics.usage.register(&mut metrics.registry);
        metrics.events.register(&mut metrics.registry);
        metrics.mirror.register(&mut metrics.registry);
        metrics
    }

    fn unregistered() -> Self {
        Self {
            registry: Registry::with_prefix("jreg"),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(exemplars::latency),
            received_bytes: Family::default(),
            sent_bytes: Family::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            h2_window_bytes: Gauge::default(),
            h2_small_windows: Counter::default(),
            accept_errors: Counter::default(),
            uploads: Gauge::default(),
            uploads_expired: Counter::default(),
            upload_slots_free: Gauge::default(),
            damaged_records_replaced: Counter::default(),
            upload_buffer_free: Gauge::default(),
            manifest_buffer_free: Gauge::default(),
            waiting: Family::default(),
            waits: Family::default(),
            log_lines_dropped: Counter::default(),
            cache_lookups: Family::default(),
            store_requests: Family::default(),
            store_seconds: Family::new_with_constructor(latency),
            clock_difference: Gauge::default(),
            store_writable: Gauge::default(),
            store_written: Mutex::default(),
            folder: OnceLock::new(),
            store_hedges: Family::default(),
            gc_running: Gauge::default(),
            gc_runs: Family::default(),
            gc_seconds: Counter::default(),
            gc_last_success: Gauge::default(),
            gc_objects: Family::default(),
            gc_removed_bytes: Family::default(),
            gc_queued_bytes: Counter::default(),
            stored_bytes: Family::default(),
            fsck_runs: Family::default(),
            fsck_last_success: Gauge::default(),
            fsck_findings: Family::default(),
            fsck_hashed_bytes: Counter::default(),
            auth_attempts: Family::default(),
            auth_tokens: Family::default(),
            auth_reloads: Family::default(),
            lifecycle_reloads: Family::default(),
            lifecycle_rules_hash: Gauge::default(),
            retention_runs: Family::default(),
            retention_last_success: Gauge::default(),
            retention_tags: Family::default(),
            tls_handshakes: Family::default(),
            tls_reloads: Family::default(),
            tls_expiry: Gauge::default(),
            acme_orders: Family::default(),
            audit_lines: Family::default(),
            traces: Family::default(),
            limited: Family::default(),
            connections_cut: Family::default(),
            pulls: PullMetrics::default(),
            usage: UsageMetrics::default(),
            events: EventMetrics::default(),
            mirror: MirrorMetrics::default(),
        }
    }

    fn register_http(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "http_requests",
            "Completed requests, by endpoint and status (499: the client disconnected first)",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "Time from the head of a request to the end of its response, by endpoint",
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        registry.register_with_unit(
            "http_received",
            "Bytes of request bodies, by endpoint",
            Unit::Bytes,
            self.received_bytes.clone(),
        );
        registry.register_with_unit(
            "http_sent",
            "Bytes of response bodies, by endpoint",
            Unit::Bytes,
            self.sent_bytes.clone(),
        );
        let text = "Requests in flight";
        registry.register("http_requests_in_flight", text, self.in_flight.clone());
    }

    fn register_process(&mut self) {
        let registry = &mut self.registry;
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register(
            "connections_refused",
            "Connections refused because too many were open, in total or from one address",
            self.connections_refused.clone(),
        );
        registry.register_with_unit(
            "h2_window",
            "Bytes of the large HTTP/2 receive windows of connections",
            Unit::Bytes,
            self.h2_window_bytes.clone(),
        );
        registry.register(
            "h2_small_windows",
            "HTTP/2 connections that got small receive windows because no large ones were free",
            self.h2_small_windows.clone(),
        );
        let text = "Connections closed by the server, by reason (stalled, resets, unauthorized)";
        registry.register("connections_cut", text, self.connections_cut.clone());
        registry.register(
            "accept_errors",
            "Connections that could not be accepted",
            self.accept_errors.clone(),
        );
        registry.register(
            "log_lines_dropped",
            "Log lines dropped because standard error was not read in time",
            self.log_lines_dropped.clone(),
        );
        let build: Family<MetricLabels<1>, Gauge> = Family::default();
        let version = MetricLabels([("version", LabelValue::Text(env!("CARGO_PKG_VERSION")))]);
        build.get_or_create(&version).set(1);
        registry.register("build_info", "Version of jreg", build);
    }

    fn register_registry(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "uploads_in_progress",
            "Uploads that are sending data",
            self.uploads.clone(),
        );
        registry.register(
            "uploads_expired",
            "Expired upload sessions that were deleted",
            self.uploads_expired.clone(),
        );
        registry.register(
            "damaged_records_replaced",
            "Records that could not be decoded and were replaced by a push or removed by a delete",
            self.damaged_records_replaced.clone(),
        );
        registry.register(
            "upload_slots_free",
            "Free upload slots (uploads-max)",
            self.upload_slots_free.clone(),
        );
        registry.register_with_unit(
            "upload_buffer_free",
            "Free memory for uploads (upload-buffer-bytes)",
            Unit::Bytes,
            self.upload_buffer_free.clone(),
        );
        registry.register_with_unit(
            "manifest_buffer_free",
            "Free memory for manifests (manifest-buffer-bytes)",
            Unit::Bytes,
            self.manifest_buffer_free.clone(),
        );
        registry.register(
            "budget_waiting",
            "Requests queued for a budget, by budget",
            self.waiting.clone(),
        );
        registry.register(
            "budget_waits",
            "Requests that were queued for a budget, by budget and outcome (served or refused)",
            self.waits.clone(),
        );
        registry.register(
            "cache_lookups",
            "Cache lookups of manifests and links, by outcome (hit or miss)",
            self.cache_lookups.clone(),
        );
    }

    fn register_store(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "store_requests",
            "Store requests, by operation and outcome",
            self.store_requests.clone(),
        );
        registry.register_with_unit(
            "store_request_duration",
            "Duration of store requests, by operation",
            Unit::Seconds,
            self.store_seconds.clone(),
        );
        registry.register_with_unit(
            "store_clock_difference",
            "Difference between the clocks of the store and this machine; above 60 writes to a bucket are disabled",
            Unit::Seconds,
            self.clock_difference.clone(),
        );
        self.store_writable.set(1);
        let text = "Whether the last write to the store succeeded (1) or failed (0)";
        registry.register("store_writable", text, self.store_writable.clone());
        registry.register(
            "store_hedges",
            "Hedged reads, by outcome (won, lost or withheld)",
            self.store_hedges.clone(),
        );
    }

    fn register_gc(&mut self) {
        let registry = &mut self.registry;
        registry.register("gc_running", "GC runs in progress", self.gc_running.clone());
        registry.register(
            "gc_runs",
            "GC runs, by outcome (ok, failed, damaged)",
            self.gc_runs.clone(),
        );
        registry.register_with_unit(
            "gc_duration",
            "Duration of successful GC runs",
            Unit::Seconds,
            self.gc_seconds.clone(),
        );
        registry.register_with_unit(
            "gc_last_success_timestamp",
            "End of the last successful GC run, in seconds of the Unix epoch",
            Unit::Seconds,
            self.gc_last_success.clone(),
        );
        registry.register(
            "gc_objects",
            "Objects that GC examined, by kind and outcome",
            self.gc_objects.clone(),
        );
        registry.register_with_unit(
            "gc_removed",
            "Bytes that GC deleted, by kind",
            Unit::Bytes,
            self.gc_removed_bytes.clone(),
        );
        registry.register_with_unit(
            "gc_queued",
            "Blob bytes without a link, queued for deletion",
            Unit::Bytes,
            self.gc_queued_bytes.clone(),
        );
        registry.register_with_unit(
            "stored",
            "Bytes in the store at the last GC run that counted them, by kind (blob, manifest)",
            Unit::Bytes,
            self.stored_bytes.clone(),
        );
    }

    fn register_fsck(&mut self) {
        let registry = &mut self.registry;
        let text = "Background fsck runs, by outcome (ok, failed)";
        registry.register("fsck_runs", text, self.fsck_runs.clone());
        registry.register_with_unit(
            "fsck_last_success_timestamp",
            "End of the last completed background fsck, in seconds of the Unix epoch",
            Unit::Seconds,
            self.fsck_last_success.clone(),
        );
        registry.register(
            "fsck_findings",
            "Findings of the last background fsck, by severity (damage, untidy, note)",
            self.fsck_findings.clone(),
        );
        registry.register_with_unit(
            "fsck_hashed",
            "Blob bytes that background fsck has read and hashed",
            Unit::Bytes,
            self.fsck_hashed_bytes.clone(),
        );
    }

    fn register_auth(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "auth_attempts",
            "Authentication attempts, by kind and outcome",
            self.auth_attempts.clone(),
        );
        let text = "Issued tokens, by kind (access or refresh)";
        registry.register("auth_tokens_issued", text, self.auth_tokens.clone());
        registry.register(
            "auth_reloads",
            "Reloads of files (htpasswd, policy) and key sets (jwks), by outcome",
            self.auth_reloads.clone(),
        );
        let text = "Requests rejected by limits per client, by kind (address, identity, uploads, \
                    address_bytes, identity_bytes)";
        registry.register("limited_requests", text, self.limited.clone());
        let text = "Lines of the audit log, by outcome (written, failed)";
        registry.register("audit_lines", text, self.audit_lines.clone());
        let text = "Traces of requests, by outcome (sent, failed)";
        registry.register("traces", text, self.traces.clone());
    }

    /// Counts a connection that was cut off.
    pub fn count_cut(&self, reason: &'static str) {
        self.connections_cut
            .get_or_create(&MetricLabels([("reason", LabelValue::Text(reason))]))
            .inc();
    }

    /// Counts a request that was refused as one too many.
    pub fn count_limited(&self, kind: &'static str) {
        self.limited.get_or_create(&MetricLabels([("kind", LabelValue::Text(kind))])).inc();
    }

    /// Counts traces for the collector.
    pub fn count_traces(&self, outcome: &'static str, traces: u64) {
        let labels = MetricLabels([("outcome", LabelValue::Text(outcome))]);
        self.traces.get_or_create(&labels).inc_by(traces);
    }

    /// Counts lines of the audit log.
    pub fn count_audit(&self, outcome: &'static str, lines: usize) {
        let labels = MetricLabels([("outcome", LabelValue::Text(outcome))]);
        self.audit_lines.get_or_create(&labels).inc_by(lines as u64);
    }

    fn register_tls(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "tls_handshakes",
            "TLS handshakes, by outcome (ok, failed, timeout, plain, challenge, no_certificate)",
            self.tls_handshakes.clone(),
        );
        registry.register(
            "tls_reloads",
            "Reloads of the TLS files or certificate, by outcome (ok, failed)",
            self.tls_reloads.clone(),
        );
        registry.register_with_unit(
            "tls_certificate_expiry_timestamp",
            "Expiry of the server's certificate, in seconds of the Unix epoch",
            Unit::Seconds,
            self.tls_expiry.clone(),
        );
        registry.register(
            "acme_orders",
            "Certificate orders of this process, by outcome (ok, failed)",
            self.acme_orders.clone(),
        );
    }

    /// Counts that an authority was asked for a certificate.
    pub fn count_acme_order(&self, outcome: &'static str) {
        self.acme_orders
            .get_or_create(&MetricLabels([("outcome", LabelValue::Text(outcome))]))
            .inc();
    }

    pub fn count_tls_handshake(&self, outcome: &'static str) {
        self.tls_handshakes
            .get_or_create(&MetricLabels([("outcome", LabelValue::Text(outcome))]))
            .inc();
    }

    /// Counts reloads of the TLS files.
    pub fn count_tls_reload(&self, outcome: &'static str) {
        self.tls_reloads
            .get_or_create(&MetricLabels([("outcome", LabelValue::Text(outcome))]))
            .inc();
    }

    /// Notes when the server's certificate expires.
    pub fn tls_expires(&self, at: std::time::SystemTime) {
        let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.tls_expiry.set(since.as_secs_f64());
    }

    /// Counts credentials that were looked at.
    pub fn count_auth(&self, kind: &'static str, outcome: &'static str) {
        let kind = ("kind", LabelValue::Text(kind));
        let labels = MetricLabels([kind, ("outcome", LabelValue::Text(outcome))]);
        self.auth_attempts.get_or_create(&labels).inc();
    }

    /// A handle to what [`Metrics::count_auth`] counts, for a repeated outcome.
    pub fn auth_counter(&self, kind: &'static str, outcome: &'static str) -> CounterHandle {
        let kind = ("kind", LabelValue::Text(kind));
        let labels = MetricLabels([kind, ("outcome", LabelValue::Text(outcome))]);
        CounterHandle(self.auth_attempts.get_or_create_owned(&labels))
    }

    /// Counts a token that was issued.
    pub fn count_token(&self, kind: &'static str) {
        self.auth_tokens.get_or_create(&MetricLabels([("kind", LabelValue::Text(kind))])).inc();
    }

    /// Counts reloads of a file.
    pub fn count_auth_reload(&self, file: &'static str, outcome: &'static str) {
        let file = ("file", LabelValue::Text(file));
        let labels = MetricLabels([file, ("outcome", LabelValue::Text(outcome))]);
        self.auth_reloads.get_or_create(&labels).inc();
    }

    /// Counts a collection that ended well.
    pub fn count_gc_run(&self, done: &GcReport, duration: Duration) {
        self.gc_runs.get_or_create(&MetricLabels([("outcome", RunEnd::Ok.word())])).inc();
        self.gc_seconds.inc_by(duration.as_secs_f64());
        self.gc_last_success.set(unix_time());
        self.gc_queued_bytes.inc_by(done.queued_bytes);
        self.uploads_expired.inc_by(done.uploads.unfinished);
        for (kind, tally) in [
            ("manifest", &done.manifests),
            ("link", &done.links),
            ("blob", &done.blobs),
            ("orphan", &done.orphans),
            ("duplicate", &done.deduplicated),
        ] {
            self.count_tally(kind, tally);
        }
        // Only a sweep lists all blobs.
        let blobs = done.swept.then_some(("blob", &done.blobs));
        for (kind, tally) in blobs.into_iter().chain([("manifest", &done.manifests)]) {
            let bytes = tally.scanned_bytes.saturating_sub(tally.removed_bytes);
            let labels = MetricLabels([("kind", LabelValue::Text(kind))]);
            self.stored_bytes.get_or_create(&labels).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    fn count_tally(&self, kind: &'static str, tally: &GcTally) {
        let kind = ("kind", LabelValue::Text(kind));
        for (outcome, count) in [
            ("scanned", tally.scanned),
            ("kept", tally.kept),
            ("young", tally.young),
            ("removed", tally.removed),
            ("changed", tally.changed),
            ("withheld", tally.withheld),
            ("failed", tally.failed),
        ] {
            let labels = MetricLabels([kind, ("outcome", LabelValue::Text(outcome))]);
            self.gc_objects.get_or_create(&labels).inc_by(count);
        }
        self.gc_removed_bytes.get_or_create(&MetricLabels([kind])).inc_by(tally.removed_bytes);
    }

    /// Counts a collection that was given up.
    pub fn count_failed_gc_run(&self, end: RunEnd) {
        self.gc_runs.get_or_create(&MetricLabels([("outcome", end.word())])).inc();
    }

    /// Counts a check that came to its end.
    pub fn count_check(&self, checked: &FsckReport) {
        self.fsck_runs.get_or_create(&MetricLabels([("outcome", RunEnd::Ok.word())])).inc();
        self.fsck_last_success.set(unix_time());
        self.fsck_hashed_bytes.inc_by(checked.hashed_bytes);
        for (severity, count) in
            [("damage", checked.damage), ("untidy", checked.untidy), ("note", checked.notes)]
        {
            let labels = MetricLabels([("severity", LabelValue::Text(severity))]);
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.fsck_findings.get_or_create(&labels).set(count);
        }
    }

    /// Counts a check that was given up.
    pub fn count_failed_check(&self, end: RunEnd) {
        self.fsck_runs.get_or_create(&MetricLabels([("outcome", end.word())])).inc();
    }

    /// Counts a finished request.
    pub fn count_request(&self, request: &FinishedRequest) {
        let endpoint = ("endpoint", LabelValue::Text(request.endpoint));
        let status = ("status", LabelValue::Number(request.status));
        self.requests.get_or_create(&MetricLabels([endpoint, status])).inc();
        let by_endpoint = MetricLabels([endpoint]);
        let trace = request.trace_id.map(exemplars::TraceLabel);
        let seconds = request.duration.as_secs_f64();
        self.request_seconds.get_or_create(&by_endpoint).observe(seconds, trace, None);
        self.received_bytes.get_or_create(&by_endpoint).inc_by(request.received_bytes);
        self.sent_bytes.get_or_create(&by_endpoint).inc_by(request.sent_bytes);
    }

    /// Counts a store request; `outcome` is `ok` or the kind of failure.
    pub fn count_store_request(
        &self,
        operation: &'static str,
        outcome: &'static str,
        duration: Duration,
    ) {
        let operation = ("operation", LabelValue::Text(operation));
        let labels = MetricLabels([operation, ("outcome", LabelValue::Text(outcome))]);
        self.store_requests.get_or_create(&labels).inc();
        self.store_seconds
            .get_or_create(&MetricLabels([operation]))
            .observe(duration.as_secs_f64());
    }

    /// Notes whether a write to the store succeeded.
    pub fn set_store_writable(&self, is_writable: bool) {
        self.store_writable.set(i64::from(is_writable));
        *self.store_written.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Time since the last write to the store, whether it succeeded or not.
    pub fn store_write_age(&self) -> Option<Duration> {
        let written = *self.store_written.lock().unwrap_or_else(PoisonError::into_inner);
        written.map(|at| at.elapsed())
    }

    /// Whether the last write to the store succeeded.
    pub fn is_store_writable(&self) -> bool {
        self.store_writable.get() == 1
    }

    /// Notes the folder whose file system has the content.
    pub fn set_folder(&self, folder: PathBuf) {
        // A process has one.
        let _ = self.folder.set(folder);
    }

    /// Counts a slow read; `outcome` says what became of the second request for it.
    pub fn count_hedge(&self, outcome: &'static str) {
        self.store_hedges
            .get_or_create(&MetricLabels([("outcome", LabelValue::Text(outcome))]))
            .inc();
    }

    /// Notes how a budget is used, other than those of [`RegistryUsage`].
    pub fn set_budget(&self, budget: &'static str, usage: BudgetUsage) {
        let label = ("budget", LabelValue::Text(budget));
        self.waiting.get_or_create(&MetricLabels([label])).set(saturated(usage.waiting));
        let served = usage.waits.saturating_sub(usage.refused + usage.waiting as u64);
        for (outcome, count) in [("served", served), ("refused", usage.refused)] {
            let labels = MetricLabels([label, ("outcome", LabelValue::Text(outcome))]);
            self.waits.get_or_create(&labels).inner().store(count, Ordering::Relaxed);
        }
    }

    /// What counts who waits for a budget that keeps no count itself.
    pub fn budget(&self, budget: &'static str) -> WaitCounts {
        let label = ("budget", LabelValue::Text(budget));
        let served = MetricLabels([label, ("outcome", LabelValue::Text("served"))]);
        WaitCounts {
            waiting: self.waiting.get_or_create_owned(&MetricLabels([label])),
            served: self.waits.get_or_create_owned(&served),
        }
    }

    /// Notes how the memory of manifests is used.
    pub fn set_manifest_buffer(&self, usage: BudgetUsage) {
        self.manifest_buffer_free.set(saturated(usage.bytes_free));
        self.set_budget("manifest_buffer", usage);
    }

    /// The text that Prometheus reads; `usage` is what the registry uses now.
    pub fn render(&self, form: MetricsForm, usage: &RegistryUsage) -> String {
        self.update(usage);
        let mut text = String::new();
        process::append_process(&mut text);
        if let Some(folder) = self.folder.get() {
            process::append_disk(&mut text, folder, usage.reserved_bytes);
        }
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        form.of(text)
    }

    /// Takes the values that others keep.
    fn update(&self, usage: &RegistryUsage) {
        self.log_lines_dropped.inner().store(dropped_lines(), Ordering::Relaxed);
        let replaced = usage.damaged_records_replaced;
        self.damaged_records_replaced.inner().store(replaced, Ordering::Relaxed);
        self.upload_slots_free.set(saturated(usage.upload_slots_free));
        self.upload_buffer_free.set(saturated(usage.upload_buffer.bytes_free));
        self.set_budget("upload_buffer", usage.upload_buffer);
        self.clock_difference.set(usage.clock_difference.as_secs_f64());
        for (outcome, count) in [("hit", usage.cache_hits), ("miss", usage.cache_misses)] {
            let labels = MetricLabels([("outcome", LabelValue::Text(outcome))]);
            self.cache_lookups.get_or_create(&labels).inner().store(count, Ordering::Relaxed);
        }
    }
}

fn unix_time() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

fn saturated(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What is counted of a request.
#[derive(Clone, Copy, Debug)]
pub struct FinishedRequest {
    /// The endpoint's id.
    pub endpoint: &'static str,
    /// The status of the response.
    pub status: u16,
    /// From the request's head to the end of the response.
    pub duration: Duration,
    /// Bytes of the request's body that were read.
    pub received_bytes: u64,
    /// Bytes of the response's body that were handed over.
    pub sent_bytes: u64,
    /// The id of its trace, if a collector gets it.
    pub trace_id: Option<[u8; 16]>,
}

/// Counts who waits for a budget.
#[derive(Clone, Debug, Default)]
pub struct WaitCounts {
    waiting: Gauge,
    served: Counter,
}

impl WaitCounts {
    /// Counts one that waits for as long as the returned value lives.
    pub fn wait(&self) -> GaugeGuard {
        self.served.inc();
        GaugeGuard::new(&self.waiting)
    }
}

/// A gauge that is one higher for as long as this lives.
#[derive(Debug)]
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    /// Raises a gauge by one.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests;
