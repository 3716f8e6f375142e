//! Clients that abuse a connection.

use super::super::activity::ABANDONED_MAX;
use super::*;

/// The HTTP/2 connection preface and settings (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// END_STREAM and END_HEADERS.
const WHOLE: u8 = 0x5;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// A server with an idle timeout longer than any test.
fn patient() -> ServerOptions {
    ServerOptions { header_read_timeout: Duration::from_secs(3600), ..options() }
}

/// A frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

impl Fixture {
    fn rendered_metrics(&self) -> String {
        self.metrics.render(
            jreg_telemetry::metrics::MetricsForm::OpenMetrics,
            &jreg_registry::RegistryUsage {
                upload_slots_free: 0,
                upload_buffer: Default::default(),
                cache_hits: 0,
                cache_misses: 0,
                damaged_records_replaced: 0,
                clock_difference: Duration::ZERO,
                reserved_bytes: None,
            },
        )
    }
}

/// A GET of a path (RFC 7541): indexed method and scheme, literal path and authority.
fn get_frame(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend(path.as_bytes());
    block.extend([0x01, 4]);
    block.extend(b"test");
    frame(HEADERS, WHOLE, stream, &block)
}

fn reset_frame(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL)
}

/// The ids of client-initiated streams.
fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

#[tokio::test]
async fn streams_that_are_reset_at_once_end_the_connection_and_no_other() {
    let server = start(patient());
    let mut other = server.connect().await;
    let mut stream = server.connect().await;
    stream.write_all(PREFACE).await.unwrap();
    let flood: Vec<u8> = streams()
        .take(5000)
        .flat_map(|id| [get_frame(id, "/"), reset_frame(id)].concat())
        .collect();
    // The connection may close before or after everything is written.
    let _ = stream.write_all(&flood).await;
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response).await;
    ask(&mut other, "/", "").await;
    read_until(&mut other, "here").await;
    assert!(server.get("/").await.ends_with("here"));
}

