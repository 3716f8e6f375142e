//! Plays a scene in many orders.

use std::collections::HashSet;

use crate::scene::{Played, Scene};
use crate::search::{Dice, Script, Search};

/// What came of many orders.
#[derive(Debug, Default)]
pub(crate) struct Explored {
    pub(crate) schedules: u64,
    /// In how many of them a client was acknowledged something.
    acked: u64,
    /// In how many a collector removed something.
    removed: u64,
    /// The first that broke something.
    pub(crate) violation: Option<String>,
}

impl Explored {
    fn add(&mut self, played: Played) {
        self.schedules += 1;
        self.acked += u64::from(played.acked > 0);
        self.removed += u64::from(played.removed > 0);
        self.violation = self.violation.take().or(played.violation);
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

/// Plays a scene in every order that deviates from the plainest ones at most so often, the
/// plainest first, until something is broken.
pub(crate) async fn every_order(scene: &Scene, deviations_max: usize) -> Explored {
    let (mut plays, mut known) = (0, HashSet::new());
    let mut explored = Explored::default();
    for deviations in 0..=deviations_max {
        explored = Explored::default();
        let mut search = Search::new(deviations);
        loop {
            explored.add(scene.play(&mut search, &mut known).await);
            plays += 1;
            if explored.violation.is_some() {
                return Explored { schedules: plays, ..explored };
            }
            if !search.next() {
                break;
            }
        }
    }
    // What deviates less was played again among what deviates more.
    explored
}

/// Plays a scene in random orders.
async fn some_orders(scene: &Scene, seeds: u64) -> Explored {
    let (mut explored, mut known) = (Explored::default(), HashSet::new());
    for seed in 0..seeds {
        let mut played = scene.play(&mut Dice::new(seed), &mut known).await;
        played.violation = played.violation.map(|what| format!("seed {seed}: {what}"));
        explored.add(played);
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

/// Every order of a scene is fine; `JREG_INTERLEAVED_DEEPER` says how many deviations more than
/// usual are tried.
#[track_caller]
pub(crate) fn assert_whole(name: &str, scene: impl Future<Output = Scene>, deviations_max: usize) {
    let deeper = usize::try_from(asked("JREG_INTERLEAVED_DEEPER").unwrap_or_default()).unwrap();
    let explored = run(async { every_order(&scene.await, deviations_max + deeper).await });
    explored.expect_whole(name);
}

/// Some order of a scene is not, and is found.
#[track_caller]
pub(crate) fn assert_caught(name: &str, scene: impl Future<Output = Scene>, deviations_max: usize) {
    let explored = run(async { every_order(&scene.await, deviations_max).await });
    let violation = explored.violation.as_deref().unwrap_or_default();
    let what = violation.lines().next().unwrap_or_default();
    println!("{name}: caught after {} schedules: {what}", explored.schedules);
    assert!(!violation.is_empty(), "{name}: nothing notices in {} schedules", explored.schedules);
}

/// What one certain order of a scene breaks.
pub(crate) fn violation_of(
    scene: impl Future<Output = Scene>,
    mut order: Script,
) -> Option<String> {
    run(async { scene.await.play(&mut order, &mut HashSet::new()).await }).violation
}

/// Random orders of a scene are fine; `JREG_INTERLEAVED_SEEDS` says how many are tried.
#[track_caller]
pub(crate) fn assert_mostly_whole(name: &str, scene: impl Future<Output = Scene>, seeds: u64) {
    let seeds = asked("JREG_INTERLEAVED_SEEDS").unwrap_or(seeds);
    let explored = run(async { some_orders(&scene.await, seeds).await });
    explored.expect_whole(name);
}
