//! The only wiring: settings become a store, a registry, a router and a server.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use jreg_registry::{Limits, Options, Registry, SECRET_FOLDERS};
use jreg_storage::{
    Clock, Coalesced, ErrorKind, FS_THREADS, FsOptions, FsStore, GATHER_MAX, Hedge, Hedged,
    Locality, MemoryStore, Metered, Observer, Store, SystemClock,
};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::acme::{Acme, AcmeError};
use crate::audit::{AuditError, AuditLog};
use crate::auth::{
    Authorizer, Fetch, FetchError, Gate, Guard, GuardError, HttpFetch, Open, Robots,
};
use crate::bucket::{self, BucketError};
use crate::config::{Settings, StorageLocation};
use crate::folder::{self, FolderContent, ForeignFolder};
use crate::http::{Api, Context, HttpOptions, memory, router};
use crate::jobs::{self, Collector, Reaper, Reloader, Renewer, Scrubber};
use crate::limits;
use crate::maintenance::socket::ControlSocket;
use crate::maintenance::{Workshop, check_options, collect_options};
use crate::metrics::Metrics;
use crate::server::{Ending, Parts, Running, ServerOptions, listen, serve};
use crate::tls::{Tls, TlsError};

/// How long work that nobody waits for any more may take after the server has stopped.
const RUNTIME_END_MAX: Duration = Duration::from_secs(1);

