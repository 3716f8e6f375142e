//! The server: connections in, requests to a [`RequestHandler`], and an orderly end.
//!
//! - Accepting never waits for a connection: each has a task of its own, one too many is told so
//!   and closed, and an error of `accept` (too many open files) is waited out.
//! - No connection stays for nothing: one without a request, or whose client takes nothing of
//!   its response, is closed. There is no limit on the whole time of a request.
//! - A stop finishes what runs: no new connections, no new requests on the old ones, and only
//!   what is still running at the deadline is cut off.

mod activity;
mod address_budget;
mod addresses;
mod body;
mod connection;
pub mod files;
mod handshake;
mod refusal;
mod request_memory;
mod sending;
mod settings_frames;
pub mod slots;
mod windows;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ipnet::IpNet;
use jreg_auth::ClientCertificate;
use jreg_profile::{WorkName, work};
use jreg_telemetry::metrics::Metrics;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::descriptors::Allowance;
use crate::tls::Tls;

pub use address_budget::{AddressBudget, AddressReservation};
use addresses::Addresses;
pub use body::{Body, BodyFailure};
pub use request_memory::{HeldMemory, OWN_BYTES, READS_MAX, RequestMemory};
use windows::ReceiveWindows;

/// How many connections the system keeps for us until they are accepted.
const BACKLOG: u32 = 4096;
/// The shortest and longest wait after `accept` failed.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long a stop waits for the next connection that the system has accepted, and for all of them.
const WAITING_MAX: Duration = Duration::from_millis(10);
const WAITING_TOTAL_MAX: Duration = Duration::from_millis(100);

/// The share of all connections that one address may have, unless the settings say otherwise.
const PER_ADDRESS_SHARE: usize = 4;
/// It may have at least so many: browsers and build tools open dozens at once.
const PER_ADDRESS_MIN: usize = 64;

/// A request as the server hands it on.
pub type Request = http::Request<Body>;
/// The response to one.
pub type Response = http::Response<Body>;
/// A response that is being made.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Responds to requests.
pub trait RequestHandler: fmt::Debug + Send + Sync + 'static {
    /// Begins to respond to one.
    fn handle(&self, request: Request) -> ResponseFuture;

    /// A handler for the requests of one new connection, which may keep what they share. `None`: this
    /// one.
    fn for_connection(&self) -> Option<Arc<dyn RequestHandler>> {
        None
    }
}

/// The other end of a request's connection. The server puts it among the request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// A request's connection is TLS. The server puts it among the request's extensions.
#[derive(Clone, Debug)]
pub struct Secured {
    /// The client's certificate, if it has one with an identity.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// Whether a connection has had an authorized request.
#[derive(Clone, Debug, Default)]
pub struct AuthorizedBefore(Arc<AtomicBool>);

impl AuthorizedBefore {
    /// A request of the connection was authorized.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the requests of one connection share. The server puts it among the extensions of its requests, in
/// one piece: each extension costs every request an allocation.
#[derive(Debug)]
pub struct ConnectionResources {
    /// Slots of responses that read from the store.
    pub slots: slots::ResponseSlots,
    /// Memory of heads, forms and in-memory responses.
    pub memory: RequestMemory,
    /// Set by the handler when a request was authorized.
    pub authorized: AuthorizedBefore,
}

/// What an operator can set about connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// The most connections.
    pub connections_max: usize,
    /// The most connections from one address; 0: no limit but that.
    pub connections_per_address_max: usize,
    /// Whose connections are those of many clients, and are not limited by address.
    pub trusted_proxies: Vec<IpNet>,
    /// The most requests at the same time on one HTTP/2 connection.
    pub h2_streams_max: u32,
    /// The most bytes that HTTP/2 clients may have sent that are not read yet, beside the least that
    /// each connection may.
    pub h2_window_bytes: u64,
    /// The most responses that read from the store at the same time, beside one for each connection.
    pub responses_max: usize,
    /// How long a connection may be without a request, and the head of one, or a TLS handshake, may
    /// take.
    pub header_read_timeout: Duration,
    /// How long a client may take nothing of a response.
    pub write_stall_timeout: Duration,
    /// When a refused client should try again.
    pub retry_after: Duration,
    /// How long running requests may take to finish.
    pub shutdown_deadline: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            connections_per_address_max: per_address(4096),
            trusted_proxies: Vec::new(),
            h2_streams_max: 256,
            h2_window_bytes: 128 << 20,
            responses_max: 1024,
            header_read_timeout: Duration::from_secs(60),
            write_stall_timeout: Duration::from_secs(120),
            retry_after: Duration::from_secs(5),
            shutdown_deadline: Duration::from_secs(30),
        }
    }
}

