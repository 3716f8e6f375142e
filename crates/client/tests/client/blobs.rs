//! Blobs: whole, in parts, resumed, and wrong.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use jreg_client::{BlobRequest, ByteRange, CredentialSource, UpstreamClient, UpstreamErrorKind};
use jreg_testkit::upstream::{
    RequestKind, RulePick, ScriptedUpstream, UpstreamFault, UpstreamRule,
};
use jreg_testkit::{Rng, sha512};

use super::{client, client_with, digest, kind, name, options, read};

const SIZE: usize = 300_000;

/// An upstream with a blob, and a request for it.
async fn upstream() -> (ScriptedUpstream, Bytes, BlobRequest) {
    let upstream = ScriptedUpstream::start().await;
    let bytes = Rng::new(7).bytes(SIZE);
    let hex = upstream.add_blob(super::REPOSITORY, bytes.clone());
    (upstream, bytes, BlobRequest::new(digest(&hex)))
}

fn on_get(fault: UpstreamFault) -> UpstreamRule {
    UpstreamRule::new(fault).on(RequestKind::BlobGet)
}

#[tokio::test]
async fn a_blob_is_read_whole_and_in_parts() {
    let (upstream, bytes, request) = upstream().await;
    let client = client(&upstream);
    assert_eq!(client.head_blob(&name(), &request.digest).await, Ok(SIZE as u64));
    assert_eq!(read(&client, &request).await.unwrap(), bytes);
    assert_eq!(read(&client, &request.clone().with_size(SIZE as u64)).await.unwrap(), bytes);
    let by_sha512 = BlobRequest::new(digest(&sha512(&bytes)));
    assert_eq!(read(&client, &by_sha512).await.unwrap(), bytes);
    for (start, end) in [
        (0, Some(1)),
        (10, Some(20)),
        (299_990, None),
        (299_990, Some(400_000)),
        (0, Some(300_000)),
    ] {
        let part = request.clone().with_range(ByteRange { start, end });
        let blob = client.open_blob(&name(), &part).await.unwrap();
        let last = end.unwrap_or(u64::MAX).min(SIZE as u64);
        assert_eq!((blob.size(), blob.start(), blob.end()), (Some(SIZE as u64), start, Some(last)));
        let read: Vec<Bytes> = blob.into_stream().try_collect().await.unwrap();
        let expected = &bytes[usize::try_from(start).unwrap()..usize::try_from(last).unwrap()];
        assert_eq!(read.concat(), expected);
    }
    for start in [SIZE as u64, u64::MAX - 1] {
        let beyond = request.clone().with_range(ByteRange { start, end: None });
        assert_eq!(kind(read(&client, &beyond).await), UpstreamErrorKind::RangeNotSatisfiable);
    }
    assert!(client.statistics().bytes >= 3 * SIZE as u64);
}

#[tokio::test]
async fn an_empty_blob_is_one() {
    let upstream = ScriptedUpstream::start().await;
    let hex = upstream.add_blob(super::REPOSITORY, Bytes::new());
    let client = client(&upstream);
    assert_eq!(read(&client, &BlobRequest::new(digest(&hex)).with_size(0)).await, Ok(Vec::new()));
    assert_eq!(client.head_blob(&name(), &digest(&hex)).await, Ok(0));
    upstream.add_rule(UpstreamRule::new(UpstreamFault::status(405)).on(RequestKind::BlobHead));
    assert_eq!(client.head_blob(&name(), &digest(&hex)).await, Ok(0));
}

#[tokio::test]
async fn a_head_that_says_no_size_is_followed_by_the_first_byte() {
    let (upstream, _, request) = upstream().await;
    for fault in
        [UpstreamFault::NoContentLength, UpstreamFault::status(405), UpstreamFault::status(501)]
    {
        upstream.clear_rules();
        upstream.clear_requests();
        upstream.add_rule(UpstreamRule::new(fault).on(RequestKind::BlobHead));
        assert_eq!(client(&upstream).head_blob(&name(), &request.digest).await, Ok(SIZE as u64));
        let ranges: Vec<_> =
            upstream.requests().into_iter().filter_map(|request| request.range).collect();
        assert_eq!(ranges, ["bytes=0-0"]);
    }
}

