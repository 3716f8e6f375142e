//! Tests of what only the wired registry shows.

mod access;
mod api;
