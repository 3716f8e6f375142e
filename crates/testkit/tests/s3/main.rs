//! The S3 emulator, by plain requests that a small client signs: each module is one of its
//! promises, each test one clause that fails without it.

#![allow(clippy::unwrap_used)]

mod clock;
mod conditions;
mod faults;
mod journal;
mod lies;
mod listing;
mod multipart;
mod objects;
mod program;
mod signing;
mod support;
