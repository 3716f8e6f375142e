//! Multipart uploads, and the rules under which they complete.

use bytes::Bytes;
use jreg_testkit::s3::{S3Client, S3Operation, S3Spec};
use jreg_testkit::{Request, Response};

use crate::support::*;

/// Parts may be as small as this in most tests here.
const MIN_BYTES: u64 = 4;

#[tokio::test]
async fn parts_become_one_object() {
    let (server, client) = start_with(small).await;
    let upload = UploadScript::start(&client, "k").await;
    let two = upload.part(2, "efgh").await;
    let one = upload.part(1, "lost").await;
    let one_again = upload.part(1, "abcd").await;
    assert_ne!(one, one_again);
    let three = upload.part(3, "i").await;
    assert_eq!(server.uploads()[0].parts, [(1, 4), (2, 4), (3, 1)]);
    let done = upload.complete(&[(1, &one_again), (2, &two), (3, &three)]).await;
    assert_eq!(done.status, 200, "{done}");
    let etag = element(&done, "ETag").unwrap();
    assert!(etag.ends_with("-3\""), "{etag}");
    let read = get(&client, "k").await;
    assert_eq!((&*read.body, read.header("ETag")), (&b"abcdefghi"[..], Some(&*etag)));
    let range = request(&client, "GET", "k").header("Range", "bytes=3-8");
    assert_eq!(&*ask(&client, range).await.body, b"defghi");
    assert!(server.uploads().is_empty());
}

#[tokio::test]
async fn the_etag_is_the_md5_of_the_md5s() {
    let (_server, client) = start_with(small).await;
    let upload = UploadScript::start(&client, "k").await;
    let etag = upload.part(1, "").await;
    assert_eq!(etag, "\"d41d8cd98f00b204e9800998ecf8427e\"");
    let done = upload.complete(&[(1, &etag)]).await;
    assert_eq!(element(&done, "ETag").unwrap(), "\"59adb24ef3cdbe0297f05b395827453f-1\"");
}

#[tokio::test]
async fn parts_that_are_not_there_or_in_order_are_refused() {
    let (_server, client) = start_with(small).await;
    let upload = UploadScript::start(&client, "k").await;
    let one = upload.part(1, "abcd").await;
    let two = upload.part(2, "efgh").await;
    refused(&upload.complete(&[(2, &two), (1, &one)]).await, 400, "InvalidPartOrder");
    refused(&upload.complete(&[(1, &one), (1, &one)]).await, 400, "InvalidPartOrder");
    refused(&upload.complete(&[(1, &two)]).await, 400, "InvalidPart");
    refused(&upload.complete(&[(1, &one), (3, &two)]).await, 400, "InvalidPart");
    refused(&upload.complete(&[]).await, 400, "MalformedXML");
    assert_eq!(upload.complete(&[(1, &one), (2, &two)]).await.status, 200);
}

#[tokio::test]
async fn all_parts_but_the_last_have_a_least_size() {
    let (_server, client) = start().await;
    let upload = UploadScript::start(&client, "k").await;
    let least = 5 * 1024 * 1024;
    let small = upload.part(1, vec![0; least - 1]).await;
    let last = upload.part(2, "x").await;
    refused(&upload.complete(&[(1, &small), (2, &last)]).await, 400, "EntityTooSmall");
    let enough = upload.part(1, vec![0; least]).await;
    assert_eq!(upload.complete(&[(1, &enough), (2, &last)]).await.status, 200);
}

#[tokio::test]
async fn equal_parts_can_be_asked_for() {
    for (sizes, fits) in [
        (&[5, 5, 3][..], true),
        (&[5, 5], true),
        (&[3], true),
        (&[5, 4, 3], false),
        (&[5, 5, 6], false),
    ] {
        let (_server, client) = start_with(|spec| {
            small(spec);
            spec.parts.equal_sizes = true;
        })
        .await;
        let upload = UploadScript::start(&client, "k").await;
        let mut parts = Vec::new();
        for (number, size) in (1..).zip(sizes) {
            parts.push((number, upload.part(number, vec![0; *size]).await));
        }
        let named: Vec<_> = parts.iter().map(|(number, etag)| (*number, &**etag)).collect();
        let done = upload.complete(&named).await;
        match fits {
            true => assert_eq!(done.status, 200, "{sizes:?}"),
            false => refused(&done, 400, "InvalidPart"),
        }
    }
}

