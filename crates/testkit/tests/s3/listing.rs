//! Listings: byte order, pages, prefixes and delimiters.

use jreg_testkit::Response;
use jreg_testkit::s3::S3Client;

use crate::support::*;

#[tokio::test]
async fn a_listing_is_in_byte_order_with_what_there_is_to_say() {
    let (server, client) = start().await;
    for key in ["b", "a/é", "B", "a", "a-b", "a/b&<"] {
        server.insert(key, "v");
    }
    let listed = list(&client, &[]).await;
    assert_eq!(elements(&listed, "KeyCount"), ["6"]);
    assert_eq!(elements(&listed, "IsTruncated"), ["false"]);
    let keys: Vec<_> = elements(&listed, "Key").iter().map(|key| unescaped(key)).collect();
    assert_eq!(keys, ["B", "a", "a-b", "a/b&<", "a/é", "b"]);
    assert_eq!(elements(&listed, "ETag")[0], "\"9e3669d19b675bd57058fd4664205d2a\"");
    assert_eq!(elements(&listed, "Size")[0], "1");
}

#[tokio::test]
async fn prefix_and_delimiter_roll_up() {
    let (server, client) = start().await;
    for key in ["a", "b/1", "b/2/x", "b/2/y", "b/3", "c"] {
        server.insert(key, "v");
    }
    let listed = list(&client, &[("prefix", "b/"), ("delimiter", "/")]).await;
    assert_eq!(elements(&listed, "Key"), ["b/1", "b/3"]);
    assert_eq!(elements(&listed, "CommonPrefixes"), ["<Prefix>b/2/</Prefix>"]);
    assert_eq!(elements(&listed, "KeyCount"), ["3"]);
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended() {
    let (server, client) = start().await;
    for key in ["a/1", "a/2", "b", "c/1", "d"] {
        server.insert(key, "v");
    }
    let mut names = Vec::new();
    let mut token = String::new();
    for page in 0..4 {
        let mut query = vec![("delimiter", "/"), ("max-keys", "1")];
        if page > 0 {
            query.push(("continuation-token", &*token));
        }
        let listed = list(&client, &query).await;
        names.extend(elements(&listed, "Key"));
        names.extend(elements(&listed, "CommonPrefixes"));
        assert_eq!(elements(&listed, "IsTruncated"), [(page < 3).to_string()]);
        token = element(&listed, "NextContinuationToken").unwrap_or_default();
    }
    assert_eq!(names, ["<Prefix>a/</Prefix>", "b", "<Prefix>c/</Prefix>", "d"]);
    assert_eq!(token, "");
    let wrong = [("list-type", "2"), ("continuation-token", "wrong")];
    refused(&ask(&client, client.request("GET", "", &wrong)).await, 400, "InvalidArgument");
}

#[tokio::test]
async fn start_after_leaves_out_that_key_and_those_before() {
    let (server, client) = start().await;
    for key in ["a", "b", "b/1", "c"] {
        server.insert(key, "v");
    }
    assert_eq!(elements(&list(&client, &[("start-after", "b")]).await, "Key"), ["b/1", "c"]);
    assert_eq!(elements(&list(&client, &[("start-after", "bz")]).await, "Key"), ["c"]);
}

#[tokio::test]
async fn start_after_leaves_out_what_is_rolled_up_into_that_or_before() {
    let (server, client) = start().await;
    for key in ["a/1", "b/1", "b/2", "c/1", "d"] {
        server.insert(key, "v");
    }
    for after in ["b/", "b/1", "b/2"] {
        let listed = list(&client, &[("delimiter", "/"), ("start-after", after)]).await;
        assert_eq!(elements(&listed, "CommonPrefixes"), ["<Prefix>c/</Prefix>"], "{after}");
        assert_eq!(elements(&listed, "Key"), ["d"], "{after}");
    }
    let listed = list(&client, &[("delimiter", "/"), ("start-after", "b")]).await;
    assert_eq!(elements(&listed, "CommonPrefixes").len(), 2);
}

#[tokio::test]
async fn a_page_has_at_most_a_thousand() {
    let (server, client) = start().await;
    for number in 0..1001 {
        server.insert(&format!("k{number:04}"), "");
    }
    let listed = list(&client, &[("max-keys", "5000")]).await;
    assert_eq!(elements(&listed, "Key").len(), 1000);
    assert_eq!(elements(&listed, "MaxKeys"), ["1000"]);
    assert_eq!(elements(&listed, "IsTruncated"), ["true"]);
}

#[tokio::test]
async fn keys_come_encoded_when_asked_for() {
    let (server, client) = start().await;
    server.insert("a b/\u{1}", "v");
    let listed = list(&client, &[("encoding-type", "url")]).await;
    assert_eq!(elements(&listed, "Key"), ["a%20b/%01"]);
}

async fn list(client: &S3Client, query: &[(&str, &str)]) -> Response {
    let query: Vec<_> = [("list-type", "2")].iter().chain(query).copied().collect();
    let listed = ask(client, client.request("GET", "", &query)).await;
    assert_eq!(listed.status, 200, "{listed}");
    listed
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<").replace("&amp;", "&")
}
