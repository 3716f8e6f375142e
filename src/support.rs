//! [`bundle`]: what a support engineer needs to know of a process, without secrets.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use jreg_config::{KEYS, Settings};
use jreg_http::SupportSource;
use jreg_registry::Registry;
use jreg_storage::error_chain;
use jreg_telemetry::logging::recent_lines;
use jreg_telemetry::metrics::{Metrics, MetricsForm};
use serde_json::{Map, Value, json};

/// Maximum time that the store may take to respond.
const PROBE_WAIT_MAX: Duration = Duration::from_secs(10);

/// Where a bundle comes from.
#[derive(Clone, Debug)]
pub(crate) struct SupportContext {
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
    pub settings: Arc<Settings>,
}

#[async_trait]
impl SupportSource for SupportContext {
    async fn bundle(&self) -> Value {
        bundle(self).await
    }
}

/// Version, settings, a probe of the store, metrics, and recent warnings and errors. Secrets are redacted.
pub(crate) async fn bundle(context: &SupportContext) -> Value {
    let SupportContext { registry, metrics, settings } = context;
    let time = DateTime::<Utc>::from(SystemTime::now());
    let recent = recent_lines();
    let recent =
        recent.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|_| json!(line)));
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "time": time.to_rfc3339_opts(SecondsFormat::Secs, true),
        "process": std::process::id(),
        "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "processors": std::thread::available_parallelism().map(usize::from).unwrap_or_default(),
        "descriptors_max": jreg_net::descriptors::limit(),
        "settings": shown(settings),
        "store": probed(registry).await,
        "metrics": metrics.render(MetricsForm::Text, &registry.usage()),
        "warnings_and_errors": recent.collect::<Vec<Value>>(),
    })
}

/// Every setting; secrets are redacted.
fn shown(settings: &Settings) -> Map<String, Value> {
    let sinks: Vec<_> = settings.event_sinks.iter().map(|sink| sink.name.to_string()).collect();
    let keys = KEYS.iter().map(|key| (key.name(), json!(key.show(settings).join(", "))));
    let mirrors: Vec<_> = settings.mirrors.iter().map(|mirror| &mirror.name.namespace).collect();
    let tables = [("events.sink", json!(sinks)), ("mirror", json!(mirrors))];
    keys.chain(tables.map(|(table, names)| (table.to_owned(), names))).collect()
}

async fn probed(registry: &Registry) -> Value {
    let began = Instant::now();
    let result = match tokio::time::timeout(PROBE_WAIT_MAX, registry.ready()).await {
        Ok(Ok(())) => "ok".to_owned(),
        Ok(Err(error)) => error_chain(&error),
        Err(_) => "the store does not respond".to_owned(),
    };
    json!({ "probe": result, "probe_ms": u64::try_from(began.elapsed().as_millis()).ok() })
}
