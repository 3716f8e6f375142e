//! The values of the specifications, held against tables of what is accepted and refused.
#![allow(clippy::unwrap_used)]
#![allow(clippy::string_slice, reason = "the strings that are cut here are ASCII")]

mod digest;
mod endpoint;
mod error_code;
mod hasher;
mod manifest;
mod media_type;
mod name;
mod range;
