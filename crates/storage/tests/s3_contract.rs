//! The S3 store against the contract, bare and with tombstones.
//!
//! `JREG_TEST_S3` names another server to test against: an `s3://` URL of an empty bucket, with
//! the keys in the variables of the AWS tools.

#![allow(clippy::unwrap_used)]

use jreg_storage::{PART_BYTES_MIN, S3Options, S3Store, S3Url};

async fn bucket() -> S3Store {
    let mut url: S3Url = std::env::var("JREG_TEST_S3").unwrap().parse().unwrap();
    url.prefix = format!("{}test/{}", url.prefix, uuid::Uuid::new_v4().simple());
    S3Store::open(S3Options { part_bytes: PART_BYTES_MIN, ..S3Options::new(url) }).unwrap()
}

mod bare {
    jreg_storage::contract_tests!(super::bucket().await);
}

mod with_tombstones {
    jreg_storage::contract_tests!(jreg_storage::Tombstones::new(super::bucket().await, |_| true));
}
