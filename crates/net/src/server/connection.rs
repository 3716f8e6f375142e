//! One connection: HTTP/1.1 or HTTP/2 as the client speaks it, watched from accept to close.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use jreg_profile::WorkName;
use jreg_telemetry::metrics::GaugeGuard;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::activity::{self, Activity, Overrun, Stall, WatchedIo};
use super::body::{Body, BodyFailure};
use super::files::FileQueue;
use super::request_memory::RequestMemory;
use super::sending::SendingIo;
use super::settings_frames::CountedIo;
use super::slots::{ResponseSlot, ResponseSlots};
use super::windows::{self, ReceiveWindow};
use super::{
    AuthorizedBefore, ConnectionResources, Peer, RequestHandler, ResponseFuture, Secured,
    ServerOptions, ServerShared, handshake,
};
use crate::tls;

/// How much of an HTTP/1.1 request is read ahead of its use, and how long its head may be.
const H1_BUFFER_BYTES_MAX: usize = 128 * 1024;
/// How much of one HTTP/2 response waits for its client, beside the piece that was read last.
const H2_SEND_BYTES_MAX: usize = 64 * 1024;
const H2_FRAME_BYTES_MAX: u32 = 64 * 1024;
/// The most of an HTTP/2 response that is given to the connection at once: it takes the whole of a
/// piece as soon as the client allows one byte of it.
const H2_PIECE_BYTES_MAX: usize = 64 * 1024;
/// Room for a request line with as many tags as one push may have.
const H2_HEADER_BYTES_MAX: u32 = 64 * 1024;
/// How many streams a client may reset before we have looked at them (CVE-2023-44487), and how many
/// we reset for its errors (CVE-2024-2758 and the like), until the connection is closed. Those that
/// were looked at count in [`activity::ABANDONED_MAX`].
const H2_RESETS_PENDING_MAX: usize = 20;
const H2_RESETS_FOR_ERRORS_MAX: usize = 1024;
/// How often an HTTP/2 client is asked whether it is still there, and how long it may take.
const H2_PING_INTERVAL: Duration = Duration::from_secs(30);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How much may wait in the kernel unsent before we stop handing it more. With more, a slow
/// client would look like one that takes nothing.
const UNSENT_BYTES_MAX: u32 = 256 * 1024;
/// How long a connection that is to close may go on without a request. An orderly one closes at
/// once; this ends half a request, and the rest of a body that was refused.
const FAREWELL_MAX: Duration = Duration::from_millis(500);
/// How often a connection is looked at.
const LOOK_LEAVING: Duration = Duration::from_millis(50);
const LOOK_MIN: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Makes connections of sockets.
#[derive(Clone, Debug)]
pub(super) struct ConnectionBuilder {
    /// With large windows,
    wide: auto::Builder<TokioExecutor>,
    /// and with small ones.
    narrow: auto::Builder<TokioExecutor>,
}

impl ConnectionBuilder {
    pub(super) fn new(options: &ServerOptions) -> Self {
        let wide = builder(options, windows::STREAM_BYTES, windows::CONNECTION_BYTES);
        Self { wide, narrow: builder(options, windows::BYTES_MIN, windows::BYTES_MIN) }
    }

    fn of(&self, window: &ReceiveWindow) -> &auto::Builder<TokioExecutor> {
        if window.is_large() { &self.wide } else { &self.narrow }
    }
}

fn builder(
    options: &ServerOptions,
    stream_window: u32,
    connection_window: u32,
) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_read_timeout)
        .max_buf_size(H1_BUFFER_BYTES_MAX)
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_send_buf_size(H2_SEND_BYTES_MAX)
        .max_frame_size(H2_FRAME_BYTES_MAX)
        .max_header_list_size(H2_HEADER_BYTES_MAX)
        .max_pending_accept_reset_streams(H2_RESETS_PENDING_MAX)
        .max_local_error_reset_streams(H2_RESETS_FOR_ERRORS_MAX)
        .max_concurrent_streams(options.h2_streams_max)
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT);
    builder
}

/// How long a stop waits for the first request of a connection.
const FIRST_REQUEST_WAIT: Duration = Duration::from_millis(500);

