//! [`History`]: requests and responses of one register, checked for linearizability.
//!
//! A register is the smallest linearizable unit: a tag, a manifest, a blob in a repository. Each
//! operation on it took effect at one moment between its begin and its end; one without a response,
//! or with an error, at one moment after its begin, or never. The check searches for an order of
//! these moments in which every response is correct. It goes through the history in time and keeps
//! every possible state of the register; an operation is ordered only when it ends.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;

/// More states than any history of these tests allows at once.
const STATES_MAX: usize = 100_000;

/// The content of a register; `None`: nothing.
pub(crate) type Value = Option<usize>;

/// What an operation does to a register, or observes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Effect {
    /// Sets it.
    Write(usize),
    /// Removes existing content.
    Remove,
    /// Removes this content; any other stays.
    RemoveFrom(usize),
    /// Observes this content.
    Read(Value),
}

impl Effect {
    /// The content after the effect; `None` if the effect is not possible now.
    fn after(self, value: Value) -> Option<Value> {
        match (self, value) {
            (Self::Write(new), _) => Some(Some(new)),
            (Self::Remove, Some(_)) => Some(None),
            (Self::Remove, None) => None,
            (Self::RemoveFrom(old), Some(held)) if held == old => Some(None),
            (Self::RemoveFrom(_), value) => Some(value),
            (Self::Read(seen), value) => (seen == value).then_some(value),
        }
    }

    /// Whether this invalidates a later write on an older version of the register.
    fn makes_a_version(self) -> bool {
        matches!(self, Self::Write(_) | Self::Remove)
    }
}

/// When an operation can have taken effect, in ticks of the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// Between begin and end.
    Certain {
        /// Begin.
        begun: u64,
        /// End.
        ended: u64,
    },
    /// Between begin and end, or never.
    Possible {
        /// Begin.
        begun: u64,
        /// End.
        ended: u64,
    },
    /// It failed: at any time, or never. But its store requests were sent by the end, and are
    /// invalid on a register with a newer version.
    Failed {
        /// Begin.
        begun: u64,
        /// End.
        ended: u64,
    },
    /// No response was received: it takes effect at any time, or never.
    NoResponse {
        /// Begin.
        begun: u64,
    },
}

impl Span {
    pub(crate) fn begun(self) -> u64 {
        match self {
            Self::Certain { begun, .. }
            | Self::Possible { begun, .. }
            | Self::Failed { begun, .. }
            | Self::NoResponse { begun } => begun,
        }
    }

    fn ended(self) -> Option<u64> {
        match self {
            Self::Certain { ended, .. } | Self::Possible { ended, .. } => Some(ended),
            Self::Failed { .. } | Self::NoResponse { .. } => None,
        }
    }

    fn is_certain(self) -> bool {
        matches!(self, Self::Certain { .. })
    }

    fn overlaps(self, other: Self) -> bool {
        let (end, other_end) = (self.ended(), other.ended());
        end.is_none_or(|end| other.begun() < end)
            && other_end.is_none_or(|other_end| self.begun() < other_end)
    }
}

#[derive(Clone, Debug)]
struct Event {
    effect: Effect,
    span: Span,
    /// It is invalid after one of these took effect.
    void_after: BTreeSet<usize>,
    what: String,
}

impl Event {
    fn new(effect: Effect, span: Span, what: String) -> Self {
        Self { effect, span, void_after: BTreeSet::new(), what }
    }
}

/// The operations on one register.
#[derive(Debug, Default)]
pub(crate) struct History(Vec<Event>);

/// Effects that may still happen, with their counts.
type Spare = BTreeMap<Effect, u32>;

/// A possible state of the register.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    value: Value,
    /// Operations in progress that have taken effect.
    done: BTreeSet<usize>,
    spare: Spare,
}

impl History {
    pub(crate) fn add(&mut self, effect: Effect, span: Span, what: String) {
        self.0.push(Event::new(effect, span, what));
    }

