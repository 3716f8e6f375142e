//! Headers that settings ask for: on which requests they are, and on which not.

use jreg_storage::{
    ByteRange, Encryption, ListRequest, PART_BYTES_MIN, PutMode, S3Options, S3Store, Store,
};
use jreg_testkit::s3::{RecordedRequest, S3Operation};

use super::support::{key, options, server};

const ENCRYPTION: &str = "x-amz-server-side-encryption";
const KMS_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const STORAGE_CLASS: &str = "x-amz-storage-class";

/// Every request that a store ever sends, after its options were changed.
async fn every_request(change: impl FnOnce(&mut S3Options)) -> Vec<RecordedRequest> {
    let server = server().await;
    let mut options = options(&server);
    change(&mut options);
    let store = S3Store::open(options).unwrap();
    let written = store.put(&key("record"), "1".into(), PutMode::Create).await.unwrap();
    store.put(&key("blobs/small"), "12345".into(), PutMode::Overwrite).await.unwrap();
    store.get(&key("record")).await.unwrap();
    store.head(&key("record")).await.unwrap();
    drop(store.read(&key("blobs/small"), ByteRange { start: 0, end: 5 }).await.unwrap());
    store.list(&ListRequest::below("")).await.unwrap();
    for completes in [true, false] {
        let begun = store.create_multipart(&key("blobs/large"), 1, PART_BYTES_MIN).await;
        let mut upload = begun.unwrap();
        upload.record(store.put_part(&upload, 0, "part".into()).await.unwrap());
        match completes {
            true => store.complete_multipart(&upload).await.unwrap(),
            false => store.abort_multipart(&upload).await.unwrap(),
        }
    }
    store.delete(&key("record"), Some(&written.etag)).await.unwrap();
    store.delete_many(&[key("blobs/small")]).await.unwrap();
    server.take_requests()
}

fn makes_an_object(request: &RecordedRequest) -> bool {
    matches!(request.operation, S3Operation::PutObject | S3Operation::CreateMultipartUpload)
}

#[tokio::test]
async fn nothing_is_asked_for_that_was_not_set() {
    let requests = every_request(|_| {}).await;
    assert!(requests.len() >= 12, "{}", requests.len());
    for request in &requests {
        for name in [ENCRYPTION, KMS_KEY, STORAGE_CLASS] {
            assert_eq!(request.header(name), None, "{:?}", request.operation);
        }
    }
}

#[tokio::test]
async fn encryption_is_asked_for_where_an_object_is_made() {
    let named = Encryption::Kms(Some("key-1".to_owned()));
    for (encryption, algorithm, key_id) in [
        (Encryption::S3, "AES256", None),
        (Encryption::Kms(None), "aws:kms", None),
        (named, "aws:kms", Some("key-1")),
    ] {
        for request in every_request(|options| options.url.encryption = encryption.clone()).await {
            let wanted = makes_an_object(&request).then_some((algorithm, key_id));
            let (algorithm, key_id) = wanted.unzip();
            assert_eq!(request.header(ENCRYPTION), algorithm, "{:?}", request.operation);
            assert_eq!(request.header(KMS_KEY), key_id.flatten(), "{:?}", request.operation);
        }
    }
}

#[tokio::test]
async fn a_storage_class_is_asked_for_where_blob_bytes_are_made() {
    let class = "INTELLIGENT_TIERING";
    let requests = every_request(|options| options.url.storage_class = Some(class.into())).await;
    let mut classed = Vec::new();
    for request in &requests {
        let wanted = makes_an_object(request) && request.key.starts_with("data/blobs/");
        assert_eq!(request.header(STORAGE_CLASS), wanted.then_some(class), "{request:?}");
        classed.extend(wanted.then_some(request.operation));
    }
    let made = S3Operation::CreateMultipartUpload;
    assert_eq!(classed, [S3Operation::PutObject, made, made]);
}

#[tokio::test]
async fn headers_of_the_operator_are_on_every_request_and_signed() {
    let header = ("X-Amz-Request-Payer".to_owned(), "requester".to_owned());
    for request in every_request(|options| options.headers = vec![header.clone()]).await {
        let operation = request.operation;
        assert_eq!(request.header("x-amz-request-payer"), Some("requester"), "{operation:?}");
        let authorization = request.header("authorization").unwrap();
        assert!(authorization.contains("x-amz-request-payer"), "{operation:?}: {authorization}");
    }
}