/// Serves a connection until it ends, is no longer wanted, or must be cut.
pub(super) async fn serve(shared: Arc<ServerShared>, stream: TcpStream, address: SocketAddr) {
    let _raised = GaugeGuard::new(&shared.parts.metrics.connections);
    if let Err(error) = tune(&stream) {
        tracing::debug!(client = %address, %error, "connection closed before it was served");
        return;
    }
    let authorized = AuthorizedBefore::default();
    let handler = &shared.parts.handler;
    let mut service = ConnectionService {
        handler: handler.for_connection().unwrap_or_else(|| Arc::clone(handler)),
        peer: Peer(address),
        secured: None,
        activity: Arc::default(),
        files: None,
        resources: Arc::new(ConnectionResources {
            slots: ResponseSlots::new(&shared.responses, shared.parts.metrics.budget("responses")),
            memory: RequestMemory::new(&shared.requests, shared.addresses.network(address.ip())),
            authorized: authorized.clone(),
        }),
    };
    let time_max = shared.options.header_read_timeout;
    let network = shared.addresses.network(address.ip());
    let window = |is_h2| {
        let metrics = &shared.parts.metrics;
        shared.windows.open(metrics, network, is_h2, authorized.clone())
    };
    let Some(tls) = &shared.parts.tls else {
        service.files = FileQueue::offered();
        let beginning = tokio::time::timeout(time_max, windows::begins_h2(&stream));
        let Some(Ok(is_h2)) = unless_stopped(&shared, beginning).await else {
            return;
        };
        let io = TokioIo::new(CountedIo::new(stream, &service.activity));
        let io = SendingIo { io, files: service.files.clone() };
        return attend(&shared, io, service, window(is_h2)).await;
    };
    let taking = handshake::take(tls, stream, address, time_max);
    let taking = jreg_profile::work(WorkName("TLS handshake", ""), taking);
    let Some(Some(stream)) = unless_stopped(&shared, taking).await else {
        return;
    };
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().and_then(<[_]>::first);
    service.secured = Some(Secured { certificate: shown.and_then(tls::holder).map(Arc::new) });
    let window = window(session.alpn_protocol() == Some(b"h2"));
    let io = TokioIo::new(CountedIo::new(stream, &service.activity));
    attend(&shared, io, service, window).await;
}

/// The beginning of a connection, unless it takes longer than a stop waits for a first request. A proxy that has
/// just connected has sent one, or is about to: closing the connection then loses it.
async fn unless_stopped<T>(shared: &ServerShared, beginning: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        begun = beginning => Some(begun),
        () = stop_after_wait(shared) => None,
    }
}

async fn stop_after_wait(shared: &ServerShared) {
    shared.parts.stopping.cancelled().await;
    tokio::time::sleep(FIRST_REQUEST_WAIT).await;
}

/// When an idle connection ends because the server stops: at once, if it had a request.
async fn stop_of_idle(shared: &ServerShared, activity: &Activity) {
    shared.parts.stopping.cancelled().await;
    if !activity.has_begun() {
        tokio::time::sleep(FIRST_REQUEST_WAIT).await;
    }
}

/// Serves a connection over which HTTP can be spoken.
async fn attend<T>(shared: &ServerShared, io: T, service: ConnectionService, window: ReceiveWindow)
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (Peer(address), activity) = (service.peer, Arc::clone(&service.activity));
    let io = WatchedIo { io, activity: Arc::clone(&activity) };
    let builder = shared.builder.of(&window);
    let connection = builder.serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut look = interval(look_interval(&shared.options));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stop = pin!(stop_of_idle(shared, &activity));
    let mut left = None;
    loop {
        let leaving = left.is_some();
        let leave = tokio::select! {
            // A request that has arrived goes before a stop.
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(client = %address, %error, "connection ended early");
                }
                return;
            }
            () = shared.cut.cancelled() => return,
            overrun = activity.overrun() => {
                let (reason, what) = match overrun {
                    Overrun::Resets => ("resets", "abandoned requests"),
                    Overrun::Settings => ("settings", "SETTINGS frames"),
                };
                shared.parts.metrics.count_cut(reason);
                tracing::debug!(client = %address, "connection closed: too many {what}");
                return;
            }
            () = stop.as_mut(), if !leaving => true,
            _ = look.tick() => match verdict(&activity, &shared.options, leaving) {
                _ if left.is_some_and(|left| window.is_overdue(left)) => {
                    shared.parts.metrics.count_cut("unauthorized");
                    tracing::debug!(client = %address, "connection closed: its receive windows are needed");
                    return;
                }
                ConnectionFate::Stay => window.is_reclaimable(&shared.windows, activity.idle()),
                ConnectionFate::Leave => true,
                ConnectionFate::Cut => {
                    shared.parts.metrics.count_cut("stalled");
                    tracing::debug!(client = %address, "connection closed: the client reads nothing");
                    return;
                }
            },
        };
        if leave && !leaving {
            left = Some(Instant::now());
            look = interval(LOOK_LEAVING);
            connection.as_mut().graceful_shutdown();
        }
    }
}

fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    Ok(())
}

fn look_interval(options: &ServerOptions) -> Duration {
    let shortest = options.header_read_timeout.min(options.write_stall_timeout);
    (shortest / 4).clamp(LOOK_MIN, LOOK_MAX)
}

/// What is to become of a connection.
enum ConnectionFate {
    Stay,
    /// Finish what runs, then close.
    Leave,
    Cut,
}

fn verdict(activity: &Activity, options: &ServerOptions, leaving: bool) -> ConnectionFate {
    match activity.stall(options.write_stall_timeout) {
        Stall::All => return ConnectionFate::Cut,
        // The others may finish; what stands still is cut then.
        Stall::Some => return ConnectionFate::Leave,
        Stall::None => {}
    }
    match activity.idle() {
        Some(time) if leaving && time >= FAREWELL_MAX => ConnectionFate::Cut,
        Some(time) if time >= options.header_read_timeout => ConnectionFate::Leave,
        Some(_) | None => ConnectionFate::Stay,
    }
}

/// Hands requests to the handler, with the peer beside them, and notes how they fare.
#[derive(Clone, Debug)]
struct ConnectionService {
    handler: Arc<dyn RequestHandler>,
    peer: Peer,
    /// Of a connection that is TLS.
    secured: Option<Secured>,
    activity: Arc<Activity>,
    /// Takes files for the connection, if it can send them.
    files: Option<Arc<FileQueue>>,
    resources: Arc<ConnectionResources>,
}

impl Service<Request<Incoming>> for ConnectionService {
    type Response = http::Response<NotedBody>;
    type Error = Infallible;
    type Future = ResponseStart;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let version = request.version();
        let noted = self.activity.begin(version);
        request.extensions_mut().insert(self.peer);
        if let Some(secured) = &self.secured {
            request.extensions_mut().insert(secured.clone());
        }
        // The frames of HTTP/2 copy and interleave what they carry.
        if version <= Version::HTTP_11
            && let Some(files) = &self.files
        {
            request.extensions_mut().insert(Arc::clone(files));
        }
        let resources = Arc::clone(&self.resources);
        request.extensions_mut().insert(Arc::clone(&resources));
        let response = self.handler.handle(request.map(Body::of_client));
        ResponseStart { response, noted: Some(noted), resources, version }
    }
}

/// A response on its way, which is noted when it begins.
struct ResponseStart {
    response: ResponseFuture,
    /// Until it has begun.
    noted: Option<activity::RequestNote>,
    resources: Arc<ConnectionResources>,
    version: Version,
}

impl Future for ResponseStart {
    type Output = Result<http::Response<NotedBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.response.as_mut().poll(task));
        let mut noted = self.noted.take();
        if let Some(noted) = &mut noted {
            noted.begin_response();
        }
        let taken = response.extensions().get::<Arc<ResponseSlot>>().cloned();
        let (resources, version) = (Arc::clone(&self.resources), self.version);
        Poll::Ready(Ok(
            response.map(|body| NotedBody::new(body, noted, resources, version).with(taken))
        ))
    }
}

/// A response's body that notes when bytes of it are taken, and when it is gone. One that is read
/// as it is sent is not read without a slot. Over HTTP/2 it is given piece by piece, and the request
/// is in flight, and has its slot, until its last piece was written: the connection drops a body with
/// its last frame, whatever the client takes of that.
struct NotedBody {
    body: Body,
    noted: Option<Arc<activity::RequestNote>>,
    resources: Arc<ConnectionResources>,
    slot: SlotState,
    /// What is left of a frame that is given in pieces.
    rest: Bytes,
    is_multiplexed: bool,
}

