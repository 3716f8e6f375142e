//! Three instances on one bucket with injected faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jreg_config::Settings;
use jreg_storage::{S3Options, S3Store, Store, TombstoneStore};
use jreg_testkit::s3::{
    FaultRule, InjectedRule, S3Clock, S3Fault, S3Gate, S3Operation, S3Refusal, S3Server, S3Spec,
};
use jreg_testkit::{Client, ServerSpec, StoreKind, TestServer};

/// Maximum number of delayed writes, each until its sender has long timed out.
const HELD_MAX: u64 = 16;
/// Substring of the keys of tags.
const TAG: &str = "/_tags/";
/// Maximum wait for an instance.
const ATTEMPT_MAX: Duration = Duration::from_millis(700);
/// Retry budget of each instance: one hardly retries, so that its clients see many faults.
const PATIENCE: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(3)];

/// Older than a record may be that a write relies on without touching it.
const OLD: Duration = Duration::from_secs(2 * 3600);

/// Three instances.
pub(crate) struct Cluster {
    pub(crate) bucket: S3Server,
    instances: Vec<TestServer>,
    settings: Settings,
}

impl Cluster {
    pub(crate) async fn start(settings: Settings) -> Self {
        let bucket = S3Server::start(S3Spec::default()).await;
        let instances = start(&bucket, &settings).await;
        Self { bucket, instances, settings }
    }

    pub(crate) fn clients(&self) -> Vec<Client> {
        self.instances.iter().map(TestServer::client).collect()
    }

    /// Restarts all instances, with empty caches.
    pub(crate) async fn replace(&mut self) {
        let others = start(&self.bucket, &self.settings).await;
        for old in std::mem::replace(&mut self.instances, others) {
            old.stop().await;
        }
    }

    pub(crate) async fn stop(self) {
        for instance in self.instances {
            instance.stop().await;
        }
        self.bucket.stop().await;
    }
}

async fn start(bucket: &S3Server, settings: &Settings) -> Vec<TestServer> {
    let mut instances = Vec::new();
    for patience in PATIENCE {
        let spec = ServerSpec { settings: settings.clone(), ..ServerSpec::default() };
        let store = StoreKind::Given(store(bucket, patience));
        instances.push(TestServer::start(spec.store(store)).await);
    }
    instances
}

fn store(bucket: &S3Server, patience: Duration) -> Arc<dyn Store> {
    let options = S3Options {
        request_timeout: ATTEMPT_MAX,
        request_budget: patience,
        transfer_budget: patience,
        ..bucket.options()
    };
    let store = S3Store::open(options).unwrap();
    Arc::new(TombstoneStore::new(store, jreg_registry::may_come_back))
}

/// The injected faults.
pub(crate) struct BucketFaults {
    rules: Vec<(&'static str, InjectedRule)>,
    held: InjectedRule,
    gate: S3Gate,
    passed: AtomicU64,
    clock: S3Clock,
}

impl BucketFaults {
    /// Injects faults at their rates.
    pub(crate) fn begin(bucket: &S3Server, seed: u64) -> Self {
        let gate = S3Gate::closed();
        let put = Some(S3Operation::PutObject);
        let get = Some(S3Operation::GetObject);
        let faults = [
            ("refused", S3Fault::Refuse(S3Refusal::InternalError), None, "", 60),
            ("told to slow down", S3Fault::Refuse(S3Refusal::SlowDown), None, "", 60),
            ("told of a conflict", S3Fault::Refuse(S3Refusal::Conflict), put, "", 60),
            ("cut before it took effect", S3Fault::CutBefore, None, "", 80),
            ("response lost", S3Fault::LoseResponse, None, "", 80),
            ("response to a write lost", S3Fault::LoseResponse, put, "", 40),
            ("response to a tag's write lost", S3Fault::LoseResponse, put, TAG, 6),
            ("response cut in its body", S3Fault::CutBody(100), get, "", 60),
            ("delayed", S3Fault::Delay(Duration::from_millis(15)), None, "", 10),
            ("delayed on a tag", S3Fault::Delay(Duration::from_millis(15)), get, TAG, 3),
            ("kept back", S3Fault::Hold(gate.clone()), put, TAG, 6),
        ];
        let mut rules = Vec::new();
        for (number, (what, fault, operation, part, out_of)) in (0_u64..).zip(faults) {
            let keeps_back = matches!(fault, S3Fault::Hold(_));
            let rule =
                FaultRule::new(fault).one_in(out_of, seed.wrapping_mul(31).wrapping_add(number));
            let rule = rule.containing(part);
            let rule = if keeps_back { rule.at_most(HELD_MAX) } else { rule };
            let rule = operation.map_or(rule.clone(), |operation| rule.on(operation));
            rules.push((what, bucket.inject(rule)));
        }
        let (_, held) = rules.last().expect("there are rules").clone();
        Self { rules, held, gate, passed: AtomicU64::new(0), clock: bucket.clock().clone() }
    }

    /// Makes everything in the bucket so old that it is touched before a write relies on it.
    pub(crate) fn age_everything(&self) {
        self.clock.advance(OLD);
    }

    /// Applies one delayed write, if there is one.
    pub(crate) fn release_one(&self) {
        let held = self.held.hits();
        let next = |passed| (passed < held).then_some(passed + 1);
        if self.passed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok() {
            self.gate.pass_one();
        }
    }

    /// Ends all faults, and waits until no request is in flight.
    pub(crate) async fn end(&self, bucket: &S3Server) {
        bucket.remove_all();
        self.gate.open();
        bucket.idle().await;
        for (what, rule) in &self.rules {
            assert!(rule.hits() > 0, "no request was {what}");
        }
    }
}
