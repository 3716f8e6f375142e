//! The wiring: settings become a store (`store.rs`), the options of each component (`options.rs`), a
//! registry and a server.

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
use jreg_http::{Api, ApiContext, HttpOptions, NoActivity, Redirects, UiState};
use jreg_lifecycle::CurrentRules;
use jreg_net::acme::{Acme, AcmeError};
use jreg_net::descriptors;
use jreg_net::server::{RunningServer, ServerEnding, ServerOptions, ServerParts, listen, serve};
use jreg_net::tls::Tls;
use jreg_registry::Registry;
use jreg_storage::{Clock, FS_THREADS, ReadOnlyStore, Store, SystemClock};
use jreg_telemetry::audit::AuditLog;
use jreg_telemetry::metrics::Metrics;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::error::StartError;
use crate::jobs::{
    self, CertificateJob, EventsJob, ExpiredUploadsJob, FsckJob, GcJob, PullsJob, PullsMergeJob,
    ReloadJob, RetentionJob, UsageJob,
};
use crate::lifecycle::LifecycleFile;
use crate::maintenance::MaintenanceContext;
use crate::maintenance::socket::ControlSocket;
use crate::operator::OperatorHandler;
use crate::options;
use crate::store::{open_store, surrounded};

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

    /// A registry over `store` whose rights are granted by `authorizer`.
    pub async fn build_guarded(
        settings: Settings,
        store: Arc<dyn Store>,
        authorizer: Arc<dyn Authorizer>,
    ) -> Result<Self, StartError> {
        let clock = Arc::new(SystemClock::new());
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
        let registry = options::registry(&settings);
        let rules = lifecycle.as_ref().map(|file| file.rules().clone()).unwrap_or_default();
        let (opened, at) = (Arc::clone(&store), Arc::clone(&clock));
        let registry = match settings.read_only {
            true => Registry::open_existing(opened.clone(), at.clone(), registry).await?,
            false => Registry::open(opened.clone(), at.clone(), registry).await?,
        };
        let tracks_pulls = settings.track_pulls && !settings.read_only;
        let registry = registry.with_rules(rules).with_pull_tracking(tracks_pulls);
        let registry = options::with_events(registry, &settings);
        let sender = open_events(&settings, &registry, &metrics, &clock, is_shared).await?;
        let acme = open_acme(&settings, tls.as_ref(), &store, &clock, &metrics).await?;
        let access_tokens = Arc::new(AccessTokenStore::new(Arc::clone(&store), Arc::clone(&clock)));
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
        let authorizer = authorization.authorizer(guard.as_ref());
        let audit = open_audit(&settings, &metrics).await?;
        let jobs = Jobs::of(&registry, &metrics, &settings, &audit, is_shared);
        let reloader = ReloadJob::new(&registry, guard.clone(), tls.clone(), lifecycle.clone());
        let renewer = acme.clone().map(CertificateJob);
        let jobs = Jobs { reloader, renewer, sender, ..jobs };
        let workshop = MaintenanceContext {
            registry: registry.clone(),
            metrics: Arc::clone(&metrics),
            gc: options::gc(&settings),
            fsck: options::fsck(&settings),
            retention: options::retention(&settings),
            access_tokens,
            sessions,
            audit: audit.clone(),
        };
        let server = server_options(&settings);
        let options = options::http(&settings);
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        let operator = operator_api(&workshop, &options, &at, (&tasks, &stopping));
        let operator = OperatorHandler::new(operator, opened);
        let ui =
            UiState::new(workshop.gc.clone(), workshop.retention.clone(), Arc::new(NoActivity));
        let context = Arc::new(ApiContext {
            gate: RegistryGate::new(registry, authorizer),
            guard,
            tls,
            audit,
            limits,
            manifest_room: options.manifest_room(),
            response_memory: jreg_http::responses_budget(options.manifest_bytes_max),
            options,
            metrics,
            tasks,
            stopping,
            readiness: Default::default(),
            ui,
        });
        let lifecycle = lifecycle.map(|file| file.rules().clone()).unwrap_or_default();
        Ok(Self { context, jobs, workshop, operator, server, acme, lifecycle })
    }

    /// Who keeps it, if clients are asked who they are.
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

    /// Opens the audit log again at each SIGHUP, once it serves, if it is a file.
    fn follow_hangups(&self) -> io::Result<()> {
        let audit = self.context.audit.clone();
        if !audit.is_file() {
            return Ok(());
        }
        let mut hangups = signal(SignalKind::hangup())?;
        let stopping = self.context.stopping.clone();
        self.context.tasks.spawn(async move {
            while stopping.run_until_cancelled(hangups.recv()).await.flatten().is_some() {
                audit.reopen().await;
            }
        });
        Ok(())
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
        stopping: stopping.clone(),
        readiness: Default::default(),
        ui,
    }))
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
        let (reloader, renewer, sender) = (None, None, None);
        Self { reaper, collector, retention, pulls, merger, usage, fsck, reloader, renewer, sender }
    }

    fn spawn(self, tasks: &TaskTracker, stopping: &CancellationToken) {
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
        if let Some(sender) = self.sender {
            jobs::spawn_events(sender, tasks, stopping.clone());
        }
    }
}