    /// For registers whose every change is a new version, based on the one that was read: a failed
    /// write is invalid after a later one.
    pub(crate) fn close_failures(&mut self) {
        let versions = self.0.iter().enumerate().filter_map(|(index, event)| match event.span {
            Span::Certain { begun, ended } if event.effect.makes_a_version() => {
                Some((begun, ended, index))
            }
            _ => None,
        });
        let versions: Vec<_> = versions.collect();
        for event in &mut self.0 {
            if let Span::Failed { begun, ended } = event.span {
                let later = versions.iter().filter(|(began, ..)| *began > ended);
                event.void_after = later.clone().map(|(.., index)| *index).collect();
                if let Some(ended) = later.map(|(_, ended, _)| *ended).min() {
                    event.span = Span::Possible { begun, ended };
                }
            }
        }
    }

    /// For tags: a delete of a manifest that finds it pushed again begins anew, and removes what such a push has set
    /// as well; so until it ends it may remove a tag once more for each push beside it.
    pub(crate) fn allow_repeated_deletes(&mut self) {
        let mut repeated = Vec::new();
        for delete in &self.0 {
            let Effect::RemoveFrom(value) = delete.effect else { continue };
            let pushes = self.0.iter().filter(|event| event.effect == Effect::Write(value));
            for push in pushes.filter(|push| push.span.overlaps(delete.span)) {
                let span = match delete.span {
                    Span::Certain { begun, ended } => Span::Possible { begun, ended },
                    span => span,
                };
                let what = format!("{} beside {}", delete.what, push.what);
                repeated.push(Event::new(delete.effect, span, what));
            }
        }
        self.0.append(&mut repeated);
    }

    /// For referrers: the entry of a manifest that is deleted beside a push of it at another instance may be
    /// listed until a GC run removes it, or be missing until the manifest is pushed again.
    pub(crate) fn allow_stray(&mut self) {
        let mut stray = Vec::new();
        for delete in &self.0 {
            let Effect::RemoveFrom(value) = delete.effect else { continue };
            let pushes = self.0.iter().filter(|event| event.effect == Effect::Write(value));
            for push in pushes.filter(|push| push.span.overlaps(delete.span)) {
                let span = Span::NoResponse { begun: delete.span.begun() };
                let what = format!("{} beside {}", delete.what, push.what);
                stray.push(Event::new(delete.effect, span, what));
            }
        }
        self.0.append(&mut stray);
    }

    /// # Errors
    ///
    /// The history and the operation that has no explanation, as text.
    pub(crate) fn check(&self) -> Result<(), String> {
        let start = State { value: None, done: BTreeSet::new(), spare: Spare::new() };
        let mut states = HashSet::from([start]);
        let mut running = BTreeSet::new();
        for (_, is_end, _, index) in self.moments() {
            let event = &self.0[index];
            if !is_end && event.span.ended().is_some() {
                running.insert(index);
            } else if !is_end {
                let add = |mut state: State| {
                    *state.spare.entry(event.effect).or_default() += 1;
                    state
                };
                states = states.into_iter().map(add).collect();
            } else {
                let next = states.iter().flat_map(|state| self.ends(state, &running, index));
                let next = self.without_lesser(next.collect());
                running.remove(&index);
                if next.is_empty() || next.len() > STATES_MAX {
                    return Err(self.explain(index, &states));
                }
                states = next;
            }
        }
        Ok(())
    }

    /// Begins and ends by time. An end that invalidates another operation's effects comes after
    /// that operation's end.
    fn moments(&self) -> Vec<(u64, bool, bool, usize)> {
        let mut moments: Vec<_> = self
            .0
            .iter()
            .enumerate()
            .flat_map(|(index, event)| {
                let certain = event.span.is_certain();
                let end = event.span.ended().map(|ended| (ended, true, certain, index));
                [Some((event.span.begun(), false, certain, index)), end]
            })
            .flatten()
            .collect();
        moments.sort_unstable();
        moments
    }

