//! Connections: clients that disconnect, stall or send too much, limits, HTTP/2, and shutdown.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jreg_testkit::{
    Client, Request, Rng, Scenario, ServerSpec, TestServer, Wire, get, head, index_of, patch, post,
    push_blob, put, sha256,
};

use crate::contract::blobs::blob;
use crate::contract::on_each;

/// A limit that an idle client reaches at once.
const SHORT: Duration = Duration::from_millis(200);

async fn begin(client: &Client) -> String {
    let response = client.send(Request::new("POST", "/v2/a/blobs/uploads/").body("")).await;
    response.header("Location").unwrap().to_owned()
}

/// The current offset of an upload.
async fn offset(client: &Client, upload: &str) -> u64 {
    let status = client.get(upload).await;
    assert_eq!(status.status, 204, "{status}");
    match status.header("Range").unwrap() {
        "0-0" => 0,
        range => range.strip_prefix("0-").unwrap().parse::<u64>().unwrap() + 1,
    }
}

/// Sends the headers of a chunked request and waits for 100 Continue.
async fn started(client: &Client, method: &str, target: &str) -> Wire {
    let mut wire = client.wire().await;
    let request = Request::new(method, target)
        .header("Expect", "100-continue")
        .header("Transfer-Encoding", "chunked");
    wire.write(&request.head("localhost")).await.unwrap();
    let interim = wire.response_head().await.unwrap();
    assert_eq!(interim.status, 100, "{interim}");
    wire
}

/// Sends the missing rest of `bytes` from the server's offset until it has them all, and finishes
/// the upload. A 416 response has the offset.
async fn resume(client: &Client, upload: &str, bytes: &'static [u8]) {
    for _ in 0..20 {
        let offset = offset(client, upload).await;
        let rest = &bytes[usize::try_from(offset).unwrap()..];
        let range = format!("{offset}-{}", bytes.len() - 1);
        let chunk = Request::new("PATCH", upload).header("Content-Range", range).body(rest);
        if rest.is_empty() || client.send(chunk).await.status == 202 {
            break;
        }
    }
    let response = client
        .send(Request::new("PUT", format!("{upload}?digest={}", sha256(bytes))).body(""))
        .await;
    assert_eq!(response.status, 201, "{response}");
    let pulled = client.get(&format!("/v2/a/blobs/{}", sha256(bytes))).await;
    assert_eq!(pulled.body, bytes);
}

