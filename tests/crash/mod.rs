//! The real process is killed at random moments of concurrent pushes to a folder, and restarted on
//! it: acknowledged content is present byte for byte, acknowledged deletes and restores hold, every acknowledged change
//! of a tag is in its history once and in order, an immutable tag never moves, and an upload resumes at or after its
//! acknowledged offset. A sink that fails now and then gets an event of each change of a tag, and of nothing else.

mod fixed;
mod ledger;
mod worker;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jreg_testkit::{Process, Rng};

use crate::events::receiver::{Receiver, Reply};
use worker::Worker;

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");
const WORKERS: usize = 4;
const ROUNDS: u64 = 12;
/// Maximum number of acknowledged operations before the process is killed.
const ACKNOWLEDGED_MAX: u64 = 120;

/// Maximum number of waits per round, unless every worker has failed.
const WAITS_MAX: u32 = 60_000;

/// Waits until a number of operations is acknowledged, and then for a random time.
async fn moment(acknowledged: &AtomicU64, rng: &mut Rng) {
    let until = acknowledged.load(Ordering::Relaxed) + 10 + rng.below(ACKNOWLEDGED_MAX);
    for _ in 0..WAITS_MAX {
        if acknowledged.load(Ordering::Relaxed) >= until {
            break;
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    tokio::time::sleep(Duration::from_micros(rng.below(5000))).await;
}

/// A file with the settings: a sink, and immutable tags.
fn config(folder: &Path, receiver: &Receiver) -> String {
    let (rules, path) = (folder.join("lifecycle.toml"), folder.join("jreg.toml"));
    std::fs::write(&rules, fixed::RULES).unwrap();
    let text = format!(
        "lifecycle = '{}'\nevents-interval = '200ms'\n[[events.sink]]\nname = 'ledger'\nurl = '{}'\n",
        rules.display(),
        receiver.url()
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn acknowledged_content_survives_kills() {
    let seed = 2024;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("data");
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut rng = Rng::new(seed);
    let mut workers: Vec<_> =
        (0..WORKERS).map(|n| Worker::new(n, rng.bits(), acknowledged.clone())).collect();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let receiver = runtime.block_on(Receiver::start());
    let config = config(folder.path(), &receiver);
    let start = || Process::start_with(BINARY, &root, &["--config", &config]);
    for round in 0..ROUNDS {
        let process = start();
        receiver.reply([Reply::Status(503)]);
        workers = runtime.block_on(async {
            let client = process.client();
            for worker in &mut workers {
                worker.verify(&client).await;
            }
            let running: Vec<_> = workers
                .into_iter()
                .map(|worker| tokio::spawn(worker.run_until_killed(client.clone())))
                .collect();
            moment(&acknowledged, &mut rng).await;
            process.kill();
            let mut stopped = Vec::new();
            for worker in running {
                stopped.push(worker.await.unwrap_or_else(|e| panic!("round {round}: {e}")));
            }
            stopped
        });
    }
    let process = start();
    runtime.block_on(async {
        let mut changes = BTreeMap::new();
        for worker in &mut workers {
            worker.verify(&process.client()).await;
            changes.append(&mut worker.changes(&process.client()).await);
        }
        ledger::assert_events(&receiver, changes).await;
    });
    assert!(process.terminate().success());
    let total = acknowledged.load(Ordering::Relaxed);
    assert!(total > ROUNDS * 10, "only {total} operations were acknowledged");
}
