//! Runs a scenario in many orders.

use std::collections::HashSet;

use crate::chooser::{ExhaustiveSearch, RandomChooser, ScriptedOrder};
use crate::scenario::{InterleavedScenario, ScenarioOutcome};

/// What came of many orders.
#[derive(Debug, Default)]
pub(crate) struct ExplorationSummary {
    pub(crate) schedules: u64,
    /// In how many of them a client was acknowledged something.
    acked: u64,
    /// In how many a GC run removed something.
    removed: u64,
    /// The first that broke something.
    pub(crate) violation: Option<String>,
}

impl ExplorationSummary {
    fn add(&mut self, outcome: ScenarioOutcome) {
        self.schedules += 1;
        self.acked += u64::from(outcome.acked > 0);
        self.removed += u64::from(outcome.removed > 0);
        self.violation = self.violation.take().or(outcome.violation);
    }

    /// Nothing was broken, and it might have been.
    #[track_caller]
    fn expect_whole(&self, name: &str) {
        println!(
            "{name}: {} schedules, {} acked, {} removed",
            self.schedules, self.acked, self.removed
        );
        if let Some(violation) = &self.violation {
            panic!("{name}, schedule {}: {violation}", self.schedules);
        }
        assert!(self.acked > 0 && self.removed > 0, "{name} shows nothing: {self:?}");
    }
}

/// Runs a scenario in every order that deviates from the plainest ones at most so often, the
/// plainest first, until something is broken.
pub(crate) async fn every_order(
    scenario: &InterleavedScenario,
    deviations_max: usize,
) -> ExplorationSummary {
    let (mut runs, mut known) = (0, HashSet::new());
    let mut explored = ExplorationSummary::default();
    for deviations in 0..=deviations_max {
        explored = ExplorationSummary::default();
        let mut search = ExhaustiveSearch::new(deviations);
        loop {
            explored.add(scenario.run(&mut search, &mut known).await);
            runs += 1;
            if explored.violation.is_some() {
                return ExplorationSummary { schedules: runs, ..explored };
            }
            if !search.next() {
                break;
            }
        }
    }
    // What deviates less was outcome again among what deviates more.
    explored
}

/// Runs a scenario in random orders.
async fn some_orders(scenario: &InterleavedScenario, seeds: u64) -> ExplorationSummary {
    let (mut explored, mut known) = (ExplorationSummary::default(), HashSet::new());
    for seed in 0..seeds {
        let mut outcome = scenario.run(&mut RandomChooser::new(seed), &mut known).await;
        outcome.violation = outcome.violation.map(|what| format!("seed {seed}: {what}"));
        explored.add(outcome);
        if explored.violation.is_some() {
            break;
        }
    }
    explored
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(work)
}

/// What a variable of the environment says, if it is set.
fn asked(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|asked| asked.parse().unwrap())
}

/// Every order of a scenario is fine; `JREG_INTERLEAVED_DEEPER` says how many deviations more than
/// usual are tried.
#[track_caller]
pub(crate) fn assert_whole(
    name: &str,
    scenario: impl Future<Output = InterleavedScenario>,
    deviations_max: usize,
) {
    let deeper = usize::try_from(asked("JREG_INTERLEAVED_DEEPER").unwrap_or_default()).unwrap();
    let explored = run(async { every_order(&scenario.await, deviations_max + deeper).await });
    explored.expect_whole(name);
}

/// Some order of a scenario is not, and is found.
#[track_caller]
pub(crate) fn assert_caught(
    name: &str,
    scenario: impl Future<Output = InterleavedScenario>,
    deviations_max: usize,
) {
    let explored = run(async { every_order(&scenario.await, deviations_max).await });
    let violation = explored.violation.as_deref().unwrap_or_default();
    let what = violation.lines().next().unwrap_or_default();
    println!("{name}: caught after {} schedules: {what}", explored.schedules);
    assert!(!violation.is_empty(), "{name}: nothing notices in {} schedules", explored.schedules);
}

/// What one certain order of a scenario breaks.
pub(crate) fn violation_of(
    scenario: impl Future<Output = InterleavedScenario>,
    mut order: ScriptedOrder,
) -> Option<String> {
    run(async { scenario.await.run(&mut order, &mut HashSet::new()).await }).violation
}

/// Random orders of a scenario are fine; `JREG_INTERLEAVED_SEEDS` says how many are tried.
#[track_caller]
pub(crate) fn assert_mostly_whole(
    name: &str,
    scenario: impl Future<Output = InterleavedScenario>,
    seeds: u64,
) {
    let seeds = asked("JREG_INTERLEAVED_SEEDS").unwrap_or(seeds);
    let explored = run(async { some_orders(&scenario.await, seeds).await });
    explored.expect_whole(name);
}
