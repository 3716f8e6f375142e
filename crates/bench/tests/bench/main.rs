//! The benchmark on a real server of ours, and on one that writes down what it is asked and can be
//! made to misbehave.

#![allow(clippy::unwrap_used)]

mod common;
mod failures;
mod fake;
mod login;
mod report;
mod requests;
mod tls;
mod workloads;
