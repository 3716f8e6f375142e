//! Protocols over TLS, and connections without TLS.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jreg_config::TlsVersion;
use jreg_net::server::ServerEnding;
use jreg_oci::{Algorithm, Digest};
use jreg_testkit::{Rng, TestCa};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Server, TlsScenario, exchange, is_taken, read_all, request};

/// Longer than a placeholder, and than the socket buffers.
const LARGE_BYTES: usize = 24 * 1024 * 1024;

/// Pushes a blob over HTTP/2, and gives the target to pull it from.
async fn push(scenario: &TlsScenario, server: &Server, bytes: &Bytes) -> String {
    let digest = Digest::of(Algorithm::Sha256, bytes);
    let client = scenario.client().protocols(&["h2", "http/1.1"]);
    let stream = client.connect(server.address).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let io = TokioIo::new(stream);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let target = format!("https://registry.test/v2/app/blobs/uploads/?digest={digest}");
    let request = http::Request::post(target).body(Full::new(bytes.clone())).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 201);
    drop(sender);
    connection.await.unwrap().unwrap();
    format!("/v2/app/blobs/{digest}")
}

#[tokio::test]
async fn http_1_and_2_push_and_pull() {
    let scenario = TlsScenario::new();
    let server = scenario.serve().await;
    let bytes = Rng::new(1).bytes(LARGE_BYTES);
    let target = push(&scenario, &server, &bytes).await;
    // From a folder, plain HTTP/1.1 would use sendfile.
    let mut stream =
        scenario.client().protocols(&["http/1.1"]).connect(server.address).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    stream.write_all(request("GET", &target, "").as_bytes()).await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    assert!(response.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!(response.ends_with(&bytes));
    let io =
        TokioIo::new(scenario.client().protocols(&["h2"]).connect(server.address).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let uri = format!("https://registry.test{target}");
    let request = http::Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), bytes);
}

/// A client closes such a connection (RFC 9113 section 8.1.1).
#[tokio::test]
async fn fixed_a_head_has_no_body_over_http_2() {
    let scenario = TlsScenario::new();
    let server = scenario.serve().await;
    let target = push(&scenario, &server, &Bytes::from_static(b"hello")).await;
    let io =
        TokioIo::new(scenario.client().protocols(&["h2"]).connect(server.address).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    for (path, status, length) in [
        (target.as_str(), 200, Some("5")),
        ("/v2/app/manifests/none", 404, None),
        ("/v2/_nothing", 404, None),
        ("/livez", 200, None),
    ] {
        let uri = format!("https://registry.test{path}");
        let request = http::Request::head(uri).body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        let said = response.headers()["content-length"].to_str().unwrap();
        assert!(length.is_none_or(|length| said == length) && said != "0", "{path}: {said}");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "", "{path}");
    }
}

#[tokio::test]
async fn plain_http_is_told_what_is_spoken_here() {
    let scenario = TlsScenario::new();
    let server = scenario.serve().await;
    for method in ["GET", "PRI"] {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let response = exchange(stream, &request(method, "/v2/", "")).await;
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        assert_eq!(body.trim(), "this port speaks TLS: use https://");
    }
    let plain = scenario.metric(&server, "jreg_tls_handshakes_total{outcome=\"plain\"}").await;
    assert_eq!(plain, 2.0);
}

#[tokio::test]
async fn a_handshake_that_fails_or_takes_long_is_closed_and_disturbs_no_other() {
    let timeout = Duration::from_millis(100);
    let scenario = TlsScenario::with(|settings| settings.header_read_timeout = timeout);
    let server = scenario.serve().await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    let mut garbage = TcpStream::connect(server.address).await.unwrap();
    garbage.write_all(&[0x16, 3, 1, 0, 4, 9, 9, 9, 9]).await.unwrap();
    drop(TcpStream::connect(server.address).await.unwrap());
    assert!(scenario.get(&server, "/livez").await.starts_with("HTTP/1.1 200 "));
    for stream in [&mut silent, &mut half, &mut garbage] {
        // At most an alert arrives; unread bytes may cause a reset, too.
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response).await;
        assert!(response.len() < 16, "{response:?}");
    }
    assert!(!is_taken(&jreg_testkit::TlsClient::of(&TestCa::new()), server.address).await);
    let count = async |outcome: &str| {
        let name = format!("jreg_tls_handshakes_total{{outcome=\"{outcome}\"}}");
        scenario.metric(&server, &name).await
    };
    assert_eq!((count("timeout").await, count("failed").await), (2.0, 2.0));
    assert!(count("ok").await >= 3.0);
}

#[tokio::test]
async fn an_old_version_is_spoken_only_if_it_is_allowed() {
    for (min, is_allowed) in [(TlsVersion::Tls12, true), (TlsVersion::Tls13, false)] {
        let scenario = TlsScenario::with(|settings| settings.tls_min_version = min);
        let server = scenario.serve().await;
        assert!(is_taken(&scenario.client(), server.address).await);
        let old = scenario.client().only_tls12();
        assert_eq!(is_taken(&old, server.address).await, is_allowed, "{min:?}");
    }
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_over_tls() {
    let scenario = TlsScenario::with(|settings| settings.connections_max = 1);
    let server = scenario.serve().await;
    let mut first = scenario.client().connect(server.address).await.unwrap();
    first.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    first.read_exact(&mut [0; 12]).await.unwrap();
    let second = scenario.client().protocols(&["h2", "http/1.1"]);
    let second = second.connect(server.address).await.unwrap();
    assert_eq!(second.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let refusal = exchange(second, "").await;
    assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
    assert!(refusal.contains("\r\nretry-after: "), "{refusal}");
}

#[tokio::test]
async fn a_stop_finishes_responses_and_waits_for_no_handshake() {
    let scenario = TlsScenario::new();
    let server = scenario.serve().await;
    let bytes = Rng::new(2).bytes(LARGE_BYTES);
    let target = push(&scenario, &server, &bytes).await;
    let mut busy = scenario.client().connect(server.address).await.unwrap();
    busy.write_all(request("GET", &target, "").as_bytes()).await.unwrap();
    let mut response = vec![0; 1024];
    busy.read_exact(&mut response).await.unwrap();
    let mut idle = scenario.client().connect(server.address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    idle.read_exact(&mut [0; 12]).await.unwrap();
    let _half = TcpStream::connect(server.address).await.unwrap();
    let ending = tokio::spawn(server.running.shutdown());
    // An idle connection ends with close_notify.
    read_all(&mut idle).await;
    busy.read_to_end(&mut response).await.unwrap();
    assert!(response.ends_with(&bytes));
    assert_eq!(ending.await.unwrap(), ServerEnding::Whole);
}

#[tokio::test]
async fn clients_may_or_must_present_a_certificate_of_a_known_ca() {
    let (clients, strangers) = (TestCa::new(), TestCa::new());
    for must in [false, true] {
        let mut scenario = TlsScenario::asking(&clients);
        scenario.settings.tls_client_cert_required = must;
        let server = scenario.serve().await;
        let client = |authority: &TestCa| authority.client(Some("builder"), &[]);
        for (what, client, expected) in [
            ("none", scenario.client(), !must),
            ("a good one", scenario.client().identity(&client(&clients)), true),
            (
                "a good one, TLS 1.2",
                scenario.client().identity(&client(&clients)).only_tls12(),
                true,
            ),
            ("a stranger's", scenario.client().identity(&client(&strangers)), false),
            ("one that is over", scenario.client().identity(&clients.former_client("a")), false),
        ] {
            assert_eq!(is_taken(&client, server.address).await, expected, "{what}, must: {must}");
        }
    }
}
