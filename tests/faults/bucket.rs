//! The same in a bucket: every request of every operation is refused, interrupted, or loses its
//! response. A single fault is hardly noticed: the store retries what may be retried, and checks
//! the outcome of the rest. While every request from some point on fails, the operation fails with
//! a store error, nothing acknowledged is lost, and a retry succeeds.

use std::sync::Arc;
use std::time::Duration;

use jreg_storage::{S3Options, S3Store, Store, TombstoneStore};
use jreg_testkit::s3::{FaultRule, S3Fault, S3Refusal, S3Server, S3Spec};

use crate::faults::attempt::{Attempt, for_each_attempt};
use crate::faults::harness::FaultHarness;
use crate::faults::{block_on, is_of_the_store};

/// More requests than any of these operations makes.
const REQUESTS_MAX: u64 = 100;

/// More than the smallest part of S3.
const LARGE_BYTES: usize = 5 * 1024 * 1024 + 100_000;

/// The error of a write that may have taken effect and been overwritten since.
const DOUBT: &str = "a response was lost, and another write has come since";

type MakeFault = fn() -> S3Fault;

/// The kinds of failure of a request.
const FAULTS: [(&str, MakeFault); 4] = [
    ("told to slow down", || S3Fault::Refuse(S3Refusal::SlowDown)),
    ("refused", || S3Fault::Refuse(S3Refusal::InternalError)),
    ("cut before it took effect", || S3Fault::CutBefore),
    ("response lost", || S3Fault::LoseResponse),
];

/// A store with short timeouts, to keep the test fast.
fn store(server: &S3Server) -> Arc<dyn Store> {
    let brief = Duration::from_millis(500);
    let options = S3Options { request_budget: brief, transfer_budget: brief, ..server.options() };
    let store = S3Store::open(options).unwrap();
    Arc::new(TombstoneStore::new(store, jreg_registry::may_come_back))
}

async fn harness(server: &S3Server, attempt: Attempt, context: &str) -> FaultHarness {
    let mut harness = FaultHarness::over(store(server), LARGE_BYTES, context).await;
    attempt.prepare(&mut harness).await;
    harness
}

async fn holds(harness: &mut FaultHarness, attempt: Attempt) {
    harness.check().await;
    attempt.is_done(harness).await;
    harness.reopen().await;
    harness.check().await;
    attempt.is_done(harness).await;
}

/// Whether the fault was hit.
async fn one_fault(attempt: Attempt, fault: S3Fault, n: u64, context: &str) -> bool {
    let server = S3Server::start(S3Spec::default()).await;
    let mut harness = harness(&server, attempt, context).await;
    let injected = server.inject(FaultRule::new(fault).nth(n));
    let outcome = attempt.run(&mut harness).await;
    server.remove_all();
    if let Err(error) = outcome {
        // The outcome of a Create that meets another writer's record is unknown.
        let what = format!("{error:?}");
        assert!(what.contains(DOUBT), "{context}: was noticed: {what}");
        harness.check().await;
        attempt.run(&mut harness).await.unwrap_or_else(|error| panic!("{context}: {error:?}"));
    }
    holds(&mut harness, attempt).await;
    injected.hits() > 0
}

fn every_request(attempt: Attempt) {
    for (how, fault) in FAULTS {
        let mut survived = 0;
        for n in 1..=REQUESTS_MAX {
            let context = format!("{attempt:?}, request {n} {how}");
            let mut hit = false;
            block_on(async { hit = one_fault(attempt, fault(), n, &context).await });
            if !hit {
                break;
            }
            survived = n;
        }
        assert!((1..REQUESTS_MAX).contains(&survived), "{attempt:?} asks nothing, or too much");
    }
}

/// Whether the outage was hit.
async fn one_outage(attempt: Attempt, fault: MakeFault, from: u64, context: &str) -> bool {
    let server = S3Server::start(S3Spec::default()).await;
    let mut harness = harness(&server, attempt, context).await;
    server.take_requests();
    let counted = server.inject(FaultRule::new(S3Fault::Delay(Duration::ZERO)).nth(from));
    let outage = (from..from + REQUESTS_MAX).map(|n| server.inject(FaultRule::new(fault()).nth(n)));
    let _outage: Vec<_> = outage.collect();
    let outcome = attempt.run(&mut harness).await;
    server.remove_all();
    if let Err(error) = outcome {
        assert!(is_of_the_store(&error), "{context}: an outage became {error:?}");
    }
    harness.check().await;
    if let Err(error) = attempt.run(&mut harness).await {
        panic!("{context}: doing it again gave {error:?}");
    }
    holds(&mut harness, attempt).await;
    counted.hits() > 0
}

macro_rules! attempts {
    ($($name:ident: $attempt:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            every_request(Attempt::$attempt);
        })*

        /// Every fourth start of an outage: each takes the store's whole timeout.
        #[test]
        fn outages() {
            for attempt in [$(Attempt::$attempt),*] {
                for from in (1..=REQUESTS_MAX).step_by(4) {
                    let context = format!("{attempt:?}, an outage from request {from}");
                    let mut hit = false;
                    let fault = || S3Fault::LoseResponse;
                    block_on(async { hit = one_outage(attempt, fault, from, &context).await });
                    if !hit {
                        break;
                    }
                }
            }
        }
    };
}

for_each_attempt!(attempts);