#[tokio::test]
async fn streams_that_are_given_up_after_they_were_taken_end_the_connection_and_no_other() {
    let mut server = start(patient());
    let mut other = server.connect().await;
    let mut stream = server.connect().await;
    stream.write_all(PREFACE).await.unwrap();
    let mut given_up = 0;
    for id in streams().take(ABANDONED_MAX * 2) {
        if stream.write_all(&get_frame(id, "/held")).await.is_err() {
            break;
        }
        // Either the request is served, or the connection is closed.
        let mut response = [0; 1024];
        let is_taken = loop {
            tokio::select! {
                biased;
                held = server.events.held.recv() => break held.is_some(),
                read = stream.read(&mut response) => if read.is_err() || read.is_ok_and(|n| n == 0) {
                    break false;
                },
            }
        };
        if !is_taken || stream.write_all(&reset_frame(id)).await.is_err() {
            break;
        }
        given_up += 1;
    }
    assert!((ABANDONED_MAX..ABANDONED_MAX * 2).contains(&given_up), "{given_up}");
    ask(&mut other, "/", "").await;
    read_until(&mut other, "here").await;
    let cut = server.rendered_metrics();
    assert!(cut.contains(r#"jreg_connections_cut_total{reason="resets"} 1"#), "{cut}");
}

fn settings_frame(window: u32) -> Vec<u8> {
    // SETTINGS_INITIAL_WINDOW_SIZE
    frame(4, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat())
}

/// Each changes the windows of all streams.
#[tokio::test]
async fn settings_without_end_end_the_connection_and_no_other() {
    let server = start(patient());
    let mut other = server.connect().await;
    let mut stream = server.connect().await;
    stream.write_all(PREFACE).await.unwrap();
    let held: Vec<u8> = streams().take(8).flat_map(|id| get_frame(id, "/held")).collect();
    stream.write_all(&held).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let flood = async {
        for window in (0..20_000).map(|n| 1 + n % 2) {
            if writing.write_all(&settings_frame(window).repeat(100)).await.is_err() {
                break;
            }
        }
    };
    let mut response = Vec::new();
    let read = reading.read_to_end(&mut response);
    let both = futures::future::join(flood, read);
    // The connection is closed, with or without an error.
    let _ = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    ask(&mut other, "/", "").await;
    read_until(&mut other, "here").await;
    let cut = server.rendered_metrics();
    assert!(cut.contains(r#"jreg_connections_cut_total{reason="settings"} 1"#), "{cut}");
}

#[tokio::test(start_paused = true)]
async fn settings_now_and_then_are_served() {
    let server = start(patient());
    let mut stream = server.connect().await;
    stream.write_all(PREFACE).await.unwrap();
    for round in 0..40 {
        stream.write_all(&settings_frame(65_535).repeat(20)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        stream.write_all(&get_frame(2 * round + 1, "/")).await.unwrap();
        let (mut response, mut piece) = (Vec::new(), [0; 1024]);
        while !response.ends_with(b"here") {
            let count = stream.read(&mut piece).await.unwrap();
            assert!(count > 0, "closed in round {round}");
            response.extend(&piece[..count]);
        }
    }
}

#[tokio::test]
async fn a_client_that_waits_for_its_responses_may_cancel_any_number() {
    let mut server = start(options());
    let stream = server.connect().await;
    // Otherwise each round would wait for a delayed acknowledgement.
    stream.set_nodelay(true).unwrap();
    let io = TokioIo::new(stream);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let ask = |path: &str| {
        let uri = format!("http://test{path}");
        http::Request::get(uri).body(Empty::<Bytes>::new()).unwrap()
    };
    for _ in 0..ABANDONED_MAX * 3 / 2 {
        let given_up = tokio::spawn(client.send_request(ask("/held")));
        server.events.held.recv().await.unwrap();
        given_up.abort();
        assert_eq!(client.send_request(ask("/")).await.unwrap().status(), 200);
    }
}

/// An HTTP/2 client of the server.
async fn http_2(
    server: &Fixture,
) -> (hyper::client::conn::http2::SendRequest<Empty<Bytes>>, JoinHandle<()>) {
    let io = TokioIo::new(server.connect().await);
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    // It may end with or without an error.
    (client, tokio::spawn(async move { connection.await.unwrap_or(()) }))
}

fn get_request(path: &str) -> http::Request<Empty<Bytes>> {
    http::Request::get(format!("http://test{path}")).body(Empty::new()).unwrap()
}

/// Regression: PING acknowledgements counted as activity.
#[tokio::test]
async fn fixed_http_2_connection_without_a_request_is_closed() {
    let timeout = Duration::from_millis(100);
    let server = start(ServerOptions { header_read_timeout: timeout, ..options() });
    let (_unused, connection) = http_2(&server).await;
    let (mut used, other) = http_2(&server).await;
    let response = used.send_request(get_request("/")).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "here");
    connection.await.unwrap();
    other.await.unwrap();
    while server.metrics.connections.get() > 0 {
        tokio::task::yield_now().await;
    }
}

/// PINGs and other responses on the connection are no progress of a stalled response.
#[tokio::test]
async fn fixed_http_2_response_that_is_not_taken_is_cut_off_whatever_else_is() {
    let timeout = Duration::from_millis(100);
    let mut server = start(ServerOptions { write_stall_timeout: timeout, ..patient() });
    let mut stream = server.connect().await;
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&get_frame(1, "/endless")).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let pings = tokio::spawn(async move {
        for id in streams().skip(1) {
            // The connection's window is returned, that of the endless response is not.
            let window = frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]);
            let all = [frame(PING, 0, 0, &[0; 8]), get_frame(id, "/"), window].concat();
            if writer.write_all(&all).await.is_err() {
                return;
            }
            tokio::time::sleep(timeout / 10).await;
        }
    });
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    });
    server.events.dropped.recv().await.unwrap();
    reading.await.unwrap();
    pings.abort();
    assert!(server.get("/").await.ends_with("here"));
}

/// They hold no slots of other connections.
#[tokio::test]
async fn responses_that_are_not_taken_block_no_other() {
    let mut server = start(ServerOptions { responses_max: 1, ..patient() });
    let mut kept = Vec::new();
    for _ in 0..4 {
        let (mut client, _) = http_2(&server).await;
        for _ in 0..10 {
            kept.push(client.send_request(get_request("/endless")).await.unwrap());
        }
        kept.push(client.send_request(get_request("/")).await.unwrap());
    }
    let (mut client, _) = http_2(&server).await;
    let response = client.send_request(get_request("/endless")).await.unwrap();
    let mut body = response.into_body();
    for _ in 0..100 {
        assert!(body.frame().await.unwrap().unwrap().into_data().is_ok());
    }
    assert!(server.get("/").await.ends_with("here"));
    assert!(server.events.dropped.try_recv().is_err(), "no connection was cut off");
}

