//! The wiring: settings become a store (`store.rs`), the options of each component (`options.rs`), a
//! registry and a server.

mod announce;
mod run;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jreg_access::limits::{ClientLimits, LimitOptions};
use jreg_access::{
    AccessGuard, AccessGuardError, AccessTokenStore, AllowAll, Authorizer, HttpJwksFetcher,
    JwksFetchError, JwksFetcher, OperatorAccess, RegistryGate, SessionStore,
};
use jreg_config::{Settings, StorageLocation};
use jreg_events::SinkClient;
use jreg_http::{AdminApi, Api, ApiContext, HttpOptions, NoActivity, Redirects, UiState};
use jreg_lifecycle::CurrentRules;
use jreg_mirror::{MirrorOptions, Mirrors};
use jreg_net::acme::{Acme, AcmeError};
use jreg_net::descriptors;
use jreg_net::server::{RunningServer, ServerOptions, ServerParts, serve};
use jreg_net::tls::Tls;
use jreg_net::trace_export::TraceExporter;
use jreg_registry::Registry;
use jreg_storage::{Clock, ReadOnlyStore, Store, SystemClock};
use jreg_telemetry::audit::AuditLog;
use jreg_telemetry::metrics::Metrics;
use jreg_telemetry::trace::Tracer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::activity::RegistryActivity;
use crate::error::StartError;
use crate::jobs::{
    self, CertificateJob, EventsJob, EvictionJob, ExpiredUploadsJob, FsckJob, GcJob, PullsJob,
    PullsMergeJob, ReloadJob, RetentionJob, SyncJob, UsageJob, WriteProbeJob,
};
use crate::lifecycle::LifecycleFile;
use crate::maintenance::MaintenanceContext;
use crate::maintenance::socket::ControlSocket;
use crate::mirrors;
use crate::operator::OperatorHandler;
use crate::options;
use crate::store::surrounded;
use crate::support::SupportContext;

pub use announce::{check_exposure, greeting, log_start};
pub use run::{ServeHooks, run};

/// How long detached work may take after the server has stopped.
const RUNTIME_END_MAX: Duration = Duration::from_secs(1);

/// A registry that is ready to serve.
#[derive(Debug)]
pub struct App {
    context: Arc<ApiContext>,
    jobs: Jobs,
    workshop: MaintenanceContext,
    /// What is served over the control socket.
    operator: OperatorHandler,
    server: ServerOptions,
    acme: Option<Arc<Acme>>,
    lifecycle: CurrentRules,
    exporter: Option<TraceExporter>,
}

impl App {
    /// A registry over `store`, whose clients are asked who they are if the settings say so.
    pub async fn build(settings: Settings, store: Arc<dyn Store>) -> Result<Self, StartError> {
        let fetch = match settings.policy {
            Some(_) => Arc::new(HttpJwksFetcher::new().map_err(AccessGuardError::from)?)
                as Arc<dyn JwksFetcher>,
            None => Arc::new(NoJwksFetcher),
        };
        Self::build_with(settings, store, Arc::new(SystemClock::new()), fetch).await
    }

    /// The same by another clock, and with another way to get the keys of issuers.
    pub async fn build_with(
        settings: Settings,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        fetch: Arc<dyn JwksFetcher>,
    ) -> Result<Self, StartError> {
        Self::assemble(settings, store, clock, AuthorizationSource::Settings(fetch)).await
    }

    /// A registry over `store` by this clock, whose rights are granted by `authorizer`.
    pub async fn build_guarded(
        settings: Settings,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        authorizer: Arc<dyn Authorizer>,
    ) -> Result<Self, StartError> {
        Self::assemble(settings, store, clock, AuthorizationSource::Given(authorizer)).await
    }

