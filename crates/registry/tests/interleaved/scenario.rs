//! [`InterleavedScenario`]: a store as it is at the start, and actors that work with it at the same time; and
//! the run of it in one order.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use jreg_lifecycle::{CurrentRules, LifecycleRules};
use jreg_registry::{ReferencePolicy, Registry, RegistryOptions, Rule, may_come_back};
use jreg_storage::testing::{Call, Fault, FaultyStore, ManualClock, Schedule, StopRules, Stopped};
use jreg_storage::{
    ByteRange, Clock, ErrorKind, ListRequest, MemoryStore, PartRules, PutMode, Store,
    TombstoneStore,
};
use tokio::task::JoinHandle;

use crate::check;
use crate::chooser::{ScheduleStep, StepChooser, StepOffer};
use crate::history;
use crate::instance::{TestInstance, eager_for_untagged};
use crate::ledger::{LedgerRecords, RunLedger};
use crate::view::{RepositoryContent, StoreView};

/// Small, so that a few bytes are several parts.
pub(crate) const PART: usize = 8;

/// How long a signed request may travel, and be retried by its sender: with the window of a
/// writer this is the format's bound of 20 minutes.
const TRAVEL_MAX: Duration = Duration::from_secs(16 * 60);

/// Beyond the age at which an upload is abandoned.
const REAPED: Duration = Duration::from_secs(7 * 24 * 3600);

/// Between two collections that are to find what the one before noted.
const BETWEEN: Duration = Duration::from_secs(3 * 3600);

/// What goes needs so many collections at most: an index, then its images, then their links, then
/// the bytes, or what led to them.
const COLLECTIONS_MAX: usize = 7;

type TombstoneMemory = TombstoneStore<MemoryStore>;

/// Says whether a call is meant.
pub(crate) type CallMatch = fn(&Call) -> bool;

/// What an actor does.
pub(crate) type ActorWork = Arc<dyn Fn(TestInstance) -> BoxFuture<'static, ()> + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Actor {
    name: &'static str,
    /// Its requests may be as late as they like, because it may be as slow before it sends them;
    /// but for those that deduplicate links, which are writes like a client's.
    is_gc: bool,
    act: ActorWork,
}

/// A client, or a whole series of them, at one instance.
pub(crate) fn client<F>(
    name: &'static str,
    act: impl Fn(TestInstance) -> F + Send + Sync + 'static,
) -> Actor
where
    F: Future<Output = ()> + Send + 'static,
{
    Actor { name, is_gc: false, act: Arc::new(move |instance| act(instance).boxed()) }
}

