//! The tests of the stores and decorators, in one binary: `cargo test -p jreg-storage --test
//! integration fs_wal::` runs one module.

#![allow(clippy::unwrap_used)]

mod coalesced;
mod decorators;
mod fs;
mod fs_contract;
mod fs_faults;
mod fs_names;
mod fs_wal;
mod hedged;
mod memory;
mod numbers;
mod power;
mod shared;
