//! Random operations on the registry and on a small reference model, compared after each step.
//!
//! A failure is shrunk to the fewest operations, and then becomes a named test at the end of this
//! file. `PROPTEST_CASES` runs more cases.

mod direct;
mod fixtures;
mod http;
mod operation;
mod reference;

use std::sync::Arc;

use jreg_storage::{FsOptions, FsStore, MemoryStore, PartRules, Store};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use crate::fixtures::Fixtures;
use direct::Direct;
use http::Http;
use jreg_testkit::s3::{S3Server, S3Spec};
use operation::{Driver, Operation, any_operation, audit};
use reference::Reference;

/// Runs the operations on both, and compares each result and then all visible state.
async fn compare(fixtures: &Fixtures, driver: &mut impl Driver, operations: &[Operation]) {
    let mut reference = Reference::default();
    for (number, operation) in operations.iter().enumerate() {
        check(fixtures, driver, &mut reference, operation, number).await;
        for look in audit(fixtures) {
            check(fixtures, driver, &mut reference, &look, number).await;
        }
    }
}

async fn check(
    fixtures: &Fixtures,
    driver: &mut impl Driver,
    reference: &mut Reference,
    operation: &Operation,
    number: usize,
) {
    let expected = reference.apply(fixtures, operation);
    let Some(expected) = expected else { return };
    let actual = driver.apply(fixtures, operation).await;
    assert!(
        expected.contains(&actual),
        "after operation {number}: {operation:?} gave {actual:?}, not {expected:?}"
    );
}

fn config(cases: u32) -> Config {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    let seeded = std::env::var("PROPTEST_CASES").is_err();
    let rng_seed = if seeded { RngSeed::Fixed(20_24) } else { RngSeed::Random };
    Config {
        cases,
        rng_seed,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    }
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    proptest::collection::vec(any_operation(), 1..50)
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn on_store(operations: &[Operation], store: impl Fn() -> Arc<dyn Store>) {
    block_on(async {
        let mut driver = Direct::new(store).await;
        compare(&fixtures::fixtures(), &mut driver, operations).await;
    });
}

/// A store with the properties of S3: shared, parts of one size.
fn shared() -> Arc<dyn Store> {
    let rules = PartRules { part_bytes: 16 * 1024, uniform: true, parts_max: 10_000 };
    Arc::new(MemoryStore::builder().remote().part_rules(rules).build())
}

fn on_memory(operations: &[Operation]) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    on_store(operations, || store.clone());
}

fn on_shared(operations: &[Operation]) {
    let store = shared();
    on_store(operations, || store.clone());
}

fn on_folder(operations: &[Operation]) {
    let folder = tempfile::tempdir().unwrap();
    on_store(operations, || Arc::new(FsStore::open(folder.path(), FsOptions::default()).unwrap()));
}

fn in_bucket(operations: &[Operation]) {
    block_on(async {
        let server = S3Server::start(S3Spec::default()).await;
        let mut driver = Direct::new(|| server.store()).await;
        compare(&fixtures::fixtures(), &mut driver, operations).await;
        server.stop().await;
    });
}

fn over_http(operations: &[Operation]) {
    block_on(async {
        let mut driver = Http::new().await;
        compare(&fixtures::fixtures(), &mut driver, operations).await;
    });
}

#[test]
fn registry_on_memory_is_the_reference() {
    proptest!(config(100), |(operations in operations())| on_memory(&operations));
}

#[test]
fn registry_on_a_shared_store_is_the_reference() {
    proptest!(config(100), |(operations in operations())| on_shared(&operations));
}

#[test]
fn registry_on_a_folder_is_the_reference() {
    proptest!(config(8), |(operations in operations())| on_folder(&operations));
}

#[test]
fn registry_in_a_bucket_is_the_reference() {
    proptest!(config(8), |(operations in operations())| in_bucket(&operations));
}

#[test]
fn server_is_the_reference() {
    proptest!(config(4), |(operations in operations())| over_http(&operations));
}
