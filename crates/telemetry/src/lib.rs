//! The log, metrics, traces and the audit log.

#![allow(missing_docs, reason = "a comment that repeats a name is noise")]

pub mod audit;
pub mod logging;
pub mod metrics;
pub mod trace;