/// A piece of a response, which is in flight until the connection drops this.
struct Piece {
    bytes: Bytes,
    _noted: Option<Arc<activity::RequestNote>>,
    _slot: Option<Arc<ResponseSlot>>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// How a response stands with its slot.
enum SlotState {
    /// It needs none: its bytes are in memory, or the connection takes them from a file.
    Unneeded,
    Wanted,
    Awaited(Pin<Box<dyn Future<Output = Option<ResponseSlot>> + Send>>),
    Taken(Arc<ResponseSlot>),
}

impl NotedBody {
    fn new(
        body: Body,
        noted: Option<activity::RequestNote>,
        resources: Arc<ConnectionResources>,
        version: Version,
    ) -> Self {
        use http_body::Body as _;
        let is_read = body.size_hint().exact().is_none();
        let slot = if is_read { SlotState::Wanted } else { SlotState::Unneeded };
        let is_multiplexed = version > Version::HTTP_11;
        Self {
            body,
            noted: noted.map(Arc::new),
            resources,
            slot,
            rest: Bytes::new(),
            is_multiplexed,
        }
    }

    /// The same with the slot that was taken before the response began, if one was.
    fn with(mut self, taken: Option<Arc<ResponseSlot>>) -> Self {
        if let Some(slot) = taken {
            self.slot = SlotState::Taken(slot);
        }
        self
    }

    fn poll_body(
        &mut self,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        use http_body::Body as _;
        if self.rest.is_empty() {
            ready!(self.poll_slot(task));
            let frame = ready!(Pin::new(&mut self.body).poll_frame(task));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(bytes))) => self.rest = bytes,
                Some(Ok(Err(frame))) => return Poll::Ready(Some(Ok(frame))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(self.next_piece()))))
    }

    fn next_piece(&mut self) -> Bytes {
        if !self.is_multiplexed {
            return std::mem::take(&mut self.rest);
        }
        let bytes = self.rest.split_to(self.rest.len().min(H2_PIECE_BYTES_MAX));
        let slot = match &self.slot {
            SlotState::Taken(slot) => Some(Arc::clone(slot)),
            SlotState::Unneeded | SlotState::Wanted | SlotState::Awaited(_) => None,
        };
        Bytes::from_owner(Piece { bytes, _noted: self.noted.clone(), _slot: slot })
    }

    fn poll_slot(&mut self, task: &mut Context<'_>) -> Poll<()> {
        if matches!(self.slot, SlotState::Wanted) {
            self.slot = match self.resources.slots.try_take() {
                Some(slot) => SlotState::Taken(Arc::new(slot)),
                None => SlotState::Awaited(Box::pin(self.resources.slots.clone().take())),
            };
        }
        if let SlotState::Awaited(waiting) = &mut self.slot {
            let slot = ready!(waiting.as_mut().poll(task));
            let slot = slot.map(Arc::new);
            self.slot = slot.map_or(SlotState::Unneeded, SlotState::Taken);
        }
        Poll::Ready(())
    }
}

impl http_body::Body for NotedBody {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let frame = self.poll_body(task);
        match (&frame, &self.noted) {
            (Poll::Ready(_), Some(noted)) => noted.gave(),
            (Poll::Pending, Some(noted)) => noted.works(),
            (_, None) => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + rest);
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::{StreamExt, stream};
    use http_body_util::{BodyExt, Empty};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::server::AddressBudget;
    use crate::server::slots::EXTRA_MAX;
    use crate::server::testing::handler;

    /// The most that is read ahead for one response while its client takes nothing.
    const READ_AHEAD_BYTES_MAX: usize = 512 * 1024;
    /// The most that is read for one stream whose client takes nothing.
    const STREAM_BYTES_MAX: usize = 128 * 1024;
    const PIECE_BYTES_MAX: usize = 64 * 1024;
    /// What the network takes.
    const PIPE_BYTES: usize = 64 * 1024;
    const FRAME_BYTES: usize = 64 * 1024;
    const STEP_BYTES: usize = 300_000;
    const STEPS: usize = 20;
    /// More turns than all tasks need until every one of them waits.
    const TURNS: usize = 500;

