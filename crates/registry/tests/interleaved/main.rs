//! Pushers, mounters, deleters and GC runs on one store, each an instance of its own, in many
//! orders: a schedule stops them at every request, and says who continues.
//!
//! Two at a time are outcome in every order that deviates from the plainest at most so often (one
//! who is interrupted, the clock that continues, one who stops for ever), more in random orders.
//! After each, everything that was acknowledged must be there, and after some collections more
//! nothing may be left that nothing keeps. `rules.rs` breaks each safety rule, and must see that
//! something notices.

#![allow(clippy::unwrap_used)]

mod bounded_orders;
mod check;
mod chooser;
mod content;
mod explore;
mod history;
mod history_orders;
mod history_scenarios;
mod instance;
mod ledger;
mod random_orders;
mod rules;
mod scenario;
mod scenarios;
mod view;
