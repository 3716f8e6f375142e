//! The protocols of writing and collecting, as a model that is checked exhaustively.
//!
//! Pushes and collectors share a store without a lock: what keeps them from harming each other is
//! a handful of rules about what is read again, written again, waited for, and in which order. A
//! test shows that a rule helps in one interleaving; here a checker visits *every* interleaving of
//! a few processes, and then does so again for each rule with that rule broken, where it must find
//! the harm.
//!
//! # What is modelled
//!
//! - One blob (`blob.rs`): its links in up to four repositories, bytes at locations that are never
//!   used twice, one upload's session. Pushes of manifests, mounts, HEADs, DELETEs, uploads with
//!   and without a session, replays, cancel and reaper, readers with a remembered location,
//!   collectors, the folding of duplicates, sweeps. Damage: bytes that are lost or wrong from the
//!   start, uploads onto them, and uploads that would rather link another repository's copy.
//! - Manifests (`manifest.rs`): an index, its child, the child's layer, a referrer whose subject
//!   is the index, and a tag, with collectors that remove what is untagged. The same child may be
//!   pushed as another media type, and several may push the same manifest at the same time.
//! - One tag (`tag.rs`): writes that land late, and the tombstones against them.
//!
//! Each request to the store is one step, which takes effect whole. A listing is a step for each
//! record or page of it, since no store promises more. Between any two steps any other process may
//! act and the clock may tick, so a process that is as slow as it likes, or that crashed, is one
//! that is not chosen. Nobody but a writer within its window has a deadline.
//!
//! **A tick** is the store's clock going on by one. [`Limits`] gives each constant of the protocol
//! in ticks: T is 2, B is 1 and G is 4, as little as keeps their proportions. A tick stands for
//! about an hour then, and what takes no tick for anything shorter.
//!
//! # What is left out
//!
//! - Records hold what the protocol looks at and nothing else. Their etag is a count of writes.
//! - A conditional delete and a swap to a tombstone are the same step, except in `tag.rs`, where
//!   the difference is the point. An answer that is lost matters where somebody draws a conclusion
//!   from it: an upload that would take its bytes back, and a Create that lands late.
//! - Where a real process is more careful than it must be, the model is not. Here a manifest or
//!   tag is written over whatever is there, a replay does not look whether the bytes are there,
//!   and the reaper takes an upload of any age.
//! - How long an untagged manifest was seen untagged, hints, the catalog, the share of links that
//!   one run may remove: none of it is needed for safety. Parts of an upload are no bytes until
//!   they are put together, so only what is one object is modelled.
//!
//! # Running it
//!
//! ```text
//! cargo test -p jreg-model -- --nocapture
//! ```
//!
//! prints how many states each scenario has, and for each rule the shortest way to harm without
//! it. `JREG_MODEL_LARGE=1` adds larger scenarios, which take minutes and gigabytes.
//!
//! **A trace** has one line for each step: the time, who (with a number, as there may be several
//! of a kind), and what. "finds an old link in 2" is a read; the touch that follows from it is a
//! line of its own, perhaps much later. Repositories and locations count from one, "mount 1→2" is
//! from the first to the second. The last line is the step after which the invariant no longer
//! holds.
//!
//! To follow a new idea, add a [`Rule`], ask for it where a process would keep it, and see whether
//! the scenarios still hold with it and break without it.

mod blob;
mod checked;
mod context;
mod limits;
mod manifest;
mod record;
mod rules;
mod set;
mod tag;

pub use checked::{Action, Checked, Note, Outcome, Protocol, Scenario, State, Violation};
pub use limits::Limits;
pub use rules::{Rule, Rules};

/// The scenarios that every run checks.
pub fn scenarios() -> Vec<Box<dyn Scenario>> {
    let blobs = boxed(blob::scenarios());
    blobs.chain(boxed(manifest::scenarios())).chain(boxed(tag::scenarios())).collect()
}

/// Larger scenarios.
pub fn large_scenarios() -> Vec<Box<dyn Scenario>> {
    boxed(blob::large()).chain(boxed(manifest::large())).collect()
}

fn boxed<P: Protocol>(scenarios: Vec<P>) -> impl Iterator<Item = Box<dyn Scenario>> {
    scenarios.into_iter().map(|scenario| Box::new(scenario) as Box<dyn Scenario>)
}