#[tokio::test]
async fn a_blob_that_breaks_off_is_resumed_where_it_did() {
    let (upstream, bytes, request) = upstream().await;
    for fault in [UpstreamFault::ResetAfter(100_000), UpstreamFault::StallAfter(100_000)] {
        upstream.clear_rules();
        upstream.clear_requests();
        upstream.add_rule(on_get(fault).pick(RulePick::First(2)));
        let client = client(&upstream);
        assert_eq!(read(&client, &request).await.unwrap(), bytes);
        let ranges: Vec<_> = upstream.requests().into_iter().map(|request| request.range).collect();
        let range = |text: &str| Some(text.to_owned());
        assert_eq!(ranges, [None, range("bytes=100000-299999"), range("bytes=200000-299999")]);
        assert_eq!(client.statistics().resumes, 2);
    }
    upstream.clear_rules();
    upstream.clear_requests();
    upstream.add_rule(on_get(UpstreamFault::ResetAfter(10)).pick(RulePick::First(1)));
    let part = request.with_range(ByteRange { start: 1000, end: Some(2000) });
    assert_eq!(read(&client(&upstream), &part).await.unwrap(), bytes[1000..2000]);
    assert_eq!(upstream.requests()[1].range.as_deref(), Some("bytes=1010-1999"));
}

#[tokio::test]
async fn resuming_ends_when_nothing_arrives() {
    let (upstream, _, request) = upstream().await;
    upstream.add_rule(on_get(UpstreamFault::ResetAfter(0)));
    let client = client_with(&upstream, |options| options.limits.resumes_max = 3);
    let error = kind(read(&client, &request).await);
    assert!(matches!(error, UpstreamErrorKind::Unavailable { .. }), "{error}");
    assert!(upstream.count(RequestKind::BlobGet) <= 8, "{}", upstream.count(RequestKind::BlobGet));
}

