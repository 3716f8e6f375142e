//! Tests of connections, with a handler of their own.
#![allow(clippy::unwrap_used)]

mod abuse;

use std::collections::VecDeque;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::testing::handler;
use super::*;

/// More than the socket buffers of a client that does not read.
const LARGE_BYTES: usize = 64 * 1024 * 1024;

/// Events that the handler reports.
struct HandlerEvents {
    /// A request of `/held` has begun.
    held: mpsc::Receiver<()>,
    /// The request body of `/endless` was dropped.
    dropped: mpsc::Receiver<()>,
}

struct Fixture {
    running: RunningServer,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    /// Cancelled: `/held` responds.
    release: CancellationToken,
    events: HandlerEvents,
}

fn options() -> ServerOptions {
    ServerOptions { shutdown_deadline: Duration::from_secs(30), ..ServerOptions::default() }
}

/// Sends when it is dropped.
struct SendOnDrop(mpsc::Sender<()>);

impl Drop for SendOnDrop {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

fn routes(release: CancellationToken) -> (Arc<dyn RequestHandler>, HandlerEvents) {
    let (held_sender, held) = mpsc::channel(8);
    let (dropped_sender, dropped) = mpsc::channel(8);
    let endless = move || {
        let farewell = SendOnDrop(dropped_sender.clone());
        let bytes = stream::repeat(Bytes::from(vec![0; 65_536])).map(move |bytes| {
            let _ = &farewell;
            Ok::<_, std::io::Error>(bytes)
        });
        Body::from_stream(bytes)
    };
    let handler = handler(move |request| {
        let body = match request.uri().path() {
            "/" => Body::from("here"),
            "/held" => Body::from("released"),
            "/large" => Body::from(vec![0; LARGE_BYTES]),
            "/endless" => endless(),
            path => panic!("{path}"),
        };
        let is_held = request.uri().path() == "/held";
        let (held_sender, release) = (held_sender.clone(), release.clone());
        async move {
            if is_held {
                held_sender.try_send(()).unwrap();
                release.cancelled().await;
            }
            Response::new(body)
        }
    });
    (handler, HandlerEvents { held, dropped })
}

fn start_with<A: Acceptor>(
    options: ServerOptions,
    acceptor: impl FnOnce(TcpListener) -> A,
) -> Fixture {
    let release = CancellationToken::new();
    let (handler, events) = routes(release.clone());
    let metrics = Arc::new(Metrics::new());
    let tasks = TaskTracker::new();
    let parts = ServerParts {
        handler,
        tls: None,
        metrics: Arc::clone(&metrics),
        tasks: tasks.clone(),
        stopping: CancellationToken::new(),
    };
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let running = serve(acceptor(listener), address, parts, options);
    Fixture { running, metrics, tasks, release, events }
}

fn start_handler(options: ServerOptions, handler: Arc<dyn RequestHandler>) -> RunningServer {
    let parts = ServerParts {
        handler,
        tls: None,
        metrics: Arc::new(Metrics::new()),
        tasks: TaskTracker::new(),
        stopping: CancellationToken::new(),
    };
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    serve(listener, address, parts, options)
}

fn start(options: ServerOptions) -> Fixture {
    start_with(options, |listener| listener)
}

impl Fixture {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.running.local_addr()).await.unwrap()
    }

    async fn get(&self, path: &str) -> String {
        let mut stream = self.connect().await;
        ask(&mut stream, path, "connection: close\r\n").await;
        read_all(&mut stream).await
    }

    /// Starts a shutdown in a task.
    async fn shut_down(self) -> JoinHandle<ServerEnding> {
        let stopping = self.running.shared.parts.stopping.clone();
        let ending = tokio::spawn(self.running.shutdown());
        stopping.cancelled().await;
        ending
    }
}

async fn ask(stream: &mut TcpStream, path: &str, headers: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    String::from_utf8(response).unwrap()
}

/// Reads until the response of `/`, `/held` or the like is complete, and leaves the connection
/// open.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut response = String::new();
    let mut buffer = [0; 1024];
    while !response.ends_with(end) {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "closed after {response:?}");
        response.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    response
}

/// Responds with the number of its connection; 0: with none.
#[derive(Debug, Default)]
struct NumberingHandler {
    opened: Arc<std::sync::atomic::AtomicUsize>,
    number: usize,
}

