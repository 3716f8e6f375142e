//! The server: connections in, requests to the router, and an orderly end.
//!
//! - Accepting never waits for a connection: each has a task of its own, one too many is told so
//!   and closed, and an error of `accept` (too many open files) is waited out.
//! - No connection stays for nothing: one without a request, or whose client takes nothing of
//!   its answers, is closed. There is no limit on the whole time of a request.
//! - A stop finishes what runs: no new connections, no new requests on the old ones, and only
//!   what is still running at the deadline is cut off.

mod activity;
mod addresses;
mod connection;
mod handshake;
mod refusal;
mod sending;
mod windows;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::Router;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Settings;
use crate::http::Api;
use crate::http::memory;
use crate::limits::Shares;
use crate::limits::descriptors::{self, Allowance};
use crate::metrics::Metrics;
use crate::tls::Tls;

use addresses::Addresses;
use windows::Windows;

/// How many connections the system keeps for us until they are accepted.
const BACKLOG: u32 = 4096;
/// The shortest and longest wait after `accept` failed.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The share of all connections that one address may have, unless the settings say otherwise.
const PER_ADDRESS_SHARE: usize = 4;
/// It may have at least so many: browsers and build tools open dozens at once.
const PER_ADDRESS_MIN: usize = 64;

/// What an operator can set about connections.
#[derive(Clone, Debug)]
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
    /// How long a client may take nothing of an answer.
    pub write_stall_timeout: Duration,
    /// When a refused client should try again.
    pub retry_after: Duration,
    /// How long running requests may take to finish.
    pub shutdown_deadline: Duration,
}

impl ServerOptions {
    /// What the settings say of connections, as far as this process's file descriptors allow it.
    pub fn of(settings: &Settings) -> Self {
        let allowance = Allowance::of(descriptors::limit());
        let connections_max = settings.connections_max.min(allowance.connections);
        let per_address = settings.connections_per_address_max;
        Self {
            connections_max,
            connections_per_address_max: per_address
                .unwrap_or_else(|| (connections_max / PER_ADDRESS_SHARE).max(PER_ADDRESS_MIN)),
            h2_window_bytes: settings.h2_window_bytes,
            responses_max: allowance.responses,
            trusted_proxies: settings.trusted_proxies.clone(),
            h2_streams_max: settings.h2_streams_max,
            header_read_timeout: settings.header_read_timeout,
            write_stall_timeout: settings.write_stall_timeout,
            retry_after: settings.retry_after,
            shutdown_deadline: settings.shutdown_deadline,
        }
    }
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
pub struct Parts {
    /// Answers the requests,
    pub router: Router,
    /// but those that this can answer.
    pub api: Option<Api>,
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
struct Shared {
    parts: Parts,
    options: ServerOptions,
    builder: connection::Builder,
    slots: Arc<Semaphore>,
    windows: Windows,
    /// Slots of responses that all connections share.
    responses: Arc<Semaphore>,
    /// Memory that the requests of all connections share.
    requests: Arc<Shares>,
    addresses: Arc<Addresses>,
    refusals: Arc<Semaphore>,
    /// The last connection was refused.
    full: AtomicBool,
    connections: TaskTracker,
    /// Cancelled when connections must end at once.
    cut: CancellationToken,
}

/// A server that runs. Dropping it cuts everything off; [`Running::shutdown`] is the orderly way.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything that ran has finished.
    Whole,
    /// The deadline came first, and what still ran was cut off.
    CutOff,
}

/// Serves connections until the returned value is shut down or dropped.
pub fn serve(
    acceptor: impl Acceptor,
    address: SocketAddr,
    parts: Parts,
    options: ServerOptions,
) -> Running {
    let shared = Arc::new(Shared {
        builder: connection::Builder::new(&options),
        slots: Arc::new(Semaphore::new(options.connections_max)),
        windows: Windows::new(options.h2_window_bytes),
        responses: Arc::new(Semaphore::new(options.responses_max)),
        requests: memory::of_requests(),
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
    Running { address, shared }
}

impl Running {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, lets what runs finish until the deadline, and cuts off the rest.
    pub async fn shutdown(self) -> Ending {
        let shared = &self.shared;
        shared.parts.stopping.cancel();
        shared.connections.close();
        shared.parts.tasks.close();
        let all = async {
            shared.connections.wait().await;
            shared.parts.tasks.wait().await;
        };
        match tokio::time::timeout(shared.options.shutdown_deadline, all).await {
            Ok(()) => Ending::Whole,
            Err(_) => {
                shared.cut.cancel();
                shared.connections.wait().await;
                Ending::CutOff
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.parts.stopping.cancel();
        self.shared.cut.cancel();
    }
}

async fn accept_loop(mut acceptor: impl Acceptor, shared: Arc<Shared>) {
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
                tracing::error!(%error, wait_ms, "cannot accept a connection, will try again");
                stopping.run_until_cancelled(tokio::time::sleep(backoff)).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
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

fn take(shared: &Arc<Shared>, stream: TcpStream, address: SocketAddr) {
    let Some(place) = shared.addresses.take(address.ip()) else {
        shared.addresses.notice_refusal(address.ip(), Instant::now());
        refuse(shared, stream);
        return;
    };
    match Arc::clone(&shared.slots).try_acquire_owned() {
        Ok(slot) => {
            shared.full.store(false, Ordering::Relaxed);
            let serving = connection::serve(Arc::clone(shared), stream, address);
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

fn refuse(shared: &Arc<Shared>, stream: TcpStream) {
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
mod tests;
