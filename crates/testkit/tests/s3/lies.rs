//! Servers that lie, each in its own way.

use std::time::Duration;

use jreg_testkit::s3::{
    ConditionalDelete, Conditions, FaultRule, IfMatchForm, S3Fault, S3Refusal, SwapOfNothing,
};

use crate::support::*;

#[tokio::test]
async fn conditions_can_be_ignored() {
    let (server, client) = start_with(|spec| spec.conditions = Conditions::Ignored).await;
    put(&client, "k", "old").await;
    let create = request(&client, "PUT", "k").header("If-None-Match", "*").body("created");
    assert_eq!(ask(&client, create).await.status, 200);
    let swap = request(&client, "PUT", "k").header("If-Match", "\"other\"").body("swapped");
    assert_eq!(ask(&client, swap).await.status, 200);
    assert_eq!(&*server.object("k").unwrap().bytes, b"swapped");
    let delete = request(&client, "DELETE", "k").header("If-Match", "\"other\"");
    assert_eq!(ask(&client, delete).await.status, 204);
    assert!(server.keys().is_empty());
}

#[tokio::test]
async fn conditions_can_hold_one_at_a_time_only() {
    // Waited for only if the second writer does not come, which would fail the test.
    let window = Duration::from_secs(60);
    let (_server, client) =
        start_with(|spec| spec.conditions = Conditions::OneAtATime(window)).await;
    let create = || {
        let create = request(&client, "PUT", "k").header("If-None-Match", "*").body("v");
        ask(&client, create)
    };
    let (one, two) = tokio::join!(create(), create());
    assert_eq!((one.status, two.status), (200, 200));
    refused(&create().await, 412, "PreconditionFailed");
}

#[tokio::test]
async fn a_writer_alone_is_not_waited_with_for_longer_than_the_window() {
    let window = Duration::ZERO;
    let (_server, client) =
        start_with(|spec| spec.conditions = Conditions::OneAtATime(window)).await;
    let create = request(&client, "PUT", "k").header("If-None-Match", "*").body("v");
    assert_eq!(ask(&client, create).await.status, 200);
}

#[tokio::test]
async fn the_condition_of_a_delete_can_be_ignored_or_refused() {
    let delete = |form| async move {
        let (server, client) = start_with(|spec| spec.conditional_delete = form).await;
        put(&client, "k", "v").await;
        let delete = request(&client, "DELETE", "k").header("If-Match", "\"other\"");
        let response = ask(&client, delete).await;
        (response, server.keys().len())
    };
    let (ignored, left) = delete(ConditionalDelete::Ignored).await;
    assert_eq!((ignored.status, left), (204, 0));
    let (response, left) = delete(ConditionalDelete::Refused).await;
    refused(&response, 501, "NotImplemented");
    assert_eq!(left, 1);
}

#[tokio::test]
async fn a_delete_without_condition_is_never_refused() {
    let (server, client) =
        start_with(|spec| spec.conditional_delete = ConditionalDelete::Refused).await;
    put(&client, "k", "v").await;
    assert_eq!(ask(&client, request(&client, "DELETE", "k")).await.status, 204);
    assert!(server.keys().is_empty());
}

#[tokio::test]
async fn a_swap_of_nothing_can_be_written() {
    let (server, client) = start_with(|spec| spec.swap_of_nothing = SwapOfNothing::Written).await;
    let swap = || request(&client, "PUT", "k").header("If-Match", "\"other\"").body("v");
    assert_eq!(ask(&client, swap()).await.status, 200);
    refused(&ask(&client, swap()).await, 412, "PreconditionFailed");
    assert_eq!(server.keys(), ["k"]);
}

#[tokio::test]
async fn losers_can_get_another_error() {
    let (server, client) = start_with(|_| {}).await;
    server.inject(FaultRule::new(S3Fault::RefuseLosers(S3Refusal::Unknown)));
    let create = || request(&client, "PUT", "k").header("If-None-Match", "*").body("v");
    assert_eq!(ask(&client, create()).await.status, 200);
    refused(&ask(&client, create()).await, 500, "UnknownError");
}

#[tokio::test]
async fn an_etag_can_be_wanted_without_quotes() {
    let (server, client) = start_with(|spec| spec.if_match = IfMatchForm::Bare).await;
    let etag = put(&client, "k", "old").await;
    let swap = |etag: &str| request(&client, "PUT", "k").header("If-Match", etag).body("new");
    refused(&ask(&client, swap(&etag)).await, 412, "PreconditionFailed");
    assert_eq!(ask(&client, swap(etag.trim_matches('"'))).await.status, 200);
    assert_eq!(&*server.object("k").unwrap().bytes, b"new");
}