impl ServerOptions {
    /// The same as far as this process's file descriptors allow it.
    #[must_use]
    pub fn within(self, allowance: Allowance) -> Self {
        Self {
            connections_max: self.connections_max.min(allowance.connections),
            responses_max: allowance.responses,
            ..self
        }
    }

    /// The share of all connections that one address may have; of few, it may have some.
    #[must_use]
    pub fn with_usual_share(self) -> Self {
        Self { connections_per_address_max: per_address(self.connections_max), ..self }
    }
}

fn per_address(connections_max: usize) -> usize {
    (connections_max / PER_ADDRESS_SHARE).max(PER_ADDRESS_MIN)
}

/// Where connections come from. A listener; in tests also one that fails.
#[async_trait]
pub trait Acceptor: Send + 'static {
    /// The next connection. Dropping the future loses none.
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)>;
}

#[async_trait]
impl Acceptor for TcpListener {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }
}

/// Listens on an address. Port 0 takes any free one.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // So that a restart need not wait for the connections of the last run to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What the server works with.
#[derive(Clone, Debug)]
pub struct ServerParts {
    /// Responds to the requests.
    pub handler: Arc<dyn RequestHandler>,
    /// Makes the connections TLS.
    pub tls: Option<Arc<Tls>>,
    /// Counts connections.
    pub metrics: Arc<Metrics>,
    /// Operations that outlive their connection; a stop waits for them.
    pub tasks: TaskTracker,
    /// Cancelled when the server begins to stop.
    pub stopping: CancellationToken,
}

/// What the accept loop and the connections share.
#[derive(Debug)]
struct ServerShared {
    parts: ServerParts,
    options: ServerOptions,
    builder: connection::ConnectionBuilder,
    slots: Arc<Semaphore>,
    windows: ReceiveWindows,
    /// Slots of responses that all connections share.
    responses: Arc<Semaphore>,
    /// Memory that the requests of all connections share.
    requests: Arc<AddressBudget>,
    addresses: Arc<Addresses>,
    refusals: Arc<Semaphore>,
    /// The last connection was refused.
    full: AtomicBool,
    connections: TaskTracker,
    /// Cancelled when connections must end at once.
    cut: CancellationToken,
}

