//! The tests of the server as a whole, in one binary, so that the server is linked once.
//!
//! `cargo test --test integration costs::` runs one module. What needs a process of its own has a
//! binary of its own: `scale`, which measures the memory of its process. `architecture` has one
//! because it links nothing of the server. Tests that need another umask, other limits or signals
//! start `jreg` as a child process.

#![recursion_limit = "256"]
#![allow(clippy::unwrap_used)]

mod acme;
mod audited;
mod backups;
mod bucket;
mod buffers;
mod contract;
mod costs;
mod crash;
mod credentials;
mod damage;
mod events;
mod faults;
mod files;
mod fixtures;
mod imports;
mod instances;
mod killed;
mod lifecycle;
mod maintenance;
mod mirrors;
mod model;
mod operating;
mod process;
mod pulls;
mod quotas;
mod read_only;
mod restoring;
mod secrets;
mod shared;
mod soak;
mod streams;
mod tls;
mod transfer;
mod ui;
mod uploads;
