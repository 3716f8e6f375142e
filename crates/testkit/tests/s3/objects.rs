//! Single objects: what is put is what is read.

use jreg_testkit::Body;
use jreg_testkit::s3::{S3Server, S3Spec};

use crate::support::*;

#[tokio::test]
async fn an_object_is_read_whole_or_in_part() {
    let (server, client) = start().await;
    let etag = put(&client, "a/b c+d", "0123456789").await;
    assert_eq!(etag, "\"781e5e245d69b566979b86e28d23f2c7\"");
    let whole = get(&client, "a/b c+d").await;
    assert_eq!((whole.status, &*whole.body), (200, &b"0123456789"[..]));
    assert_eq!(whole.header("ETag"), Some(&*etag));
    let head = ask(&client, request(&client, "HEAD", "a/b c+d")).await;
    assert_eq!((head.status, head.header("Content-Length")), (200, Some("10")));
    assert_eq!(server.keys(), ["a/b c+d"]);
}

#[tokio::test]
async fn ranges_are_as_in_http() {
    let (_server, client) = start().await;
    put(&client, "k", "0123456789").await;
    for (range, body, content_range) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=8-99", "89", "bytes 8-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=-99", "0123456789", "bytes 0-9/10"),
    ] {
        let part = ask(&client, request(&client, "GET", "k").header("Range", range)).await;
        assert_eq!((part.status, &*part.body), (206, body.as_bytes()), "{range}");
        assert_eq!(part.header("Content-Range"), Some(content_range));
    }
    let beyond = request(&client, "GET", "k").header("Range", "bytes=10-");
    refused(&ask(&client, beyond).await, 416, "InvalidRange");
    put(&client, "empty", "").await;
    for range in ["bytes=0-", "bytes=-1"] {
        let nothing = request(&client, "GET", "empty").header("Range", range);
        refused(&ask(&client, nothing).await, 416, "InvalidRange");
    }
}

#[tokio::test]
async fn a_missing_key_is_not_found_and_can_be_deleted() {
    let (_server, client) = start().await;
    refused(&get(&client, "k").await, 404, "NoSuchKey");
    assert_eq!(ask(&client, request(&client, "HEAD", "k")).await.status, 404);
    assert_eq!(ask(&client, request(&client, "DELETE", "k")).await.status, 204);
}

#[tokio::test]
async fn a_deleted_key_is_absent() {
    let (server, client) = start().await;
    put(&client, "k", "v").await;
    assert_eq!(ask(&client, request(&client, "DELETE", "k")).await.status, 204);
    assert_eq!(get(&client, "k").await.status, 404);
    assert!(server.keys().is_empty());
}

#[tokio::test]
async fn reads_heed_etags() {
    let (_server, client) = start().await;
    let etag = put(&client, "k", "v").await;
    for (header, value, status) in [
        ("If-Match", &*etag, 200),
        ("If-Match", "\"other\"", 412),
        ("If-None-Match", &*etag, 304),
        ("If-None-Match", "\"other\"", 200),
    ] {
        for method in ["GET", "HEAD"] {
            let read = request(&client, method, "k").header(header, value);
            let read = ask(&client, read).await;
            assert_eq!(read.status, status, "{method} {header}: {value}");
            assert_eq!(read.header("ETag").is_some(), status < 400);
        }
    }
}

#[tokio::test]
async fn headers_of_a_put_are_kept_and_given_again() {
    let (server, client) = start().await;
    let sent = [
        ("Content-Type", "application/x"),
        ("x-amz-storage-class", "STANDARD_IA"),
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "key"),
        ("x-amz-meta-nonce", "n"),
    ];
    let put = request(&client, "PUT", "k").body("v").header("x-amz-acl", "private");
    let put = sent.iter().fold(put, |put, (name, value)| put.header(name, *value));
    assert_eq!(ask(&client, put).await.status, 200);
    let stored = server.object("k").unwrap();
    assert_eq!(stored.header("x-amz-acl"), None);
    assert_eq!((&*stored.bytes, &*stored.etag), (&b"v"[..], "9e3669d19b675bd57058fd4664205d2a"));
    for read in ["GET", "HEAD"] {
        let response = ask(&client, request(&client, read, "k")).await;
        for (name, value) in sent {
            assert_eq!(stored.header(name), Some(value), "{name}");
            assert_eq!(response.header(name), Some(value), "{read} {name}");
        }
    }
}

#[tokio::test]
async fn a_wrong_checksum_is_refused() {
    let (server, client) = start().await;
    for (name, wrong) in [
        ("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
        ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="),
        ("x-amz-checksum-crc32c", "AAAAAA=="),
        ("x-amz-checksum-sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="),
    ] {
        let put = request(&client, "PUT", "k").body("123456789").header(name, wrong);
        refused(&ask(&client, put).await, 400, "BadDigest");
    }
    assert!(server.keys().is_empty());
    let put = request(&client, "PUT", "k").body("123456789");
    let put = put.header("x-amz-checksum-crc64nvme", "rosUhgp5mIg=");
    let response = ask(&client, put).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("x-amz-checksum-crc64nvme"), Some("rosUhgp5mIg="));
    let asked = request(&client, "HEAD", "k").header("x-amz-checksum-mode", "ENABLED");
    let head = ask(&client, asked).await;
    assert_eq!(head.header("x-amz-checksum-crc64nvme"), Some("rosUhgp5mIg="));
}

