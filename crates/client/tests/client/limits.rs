//! 429, the circuit breaker, and the client's own limits.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use futures::future::join_all;
use jreg_client::{BlobRequest, PageQuery, UpstreamError, UpstreamErrorKind};
use jreg_testkit::Image;
use jreg_testkit::upstream::{
    RequestKind, RulePick, ScriptedUpstream, TokenService, UpstreamAuth, UpstreamFault,
    UpstreamRule,
};

use super::{client, client_with, digest, kind, name, read, reference};

async fn upstream() -> ScriptedUpstream {
    let upstream = ScriptedUpstream::start().await;
    upstream.add_image(super::REPOSITORY, Some("v1"), &Image::plain(1));
    upstream
}

#[tokio::test]
async fn after_a_429_nothing_is_sent_until_retry_after() {
    let upstream = upstream().await;
    upstream.add_rule(
        UpstreamRule::new(UpstreamFault::too_many_requests(Some(3))).pick(RulePick::First(1)),
    );
    let client = client(&upstream);
    let impatient = client.with_patience(Duration::ZERO);
    let start = Instant::now();
    for _ in 0..2 {
        let error = kind(impatient.head_manifest(&name(), &reference("v1")).await);
        assert!(
            matches!(error, UpstreamErrorKind::TooManyRequests { retry_after: Some(_) }),
            "{error}"
        );
    }
    assert_eq!(upstream.requests().len(), 1);
    client.head_manifest(&name(), &reference("v1")).await.unwrap();
    assert!(start.elapsed() > Duration::from_millis(2800), "{:?}", start.elapsed());
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn every_request_succeeds_though_every_second_is_429() {
    let upstream = upstream().await;
    upstream.add_rule(
        UpstreamRule::new(UpstreamFault::too_many_requests(Some(0))).pick(RulePick::Every(2)),
    );
    let client =
        client_with(&upstream, |options| options.timeouts.patience = Duration::from_secs(30));
    let (repository, tag) = (name(), reference("v1"));
    let requests = (0..20).map(|_| client.get_manifest(&repository, &tag));
    let failed: Vec<_> = join_all(requests).await.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test]
async fn a_retry_after_beyond_the_patience_is_not_waited_for() {
    let upstream = upstream().await;
    upstream.add_rule(UpstreamRule::new(UpstreamFault::too_many_requests(Some(3600))));
    let error = kind(client(&upstream).get_manifest(&name(), &reference("v1")).await);
    assert!(
        matches!(error, UpstreamErrorKind::TooManyRequests { retry_after: Some(wait) } if wait.as_secs() > 3500)
    );
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn failures_in_a_row_open_the_circuit() {
    let upstream = upstream().await;
    upstream.add_rule(UpstreamRule::new(UpstreamFault::status(500)).pick(RulePick::First(5)));
    let client = client(&upstream);
    let impatient = client.with_patience(Duration::ZERO);
    for _ in 0..20 {
        assert!(kind(impatient.head_manifest(&name(), &reference("v1")).await).is_temporary());
    }
    assert_eq!(upstream.requests().len(), 5);
    client.head_manifest(&name(), &reference("v1")).await.unwrap();
    impatient.head_manifest(&name(), &reference("v1")).await.unwrap();
}

#[tokio::test]
async fn at_most_so_many_requests_are_in_flight_bodies_included() {
    let upstream = upstream().await;
    let hex = upstream.add_blob(super::REPOSITORY, vec![7; 10_000]);
    let request = BlobRequest::new(digest(&hex));
    let client = client_with(&upstream, |options| options.limits.connections_max = 2);
    let first = client.open_blob(&name(), &request).await.unwrap();
    let second = client.open_blob(&name(), &request).await.unwrap();
    let error =
        kind(client.with_patience(Duration::ZERO).head_manifest(&name(), &reference("v1")).await);
    assert_eq!(error, UpstreamErrorKind::TooManyRequests { retry_after: None });
    assert_eq!(upstream.count(RequestKind::ManifestHead), 0);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.head_manifest(&name(), &reference("v1")).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    drop(first);
    waiting.await.unwrap().unwrap();
    drop(second);
}

#[tokio::test]
async fn at_most_so_many_requests_are_sent_per_second() {
    let upstream = upstream().await;
    let client =
        client_with(&upstream, |options| options.limits.requests_per_second = NonZeroU32::new(20));
    let start = Instant::now();
    let (repository, tag) = (name(), reference("v1"));
    let requests = (0..41).map(|_| client.head_manifest(&repository, &tag));
    assert!(join_all(requests).await.iter().all(Result::is_ok));
    // The first second's come at once.
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
    // Many at once: on a busy machine a token may have come for one of them.
    let impatient = client.with_patience(Duration::ZERO);
    let requests = (0..100).map(|_| impatient.head_manifest(&repository, &tag));
    let mut refused = join_all(requests).await.into_iter().filter_map(Result::err);
    let error = refused.next().expect("one comes too early").kind;
    assert!(
        matches!(error, UpstreamErrorKind::TooManyRequests { retry_after: Some(_) }),
        "{error}"
    );
}

/// Regression: five retries of one request opened the breaker for all others.
#[tokio::test]
async fn fixed_retries_of_one_request_count_as_one_failure() {
    for is_token in [false, true] {
        let upstream = upstream().await;
        let rule = UpstreamRule::new(UpstreamFault::status(500));
        if is_token {
            upstream.set_auth(UpstreamAuth::Bearer(TokenService::anonymous()));
            upstream.add_rule(rule.on(RequestKind::Token));
        } else {
            upstream.add_rule(rule.on(RequestKind::ManifestHead));
        }
        let client = client(&upstream);
        let patient = client.with_patience(Duration::from_millis(500));
        for _ in 0..4 {
            assert!(kind(patient.head_manifest(&name(), &reference("v1")).await).is_temporary());
        }
        assert!(upstream.requests().len() > 8, "{:?}", upstream.counts());
        upstream.clear_rules();
        let impatient = client.with_patience(Duration::ZERO);
        impatient.head_manifest(&name(), &reference("v1")).await.unwrap();
    }
}

/// Regression: the storage behind a registry failed, and no manifest of the registry was to be had either.
#[tokio::test]
async fn fixed_failures_of_another_host_do_not_stop_requests_to_this_one() {
    let (upstream, other) = (upstream().await, ScriptedUpstream::start().await);
    let hex = upstream.add_blob(super::REPOSITORY, vec![7; 100]);
    let request = BlobRequest::new(digest(&hex));
    let gone = ScriptedUpstream::start().await.url();
    let faults = [UpstreamFault::status(503), UpstreamFault::too_many_requests(Some(60))];
    let faults = faults.into_iter().chain([UpstreamFault::NoResponse]).map(Some).chain([None]);
    for fault in faults {
        upstream.clear_rules();
        other.clear_rules();
        let to = if fault.is_some() { other.url() } else { gone.clone() };
        upstream.add_rule(UpstreamRule::new(UpstreamFault::Redirect(to)).on(RequestKind::BlobGet));
        fault.clone().into_iter().for_each(|fault| other.add_rule(UpstreamRule::new(fault)));
        let impatient = client(&upstream).with_patience(Duration::ZERO);
        for _ in 0..6 {
            let error = kind(impatient.open_blob(&name(), &request).await.map(drop));
            assert!(error.is_temporary(), "{fault:?}: {error}");
        }
        impatient.head_manifest(&name(), &reference("v1")).await.unwrap();
        assert_eq!(upstream.count(RequestKind::BlobGet), 6, "{fault:?}");
        upstream.clear_requests();
    }
}

/// Regression: one byte within each idle timeout kept a request in flight for hours.
#[tokio::test]
async fn fixed_bodies_that_are_read_whole_end_in_time() {
    let upstream = upstream().await;
    upstream.set_auth(UpstreamAuth::Bearer(TokenService::anonymous()));
    let slow = UpstreamFault::Slow { chunk: 1, pause: Duration::from_millis(100) };
    let client =
        client_with(&upstream, |options| options.timeouts.body = Duration::from_millis(700));
    let check = |error: UpstreamError, began: Instant| {
        assert!(matches!(error.kind, UpstreamErrorKind::Timeout { .. }), "{error}");
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    };
    upstream.add_rule(UpstreamRule::new(slow.clone()).on(RequestKind::Token));
    let began = Instant::now();
    let impatient = client.with_patience(Duration::ZERO);
    check(impatient.get_manifest(&name(), &reference("v1")).await.unwrap_err(), began);
    upstream.clear_rules();
    client.ping().await.unwrap();
    upstream.add_rule(UpstreamRule::new(slow));
    let began = Instant::now();
    check(client.get_manifest(&name(), &reference("v1")).await.unwrap_err(), began);
    let began = Instant::now();
    check(client.tags(&name(), &PageQuery::default()).await.unwrap_err(), began);
    let began = Instant::now();
    check(client.catalog(&PageQuery::default()).await.unwrap_err(), began);
    let subject = digest(&Image::plain(1).manifest.digest());
    let began = Instant::now();
    check(client.referrers(&name(), &subject, None).await.unwrap_err(), began);
    let hurried = client.in_a_hurry(Duration::from_millis(300));
    let began = Instant::now();
    check(hurried.get_manifest(&name(), &reference("v1")).await.unwrap_err(), began);
    assert!(began.elapsed() < Duration::from_millis(690), "{:?}", began.elapsed());
}

/// Regression: a blob at a byte per second, or with one byte per connection, occupied a request for ever.
#[tokio::test]
async fn fixed_blob_below_the_minimum_rate_ends() {
    let upstream = upstream().await;
    let hex = upstream.add_blob(super::REPOSITORY, vec![7; 10_000]);
    let request = BlobRequest::new(digest(&hex));
    for fault in [
        UpstreamFault::Slow { chunk: 10, pause: Duration::from_millis(100) },
        UpstreamFault::ResetAfter(1),
    ] {
        upstream.clear_rules();
        upstream.add_rule(UpstreamRule::new(fault.clone()).on(RequestKind::BlobGet));
        let client = client_with(&upstream, |options| {
            options.timeouts.blob_rate_window = Duration::from_millis(700);
            options.limits.blob_rate_min = 4096;
        });
        let began = Instant::now();
        let error = kind(read(&client, &request).await);
        assert!(matches!(error, UpstreamErrorKind::Timeout { .. }), "{fault:?}: {error}");
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    }
}
