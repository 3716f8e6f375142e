//! The server of jreg: HTTP, authorisation, metrics, settings and the command line over
//! [`jreg_registry`].
//!
//! [`app`] is the only place where the parts meet. A registry in a test is three calls:
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use std::sync::Arc;
//!
//! use jreg::app::App;
//! use jreg::config::Settings;
//! use jreg::server::listen;
//! use jreg_storage::MemoryStore;
//!
//! let app = App::build(Settings::default(), Arc::new(MemoryStore::new())).await.unwrap();
//! let running = app.serve(listen("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
//! println!("http://{}/v2/", running.local_addr());
//! running.shutdown().await;
//! # });
//! ```

pub mod acme;
pub mod app;
pub mod audit;
pub mod auth;
pub mod bucket;
pub mod cli;
pub mod commands;
pub mod config;
pub mod folder;
pub mod http;
pub mod jobs;
pub mod limits;
pub mod logging;
pub mod maintenance;
pub mod metrics;
pub mod network;
pub mod server;
pub mod tls;
mod watched;