#[tokio::test]
async fn part_numbers_have_bounds() {
    let (_server, client) = start().await;
    let upload = UploadScript::start(&client, "k").await;
    for (number, status) in [(0, 400), (1, 200), (10_000, 200), (10_001, 400)] {
        let response = ask(&client, upload.part_request(number, "x")).await;
        assert_eq!(response.status, status, "{number}");
    }
}

#[tokio::test]
async fn completing_has_conditions() {
    let (server, client) = start_with(small).await;
    let upload = UploadScript::start(&client, "k").await;
    let part = upload.part(1, "new").await;
    let complete = upload.complete_request(&[(1, &part)]);
    let swap = |etag: &str| complete.clone().header("If-Match", etag);
    refused(&ask(&client, swap("\"any\"")).await, 404, "NoSuchKey");
    let etag = put(&client, "k", "old").await;
    let create = complete.clone().header("If-None-Match", "*");
    refused(&ask(&client, create).await, 412, "PreconditionFailed");
    refused(&ask(&client, swap("\"other\"")).await, 412, "PreconditionFailed");
    assert_eq!(&*server.object("k").unwrap().bytes, b"old");
    assert_eq!(ask(&client, swap(&etag)).await.status, 200);
    assert_eq!(&*server.object("k").unwrap().bytes, b"new");
}

#[tokio::test]
async fn completing_again_succeeds_unless_switched_off() {
    for again in [true, false] {
        let (server, client) = start_with(|spec| spec.complete_again = again).await;
        let upload = UploadScript::start(&client, "k").await;
        let part = upload.part(1, "v").await;
        assert_eq!(upload.complete(&[(1, &part)]).await.status, 200);
        server.insert("k", "written since");
        let second = upload.complete(&[(1, &part)]).await;
        match again {
            true => assert_eq!(second.status, 200, "{second}"),
            false => refused(&second, 404, "NoSuchUpload"),
        }
        refused(&upload.complete(&[(2, &part)]).await, 404, "NoSuchUpload");
        assert_eq!(&*server.object("k").unwrap().bytes, b"written since");
    }
}

#[tokio::test]
async fn an_aborted_upload_is_absent() {
    let (server, client) = start().await;
    let upload = UploadScript::start(&client, "k").await;
    let part = upload.part(1, "v").await;
    assert_eq!(ask(&client, upload.request("DELETE")).await.status, 204);
    assert!(server.uploads().is_empty());
    refused(&ask(&client, upload.request("DELETE")).await, 404, "NoSuchUpload");
    refused(&ask(&client, upload.part_request(1, "v")).await, 404, "NoSuchUpload");
    refused(&ask(&client, upload.request("GET")).await, 404, "NoSuchUpload");
    refused(&upload.complete(&[(1, &part)]).await, 404, "NoSuchUpload");
}

#[tokio::test]
async fn an_upload_belongs_to_its_key() {
    let (_server, client) = start().await;
    let mut upload = UploadScript::start(&client, "k").await;
    upload.key = "other";
    refused(&ask(&client, upload.part_request(1, "v")).await, 404, "NoSuchUpload");
}

#[tokio::test]
async fn parts_and_uploads_are_listed_by_the_page() {
    let (_server, client) = start().await;
    let upload = UploadScript::start(&client, "a/2").await;
    let first = upload.part(1, "x").await;
    upload.part(7, "yy").await;
    let query = [("uploadId", &*upload.id), ("max-parts", "1")];
    let parts = ask(&client, client.request("GET", "a/2", &query)).await;
    assert_eq!(elements(&parts, "ETag"), [first]);
    assert_eq!(elements(&parts, "IsTruncated"), ["true"]);
    let query = [("uploadId", &*upload.id), ("part-number-marker", "1")];
    let parts = ask(&client, client.request("GET", "a/2", &query)).await;
    assert_eq!(elements(&parts, "PartNumber"), ["7"]);
    assert_eq!(elements(&parts, "Size"), ["2"]);

    let other = UploadScript::start(&client, "a/1").await;
    let again = UploadScript::start(&client, "a/2").await;
    UploadScript::start(&client, "b").await;
    let query = [("uploads", ""), ("prefix", "a/"), ("max-uploads", "2")];
    let uploads = ask(&client, client.request("GET", "", &query)).await;
    assert_eq!(elements(&uploads, "UploadId"), [&*other.id, &upload.id]);
    let query = [
        ("uploads", ""),
        ("prefix", "a/"),
        ("key-marker", &*element(&uploads, "NextKeyMarker").unwrap()),
        ("upload-id-marker", &*element(&uploads, "NextUploadIdMarker").unwrap()),
    ];
    let uploads = ask(&client, client.request("GET", "", &query)).await;
    assert_eq!(elements(&uploads, "UploadId"), [&*again.id]);
}

