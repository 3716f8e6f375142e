//! The server of jreg: HTTP, authorisation, metrics, settings and the command line over
//! [`jreg_registry`].

pub mod cli;
pub mod config;
pub mod logging;
