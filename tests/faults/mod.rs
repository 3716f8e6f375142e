//! Every store call of every operation fails once: before it is applied, or after, so that only its
//! response is lost. In every case acknowledged content is readable byte for byte, a visible tag
//! has its manifest and a manifest its blobs, no store failure is reported as absence, and retrying
//! the whole operation succeeds.

mod attempt;
mod bucket;
mod harness;
mod http;

use jreg_registry::Error;
use jreg_storage::ErrorKind;
use jreg_storage::testing::Fault;

use attempt::Attempt;
use harness::{FaultHarness, Shape};

/// More store calls than any of these operations makes.
const CALLS_MAX: u64 = 200;

type MakeFault = fn() -> Fault;

/// The kinds of failure of a call.
const FAULTS: [(&str, MakeFault); 3] = [
    ("throttled", || Fault::fail(ErrorKind::Throttled)),
    ("unavailable", || Fault::fail(ErrorKind::Unavailable)),
    ("response lost", || Fault::lose_response(ErrorKind::Unavailable)),
];

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// Fails each call of the attempt once, in each way, on each kind of store.
fn every_call(attempt: Attempt) {
    for shape in Shape::ALL {
        for (how, fault) in FAULTS {
            let mut survived = 0;
            for n in 1..=CALLS_MAX {
                let context = format!("{attempt:?} on {shape:?}, call {n} {how}");
                let mut hit = false;
                block_on(async { hit = one_fault(attempt, shape, fault().nth(n), &context).await });
                if !hit {
                    break;
                }
                survived = n;
            }
            assert!((1..CALLS_MAX).contains(&survived), "{attempt:?} made no call, or too many");
        }
    }
}

/// Whether the fault was hit.
async fn one_fault(attempt: Attempt, shape: Shape, fault: Fault, context: &str) -> bool {
    let mut harness = FaultHarness::new(shape, context).await;
    attempt.prepare(&mut harness).await;
    harness.faulty.inject(fault);
    let calls = harness.faulty.calls();
    let outcome = attempt.run(&mut harness).await;
    let made = harness.faulty.calls() - calls;
    let hit = harness.faulty.hits() > 0;
    harness.faulty.heal();
    if let Err(error) = outcome {
        assert!(hit, "{context}: fails without a fault, after {made} calls: {error}");
        assert!(is_of_the_store(&error), "{context}: a fault of the store became {error:?}");
    }
    harness.check().await;
    if let Err(error) = attempt.run(&mut harness).await {
        panic!("{context}: doing it again gave {error:?}");
    }
    harness.check().await;
    attempt.is_done(&mut harness).await;
    harness.reopen().await;
    harness.check().await;
    attempt.is_done(&mut harness).await;
    hit
}

/// Whether the response allows a retry, rather than reporting absence.
fn is_of_the_store(error: &Error) -> bool {
    matches!(error, Error::Store(_) | Error::Busy { .. } | Error::Interrupted { .. })
}

macro_rules! attempts {
    ($($name:ident: $attempt:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            every_call(Attempt::$attempt);
        })*
    };
}

attempt::for_each_attempt!(attempts);

/// A read whose store call fails is a store error: never absence, never an empty list.
#[test]
fn failed_reads_are_never_absence() {
    for shape in Shape::ALL {
        for read in attempt::Read::ALL {
            block_on(async {
                let context = format!("{read:?} on {shape:?}");
                let mut harness = FaultHarness::new(shape, &context).await;
                attempt::fill(&mut harness).await;
                harness.reopen().await;
                let whole = read.run(&harness).await.unwrap_or_else(|e| panic!("{context}: {e}"));
                for n in 1..=CALLS_MAX {
                    harness.reopen().await;
                    let before = harness.faulty.hits();
                    harness.faulty.inject(Fault::fail(ErrorKind::Unavailable).nth(n));
                    let outcome = read.run(&harness).await;
                    harness.faulty.heal();
                    if harness.faulty.hits() == before {
                        assert_eq!(outcome.unwrap(), whole, "{context}");
                        assert!(n > 1, "{context}: made no call");
                        break;
                    }
                    match outcome {
                        Err(error) => {
                            assert!(is_of_the_store(&error), "{context}, call {n}: {error:?}")
                        }
                        Ok(outcome) => assert_eq!(
                            outcome, whole,
                            "{context}, call {n}: a response in spite of it"
                        ),
                    }
                }
            });
        }
    }
}