#[tokio::test]
async fn headers_come_from_the_start_of_the_upload() {
    let (server, client) = start().await;
    let start = client.request("POST", "k", &[("uploads", "")]);
    let start = start.header("Content-Type", "application/x").header("x-amz-storage-class", "X");
    let upload = UploadScript::started(&client, "k", start).await;
    let part = upload.part(1, "v").await;
    assert_eq!(upload.complete(&[(1, &part)]).await.status, 200);
    let stored = server.object("k").unwrap();
    assert_eq!(stored.header("Content-Type"), Some("application/x"));
    assert_eq!(stored.header("x-amz-storage-class"), Some("X"));
}

#[tokio::test]
async fn a_part_with_a_wrong_checksum_is_refused() {
    let (server, client) = start().await;
    let upload = UploadScript::start(&client, "k").await;
    let part = upload.part_request(1, "v").header("x-amz-checksum-crc32", "AAAAAA==");
    refused(&ask(&client, part).await, 400, "BadDigest");
    assert!(server.uploads()[0].parts.is_empty());
}

#[tokio::test]
async fn a_part_can_be_copied_and_its_bytes_are_counted() {
    let (server, client) = start().await;
    server.insert("source", "0123456789");
    let upload = UploadScript::start(&client, "k").await;
    let copy = |range: &str| {
        let part = upload.part_request(1, "").header("x-amz-copy-source", "jreg/source");
        part.header("x-amz-copy-source-range", range)
    };
    let copied = ask(&client, copy("bytes=2-4")).await;
    assert_eq!(copied.status, 200, "{copied}");
    let seen = server.requests().pop().unwrap();
    assert_eq!((seen.operation, seen.bytes_copied), (S3Operation::UploadPartCopy, 3));
    refused(&ask(&client, copy("bytes=10-11")).await, 416, "InvalidRange");
    let etag = element(&copied, "ETag").unwrap();
    assert_eq!(upload.complete(&[(1, &etag)]).await.status, 200);
    assert_eq!(&*server.object("k").unwrap().bytes, b"234");
}

fn small(spec: &mut S3Spec) {
    spec.parts.size_min_bytes = MIN_BYTES;
}

struct UploadScript<'a> {
    client: &'a S3Client,
    key: &'static str,
    id: String,
}

impl<'a> UploadScript<'a> {
    async fn start(client: &'a S3Client, key: &'static str) -> Self {
        Self::started(client, key, client.request("POST", key, &[("uploads", "")])).await
    }

    async fn started(client: &'a S3Client, key: &'static str, start: Request) -> Self {
        let started = ask(client, start).await;
        let id = element(&started, "UploadId").unwrap_or_else(|| panic!("{started}"));
        Self { client, key, id }
    }

    fn request(&self, method: &str) -> Request {
        self.client.request(method, self.key, &[("uploadId", &self.id)])
    }

    fn part_request(&self, number: i32, bytes: impl Into<Bytes>) -> Request {
        let number = number.to_string();
        let query = [("partNumber", &*number), ("uploadId", &self.id)];
        self.client.request("PUT", self.key, &query).body(bytes)
    }

    async fn part(&self, number: i32, bytes: impl Into<Bytes>) -> String {
        let part = ask(self.client, self.part_request(number, bytes)).await;
        assert_eq!(part.status, 200, "{part}");
        part.header("ETag").unwrap().to_owned()
    }

    fn complete_request(&self, parts: &[(i32, &str)]) -> Request {
        let parts = parts.iter().map(|(number, etag)| {
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
        });
        let parts: String = parts.collect();
        let xml = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        self.request("POST").body(xml)
    }

    async fn complete(&self, parts: &[(i32, &str)]) -> Response {
        ask(self.client, self.complete_request(parts)).await
    }
}