#[test]
fn one_address_has_a_quarter_of_all_connections() {
    let of = |connections_max| {
        let options = ServerOptions { connections_max, ..ServerOptions::default() };
        options.with_usual_share().connections_per_address_max
    };
    assert_eq!(of(300), 75);
    assert_eq!(of(100), 64);
}

#[tokio::test]
async fn an_address_has_so_many_connections() {
    check_one_at_a_time(ServerOptions { connections_per_address_max: 1, ..options() }).await;
}

#[tokio::test]
async fn a_head_has_so_many_headers_and_bytes() {
    let server = start(options());
    let status = async |headers: String| {
        let mut stream = server.connect().await;
        let request = format!("GET / HTTP/1.1\r\nhost: test\r\n{headers}\r\n");
        // The response may come before or after everything is written.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response).await;
        String::from_utf8_lossy(&response).lines().next().unwrap_or_default().to_owned()
    };
    let some = "x: y\r\n".repeat(98);
    let close = "connection: close\r\n";
    assert_eq!(status(format!("{some}{close}")).await, "HTTP/1.1 200 OK");
    let too_large = "HTTP/1.1 431 Request Header Fields Too Large";
    assert_eq!(status(format!("{some}x: y\r\n{close}")).await, too_large);
    let long = "y".repeat(64 * 1024);
    assert_eq!(status(format!("x: {long}\r\n{close}")).await, "HTTP/1.1 200 OK");
    assert_eq!(status(format!("x: {long}{long}\r\n")).await, too_large);
}

/// The stream window that a server's SETTINGS allow (RFC 9113 section 6.5.2).
async fn stream_window(stream: &mut TcpStream) -> u32 {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut settings = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut settings).await.unwrap();
    let of = |setting: &[u8]| {
        let (name, value) = setting.split_at(2);
        let is_window = u16::from_be_bytes(name.try_into().unwrap()) == INITIAL_WINDOW_SIZE;
        is_window.then(|| u32::from_be_bytes(value.try_into().unwrap()))
    };
    settings.chunks_exact(6).find_map(of).unwrap()
}

async fn begin_h2(server: &Fixture) -> (TcpStream, u32) {
    let mut stream = server.connect().await;
    stream.write_all(PREFACE).await.unwrap();
    let window = stream_window(&mut stream).await;
    (stream, window)
}

/// Large windows for so many connections, taken back soon.
fn windows_for(connections: u64) -> ServerOptions {
    let h2_window_bytes = connections * u64::from(windows::CONNECTION_BYTES);
    let write_stall_timeout = Duration::from_millis(400);
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    ServerOptions { h2_window_bytes, write_stall_timeout, trusted_proxies, ..patient() }
}

/// Connections that said nothing had the large windows of all others.
#[tokio::test]
async fn fixed_silent_connections_take_no_large_windows() {
    let server = start(windows_for(1));
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(server.connect().await);
    }
    ask(&mut silent[0], "/", "").await;
    read_until(&mut silent[0], "here").await;
    let (_stream, window) = begin_h2(&server).await;
    assert_eq!(window, windows::STREAM_BYTES);
    assert_eq!(server.metrics.h2_window_bytes.get(), i64::from(windows::CONNECTION_BYTES));
}

/// They kept them for as long as they answered PINGs, whatever the others had to send.
#[tokio::test]
async fn fixed_connections_without_an_authorized_request_give_large_windows_back() {
    let server = start(windows_for(2));
    let (mut unauthorized, _) = begin_h2(&server).await;
    let (mut idle, _) = begin_h2(&server).await;
    // A request that is not answered does not keep it.
    unauthorized.write_all(&get_frame(1, "/")).await.unwrap();
    let (_small, window) = begin_h2(&server).await;
    assert_eq!(window, windows::BYTES_MIN);
    assert_eq!(server.metrics.h2_small_windows.get(), 1);
    let mut rest = Vec::new();
    unauthorized.read_to_end(&mut rest).await.unwrap();
    idle.read_to_end(&mut rest).await.unwrap();
    while server.metrics.h2_window_bytes.get() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(begin_h2(&server).await.1, windows::STREAM_BYTES);
}

#[tokio::test]
async fn one_address_has_a_quarter_of_the_large_windows() {
    let options = ServerOptions { trusted_proxies: Vec::new(), ..windows_for(8) };
    let server = start(options);
    let mut kept = Vec::new();
    for due in [windows::STREAM_BYTES, windows::STREAM_BYTES, windows::BYTES_MIN] {
        let (stream, window) = begin_h2(&server).await;
        assert_eq!(window, due);
        kept.push(stream);
    }
}