impl RequestHandler for NumberingHandler {
    fn handle(&self, _: Request) -> ResponseFuture {
        let body = Body::from(format!("number {}", self.number));
        Box::pin(async move { Response::new(body) })
    }

    fn for_connection(&self) -> Option<Arc<dyn RequestHandler>> {
        let opened = Arc::clone(&self.opened);
        let number = opened.fetch_add(1, Ordering::Relaxed) + 1;
        Some(Arc::new(Self { opened, number }))
    }
}

#[tokio::test]
async fn each_connection_has_a_handler_of_its_own() {
    let server = start_handler(options(), Arc::new(NumberingHandler::default()));
    let address = server.local_addr();
    for number in 1..3 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..2 {
            ask(&mut stream, "/", "").await;
            read_until(&mut stream, &format!("number {number}")).await;
        }
    }
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        let request = http::Request::get("http://test/").body(Empty::<Bytes>::new()).unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "number 3");
    }
}

#[tokio::test]
async fn requests_get_responses_until_the_server_is_dropped() {
    let server = start(options());
    assert!(server.get("/").await.starts_with("HTTP/1.1 200 OK\r\n"));
    let address = server.running.local_addr();
    let mut open = server.connect().await;
    ask(&mut open, "/", "").await;
    read_until(&mut open, "here").await;
    drop(server);
    assert_eq!(open.read(&mut [0; 1]).await.unwrap_or(0), 0, "the connection is closed");
    // The listener is closed when its task next runs.
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn http_2_is_spoken_to_those_who_begin_with_it() {
    let server = start(options());
    let io = TokioIo::new(server.connect().await);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = http::Request::get("http://test/").body(Empty::<Bytes>::new()).unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.version(), http::Version::HTTP_2);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "here");
    }
}

#[tokio::test]
async fn one_connection_too_many_is_told_to_try_again() {
    check_one_at_a_time(ServerOptions { connections_max: 1, ..options() }).await;
}

/// Tests a server that allows one connection per address.
async fn check_one_at_a_time(options: ServerOptions) {
    let server = start(options);
    let mut first = server.connect().await;
    ask(&mut first, "/", "").await;
    read_until(&mut first, "here").await;
    let refusal = server.get("/").await;
    assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
    assert!(refusal.contains("\r\nretry-after: 5\r\n"), "{refusal}");
    let body = refusal.split_once("\r\n\r\n").unwrap().1;
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["errors"][0]["code"], "UNAVAILABLE");
    assert_eq!(server.metrics.connections_refused.get(), 1);
    // The first connection is still served; when it is closed, another is accepted.
    ask(&mut first, "/", "connection: close\r\n").await;
    assert!(read_all(&mut first).await.ends_with("here"));
    while !server.get("/").await.starts_with("HTTP/1.1 200 ") {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_silent_client_delays_no_other() {
    let server = start(options());
    let _silent = server.connect().await;
    let mut stalled = server.connect().await;
    stalled.write_all(b"GET / HT").await.unwrap();
    assert!(server.get("/").await.ends_with("here"));
}

/// An acceptor that fails once.
struct FailingAcceptor {
    errors: VecDeque<io::Error>,
    listener: TcpListener,
}

#[async_trait]
impl Acceptor for FailingAcceptor {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        match self.errors.pop_front() {
            Some(error) => Err(error),
            None => self.listener.accept().await,
        }
    }
}

