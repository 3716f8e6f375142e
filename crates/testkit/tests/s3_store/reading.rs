//! Streams over connections that break.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use jreg_storage::{ByteRange, ErrorKind, S3Store, Store};
use jreg_testkit::s3::{FaultRule, S3Fault, S3Gate, S3Operation, S3Refusal, S3Server};

use super::support::{impatient, key, kind, server, store};

const SIZE: usize = 3_000_000;

fn pattern() -> Vec<u8> {
    (0..SIZE).map(|n| (n % 251).to_le_bytes()[0]).collect()
}

fn whole() -> ByteRange {
    ByteRange { start: 0, end: SIZE as u64 }
}

async fn filled() -> S3Server {
    let server = server().await;
    server.insert("data/blob", pattern());
    server
}

async fn read(store: &S3Store, range: ByteRange) -> jreg_storage::Result<Vec<u8>> {
    let stream = store.read(&key("blob"), range).await?;
    Ok(stream.try_collect::<Vec<Bytes>>().await?.concat())
}

#[tokio::test]
async fn a_body_that_is_cut_is_resumed_at_the_byte_reached() {
    let server = filled().await;
    server.inject(FaultRule::new(S3Fault::CutBody(1_000_000)).on(S3Operation::GetObject).first(2));
    let range = ByteRange { start: 10, end: SIZE as u64 - 10 };
    assert_eq!(read(&store(&server), range).await.unwrap(), &pattern()[10..SIZE - 10]);
    let requests = server.take_requests();
    assert_eq!(requests.len(), 3);
    let etag = requests.get(1).and_then(|request| request.if_match()).map(str::to_owned);
    assert!(etag.is_some_and(|etag| etag.starts_with('"')));
    let ranges: Vec<_> = requests.iter().filter_map(|request| request.header("range")).collect();
    assert_eq!(ranges.first(), Some(&"bytes=10-2999989"));
    // No byte is requested again that had come.
    assert_eq!(ranges.get(1), Some(&"bytes=1000010-2999989"));
}

/// Regression: a 404 whose text was cut was taken for a refusal, and a push failed with 500.
#[tokio::test]
async fn fixed_a_cut_error_is_no_refusal() {
    let server = filled().await;
    let absent = key("absent");
    server.inject(FaultRule::new(S3Fault::CutBody(20)).on(S3Operation::GetObject).first(2));
    assert_eq!(kind(store(&server).get(&absent).await), ErrorKind::NotFound);
    assert_eq!(server.take_requests().len(), 3);
    server.inject(FaultRule::new(S3Fault::CutBody(20)).on(S3Operation::GetObject));
    assert_eq!(kind(store(&server).get(&absent).await), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_body_that_stalls_is_resumed() {
    let server = filled().await;
    let gate = S3Gate::closed();
    let stall = S3Fault::StallBody(500_000, gate.clone());
    server.inject(FaultRule::new(stall).on(S3Operation::GetObject).nth(1));
    assert_eq!(read(&impatient(&server), whole()).await.unwrap(), pattern());
    gate.open();
}

#[tokio::test]
async fn a_stream_whose_resumption_fails_is_resumed_later() {
    let server = filled().await;
    server.inject(FaultRule::new(S3Fault::CutBody(1_000_000)).on(S3Operation::GetObject).nth(1));
    let refuse = S3Fault::Refuse(S3Refusal::SlowDown);
    server.inject(FaultRule::new(refuse).on(S3Operation::GetObject).nth(2));
    assert_eq!(read(&store(&server), whole()).await.unwrap(), pattern());
}

#[tokio::test]
async fn two_objects_are_never_mixed() {
    let server = filled().await;
    let gate = S3Gate::closed();
    server.inject(FaultRule::new(S3Fault::CutBody(1_000_000)).on(S3Operation::GetObject).nth(1));
    server.inject(FaultRule::new(S3Fault::Hold(gate.clone())).on(S3Operation::GetObject).nth(2));
    let reading = tokio::spawn({
        let store = store(&server);
        async move { read(&store, whole()).await }
    });
    gate.arrived(1).await;
    server.insert("data/blob", vec![7; SIZE]);
    gate.open();
    assert_eq!(kind(reading.await.unwrap()), ErrorKind::Precondition);
}

#[tokio::test]
async fn a_connection_that_never_lasts_ends_the_stream_with_an_error() {
    let server = filled().await;
    server.inject(FaultRule::new(S3Fault::CutBody(0)).on(S3Operation::GetObject));
    assert_eq!(kind(read(&impatient(&server), whole()).await), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_record_whose_body_is_cut_is_re_read() {
    let server = filled().await;
    server.inject(FaultRule::new(S3Fault::CutBody(1_000_000)).on(S3Operation::GetObject).nth(1));
    assert_eq!(store(&server).get(&key("blob")).await.unwrap().bytes, pattern());
}

#[tokio::test]
async fn dropping_the_stream_stops_the_reading() {
    let server = server().await;
    server.insert("data/blob", vec![1; 64 * 1024 * 1024]);
    let range = ByteRange { start: 0, end: 64 * 1024 * 1024 };
    let mut stream = store(&server).read(&key("blob"), range).await.unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    server.stop().await;
}

/// What is read ahead of a consumer that waits is what buffers hold, not the object.
#[tokio::test]
async fn a_consumer_that_waits_is_waited_for() {
    let server = server().await;
    let size: usize = 64 * 1024 * 1024;
    server.insert("data/blob", vec![1; size]);
    let range = ByteRange { start: 0, end: size as u64 };
    let store = store(&server);
    let mut stream = store.read(&key("blob"), range).await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    let sent = server.requests().first().unwrap().bytes_out;
    assert!(sent < size as u64, "{sent} of {size} bytes were sent");
    let rest = stream.try_fold(0, |sum, chunk| async move { Ok(sum + chunk.len()) }).await;
    assert_eq!(first.len() + rest.unwrap(), size);
}
