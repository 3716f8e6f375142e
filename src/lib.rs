//! The server of jreg: HTTP, authorisation, metrics, settings and the command line over
//! [`jreg_registry`].
//!
//! [`app`] wires the components of the server. A registry in a test is three calls:
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use std::sync::Arc;
//!
//! use jreg::app::App;
//! use jreg_config::Settings;
//! use jreg_net::server::listen;
//! use jreg_storage::MemoryStore;
//!
//! let app = App::build(Settings::default(), Arc::new(MemoryStore::new())).await.unwrap();
//! let running = app.serve(listen("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
//! println!("http://{}/v2/", running.local_addr());
//! running.shutdown().await;
//! # });
//! ```

#![allow(missing_docs, reason = "a comment that repeats a name is noise")]

mod activity;
pub mod app;
pub mod bucket;
pub mod cli;
pub mod commands;
pub mod error;
pub mod folder;
pub mod jobs;
pub mod lifecycle;
pub mod maintenance;
mod mirrors;
mod notify;
pub mod options;
mod store;
mod support;

#[cfg(test)]
mod tests;
