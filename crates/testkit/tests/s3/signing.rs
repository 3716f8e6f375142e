//! Signatures: in headers, in the query, and wrong.

use std::time::Duration;

use crate::support::*;

#[tokio::test]
async fn a_wrong_secret_is_refused() {
    let (server, mut client) = start().await;
    put(&client, "k", "v").await;
    client.secret_key = "other".to_owned();
    refused(&get(&client, "k").await, 403, "SignatureDoesNotMatch");
    let write = request(&client, "PUT", "k").body("changed");
    refused(&ask(&client, write).await, 403, "SignatureDoesNotMatch");
    assert_eq!(&*server.object("k").unwrap().bytes, b"v");
}

#[tokio::test]
async fn an_unknown_access_key_is_refused() {
    let (_server, mut client) = start().await;
    client.access_key = "other".to_owned();
    refused(&get(&client, "k").await, 403, "InvalidAccessKeyId");
}

#[tokio::test]
async fn a_request_without_signature_is_refused() {
    let (_server, client) = start().await;
    let response = client.send_unsigned(request(&client, "GET", "k")).await.unwrap();
    refused(&response, 403, "AccessDenied");
}

#[tokio::test]
async fn a_body_other_than_the_signed_one_is_refused() {
    let (server, client) = start().await;
    let mut put = client.signed(request(&client, "PUT", "k").body("signed"));
    put = put.body("sent!!");
    let response = client.send_unsigned(put).await.unwrap();
    refused(&response, 400, "XAmzContentSHA256Mismatch");
    assert!(server.keys().is_empty());
}

#[tokio::test]
async fn a_presigned_get_needs_no_keys_and_says_the_type_it_was_signed_with() {
    let (_server, client) = start().await;
    let stored = request(&client, "PUT", "a b").body("v").header("Content-Type", "text/plain");
    assert_eq!(ask(&client, stored).await.status, 200);
    let query = [("response-content-type", "application/vnd.x+json")];
    let presigned = client.presigned(client.request("GET", "a b", &query), 60);
    let response = client.send_unsigned(presigned.clone()).await.unwrap();
    assert_eq!((response.status, &*response.body), (200, &b"v"[..]));
    assert_eq!(response.header("Content-Type"), Some("application/vnd.x+json"));
    assert_eq!(response.header_all("Content-Type").count(), 1);
    let mut other = presigned;
    other.target = other.target.replace("vnd.x", "vnd.y");
    let response = client.send_unsigned(other).await.unwrap();
    refused(&response, 403, "SignatureDoesNotMatch");
}

#[tokio::test]
async fn a_presigned_get_expires() {
    let (_server, client) = start().await;
    put(&client, "k", "v").await;
    // Signed for nothing, it is too late whenever it comes.
    let presigned = client.presigned(request(&client, "GET", "k"), 0);
    let response = client.send_unsigned(presigned).await.unwrap();
    refused(&response, 403, "AccessDenied");
}

#[tokio::test]
async fn a_presigned_get_expires_by_the_servers_clock_too() {
    let (server, client) = start().await;
    put(&client, "k", "v").await;
    let presigned = client.presigned(request(&client, "GET", "k"), 600);
    server.clock().advance(Duration::from_secs(590));
    assert_eq!(client.send_unsigned(presigned.clone()).await.unwrap().status, 200);
    server.clock().advance(Duration::from_secs(20));
    let response = client.send_unsigned(presigned).await.unwrap();
    refused(&response, 403, "AccessDenied");
}
