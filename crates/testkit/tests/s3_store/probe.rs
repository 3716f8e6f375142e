//! What the probe finds out of servers that are honest, and of servers that lie.

use std::time::Duration;

use jreg_storage::{BucketCapabilities, ErrorKind, PutMode, Store};
use jreg_testkit::s3::{
    ConditionalDelete, Conditions, FaultRule, IfMatchForm, Replacement, S3Fault, S3Operation,
    S3Refusal, S3Server, S3Spec, SwapOfNothing,
};

use super::support::{impatient, key, kind, server, store};

async fn probed(change: impl FnOnce(&mut S3Spec)) -> (BucketCapabilities, S3Server) {
    let server = S3Server::start(S3Spec::with(change)).await;
    let capabilities = store(&server).probe().await.unwrap();
    assert!(server.keys().is_empty(), "left behind: {:?}", server.keys());
    (capabilities, server)
}

#[tokio::test]
async fn an_honest_server_can_do_everything() {
    let (found, _server) = probed(|_| {}).await;
    assert!(found.create_once && found.compare_and_swap && found.conditional_delete, "{found}");
    assert!(found.is_shareable() && !found.bare_etags, "{found}");
    assert!(found.clock_difference < Duration::from_secs(60), "{found}");
}

#[tokio::test]
async fn a_server_that_ignores_or_refuses_conditions_is_found_out() {
    for conditions in [Conditions::Ignored, Conditions::Refused] {
        let (found, _server) = probed(|spec| spec.conditions = conditions).await;
        assert!(!found.create_once && !found.compare_and_swap, "{found}");
        assert!(!found.conditional_delete && !found.is_shareable(), "{found}");
    }
}

#[tokio::test]
async fn a_server_that_is_right_one_at_a_time_is_found_out() {
    let conditions = Conditions::OneAtATime(Duration::from_secs(2));
    let (found, _server) = probed(|spec| spec.conditions = conditions).await;
    assert!(!found.create_once && !found.compare_and_swap, "{found}");
}

#[tokio::test]
async fn a_server_without_conditional_delete_is_found_out() {
    for delete in [ConditionalDelete::Ignored, ConditionalDelete::Refused] {
        let (found, _server) = probed(|spec| spec.conditional_delete = delete).await;
        assert!(found.is_shareable() && !found.conditional_delete, "{found}");
    }
}

#[tokio::test]
async fn a_server_that_wants_bare_etags_is_spoken_to_so() {
    let server = S3Server::start(S3Spec::with(|spec| spec.if_match = IfMatchForm::Bare)).await;
    let store = store(&server);
    let found = store.probe().await.unwrap();
    assert!(found.bare_etags && found.is_shareable() && found.conditional_delete, "{found}");
    let first = store.put(&key("a"), "1".into(), PutMode::Create).await.unwrap();
    store.put(&key("a"), "2".into(), PutMode::Match(first.etag)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_swaps_what_is_missing_is_found_out() {
    let written = SwapOfNothing::Written;
    let (found, _server) = probed(|spec| spec.swap_of_nothing = written).await;
    assert!(!found.swap_needs_key && found.is_shareable() && !found.may_remove_records());
    let (found, _server) = probed(|_| {}).await;
    assert!(found.swap_needs_key && found.may_remove_records());
}

#[tokio::test]
async fn a_swap_of_an_absent_key_whose_response_is_lost_is_found_out_too() {
    let server =
        S3Server::start(S3Spec::with(|spec| spec.swap_of_nothing = SwapOfNothing::Written)).await;
    // After the 32 writers that race and the two versions between them.
    let lost = FaultRule::new(S3Fault::LoseResponse).on(S3Operation::PutObject).nth(35);
    let lost = server.inject(lost);
    assert!(!store(&server).probe().await.unwrap().swap_needs_key);
    assert_eq!(lost.hits(), 1);
}

/// Conditions do not help: a swap relies on what was read, and that was older than its version.
#[tokio::test]
async fn a_server_that_shows_old_bytes_with_the_new_etag_is_found_out() {
    let torn = Replacement::EtagFirst(Duration::from_millis(20));
    let server = S3Server::start(S3Spec::with(|spec| spec.replacement = torn)).await;
    let error = store(&server).probe().await.unwrap_err();
    assert!(server.keys().is_empty(), "left behind: {:?}", server.keys());
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = jreg_storage::error_chain(&error);
    assert!(text.contains("the bytes of a version with the ETag of another"), "{text}");
}

#[tokio::test]
async fn a_clock_that_is_ahead_is_found_out() {
    let server = server().await;
    server.clock().advance(Duration::from_secs(30));
    let found = store(&server).probe().await.unwrap();
    let difference = found.clock_difference.as_secs();
    assert!((28..=32).contains(&difference), "{found}");
}

#[tokio::test]
async fn a_clock_that_is_far_off_ends_the_probe_before_it_writes() {
    let server = server().await;
    server.clock().advance(Duration::from_secs(100));
    let store = store(&server);
    assert_eq!(kind(store.probe().await), ErrorKind::Unavailable);
    let difference = store.health().clock_difference.unwrap().as_secs();
    assert!((98..=102).contains(&difference), "{difference}");
    let asked = server.take_requests();
    let [list] = asked.as_slice() else { panic!("{asked:?}") };
    // The rights may end at the prefix.
    assert!(list.query.contains("prefix=data%2Fprobe%2F"), "{}", list.query);
}

/// As on a store that takes one write a second to a key.
#[tokio::test]
async fn a_race_that_is_throttled_is_run_again() {
    let server = server().await;
    let throttled =
        FaultRule::new(S3Fault::Refuse(S3Refusal::TooManyRequests)).on(S3Operation::PutObject);
    let throttled = server.inject(throttled.first(100));
    assert!(store(&server).probe().await.unwrap().is_shareable());
    assert_eq!(throttled.hits(), 100);
}

#[tokio::test]
async fn a_winner_whose_response_was_lost_has_won() {
    let server = server().await;
    server.inject(FaultRule::new(S3Fault::LoseResponse).on(S3Operation::PutObject).first(16));
    let found = store(&server).probe().await.unwrap();
    assert!(found.is_shareable() && found.may_remove_records(), "{found}");
}

#[tokio::test]
async fn a_probe_that_meets_a_fault_is_no_finding() {
    let server = server().await;
    server.inject(FaultRule::new(S3Fault::Refuse(S3Refusal::AccessDenied)));
    assert_eq!(kind(impatient(&server).probe().await), ErrorKind::Refused);
    server.remove_all();
    server.inject(FaultRule::new(S3Fault::Refuse(S3Refusal::SlowDown)).first(5));
    assert!(store(&server).probe().await.unwrap().is_shareable());
}
