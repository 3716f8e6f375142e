//! Three instances on one bucket, each of which may crash at any time and restarts at once.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use jreg_lifecycle::{CurrentRules, LifecycleRules};
use jreg_oci::RepositoryName;
use jreg_registry::{EventAction, EventInterest, Registry, RegistryLimits, RegistryOptions};
use jreg_storage::{
    Clock, CoalescedStore, GATHER_MAX, MemoryStore, PartRules, S3Options, S3Store, Store,
    TombstoneStore,
};
use jreg_testkit::SmallPagesStore;
use jreg_testkit::s3::{
    ConditionalDelete, FaultRule, S3Fault, S3Operation, S3Refusal, S3Server, S3Spec,
};

use crate::soak::fault_schedule::FaultSchedule;
use crate::soak::unreliable_store::{InstanceLifetime, UnreliableStore};

pub(crate) const INSTANCES: usize = 3;

/// Small parts, so that a few bytes are several parts.
const MEMORY_PARTS: PartRules = PartRules { part_bytes: 64, uniform: true, parts_max: 100 };
/// Small pages, so that a listing has several.
const PAGE: usize = 9;
/// Maximum age of an upload: a few GC runs.
const UPLOAD_AGE_MAX: Duration = Duration::from_secs(8 * 3600);
/// How far the clock of an instance with a lifecycle is from the store's, in seconds.
const CLOCK_DIFFERENCES: [i64; INSTANCES] = [0, 60, -60];
/// How long a cached entry is trusted, by instance.
const TRUST: [Duration; INSTANCES] = [Duration::ZERO, Duration::from_secs(60), Duration::ZERO];

/// The store that all instances share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Memory,
    /// The emulator of S3.
    Bucket,
}

/// Whether the store supports deletes of a specific version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    OnVersion,
    Never,
}

/// An instance between two crashes.
#[derive(Debug)]
struct Instance {
    registry: Registry,
    lifetime: Arc<InstanceLifetime>,
}

/// A clock that is ahead of another, or behind it.
#[derive(Debug)]
struct SkewedClock {
    clock: Arc<dyn Clock>,
    seconds: i64,
}

impl Clock for SkewedClock {
    fn now(&self) -> SystemTime {
        let difference = Duration::from_secs(self.seconds.unsigned_abs());
        match self.seconds < 0 {
            true => self.clock.now() - difference,
            false => self.clock.now() + difference,
        }
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}

/// Wants every event.
#[derive(Debug)]
struct Everything;

impl EventInterest for Everything {
    fn wants(&self, _: EventAction, _: Option<&RepositoryName>) -> bool {
        true
    }
}

/// The instances.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) schedule: Arc<FaultSchedule>,
    pub(crate) removal: Removal,
    server: Option<Arc<S3Server>>,
    memory: Arc<dyn Store>,
    /// The lifecycle file. With it, events are written, and the clocks differ.
    lifecycle: Option<&'static str>,
    instances: Vec<Mutex<Option<Arc<Instance>>>>,
}

impl Cluster {
    /// The same with a lifecycle file, events, and clocks that differ.
    pub(crate) fn with_lifecycle(self, lifecycle: &'static str) -> Self {
        Self { lifecycle: Some(lifecycle), ..self }
    }

    fn clock(&self, number: usize) -> Arc<dyn Clock> {
        let clock = self.schedule.clock.clone();
        match self.lifecycle {
            Some(_) => Arc::new(SkewedClock { clock, seconds: CLOCK_DIFFERENCES[number] }),
            None => clock,
        }
    }

    fn equip(&self, registry: Registry) -> Registry {
        let Some(lifecycle) = self.lifecycle else { return registry };
        let rules = Arc::new(LifecycleRules::parse(lifecycle).unwrap());
        registry.with_rules(CurrentRules::new(rules)).with_events(Arc::new(Everything))
    }

    pub(crate) async fn new(place: Backend, removal: Removal, seed: u64) -> Self {
        let server = match place {
            Backend::Memory => None,
            Backend::Bucket => Some(Arc::new(server(removal, seed).await)),
        };
        let schedule = Arc::new(FaultSchedule::new(seed, server.clone()));
        let memory = MemoryStore::builder().remote().part_rules(MEMORY_PARTS);
        let memory = Arc::new(memory.clock(schedule.clock.clone()).build());
        let memory = Arc::new(SmallPagesStore::new(memory, PAGE));
        let instances = (0..INSTANCES).map(|_| Mutex::default()).collect();
        Self { schedule, removal, server, memory, lifecycle: None, instances }
    }