/// Waits until connections are refused.
async fn refuses(client: &Client) {
    for _ in 0..2000 {
        if Wire::connect(client.address()).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the server still accepts connections");
}

#[test]
fn expect_continue_gets_100_before_the_body() {
    on_each(Default::default, |server| async move {
        let client = server.client();
        let mut wire =
            started(&client, "POST", &format!("/v2/a/blobs/uploads/?digest={}", sha256("hello")))
                .await;
        wire.write(b"5\r\nhello\r\n0\r\n\r\n").await.unwrap();
        let response = wire.response("POST").await.unwrap();
        assert_eq!(response.status, 201, "{response}");
        server.stop().await;
    });
}

/// Who may push to one repository must not learn what others hold: a response before the body would
/// tell. The same for what the repository itself had, and has deleted.
#[test]
fn expect_continue_tells_nothing_of_what_others_hold() {
    on_each(Default::default, |server| async move {
        let client = server.client();
        for name in ["other", "a"] {
            let push = format!("/v2/{name}/blobs/uploads/?digest={}", sha256("hello"));
            let pushed = client.send(Request::new("POST", push).body("hello")).await;
            assert_eq!(pushed.status, 201, "{pushed}");
        }
        let deleted = Request::new("DELETE", format!("/v2/a/blobs/{}", sha256("hello")));
        assert_eq!(client.send(deleted).await.status, 202);
        for content in ["hello", "never"] {
            let push = format!("/v2/a/blobs/uploads/?digest={}", sha256(content));
            // Fails unless the first response is 100.
            let mut wire = started(&client, "POST", &push).await;
            wire.write(format!("5\r\n{content}\r\n0\r\n\r\n").as_bytes()).await.unwrap();
            let response = wire.response("POST").await.unwrap();
            assert_eq!(response.status, 201, "{content}: {response}");
        }
        server.stop().await;
    });
}

#[test]
fn expect_continue_is_not_asked_of_what_is_refused() {
    on_each(Default::default, |server| async move {
        let mut wire = server.client().wire().await;
        let request = Request::new("POST", "/v2/a/blobs/uploads/?digest=sha256:bad")
            .header("Expect", "100-continue")
            .header("Content-Length", "1000000");
        wire.write(&request.head("localhost")).await.unwrap();
        let response = wire.response("POST").await.unwrap();
        assert_eq!(response.status, 400, "{response}");
        server.stop().await;
    });
}

#[test]
fn connections_are_kept_alive_over_errors() {
    on_each(Default::default, |server| async move {
        let mut wire = server.client().wire().await;
        let bad =
            Request::new("POST", format!("/v2/a/blobs/uploads/?digest={}", sha256("x"))).body("y");
        let requests = [
            Request::new("GET", "/v2/"),
            Request::new("GET", "/v2/a/tags/list"),
            bad,
            Request::new("GET", "/v2/"),
        ];
        for (request, status) in requests.into_iter().zip([200, 404, 400, 200]) {
            let mut bytes = request.head("localhost");
            bytes.extend(request.encoded_body().concat());
            wire.write(&bytes).await.unwrap();
            let response = wire.response(&request.method).await.unwrap();
            assert_eq!(response.status, status, "{request}{response}");
        }
        server.stop().await;
    });
}

/// A refusal must reach a client that is still sending.
#[test]
fn refusals_are_seen_by_clients_in_the_middle_of_a_body() {
    on_each(Default::default, |server| async move {
        let client = server.client();
        let body = Rng::new(1).bytes(6 * 1024 * 1024);
        let requests = [
            (413, Request::new("PUT", "/v2/a/manifests/v1").body(body.clone())),
            (
                400,
                Request::new("POST", "/v2/a/blobs/uploads/?digest=sha256:bad").body(body.clone()),
            ),
            (404, Request::new("PATCH", "/v2/a/blobs/uploads/none").body(body)),
        ];
        for (status, request) in requests {
            assert_eq!(client.send(request).await.status, status);
        }
        let endless =
            Request::new("PUT", "/v2/a/manifests/v1").header("Content-Length", "99999999999999");
        let mut wire = client.wire().await;
        wire.write(&endless.head("localhost")).await.unwrap();
        assert_eq!(wire.response("PUT").await.unwrap().status, 413);
        drop(wire);
        server.stop().await;
    });
}

#[test]
fn client_gone_in_the_middle_of_a_chunk_goes_on_where_it_was() {
    on_each(Default::default, |server| async move {
        let client = server.client();
        let bytes: &'static [u8] = b"0123456789abcdefghij";
        for headers in [("Content-Length", "20"), ("Transfer-Encoding", "chunked")] {
            for reset in [true, false] {
                let upload = begin(&client).await;
                let mut wire = client.wire().await;
                let request = Request::new("PATCH", &*upload).header(headers.0, headers.1);
                wire.write(&request.head("localhost")).await.unwrap();
                let sent: &[u8] =
                    if headers.1 == "chunked" { b"a\r\n0123456789\r\n" } else { b"0123456789" };
                wire.write(sent).await.unwrap();
                if reset {
                    wire.reset().unwrap();
                } else {
                    wire.finish_writing().await.unwrap();
                    wire.closed().await.unwrap();
                }
                resume(&client, &upload, bytes).await;
                client.delete(&format!("/v2/a/blobs/{}", sha256(bytes))).await;
            }
        }
        server.stop().await;
    });
}

#[test]
fn client_gone_in_the_middle_leaves_nothing_visible() {
    on_each(Default::default, |server| async move {
        let client = server.client();
        let upload = begin(&client).await;
        let targets = [
            ("POST", format!("/v2/a/blobs/uploads/?digest={}", sha256("hello"))),
            ("PUT", format!("{upload}?digest={}", sha256("hello"))),
            ("PUT", "/v2/a/manifests/v1".to_owned()),
        ];
        for (method, target) in targets {
            let mut wire = client.wire().await;
            let request = Request::new(method, target).header("Content-Length", "10");
            wire.write(&request.head("localhost")).await.unwrap();
            wire.write(b"hello").await.unwrap();
            wire.finish_writing().await.unwrap();
            let response = wire.closed().await.unwrap();
            assert!(!response.starts_with(b"HTTP/1.1 2"), "{}", response.escape_ascii());
        }
        assert_eq!(client.get(&format!("/v2/a/blobs/{}", sha256("hello"))).await.status, 404);
        assert_eq!(client.get("/v2/a/manifests/v1").await.status, 404);
        server.stop().await;
    });
}

#[test]
fn c19_stalled_body_is_ended_and_goes_on_where_it_was() {
    let spec = || ServerSpec::with(|settings| settings.body_idle_timeout = SHORT);
    on_each(spec, |server| async move {
        let client = server.client();
        let upload = begin(&client).await;
        let mut wire = started(&client, "PATCH", &upload).await;
        wire.write(b"5\r\nhello\r\n").await.unwrap();
        let response = wire.response("PATCH").await.unwrap();
        assert!([400, 408].contains(&response.status), "{response}");
        assert!(
            jreg_testkit::violations(&Request::new("PATCH", &*upload), &response).is_empty(),
            "{response}"
        );
        resume(&client, &upload, b"hello world").await;
        server.stop().await;
    });
}

/// Regression: one byte per idle timeout kept a body and its reservation forever.
#[test]
fn fixed_body_that_trickles_is_ended() {
    let spec = || {
        ServerSpec::with(|settings| {
            settings.body_rate_min = 1024;
            settings.body_rate_grace = SHORT;
        })
    };
    on_each(spec, |server| async move {
        let client = server.client();
        let upload = begin(&client).await;
        for (method, target) in [("PATCH", &*upload), ("PUT", "/v2/a/manifests/v1")] {
            let mut wire = started(&client, method, target).await;
            // The connection may close before or after everything is written.
            for byte in "hello world, this is slow".split("").filter(|byte| !byte.is_empty()) {
                let _ = wire.write(format!("1\r\n{byte}\r\n").as_bytes()).await;
                tokio::time::sleep(SHORT / 10).await;
            }
            let response = wire.response(method).await.unwrap();
            assert_eq!(response.status, 408, "{response}");
        }
        server.stop().await;
    });
}

#[test]
fn fixed_body_that_trickles_over_http2_is_ended() {
    crate::contract::block_on(async {
        let spec = ServerSpec::with(|settings| {
            settings.body_rate_min = 1024;
            settings.body_rate_grace = SHORT;
        });
        let server = TestServer::start(spec).await;
        let stream = tokio::net::TcpStream::connect(server.client().address()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let body = futures::stream::repeat(Bytes::from_static(b"z")).then(|byte| async move {
            tokio::time::sleep(SHORT / 10).await;
            Ok::<_, std::io::Error>(http_body::Frame::data(byte))
        });
        let uri = format!("http://localhost/v2/a/blobs/uploads/?digest={}", sha256("never"));
        let body = http_body_util::StreamBody::new(Box::pin(body));
        let request = http::Request::post(uri).body(body).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 408);
        server.stop().await;
    });
}

/// A slow body above the minimum rate has no total timeout.
#[test]
fn c19_slow_body_is_not_stalled() {
    crate::contract::block_on(async {
        let spec = ServerSpec::with(|settings| settings.body_idle_timeout = SHORT * 5);
        let server = TestServer::start(spec).await;
        let client = server.client();
        let bytes = "x".repeat(6);
        let mut wire =
            started(&client, "POST", &format!("/v2/a/blobs/uploads/?digest={}", sha256(&bytes)))
                .await;
        for _ in 0..6 {
            tokio::time::sleep(SHORT).await;
            wire.write(b"1\r\nx\r\n").await.unwrap();
        }
        wire.write(b"0\r\n\r\n").await.unwrap();
        let response = wire.response("POST").await.unwrap();
        assert_eq!(response.status, 201, "{response}");
        server.stop().await;
    });
}

#[test]
fn fixed_stalled_heads_block_no_other() {
    on_each(Default::default, |server| async move {
        let client = server.client();
        let mut stalled = Vec::new();
        for _ in 0..50 {
            let mut wire = client.wire().await;
            wire.write(b"GET /v2/ HTTP/1.1\r\nHost: ").await.unwrap();
            stalled.push(wire);
        }
        assert_eq!(client.get("/v2/").await.status, 200);
        drop(stalled);
        server.stop().await;
    });
}

#[test]
fn head_that_never_ends_is_closed() {
    let spec = || ServerSpec::with(|settings| settings.header_read_timeout = SHORT);
    on_each(spec, |server| async move {
        let mut wire = server.client().wire().await;
        wire.write(b"GET /v2/ HTTP/1.1\r\nHost: ").await.unwrap();
        let response = wire.closed().await.unwrap();
        assert!(
            response.is_empty() || response.starts_with(b"HTTP/1.1 408"),
            "{}",
            response.escape_ascii()
        );
        server.stop().await;
    });
}

#[test]
fn c18_uploads_over_the_limit_are_told_to_retry() {
    let spec = || ServerSpec::with(|settings| settings.uploads_max = 1);
    on_each(spec, |server| async move {
        let client = server.client();
        let (first, second) = (begin(&client).await, begin(&client).await);
        let mut wire = started(&client, "PATCH", &first).await;
        wire.write(b"5\r\nhello\r\n").await.unwrap();
        let busy = client.send(Request::new("PATCH", &*second).body("hello")).await;
        assert!([429, 503].contains(&busy.status), "{busy}");
        wire.write(b"0\r\n\r\n").await.unwrap();
        let response = wire.response("PATCH").await.unwrap();
        assert_eq!(response.status, 202, "{response}");
        resume(&client, &second, b"hello").await;
        server.stop().await;
    });
}

#[test]
fn c18_connections_over_the_limit_are_told_to_retry() {
    let spec = || ServerSpec::with(|settings| settings.connections_max = 2);
    on_each(spec, |server| async move {
        let client = server.client();
        let ask = Request::new("GET", "/v2/").head("localhost");
        let mut kept = Vec::new();
        for _ in 0..2 {
            let mut wire = client.wire().await;
            wire.write(&ask).await.unwrap();
            assert_eq!(wire.response("GET").await.unwrap().status, 200);
            kept.push(wire);
        }
        let mut refused = client.wire().await;
        refused.write(&ask).await.unwrap();
        let response = refused.response("GET").await.unwrap();
        assert_eq!(response.status, 503, "{response}");
        assert!(response.header("Retry-After").is_some(), "{response}");
        drop((refused, kept));
        assert!(accepts_again(&client, &ask).await, "the limit counts connections that are gone");
        server.stop().await;
    });
}

async fn accepts_again(client: &Client, ask: &[u8]) -> bool {
    for _ in 0..500 {
        let mut wire = client.wire().await;
        wire.write(ask).await.unwrap();
        if wire.response("GET").await.is_ok_and(|response| response.status == 200) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[test]
fn shutdown_finishes_a_running_upload_and_a_running_pull() {
    on_each(Default::default, |server| async move {
        let client = server.client();
        let large = Rng::new(2).bytes(32 * 1024 * 1024);
        Scenario::new("large", client.clone()).run(vec![push_blob(large.clone())]).await;

        let mut upload =
            started(&client, "POST", &format!("/v2/a/blobs/uploads/?digest={}", sha256("hello")))
                .await;
        let mut pull = client.wire().await;
        let ask = Request::new("GET", format!("/v2/contract/large/blobs/{}", sha256(&large)));
        pull.write(&ask.head("localhost")).await.unwrap();
        assert_eq!(pull.response_head().await.unwrap().status, 200);

        let stopped = tokio::spawn(server.stop());
        refuses(&client).await;
        upload.write(b"5\r\nhello\r\n0\r\n\r\n").await.unwrap();
        let response = upload.response("POST").await.unwrap();
        assert_eq!(response.status, 201, "{response}");
        let pulled = pull.bytes(large.len()).await.unwrap();
        assert_eq!(sha256(pulled), sha256(&large));
        drop((upload, pull));
        stopped.await.unwrap();
    });
}

#[test]
fn shutdown_does_not_wait_for_idle_connections() {
    on_each(Default::default, |server| async move {
        let client = server.client();
        let mut idle = client.wire().await;
        idle.write(&Request::new("GET", "/v2/").head("localhost")).await.unwrap();
        assert_eq!(idle.response("GET").await.unwrap().status, 200);
        server.stop().await;
        assert!(idle.closed().await.unwrap().is_empty());
    });
}

/// A server with short timeouts.
fn impatient() -> ServerSpec {
    ServerSpec::with(|settings| settings.shutdown_deadline = Duration::from_secs(5))
}

/// Half of the headers is no request in flight.
#[test]
fn shutdown_does_not_wait_for_half_a_head() {
    on_each(impatient, |server| async move {
        let mut half = server.client().wire().await;
        half.write(b"GET /v2/ HTTP/1.1\r\nHost: ").await.unwrap();
        // A response to another request shows that the server has run.
        assert_eq!(server.client().get("/v2/").await.status, 200);
        server.stop().await;
        half.closed().await.unwrap();
    });
}

/// Neither is the discarded rest of a rejected body.
#[test]
fn shutdown_does_not_wait_for_a_refused_body() {
    on_each(impatient, |server| async move {
        let mut endless = server.client().wire().await;
        let put =
            Request::new("PUT", "/v2/a/manifests/v1").header("Content-Length", "99999999999999");
        endless.write(&put.head("localhost")).await.unwrap();
        assert_eq!(endless.response("PUT").await.unwrap().status, 413);
        server.stop().await;
        endless.closed().await.unwrap();
    });
}

#[test]
fn http2_without_tls_pushes_and_pulls() {
    on_each(Default::default, |server| async move {
        let stream = tokio::net::TcpStream::connect(server.client().address()).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        let driver = tokio::spawn(connection);
        let blobs: Vec<Bytes> = (0..8).map(|seed| Rng::new(seed).bytes(300_000)).collect();
        let pushes = blobs.iter().map(|bytes| push_over_http2(sender.clone(), bytes.clone()));
        futures::future::join_all(pushes).await;
        drop(sender);
        driver.await.unwrap().unwrap();
        server.stop().await;
    });
}

async fn push_over_http2(
    mut sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    bytes: Bytes,
) {
    let uri = |rest: &str| format!("http://localhost/v2/a/blobs/{rest}");
    let push = hyper::Request::post(uri(&format!("uploads/?digest={}", sha256(&bytes))))
        .body(Full::new(bytes.clone()))
        .unwrap();
    sender.ready().await.unwrap();
    let response = sender.send_request(push).await.unwrap();
    assert_eq!(response.status(), 201);
    assert!(response.headers().contains_key("docker-content-digest"));
    assert!(response.headers().contains_key("x-request-id"));
    let pull = hyper::Request::get(uri(&sha256(&bytes))).body(Full::default()).unwrap();
    sender.ready().await.unwrap();
    let response = sender.send_request(pull).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), bytes);
}

/// A newer request for the same upload supersedes the older one, which fails; the upload is neither
/// lost nor mixed.
#[test]
fn two_requests_for_one_upload_do_not_mix() {
    on_each(Default::default, |server| async move {
        let client = server.client();
        let upload = begin(&client).await;
        let mut old = started(&client, "PATCH", &upload).await;
        old.write(b"5\r\nVVVVV\r\n").await.unwrap();
        resume_over(&client, &upload).await;
        old.write(b"5\r\nWWWWW\r\n0\r\n\r\n").await.ok();
        if let Ok(response) = old.response("PATCH").await {
            assert!(response.status >= 400, "{response}");
        }
        let pulled = client.get(&format!("/v2/a/blobs/{}", sha256("hello world"))).await;
        assert_eq!(pulled.body, "hello world");
        server.stop().await;
    });
}

/// Resumes an upload from its start and finishes it.
async fn resume_over(client: &Client, upload: &str) {
    let chunk = Request::new("PATCH", upload).header("Content-Range", "0-10").body("hello world");
    let response = client.send(chunk).await;
    assert_eq!(response.status, 202, "{response}");
    let close = Request::new("PUT", format!("{upload}?digest={}", sha256("hello world"))).body("");
    let response = client.send(close).await;
    assert_eq!(response.status, 201, "{response}");
}

#[test]
fn c19_many_uploads_at_once() {
    on_each(Default::default, |server| async move {
        let client = server.client();
        let pushes = (0..24).map(|seed| {
            let client = client.clone();
            async move {
                let bytes = Rng::new(seed).bytes(100_000);
                let upload = begin(&client).await;
                let (one, two) = (bytes.slice(..50_000), bytes.slice(50_000..));
                assert_eq!(
                    client.send(Request::new("PATCH", &*upload).chunked([one, two])).await.status,
                    202
                );
                let close =
                    Request::new("PUT", format!("{upload}?digest={}", sha256(&bytes))).body("");
                assert_eq!(client.send(close).await.status, 201);
                assert_eq!(
                    client.get(&format!("/v2/a/blobs/{}", sha256(&bytes))).await.body,
                    bytes
                );
            }
        });
        futures::future::join_all(pushes).await;
        server.stop().await;
    });
}

/// A restarted server on the same folder has all content.
#[test]
fn folder_is_there_again_after_a_restart() {
    crate::contract::block_on(async {
        let server =
            TestServer::start(ServerSpec::default().store(jreg_testkit::StoreKind::Folder)).await;
        let mut scenario = Scenario::new("kept", server.client());
        scenario
            .run(steps![
                push_blob("hello"),
                jreg_testkit::push_manifest("v1", &index_of(&[])),
                post("/v2/{repo}/blobs/uploads/").is(202).keep("Location", "up"),
                patch("{up}").body("resumed ").is(202).keep("Location", "up"),
            ])
            .await;
        let upload = scenario.kept("up").to_owned();
        let server = server.restart().await;
        Scenario::new("kept", server.client())
            .run(steps![
                get(&blob("hello")).is(200).gives("hello"),
                get("/v2/{repo}/manifests/v1").is(200).gives(index_of(&[]).bytes),
                head(&blob("nothing")).is(404),
                patch(&upload).header("Content-Range", "8-12").body("later").is(202),
                put(&format!("{upload}?digest={}", sha256("resumed later"))).is(201),
                get(&blob("resumed later")).is(200).gives("resumed later"),
            ])
            .await;
        server.stop().await;
    });
}
