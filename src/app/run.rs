//! `jreg serve`: from the settings to a running server, and its end by signals.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use jreg_config::{Settings, StorageLocation};
use jreg_net::descriptors;
use jreg_net::server::{RunningServer, ServerEnding, listen};
use jreg_net::trace_export::TraceExporter;
use jreg_storage::FS_THREADS;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::announce::{check_exposure, warn_if_open};
use super::{App, RUNTIME_END_MAX};
use crate::error::StartError;
use crate::maintenance::socket::ControlSocket;
use crate::notify::ServiceManager;
use crate::store::open_store;

/// Maximum time to send the last traces.
const TRACE_FLUSH_MAX: Duration = Duration::from_secs(5);

/// Announces the address at which the registry listens.
pub(super) type Announcement = Box<dyn FnOnce(&Settings, SocketAddr)>;

/// What the caller does while the server runs.
pub struct ServeHooks {
    /// Is told where the registry listens.
    pub announce: Announcement,
    /// SIGHUP: reloads what can change without a restart.
    pub hang_up: Box<dyn Fn() + Send>,
    /// SIGUSR1.
    pub toggle_debug: Box<dyn Fn() + Send>,
}

/// Number of threads beside those of the folder: for the hashes of passwords, for files that are
/// looked at, and for bytes that are read ahead.
const OTHER_THREADS: usize = 16;

/// Maximum number of blocking calls under way. Each has a stack.
const BLOCKING_THREADS_MAX: usize = FS_THREADS + OTHER_THREADS;

/// `jreg serve`: serves until SIGTERM or SIGINT, then finishes what runs. A second signal ends
/// the process at once.
pub fn run(settings: Settings, hooks: ServeHooks) -> Result<ServerEnding, StartError> {
    descriptors::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()?;
    let ending = runtime.block_on(serve_until_signal(settings, hooks));
    runtime.shutdown_timeout(RUNTIME_END_MAX);
    ending
}

async fn serve_until_signal(
    settings: Settings,
    hooks: ServeHooks,
) -> Result<ServerEnding, StartError> {
    let mut signals = Signals::new()?;
    check_exposure(&settings)?;
    warn_if_open(&settings);
    let ServeHooks { announce, hang_up, toggle_debug } = hooks;
    // The addresses first: they are the cheapest to find taken.
    let listener = listen_at(settings.listen)?;
    let admin = settings.admin_listen.map(listen_at).transpose()?;
    let manager = ServiceManager::find();
    let mut app = Box::pin(manager.while_starting(open_app(&settings))).await?;
    let traces = app.take_exporter().map(TraceExport::spawn);
    let stopping = CancellationToken::new();
    app.follow_hangups(hang_up, &stopping)?;
    follow(SignalKind::user_defined1(), toggle_debug, &stopping)?;
    let admin = admin.map(|listener| app.serve_admin(listener)).transpose()?;
    let draining = app.draining();
    let pulls = app.jobs.pulls.clone();
    let running = app.serve(listener)?;
    announce(&settings, running.local_addr());
    manager.ready();
    signals.next().await;
    manager.stopping();
    draining.cancel();
    let ending = tokio::select! {
        ending = stop(running, &settings) => ending,
        () = signals.next() => ServerEnding::CutOff,
    };
    // Of requests that ended since the jobs did.
    if let Some(pulls) = pulls {
        pulls.write_last().await;
    }
    stopping.cancel();
    drop(admin);
    if let Some(traces) = traces {
        traces.flush().await;
    }
    tracing::info!(whole = ending == ServerEnding::Whole, "stopped");
    Ok(ending)
}

fn listen_at(address: SocketAddr) -> Result<TcpListener, StartError> {
    listen(address).map_err(|source| StartError::Listen { address, source })
}

/// Opens the store and everything on it.
async fn open_app(settings: &Settings) -> Result<App, StartError> {
    let store = open_store(settings).await?;
    let app = App::build(settings.clone(), store).await?;
    if let StorageLocation::Folder(path) = &settings.storage {
        app.metrics().set_folder(path.clone());
        if settings.read_only {
            return Ok(app);
        }
        match ControlSocket::open(path) {
            Ok(socket) => app.control(socket),
            // Some file systems have no sockets.
            Err(error) => tracing::warn!(
                error = jreg_storage::error_chain(&error),
                "cannot open the control socket: jreg gc, fsck and explain work only while the server is stopped"
            ),
        }
    }
    Ok(app)
}

/// Waits until load balancers have noticed that the server is not ready, then stops it.
async fn stop(running: RunningServer, settings: &Settings) -> ServerEnding {
    if !settings.shutdown_delay.is_zero() {
        tracing::info!(
            delay_s = settings.shutdown_delay.as_secs_f64(),
            "draining: not ready any more, connections are still accepted"
        );
        tokio::time::sleep(settings.shutdown_delay).await;
    }
    tracing::info!(
        deadline_s = settings.shutdown_deadline.as_secs(),
        "stopping: no new connections, requests in flight may finish; a second signal exits at once"
    );
    running.shutdown().await
}

/// The task that sends traces.
struct TraceExport {
    ending: CancellationToken,
    task: JoinHandle<()>,
}

impl TraceExport {
    fn spawn(exporter: TraceExporter) -> Self {
        let ending = CancellationToken::new();
        let task = tokio::spawn(exporter.run(ending.clone()));
        Self { ending, task }
    }

    /// Sends what is left.
    async fn flush(self) {
        self.ending.cancel();
        // The collector may not respond.
        let _ = tokio::time::timeout(TRACE_FLUSH_MAX, self.task).await;
    }
}

/// Calls `act` at each signal until `stopping`.
fn follow(
    kind: SignalKind,
    act: Box<dyn Fn() + Send>,
    stopping: &CancellationToken,
) -> io::Result<()> {
    let (mut signals, stopping) = (signal(kind)?, stopping.clone());
    tokio::spawn(async move {
        while stopping.run_until_cancelled(signals.recv()).await.flatten().is_some() {
            act();
        }
    });
    Ok(())
}

impl App {
    /// Calls `hang_up` at each SIGHUP, and opens the audit log again, if it is a file.
    fn follow_hangups(
        &self,
        hang_up: Box<dyn Fn() + Send>,
        stopping: &CancellationToken,
    ) -> io::Result<()> {
        let audit = self.context.audit.clone();
        let (mut hangups, stopping) = (signal(SignalKind::hangup())?, stopping.clone());
        tokio::spawn(async move {
            while stopping.run_until_cancelled(hangups.recv()).await.flatten().is_some() {
                hang_up();
                if audit.is_file() {
                    audit.reopen().await;
                }
            }
        });
        Ok(())
    }
}

/// The signals that end the server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        // With a handler a write beyond the limit of file sizes (RLIMIT_FSIZE) fails; without one it ends the process.
        let _ = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
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
