//! The contract of a store, bare and with tombstones.
//!
//! `JREG_TEST_S3` names another server to test against instead: an `s3://` URL of a bucket, with
//! the keys in the variables of the AWS tools.

use std::sync::Arc;

use jreg_storage::contract::Fixture;
use jreg_storage::{PART_BYTES_MIN, S3Options, S3Store, S3Url, Store, Tombstones};

use super::support::{options, server};

async fn fixture(wrap: fn(S3Store) -> Arc<dyn Store>) -> Fixture {
    if let Ok(url) = std::env::var("JREG_TEST_S3") {
        return Fixture::new(wrap(elsewhere(&url).await), ());
    }
    let server = server().await;
    let mut options = options(&server);
    // The longest key leaves no room for one.
    options.url.prefix.clear();
    let store = S3Store::open(options).unwrap();
    Fixture::new(wrap(store), server)
}

/// A folder of its own in the bucket of another server, spoken to as its probe says.
async fn elsewhere(url: &str) -> S3Store {
    let mut url: S3Url = url.parse().unwrap();
    url.prefix = format!("test-{}", uuid::Uuid::new_v4().simple());
    let options = S3Options { part_bytes: PART_BYTES_MIN, ..S3Options::new(url) };
    let store = S3Store::open(options).unwrap();
    store.probe().await.unwrap();
    store
}

mod bare {
    jreg_storage::contract_tests!(super::fixture(|store| super::Arc::new(store)).await);
}

mod with_tombstones {
    jreg_storage::contract_tests!(
        super::fixture(|store| super::Arc::new(super::Tombstones::new(store, |_| true))).await
    );
}
