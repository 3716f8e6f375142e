//! Images in and out: `jreg import`, `jreg export`, and the registry that they work on.
//!
//! These commands work in the process of the command, also beside a `jreg serve` on a folder: then they speak
//! HTTP with it over the control socket ([`RegistryAccess`]), and the server opens no path and no address that
//! a command names.

pub mod access;
pub mod backup;
pub mod command;
mod control;
mod control_store;
pub mod export;
pub mod import;
mod landing;
mod place;
pub mod progress;
mod registry_source;
mod remote_source;
pub mod source;
mod store_tree;

pub use access::{LocalRegistry, RegistryAccess, TransferError};
pub use control::ControlClient;
pub use control_store::ControlStore;
pub use place::{Place, PlaceError};
