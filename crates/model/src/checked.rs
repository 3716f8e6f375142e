//! [`CheckedProtocol`]: a protocol as a `stateright` model, and the outcome of a check.

use std::fmt::{self, Debug, Display};
use std::hash::Hash;
use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};

use crate::{ProtocolLimits, ProtocolRules};

/// The most processes of one scenario.
pub(crate) const PROCESSES_MAX: usize = 5;

/// One state: the store with its clock, and the state of each process. The processes are sorted, so
/// that permutations of equal processes are one state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProtocolState<W, P> {
    pub(crate) store: W,
    pub(crate) processes: [P; PROCESSES_MAX],
}

/// What a step of a process did, in words.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    what: &'static str,
    to: Option<u8>,
}

/// A note about nothing in particular.
pub(crate) fn note(what: &'static str) -> Note {
    Note { what, to: None }
}

impl Note {
    /// A note about a repository or location, counted from one.
    pub(crate) fn about(self, number: u8) -> Self {
        Self { to: Some(number + 1), ..self }
    }
}

impl Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        self.to.map_or(Ok(()), |number| write!(f, " {number}"))
    }
}

/// Something that can happen: the clock ticks, or a process makes a step.
///
/// A slow or stopped process needs no action: others act meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The store's clock.
    Tick,
    /// A step of a process, and which of its possible ones.
    Step {
        /// Its index among the processes.
        process: usize,
        /// Which step.
        choice: u8,
    },
}

/// Processes that share a store.
pub trait Protocol: Clone + Send + Sync + 'static {
    /// The store, its clock, and what only the invariants read.
    type Store: Clone + Debug + Eq + Hash + Send + Sync;
    /// The state of a process.
    type Process: Copy + Debug + Display + Eq + Ord + Hash + Send + Sync;

    /// The scenario's name.
    fn name(&self) -> &'static str;
    /// The initial state.
    fn start(&self) -> ProtocolState<Self::Store, Self::Process>;
    /// The same with other rules.
    fn with_rules(&self, rules: ProtocolRules) -> Self;
    /// The constants.
    fn limits(&self) -> &ProtocolLimits;
    /// The time.
    fn now(store: &Self::Store) -> u8;
    /// Makes it one later.
    fn tick(&self, state: &mut ProtocolState<Self::Store, Self::Process>);
    /// How many steps a process can take: none if it waits, or has ended.
    fn choices(&self, store: &Self::Store, process: &Self::Process) -> u8;
    /// One step: at most one request to the store.
    fn step(&self, store: &mut Self::Store, process: &mut Self::Process, choice: u8) -> Note;
    /// What must always hold, and what must be possible.
    fn properties(&self) -> Vec<Property<CheckedProtocol<Self>>>;
}

/// A protocol as a `stateright` model.
#[derive(Clone, Debug)]
pub struct CheckedProtocol<P>(pub(crate) P);

impl<P: Protocol> CheckedProtocol<P> {
    /// Takes a step and describes it.
    fn act(&self, state: &mut ProtocolState<P::Store, P::Process>, action: Action) -> Note {
        match action {
            Action::Tick => {
                self.0.tick(state);
                note("the clock ticks")
            }
            Action::Step { process, choice } => {
                self.0.step(&mut state.store, &mut state.processes[process], choice)
            }
        }
    }
}

impl<P: Protocol> Model for CheckedProtocol<P> {
    type State = ProtocolState<P::Store, P::Process>;
    type Action = Action;

    fn init_states(&self) -> Vec<Self::State> {
        let mut start = self.0.start();
        start.processes.sort_unstable();
        vec![start]
    }

    fn actions(&self, state: &Self::State, actions: &mut Vec<Action>) {
        for (process, it) in state.processes.iter().enumerate() {
            for choice in 0..self.0.choices(&state.store, it) {
                actions.push(Action::Step { process, choice });
            }
        }
        if P::now(&state.store) < self.0.limits().end {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, last: &Self::State, action: Action) -> Option<Self::State> {
        let mut next = last.clone();
        self.act(&mut next, action);
        next.processes.sort_unstable();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        self.0.properties()
    }
}

/// What a check found.
#[derive(Clone, Debug)]
pub struct CheckOutcome {
    /// How many different states there are, or were until a violation was found.
    pub states: usize,
    /// The length of the longest path.
    pub depth: usize,
    /// How long the check took.
    pub took: Duration,
    /// The invariant that does not hold, with a shortest path to it.
    pub violation: Option<Violation>,
    /// The `sometimes` properties that no state has.
    pub impossible: Vec<&'static str>,
}

/// A broken invariant.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The invariant.
    pub invariant: &'static str,
    /// What happened, a line for each step.
    pub steps: Vec<String>,
}

/// Processes on a store, to be checked under any rules.
pub trait ModelScenario: Send + Sync {
    /// What it is called.
    fn name(&self) -> &'static str;
    /// Visits every state that these rules allow, or stops at the first violation.
    fn check(&self, rules: ProtocolRules, threads: usize) -> CheckOutcome;
}

impl<P: Protocol> ModelScenario for P {
    fn name(&self) -> &'static str {
        Protocol::name(self)
    }

    fn check(&self, rules: ProtocolRules, threads: usize) -> CheckOutcome {
        let began = Instant::now();
        let model = CheckedProtocol(self.with_rules(rules));
        let properties = Model::properties(&model);
        let checker = model.clone().checker().threads(threads);
        let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let mut discoveries = checker.discoveries();
        let (mut violation, mut impossible) = (None, Vec::new());
        for property in properties {
            match (property.expectation, discoveries.remove(property.name)) {
                (Expectation::Sometimes, None) => impossible.push(property.name),
                (Expectation::Always, Some(path)) => {
                    let steps = explain(&model, &path.into_actions());
                    violation = Some(Violation { invariant: property.name, steps });
                }
                _ => {}
            }
        }
        let (states, depth) = (checker.unique_state_count(), checker.max_depth());
        CheckOutcome { states, depth, took: began.elapsed(), violation, impossible }
    }
}

/// A path in words. A state has its processes in order, so each keeps a number beside it.
fn explain<P: Protocol>(model: &CheckedProtocol<P>, actions: &[Action]) -> Vec<String> {
    let mut state = model.0.start();
    let mut names: Vec<_> = (1..).zip(state.processes).map(|(n, p)| format!("{p} ({n})")).collect();
    let mut lines = Vec::new();
    for action in actions {
        let mut order: Vec<usize> = (0..PROCESSES_MAX).collect();
        order.sort_by_key(|at| state.processes[*at]);
        names = order.iter().map(|at| names[*at].clone()).collect();
        state.processes.sort_unstable();
        let did = model.act(&mut state, *action);
        let who = match action {
            Action::Tick => String::new(),
            Action::Step { process, .. } => format!("{}: ", names[*process]),
        };
        lines.push(format!("t={} {who}{did}", P::now(&state.store)));
    }
    lines
}
