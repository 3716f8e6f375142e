//! What a lifecycle file says, and what follows for a repository.

#![allow(clippy::unwrap_used, clippy::string_slice)]

mod fixture;
mod judge;
mod parse;
mod peers;
mod reference;
mod writes;