    /// The possible states after the end of this operation.
    fn ends(&self, from: &State, running: &BTreeSet<usize>, index: usize) -> Vec<State> {
        let mut ended = Vec::new();
        let mut seen = HashSet::from([from.clone()]);
        let mut open = vec![from.clone()];
        if !self.0[index].span.is_certain() && !from.done.contains(&index) {
            ended.push(from.clone());
        }
        while let Some(mut state) = open.pop() {
            if state.done.remove(&index) {
                ended.push(state);
                continue;
            }
            for next in self.steps(&state, running) {
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        ended
    }

    /// The states after one more effect.
    fn steps(&self, state: &State, running: &BTreeSet<usize>) -> Vec<State> {
        let is_free = |index: &usize| {
            !state.done.contains(index) && self.0[*index].void_after.is_disjoint(&state.done)
        };
        let free: Vec<_> = running.iter().copied().filter(is_free).collect();
        let own = free.iter().filter_map(|index| {
            let event = &self.0[*index];
            let value = event.effect.after(state.value)?;
            let is_needless = || value == state.value || self.has_better(*index, &free);
            if !event.span.is_certain() && is_needless() {
                return None;
            }
            let mut next = State { value, ..state.clone() };
            next.done.insert(*index);
            Some(next)
        });
        let spare = state.spare.iter().filter_map(|(effect, count)| {
            let value = effect.after(state.value).filter(|value| *value != state.value)?;
            let mut next = State { value, ..state.clone() };
            match count {
                1 => next.spare.remove(effect),
                count => next.spare.insert(*effect, count - 1),
            };
            Some(next)
        });
        own.chain(spare).collect()
    }

    /// Whether another operation, which need not happen either, has the same effect and is of no more use later.
    fn has_better(&self, index: usize, free: &[usize]) -> bool {
        let last = |event: &Event| event.span.ended().unwrap_or(u64::MAX);
        let own = &self.0[index];
        free.iter().filter(|other| **other != index).any(|other_index| {
            let other = &self.0[*other_index];
            let is_first = (last(other), *other_index) < (last(own), index);
            let is_same = other.effect == own.effect && !other.span.is_certain();
            is_same && is_first && own.void_after.is_subset(&other.void_after)
        })
    }

    /// Removes states that are subsumed by others: what need not happen and has not may still happen.
    fn without_lesser(&self, states: HashSet<State>) -> HashSet<State> {
        type Left = (BTreeSet<usize>, Spare);
        let mut by_core: BTreeMap<(Value, BTreeSet<usize>), Vec<Left>> = BTreeMap::new();
        let covers = |more: &Left, less: &Left| more.0.is_subset(&less.0) && has(&more.1, &less.1);
        for State { value, done, spare } in states {
            let (certain, uncertain) =
                done.into_iter().partition(|index| self.0[*index].span.is_certain());
            let (kept, own) = (by_core.entry((value, certain)).or_default(), (uncertain, spare));
            if !kept.iter().any(|other| covers(other, &own)) {
                kept.retain(|other| !covers(&own, other));
                kept.push(own);
            }
        }
        let state = |((value, certain), kept): (_, Vec<Left>)| {
            kept.into_iter().map(move |(uncertain, spare)| {
                let certain: &BTreeSet<usize> = &certain;
                State { value, done: certain.union(&uncertain).copied().collect(), spare }
            })
        };
        by_core.into_iter().flat_map(state).collect()
    }

    fn explain(&self, index: usize, states: &HashSet<State>) -> String {
        let event = &self.0[index];
        let values: BTreeSet<_> = states.iter().map(|state| state.value).collect();
        let mut text = format!(
            "nothing explains {:?} ({}) at {:?}; before it ended it held one of {values:?}\n",
            event.effect, event.what, event.span
        );
        let mut events: Vec<_> = self.0.iter().collect();
        events.sort_by_key(|event| event.span.begun());
        for Event { effect, span, what, .. } in events {
            writeln!(text, "  {span:?} {effect:?}: {what}").expect("a string takes all");
        }
        text
    }
}

fn has(more: &Spare, less: &Spare) -> bool {
    less.iter().all(|(effect, count)| more.get(effect).is_some_and(|other| other >= count))
}

#[cfg(test)]
mod tests {
    use super::Effect::*;
    use super::*;

    fn done(begun: u64, ended: u64) -> Span {
        Span::Certain { begun, ended }
    }

    fn check(events: &[(Effect, Span)]) -> bool {
        let mut history = History::default();
        for (effect, span) in events {
            history.add(*effect, *span, String::new());
        }
        history.close_failures();
        history.check().is_ok()
    }

    #[test]
    fn one_after_the_other_there_is_one_order() {
        let write = (Write(1), done(0, 1));
        assert!(check(&[write, (Read(Some(1)), done(2, 3))]));
        assert!(!check(&[write, (Read(None), done(2, 3))]));
        assert!(!check(&[write, (Read(Some(2)), done(2, 3))]));
        assert!(check(&[write, (Remove, done(2, 3)), (Read(None), done(4, 5))]));
        assert!(!check(&[(Remove, done(0, 1))]), "there was nothing to remove");
        assert!(!check(&[write, (RemoveFrom(1), done(2, 3)), (Read(Some(1)), done(4, 5))]));
        assert!(check(&[write, (RemoveFrom(2), done(2, 3)), (Read(Some(1)), done(4, 5))]));
    }

    #[test]
    fn what_runs_at_the_same_time_has_any_order_but_one_for_all() {
        let (one, two) = ((Write(1), done(0, 10)), (Write(2), done(1, 11)));
        let read = |value, at| (Read(value), done(at, at + 1));
        assert!(check(&[one, two, read(Some(1), 20), read(Some(1), 30)]));
        assert!(check(&[one, two, read(Some(2), 20), read(Some(2), 30)]));
        assert!(!check(&[one, two, read(Some(1), 20), read(Some(2), 30)]));
        assert!(check(&[one, two, read(Some(1), 2), read(Some(2), 4)]));
        assert!(!check(&[one, two, read(Some(1), 2), read(Some(2), 4), read(Some(1), 6)]));
    }

    #[test]
    fn unawaited_writes_happen_once_at_any_time_or_never() {
        let lost = (Write(2), Span::NoResponse { begun: 0 });
        let first = (Write(1), done(2, 3));
        let read = |value, at| (Read(value), done(at, at + 1));
        assert!(check(&[lost, first, read(Some(1), 4)]));
        assert!(check(&[lost, first, read(Some(1), 4), read(Some(2), 6)]));
        let again = (Write(1), done(8, 9));
        let early = [lost, first, read(Some(1), 4), read(Some(2), 6), again];
        assert!(check(&early));
        assert!(!check(&[&early[..], &[read(Some(2), 10)]].concat()), "it happened twice");
    }

    #[test]
    fn what_failed_never_reverts_what_came_after_it() {
        let failed = (Write(2), Span::Failed { begun: 0, ended: 1 });
        let read = |value, at| (Read(value), done(at, at + 1));
        assert!(check(&[failed, read(None, 2), read(Some(2), 4)]));
        assert!(!check(&[failed, (Write(1), done(2, 3)), read(Some(2), 4)]));
        assert!(!check(&[failed, (Write(1), done(2, 3)), (Remove, done(4, 5)), read(Some(2), 6)]));
    }

    #[test]
    fn what_is_possible_is_so_until_it_ends() {
        let write = (Write(1), done(0, 1));
        let perhaps = (RemoveFrom(1), Span::Possible { begun: 2, ended: 5 });
        let read = |value, at| (Read(value), done(at, at + 1));
        assert!(check(&[write, perhaps, read(None, 6)]));
        assert!(check(&[write, perhaps, read(Some(1), 6)]));
        assert!(!check(&[write, perhaps, read(Some(1), 6), read(None, 8)]));
    }

    /// Regression: every combination of them was a state.
    #[test]
    fn many_that_need_not_happen_are_few_states() {
        let possible = |effect| move |at| (effect, Span::Possible { begun: at, ended: 200 - at });
        let writes = (0..30).map(possible(Write(1)));
        let removes = (30..60).map(possible(RemoveFrom(1)));
        let read = |value, at| (Read(value), done(at, at + 1));
        let reads = [Some(1), None].into_iter().cycle().take(30).zip(30..);
        let reads = reads.map(|(value, n)| read(value, 2 * n));
        let all: Vec<_> = writes.chain(removes).chain(reads).collect();
        assert!(check(&all));
        assert!(!check(
            &[&all[..], &[(Read(Some(1)), done(300, 301)), (Read(None), done(302, 303))]].concat()
        ));
    }

    #[test]
    fn a_delete_removes_a_tag_again_only_while_it_runs_beside_a_push() {
        for (delete, pushed, allowed) in
            [(done(5, 40), done(20, 21), true), (done(5, 15), done(20, 21), false)]
        {
            let mut history = History::default();
            history.add(Write(1), done(0, 10), String::new());
            history.add(RemoveFrom(1), delete, String::new());
            history.add(Read(None), done(12, 13), String::new());
            history.add(Write(1), pushed, String::new());
            history.add(Read(Some(1)), done(24, 25), String::new());
            history.add(Read(None), done(50, 51), String::new());
            history.allow_repeated_deletes();
            assert_eq!(history.check().is_ok(), allowed);
        }
    }
}