    async fn assemble(
        settings: Settings,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        authorization: AuthorizationSource,
    ) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new());
        let store: Arc<dyn Store> = match settings.read_only {
            true => Arc::new(ReadOnlyStore::new(store)),
            false => store,
        };
        let is_shared = !store.capabilities().is_exclusive;
        let store = surrounded(store, settings.s3_hedge_reads, &metrics);
        let tls = open_tls(&settings, &store, &metrics).await?;
        let lifecycle = open_lifecycle(&settings, &metrics).await?;
        let rules = lifecycle.as_ref().map(|file| file.rules().clone()).unwrap_or_default();
        let (opened, at) = (Arc::clone(&store), Arc::clone(&clock));
        let registry = open_registry(&settings, &opened, &at).await?.with_rules(rules);
        let registry = options::with_events(registry, &settings);
        let sender = open_events(&settings, &registry, &metrics, &clock, is_shared).await?;
        let acme = open_acme(&settings, tls.as_ref(), &store, &clock, &metrics).await?;
        let access_tokens = Arc::new(AccessTokenStore::new(Arc::clone(&store), Arc::clone(&clock)));
        let mirror_clock = Arc::clone(&clock);
        let sessions = Arc::new(SessionStore::new(Arc::clone(&store), Arc::clone(&clock)));
        let limits = options::limits(&settings);
        let limits = ClientLimits::new(&limits, Arc::clone(&clock), Arc::clone(&metrics));
        let guard = match &authorization {
            AuthorizationSource::Settings(fetch) if settings.requires_authentication() => {
                let (options, fetch) = (options::guard(&settings), Arc::clone(fetch));
                let (counts, tokens) = (Arc::clone(&metrics), Arc::clone(&access_tokens));
                let ended = Arc::clone(&sessions);
                let guard = AccessGuard::open(options, store, clock, counts, fetch, tokens, ended);
                Some(Arc::new(Box::pin(guard).await?))
            }
            _ => None,
        };
        check_mirrors(&settings, guard.as_deref())?;
        let authorizer = authorization.authorizer(guard.as_ref());
        let mirrors = mirrors::open(&settings, &registry, &mirror_clock, &metrics).await?;
        let audit = open_audit(&settings, &metrics).await?;
        let jobs = Jobs::of(&registry, &metrics, &settings, &audit, is_shared);
        let reloader = ReloadJob::new(&registry, guard.clone(), tls.clone(), lifecycle.clone());
        let renewer = acme.clone().map(CertificateJob);
        let (evictor, syncer) = mirror_jobs(&registry, mirrors.as_ref(), &metrics, is_shared);
        let jobs = Jobs { reloader, renewer, sender, evictor, syncer, ..jobs };
        let workshop = MaintenanceContext {
            mirrors: mirrors.clone(),
            registry: registry.clone(),
            metrics: Arc::clone(&metrics),
            gc: options::gc(&settings),
            fsck: options::fsck(&settings),
            retention: options::retention(&settings),
            access_tokens,
            sessions,
            audit: audit.clone(),
            settings: Arc::new(settings.clone()),
        };
        let (tracer, exporter) = open_tracer(&settings, &metrics)?;
        let server = server_options(&settings);
        let options = options::http(&settings);
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        let operator = operator_api(&workshop, &options, &at, (&tasks, &stopping));
        let operator = OperatorHandler::new(operator, opened);
        let activity = RegistryActivity {
            registry: registry.clone(),
            metrics: Arc::clone(&metrics),
            mirrors: mirrors.clone(),
        };
        let ui = UiState::new(workshop.gc.clone(), workshop.retention.clone(), Arc::new(activity));
        let context = Arc::new(ApiContext {
            gate: RegistryGate::new(registry, authorizer).with_mirrors(mirrors),
            guard,
            tls,
            audit,
            limits,
            manifest_room: options.manifest_room(),
            response_memory: jreg_http::responses_budget(options.manifest_bytes_max),
            options,
            metrics,
            tasks,
            draining: CancellationToken::new(),
            stopping,
            readiness: Default::default(),
            tracer,
            ui,
        });
        let lifecycle = lifecycle.map(|file| file.rules().clone()).unwrap_or_default();
        Ok(Self { context, jobs, workshop, operator, server, acme, lifecycle, exporter })
    }

    /// Authenticates and authorizes clients, if the settings require it.
    pub fn guard(&self) -> Option<&Arc<AccessGuard>> {
        self.context.guard.as_ref()
    }

    /// What TLS is spoken with, if it is.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.context.tls.as_ref()
    }

    /// What gets the certificate, if an authority issues it.
    pub fn acme(&self) -> Option<&Arc<Acme>> {
        self.acme.as_ref()
    }

    /// The rules of the lifecycle file, which follow it; no rules without a file.
    pub fn lifecycle(&self) -> &CurrentRules {
        &self.lifecycle
    }

    /// Everything that it serves, also for callers that bring their own server.
    pub fn api(&self) -> Api {
        Api::new(Arc::clone(&self.context))
    }

    /// Does what comes through `socket`, too, once it serves.
    pub fn control(&self, socket: ControlSocket) {
        let ApiContext { tasks, stopping, .. } = &*self.context;
        let operator = Arc::new(self.operator.clone());
        socket.serve(self.workshop.clone(), operator, tasks, stopping.clone());
    }

    /// What sends the traces.
    fn take_exporter(&mut self) -> Option<TraceExporter> {
        self.exporter.take()
    }

    /// Cancelled when load balancers should send requests elsewhere.
    fn draining(&self) -> CancellationToken {
        self.context.draining.clone()
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.context.metrics
    }

    /// Serves health, metrics and support bundles on `listener` until the returned value is shut down or
    /// dropped.
    pub fn serve_admin(&self, listener: TcpListener) -> io::Result<RunningServer> {
        let address = listener.local_addr()?;
        let support = Arc::new(SupportContext {
            registry: self.workshop.registry.clone(),
            metrics: Arc::clone(&self.workshop.metrics),
            settings: Arc::clone(&self.workshop.settings),
        });
        let parts = ServerParts {
            handler: Arc::new(AdminApi::new(Arc::clone(&self.context), support)),
            tls: None,
            metrics: Arc::new(Metrics::new()),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        };
        Ok(serve(listener, address, parts, ServerOptions::default()))
    }

    /// Serves on `listener` until the returned value is shut down or dropped.
    pub fn serve(self, listener: TcpListener) -> io::Result<RunningServer> {
        let address = listener.local_addr()?;
        let api = self.api();
        self.jobs.spawn(&self.context.tasks, &self.context.stopping);
        let parts = ServerParts {
            handler: Arc::new(api),
            tls: self.context.tls.clone(),
            metrics: Arc::clone(&self.context.metrics),
            tasks: self.context.tasks.clone(),
            stopping: self.context.stopping.clone(),
        };
        Ok(serve(listener, address, parts, self.server))
    }
}

