//! The S3 store against the emulator: its contract, its faults, what it costs, and what its probe
//! finds out.

#![allow(clippy::unwrap_used)]

mod contract;
mod copying;
mod costs;
mod headers;
mod listing;
mod multipart_list;
mod probe;
mod reading;
mod records;
mod sharing;
mod support;
mod tombstones;
mod uploads;
