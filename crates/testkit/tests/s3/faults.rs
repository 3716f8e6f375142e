//! Faults: what each does to the response, and what it leaves in the bucket.

use std::time::{Duration, Instant};

use jreg_testkit::s3::{FaultRule, S3Client, S3Fault, S3Gate, S3Operation, S3Refusal};
use jreg_testkit::{Request, Response, Wire};

use crate::support::*;

#[tokio::test]
async fn a_refusal_has_its_status_and_no_effect() {
    for (refusal, status, code) in [
        (S3Refusal::InternalError, 500, "InternalError"),
        (S3Refusal::SlowDown, 503, "SlowDown"),
        (S3Refusal::Unavailable, 503, "ServiceUnavailable"),
        (S3Refusal::TooManyRequests, 429, "TooManyRequests"),
        (S3Refusal::Conflict, 409, "ConditionalRequestConflict"),
        (S3Refusal::AccessDenied, 403, "AccessDenied"),
        (S3Refusal::PreconditionFailed, 412, "PreconditionFailed"),
    ] {
        let (server, client) = start().await;
        server.inject(FaultRule::new(S3Fault::Refuse(refusal)).first(1));
        let put = request(&client, "PUT", "k").body("v");
        refused(&ask(&client, put.clone()).await, status, code);
        assert!(server.keys().is_empty());
        assert_eq!(ask(&client, put).await.status, 200);
    }
}

#[tokio::test]
async fn a_lost_response_was_a_write() {
    let (server, client) = start().await;
    server.inject(FaultRule::new(S3Fault::LoseResponse).on(S3Operation::PutObject));
    assert!(client.send(request(&client, "PUT", "k").body("v")).await.is_err());
    assert_eq!(&*server.object("k").unwrap().bytes, b"v");
    assert_eq!(server.requests()[0].status, None);
}

#[tokio::test]
async fn a_connection_cut_before_was_no_write() {
    let (server, client) = start().await;
    server.inject(FaultRule::new(S3Fault::CutBefore).on(S3Operation::PutObject));
    assert!(client.send(request(&client, "PUT", "k").body("v")).await.is_err());
    assert!(server.keys().is_empty());
}

#[tokio::test]
async fn a_body_is_cut_after_so_many_bytes() {
    for cut_bytes in [0, 1, 99_999, 200_000] {
        let (server, client) = start().await;
        server.insert("k", vec![7; 200_001]);
        server.inject(FaultRule::new(S3Fault::CutBody(cut_bytes)).on(S3Operation::GetObject));
        let mut wire = client.begin_signed(request(&client, "GET", "k")).await.unwrap();
        let head = wire.response_head().await.unwrap();
        assert_eq!((head.status, head.header("Content-Length")), (200, Some("200001")));
        let body = wire.closed().await.unwrap();
        assert_eq!(body.len(), usize::try_from(cut_bytes).unwrap());
        assert_eq!(server.requests()[0].bytes_out, cut_bytes);
    }
}

#[tokio::test]
async fn a_body_stalls_until_it_is_let_go_on() {
    let (server, client) = start().await;
    server.insert("k", "0123456789");
    let gate = S3Gate::closed();
    server.inject(FaultRule::new(S3Fault::StallBody(4, gate.clone())));
    let mut wire = client.begin_signed(request(&client, "GET", "k")).await.unwrap();
    wire.response_head().await.unwrap();
    assert_eq!(&*wire.bytes(4).await.unwrap(), b"0123");
    gate.arrived(1).await;
    assert_eq!(server.requests()[0].bytes_out, 4);
    gate.open();
    assert_eq!(&*wire.bytes(6).await.unwrap(), b"456789");
}

#[tokio::test]
async fn a_held_write_is_applied_after_a_newer_one_with_its_condition_checked_then() {
    let (server, client) = start().await;
    let etag = put(&client, "k", "first").await;
    let gate = S3Gate::closed();
    server.inject(FaultRule::new(S3Fault::Hold(gate.clone())).on(S3Operation::PutObject).nth(1));
    let swap = |bytes| request(&client, "PUT", "k").header("If-Match", &*etag).body(bytes);
    let late = spawn(&client, swap("late"));
    gate.arrived(1).await;
    assert_eq!(ask(&client, swap("newer")).await.status, 200);
    gate.open();
    refused(&late.await.unwrap(), 412, "PreconditionFailed");
    assert_eq!(&*server.object("k").unwrap().bytes, b"newer");
}

#[tokio::test]
async fn a_held_write_is_applied_though_its_client_disconnected() {
    let (server, client) = start().await;
    put(&client, "k", "first").await;
    let gate = S3Gate::closed();
    let applied = S3Gate::closed();
    server.inject(FaultRule::new(S3Fault::Hold(gate.clone())).on(S3Operation::PutObject).nth(1));
    server.inject(
        FaultRule::new(S3Fault::HoldResponse(applied.clone())).on(S3Operation::PutObject).nth(1),
    );
    let wire = client.begin_signed(request(&client, "PUT", "k").body("late")).await.unwrap();
    gate.arrived(1).await;
    wire.reset().unwrap();
    put(&client, "k", "newer").await;
    gate.open();
    applied.arrived(1).await;
    assert_eq!(&*server.object("k").unwrap().bytes, b"late");
}