/// The API as an operator has it over the control socket: with every right, and without the limits of clients.
/// Bytes come from this process, never from elsewhere.
fn operator_api(
    workshop: &MaintenanceContext,
    options: &HttpOptions,
    clock: &Arc<dyn Clock>,
    (tasks, stopping): (&TaskTracker, &CancellationToken),
) -> Api {
    let metrics = &workshop.metrics;
    let options = HttpOptions { redirects: Redirects::default(), ui: false, ..options.clone() };
    let ui = UiState::new(workshop.gc.clone(), workshop.retention.clone(), Arc::new(NoActivity));
    Api::new(Arc::new(ApiContext {
        gate: RegistryGate::new(workshop.registry.clone(), Arc::new(OperatorAccess)),
        guard: None,
        tls: None,
        audit: workshop.audit.clone(),
        limits: ClientLimits::new(&LimitOptions::default(), Arc::clone(clock), Arc::clone(metrics)),
        manifest_room: options.manifest_room(),
        response_memory: jreg_http::responses_budget(options.manifest_bytes_max),
        options,
        metrics: Arc::clone(metrics),
        tasks: tasks.clone(),
        draining: CancellationToken::new(),
        stopping: stopping.clone(),
        readiness: Default::default(),
        tracer: Tracer::default(),
        ui,
    }))
}