    /// The store without decorators.
    pub(crate) fn bare(&self) -> Arc<dyn Store> {
        match &self.server {
            None => Arc::clone(&self.memory),
            Some(server) => Arc::new(S3Store::open(self.s3_options(server)).unwrap()),
        }
    }

    /// Short timeouts, so that delayed requests time out soon, as long as there are faults.
    fn s3_options(&self, server: &S3Server) -> S3Options {
        if self.schedule.is_quiet() {
            return S3Options { clock: self.schedule.clock.clone(), ..server.options() };
        }
        S3Options {
            clock: self.schedule.clock.clone(),
            request_timeout: Duration::from_millis(150),
            request_budget: Duration::from_millis(250),
            transfer_budget: Duration::from_millis(400),
            ..server.options()
        }
    }

    async fn instance(&self, number: usize) -> Arc<Instance> {
        loop {
            if let Some(instance) = &*self.instances[number].lock().unwrap() {
                return Arc::clone(instance);
            }
            let lifetime = Arc::new(InstanceLifetime::new());
            let (schedule, lived) = (Arc::clone(&self.schedule), Arc::clone(&lifetime));
            let store = UnreliableStore::new(self.bare(), schedule, lived, number);
            // It needs the simulated clock to detect that a delayed write would arrive late.
            let mut store = TombstoneStore::new(store, jreg_registry::may_come_back)
                .with_clock(self.schedule.clock.clone());
            if self.removal == Removal::Never {
                store = store.that_stay();
            }
            let store = Arc::new(CoalescedStore::new(Arc::new(store), GATHER_MAX));
            let opening = Registry::open(store, self.clock(number), options(number));
            let opened = tokio::select! {
                opened = opening => opened,
                () = lifetime.ended() => continue,
            };
            if let Ok(registry) = opened.map(|registry| self.equip(registry)) {
                let mut place = self.instances[number].lock().unwrap();
                place.get_or_insert(Arc::new(Instance { registry, lifetime }));
            }
        }
    }

    /// Runs an operation at an instance; `None`: the instance crashed.
    pub(crate) async fn at<T, F>(
        &self,
        number: usize,
        work: impl FnOnce(Registry) -> F,
    ) -> Option<T>
    where
        F: Future<Output = T>,
    {
        let instance = self.instance(number).await;
        tokio::select! {
            done = work(instance.registry.clone()) => Some(done),
            () = instance.lifetime.ended() => {
                let mut place = self.instances[number].lock().unwrap();
                if place.as_ref().is_some_and(|now| Arc::ptr_eq(now, &instance)) {
                    *place = None;
                }
                None
            }
        }
    }

    /// Restarts all instances, with empty caches.
    pub(crate) fn replace(&self) {
        self.instances.iter().for_each(|instance| *instance.lock().unwrap() = None);
    }
}

fn options(instance: usize) -> RegistryOptions {
    let limits = RegistryLimits { upload_age_max: UPLOAD_AGE_MAX, ..RegistryLimits::default() };
    RegistryOptions { cache_trust: TRUST[instance], limits, ..RegistryOptions::default() }
}

/// A bucket with faults of its own.
async fn server(removal: Removal, seed: u64) -> S3Server {
    let spec = S3Spec::with(|spec| {
        if removal == Removal::Never {
            spec.conditional_delete = ConditionalDelete::Refused;
        }
    });
    let server = S3Server::start(spec).await;
    let put = Some(S3Operation::PutObject);
    let get = Some(S3Operation::GetObject);
    for (number, (fault, operation, out_of)) in (0_u64..).zip([
        (S3Fault::Refuse(S3Refusal::InternalError), None, 150),
        (S3Fault::Refuse(S3Refusal::SlowDown), None, 150),
        (S3Fault::Refuse(S3Refusal::Conflict), put, 150),
        (S3Fault::CutBefore, None, 200),
        (S3Fault::LoseResponse, None, 200),
        (S3Fault::LoseResponse, put, 60),
        (S3Fault::CutBody(10), get, 200),
    ]) {
        let rule = FaultRule::new(fault).one_in(out_of, seed.wrapping_mul(31).wrapping_add(number));
        server.inject(operation.map_or(rule.clone(), |operation| rule.on(operation)));
    }
    server
}