/// An instance that collects, or reaps.
pub(crate) fn gc_actor<F>(act: impl Fn(TestInstance) -> F + Send + Sync + 'static) -> Actor
where
    F: Future<Output = ()> + Send + 'static,
{
    Actor { name: "GC", is_gc: true, act: Arc::new(move |instance| act(instance).boxed()) }
}

/// A store with what was pushed to it, at some time.
#[derive(Clone)]
pub(crate) struct InitialStore {
    memory: Arc<TombstoneMemory>,
    passed: Duration,
    records: LedgerRecords,
    stays: bool,
}

fn memory(store: MemoryStore, stays: bool) -> Arc<TombstoneMemory> {
    let store = TombstoneStore::new(store, may_come_back);
    Arc::new(if stays { store.that_stay() } else { store })
}

async fn open(store: Arc<dyn Store>, clock: &Arc<ManualClock>) -> Registry {
    let options =
        RegistryOptions { references: ReferencePolicy::Strict, ..RegistryOptions::default() };
    Registry::open(store, clock.clone(), options).await.unwrap()
}

impl InitialStore {
    /// What `set_up` leaves, in a bucket where tombstones go, or stay.
    pub(crate) async fn new<F>(stays: bool, set_up: impl FnOnce(TestInstance) -> F) -> Self
    where
        F: Future<Output = ()>,
    {
        Self::breaking(None, stays, set_up).await
    }

    /// What `more` makes of this store.
    pub(crate) async fn following<F>(self, more: impl FnOnce(TestInstance) -> F) -> Self
    where
        F: Future<Output = ()>,
    {
        let clock = Arc::new(ManualClock::default());
        clock.advance(self.passed);
        let memory = memory(self.memory.inner().fork(clock.clone()), self.stays);
        let ledger = Arc::new(RunLedger::new(self.records));
        let registry = open(memory.clone(), &clock).await;
        let store: Arc<dyn Store> = memory.clone();
        more(TestInstance { registry, store, ledger: ledger.clone(), clock: clock.clone() }).await;
        let mut records = ledger.records().clone();
        (records.acked, records.removed) = (0, 0);
        Self { memory, passed: clock.monotonic(), records, stays: self.stays }
    }

    /// The same store, of which some bytes of blobs are replaced, or are lost.
    pub(crate) async fn damaged(self, damage: impl Fn(&Bytes) -> Option<Bytes>) -> Self {
        let blobs = self.memory.list(&ListRequest::below("blobs/")).await.unwrap().entries;
        for entry in blobs {
            let range = ByteRange { start: 0, end: entry.size_bytes };
            let read = self.memory.read(&entry.key, range).await.unwrap();
            let read: Vec<Bytes> = read.try_collect().await.unwrap();
            match damage(&read.concat().into()) {
                Some(bytes) => {
                    self.memory.put(&entry.key, bytes, PutMode::Overwrite).await.unwrap();
                }
                None => self.memory.delete(&entry.key, None).await.unwrap(),
            }
        }
        self
    }

    /// The same, where one rule was not kept then, either.
    pub(crate) async fn breaking<F>(
        broken: Option<Rule>,
        stays: bool,
        set_up: impl FnOnce(TestInstance) -> F,
    ) -> Self
    where
        F: Future<Output = ()>,
    {
        let clock = Arc::new(ManualClock::default());
        let rules = PartRules { part_bytes: PART as u64, uniform: true, parts_max: 100 };
        let store = MemoryStore::builder().remote().part_rules(rules);
        let memory = memory(store.clock(clock.clone()).build(), stays);
        let registry = breaking(open(memory.clone(), &clock).await, broken);
        let ledger = Arc::new(RunLedger::default());
        let (store, ledger_of_all) = (memory.clone(), ledger.clone());
        let instance =
            TestInstance { registry, store, ledger: ledger_of_all, clock: clock.clone() };
        set_up(instance).await;
        let mut records = ledger.records().clone();
        (records.acked, records.removed) = (0, 0);
        Self { memory, passed: clock.monotonic(), records, stays }
    }
}

fn breaking(registry: Registry, broken: Option<Rule>) -> Registry {
    match broken {
        Some(rule) => registry.without(rule),
        None => registry,
    }
}

#[derive(Clone)]
pub(crate) struct InterleavedScenario {
    pub(crate) start: InitialStore,
    pub(crate) actors: Vec<Actor>,
    /// How the clock may continue, one after the other.
    pub(crate) ticks: Vec<Duration>,
    /// How many actors may stop for ever.
    pub(crate) kills: usize,
    /// Whether responses may be late, too.
    pub(crate) stops_responses: bool,
    /// Whether a GC run's own notes, which nothing depends on, are stops.
    pub(crate) stops_notes: bool,
    pub(crate) broken: Option<Rule>,
    /// Whether no request may fail because of a conflict.
    pub(crate) is_calm: bool,
    /// A blob that stays deleted once it is.
    pub(crate) deleted: Option<RepositoryContent>,
    /// A referrer that stays for as long as its subject.
    pub(crate) referrer: Option<(String, String, String)>,
    /// Whether nothing expires that is kept for history, as GC runs keep it.
    pub(crate) keeps_history: bool,
    /// Rules of the file, by which tags are immutable.
    pub(crate) rules: Option<&'static str>,
    /// Whether no tag is ever without its manifest, whatever is deleted.
    pub(crate) tags_lead: bool,
    /// Whether an immutable tag needs what indexes below its index need.
    pub(crate) needs_below: bool,
    /// A call of this actor whose response is lost: its retry finds a conflict.
    pub(crate) lost: Option<(usize, CallMatch)>,
}

/// What came of playing a scenario.
#[derive(Debug)]
pub(crate) struct ScenarioOutcome {
    pub(crate) acked: u64,
    pub(crate) removed: u64,
    /// What must not be, with what happened before.
    pub(crate) violation: Option<String>,
}

impl InterleavedScenario {
    pub(crate) fn new(start: InitialStore, actors: Vec<Actor>) -> Self {
        Self {
            start,
            actors,
            ticks: Vec::new(),
            kills: 0,
            stops_responses: false,
            stops_notes: false,
            broken: None,
            is_calm: false,
            deleted: None,
            referrer: None,
            keeps_history: false,
            rules: None,
            tags_lead: false,
            needs_below: false,
            lost: None,
        }
    }

    /// Runs it once, and checks what is left; what comes of it later only if that is not among
    /// the `known` outcomes.
    pub(crate) async fn run(
        &self,
        chooser: &mut dyn StepChooser,
        known: &mut HashSet<String>,
    ) -> ScenarioOutcome {
        let shared = SharedStore::fork(self).await;
        let tasks = shared.start_actors(self).await;
        let mut run = InterleavedRun {
            scenario: self,
            shared: &shared,
            tasks,
            current: None,
            trace: Vec::new(),
        };
        run.ticks_and_kills(chooser).await;
        let trace = std::mem::take(&mut run.trace);
        let found = shared.check(self, known).await;
        let records = shared.ledger.records();
        let violation = found.err().map(|what| format!("{what}, after\n  {}", trace.join("\n  ")));
        ScenarioOutcome { acked: records.acked, removed: records.removed, violation }
    }

    fn stop_rules(&self, actor: &Actor) -> StopRules {
        let passes = match actor.is_gc && !self.stops_notes {
            true => |call: &Call| call.key.starts_with("gc/") || call.key == "jreg.json",
            false => |call: &Call| call.key == "jreg.json",
        };
        // A GC run asks the store what time it is.
        let stops_responses = self.stops_responses && !actor.is_gc;
        let must_arrive_in_time: fn(&Call) -> bool = match actor.is_gc {
            true => |call| call.operation == "put" && call.key.starts_with("links/"),
            false => |_| true,
        };
        StopRules { travel_max: TRAVEL_MAX, must_arrive_in_time, stops_responses, passes }
    }
}

/// A copy of the store, and those who share it.
struct SharedStore {
    clock: Arc<ManualClock>,
    memory: Arc<TombstoneMemory>,
    schedule: Arc<Schedule>,
    ledger: Arc<RunLedger>,
}

impl SharedStore {
    async fn fork(scenario: &InterleavedScenario) -> Self {
        let clock = Arc::new(ManualClock::default());
        clock.advance(scenario.start.passed);
        let memory =
            memory(scenario.start.memory.inner().fork(clock.clone()), scenario.start.stays);
        let ledger = Arc::new(RunLedger::new(scenario.start.records.clone()));
        Self { schedule: Schedule::new(clock.clone()), clock, memory, ledger }
    }

    async fn start_actors(&self, scenario: &InterleavedScenario) -> Vec<JoinHandle<()>> {
        let mut tasks = Vec::new();
        for (index, actor) in scenario.actors.iter().enumerate() {
            let store = self.schedule.store(index, self.memory.clone(), scenario.stop_rules(actor));
            let store = FaultyStore::new(Arc::new(store));
            if let Some((_, call)) = scenario.lost.filter(|(actor, _)| *actor == index) {
                store.inject(Fault::lose_response(ErrorKind::Precondition).on(call));
            }
            let store: Arc<dyn Store> = Arc::new(store);
            let registry = breaking(open(store.clone(), &self.clock).await, scenario.broken);
            let registry = scenario.rules.map_or_else(
                || registry.clone(),
                |rules| {
                    let rules =
                        Arc::new(LifecycleRules::parse(&format!("{rules}[end]\n")).unwrap());
                    registry.with_rules(CurrentRules::new(rules))
                },
            );
            let (ledger, clock) = (self.ledger.clone(), self.clock.clone());
            let work = (actor.act)(TestInstance { registry, store, ledger, clock });
            let schedule = self.schedule.clone();
            tasks.push(tokio::spawn(async move {
                schedule.start(index).await;
                work.await;
            }));
        }
        self.schedule.settle().await;
        tasks
    }

    async fn view(&self) -> StoreView {
        StoreView::of(&*self.memory).await
    }

    fn hold(&self, scenario: &InterleavedScenario, view: &StoreView) -> Result<(), String> {
        check::check(view, &self.ledger.records(), self.clock.monotonic())?;
        if scenario.is_calm && self.ledger.records().interrupted > 0 {
            return Err("a request failed because of another".to_owned());
        }
        if scenario.tags_lead {
            check::check_tags_lead(view)?;
        }
        if let Some((name, of)) = &scenario.deleted {
            check::check_deleted(view, &self.ledger.records(), name, of)?;
        }
        match &scenario.referrer {
            Some((name, subject, referrer)) => check::check_referrer(view, name, subject, referrer),
            None => Ok(()),
        }
    }

    /// Checks at once, and again once all that can be collected has been.
    async fn check(
        &self,
        scenario: &InterleavedScenario,
        known: &mut HashSet<String>,
    ) -> Result<(), String> {
        let view = self.view().await;
        self.hold(scenario, &view)?;
        let registry = open(self.memory.clone(), &self.clock).await;
        let records = self.ledger.records().clone();
        if scenario.keeps_history {
            history::check_kept(&view, &records, &registry).await?;
        }
        if scenario.rules.is_some() {
            history::check_immutable(&view, &records, scenario.needs_below)?;
        }
        if scenario.kills == 0 {
            history::check_purged(&view, &records)?;
        }
        let shape = format!("{:?} {}", view.shape, self.ledger.records().shape());
        if known.contains(&shape) {
            return Ok(());
        }
        check::pull_all(&view, &registry).await?;
        self.check_later(scenario, registry).await?;
        known.insert(shape);
        Ok(())
    }

    async fn check_later(
        &self,
        scenario: &InterleavedScenario,
        registry: Registry,
    ) -> Result<(), String> {
        let (store, clock) = (self.memory.clone(), self.clock.clone());
        let collecting = TestInstance { registry, store, ledger: Arc::default(), clock };
        collecting.pass(REAPED);
        let mut left = Ok(());
        for _ in 0..COLLECTIONS_MAX {
            collecting.collect(&eager_for_untagged()).await;
            let view = self.view().await;
            self.hold(scenario, &view)?;
            history::check_purged(&view, &self.ledger.records())?;
            if let Some(fault) = collecting.ledger.records().fault() {
                return Err(fault.clone());
            }
            left = check::check_clean(&view, scenario.start.stays);
            if left.is_ok() {
                break;
            }
            collecting.pass(BETWEEN);
        }
        left
    }
}

/// One run of a scenario.
struct InterleavedRun<'a> {
    scenario: &'a InterleavedScenario,
    shared: &'a SharedStore,
    tasks: Vec<JoinHandle<()>>,
    current: Option<usize>,
    trace: Vec<String>,
}

