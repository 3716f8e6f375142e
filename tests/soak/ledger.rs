//! [`Ledger`]: acknowledged operations, and the resulting possible content.
//!
//! Each tag, manifest and blob of a repository is a *register*. Its possible content follows from
//! requests and responses: an acknowledged write rules out all earlier ones, a failed one may have
//! taken effect or not, and of concurrent ones any may be the last. GC changes no tag; what else it
//! may delete is considered by the readers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

/// How long a delete without a response may still take effect.
const LINGERS: Duration = Duration::from_secs(20 * 60);

/// By fixture numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Register {
    /// The target of a tag in a repository.
    Tag(usize, usize),
    /// Whether a manifest was pushed to a repository and not deleted.
    Manifest(usize, usize),
    /// The same of a blob.
    Blob(usize, usize),
}

/// The number of a manifest for a tag, [`THERE`] for others; `None`: nothing.
pub(crate) type Value = Option<usize>;

pub(crate) const THERE: Value = Some(0);

/// A parent that references a child while it exists: a manifest of a repository, and one that it
/// lists or that refers to it.
pub(crate) type Bond = (usize, usize, usize);

/// A write in flight.
#[derive(Debug)]
pub(crate) struct Writing {
    register: Register,
    value: Value,
    number: u64,
}

/// A read in flight.
#[derive(Debug)]
pub(crate) struct Reading {
    register: Register,
    number: u64,
    fresh_until: SystemTime,
}

/// Possible content of a register during a read.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) values: BTreeSet<Value>,
    /// Until when content promised before the read must exist, referenced or not.
    pub(crate) fresh_until: SystemTime,
}

impl Seen {
    /// Whether it had this content from the beginning to the end.
    pub(crate) fn is_surely(&self, value: Value) -> bool {
        self.values.len() == 1 && self.values.contains(&value)
    }

    /// Whether it had to exist until `now` because of an earlier response.
    pub(crate) fn is_promised(&self, now: SystemTime) -> bool {
        self.is_surely(THERE) && now < self.fresh_until
    }
}

#[derive(Debug)]
struct State {
    possible: BTreeSet<Value>,
    /// With concurrent writes.
    running: BTreeMap<u64, (Value, BTreeSet<Value>)>,
    reading: BTreeMap<u64, BTreeSet<Value>>,
    lingering: Vec<(Value, SystemTime)>,
    fresh_until: SystemTime,
}

impl Default for State {
    fn default() -> Self {
        Self {
            possible: BTreeSet::from([None]),
            running: BTreeMap::new(),
            reading: BTreeMap::new(),
            lingering: Vec::new(),
            fresh_until: SystemTime::UNIX_EPOCH,
        }
    }
}

impl State {
    fn now(&self) -> BTreeSet<Value> {
        let running = self.running.values().map(|(value, _)| *value);
        self.possible.iter().copied().chain(running).collect()
    }
}

#[derive(Debug, Default)]
struct Book {
    numbers: u64,
    registers: BTreeMap<Register, State>,
    bonds: BTreeSet<Bond>,
}

impl Book {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn state(&mut self, register: Register) -> &mut State {
        self.registers.entry(register).or_default()
    }
}