/// Number of threads beside those of the folder: for the hashes of passwords, for files that are
/// looked at, and for bytes that are read ahead.
const OTHER_THREADS: usize = 16;

/// Maximum number of blocking calls under way. Each has a stack.
const BLOCKING_THREADS_MAX: usize = FS_THREADS + OTHER_THREADS;

/// `jreg serve`: serves until SIGTERM or SIGINT, then finishes what runs. A second signal ends
/// the process at once. `announce` is told where the registry listens.
pub fn run(
    settings: Settings,
    announce: impl FnOnce(&Settings, std::net::SocketAddr),
) -> Result<ServerEnding, StartError> {
    descriptors::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()?;
    let ending = runtime.block_on(serve_until_signal(settings, announce));
    runtime.shutdown_timeout(RUNTIME_END_MAX);
    ending
}

async fn serve_until_signal(
    settings: Settings,
    announce: impl FnOnce(&Settings, std::net::SocketAddr),
) -> Result<ServerEnding, StartError> {
    let mut signals = Signals::new()?;
    warn_if_open(&settings)?;
    // The address first: it is the cheaper of the two to find taken.
    let address = settings.listen;
    let listener = listen(address).map_err(|source| StartError::Listen { address, source })?;
    let store = open_store(&settings).await?;
    let app = App::build(settings.clone(), store).await?;
    if let (StorageLocation::Folder(path), false) = (&settings.storage, settings.read_only) {
        match ControlSocket::open(path) {
            Ok(socket) => app.control(socket),
            // Some file systems have no sockets.
            Err(error) => tracing::warn!(
                error = jreg_storage::error_chain(&error),
                "cannot open the control socket: jreg gc, fsck and explain work only while the server is stopped"
            ),
        }
    }
    app.follow_hangups()?;
    let pulls = app.jobs.pulls.clone();
    let running = app.serve(listener)?;
    announce(&settings, running.local_addr());
    signals.next().await;
    tracing::info!(
        deadline_s = settings.shutdown_deadline.as_secs(),
        "stopping: no new connections, requests in flight may finish; a second signal exits at once"
    );
    let ending = tokio::select! {
        ending = running.shutdown() => ending,
        () = signals.next() => ServerEnding::CutOff,
    };
    // Of requests that ended since the jobs did.
    if let Some(pulls) = pulls {
        pulls.write_last().await;
    }
    tracing::info!(whole = ending == ServerEnding::Whole, "stopped");
    Ok(ending)
}

/// A registry without authentication listens on loopback only, unless the operator insists; one that
/// does is better asked over TLS.
fn warn_if_open(settings: &Settings) -> Result<(), StartError> {
    let address = settings.listen;
    if address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    if settings.requires_authentication() {
        if !settings.has_tls() && settings.trusted_proxies.is_empty() {
            tracing::warn!(
                %address,
                "credentials cross the network unencrypted: set tls-cert and tls-key, acme-domains, or trusted-proxies if a reverse proxy terminates TLS (docs/tls.md)"
            );
        }
        return Ok(());
    }
    if !settings.insecure_open {
        return Err(StartError::Insecure { address });
    }
    tracing::warn!(%address, "insecure-open: every client that reaches this address may pull, push and delete");
    Ok(())
}

