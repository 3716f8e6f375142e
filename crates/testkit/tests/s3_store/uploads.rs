//! Multipart uploads over connections that break, and their numbers.

use bytes::Bytes;
use jreg_storage::{ErrorKind, Multipart, PART_BYTES_MIN, Presign, S3Store, Store};
use jreg_testkit::s3::{FaultRule, S3Fault, S3Operation, S3Refusal, S3Server, S3Spec};

use super::support::{asked, key, kind, server, store};

const MIB: u64 = 1024 * 1024;

fn part() -> Bytes {
    vec![3; usize::try_from(PART_BYTES_MIN).unwrap()].into()
}

/// An upload of one part and a bit.
async fn uploaded(store: &S3Store) -> Multipart {
    let mut upload = store.create_multipart(&key("blob"), 1, PART_BYTES_MIN).await.unwrap();
    let first = store.put_part(&upload, 0, part()).await.unwrap();
    upload.record(first);
    let rest = store.put_part(&upload, PART_BYTES_MIN, "rest".into()).await.unwrap();
    upload.record(rest);
    upload
}

async fn assert_complete(store: &S3Store) {
    assert_eq!(store.head(&key("blob")).await.unwrap().size_bytes, PART_BYTES_MIN + 4);
}

#[tokio::test]
async fn each_request_of_an_upload_is_sent_again_alone() {
    for fault in [
        S3Fault::Refuse(S3Refusal::SlowDown),
        S3Fault::Refuse(S3Refusal::InternalError),
        S3Fault::CutBefore,
        S3Fault::LoseResponse,
    ] {
        for operation in [
            S3Operation::CreateMultipartUpload,
            S3Operation::UploadPart,
            S3Operation::CompleteMultipartUpload,
        ] {
            let server = server().await;
            let store = store(&server);
            server.inject(FaultRule::new(fault.clone()).on(operation).nth(1));
            let upload = uploaded(&store).await;
            store.complete_multipart(&upload).await.unwrap();
            assert_complete(&store).await;
        }
    }
}

#[tokio::test]
async fn a_completion_whose_response_is_lost_is_found_in_the_key() {
    let server = S3Server::start(S3Spec::with(|spec| spec.complete_again = false)).await;
    let store = store(&server);
    let upload = uploaded(&store).await;
    let lose =
        FaultRule::new(S3Fault::LoseResponse).on(S3Operation::CompleteMultipartUpload).nth(1);
    server.inject(lose);
    store.complete_multipart(&upload).await.unwrap();
    assert_complete(&store).await;
    assert_eq!(kind(store.complete_multipart(&upload).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_abort_is_ok_however_often() {
    let server = server().await;
    let store = store(&server);
    let upload = uploaded(&store).await;
    server
        .inject(FaultRule::new(S3Fault::LoseResponse).on(S3Operation::AbortMultipartUpload).nth(1));
    store.abort_multipart(&upload).await.unwrap();
    store.abort_multipart(&upload).await.unwrap();
    assert!(server.uploads().is_empty());
}

#[tokio::test]
async fn a_part_beyond_the_last_is_refused_before_it_is_sent() {
    let server = server().await;
    let store = store(&server);
    let upload = store.create_multipart(&key("blob"), 1, 16 * MIB).await.unwrap();
    server.take_requests();
    let beyond = store.put_part(&upload, 10_000 * 16 * MIB, "x".into()).await.unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::TooLarge);
    assert_eq!(kind(store.put_part(&upload, 7, "x".into()).await), ErrorKind::Refused);
    assert!(asked(&server).is_empty());
    store.put_part(&upload, 9_999 * 16 * MIB, "x".into()).await.unwrap();
}

#[tokio::test]
async fn a_part_size_that_s3_does_not_take_is_refused_before_it_is_sent() {
    let server = server().await;
    let store = store(&server);
    for size in [0, PART_BYTES_MIN - 1, 5 * 1024 * MIB + 1] {
        let begun = store.create_multipart(&key("blob"), 1, size).await;
        assert_eq!(kind(begun), ErrorKind::Refused);
    }
    assert!(asked(&server).is_empty());
}

#[tokio::test]
async fn parts_are_numbered_by_their_offsets() {
    let server = server().await;
    let store = store(&server);
    uploaded(&store).await;
    let requests = server.take_requests();
    let parts = requests.iter().filter(|request| request.operation == S3Operation::UploadPart);
    let numbers: Vec<bool> =
        parts.zip(1..).map(|(r, n)| r.query.contains(&format!("partNumber={n}"))).collect();
    assert_eq!(numbers, [true, true]);
}

#[tokio::test]
async fn storage_class_and_encryption_go_with_what_makes_objects() {
    let server = server().await;
    let mut options = super::support::options(&server);
    options.url.storage_class = Some("STANDARD_IA".to_owned());
    options.url.encryption = jreg_storage::Encryption::S3;
    options.headers = vec![("x-of-ours".to_owned(), "1".to_owned())];
    let store = S3Store::open(options).unwrap();
    for (name, class) in [("blobs/a", Some("STANDARD_IA")), ("links/a", None)] {
        store.put(&key(name), "x".into(), jreg_storage::PutMode::Create).await.unwrap();
        store.create_multipart(&key(name), 1, PART_BYTES_MIN).await.unwrap();
        for request in server.take_requests() {
            assert_eq!(request.header("x-amz-storage-class"), class, "{request:?}");
            assert_eq!(request.header("x-amz-server-side-encryption"), Some("AES256"));
            assert_eq!(request.header("x-of-ours"), Some("1"));
        }
    }
    store.get(&key("blobs/a")).await.unwrap();
    assert_eq!(server.take_requests().first().unwrap().header("x-amz-storage-class"), None);
}

#[tokio::test]
async fn a_presigned_url_names_the_object_its_type_and_its_end() {
    let server = server().await;
    let store = store(&server);
    let presign = Presign { expires_s: 300, content_type: "text/plain; charset=utf-8".to_owned() };
    let url = store.presign(&key("blobs/a"), &presign).await.unwrap().unwrap();
    let start = format!("{}/{}/data/blobs/a?", server.endpoint(), server.bucket());
    assert!(url.starts_with(&start), "{url}");
    for part in ["X-Amz-Expires=300", "X-Amz-Signature=", "response-content-type=text%2Fplain"] {
        assert!(url.contains(part), "{url}");
    }
    assert!(!url.contains(server.secret_key()));
}
