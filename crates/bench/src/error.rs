//! Why a run cannot be made at all.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use crate::failure::OperationError;
use crate::process::WatchError;
use crate::stream::TlsClientError;

/// Why a run, or a report of runs, cannot be made.
#[derive(Debug, Error)]
pub enum BenchError {
    /// There is no registry.
    #[error("no registry responds to GET /v2/ with 200")]
    Unreachable(#[source] OperationError),
    /// TLS cannot be spoken.
    #[error(transparent)]
    BenchTlsClient(#[from] TlsClientError),
    /// The process of `--pid` cannot be watched.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// `--sync` does not work.
    #[error("cannot run sync")]
    Sync(#[source] io::Error),
    /// A workload was asked for that needs a command beside it.
    #[error("{0} needs --gc-command")]
    NoCollector(&'static str),
    /// The command of `--gc-command` cannot be run, or runs for ever.
    #[error("cannot run the command of --gc-command")]
    Collect(#[source] io::Error),
    /// The runtime cannot be started.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// The sink cannot listen.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file holds no results.
    #[error("{} holds no results of jreg-bench", path.display())]
    NoResults {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A file was written by another version.
    #[error("{} has format {format}; this version of jreg-bench reads 2", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// The format that it has.
        format: u32,
    },
    /// A file is larger than results are.
    #[error("{} is larger than {max} bytes", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// The limit.
        max: u64,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was measured cannot be printed.
    #[error("cannot print")]
    Print(#[source] io::Error),
}