#[tokio::test]
async fn a_response_can_be_held_after_the_write() {
    let (server, client) = start().await;
    let gate = S3Gate::closed();
    server.inject(FaultRule::new(S3Fault::HoldResponse(gate.clone())).on(S3Operation::PutObject));
    let held = spawn(&client, request(&client, "PUT", "k").body("v"));
    gate.arrived(1).await;
    assert_eq!(server.keys(), ["k"]);
    assert_eq!(server.requests()[0].status, None);
    gate.pass_one();
    assert_eq!(held.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_gate_lets_a_number_of_requests_through() {
    let (server, client) = start().await;
    let gate = S3Gate::closed();
    server.inject(FaultRule::new(S3Fault::Hold(gate.clone())).on(S3Operation::PutObject));
    let one = spawn(&client, request(&client, "PUT", "1").body("v"));
    gate.arrived(1).await;
    let two = spawn(&client, request(&client, "PUT", "2").body("v"));
    gate.arrived(2).await;
    gate.pass_one();
    one.await.unwrap();
    assert_eq!(server.keys(), ["1"]);
    gate.open();
    two.await.unwrap();
    assert_eq!(server.keys(), ["1", "2"]);
}

#[tokio::test]
async fn a_stopped_server_releases_its_gates() {
    let (server, client) = start().await;
    let gate = S3Gate::closed();
    server.inject(FaultRule::new(S3Fault::Hold(gate.clone())));
    let mut wire = client.begin_signed(request(&client, "PUT", "k").body("v")).await.unwrap();
    gate.arrived(1).await;
    server.stop().await;
    wire.closed().await.unwrap();
}

#[tokio::test]
async fn a_write_whose_client_breaks_off_is_none() {
    let (server, client) = start().await;
    let mut wire = Wire::connect(server.address()).await.unwrap();
    let put = client.signed(request(&client, "PUT", "k").body("0123456789"));
    wire.write(&put.head(&server.address().to_string())).await.unwrap();
    wire.write(b"01234").await.unwrap();
    wire.finish_writing().await.unwrap();
    wire.closed().await.unwrap();
    assert!(server.keys().is_empty());
    assert_eq!(server.requests()[0].status, None);
}

#[tokio::test]
async fn rules_take_turns_and_end() {
    let (server, client) = start().await;
    put(&client, "k", "v").await;
    let second =
        FaultRule::new(S3Fault::Refuse(S3Refusal::SlowDown)).on(S3Operation::GetObject).prefix("k");
    let second = server.inject(second.every(2));
    assert_eq!(statuses(&client, 4).await, [200, 503, 200, 503]);
    assert_eq!((second.seen(), second.hits()), (4, 2));
    server.remove(&second);
    assert_eq!(statuses(&client, 2).await, [200, 200]);
    server.inject(FaultRule::new(S3Fault::Refuse(S3Refusal::InternalError)).nth(2));
    assert_eq!(statuses(&client, 3).await, [200, 500, 200]);
    server.inject(FaultRule::new(S3Fault::Refuse(S3Refusal::InternalError)));
    server.remove_all();
    assert_eq!(statuses(&client, 1).await, [200]);
}

/// Only that it takes at least so long, which no slow machine makes false.
#[tokio::test]
async fn latency_is_added_to_each_request_and_by_a_rule() {
    const LATENCY: Duration = Duration::from_millis(20);
    let (server, client) = start_with(|spec| spec.latency = LATENCY).await;
    let start = Instant::now();
    put(&client, "k", "v").await;
    assert!(start.elapsed() >= LATENCY);
    server.set_latency(2 * LATENCY);
    server.inject(FaultRule::new(S3Fault::Delay(LATENCY)).on(S3Operation::GetObject));
    let start = Instant::now();
    get(&client, "k").await;
    assert!(start.elapsed() >= 3 * LATENCY);
}

async fn statuses(client: &S3Client, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(get(client, "k").await.status);
    }
    statuses
}

fn spawn(client: &S3Client, request: Request) -> tokio::task::JoinHandle<Response> {
    let client = client.clone();
    tokio::spawn(async move { ask(&client, request).await })
}

#[tokio::test]
async fn a_request_whose_client_disconnected_is_still_waited_for() {
    let (server, client) = start().await;
    let gate = S3Gate::closed();
    server.inject(FaultRule::new(S3Fault::Hold(gate.clone())).on(S3Operation::PutObject));
    let wires = futures::future::join_all(
        ["a", "b"].map(|key| client.begin_signed(request(&client, "PUT", key).body("late"))),
    );
    let wires = wires.await;
    gate.arrived(2).await;
    drop(wires);
    assert!(server.keys().is_empty());
    assert_eq!(gate.most_waiting(), 2);
    gate.open();
    server.idle().await;
    assert_eq!(server.keys(), ["a", "b"]);
}
