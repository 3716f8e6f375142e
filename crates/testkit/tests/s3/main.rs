//! The S3 emulator, by plain requests.

#![allow(clippy::unwrap_used)]

mod objects;
mod support;