/// Why the registry cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bucket cannot be used.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The folder cannot be used.
    #[error(transparent)]
    Folder(#[from] jreg_storage::OpenError),
    /// The folder is another program's.
    #[error(transparent)]
    Foreign(#[from] ForeignFolder),
    /// The store cannot be used as a registry.
    #[error(transparent)]
    Registry(#[from] jreg_registry::OpenError),
    /// Clients cannot be asked who they are.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// TLS cannot be spoken.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No certificate can be asked for.
    #[error(transparent)]
    Acme(#[from] AcmeError),
    /// Decisions cannot be written down.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Everybody could reach it, and nobody would be asked who they are.
    #[error(
        "{address} can be reached from other machines, and nobody would be asked who they are: \
         give htpasswd or policy (docs/authentication.md), listen on 127.0.0.1, or accept that with \
         --insecure-open"
    )]
    Insecure {
        /// Where it would listen.
        address: std::net::SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The operating system refused what every server needs.
    #[error("cannot start")]
    System(#[from] io::Error),
}

/// A registry that is ready to serve.
#[derive(Debug)]
pub struct App {
    router: Router,
    context: Arc<Context>,
    jobs: Jobs,
    workshop: Workshop,
    server: ServerOptions,
    acme: Option<Arc<Acme>>,
}

impl App {
    /// A registry over `store`, whose clients are asked who they are if the settings say so.
    pub async fn build(settings: Settings, store: Arc<dyn Store>) -> Result<Self, StartError> {
        let fetch = match settings.policy {
            Some(_) => Arc::new(HttpFetch::new().map_err(GuardError::from)?) as Arc<dyn Fetch>,
            None => Arc::new(NoFetch),
        };
        Self::build_with(settings, store, Arc::new(SystemClock::new()), fetch).await
    }

    /// The same by another clock, and with another way to get the keys of issuers.
    pub async fn build_with(
        settings: Settings,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        fetch: Arc<dyn Fetch>,
    ) -> Result<Self, StartError> {
        Self::assemble(settings, store, clock, Keeper::Settings(fetch)).await
    }

    /// A registry over `store` whose rights are granted by `authorizer`.
    pub async fn build_guarded(
        settings: Settings,
        store: Arc<dyn Store>,
        authorizer: Arc<dyn Authorizer>,
    ) -> Result<Self, StartError> {
        let clock = Arc::new(SystemClock::new());
        Self::assemble(settings, store, clock, Keeper::Given(authorizer)).await
    }

    async fn assemble(
        settings: Settings,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        keeper: Keeper,
    ) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new());
        let is_shared = store.locality() == Locality::Shared;
        let store = surrounded(store, &settings, &metrics);
        let tls = open_tls(&settings, &store, &metrics).await?;
        let options = registry_options(&settings);
        let registry = Registry::open(Arc::clone(&store), Arc::clone(&clock), options).await?;
        let acme = open_acme(&settings, tls.as_ref(), &store, &clock, &metrics).await?;
        let robots = Arc::new(Robots::new(Arc::clone(&store), Arc::clone(&clock)));
        let limits = limits::Limits::new(&settings, Arc::clone(&clock), Arc::clone(&metrics));
        let (authorizer, guard) = match keeper {
            Keeper::Given(authorizer) => (authorizer, None),
            Keeper::Settings(_) if !settings.asks_who() => (Arc::new(Open) as _, None),
            Keeper::Settings(fetch) => {
                let counts = Arc::clone(&metrics);
                let guard =
                    Guard::open(&settings, store, clock, counts, fetch, Arc::clone(&robots));
                let guard = Arc::new(Box::pin(guard).await?);
                (Arc::clone(&guard) as Arc<dyn Authorizer>, Some(guard))
            }
        };
        let (chosen, counts) = (settings.clone(), Arc::clone(&metrics));
        let opening = tokio::task::spawn_blocking(move || AuditLog::open(&chosen, &counts));
        let audit = opening.await.map_err(io::Error::other)??;
        let jobs = Jobs::of(&registry, &metrics, &settings, &audit, is_shared);
        let reloader = Reloader::new(guard.clone(), tls.clone());
        let jobs = Jobs { reloader, renewer: acme.clone().map(Renewer), ..jobs };
        let workshop = Workshop {
            registry: registry.clone(),
            metrics: Arc::clone(&metrics),
            settings: Arc::new(settings.clone()),
            robots,
            audit: audit.clone(),
        };
        let server = ServerOptions::of(&settings);
        if server.connections_max < settings.connections_max {
            let (connections_max, descriptors) =
                (server.connections_max, limits::descriptors::limit());
            tracing::warn!(
                connections_max,
                descriptors,
                "connections-max is lowered: the limit of open files (RLIMIT_NOFILE) allows no more"
            );
        }
        let options = HttpOptions::of(&settings);
        let context = Arc::new(Context {
            gate: Gate::new(registry, authorizer),
            guard,
            tls,
            audit,
            limits,
            manifest_room: options.manifest_room(),
            response_memory: memory::of_responses(options.manifest_bytes_max),
            options,
            metrics,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            readiness: Default::default(),
        });
        let router = router(Arc::clone(&context));
        Ok(Self { router, context, jobs, workshop, server, acme })
    }

    /// Who keeps it, if clients are asked who they are.
    pub fn guard(&self) -> Option<&Arc<Guard>> {
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

    /// The router, for callers that bring their own server.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// The API without a way through the router.
    pub fn api(&self) -> Api {
        Api::new(Arc::clone(&self.context))
    }

    /// Does what comes through `socket`, too, once it serves.
    pub fn control(&self, socket: ControlSocket) {
        let Context { tasks, stopping, .. } = &*self.context;
        socket.serve(self.workshop.clone(), tasks, stopping.clone());
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
    pub fn serve(self, listener: TcpListener) -> io::Result<Running> {
        let address = listener.local_addr()?;
        let api = self.api();
        self.jobs.spawn(&self.context.tasks, &self.context.stopping);
        let parts = Parts {
            router: self.router,
            api: Some(api),
            tls: self.context.tls.clone(),
            metrics: Arc::clone(&self.context.metrics),
            tasks: self.context.tasks.clone(),
            stopping: self.context.stopping.clone(),
        };
        Ok(serve(listener, address, parts, self.server))
    }
}

/// What TLS is spoken with, if the settings say so.
async fn open_tls(
    settings: &Settings,
    store: &Arc<dyn Store>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<Tls>>, StartError> {
    let (settings, store, metrics) = (settings.clone(), Arc::clone(store), Arc::clone(metrics));
    let opening = tokio::task::spawn_blocking(move || Tls::open(&settings, store, metrics));
    Ok(opening.await.map_err(io::Error::other)??.map(Arc::new))
}

/// What gets the certificate, if the settings say so.
async fn open_acme(
    settings: &Settings,
    tls: Option<&Arc<Tls>>,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<Acme>>, AcmeError> {
    let Some(tls) = tls else { return Ok(None) };
    if !settings.acme_domains.is_empty() && settings.storage == StorageLocation::Memory {
        tracing::warn!(
            "each start asks for a certificate, as memory keeps none: authorities limit that"
        );
    }
    let (store, clock, metrics) = (Arc::clone(store), Arc::clone(clock), Arc::clone(metrics));
    let acme = Acme::open(settings, tls, store, clock, metrics).await?;
    Ok(acme.map(Arc::new))
}

/// Who says who may come in.
enum Keeper {
    Given(Arc<dyn Authorizer>),
    Settings(Arc<dyn Fetch>),
}

/// What fetches where nothing can be asked for: only a policy names addresses.
#[derive(Debug)]
struct NoFetch;

#[async_trait::async_trait]
impl Fetch for NoFetch {
    async fn fetch(&self, _: &str) -> Result<Vec<u8>, FetchError> {
        Err(FetchError::Status(0))
    }
}

/// What goes on beside the requests.
#[derive(Debug)]
struct Jobs {
    reaper: Reaper,
    collector: Option<Collector>,
    scrubber: Option<Scrubber>,
    reloader: Option<Reloader>,
    renewer: Option<Renewer>,
}

impl Jobs {
    fn of(
        registry: &Registry,
        metrics: &Arc<Metrics>,
        settings: &Settings,
        audit: &AuditLog,
        is_shared: bool,
    ) -> Self {
        let reaper = Reaper {
            registry: registry.clone(),
            metrics: Arc::clone(metrics),
            interval: settings.upload_reap_interval,
        };
        let collector = settings.gc_interval.map(|interval| Collector {
            registry: registry.clone(),
            metrics: Arc::clone(metrics),
            audit: audit.clone(),
            options: collect_options(settings),
            interval,
            holder: format!("process {}, {}", std::process::id(), Uuid::new_v4().simple()),
            is_shared,
        });
        let scrubber = settings.scrub_interval.map(|interval| Scrubber {
            registry: registry.clone(),
            metrics: Arc::clone(metrics),
            options: check_options(settings),
            interval,
        });
        Self { reaper, collector, scrubber, reloader: None, renewer: None }
    }

    fn spawn(self, tasks: &TaskTracker, stopping: &CancellationToken) {
        jobs::spawn(self.reaper, tasks, stopping.clone());
        if let Some(collector) = self.collector {
            jobs::spawn(collector, tasks, stopping.clone());
        }
        if let Some(scrubber) = self.scrubber {
            jobs::spawn(scrubber, tasks, stopping.clone());
        }
        if let Some(reloader) = self.reloader {
            jobs::spawn(reloader, tasks, stopping.clone());
        }
        if let Some(renewer) = self.renewer {
            jobs::spawn(renewer, tasks, stopping.clone());
        }
    }
}

/// A store with what is put around every one, and around those whose requests travel.
pub(crate) fn surrounded(
    store: Arc<dyn Store>,
    settings: &Settings,
    metrics: &Arc<Metrics>,
) -> Arc<dyn Store> {
    let observer = Arc::new(StoreMetrics(Arc::clone(metrics)));
    let mut store: Arc<dyn Store> = Arc::new(Metered::new(store, observer.clone()));
    if store.locality() == Locality::InProcess {
        return store;
    }
    if settings.s3_hedge_reads {
        store = Arc::new(Hedged::new(store, observer));
    }
    Arc::new(Coalesced::new(store, GATHER_MAX))
}

/// Counts the requests to the store.
#[derive(Debug)]
struct StoreMetrics(Arc<Metrics>);

impl Observer for StoreMetrics {
    fn observe(&self, operation: &'static str, duration: Duration, result: Result<(), ErrorKind>) {
        let outcome = result.map_or_else(outcome, |()| "ok");
        self.0.count_store_request(operation, outcome, duration);
    }

    fn hedge(&self, hedge: Hedge) {
        self.0.count_hedge(match hedge {
            Hedge::Won => "won",
            Hedge::Lost => "lost",
            Hedge::Withheld => "withheld",
        });
    }
}

fn outcome(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "not_found",
        ErrorKind::AlreadyExists => "already_exists",
        ErrorKind::Precondition => "precondition",
        ErrorKind::OutOfRange => "out_of_range",
        ErrorKind::TooLarge => "too_large",
        ErrorKind::Throttled => "throttled",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Refused => "refused",
        ErrorKind::Full => "full",
        _ => "other",
    }
}

pub(crate) fn registry_options(settings: &Settings) -> Options {
    Options {
        references: settings.references,
        manifest_media_types: settings.manifest_media_types.clone(),
        limits: Limits {
            manifest_bytes_max: settings.manifest_bytes_max,
            page_items_max: settings.page_items_max,
            upload_age_max: settings.upload_age_max,
            uploads_max: settings.uploads_max,
            upload_buffer_bytes: settings.upload_buffer_bytes,
            buffer_wait_max: settings.buffer_wait_max,
            part_bytes: settings.part_bytes,
            parts_in_flight: settings.parts_in_flight,
            wave_reads_max: settings.wave_reads_max,
            mount_candidates_max: settings.mount_candidates_max,
        },
        cache_bytes: settings.cache_bytes,
        cache_trust: settings.cache_trust,
    }
}

/// Number of threads beside those of the folder: for the hashes of passwords, for files that are
/// looked at, and for bytes that are read ahead.
const OTHER_THREADS: usize = 16;

/// Maximum number of blocking calls under way. Each has a stack.
const BLOCKING_THREADS_MAX: usize = FS_THREADS + OTHER_THREADS;

/// What part of `cache-bytes` the records of a folder may take, beside what is made of them.
const RECORDS_SHARE: u64 = 4;

/// How a folder is opened as the settings say.
pub(crate) fn folder_options(settings: &Settings) -> FsOptions {
    FsOptions {
        durability: settings.durability,
        cache_bytes: settings.cache_bytes / RECORDS_SHARE,
        private_folders: SECRET_FOLDERS,
        reserved_for: vec![jreg_registry::FREES_SPACE.to_owned()],
        ..FsOptions::default()
    }
}

/// Opens the place where the settings want everything to be kept.
async fn open_store(settings: &Settings) -> Result<Arc<dyn Store>, StartError> {
    let path = match &settings.storage {
        StorageLocation::Memory => return Ok(Arc::new(MemoryStore::new())),
        StorageLocation::Bucket(url) => {
            return Ok(bucket::open(settings, url, bucket::Access::Serve).await?);
        }
        StorageLocation::Folder(path) => path.clone(),
    };
    let options = folder_options(settings);
    let opening = tokio::task::spawn_blocking(move || open_folder(&path, options));
    let store = opening.await.map_err(io::Error::other)??;
    Ok(Arc::new(store))
}

/// Opens a folder, unless it is another program's.
fn open_folder(path: &Path, options: FsOptions) -> Result<FsStore, StartError> {
    // What cannot be read is told when it is opened, with what to do about it.
    if let Ok(FolderContent::Foreign(foreign)) = folder::look(path) {
        return Err(foreign.into());
    }
    Ok(FsStore::open(path, options)?)
}

/// `jreg serve`: serves until SIGTERM or SIGINT, then finishes what runs. A second signal ends
/// the process at once. `announce` is told where the registry listens.
pub fn run(
    settings: Settings,
    announce: impl FnOnce(&Settings, std::net::SocketAddr),
) -> Result<Ending, StartError> {
    limits::descriptors::raise_limit();
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
) -> Result<Ending, StartError> {
    let mut signals = Signals::new()?;
    warn_if_open(&settings)?;
    // The address first: it is the cheaper of the two to find taken.
    let address = settings.listen;
    let listener = listen(address).map_err(|source| StartError::Listen { address, source })?;
    let store = open_store(&settings).await?;
    let app = App::build(settings.clone(), store).await?;
    if let StorageLocation::Folder(path) = &settings.storage {
        match ControlSocket::open(path) {
            Ok(socket) => app.control(socket),
            // Some file systems have no sockets.
            Err(error) => tracing::warn!(
                error = crate::logging::chain(&error),
                "no control socket: jreg gc, fsck and explain need the folder to themselves"
            ),
        }
    }
    app.follow_hangups()?;
    let running = app.serve(listener)?;
    announce(&settings, running.local_addr());
    signals.next().await;
    tracing::info!(
        deadline_s = settings.shutdown_deadline.as_secs(),
        "stopping: no new connections, running requests may finish; a second signal ends at once"
    );
    let ending = tokio::select! {
        ending = running.shutdown() => ending,
        () = signals.next() => Ending::CutOff,
    };
    tracing::info!(whole = ending == Ending::Whole, "stopped");
    Ok(ending)
}

/// A registry that asks nobody who they are is for this machine, unless somebody insists; one that
/// does is better asked over TLS.
fn warn_if_open(settings: &Settings) -> Result<(), StartError> {
    let address = settings.listen;
    if address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    if settings.asks_who() {
        if !settings.speaks_tls() && settings.trusted_proxies.is_empty() {
            tracing::warn!(
                %address,
                "passwords and tokens come in as they are: give tls-cert and tls-key, acme-domains, \
                 or trusted-proxies if a proxy speaks TLS (docs/tls.md)"
            );
        }
        return Ok(());
    }
    if !settings.insecure_open {
        return Err(StartError::Insecure { address });
    }
    tracing::warn!(%address, "insecure-open: everybody who reaches this address may pull, push and delete");
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
        tls = settings.speaks_tls(),
        storage = %settings.storage,
        durability,
        "listening"
    );
}

/// What `jreg serve` says when it has started.
pub fn greeting(settings: &Settings, address: std::net::SocketAddr) -> String {
    let storage = match &settings.storage {
        StorageLocation::Memory => "memory: nothing is kept when it stops".to_owned(),
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
    let scheme = if settings.speaks_tls() { "https" } else { "http" };
    format!(
        "jreg {} listens on {scheme}://{address}\n  storage  {storage}\n\n\
         Try it:\n  docker tag alpine {host}/alpine\n  docker push {host}/alpine\n",
        env!("CARGO_PKG_VERSION")
    )
}

fn durability(settings: &Settings) -> &'static str {
    match settings.durability {
        jreg_storage::Durability::Strict => "strict durability: survives a power cut",
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
        assert!(text.contains("nothing is kept"), "{text}");
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

    /// What is around a store, outermost first.
    fn around(locality: Locality, change: impl FnOnce(&mut Settings)) -> Vec<String> {
        let mut settings = Settings::default();
        change(&mut settings);
        let store = Arc::new(MemoryStore::builder().locality(locality).build());
        let text = format!("{:?}", surrounded(store, &settings, &Arc::default()));
        let names = text.split(" { inner: ").map(|part| part.split(' ').next().unwrap_or_default());
        names.take_while(|name| *name != "MemoryStore").map(str::to_owned).collect()
    }

    #[test]
    fn reads_are_shared_and_hedged_where_requests_travel() {
        assert_eq!(around(Locality::InProcess, |_| {}), ["Metered"]);
        assert_eq!(around(Locality::Shared, |_| {}), ["Coalesced", "Hedged", "Metered"]);
        let off = |settings: &mut Settings| settings.s3_hedge_reads = false;
        assert_eq!(around(Locality::Shared, off), ["Coalesced", "Metered"]);
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

    #[test]
    fn the_default_settings_are_the_registrys_defaults() {
        assert_eq!(registry_options(&Settings::default()), Options::default());
    }
}
