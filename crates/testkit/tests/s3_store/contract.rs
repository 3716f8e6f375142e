//! The contract of a store, bare, with tombstones, and by a single writer.
//!
//! `JREG_TEST_S3` names another server to test against instead: an `s3://` URL of a bucket, with
//! the keys in the variables of the AWS tools. With a prefix, each clause has a folder of its own
//! below it. Without one the clause has the bucket to itself, which must be empty.

use std::sync::Arc;
use std::time::Duration;

use jreg_storage::contract::ContractStore;
use jreg_storage::{
    PART_BYTES_MIN, S3Options, S3Store, S3Url, SingleWriterStore, Store, TombstoneStore,
};

use super::support::{options, server};

/// How long a failing request to another server is repeated.
const PATIENCE: Duration = Duration::from_secs(10);

async fn fixture(wrap: fn(S3Store) -> Arc<dyn Store>) -> ContractStore {
    if let Ok(url) = std::env::var("JREG_TEST_S3") {
        return ContractStore::new(wrap(elsewhere(&url).await), ());
    }
    let server = server().await;
    let mut options = options(&server);
    // The longest key leaves no room for one.
    options.url.prefix.clear();
    let store = S3Store::open(options).unwrap();
    ContractStore::new(wrap(store), server)
}

/// A place in the bucket of another server, spoken to as its probe says. What that server fails
/// for good fails soon.
async fn elsewhere(url: &str) -> S3Store {
    let mut url: S3Url = url.parse().unwrap();
    if !url.prefix.is_empty() {
        url.prefix = format!("{}/{}", url.prefix, uuid::Uuid::new_v4().simple());
    }
    let options = S3Options {
        part_bytes: PART_BYTES_MIN,
        request_budget: PATIENCE,
        transfer_budget: PATIENCE,
        ..S3Options::new(url)
    };
    let store = S3Store::open(options).unwrap();
    store.probe().await.unwrap();
    store
}

mod bare {
    jreg_storage::contract_tests!(super::fixture(|store| super::Arc::new(store)).await);
}

mod with_single_writer {
    jreg_storage::contract_tests!(
        super::fixture(|store| super::Arc::new(super::SingleWriterStore::new(store))).await
    );
}

mod with_tombstones {
    jreg_storage::contract_tests!(
        super::fixture(|store| super::Arc::new(super::TombstoneStore::new(store, |_| true))).await
    );
}