/// The signals that end the server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Logs where the registry listens and where it keeps everything.
pub fn log_start(settings: &Settings, address: std::net::SocketAddr) {
    let durability = match settings.durability {
        jreg_storage::Durability::Strict => "strict",
        jreg_storage::Durability::Relaxed => "relaxed",
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        %address,
        tls = settings.has_tls(),
        storage = %settings.storage,
        durability,
        "listening"
    );
}

/// What `jreg serve` says when it has started.
pub fn greeting(settings: &Settings, address: std::net::SocketAddr) -> String {
    let storage = match &settings.storage {
        StorageLocation::Memory => "memory: data is lost when it stops".to_owned(),
        StorageLocation::Folder(path) => format!("{} ({})", path.display(), durability(settings)),
        StorageLocation::Bucket(url) => url.to_string(),
    };
    // An address that means "every one here" is no address to push to, nor one that a certificate is
    // not for.
    let host = if let Some(name) = settings.acme_domains.first() {
        format!("{name}:{}", address.port())
    } else if address.ip().is_unspecified() {
        format!("127.0.0.1:{}", address.port())
    } else {
        address.to_string()
    };
    let scheme = if settings.has_tls() { "https" } else { "http" };
    format!(
        "jreg {} listens on {scheme}://{address}\n  storage  {storage}\n\n\
         Try it:\n  docker tag alpine {host}/alpine\n  docker push {host}/alpine\n",
        env!("CARGO_PKG_VERSION")
    )
}

fn durability(settings: &Settings) -> &'static str {
    match settings.durability {
        jreg_storage::Durability::Strict => "strict durability: survives a power failure",
        jreg_storage::Durability::Relaxed => "relaxed durability: survives a crash of jreg only",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_greeting_says_where_and_what_to_try() {
        let settings = Settings::default();
        let text = greeting(&settings, settings.listen);
        assert!(text.contains("listens on http://127.0.0.1:5000\n"), "{text}");
        assert!(text.contains("./jreg-data (strict durability"), "{text}");
        assert!(text.contains("docker tag alpine 127.0.0.1:5000/alpine\n"), "{text}");
        assert!(text.contains("docker push 127.0.0.1:5000/alpine\n"), "{text}");
    }

    #[test]
    fn the_greeting_says_that_memory_keeps_nothing_and_names_an_address_to_push_to() {
        let settings = Settings { storage: StorageLocation::Memory, ..Settings::default() };
        let text = greeting(&settings, "0.0.0.0:80".parse().unwrap());
        assert!(text.contains("data is lost"), "{text}");
        assert!(text.contains("listens on http://0.0.0.0:80\n"), "{text}");
        assert!(text.contains("docker push 127.0.0.1:80/alpine"), "{text}");
    }

    #[test]
    fn the_greeting_says_https_where_tls_is_spoken() {
        let tls_cert = Some("cert.pem".to_owned());
        let settings = Settings { tls_cert, ..Settings::default() };
        let text = greeting(&settings, settings.listen);
        assert!(text.contains("listens on https://127.0.0.1:5000\n"), "{text}");
        let acme_domains = vec!["registry.test".to_owned()];
        let settings = Settings { acme_domains, ..Settings::default() };
        let text = greeting(&settings, settings.listen);
        assert!(text.contains("listens on https://127.0.0.1:5000\n"), "{text}");
        assert!(text.contains("docker push registry.test:5000/alpine"), "{text}");
    }

    #[test]
    fn an_open_registry_is_for_this_machine() {
        let start = |listen: &str, change: fn(&mut Settings)| {
            let mut settings = Settings { listen: listen.parse().unwrap(), ..Settings::default() };
            change(&mut settings);
            warn_if_open(&settings)
        };
        for listen in ["127.0.0.1:0", "127.8.8.8:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            assert!(start(listen, |_| {}).is_ok(), "{listen}");
        }
        for listen in ["0.0.0.0:0", "[::]:0", "10.0.0.1:0"] {
            let refused = start(listen, |_| {}).unwrap_err().to_string();
            assert!(refused.contains("--insecure-open") && refused.contains(listen), "{refused}");
            assert!(start(listen, |settings| settings.insecure_open = true).is_ok());
            assert!(start(listen, |settings| settings.authentication = true).is_ok());
        }
    }
}
