//! Conditional writes whose responses are lost, late, or errors.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_storage::testing::ManualClock;
use jreg_storage::{
    Clock, ErrorKind, PutMode, Result, S3Options, S3Store, SendWindow, Store, Written,
};
use jreg_testkit::s3::{FaultRule, S3Fault, S3Gate, S3Operation, S3Refusal, S3Server};

use super::support::{asked, hasty, hold_put, impatient, key, kind, options, server, store};

const PASSING: [S3Refusal; 5] = [
    S3Refusal::InternalError,
    S3Refusal::SlowDown,
    S3Refusal::Unavailable,
    S3Refusal::TooManyRequests,
    S3Refusal::Conflict,
];

async fn create(store: &S3Store, bytes: &'static str) -> Result<Written> {
    store.put(&key("a"), bytes.into(), PutMode::Create).await
}

async fn swap(store: &S3Store, written: &Written, bytes: &'static str) -> Result<Written> {
    store.put(&key("a"), bytes.into(), PutMode::Match(written.etag.clone())).await
}

/// Makes the next PUT go wrong.
fn fail_next_put(server: &S3Server, fault: S3Fault) {
    server.inject(FaultRule::new(fault).on(S3Operation::PutObject).nth(1));
}

async fn assert_there(store: &S3Store, bytes: &str, written: &Written) {
    let record = store.get(&key("a")).await.unwrap();
    assert_eq!(record.bytes, bytes);
    assert_eq!(record.etag, written.etag);
}

#[tokio::test]
async fn a_create_whose_response_is_lost_is_found_to_have_happened() {
    let server = server().await;
    let store = store(&server);
    fail_next_put(&server, S3Fault::LoseResponse);
    let written = create(&store, "1").await.unwrap();
    assert_eq!(asked(&server), ["PutObject", "GetObject"]);
    assert_there(&store, "1", &written).await;
}

