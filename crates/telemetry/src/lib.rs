//! The log, metrics, traces, profiles and the audit log.

#![allow(missing_docs, reason = "a comment that repeats a name is noise")]

pub mod audit;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod profile;
mod protobuf;
pub mod trace;
