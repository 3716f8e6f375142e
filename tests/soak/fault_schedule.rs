//! [`FaultSchedule`]: the simulated clock that all instances share, the delayed writes, and the rate of
//! faults.
//!
//! Time advances only while no request is in flight: what is sent within a writer's window arrives
//! before the clock moves. The exception are writes whose sender has timed out: these may land a
//! quarter of an hour later, as long as a signature is valid.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use jreg_storage::Clock;
use jreg_storage::testing::ManualClock;
use jreg_testkit::Rng;
use jreg_testkit::s3::{FaultRule, InjectedRule, S3Fault, S3Gate, S3Operation, S3Server};
use tokio::sync::{Mutex as AsyncMutex, Notify, RwLock, RwLockReadGuard, watch};
use tokio::task::JoinHandle;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// Maximum delay of a write.
const DELAY_MAX: Duration = Duration::from_secs(15 * 60);
/// Maximum number of events kept to explain a failure.
const LINES_MAX: usize = 100_000;
/// Number of requests in one phase of the schedule.
const PHASE_REQUESTS: u64 = 3000;

/// What has happened.
#[derive(Debug, Default)]
pub(crate) struct SoakCounts {
    pub(crate) requests: AtomicU64,
    pub(crate) jumps: AtomicU64,
    pub(crate) stalls: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) late: AtomicU64,
    pub(crate) crashes: AtomicU64,
    pub(crate) operations: AtomicU64,
    pub(crate) acknowledged: AtomicU64,
    pub(crate) pulls: AtomicU64,
    pub(crate) objects_checked: AtomicU64,
    pub(crate) collections: AtomicU64,
    pub(crate) collections_cut: AtomicU64,
    pub(crate) removed: AtomicU64,
    pub(crate) deduplicated: AtomicU64,
    pub(crate) damaged: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl fmt::Display for SoakCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(
            f,
            "{} operations, {} acknowledged, {} pulls, {} objects checked; {} collections and {} \
             cut off, {} objects removed, {} deduplicated, {} damaged; {} requests, {} faults, {} late, {} crashes, \
             {} jumps, {} stalls",
            of(&self.operations),
            of(&self.acknowledged),
            of(&self.pulls),
            of(&self.objects_checked),
            of(&self.collections),
            of(&self.collections_cut),
            of(&self.removed),
            of(&self.deduplicated),
            of(&self.damaged),
            of(&self.requests),
            of(&self.faults),
            of(&self.late),
            of(&self.crashes),
            of(&self.jumps),
            of(&self.stalls),
        )
    }
}

#[derive(Debug)]
pub(crate) struct DelayedWrite {
    pub(crate) sent: SystemTime,
    pub(crate) go: Arc<Notify>,
    pub(crate) landing: JoinHandle<()>,
}

/// How writes are delayed: in a bucket the server delays them.
#[derive(Debug)]
enum WriteDelays {
    Memory(Mutex<Vec<DelayedWrite>>),
    Bucket { server: Arc<S3Server>, held: AsyncMutex<HeldWrites> },
}

/// The delayed writes of a bucket.
#[derive(Debug)]
struct HeldWrites {
    since: SystemTime,
    gate: S3Gate,
    rules: Vec<InjectedRule>,
}

/// The simulated clock and the faults of one run.
#[derive(Debug)]
pub(crate) struct FaultSchedule {
    pub(crate) seed: u64,
    pub(crate) clock: Arc<ManualClock>,
    rng: Mutex<Rng>,
    flight: RwLock<()>,
    passed: watch::Sender<()>,
    delays: WriteDelays,
    is_quiet: AtomicBool,
    pub(crate) counts: SoakCounts,
    lines: Mutex<VecDeque<String>>,
}

impl FaultSchedule {
    pub(crate) fn new(seed: u64, server: Option<Arc<S3Server>>) -> Self {
        let clock = Arc::new(ManualClock::default());
        let delays = match server {
            None => WriteDelays::Memory(Mutex::default()),
            Some(server) => {
                server.clock().stop_at(clock.now());
                let held = AsyncMutex::new(hold(&server, clock.now(), seed));
                WriteDelays::Bucket { server, held }
            }
        };
        Self {
            seed,
            clock,
            rng: Mutex::new(Rng::new(seed)),
            flight: RwLock::new(()),
            passed: watch::Sender::new(()),
            delays,
            is_quiet: AtomicBool::new(false),
            counts: SoakCounts::default(),
            lines: Mutex::default(),
        }
    }

