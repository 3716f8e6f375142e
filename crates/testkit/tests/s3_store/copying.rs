//! Objects that the service copies from elsewhere in its buckets.

use futures::TryStreamExt;
use jreg_storage::{
    ByteRange, CopiedObject, CopyMethod, CopySource, ErrorKind, PART_BYTES_MIN, S3Options, S3Store,
    Store,
};
use jreg_testkit::Rng;
use jreg_testkit::s3::{FaultRule, S3Fault, S3Operation, S3Refusal, S3Server};

use super::support::{asked, key, kind, options, server, store};

const FROM: &str = "other storage/a+b=c/data";

fn source(server: &S3Server, size_bytes: u64) -> CopySource {
    CopySource::Object {
        service: server.endpoint(),
        bucket: server.bucket().to_owned(),
        key: FROM.to_owned(),
        size_bytes,
    }
}

async fn read(store: &S3Store, bytes: u64) -> Vec<u8> {
    let range = ByteRange { start: 0, end: bytes };
    let chunks: Vec<_> =
        store.read(&key("blob"), range).await.unwrap().try_collect().await.unwrap();
    chunks.concat()
}

#[tokio::test]
async fn an_object_is_copied_by_one_request_or_in_parts() {
    let bytes = Rng::new(1).bytes(usize::try_from(2 * PART_BYTES_MIN + 5).unwrap());
    let size_bytes = bytes.len() as u64;
    let made = Some(CopiedObject { size_bytes, method: CopyMethod::Service });
    for (copy_bytes_max, requests) in [
        (size_bytes, &["CopyObject", "GetObject"][..]),
        (
            PART_BYTES_MIN,
            &[
                "CreateMultipartUpload",
                "UploadPartCopy",
                "UploadPartCopy",
                "UploadPartCopy",
                "CompleteMultipartUpload",
                "GetObject",
            ],
        ),
    ] {
        let server = server().await;
        server.insert(FROM, bytes.clone());
        let store = S3Store::open(S3Options { copy_bytes_max, ..options(&server) }).unwrap();
        let copied = store.copy_in(&key("blob"), &source(&server, size_bytes)).await.unwrap();
        assert_eq!(copied, made);
        assert_eq!(asked(&server), requests);
        assert!(read(&store, size_bytes).await == bytes);
    }
}

#[tokio::test]
async fn each_request_is_sent_again_alone() {
    let bytes = Rng::new(1).bytes(usize::try_from(2 * PART_BYTES_MIN).unwrap());
    let size_bytes = bytes.len() as u64;
    for fault in [
        S3Fault::Refuse(S3Refusal::SlowDown),
        S3Fault::Refuse(S3Refusal::InternalError),
        S3Fault::CutBefore,
        S3Fault::LoseResponse,
    ] {
        for (copy_bytes_max, operation) in
            [(size_bytes, S3Operation::CopyObject), (PART_BYTES_MIN, S3Operation::UploadPartCopy)]
        {
            let server = server().await;
            server.insert(FROM, bytes.clone());
            let store = S3Store::open(S3Options { copy_bytes_max, ..options(&server) }).unwrap();
            server.inject(FaultRule::new(fault.clone()).on(operation).nth(1));
            let copied = store.copy_in(&key("blob"), &source(&server, size_bytes)).await.unwrap();
            assert_eq!(copied.unwrap().size_bytes, size_bytes);
            assert!(read(&store, size_bytes).await == bytes);
        }
    }
}

#[tokio::test]
async fn where_the_service_refuses_nothing_is_left() {
    let bytes = Rng::new(1).bytes(usize::try_from(2 * PART_BYTES_MIN).unwrap());
    let size_bytes = bytes.len() as u64;
    for refusal in [S3Refusal::AccessDenied, S3Refusal::NotImplemented, S3Refusal::InvalidArgument]
    {
        for copy_bytes_max in [size_bytes, PART_BYTES_MIN] {
            let server = server().await;
            server.insert(FROM, bytes.clone());
            let store = S3Store::open(S3Options { copy_bytes_max, ..options(&server) }).unwrap();
            for operation in [S3Operation::CopyObject, S3Operation::UploadPartCopy] {
                server.inject(FaultRule::new(S3Fault::Refuse(refusal)).on(operation));
            }
            let copied = store.copy_in(&key("blob"), &source(&server, size_bytes)).await.unwrap();
            assert_eq!(copied, None, "{refusal:?}");
            assert!(server.uploads().is_empty());
            assert_eq!(kind(store.head(&key("blob")).await), ErrorKind::NotFound);
        }
    }
    // What is at another service, gone, or empty, is not tried or not made.
    let server = server().await;
    let store = store(&server);
    let CopySource::Object { bucket, key: from, .. } = source(&server, 1) else { panic!() };
    let elsewhere = CopySource::Object { service: "aws".into(), bucket, key: from, size_bytes: 1 };
    for source in [elsewhere, source(&server, 0), source(&server, 1)] {
        assert_eq!(store.copy_in(&key("blob"), &source).await.unwrap(), None);
    }
}
