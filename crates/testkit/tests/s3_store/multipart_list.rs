//! The list of multipart uploads: its pages, what ends while it is read, and a bucket that refuses it.

use std::collections::BTreeSet;

use jreg_storage::{ErrorKind, PART_BYTES_MIN, Store};
use jreg_testkit::s3::{FaultRule, S3Fault, S3Gate, S3Operation, S3Refusal};

use super::support::{asked, key, kind, server, store};

/// More than one response lists.
const UPLOADS: u64 = 1003;

#[tokio::test]
async fn uploads_are_listed_page_by_page_with_the_size_of_their_parts() {
    let server = server().await;
    let store = store(&server);
    let mut created = BTreeSet::new();
    for n in 0..UPLOADS {
        // Some keys have several.
        let key = key(&format!("blobs/{:03}", n / 2));
        let upload = store.create_multipart(&key, 1, PART_BYTES_MIN).await.unwrap();
        if n % 500 == 0 {
            store.put_part(&upload, 0, "part".into()).await.unwrap();
            store.put_part(&upload, PART_BYTES_MIN, "rest and".into()).await.unwrap();
        }
        created.insert((upload.key.to_string(), upload.id));
    }
    store.create_multipart(&key("other/blob"), 1, PART_BYTES_MIN).await.unwrap();
    server.take_requests();
    let listed = store.staged_uploads("blobs/").await.unwrap();
    let requests = asked(&server);
    let found: BTreeSet<_> = listed
        .iter()
        .map(|staged| (staged.upload.key.to_string(), staged.upload.id.clone()))
        .collect();
    assert_eq!(listed.len() as u64, UPLOADS);
    assert_eq!(found, created);
    let sizes: Vec<u64> =
        listed.iter().map(|staged| staged.size_bytes).filter(|n| *n > 0).collect();
    assert_eq!(sizes, [12; 3]);
    let of = |name: &str| requests.iter().filter(|request| *request == name).count() as u64;
    assert_eq!((of("ListMultipartUploads"), of("ListParts")), (2, UPLOADS), "{requests:?}");
}

#[tokio::test]
async fn an_upload_that_ends_meanwhile_is_left_out() {
    let server = server().await;
    let store = store(&server);
    let mut uploads = Vec::new();
    for name in ["blobs/1", "blobs/2", "blobs/3"] {
        uploads.push(store.create_multipart(&key(name), 1, PART_BYTES_MIN).await.unwrap());
    }
    let gate = S3Gate::closed();
    let held = FaultRule::new(S3Fault::HoldResponse(gate.clone()));
    server.inject(held.on(S3Operation::ListMultipartUploads));
    let abort = async {
        gate.arrived(1).await;
        store.abort_multipart(&uploads[1]).await.unwrap();
        gate.open();
    };
    let (listed, ()) = tokio::join!(store.staged_uploads("blobs/"), abort);
    let listed = listed.unwrap().into_iter().map(|staged| staged.upload.id);
    assert_eq!(listed.collect::<Vec<_>>(), [uploads[0].id.clone(), uploads[2].id.clone()]);
}

#[tokio::test]
async fn a_listing_that_the_bucket_refuses_is_refused() {
    for operation in [S3Operation::ListMultipartUploads, S3Operation::ListParts] {
        let server = server().await;
        let store = store(&server);
        store.create_multipart(&key("blobs/1"), 1, PART_BYTES_MIN).await.unwrap();
        server.inject(FaultRule::new(S3Fault::Refuse(S3Refusal::AccessDenied)).on(operation));
        assert_eq!(kind(store.staged_uploads("blobs/").await), ErrorKind::Refused, "{operation:?}");
    }
}