/// The registry of a store. One that is only read must have been made before.
async fn open_registry(
    settings: &Settings,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
) -> Result<Registry, StartError> {
    let (options, store, clock) =
        (options::registry(settings), Arc::clone(store), Arc::clone(clock));
    let registry = match settings.read_only {
        true => Registry::open_existing(store, clock, options).await?,
        false => Registry::open(store, clock, options).await?,
    };
    // What mirrors evict is decided by these.
    let evicts = settings.mirrors.iter().any(MirrorOptions::evicts);
    let tracks = settings.track_pulls || evicts;
    Ok(registry.with_pull_tracking(tracks && !settings.read_only))
}

/// The jobs of mirrors, as far as their settings need them.
fn mirror_jobs(
    registry: &Registry,
    mirrors: Option<&Mirrors>,
    metrics: &Arc<Metrics>,
    is_shared: bool,
) -> (Option<EvictionJob>, Option<SyncJob>) {
    let Some(mirrors) = mirrors else { return (None, None) };
    let evictor = EvictionJob {
        registry: registry.clone(),
        mirrors: mirrors.clone(),
        holder: holder(),
        is_shared,
    };
    let syncer = SyncJob::new(registry, mirrors, Arc::clone(metrics), holder(), is_shared);
    (Some(evictor), syncer)
}

