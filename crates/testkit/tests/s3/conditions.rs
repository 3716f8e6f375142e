//! Conditions of writes and deletes, one at a time and raced.

use jreg_testkit::Request;
use jreg_testkit::s3::S3Client;
use tokio::task::JoinSet;

use crate::support::*;

#[tokio::test]
async fn a_create_is_made_once() {
    let (server, client) = start().await;
    let create = |bytes| request(&client, "PUT", "k").header("If-None-Match", "*").body(bytes);
    assert_eq!(ask(&client, create("one")).await.status, 200);
    refused(&ask(&client, create("two")).await, 412, "PreconditionFailed");
    assert_eq!(&*server.object("k").unwrap().bytes, b"one");
}

#[tokio::test]
async fn a_swap_wants_the_etag_that_is_there() {
    let (server, client) = start().await;
    let swap = |etag: &str| request(&client, "PUT", "k").header("If-Match", etag).body("new");
    refused(&ask(&client, swap("\"any\"")).await, 404, "NoSuchKey");
    refused(&ask(&client, swap("*")).await, 404, "NoSuchKey");
    let etag = put(&client, "k", "old").await;
    refused(&ask(&client, swap("\"other\"")).await, 412, "PreconditionFailed");
    assert_eq!(&*server.object("k").unwrap().bytes, b"old");
    assert_eq!(ask(&client, swap(&etag)).await.status, 200);
    assert_eq!(&*server.object("k").unwrap().bytes, b"new");
    let bare = server.object("k").unwrap().etag;
    assert_eq!(ask(&client, swap(&bare)).await.status, 200);
}

#[tokio::test]
async fn a_delete_wants_the_etag_that_is_there() {
    let (server, client) = start().await;
    let delete = |etag: &str| request(&client, "DELETE", "k").header("If-Match", etag);
    refused(&ask(&client, delete("\"any\"")).await, 404, "NoSuchKey");
    let etag = put(&client, "k", "v").await;
    refused(&ask(&client, delete("\"other\"")).await, 412, "PreconditionFailed");
    assert_eq!(server.keys(), ["k"]);
    assert_eq!(ask(&client, delete(&etag)).await.status, 204);
    put(&client, "k", "v").await;
    assert_eq!(ask(&client, delete("*")).await.status, 204);
    assert!(server.keys().is_empty());
}

#[tokio::test]
async fn of_concurrent_creates_and_swaps_one_wins() {
    let (server, client) = start().await;
    let create = request(&client, "PUT", "k").header("If-None-Match", "*");
    assert_eq!(winners(&client, create, "create").await, 1);
    let etag = format!("\"{}\"", server.object("k").unwrap().etag);
    let swap = request(&client, "PUT", "k").header("If-Match", etag);
    assert_eq!(winners(&client, swap, "swap").await, 1);
}

#[tokio::test]
async fn an_etag_in_if_none_match_is_no_condition_of_a_write() {
    let (_server, client) = start().await;
    let put = request(&client, "PUT", "k").header("If-None-Match", "\"x\"").body("v");
    refused(&ask(&client, put).await, 501, "NotImplemented");
}

async fn winners(client: &S3Client, write: Request, what: &str) -> usize {
    let mut writers = JoinSet::new();
    for number in 0..16 {
        // What is swapped in must not be what is there: its etag would be the same.
        let write = write.clone().body(format!("{what} {number}"));
        let client = client.clone();
        writers.spawn(async move { ask(&client, write).await });
    }
    writers.join_all().await.iter().filter(|response| response.status == 200).count()
}