/// What is known of all registers.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Book>);

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap()
    }

    /// A write begins.
    pub(crate) fn write(&self, register: Register, value: Value) -> Writing {
        let mut book = self.book();
        let number = book.number();
        let state = book.state(register);
        let others = state.running.values_mut().map(|(other, meanwhile)| {
            meanwhile.insert(value);
            *other
        });
        let others = others.collect();
        state.reading.values_mut().for_each(|seen| {
            seen.insert(value);
        });
        state.running.insert(number, (value, others));
        Writing { register, value, number }
    }

    /// It was acknowledged at `now`.
    pub(crate) fn acknowledged(&self, writing: Writing, now: SystemTime) {
        let mut book = self.book();
        let state = book.state(writing.register);
        let Some((value, meanwhile)) = state.running.remove(&writing.number) else { return };
        state.lingering.retain(|(_, until)| *until > now);
        state.possible = meanwhile;
        state.possible.insert(value);
        state.possible.extend(state.lingering.iter().map(|(value, _)| *value));
    }

    /// A delete of `target` was acknowledged, including all tags that point to it.
    pub(crate) fn removed_from(&self, writing: Writing, target: usize) {
        let mut book = self.book();
        let state = book.state(writing.register);
        let Some((_, meanwhile)) = state.running.remove(&writing.number) else { return };
        if state.possible.remove(&Some(target)) || meanwhile.contains(&Some(target)) {
            state.possible.extend(meanwhile);
            state.possible.insert(None);
        }
    }

    /// Whether it took effect, or still will, is unknown.
    pub(crate) fn in_doubt(&self, writing: Writing, now: SystemTime) {
        let mut book = self.book();
        let state = book.state(writing.register);
        if state.running.remove(&writing.number).is_none() {
            return;
        }
        state.possible.insert(writing.value);
        // All others are new versions of their records when they are acknowledged.
        if matches!(writing.register, Register::Blob(..)) && writing.value.is_none() {
            state.lingering.push((None, now + LINGERS));
        }
    }

    /// The same for a delete of `target` with all tags that point to it.
    pub(crate) fn in_doubt_if(&self, writing: Writing, target: usize) {
        let mut book = self.book();
        let state = book.state(writing.register);
        let Some((_, meanwhile)) = state.running.remove(&writing.number) else { return };
        if state.possible.contains(&Some(target)) || meanwhile.contains(&Some(target)) {
            state.possible.insert(None);
        }
    }

    /// It did not take effect.
    pub(crate) fn refused(&self, writing: Writing) {
        self.book().state(writing.register).running.remove(&writing.number);
    }

    /// Content that a response promised must exist until then, unless a client deletes it.
    pub(crate) fn promise(&self, register: Register, until: SystemTime) {
        let mut book = self.book();
        let state = book.state(register);
        state.fresh_until = state.fresh_until.max(until);
    }

    /// A read begins.
    pub(crate) fn read(&self, register: Register) -> Reading {
        let mut book = self.book();
        let number = book.number();
        let state = book.state(register);
        let (seen, fresh_until) = (state.now(), state.fresh_until);
        state.reading.insert(number, seen);
        Reading { register, number, fresh_until }
    }

    /// The possible content since a read began.
    pub(crate) fn so_far(&self, reading: &Reading) -> Seen {
        let mut book = self.book();
        let values = book.state(reading.register).reading.get(&reading.number).cloned();
        Seen { values: values.unwrap_or_default(), fresh_until: reading.fresh_until }
    }

    /// A read ends.
    pub(crate) fn seen(&self, reading: Reading) -> Seen {
        let seen = self.so_far(&reading);
        self.book().state(reading.register).reading.remove(&reading.number);
        seen
    }

    /// The possible content now.
    pub(crate) fn possible(&self, register: Register) -> BTreeSet<Value> {
        self.book().state(register).now()
    }

    pub(crate) fn bind(&self, bond: Bond) {
        self.book().bonds.insert(bond);
    }

    /// A manifest is about to be written or deleted: its references, in both directions, are
    /// undetermined.
    pub(crate) fn unbind(&self, repository: usize, manifest: usize, as_child_too: bool) {
        self.book().bonds.retain(|(there, parent, child)| {
            *there != repository || (*parent != manifest && !(as_child_too && *child == manifest))
        });
    }

    /// The references of a manifest.
    pub(crate) fn bound_to(&self, repository: usize, parent: usize) -> BTreeSet<usize> {
        let book = self.book();
        let of_parent = |bond: &&Bond| bond.0 == repository && bond.1 == parent;
        book.bonds.iter().filter(of_parent).map(|bond| bond.2).collect()
    }
}
