//! The tests of the stores and decorators, in one binary: `cargo test -p jreg-storage --test
//! integration fs_log::` runs one module.

#![allow(clippy::unwrap_used)]

mod coalesced;
mod decorators;
mod fs;
mod fs_contract;
mod fs_faults;
mod fs_log;
mod fs_names;
mod hedged;
mod memory;
mod numbers;
mod power;
mod shared;