    pub(crate) fn rng(&self) -> MutexGuard<'_, Rng> {
        self.rng.lock().unwrap()
    }

    pub(crate) fn chance(&self, out_of: u64) -> bool {
        self.rng().chance(1, out_of)
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Ends all faults; the clock stands still unless a test advances it.
    pub(crate) async fn stop_faults(&self) {
        self.is_quiet.store(true, Ordering::SeqCst);
        let _alone = self.flight.write().await;
        self.release_all().await;
        if let WriteDelays::Bucket { server, .. } = &self.delays {
            server.remove_all();
        }
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.is_quiet.load(Ordering::SeqCst)
    }

    /// Whether this phase is a burst of faults.
    pub(crate) fn is_burst(&self) -> bool {
        (self.counts.requests.load(Ordering::Relaxed) / PHASE_REQUESTS).is_multiple_of(3)
    }

    /// Held while a request is in flight.
    pub(crate) async fn in_flight(&self) -> RwLockReadGuard<'_, ()> {
        self.flight.read().await
    }

    /// Advances the clock by a random time.
    pub(crate) async fn jump(&self) {
        let by = {
            let mut rng = self.rng();
            let (least, most) = match rng.below(10) {
                0 => (40 * MINUTE, 90 * MINUTE),
                1 | 2 => (5 * MINUTE, 40 * MINUTE),
                _ => (20 * MINUTE / 60, 4 * MINUTE),
            };
            least + Duration::from_secs(rng.below((most - least).as_secs()))
        };
        count(&self.counts.jumps);
        self.advance(by).await;
    }

    /// Advances the clock.
    pub(crate) async fn advance(&self, by: Duration) {
        let _alone = self.flight.write().await;
        self.release_before(self.now() + by).await;
        self.clock.advance(by);
        if let WriteDelays::Bucket { server, .. } = &self.delays {
            server.clock().stop_at(self.now());
        }
        self.note(|| format!("--- {} s pass", by.as_secs()));
        self.passed.send_replace(());
    }

    /// Pauses for some hours, like a suspended process.
    pub(crate) async fn stall(&self) {
        let by = 30 * MINUTE + Duration::from_secs(self.rng().below(5 * HOUR.as_secs()));
        let until = self.now() + by;
        count(&self.counts.stalls);
        let mut passed = self.passed.subscribe();
        while self.now() < until && !self.is_quiet() {
            passed.changed().await.ok();
        }
    }

    /// How many days have passed.
    pub(crate) fn clock_days(&self) -> u64 {
        self.clock.monotonic().as_secs() / (24 * 3600)
    }

    pub(crate) fn add_delayed(&self, late: DelayedWrite) {
        count(&self.counts.late);
        if let WriteDelays::Memory(writes) = &self.delays {
            writes.lock().unwrap().push(late);
        }
    }

    /// Whether the schedule itself delays writes, instead of a server.
    pub(crate) fn delays_writes(&self) -> bool {
        matches!(self.delays, WriteDelays::Memory(_))
    }

    /// Applies one delayed write.
    pub(crate) async fn release_one(&self) {
        match &self.delays {
            WriteDelays::Memory(writes) => {
                let writes = writes.lock().unwrap();
                if !writes.is_empty() {
                    self.rng().pick(&writes).go.notify_one();
                }
            }
            WriteDelays::Bucket { held, .. } => held.lock().await.gate.pass_one(),
        }
    }

    /// Applies the writes that cannot be in flight any more at `then`.
    async fn release_before(&self, then: SystemTime) {
        let is_due = |sent: SystemTime| then > sent + DELAY_MAX;
        match &self.delays {
            WriteDelays::Memory(writes) => {
                let due: Vec<_> = {
                    let mut writes = writes.lock().unwrap();
                    writes.extract_if(.., |late| is_due(late.sent)).collect()
                };
                for late in due {
                    late.go.notify_one();
                    late.landing.await.unwrap();
                }
            }
            WriteDelays::Bucket { server, held } => {
                let mut held = held.lock().await;
                if is_due(held.since) {
                    held.gate.open();
                    held.rules.iter().for_each(|rule| server.remove(rule));
                    server.idle().await;
                    let late = held.rules.iter().map(InjectedRule::hits).sum();
                    self.counts.late.fetch_add(late, Ordering::Relaxed);
                    if !self.is_quiet() {
                        let seed = self.rng().bits();
                        *held = hold(server, then, seed);
                    }
                }
            }
        }
    }

    async fn release_all(&self) {
        self.release_before(self.now() + 2 * DELAY_MAX).await;
    }

    /// Records an event, in case of a failure.
    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        let since = self.clock.monotonic().as_secs();
        let mut lines = self.lines.lock().unwrap();
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(format!("{since:>8} {}", what()));
    }

    /// Fails the test, with all recorded events that contain these words.
    pub(crate) fn violation(&self, what: &str, about: &[&str]) -> ! {
        let lines = self.lines.lock().unwrap();
        let of_interest = |line: &&String| about.iter().any(|word| line.contains(word));
        let told: Vec<_> = lines.iter().filter(of_interest).map(String::as_str).collect();
        let told = told[told.len().saturating_sub(300)..].join("\n");
        drop(lines);
        panic!("seed {}: {what}\n{told}", self.seed);
    }
}

/// Writes that a bucket will delay: few, since each blocks its sender.
fn hold(server: &S3Server, since: SystemTime, seed: u64) -> HeldWrites {
    let gate = S3Gate::closed();
    let of = |operation, part: &str, out_of| {
        let rule = FaultRule::new(S3Fault::Hold(gate.clone())).on(operation).containing(part);
        server.inject(rule.one_in(out_of, seed).at_most(1))
    };
    let put = S3Operation::PutObject;
    let rules = vec![
        of(put, "links/", 20),
        of(put, "/_tags/", 10),
        of(put, "/_manifests/", 20),
        of(S3Operation::DeleteObject, "links/", 10),
    ];
    HeldWrites { since, gate, rules }
}
