//! How many requests an operation costs.

use bytes::Bytes;
use jreg_storage::{
    ByteRange, ListRequest, PART_BYTES_MIN, PutMode, S3Store, Store, TombstoneStore,
};
use jreg_testkit::sha256;

use super::support::{asked, key, options, server, store};

#[tokio::test]
async fn every_operation_costs_one_request() {
    let server = server().await;
    let store = TombstoneStore::new(store(&server), |key| !key.as_str().starts_with("blobs/"));
    let created = store.put(&key("a"), "1".into(), PutMode::Create).await.unwrap();
    assert_eq!(asked(&server), ["PutObject"]);
    let mode = PutMode::Match(created.etag);
    let swapped = store.put(&key("a"), "2".into(), mode).await.unwrap();
    assert_eq!(asked(&server), ["PutObject"]);
    store.get(&key("a")).await.unwrap();
    assert_eq!(asked(&server), ["GetObject"]);
    store.get(&key("absent")).await.unwrap_err();
    assert_eq!(asked(&server), ["GetObject"]);
    store.head(&key("a")).await.unwrap();
    assert_eq!(asked(&server), ["GetObject"]);
    store.list(&ListRequest::below("")).await.unwrap();
    assert_eq!(asked(&server), ["ListObjectsV2"]);
    store.delete(&key("a"), Some(&swapped.etag)).await.unwrap();
    assert_eq!(asked(&server), ["PutObject"]);
    store.put(&key("blobs/a"), "12345".into(), PutMode::Create).await.unwrap();
    assert_eq!(asked(&server), ["PutObject"]);
    drop(store.read(&key("blobs/a"), ByteRange { start: 1, end: 3 }).await.unwrap());
    assert_eq!(asked(&server), ["GetObject"]);
    store.delete(&key("blobs/a"), None).await.unwrap();
    assert_eq!(asked(&server), ["DeleteObject"]);
    store.delete_many(&["b", "c", "d"].map(key)).await.unwrap();
    assert_eq!(asked(&server), ["DeleteObjects"]);
}

#[tokio::test]
async fn an_upload_costs_one_request_a_part_and_two() {
    let server = server().await;
    let store = store(&server);
    let mut upload = store.create_multipart(&key("blobs/a"), 1, PART_BYTES_MIN).await.unwrap();
    let bytes = Bytes::from(vec![0; usize::try_from(PART_BYTES_MIN).unwrap()]);
    for _ in 0..2 {
        let part = store.put_part(&upload, upload.size_bytes(), bytes.clone()).await.unwrap();
        upload.record(part);
    }
    let upload = store.resume_multipart(&upload, 2).await.unwrap();
    store.sync_parts(&upload).await.unwrap();
    store.complete_multipart(&upload).await.unwrap();
    let parts = ["CreateMultipartUpload", "UploadPart", "UploadPart", "CompleteMultipartUpload"];
    assert_eq!(asked(&server), parts);
}

/// Over TLS a body is hashed by the registry alone, for its digest; without TLS once more, for the
/// signature. No other checksum is computed of it.
#[tokio::test]
async fn bodies_are_hashed_once_more_at_most() {
    let bytes = Bytes::from(vec![7; usize::try_from(PART_BYTES_MIN).unwrap()]);
    for sign_payload in [true, false] {
        let server = server().await;
        let mut options = options(&server);
        options.url.sign_payload = sign_payload;
        let store = S3Store::open(options).unwrap();
        let upload = store.create_multipart(&key("blobs/a"), 1, PART_BYTES_MIN).await.unwrap();
        server.take_requests();
        for small in [bytes.clone(), "12345".into()] {
            let hash = sha256(&small).replace("sha256:", "");
            let hash = if sign_payload { &hash } else { "UNSIGNED-PAYLOAD" };
            store.put(&key("blobs/b"), small.clone(), PutMode::Overwrite).await.unwrap();
            store.put_part(&upload, 0, small.clone()).await.unwrap();
            let requests = server.take_requests();
            assert_eq!(requests.len(), 2);
            for request in requests {
                assert_eq!(request.header("x-amz-content-sha256"), Some(hash));
                assert_eq!(request.header("content-md5"), None);
                assert_eq!(request.header("x-amz-sdk-checksum-algorithm"), None);
                assert_eq!(request.header("x-amz-trailer"), None);
            }
        }
    }
}

#[tokio::test]
async fn pages_are_as_long_as_s3_lists() {
    let server = server().await;
    for n in 0..1500 {
        server.insert(&format!("data/n/{n:04}"), "x");
    }
    let store = store(&server);
    let page = store.list(&ListRequest::below("n/")).await.unwrap();
    assert_eq!(page.entries.len(), 1000);
    assert_eq!(page.next.as_deref(), Some("n/0999"));
    let rest = ListRequest { start_after: page.next, ..ListRequest::below("n/") };
    let page = store.list(&rest).await.unwrap();
    assert_eq!((page.entries.len(), page.next), (500, None));
    assert_eq!(asked(&server), ["ListObjectsV2"; 2]);
}
