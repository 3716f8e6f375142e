//! Soak test: three instances in one bucket with continuous GC, random clients, crashes and faults,
//! while hours pass between requests. The grace period is minimal, and the clock runs so fast that
//! everything becomes old. Acknowledged referenced content stays, byte for byte; afterwards nothing
//! else is left. At the end objects lose their bytes, and pushing again repairs them.
//!
//! Runs on a memory store with a fault schedule, and on the S3 emulator with its own faults; each
//! also as a store that cannot delete a specific version of a record. `changes.rs` does so with the history of tags, restores,
//! purges, immutable tags, retention, quotas and events.
//!
//! `JREG_SOAK_SEEDS` runs so many seeds more than the usual few, `JREG_SOAK_OPERATIONS` says how
//! many operations each client makes, and `JREG_SOAK_FIRST` with which seed to begin.

mod audit;
mod changer;
mod changes;
mod client;
mod cluster;
mod damage;
mod fault_schedule;
mod fixtures;
mod gc;
mod ledger;
mod pull;
mod push;
mod unreliable_store;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::try_join_all;

use client::{Client, Shared};
use cluster::{Backend, Cluster, INSTANCES, Removal};
use fault_schedule::FaultSchedule;

const CLIENTS: u64 = 5;

/// Sizes of one part and of several, in parts of 64 bytes.
const MEMORY_BLOBS: [usize; 8] = [5, 60, 64, 10, 100, 200, 1, 30];
/// Two parts of the minimum size of S3.
const BUCKET_BLOBS: [usize; 8] = [5, 60, 64, 10, 100, 5 * 1024 * 1024 + 100, 1, 30];

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// A few seeds, and those of the environment.
fn seeds(few: u64) -> std::ops::Range<u64> {
    let first = variable("JREG_SOAK_FIRST").unwrap_or(1);
    first..first + few + variable("JREG_SOAK_SEEDS").unwrap_or(0)
}

fn soak_in_memory(removal: Removal) {
    for seed in seeds(3) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(soak(Backend::Memory, removal, seed, 200));
    }
}

fn soak_in_a_bucket(removal: Removal) {
    for seed in seeds(1) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        runtime.block_on(soak(Backend::Bucket, removal, seed, 40));
    }
}

#[test]
fn in_memory_what_is_referenced_stays_and_the_rest_goes() {
    soak_in_memory(Removal::OnVersion);
}

#[test]
fn in_memory_without_conditional_deletes_as_well() {
    soak_in_memory(Removal::Never);
}

#[test]
fn in_a_bucket_what_is_referenced_stays_and_the_rest_goes() {
    soak_in_a_bucket(Removal::OnVersion);
}

#[test]
fn in_a_bucket_without_conditional_deletes_as_well() {
    soak_in_a_bucket(Removal::Never);
}

async fn soak(place: Backend, removal: Removal, seed: u64, operations: u64) {
    println!("seed {seed}, {place:?}, records are removed {removal:?}");
    let began = std::time::Instant::now();
    let cluster = Arc::new(Cluster::new(place, removal, seed).await);
    let sizes = if place == Backend::Memory { MEMORY_BLOBS } else { BUCKET_BLOBS };
    let fixtures = Arc::new(fixtures::fixtures(sizes));
    let shared = Shared { fixtures, ledger: Arc::default(), cluster: Arc::clone(&cluster) };
    work(&shared, variable("JREG_SOAK_OPERATIONS").unwrap_or(operations)).await;
    cluster.schedule.stop_faults().await;
    cluster.replace();
    damage::damage_and_heal(&shared).await;
    audit::audit(&shared).await;
    let days = cluster.schedule.clock_days();
    println!("  {}, in {days} days ({:?})", cluster.schedule.counts, began.elapsed());
}

/// Runs all clients concurrently with GC.
async fn work(shared: &Shared, operations: u64) {
    let cluster = &shared.cluster;
    let stop = Arc::new(AtomicBool::new(false));
    let gc: Vec<_> = (0..INSTANCES)
        .map(|n| tokio::spawn(gc::collect_until_stopped(Arc::clone(cluster), n, Arc::clone(&stop))))
        .collect();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| Client::new(shared.clone(), cluster.schedule.rng().bits()))
        .map(|client| tokio::spawn(client.run(operations)))
        .collect();
    let ticking = tokio::spawn(tick(Arc::clone(&cluster.schedule)));
    let working = try_join_all(clients);
    tokio::pin!(working);
    let mut collecting = try_join_all(gc);
    tokio::select! {
        worked = working => worked.unwrap(),
        // They stop only on a failure.
        collected = &mut collecting => collected.unwrap(),
    };
    stop.store(true, Ordering::SeqCst);
    collecting.await.unwrap();
    ticking.abort();
}

/// Advances the clock when all tasks sleep.
pub(crate) async fn tick(schedule: Arc<FaultSchedule>) {
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let requests = schedule.counts.requests.load(Ordering::Relaxed);
        if requests == before {
            schedule.jump().await;
        }
        before = requests;
    }
}