#[tokio::test]
async fn fixed_too_many_open_files_do_not_end_the_listener() {
    const EMFILE: i32 = 24;
    let errors = [
        io::Error::from_raw_os_error(EMFILE),
        io::Error::from(io::ErrorKind::ConnectionAborted),
        io::Error::from_raw_os_error(EMFILE),
    ];
    let errors = VecDeque::from(errors);
    let server = start_with(options(), |listener| FailingAcceptor { errors, listener });
    assert!(server.get("/").await.ends_with("here"));
    assert_eq!(server.metrics.accept_errors.get(), 2, "an aborted connection is no error of ours");
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    let timeout = Duration::from_millis(100);
    let server = start(ServerOptions { header_read_timeout: timeout, ..options() });
    for beginning in ["", "GET / HT", "PRI * HTTP"] {
        let mut stream = server.connect().await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        // Closing with unread bytes may also reset the connection.
        let _ = stream.read_to_end(&mut response).await;
        assert!(!response.starts_with(b"HTTP/1.1 200"), "{beginning:?}");
    }
    let mut used = server.connect().await;
    ask(&mut used, "/", "").await;
    read_until(&mut used, "here").await;
    assert_eq!(used.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off() {
    let timeout = Duration::from_millis(100);
    let mut server = start(ServerOptions { write_stall_timeout: timeout, ..options() });
    let mut stream = server.connect().await;
    ask(&mut stream, "/endless", "").await;
    server.events.dropped.recv().await.unwrap();
    assert!(server.get("/").await.ends_with("here"));
}

#[tokio::test]
async fn an_http_2_client_that_takes_nothing_is_cut_off() {
    let timeout = Duration::from_millis(100);
    let mut server = start(ServerOptions { write_stall_timeout: timeout, ..options() });
    let io = TokioIo::new(server.connect().await);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://test/endless").body(Empty::<Bytes>::new()).unwrap();
    // The body is kept and not read: the stream's window fills, while PINGs are still acknowledged.
    let _unread = client.send_request(request).await.unwrap();
    server.events.dropped.recv().await.unwrap();
}

#[tokio::test]
async fn a_shutdown_lets_what_runs_finish() {
    let mut server = start(options());
    let mut busy = server.connect().await;
    ask(&mut busy, "/held", "").await;
    server.events.held.recv().await.unwrap();
    let mut idle = server.connect().await;
    ask(&mut idle, "/", "").await;
    read_until(&mut idle, "here").await;
    let (address, release) = (server.running.local_addr(), server.release.clone());
    let ending = server.shut_down().await;
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0, "an idle connection is closed at once");
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!ending.is_finished());
    release.cancel();
    assert!(read_all(&mut busy).await.ends_with("released"));
    assert_eq!(ending.await.unwrap(), ServerEnding::Whole);
}

/// A proxy connects, and the stop comes before its request.
#[tokio::test]
async fn fixed_the_first_request_of_a_connection_is_not_lost_in_a_shutdown() {
    for wait in [Duration::ZERO, Duration::from_millis(50)] {
        let server = start(options());
        let mut new = server.connect().await;
        let ending = server.shut_down().await;
        tokio::time::sleep(wait).await;
        ask(&mut new, "/", "").await;
        assert!(read_all(&mut new).await.ends_with("here"));
        assert_eq!(ending.await.unwrap(), ServerEnding::Whole);
    }
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_half_a_request() {
    let server = start(options());
    let mut half = server.connect().await;
    half.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
    assert!(server.get("/").await.ends_with("here"), "the server has had its turn");
    assert_eq!(server.shut_down().await.await.unwrap(), ServerEnding::Whole);
}

#[tokio::test]
async fn a_shutdown_waits_for_a_response_in_flight() {
    let server = start(options());
    let mut slow = server.connect().await;
    ask(&mut slow, "/large", "").await;
    let mut response = vec![0; 1024];
    slow.read_exact(&mut response).await.unwrap();
    let ending = server.shut_down().await;
    // Longer than the timeout of a stalled response.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!ending.is_finished());
    slow.read_to_end(&mut response).await.unwrap();
    assert!(response.len() > LARGE_BYTES);
    assert_eq!(ending.await.unwrap(), ServerEnding::Whole);
}

#[tokio::test]
async fn a_shutdown_waits_for_operations_whose_client_is_gone() {
    let server = start(options());
    let (tasks, release) = (server.tasks.clone(), CancellationToken::new());
    let held = release.clone();
    tasks.spawn(async move { held.cancelled().await });
    let ending = server.shut_down().await;
    tokio::task::yield_now().await;
    assert!(!ending.is_finished());
    release.cancel();
    assert_eq!(ending.await.unwrap(), ServerEnding::Whole);
}

#[tokio::test]
async fn a_shutdown_cuts_off_at_its_deadline() {
    let deadline = Duration::from_millis(50);
    let mut server = start(ServerOptions { shutdown_deadline: deadline, ..options() });
    let mut busy = server.connect().await;
    ask(&mut busy, "/held", "").await;
    server.events.held.recv().await.unwrap();
    assert_eq!(server.shut_down().await.await.unwrap(), ServerEnding::CutOff);
    assert_eq!(read_all(&mut busy).await, "");
}