#[tokio::test]
async fn many_are_deleted_at_once_and_said_unless_quiet() {
    let (server, client) = start().await;
    for quiet in [false, true] {
        let etag = put(&client, "a", "v").await;
        put(&client, "b", "v").await;
        put(&client, "kept", "v").await;
        let xml = format!(
            "<Delete><Quiet>{quiet}</Quiet><Object><Key>a</Key><ETag>{etag}</ETag></Object>\
             <Object><Key>b</Key></Object><Object><Key>missing</Key></Object>\
             <Object><Key>kept</Key><ETag>\"other\"</ETag></Object></Delete>"
        );
        let delete = client.request("POST", "", &[("delete", "")]).body(xml);
        let deleted = ask(&client, delete).await;
        assert_eq!(deleted.status, 200, "{deleted}");
        let told = elements(&deleted, "Deleted").len();
        assert_eq!(told, if quiet { 0 } else { 3 }, "{deleted}");
        assert_eq!(elements(&deleted, "Code"), ["PreconditionFailed"]);
        assert_eq!(server.keys(), ["kept"]);
    }
}

#[tokio::test]
async fn a_copy_is_made_and_its_bytes_are_counted() {
    let (server, client) = start().await;
    let stored = request(&client, "PUT", "k").body("0123456789").header("Content-Type", "text/x");
    assert_eq!(ask(&client, stored).await.status, 200);
    let copy = |to| request(&client, "PUT", to).header("x-amz-copy-source", "jreg/k");
    let copied = ask(&client, copy("l")).await;
    assert_eq!(copied.status, 200, "{copied}");
    assert_eq!(element(&copied, "ETag").unwrap(), "\"781e5e245d69b566979b86e28d23f2c7\"");
    let stored = server.object("l").unwrap();
    assert_eq!(
        (&*stored.bytes, stored.header("Content-Type")),
        (&b"0123456789"[..], Some("text/x"))
    );
    let once = ask(&client, copy("l").header("If-None-Match", "*")).await;
    refused(&once, 412, "PreconditionFailed");
    let missing = request(&client, "PUT", "m").header("x-amz-copy-source", "jreg/missing");
    refused(&ask(&client, missing).await, 404, "NoSuchKey");
    let copied: Vec<_> = server.requests().iter().map(|seen| seen.bytes_copied).collect();
    assert_eq!(copied, [0, 10, 10, 0]);
    assert!(server.requests()[1].operation.copies());
}

#[tokio::test]
async fn what_is_large_can_be_forgotten_but_for_its_size_and_etag() {
    let (server, client) = start_with(|spec| spec.forget_above_bytes = Some(3)).await;
    put(&client, "kept", "abc").await;
    let etag = put(&client, "k", "0123456789").await;
    assert_eq!(etag, "\"781e5e245d69b566979b86e28d23f2c7\"");
    assert_eq!(&*server.object("kept").unwrap().bytes, b"abc");
    let read = get(&client, "k").await;
    assert_eq!((&*read.body, read.header("ETag")), (&[0; 10][..], Some(&*etag)));
}

#[tokio::test]
async fn a_body_without_its_length_is_refused() {
    let (_server, client) = start().await;
    let mut put = request(&client, "PUT", "k").body("v");
    put.body = Body::Chunked(vec!["v".into()]);
    let response = ask(&client, put).await;
    refused(&response, 411, "MissingContentLength");
}

#[tokio::test]
async fn another_bucket_is_not_there() {
    let (_server, mut client) = start().await;
    client.bucket = "other".to_owned();
    refused(&get(&client, "k").await, 404, "NoSuchBucket");
}

#[tokio::test]
async fn servers_in_one_process_share_nothing() {
    let (one, client) = start().await;
    let other = S3Server::start(S3Spec::default()).await;
    put(&client, "k", "v").await;
    assert_eq!((one.keys().len(), other.keys().len()), (1, 0));
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn a_stopped_or_dropped_server_is_unreachable() {
    let (server, client) = start().await;
    server.stop().await;
    assert!(client.send(request(&client, "GET", "k")).await.is_err());
    let (server, client) = start().await;
    let mut wire = client.begin_signed(request(&client, "GET", "k")).await.unwrap();
    wire.response("GET").await.unwrap();
    drop(server);
    wire.closed().await.unwrap();
}

#[tokio::test]
async fn a_test_can_change_the_bucket_behind_the_back_of_clients() {
    let (server, client) = start().await;
    server.insert("k", "damaged");
    assert_eq!(&*get(&client, "k").await.body, b"damaged");
    assert!(server.discard("k"));
    assert!(!server.discard("k"));
    assert_eq!(get(&client, "k").await.status, 404);
}