/// A server that runs. Dropping it cuts everything off; [`RunningServer::shutdown`] is the orderly way.
#[derive(Debug)]
pub struct RunningServer {
    address: SocketAddr,
    shared: Arc<ServerShared>,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerEnding {
    /// Everything that ran has finished.
    Whole,
    /// The deadline came first, and what still ran was cut off.
    CutOff,
}

/// Serves connections until the returned value is shut down or dropped.
pub fn serve(
    acceptor: impl Acceptor,
    address: SocketAddr,
    parts: ServerParts,
    options: ServerOptions,
) -> RunningServer {
    let shared = Arc::new(ServerShared {
        builder: connection::ConnectionBuilder::new(&options),
        slots: Arc::new(Semaphore::new(options.connections_max)),
        windows: ReceiveWindows::new(options.h2_window_bytes),
        responses: Arc::new(Semaphore::new(options.responses_max)),
        requests: request_memory::requests_budget(),
        addresses: Addresses::new(
            options.connections_per_address_max,
            options.trusted_proxies.clone(),
        ),
        refusals: Arc::new(Semaphore::new(refusal::AT_ONCE_MAX)),
        full: AtomicBool::new(false),
        connections: TaskTracker::new(),
        cut: CancellationToken::new(),
        parts,
        options,
    });
    shared.connections.spawn(accept_loop(acceptor, Arc::clone(&shared)));
    RunningServer { address, shared }
}

impl RunningServer {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, lets what runs finish until the deadline, and cuts off the rest.
    pub async fn shutdown(self) -> ServerEnding {
        let shared = &self.shared;
        shared.parts.stopping.cancel();
        shared.connections.close();
        shared.parts.tasks.close();
        let all = async {
            shared.connections.wait().await;
            shared.parts.tasks.wait().await;
        };
        match tokio::time::timeout(shared.options.shutdown_deadline, all).await {
            Ok(()) => ServerEnding::Whole,
            Err(_) => {
                shared.cut.cancel();
                shared.connections.wait().await;
                ServerEnding::CutOff
            }
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.shared.parts.stopping.cancel();
        self.shared.cut.cancel();
    }
}

async fn accept_loop(mut acceptor: impl Acceptor, shared: Arc<ServerShared>) {
    let stopping = shared.parts.stopping.clone();
    let mut backoff = BACKOFF_MIN;
    while let Some(accepted) = stopping.run_until_cancelled(acceptor.accept()).await {
        match accepted {
            Ok((stream, address)) => {
                backoff = BACKOFF_MIN;
                take(&shared, stream, address);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                shared.parts.metrics.accept_errors.inc();
                let wait_ms = u64::try_from(backoff.as_millis()).unwrap_or(u64::MAX);
                tracing::error!(%error, wait_ms, "cannot accept a connection; retrying");
                stopping.run_until_cancelled(tokio::time::sleep(backoff)).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
    take_waiting(acceptor, &shared).await;
}

/// Takes the connections that the system has accepted already: closing the listener would reset them.
async fn take_waiting(mut acceptor: impl Acceptor, shared: &Arc<ServerShared>) {
    let until = Instant::now() + WAITING_TOTAL_MAX;
    while Instant::now() < until
        && let Ok(Ok((stream, address))) =
            tokio::time::timeout(WAITING_MAX, acceptor.accept()).await
    {
        take(shared, stream, address);
    }
}

/// Whether only the connection that would have been accepted is gone.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

fn take(shared: &Arc<ServerShared>, stream: TcpStream, address: SocketAddr) {
    let Some(place) = shared.addresses.take(address.ip()) else {
        shared.addresses.notice_refusal(address.ip(), Instant::now());
        refuse(shared, stream);
        return;
    };
    match Arc::clone(&shared.slots).try_acquire_owned() {
        Ok(slot) => {
            shared.full.store(false, Ordering::Relaxed);
            let serving = work(
                WorkName("connection", ""),
                connection::serve(Arc::clone(shared), stream, address),
            );
            shared.connections.spawn(async move {
                serving.await;
                drop((slot, place));
            });
        }
        Err(_) => {
            // Once until there is room again: the log must not cost more than the connections.
            if !shared.full.swap(true, Ordering::Relaxed) {
                let connections_max = shared.options.connections_max;
                tracing::warn!(connections_max, "connections are refused: too many are open");
            }
            refuse(shared, stream);
        }
    }
}

fn refuse(shared: &Arc<ServerShared>, stream: TcpStream) {
    shared.parts.metrics.connections_refused.inc();
    // Beyond these the connection is just closed: refusing must not cost much either.
    if let Ok(slot) = Arc::clone(&shared.refusals).try_acquire_owned() {
        let (tls, retry_after) = (shared.parts.tls.clone(), shared.options.retry_after);
        shared.connections.spawn(async move {
            refusal::refuse(stream, retry_after, tls.as_deref()).await;
            drop(slot);
        });
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
