//! The rules of writing, each by the one interleaving or moment that needs it: without the rule
//! its test fails. The clock stands unless a test turns it, and gates play the interleavings.

#![allow(clippy::unwrap_used)]

mod backup;
mod bench;
mod buffering;
mod clock_jumps;
mod damaged_manifests;
mod events;
mod events_of_changes;
mod explaining;
mod folder_costs;
mod folder_unrecorded;
mod folder_uploads;
mod fsck;
mod fsck_concurrent;
mod full_disk;
mod gc;
mod history;
mod history_faults;
mod immutable;
mod mirrored;
mod pulls;
mod purging;
mod pushing;
mod quota;
mod quota_warnings;
mod reaping;
mod repairing;
mod retention;
mod sessions;
mod tagging;
mod touching;
mod usage;