/// Regression: a blob was acknowledged that only a page of a proxy had "stored".
#[tokio::test]
async fn fixed_a_page_with_an_etag_is_no_response_to_a_write() {
    let server = server().await;
    let store = store(&server);
    let page = S3Fault::Refuse(S3Refusal::ForeignPage);
    fail_next_put(&server, page.clone());
    let written = create(&store, "1").await.unwrap();
    assert_there(&store, "1", &written).await;
    fail_next_put(&server, page.clone());
    let other = key("b");
    let error = store.put(&other, "2".into(), PutMode::Overwrite).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(store.get(&other).await.unwrap_err().is_not_found());
    let upload = store.create_multipart(&other, 0, jreg_storage::PART_BYTES_MIN).await.unwrap();
    server.inject(FaultRule::new(page).on(S3Operation::UploadPart).nth(1));
    let error = store.put_part(&upload, 0, "3".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_swap_whose_response_is_lost_is_found_to_have_happened() {
    let server = server().await;
    let store = store(&server);
    let first = create(&store, "1").await.unwrap();
    fail_next_put(&server, S3Fault::LoseResponse);
    let second = swap(&store, &first, "2").await.unwrap();
    assert_there(&store, "2", &second).await;
}

/// What a write relies on may be gone by the time that the machine wakes.
#[tokio::test]
async fn a_write_is_not_sent_again_after_the_machine_slept() {
    let server = server().await;
    let clock = std::sync::Arc::new(server.clock().clone());
    let store = S3Store::open(S3Options { clock, ..options(&server) }).unwrap();
    let gate = S3Gate::closed();
    fail_next_put(&server, S3Fault::Hold(gate.clone()));
    fail_next_put(&server, S3Fault::CutBefore);
    let sleeping = async {
        gate.arrived(1).await;
        server.clock().advance(Duration::from_secs(3600));
        gate.open();
    };
    let (written, ()) = tokio::join!(create(&store, "1"), sleeping);
    assert_eq!(kind(written), ErrorKind::Unavailable);
    assert_eq!(asked(&server), ["PutObject", "GetObject"]);
}

#[tokio::test]
async fn a_write_that_did_not_happen_is_sent_again() {
    for fault in PASSING.map(S3Fault::Refuse).into_iter().chain([S3Fault::CutBefore]) {
        let server = server().await;
        let store = store(&server);
        fail_next_put(&server, fault.clone());
        let first = create(&store, "1").await.unwrap();
        assert_there(&store, "1", &first).await;
        fail_next_put(&server, fault.clone());
        let second = swap(&store, &first, "2").await.unwrap();
        assert_there(&store, "2", &second).await;
    }
}

#[tokio::test]
async fn a_condition_that_fails_after_a_lost_response_is_our_own_success() {
    let server = server().await;
    let store = impatient(&server);
    let (first, applied) = hold_put(&server, 1);
    let (second, _) = hold_put(&server, 2);
    let writing = tokio::spawn({
        let store = store.clone();
        async move { create(&store, "1").await }
    });
    // The second attempt is in flight when the first, abandoned long ago, takes effect.
    second.arrived(1).await;
    first.open();
    applied.arrived(1).await;
    second.open();
    applied.open();
    let written = writing.await.unwrap().unwrap();
    assert_there(&store, "1", &written).await;
}

#[tokio::test]
async fn a_definite_loss_is_a_conflict_after_one_request() {
    let server = server().await;
    let store = store(&server);
    let first = create(&store, "1").await.unwrap();
    server.take_requests();
    assert_eq!(kind(create(&store, "2").await), ErrorKind::AlreadyExists);
    let second = swap(&store, &first, "2").await.unwrap();
    assert_eq!(kind(swap(&store, &first, "3").await), ErrorKind::Precondition);
    assert_eq!(asked(&server), ["PutObject"; 3]);
    assert_there(&store, "2", &second).await;
}

#[tokio::test]
async fn a_conflict_of_requests_is_a_conflict_once_another_has_won() {
    let server = server().await;
    let store = store(&server);
    server.insert("data/a", "other");
    fail_next_put(&server, S3Fault::Refuse(S3Refusal::Conflict));
    assert_eq!(kind(create(&store, "1").await), ErrorKind::AlreadyExists);
}

/// Ours may have been there for a moment, and been seen: no caller may act as if it never existed.
#[tokio::test]
async fn a_lost_response_that_another_write_has_covered_is_no_definite_conflict() {
    let server = server().await;
    let store = store(&server);
    let gate = S3Gate::closed();
    server.inject(FaultRule::new(S3Fault::Hold(gate.clone())).on(S3Operation::GetObject).nth(1));
    fail_next_put(&server, S3Fault::LoseResponse);
    let writing = tokio::spawn({
        let store = store.clone();
        async move { create(&store, "1").await }
    });
    gate.arrived(1).await;
    server.insert("data/a", "other");
    gate.open();
    assert_eq!(kind(writing.await.unwrap()), ErrorKind::Unavailable);
}

/// Of two that race for one version, as Ceph RGW 16 tells the one that lost.
#[tokio::test]
async fn a_loser_without_a_reason_gets_the_conflict() {
    let server = server().await;
    let store = hasty(&server);
    let first = create(&store, "1").await.unwrap();
    let second = swap(&store, &first, "2").await.unwrap();
    server.inject(
        FaultRule::new(S3Fault::RefuseLosers(S3Refusal::Unknown)).on(S3Operation::PutObject),
    );
    server.take_requests();
    assert_eq!(kind(swap(&store, &first, "3").await), ErrorKind::Precondition);
    assert_eq!(asked(&server), ["PutObject", "GetObject"]);
    assert_there(&store, "2", &second).await;
}

/// The version that ours was to replace is two versions ago: ours may have been between.
#[tokio::test]
async fn a_late_loser_without_a_reason_is_left_in_doubt() {
    let server = server().await;
    let store = hasty(&server);
    let first = create(&store, "1").await.unwrap();
    let second = swap(&store, &first, "2").await.unwrap();
    swap(&store, &second, "3").await.unwrap();
    server.inject(
        FaultRule::new(S3Fault::RefuseLosers(S3Refusal::Unknown)).on(S3Operation::PutObject),
    );
    assert_eq!(kind(swap(&store, &first, "4").await), ErrorKind::Unavailable);
}

/// As above, but ours was there indeed, and replaced.
#[tokio::test]
async fn a_swap_whose_response_is_lost_and_that_was_replaced_is_no_conflict() {
    let server = server().await;
    let store = store(&server);
    let first = create(&store, "1").await.unwrap();
    let gate = S3Gate::closed();
    server.inject(FaultRule::new(S3Fault::Hold(gate.clone())).on(S3Operation::GetObject).nth(1));
    fail_next_put(&server, S3Fault::LoseResponse);
    let writing = tokio::spawn({
        let (store, first) = (store.clone(), first.clone());
        async move { swap(&store, &first, "2").await }
    });
    gate.arrived(1).await;
    let ours = server.object("data/a").unwrap().etag;
    let ours = jreg_storage::ETag::new(ours.trim_matches('"'));
    store.put(&key("a"), "3".into(), PutMode::Match(ours)).await.unwrap();
    gate.open();
    assert_eq!(kind(writing.await.unwrap()), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_write_that_arrives_late_never_reverts_a_newer_one() {
    let server = server().await;
    let store = impatient(&server);
    let first = create(&store, "1").await.unwrap();
    let (gate, applied) = hold_put(&server, 1);
    let second = swap(&store, &first, "2").await.unwrap();
    let third = swap(&store, &second, "3").await.unwrap();
    gate.open();
    applied.arrived(1).await;
    assert_there(&store, "3", &third).await;
}

#[tokio::test]
async fn a_delete_whose_response_is_lost_is_found_to_have_happened() {
    let server = server().await;
    let store = store(&server);
    let first = create(&store, "1").await.unwrap();
    server.inject(FaultRule::new(S3Fault::LoseResponse).on(S3Operation::DeleteObject).nth(1));
    store.delete(&key("a"), Some(&first.etag)).await.unwrap();
    assert_eq!(kind(store.get(&key("a")).await), ErrorKind::NotFound);
    assert_eq!(kind(store.delete(&key("a"), Some(&first.etag)).await), ErrorKind::Precondition);
}

#[tokio::test]
async fn a_delete_that_did_not_happen_is_sent_again() {
    for refusal in PASSING {
        let server = server().await;
        let store = store(&server);
        let first = create(&store, "1").await.unwrap();
        let rule = FaultRule::new(S3Fault::Refuse(refusal)).on(S3Operation::DeleteObject).nth(1);
        server.inject(rule);
        store.delete(&key("a"), Some(&first.etag)).await.unwrap();
        assert_eq!(kind(store.get(&key("a")).await), ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn a_store_that_cannot_delete_many_at_once_is_asked_for_each() {
    for refusal in
        [S3Refusal::NotImplemented, S3Refusal::MethodNotAllowed, S3Refusal::InvalidArgument]
    {
        let server = server().await;
        let store = store(&server);
        let keys = ["a", "b", "absent"].map(key);
        for _ in 0..2 {
            server.insert("data/a", "1");
            server.insert("data/b", "2");
            server.insert("data/c", "3");
            server.inject(FaultRule::new(S3Fault::Refuse(refusal)).on(S3Operation::DeleteObjects));
            store.delete_many(&keys).await.unwrap();
            assert_eq!(server.keys(), ["data/c"], "{refusal:?}");
        }
        let asked = asked(&server);
        let together = asked.iter().filter(|asked| *asked == "DeleteObjects").count();
        assert_eq!((together, asked.len()), (1, 7), "{refusal:?}: {asked:?}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_keys_is_not_taken_for_one_of_the_request() {
    let server = server().await;
    let store = store(&server);
    for refusal in [S3Refusal::AccessDenied, S3Refusal::InvalidArgument] {
        let all = server.inject(FaultRule::new(S3Fault::Refuse(refusal)));
        assert_eq!(kind(store.delete_many(&[key("a")]).await), ErrorKind::Refused);
        server.remove(&all);
        server.take_requests();
        store.delete_many(&[key("a")]).await.unwrap();
        assert_eq!(asked(&server), ["DeleteObjects"], "{refusal:?}");
    }
}

/// The store's clock runs away while we are at work.
#[tokio::test]
async fn nothing_is_written_while_the_clocks_are_far_apart() {
    let server = server().await;
    let store = store(&server);
    let first = create(&store, "1").await.unwrap();
    server.clock().advance(Duration::from_secs(100));
    // Reading continues, and is what tells.
    assert_eq!(store.get(&key("a")).await.unwrap().bytes, "1");
    server.take_requests();
    assert_eq!(kind(swap(&store, &first, "2").await), ErrorKind::Unavailable);
    assert_eq!(
        kind(store.put(&key("b"), "1".into(), PutMode::Overwrite).await),
        ErrorKind::Unavailable
    );
    assert_eq!(kind(store.delete(&key("a"), None).await), ErrorKind::Unavailable);
    assert_eq!(asked(&server), [""; 0]);
    server.clock().set(SystemTime::now());
    assert_eq!(store.get(&key("a")).await.unwrap().bytes, "1");
    swap(&store, &first, "2").await.unwrap();
}

#[tokio::test]
async fn a_signature_that_is_refused_for_its_time_is_no_refusal_for_good() {
    let server = server().await;
    let store = store(&server);
    server.inject(FaultRule::new(S3Fault::Refuse(S3Refusal::TimeTooSkewed)));
    assert_eq!(kind(create(&store, "1").await), ErrorKind::Unavailable);
    assert_eq!(asked(&server), ["PutObject"]);
    assert_eq!(kind(store.get(&key("a")).await), ErrorKind::Unavailable);
    assert_eq!(asked(&server), ["GetObject"]);
}

#[tokio::test]
async fn no_fault_is_reported_as_absence_or_conflict() {
    for (refusal, expected) in [
        (S3Refusal::SlowDown, ErrorKind::Throttled),
        (S3Refusal::TooManyRequests, ErrorKind::Throttled),
        (S3Refusal::InternalError, ErrorKind::Unavailable),
        (S3Refusal::Unavailable, ErrorKind::Unavailable),
        (S3Refusal::AccessDenied, ErrorKind::Refused),
    ] {
        let server = server().await;
        let store = hasty(&server);
        server.inject(FaultRule::new(S3Fault::Refuse(refusal)));
        assert_eq!(kind(store.get(&key("a")).await), expected, "{refusal:?}");
        assert_eq!(kind(store.head(&key("a")).await), expected, "{refusal:?}");
        assert_eq!(kind(store.delete(&key("a"), None).await), expected, "{refusal:?}");
        assert_eq!(kind(create(&store, "1").await), expected, "{refusal:?}");
        let listed = store.list(&jreg_storage::ListRequest::below("")).await;
        assert_eq!(kind(listed), expected, "{refusal:?}");
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_no_absent_key() {
    let server = server().await;
    let mut options = super::support::options(&server);
    options.url.bucket = "another".to_owned();
    let store = S3Store::open(options).unwrap();
    assert_eq!(kind(store.get(&key("a")).await), ErrorKind::Refused);
    assert_eq!(kind(store.head(&key("a")).await), ErrorKind::Refused);
    assert_eq!(kind(store.delete(&key("a"), None).await), ErrorKind::Refused);
    assert_eq!(kind(create(&store, "1").await), ErrorKind::Refused);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let server = server().await;
    let store = hasty(&server);
    server.stop().await;
    assert_eq!(kind(store.get(&key("a")).await), ErrorKind::Unavailable);
    assert_eq!(kind(create(&store, "1").await), ErrorKind::Unavailable);
}

/// A machine may sleep between a writer's look at its window and the signing of the request.
#[tokio::test]
async fn a_write_whose_window_has_closed_is_signed_and_not_sent() {
    let server = server().await;
    let store = store(&server);
    let clock = Arc::new(ManualClock::default());
    let length = Duration::from_secs(300);
    let window = SendWindow::new(clock.clone(), clock.monotonic(), clock.now(), length);
    let first = window.clone().scope(store.put(&key("a"), "1".into(), PutMode::Create)).await;
    let first = first.unwrap().etag;
    let keys = server.keys();
    server.take_requests();
    clock.advance(length);
    for (name, mode) in
        [("a", PutMode::Match(first)), ("b", PutMode::Create), ("c", PutMode::Overwrite)]
    {
        let put = window.clone().scope(store.put(&key(name), "2".into(), mode)).await;
        assert_eq!(kind(put), ErrorKind::Unavailable, "{name}");
    }
    assert_eq!(asked(&server), [""; 0], "nothing was sent");
    assert_eq!(server.keys(), keys);
    let read = window.scope(store.get(&key("a"))).await.unwrap();
    assert_eq!(read.bytes, "1", "reads go on");
}
