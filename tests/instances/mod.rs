//! Several instances on one bucket with faults: responses are linearizable, nothing acknowledged is
//! lost, no wrong bytes are served, and uploads continue at another instance after a crash.
//!
//! `JREG_INSTANCES_SEEDS` adds that many seeds to the usual few.

mod cluster;
mod fixtures;
mod history;
mod killed;
mod ledger;
mod push;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use jreg_config::Settings;
use jreg_testkit::{Client, Request, Rng};

use cluster::{BucketFaults, Cluster};
use fixtures::{REPOSITORIES, TAGS};
use ledger::Ledger;
use worker::{Shared, Worker};

const WORKERS: u64 = 6;
const WATCHERS: u64 = 2;
const OPERATIONS: u64 = 24;

/// A few seeds, and those of the environment.
fn seeds(few: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let more = std::env::var("JREG_INSTANCES_SEEDS").ok().and_then(|n| n.parse().ok());
    few.start..few.end + more.unwrap_or(0)
}

fn block_on(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(test);
}

/// Every read is current: caches are not used.
fn strict() -> Settings {
    Settings { cache_age_max: Duration::ZERO, log: "off".to_owned(), ..Settings::default() }
}

#[test]
fn three_instances_under_faults_are_one_registry() {
    for seed in seeds(1..3) {
        block_on(random_mix(seed, strict(), true));
    }
}

#[test]
fn three_instances_with_caches_serve_nothing_wrong() {
    for seed in seeds(1000..1001) {
        block_on(random_mix(seed, Settings::default(), false));
    }
}

async fn random_mix(seed: u64, settings: Settings, strict: bool) {
    println!("seed {seed}");
    let mut cluster = Box::pin(Cluster::start(settings)).await;
    let faults = Arc::new(BucketFaults::begin(&cluster.bucket, seed));
    let mut shared = Shared {
        fixtures: Arc::new(fixtures::fixtures()),
        ledger: Arc::new(Ledger::default()),
        faults: Arc::clone(&faults),
        clients: cluster.clients(),
        strict,
    };
    let acknowledged = work(&shared, seed).await;
    assert!(acknowledged > WORKERS * OPERATIONS, "only {acknowledged} requests were acknowledged");
    faults.end(&cluster.bucket).await;
    if !strict {
        cluster.replace().await;
        (shared.clients, shared.strict) = (cluster.clients(), true);
    }
    for client in cluster.clients() {
        audit(&shared, client).await;
    }
    shared.ledger.check(seed);
    cluster.stop().await;
}

/// Runs all clients; returns the number of acknowledged operations.
async fn work(shared: &Shared, seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let running: Vec<_> = (0..WORKERS)
        .map(|number| {
            let worker = Worker::new(shared.clone(), rng.bits());
            let half_way = move |faults: &BucketFaults| {
                if number == 0 {
                    faults.age_everything();
                }
            };
            tokio::spawn(worker.run(OPERATIONS, half_way))
        })
        .collect();
    let stopped = Arc::new(AtomicBool::new(false));
    let watching: Vec<_> = (0..WATCHERS)
        .map(|_| Worker::new(shared.clone(), rng.bits()).watch(Arc::clone(&stopped)))
        .map(tokio::spawn)
        .collect();
    let acknowledged = join_all(running).await.into_iter().map(Result::unwrap).sum();
    stopped.store(true, Ordering::SeqCst);
    for watcher in watching {
        watcher.await.unwrap();
    }
    acknowledged
}

/// Reads everything at one instance, and records it in the ledger, so that it must follow from what
/// was acknowledged, and be the same at every instance.
async fn audit(shared: &Shared, client: Client) {
    let shared = Shared { clients: vec![client.clone()], ..shared.clone() };
    let fixtures = Arc::clone(&shared.fixtures);
    let mut reader = Worker::new(shared, 0);
    for (repository, name) in REPOSITORIES.iter().enumerate() {
        let mut tags = Vec::new();
        for (tag, name) in TAGS.iter().enumerate() {
            if reader.read_tag(repository, tag).await.is_some() {
                tags.push(*name);
            }
        }
        let listed =
            reader.insist(Request::new("GET", format!("/v2/{name}/tags/list")), |_| Vec::new());
        assert_eq!(listed.await.json()["tags"], serde_json::json!(tags), "{name}");
        for manifest in 0..fixtures.manifests.len() {
            reader.read_manifest(repository, manifest).await;
        }
        for blob in 0..fixtures.blobs.len() {
            reader.read_blob(repository, blob).await;
        }
        for subject in 0..fixtures.manifests.len() {
            reader.read_referrers(repository, subject).await;
        }
    }
    let listed = reader.insist(Request::new("GET", "/v2/_catalog"), |_| Vec::new()).await;
    assert_eq!(listed.json()["repositories"], serde_json::json!(REPOSITORIES));
}