#[tokio::test]
async fn a_blob_without_a_length_is_read_and_resumed() {
    let (upstream, bytes, request) = upstream().await;
    upstream.add_rule(on_get(UpstreamFault::NoContentLength));
    let client = client(&upstream);
    let blob = client.open_blob(&name(), &request).await.unwrap();
    assert_eq!(blob.size(), None);
    drop(blob);
    assert_eq!(read(&client, &request).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_server_without_ranges_is_read_again_and_only_the_rest_is_taken() {
    let (upstream, bytes, request) = upstream().await;
    upstream.add_rule(on_get(UpstreamFault::ResetAfter(100_000)).pick(RulePick::First(1)));
    upstream.add_rule(on_get(UpstreamFault::NoRanges));
    let client = client(&upstream);
    assert_eq!(read(&client, &request).await.unwrap(), bytes);
    let part = request.with_range(ByteRange { start: 1000, end: Some(200_000) });
    assert_eq!(read(&client, &part).await.unwrap(), bytes[1000..200_000]);
}

#[tokio::test]
async fn another_part_than_was_requested_is_refused() {
    let (upstream, _, request) = upstream().await;
    let part = request.clone().with_range(ByteRange { start: 1000, end: Some(2000) });
    upstream.add_rule(on_get(UpstreamFault::OtherRange));
    let error = kind(read(&client(&upstream), &part).await);
    assert!(matches!(error, UpstreamErrorKind::Protocol { .. }), "{error}");
    // The same when it is resumed; and then the total must be the same.
    for (fault, is_expected) in [
        (
            UpstreamFault::OtherRange,
            (|kind| matches!(kind, UpstreamErrorKind::Protocol { .. })) as fn(&_) -> bool,
        ),
        (UpstreamFault::OtherTotal, |kind| matches!(kind, UpstreamErrorKind::WrongSize { .. })),
    ] {
        upstream.clear_rules();
        upstream.add_rule(on_get(UpstreamFault::ResetAfter(100_000)).pick(RulePick::First(1)));
        upstream.add_rule(on_get(fault.clone()));
        let error = kind(read(&client(&upstream), &request).await);
        assert!(is_expected(&error), "{fault:?}: {error}");
    }
}

#[tokio::test]
async fn wrong_bytes_are_known_at_the_end_and_the_url_is_left_out() {
    let (upstream, bytes, request) = upstream().await;
    upstream.add_rule(on_get(UpstreamFault::WrongBytes).pick(RulePick::First(1)));
    let client =
        client_with(&upstream, |options| options.limits.mismatch_pause = Duration::from_secs(2));
    let error = kind(read(&client, &request).await);
    assert!(matches!(error, UpstreamErrorKind::WrongDigest { .. }), "{error}");
    let error = kind(read(&client.with_patience(Duration::ZERO), &request).await);
    assert!(matches!(error, UpstreamErrorKind::Unavailable { .. }), "{error}");
    assert_eq!(upstream.count(RequestKind::BlobGet), 1);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(read(&client, &request).await.unwrap(), bytes);
}

/// What one repository has wrong, another may have right; and the request that is left out is not tried again and again.
#[tokio::test]
async fn wrong_bytes_of_one_repository_are_no_reason_to_leave_out_another() {
    let (upstream, bytes, request) = upstream().await;
    upstream.add_blob("library/other", bytes.clone());
    upstream.add_rule(on_get(UpstreamFault::WrongBytes).pick(RulePick::First(1)));
    let client = client(&upstream);
    let error = kind(read(&client, &request).await);
    assert!(matches!(error, UpstreamErrorKind::WrongDigest { .. }), "{error}");
    let other = "library/other".parse().unwrap();
    let mut blob = client.open_blob(&other, &request).await.unwrap();
    let mut received = Vec::new();
    while let Some(chunk) = blob.next_chunk().await.unwrap() {
        received.extend_from_slice(&chunk);
    }
    assert_eq!(received, bytes);
    let error = kind(read(&client, &request).await);
    assert!(matches!(error, UpstreamErrorKind::Unavailable { .. }), "{error}");
    assert_eq!(upstream.count(RequestKind::BlobGet), 2);
}

#[tokio::test]
async fn a_wrong_size_is_known_before_the_first_byte() {
    let (upstream, bytes, request) = upstream().await;
    let expected = SIZE as u64;
    for (fault, actual) in
        [(UpstreamFault::LongBody(5), expected + 5), (UpstreamFault::ShortBody(5), expected - 5)]
    {
        upstream.clear_rules();
        upstream.add_rule(on_get(fault));
        let opened =
            client(&upstream).open_blob(&name(), &request.clone().with_size(expected)).await;
        assert_eq!(
            opened.map(|_| ()).unwrap_err().kind,
            UpstreamErrorKind::WrongSize { expected, actual }
        );
    }
    // Without a length, as soon as there are more bytes.
    upstream.clear_rules();
    upstream.add_rule(on_get(UpstreamFault::NoContentLength));
    let short = request.clone().with_size(expected - 5);
    let error = kind(read(&client(&upstream), &short).await);
    assert!(matches!(error, UpstreamErrorKind::WrongSize { .. }), "{error}");
    // Another URL is tried.
    let other = ScriptedUpstream::start().await;
    other.add_blob(super::REPOSITORY, bytes.clone());
    upstream.clear_rules();
    upstream.add_rule(on_get(UpstreamFault::LongBody(5)));
    let both = options([&upstream.url(), &other.url()], CredentialSource::Anonymous);
    let client = UpstreamClient::new(both).unwrap();
    assert_eq!(read(&client, &request.with_size(expected)).await.unwrap(), bytes);
}

/// Regression: without a pause after wrong content, a URL was asked for it again without end.
#[tokio::test]
async fn fixed_wrong_content_is_requested_once_whatever_the_pause() {
    let size = SIZE as u64;
    let part =
        |request: BlobRequest| request.with_range(ByteRange { start: 1000, end: Some(2000) });
    let whole = |request: BlobRequest| request;
    let encoded = UpstreamFault::Header("content-encoding".to_owned(), "gzip".to_owned());
    let rows: [(UpstreamFault, fn(BlobRequest) -> BlobRequest); 8] = [
        (UpstreamFault::LongBody(5), whole),
        (UpstreamFault::ShortBody(5), whole),
        (UpstreamFault::WrongDigestHeader, whole),
        (UpstreamFault::WrongBytes, whole),
        (encoded, whole),
        (UpstreamFault::OtherRange, part),
        (UpstreamFault::OtherTotal, part),
        (UpstreamFault::status(416), part),
    ];
    for (fault, change) in rows {
        let (upstream, _, request) = upstream().await;
        upstream.add_rule(on_get(fault.clone()));
        let client =
            client_with(&upstream, |options| options.limits.mismatch_pause = Duration::ZERO);
        let request = change(request.with_size(size));
        let reading = tokio::time::timeout(Duration::from_secs(20), read(&client, &request));
        let error = kind(reading.await.expect("it ends"));
        assert!(!error.is_temporary(), "{fault:?}: {error}");
        assert_eq!(upstream.count(RequestKind::BlobGet), 1, "{fault:?}");
    }
    // The same while it is resumed; and each URL is asked once.
    let (first, bytes, request) = upstream().await;
    let second = ScriptedUpstream::start().await;
    second.add_blob(super::REPOSITORY, bytes);
    second.add_rule(on_get(UpstreamFault::OtherTotal));
    first.add_rule(on_get(UpstreamFault::ResetAfter(100_000)).pick(RulePick::First(1)));
    first.add_rule(on_get(UpstreamFault::OtherTotal));
    let mut both = options([&first.url(), &second.url()], CredentialSource::Anonymous);
    both.limits.mismatch_pause = Duration::ZERO;
    let client = UpstreamClient::new(both).unwrap();
    let reading = tokio::time::timeout(Duration::from_secs(20), read(&client, &request));
    let error = kind(reading.await.expect("it ends"));
    assert!(matches!(error, UpstreamErrorKind::WrongSize { .. }), "{error}");
    let counts = (first.count(RequestKind::BlobGet), second.count(RequestKind::BlobGet));
    assert_eq!(counts, (2, 1));
}

/// Regression: a blob of which each connection brought a byte cost a request for each byte.
#[tokio::test]
async fn fixed_resumptions_that_bring_next_to_nothing_end() {
    let (upstream, bytes, request) = upstream().await;
    let resumed = |resumes_max| {
        client_with(&upstream, |options| {
            options.limits.resumes_max = resumes_max;
            options.limits.blob_rate_min = 0;
        })
    };
    upstream.add_rule(on_get(UpstreamFault::ResetAfter(1)));
    let error = kind(read(&resumed(3), &request).await);
    assert!(matches!(error, UpstreamErrorKind::Unavailable { .. }), "{error}");
    assert_eq!(upstream.count(RequestKind::BlobGet), 4);
    // What brings enough goes on.
    upstream.clear_rules();
    upstream.add_rule(on_get(UpstreamFault::ResetAfter(70_000)));
    assert_eq!(read(&resumed(1), &request).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_wrong_digest_header_is_known_before_the_first_byte() {
    let (upstream, _, request) = upstream().await;
    upstream.add_rule(UpstreamRule::new(UpstreamFault::WrongDigestHeader));
    let client = client(&upstream);
    for error in [
        kind(client.head_blob(&name(), &request.digest).await),
        client.open_blob(&name(), &request).await.map(|_| ()).unwrap_err().kind,
    ] {
        assert!(matches!(error, UpstreamErrorKind::WrongDigest { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_slow_body_has_no_total_timeout() {
    let (upstream, bytes, request) = upstream().await;
    upstream
        .add_rule(on_get(UpstreamFault::Slow { chunk: 60_000, pause: Duration::from_millis(300) }));
    let client = client_with(&upstream, |options| {
        options.timeouts.response = Duration::from_millis(900);
        options.timeouts.patience = Duration::from_millis(900);
        options.timeouts.idle = Duration::from_secs(30);
    });
    let start = Instant::now();
    assert_eq!(read(&client, &request).await.unwrap(), bytes);
    assert!(start.elapsed() > Duration::from_secs(1));
    assert_eq!(upstream.count(RequestKind::BlobGet), 1);
}

#[tokio::test]
async fn a_body_that_is_encoded_is_refused() {
    let (upstream, _, request) = upstream().await;
    upstream
        .add_rule(on_get(UpstreamFault::Header("content-encoding".to_owned(), "gzip".to_owned())));
    let error = kind(read(&client(&upstream), &request).await);
    assert!(matches!(error, UpstreamErrorKind::Protocol { .. }), "{error}");
}
