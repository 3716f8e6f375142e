//! [`ApiContext`]: the state that all requests share.

use std::sync::Arc;

use jreg_access::limits::ClientLimits;
use jreg_access::{AccessGuard, RegistryGate};
use jreg_net::server::AddressBudget;
use jreg_net::tls::Tls;
use jreg_registry::MemoryBudget;
use jreg_telemetry::audit::AuditLog;
use jreg_telemetry::metrics::Metrics;
use jreg_telemetry::trace::Tracer;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::options::HttpOptions;
use crate::page::PageOptions;
use crate::readiness::Readiness;
use crate::record::AuditSink;
use crate::ui_state::UiState;

/// State that all requests share. Handlers get the parts that they need.
#[derive(Debug)]
pub struct ApiContext {
    pub gate: RegistryGate,
    /// `None`: there is no authentication.
    pub guard: Option<Arc<AccessGuard>>,
    /// `None`: there is no TLS.
    pub tls: Option<Arc<Tls>>,
    pub audit: AuditLog,
    pub limits: ClientLimits,
    pub options: HttpOptions,
    pub metrics: Arc<Metrics>,
    /// Operations that change something: they complete even if the client disconnects, and a
    /// shutdown waits for them.
    pub tasks: TaskTracker,
    /// Cancelled before `stopping`: the server still serves, but load balancers should send requests
    /// elsewhere.
    pub draining: CancellationToken,
    /// Cancelled when the server begins to stop.
    pub stopping: CancellationToken,
    /// The memory that manifests share while they are received and stored.
    pub manifest_room: MemoryBudget,
    /// The budget that all in-memory responses share.
    pub response_memory: Arc<AddressBudget>,
    pub readiness: Readiness,
    pub tracer: Tracer,
    pub ui: UiState,
}

impl ApiContext {
    pub(crate) fn audit_sink(&self) -> AuditSink<'_> {
        AuditSink { audit: &self.audit, tasks: &self.tasks }
    }

    pub(crate) fn page_options(&self) -> PageOptions<'_> {
        let HttpOptions { page_items_max, public_url, .. } = &self.options;
        PageOptions { items_max: *page_items_max, public_url }
    }
}
