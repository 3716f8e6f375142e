//! The protocols of writing and of garbage collection (GC), as a model that is checked
//! exhaustively.
//!
//! Pushes and GC runs share a store without a lock. Safety rests on a handful of rules: what is
//! re-read, what is touched, what is waited for, and in which order. A test shows that a rule helps
//! in one interleaving; here a checker visits *every* interleaving of a few processes, and then
//! does so again for each rule with that rule broken, where it must find a violation.
//!
//! # What is modelled
//!
//! - One blob (`blob.rs`): its links in up to four repositories, bytes at locations that are never
//!   used twice, one upload's session. Pushes of manifests, mounts, HEADs, DELETEs, uploads with
//!   and without a session, replays, cancel and reaper, readers with a remembered location, GC
//!   runs, deduplication, sweeps. Damage: bytes that are lost or wrong from the start, uploads onto
//!   them, and uploads that would rather link another repository's copy.
//! - Manifests (`manifest.rs`): an index, its child, the child's layer, a referrer whose subject is
//!   the index, and a tag, with GC runs that delete untagged manifests. The same child may be
//!   pushed as another media type, and several may push the same manifest at the same time.
//! - One tag (`tag.rs`): writes that are applied late, and the tombstones against them.
//! - The history of a tag (`history.rs`): PUTs and DELETEs that swap its record and archive what they
//!   replace, responses that are lost, swaps that are applied late, clocks ahead of the store's and
//!   behind it; pages of the history; GC runs that archive and remove deleted records, and that remove
//!   expired entries.
//! - A manifest that can be restored (`restore.rs`): its tag is moved and restored, it is deleted with a
//!   copy, restored from one and purged, while another manifest with the same layer is pushed; GC
//!   runs for which entries and copies are roots.
//! - A purge of a manifest (`purged.rs`) with the mark by which a restore and GC learn of it: restores that crash,
//!   pushes and DELETEs by clients, GC runs, also one that is late.
//! - An immutable tag (`immutable.rs`): pushes of two digests to it, pushes and DELETEs by digest,
//!   DELETEs of the manifests that an index needs, and the hints by which a DELETE finds the tag.
//! - A manifest and a tag (`tagged.rs`): pushes to the tag and by digest, moves of the tag, DELETEs by digest, and GC
//!   of hints and of the records of deleted tags.
//!
//! All but the first three were modelled before they were built.
//!
//! Each request to the store is one step, which takes effect whole. A listing is a step for each
//! record or page of it, since no store promises more. Between any two steps any other process may
//! act and the clock may tick, so a slow or crashed process is one that is not chosen. Only a
//! writer within its window has a deadline.
//!
//! **A tick** is the store's clock going on by one. [`ProtocolLimits`] gives each constant of the protocol
//! in ticks: T is 2, B is 1 and G is 4, as little as keeps their proportions. A tick stands for
//! about an hour then, and what takes no tick for anything shorter.
//!
//! # What is left out
//!
//! - Records hold only what the protocol reads. Their etag is a count of writes.
//! - A conditional delete and a swap to a tombstone are the same step, except in `tag.rs`, where
//!   the difference is the point. A lost response matters where a process relies on it: an upload
//!   that would delete its bytes again, and a Create that is applied late.
//! - Where a real process is more careful than it must be, the model is not. Here a manifest or tag
//!   is written over whatever is there, a replay does not check that the bytes exist, and the
//!   reaper takes an upload of any age.
//! - How long an untagged manifest was seen untagged, the catalog, the share of links that one run may remove: none of it is needed for safety. Parts of an upload are not bytes until
//!   the upload is completed, so only whole objects are modelled.
//!
//! - A folder archives a record and swaps it in one sequence, which is one of the interleavings here. An
//!   entry that is created late is the one that is there already, as entries are kept for longer than
//!   B. Where a manifest can be restored, its tag has one entry, the last that points to it.
//! - A change that replaces an immutable tag under other rules, retention, quotas, events.
//!
//! # Running it
//!
//! ```text
//! cargo test -p jreg-model -- --nocapture
//! ```
//!
//! prints how many states each scenario has, and for each rule the shortest violation without it.
//! `JREG_MODEL_LARGE=1` adds larger scenarios, which take minutes and gigabytes.
//! `JREG_MODEL_ONLY='page|purge'` checks the scenarios that have one of these in their names.
//!
//! **A trace** has one line for each step: the time, the process (numbered, as there may be several
//! of a kind), and the step. "finds an old link in 2" is a read; the touch that follows from it is
//! a line of its own, perhaps much later. Repositories and locations count from one, "mount 1→2" is
//! from the first to the second. The last line is the step after which the invariant no longer
//! holds.
//!
//! To try a change of the protocol, add a [`ProtocolRule`], check it where a process follows it,
//! and see whether the scenarios hold with it and are violated without it.

mod blob;
mod checked;
mod context;
mod history;
mod immutable;
mod limits;
mod manifest;
mod purged;
mod record;
mod restore;
mod rules;
mod set;
mod tag;
mod tagged;

pub use checked::{
    Action, CheckOutcome, CheckedProtocol, ModelScenario, Note, Protocol, ProtocolState, Violation,
};
pub use limits::ProtocolLimits;
pub use rules::{ProtocolRule, ProtocolRules};

/// The scenarios that every run checks.
pub fn scenarios() -> Vec<Box<dyn ModelScenario>> {
    boxed(blob::scenarios())
        .chain(boxed(manifest::scenarios()))
        .chain(boxed(tag::scenarios()))
        .chain(boxed(history::scenarios()))
        .chain(boxed(restore::scenarios()))
        .chain(boxed(immutable::scenarios()))
        .chain(boxed(purged::scenarios()))
        .chain(boxed(tagged::scenarios()))
        .collect()
}

/// Larger scenarios.
pub fn large_scenarios() -> Vec<Box<dyn ModelScenario>> {
    boxed(blob::large())
        .chain(boxed(manifest::large()))
        .chain(boxed(history::large()))
        .chain(boxed(restore::large()))
        .chain(boxed(purged::large()))
        .chain(boxed(tagged::large()))
        .collect()
}

fn boxed<P: Protocol>(scenarios: Vec<P>) -> impl Iterator<Item = Box<dyn ModelScenario>> {
    scenarios.into_iter().map(|scenario| Box::new(scenario) as Box<dyn ModelScenario>)
}
