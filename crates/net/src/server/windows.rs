//! [`ReceiveWindows`]: which HTTP/2 connections have large receive windows.
//!
//! hyper sets the windows of a connection for good at its beginning, so that a client has them before it
//! has logged in. They are for connections that begin HTTP/2, not for those that say nothing; one address
//! has a quarter of them. Once there are no more, connections give theirs back that are idle, or have
//! had no authorized request: they get GOAWAY, and clients with something to send connect again.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jreg_telemetry::metrics::Metrics;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::AuthorizedBefore;
use super::address_budget::{AddressBudget, AddressReservation};
use super::addresses::Addresses;

/// What an HTTP/2 client may send on one stream, and over all, before we have read it. Small windows
/// would let one round trip limit the speed of an upload.
pub(super) const STREAM_BYTES: u32 = 1024 * 1024;
pub(super) const CONNECTION_BYTES: u32 = 2 * 1024 * 1024;
/// Both of the other connections: the least that HTTP/2 allows (RFC 9113 section 6.9.2).
pub(super) const BYTES_MIN: u32 = 65_535;
/// How long a connection may keep large windows that it does not need while others want them.
const KEPT_MAX: Duration = Duration::from_secs(1);
/// For how long they are wanted after a connection had to take small ones.
const WANTED_MAX: Duration = Duration::from_secs(15);
/// How long the requests of a connection that had no authorized one may take after its GOAWAY.
const FAREWELL_MAX: Duration = Duration::from_secs(10);
/// What HTTP/2 begins with and no HTTP/1.1 request does.
const PREFACE: &[u8] = b"PRI";

/// The large windows of all connections.
#[derive(Debug)]
pub(super) struct ReceiveWindows {
    budget: Arc<AddressBudget>,
    /// When a connection last had to take small windows because all large ones were taken.
    wanted: Mutex<Option<Instant>>,
}

/// The windows of one connection.
#[derive(Debug)]
pub(super) struct ReceiveWindow {
    taken: Option<LargeWindow>,
    since: Instant,
    pub(super) authorized: AuthorizedBefore,
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
        addresses: &Addresses,
        address: IpAddr,
        is_h2: bool,
    ) -> ReceiveWindow {
        let taken = is_h2.then(|| self.take(metrics, addresses, address)).flatten();
        ReceiveWindow { taken, since: Instant::now(), authorized: AuthorizedBefore::default() }
    }

    fn take(
        &self,
        metrics: &Arc<Metrics>,
        addresses: &Addresses,
        address: IpAddr,
    ) -> Option<LargeWindow> {
        let bytes = CONNECTION_BYTES.into();
        let Some(reservation) = self.budget.reserve(addresses.network(address), bytes) else {
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

    /// Whether the connection is to end so that others get its windows. `idle`: how long it has been
    /// without a request.
    pub(super) fn is_to_go(&self, windows: &ReceiveWindows, idle: Option<Duration>) -> bool {
        let unused = if self.authorized.get() { idle } else { Some(self.since.elapsed()) };
        self.is_large() && unused.is_some_and(|time| time >= KEPT_MAX) && windows.is_wanted()
    }

    /// Whether requests that are in flight, so long after the GOAWAY, need not be waited for.
    pub(super) fn is_overdue(&self, left: Instant) -> bool {
        self.is_large() && !self.authorized.get() && left.elapsed() >= FAREWELL_MAX
    }
}

/// Waits for the first bytes of a connection, and says whether they begin HTTP/2.
pub(super) async fn begins_h2(stream: &TcpStream) -> bool {
    let mut first = [0; PREFACE.len()];
    stream.peek(&mut first).await.is_ok_and(|count| count > 0) && first == PREFACE
}