impl InterleavedRun<'_> {
    async fn ticks_and_kills(&mut self, chooser: &mut dyn StepChooser) {
        let mut ticks = self.scenario.ticks.iter();
        let mut kills = self.scenario.kills;
        loop {
            let stopped = self.shared.schedule.stopped();
            if stopped.is_empty() {
                break;
            }
            let offers = self.offers(&stopped, ticks.len() > 0, kills > 0);
            let choice = if offers.len() > 1 { chooser.choose(&offers, &stopped) } else { 0 };
            match offers[choice].0 {
                ScheduleStep::Go(actor) => self.go(actor, &stopped, chooser),
                ScheduleStep::Tick => {
                    let tick = *ticks.next().unwrap();
                    self.trace.push(format!("{} s pass", tick.as_secs()));
                    self.shared.clock.advance(tick);
                }
                ScheduleStep::Kill(actor) => {
                    kills -= 1;
                    self.trace.push(format!("{} stops for ever", self.scenario.actors[actor].name));
                    self.tasks[actor].abort();
                }
            }
            self.shared.schedule.settle().await;
        }
        for task in std::mem::take(&mut self.tasks) {
            match task.now_or_never() {
                Some(Ok(())) => {}
                Some(Err(error)) if error.is_cancelled() => {}
                Some(Err(error)) => self.shared.ledger.blame(error.to_string()),
                None => self
                    .shared
                    .ledger
                    .blame("a task neither ended nor waits at a store call".to_owned()),
            }
        }
    }

    fn go(&mut self, actor: usize, stopped: &[Stopped], chooser: &mut dyn StepChooser) {
        let calls: Vec<_> = stopped.iter().filter(|stopped| stopped.actor == actor).collect();
        let call = if calls.len() > 1 { calls[chooser.pick(calls.len())] } else { calls[0] };
        self.trace.push(format!("{}: {call}", self.scenario.actors[actor].name));
        self.current = Some(actor);
        self.shared.schedule.release(call.id);
    }

    /// What can happen next; the plainest first.
    fn offers(&self, stopped: &[Stopped], may_tick: bool, may_kill: bool) -> Vec<StepOffer> {
        let can_go = |actor: &usize| stopped.iter().any(|stopped| stopped.actor == *actor);
        let current = self.current.filter(|current| can_go(current));
        let mut offers: Vec<StepOffer> =
            current.iter().map(|current| (ScheduleStep::Go(*current), 0)).collect();
        let others = (0..self.scenario.actors.len()).filter(|actor| Some(*actor) != current);
        let cost = usize::from(current.is_some());
        offers.extend(others.filter(can_go).map(|actor| (ScheduleStep::Go(actor), cost)));
        if may_tick && self.current.is_some() {
            offers.push((ScheduleStep::Tick, 1));
        }
        if let (Some(current), true) = (current, may_kill) {
            offers.push((ScheduleStep::Kill(current), 1));
        }
        offers
    }
}
