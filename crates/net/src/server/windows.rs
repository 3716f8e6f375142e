//! [`ReceiveWindows`]: which HTTP/2 connections have large receive windows.
//!
//! hyper fixes the windows of a connection when it starts, so a client has them before it is authenticated.
//! Only connections that begin HTTP/2 get large ones; one address may have a quarter of them. When none are
//! free, connections that are idle, or have had no authorized request, are closed with GOAWAY, which returns
//! theirs; clients with requests to send reconnect.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jreg_auth::Network;
use jreg_telemetry::metrics::Metrics;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::AuthorizedBefore;
use super::address_budget::{AddressBudget, AddressReservation};

/// Maximum bytes that a client may have sent on one stream, and on all of a connection, before they are
/// read. Small windows would limit the speed of an upload by the round-trip time.
pub(super) const STREAM_BYTES: u32 = 1024 * 1024;
pub(super) const CONNECTION_BYTES: u32 = 2 * 1024 * 1024;
/// Both windows of the other connections: the HTTP/2 default (RFC 9113 section 6.9.2).
pub(super) const BYTES_MIN: u32 = 65_535;
/// Maximum time that a connection may keep unused large windows while others need them.
const KEPT_MAX: Duration = Duration::from_secs(1);
/// How long large windows count as needed after a connection got small ones.
const WANTED_MAX: Duration = Duration::from_secs(15);
/// Maximum duration, after GOAWAY, of the requests of a connection without an authorized request.
const FAREWELL_MAX: Duration = Duration::from_secs(10);
/// The start of the HTTP/2 preface, with which no HTTP/1.1 request starts.
const PREFACE: &[u8] = b"PRI";

/// The large windows of all connections.
#[derive(Debug)]
pub(super) struct ReceiveWindows {
    budget: Arc<AddressBudget>,
    /// When a connection last got small windows because no large ones were free.
    wanted: Mutex<Option<Instant>>,
}

/// The windows of one connection.
#[derive(Debug)]
pub(super) struct ReceiveWindow {
    taken: Option<LargeWindow>,
    since: Instant,
    authorized: AuthorizedBefore,
}

/// Large windows, until this is dropped.
#[derive(Debug)]
struct LargeWindow {
    metrics: Arc<Metrics>,
    _reservation: AddressReservation,
}

impl Drop for LargeWindow {
    fn drop(&mut self) {
        self.metrics.h2_window_bytes.dec_by(CONNECTION_BYTES.into());
    }
}

impl ReceiveWindows {
    pub(super) fn new(bytes: u64) -> Self {
        let budget = AddressBudget::new(bytes, CONNECTION_BYTES.into());
        Self { budget, wanted: Mutex::default() }
    }

    /// Those of a connection that begins HTTP/2, or of another.
    pub(super) fn open(
        &self,
        metrics: &Arc<Metrics>,
        network: Option<Network>,
        is_h2: bool,
        authorized: AuthorizedBefore,
    ) -> ReceiveWindow {
        let taken = is_h2.then(|| self.take(metrics, network)).flatten();
        ReceiveWindow { taken, since: Instant::now(), authorized }
    }

    fn take(&self, metrics: &Arc<Metrics>, network: Option<Network>) -> Option<LargeWindow> {
        let bytes = CONNECTION_BYTES.into();
        let Some(reservation) = self.budget.reserve(network, bytes) else {
            metrics.h2_small_windows.inc();
            if self.budget.free_bytes() < bytes {
                *self.wanted() = Some(Instant::now());
            }
            return None;
        };
        metrics.h2_window_bytes.inc_by(CONNECTION_BYTES.into());
        Some(LargeWindow { metrics: Arc::clone(metrics), _reservation: reservation })
    }

    fn wanted(&self) -> MutexGuard<'_, Option<Instant>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_wanted(&self) -> bool {
        self.wanted().is_some_and(|since| since.elapsed() < WANTED_MAX)
    }
}

impl ReceiveWindow {
    pub(super) fn is_large(&self) -> bool {
        self.taken.is_some()
    }

    /// Whether to close the connection so that others get its windows. `idle`: how long it has been
    /// without a request.
    pub(super) fn is_reclaimable(&self, windows: &ReceiveWindows, idle: Option<Duration>) -> bool {
        let unused = if self.authorized.get() { idle } else { Some(self.since.elapsed()) };
        self.is_large() && unused.is_some_and(|time| time >= KEPT_MAX) && windows.is_wanted()
    }

    /// Whether to cut the connection although requests are in flight, so long after the GOAWAY.
    pub(super) fn is_overdue(&self, left: Instant) -> bool {
        self.is_large() && !self.authorized.get() && left.elapsed() >= FAREWELL_MAX
    }
}

/// Waits for the first bytes of a connection, and says whether they begin HTTP/2.
pub(super) async fn begins_h2(stream: &TcpStream) -> bool {
    let mut first = [0; PREFACE.len()];
    stream.peek(&mut first).await.is_ok_and(|count| count > 0) && first == PREFACE
}
