//! Tests of the wired registry.

mod access;
mod api;