/// What TLS is spoken with, if the settings say so.
async fn open_tls(
    settings: &Settings,
    store: &Arc<dyn Store>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<Tls>>, StartError> {
    let Some((options, source)) = options::tls(settings, store) else { return Ok(None) };
    let metrics = Arc::clone(metrics);
    let opening = tokio::task::spawn_blocking(move || Tls::open(options, source, metrics));
    Ok(Some(Arc::new(opening.await.map_err(io::Error::other)??)))
}

/// The lifecycle file, if the settings name one.
async fn open_lifecycle(
    settings: &Settings,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<LifecycleFile>>, StartError> {
    let Some(path) = settings.lifecycle.clone() else { return Ok(None) };
    let metrics = Arc::clone(metrics);
    let opening = tokio::task::spawn_blocking(move || LifecycleFile::open(path, metrics));
    Ok(Some(Arc::new(opening.await.map_err(io::Error::other)??)))
}

/// What gets the certificate, if the settings say so.
async fn open_acme(
    settings: &Settings,
    tls: Option<&Arc<Tls>>,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<Acme>>, AcmeError> {
    let (Some(tls), Some(options)) = (tls, options::acme(settings)) else { return Ok(None) };
    if settings.storage == StorageLocation::Memory {
        tracing::warn!(
            "storage is in memory: every start orders a new certificate, which the CA may rate-limit"
        );
    }
    let (store, clock, metrics) = (Arc::clone(store), Arc::clone(clock), Arc::clone(metrics));
    Ok(Some(Arc::new(Acme::open(options, tls, store, clock, metrics).await?)))
}

/// What sends events, if there is a sink.
async fn open_events(
    settings: &Settings,
    registry: &Registry,
    metrics: &Arc<Metrics>,
    clock: &Arc<dyn Clock>,
    is_shared: bool,
) -> Result<Option<EventsJob>, StartError> {
    let mut clients = Vec::new();
    for sink in &settings.event_sinks {
        clients.push(SinkClient::open(sink.clone(), options::public_url(settings)).await?);
    }
    Ok((!clients.is_empty()).then(|| EventsJob {
        registry: registry.clone(),
        metrics: Arc::clone(metrics),
        clock: Arc::clone(clock),
        clients,
        keep: settings.events_keep,
        interval: settings.events_interval,
        holder: holder(),
        is_shared,
    }))
}

/// What credentials can read is not shown to everyone, unless the operator says so.
fn check_mirrors(settings: &Settings, guard: Option<&AccessGuard>) -> Result<(), StartError> {
    let is_open = |prefix| guard.is_none_or(|guard| guard.may_anonymous_pull_below(prefix));
    let exposed = settings.mirrors.iter().find(|mirror| {
        mirror.has_credentials() && !mirror.is_public && is_open(&mirror.name.prefix)
    });
    match exposed {
        Some(mirror) => Err(StartError::Exposed { namespace: mirror.name.namespace.clone() }),
        None => Ok(()),
    }
}

/// What traces requests, and what sends the traces if there is a collector.
fn open_tracer(
    settings: &Settings,
    metrics: &Arc<Metrics>,
) -> Result<(Tracer, Option<TraceExporter>), StartError> {
    let options = options::trace(settings);
    let Some(collector) = &settings.trace_collector else {
        return Ok((Tracer::new(options), None));
    };
    let (tracer, queue) = Tracer::with_collector(options);
    let (instance, metrics) = (Uuid::new_v4().to_string(), Arc::clone(metrics));
    let exporter = TraceExporter::new(collector.as_str(), instance, queue, metrics);
    Ok((tracer, Some(exporter.map_err(io::Error::other)?)))
}

/// Name of this instance in leases.
fn holder() -> String {
    format!("process {}, {}", std::process::id(), Uuid::new_v4().simple())
}

/// What authorizes requests.
enum AuthorizationSource {
    Given(Arc<dyn Authorizer>),
    /// The settings; keys of issuers are fetched by this.
    Settings(Arc<dyn JwksFetcher>),
}

impl AuthorizationSource {
    fn authorizer(self, guard: Option<&Arc<AccessGuard>>) -> Arc<dyn Authorizer> {
        match (self, guard) {
            (Self::Given(authorizer), _) => authorizer,
            (Self::Settings(_), Some(guard)) => Arc::clone(guard) as _,
            (Self::Settings(_), None) => Arc::new(AllowAll),
        }
    }
}

async fn open_audit(settings: &Settings, metrics: &Arc<Metrics>) -> Result<AuditLog, StartError> {
    let (options, metrics) = (options::audit(settings), Arc::clone(metrics));
    let opening = tokio::task::spawn_blocking(move || AuditLog::open(&options, &metrics));
    Ok(opening.await.map_err(io::Error::other)??)
}

/// The options of the server. `connections-max` is lowered to what the descriptor limit allows.
fn server_options(settings: &Settings) -> ServerOptions {
    let server = options::server(settings);
    if server.connections_max < settings.connections_max {
        let (connections_max, descriptors) = (server.connections_max, descriptors::limit());
        tracing::warn!(
            connections_max,
            descriptors,
            "connections-max is lowered: the limit of open files (RLIMIT_NOFILE) allows no more"
        );
    }
    server
}

/// What fetches where nothing can be asked for: only a policy names addresses.
#[derive(Debug)]
struct NoJwksFetcher;

#[async_trait::async_trait]
impl JwksFetcher for NoJwksFetcher {
    async fn fetch(&self, _: &str) -> Result<Vec<u8>, JwksFetchError> {
        Err(JwksFetchError::Status(0))
    }
}

/// What goes on beside the requests.
#[derive(Debug, Default)]
struct Jobs {
    prober: Option<WriteProbeJob>,
    reaper: Option<ExpiredUploadsJob>,
    collector: Option<GcJob>,
    retention: Option<RetentionJob>,
    pulls: Option<PullsJob>,
    merger: Option<PullsMergeJob>,
    usage: Option<UsageJob>,
    fsck: Option<FsckJob>,
    reloader: Option<ReloadJob>,
    renewer: Option<CertificateJob>,
    sender: Option<EventsJob>,
    evictor: Option<EvictionJob>,
    syncer: Option<SyncJob>,
}

impl Jobs {
    fn of(
        registry: &Registry,
        metrics: &Arc<Metrics>,
        settings: &Settings,
        audit: &AuditLog,
        is_shared: bool,
    ) -> Self {
        if settings.read_only {
            return Self::default();
        }
        let prober =
            Some(WriteProbeJob { registry: registry.clone(), metrics: Arc::clone(metrics) });
        let reaper = Some(ExpiredUploadsJob {
            registry: registry.clone(),
            metrics: Arc::clone(metrics),
            interval: settings.upload_reap_interval,
        });
        let retention = settings.retention_interval.filter(|_| settings.lifecycle.is_some());
        let retention = retention.map(|interval| RetentionJob {
            registry: registry.clone(),
            metrics: Arc::clone(metrics),
            audit: audit.clone(),
            options: options::retention(settings),
            interval,
            holder: holder(),
            is_shared,
        });
        let collector = settings.gc_interval.map(|interval| GcJob {
            registry: registry.clone(),
            metrics: Arc::clone(metrics),
            audit: audit.clone(),
            options: options::gc(settings),
            interval,
            holder: holder(),
            is_shared,
        });
        let pulls = Some(PullsJob { registry: registry.clone(), metrics: Arc::clone(metrics) });
        let merger = Some(PullsMergeJob {
            registry: registry.clone(),
            metrics: Arc::clone(metrics),
            holder: holder(),
            is_shared,
        });
        let fsck = settings.fsck_interval.map(|interval| FsckJob {
            registry: registry.clone(),
            metrics: Arc::clone(metrics),
            options: options::fsck(settings),
            interval,
        });
        let usage = (settings.usage_metrics > 0).then(|| UsageJob {
            registry: registry.clone(),
            metrics: Arc::clone(metrics),
            largest_max: settings.usage_metrics,
        });
        let (reloader, renewer, sender, evictor, syncer) = (None, None, None, None, None);
        Self {
            prober,
            reaper,
            collector,
            retention,
            pulls,
            merger,
            usage,
            fsck,
            reloader,
            renewer,
            sender,
            evictor,
            syncer,
        }
    }

    fn spawn(self, tasks: &TaskTracker, stopping: &CancellationToken) {
        if let Some(prober) = self.prober {
            prober.spawn(tasks, stopping.clone());
        }
        if let Some(reaper) = self.reaper {
            let (registry, stopped) = (reaper.registry.clone(), stopping.clone());
            tasks.spawn(async move {
                stopped.cancelled().await;
                registry.stop_uploads().await;
            });
            jobs::spawn(reaper, tasks, stopping.clone());
        }
        if let Some(collector) = self.collector {
            jobs::spawn(collector, tasks, stopping.clone());
        }
        if let Some(retention) = self.retention {
            jobs::spawn(retention, tasks, stopping.clone());
        }
        if let Some(pulls) = self.pulls {
            jobs::spawn_pulls(pulls, tasks, stopping.clone());
        }
        if let Some(merger) = self.merger {
            jobs::spawn(merger, tasks, stopping.clone());
        }
        if let Some(usage) = self.usage {
            jobs::spawn(usage, tasks, stopping.clone());
        }
        if let Some(fsck) = self.fsck {
            jobs::spawn(fsck, tasks, stopping.clone());
        }
        if let Some(reloader) = self.reloader {
            jobs::spawn(reloader, tasks, stopping.clone());
        }
        if let Some(renewer) = self.renewer {
            jobs::spawn(renewer, tasks, stopping.clone());
        }
        if let Some(evictor) = self.evictor {
            jobs::spawn(evictor, tasks, stopping.clone());
        }
        if let Some(syncer) = self.syncer {
            jobs::spawn(syncer, tasks, stopping.clone());
        }
        if let Some(sender) = self.sender {
            jobs::spawn_events(sender, tasks, stopping.clone());
        }
    }
}