    async fn settle() {
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
    }

    /// The client's end of a connection on which no response ends, and how many bytes of them were
    /// asked for.
    fn endless() -> (DuplexStream, Arc<AtomicUsize>) {
        endless_with(&Arc::new(Semaphore::new(1000)))
    }

    fn endless_with(shared: &Arc<Semaphore>) -> (DuplexStream, Arc<AtomicUsize>) {
        let pulled = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&pulled);
        let handler = handler(move |_| {
            let counted = Arc::clone(&counted);
            let frames = stream::repeat(Bytes::from(vec![0; FRAME_BYTES])).map(move |frame| {
                counted.fetch_add(frame.len(), Ordering::SeqCst);
                Ok::<_, std::io::Error>(frame)
            });
            async { http::Response::new(Body::from_stream(frames)) }
        });
        (connected(handler, shared).0, pulled)
    }

    fn resources(slots: &Arc<Semaphore>) -> Arc<ConnectionResources> {
        Arc::new(ConnectionResources {
            slots: ResponseSlots::new(slots, Default::default()),
            memory: RequestMemory::new(&AddressBudget::new(0, 0), None),
            authorized: AuthorizedBefore::default(),
        })
    }

    /// The client's end of a connection to a server with this handler.
    fn connected(
        handler: Arc<dyn RequestHandler>,
        shared: &Arc<Semaphore>,
    ) -> (DuplexStream, Arc<Activity>) {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let activity = Arc::new(Activity::default());
        let service = ConnectionService {
            handler,
            peer: Peer("127.0.0.1:1".parse().unwrap()),
            secured: None,
            activity: Arc::clone(&activity),
            files: None,
            resources: resources(shared),
        };
        let io = WatchedIo { io: TokioIo::new(far), activity: Arc::clone(&activity) };
        let builder = ConnectionBuilder::new(&ServerOptions::default());
        tokio::spawn(async move { builder.wide.serve_connection(io, service).await.ok() });
        (near, activity)
    }

    /// Begins so many requests over HTTP/2, with windows of one byte, and takes nothing.
    async fn stalled(client: DuplexStream, streams: usize) -> Vec<http::Response<Incoming>> {
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1)
            .handshake(TokioIo::new(client))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut responses = Vec::new();
        for _ in 0..streams {
            let request = Request::get("http://a/").body(Empty::<Bytes>::new()).unwrap();
            responses.push(sender.clone().send_request(request).await.unwrap());
        }
        settle().await;
        responses
    }

    /// docs/abuse.md, "Worst case per connection": 32 such connections had 2 GiB.
    #[tokio::test]
    async fn fixed_stalled_streams_of_a_connection_are_read_ahead_for_within_its_share() {
        let (client, pulled) = endless();
        let _responses = stalled(client, 250).await;
        let pulled = pulled.load(Ordering::SeqCst);
        assert!(pulled > 0 && pulled <= (1 + EXTRA_MAX) * STREAM_BYTES_MAX, "{pulled} bytes");
    }

    #[tokio::test]
    async fn stalled_streams_of_all_connections_are_read_ahead_for_within_what_they_share() {
        const CONNECTIONS: usize = 8;
        const SHARED: usize = 10;
        let shared = Arc::new(Semaphore::new(SHARED));
        let mut kept = Vec::new();
        let mut sum = 0;
        for _ in 0..CONNECTIONS {
            let (client, pulled) = endless_with(&shared);
            kept.push(stalled(client, 100).await);
            let pulled = pulled.load(Ordering::SeqCst);
            assert!(pulled > 0, "each connection has a slot");
            sum += pulled;
        }
        assert!(sum <= (CONNECTIONS + SHARED) * STREAM_BYTES_MAX, "{sum} bytes");
        drop(kept);
        settle().await;
        assert_eq!(shared.available_permits(), SHARED);
    }

    /// A response that is read was over once it was given to the connection, and its slot was free: 250
    /// blobs of 64 KiB stayed in memory for each connection, for as long as it had other requests.
    #[tokio::test]
    async fn fixed_last_piece_of_a_response_that_is_read_is_in_flight_and_has_its_slot() {
        const STREAMS: usize = 250;
        let read = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&read);
        let respond = move |_| {
            let counted = Arc::clone(&counted);
            let frames = stream::iter([Bytes::from(vec![7; FRAME_BYTES])]).map(move |frame| {
                counted.fetch_add(1, Ordering::SeqCst);
                Ok::<_, std::io::Error>(frame)
            });
            async { http::Response::new(Body::from_stream(frames)) }
        };
        let shared = Arc::new(Semaphore::new(STREAMS));
        let (client, activity) = connected(handler(respond), &shared);
        let responses = stalled(client, STREAMS).await;
        assert_eq!(read.load(Ordering::SeqCst), 1 + EXTRA_MAX);
        assert_eq!(activity.idle(), None);
        assert_ne!(activity.stall(Duration::ZERO), activity::Stall::None);
        drop(responses);
        settle().await;
        assert!(activity.idle().is_some() && shared.available_permits() == STREAMS);
    }

    /// A response in memory counted as ended once its client allowed one byte of it, and stayed for
    /// as long as the client sent other requests.
    #[tokio::test]
    async fn fixed_response_in_memory_is_in_flight_until_its_client_has_taken_it() {
        const STREAMS: usize = 20;
        for length in [2, PIECE_BYTES_MAX, STEP_BYTES] {
            let respond = move |_| async move { http::Response::new(Body::from(vec![7; length])) };
            let (client, activity) = connected(handler(respond), &Arc::new(Semaphore::new(1000)));
            let responses = stalled(client, STREAMS).await;
            assert_eq!(activity.idle(), None, "{length} bytes wait for their client");
            assert_eq!(activity.stall(Duration::ZERO), activity::Stall::All, "{length} bytes");
            drop(responses);
            settle().await;
            assert!(activity.idle().is_some(), "{length} bytes are given up");
        }
    }

    #[tokio::test]
    async fn what_one_response_gives_at_once_is_bounded() {
        let activity = Arc::new(Activity::default());
        let whole: Bytes = (0..=250u8).cycle().step_by(100).take(STEP_BYTES).collect();
        let request = activity.begin(Version::HTTP_2);
        let resources = resources(&Arc::new(Semaphore::new(0)));
        let body = Body::from(whole.clone());
        let mut body = NotedBody::new(body, Some(request), resources, Version::HTTP_2);
        let mut taken = Vec::new();
        while let Some(frame) = body.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE_BYTES_MAX, "{} bytes at once", piece.len());
            taken.extend_from_slice(&piece);
            let left = (whole.len() - taken.len()) as u64;
            assert_eq!(http_body::Body::size_hint(&body).exact(), Some(left));
            assert_eq!(http_body::Body::is_end_stream(&body), left == 0);
        }
        assert_eq!(taken, whole);
        drop(body);
        assert!(activity.idle().is_some());
    }

    fn is_bounded(pulled: &AtomicUsize, taken: usize) {
        let ahead = pulled.load(Ordering::SeqCst) - taken;
        assert!(ahead <= PIPE_BYTES + READ_AHEAD_BYTES_MAX, "{ahead} bytes after {taken}");
    }

    #[tokio::test]
    async fn a_slow_client_is_not_read_ahead_for_without_end() {
        let (mut client, pulled) = endless();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut taken = vec![0; STEP_BYTES];
        for step in 0..STEPS {
            settle().await;
            is_bounded(&pulled, step * STEP_BYTES);
            client.read_exact(&mut taken).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_slow_stream_is_not_read_ahead_for_without_end() {
        let (client, pulled) = endless();
        let window = u32::try_from(PIPE_BYTES).unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(window)
                .initial_connection_window_size(window)
                .handshake(TokioIo::new(client))
                .await
                .unwrap();
        tokio::spawn(connection);
        let request = Request::get("http://a/").body(Empty::<Bytes>::new()).unwrap();
        let mut response = sender.send_request(request).await.unwrap();
        let mut taken = 0;
        while taken < STEPS * STEP_BYTES {
            settle().await;
            is_bounded(&pulled, taken);
            taken += response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap().len();
        }
    }
}
