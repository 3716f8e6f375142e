//! `jreg-bench`: drives any OCI registry over HTTP/1.1 and measures it.
//!
//! It shares nothing with the server: not its types, not its HTTP. The binary parses
//! [`BenchArgs`] and calls [`run()`].
//!
//! - What can be measured: [`WORKLOADS`]. A workload's content and repositories are those of one
//!   run, so that no registry is flattered by what it has already.
//! - The client must not be what is measured. It writes HTTP itself, on one thread, keeps one
//!   connection a worker, copies nothing that it sends and throws away what it reads; each result
//!   says how busy it was ([`WorkloadResult::client_cpu_seconds`]), and a run against
//!   [`serve_sink`] how much it can send at most.
//! - Responses of a registry are not trusted: each workload begins with an operation whose bytes are
//!   checked, and each response's status and length are.
//! - Runs are kept as JSON ([`BenchRun`]), and compared by `jreg-bench report`.

mod args;
mod auth;
mod client;
mod content;
mod drive;
mod error;
mod failure;
mod fixtures;
mod gc_command;
mod histogram;
mod job;
mod markdown;
mod measured;
mod operation;
mod plan;
mod process;
mod report;
mod rng;
mod run;
mod sink;
mod stream;
mod svg;
mod text;
mod url;
mod warm;
mod wire;
mod workload;

pub use args::{BenchAction, BenchArgs, ReportArgs, RunArgs, SinkArgs, WarmArgs};
pub use auth::{BenchCredentials, InvalidCredentials};
pub use error::BenchError;
pub use failure::OperationError;
pub use histogram::Histogram;
pub use measured::{BenchRun, FORMAT, Latency, WorkloadResult};
pub use plan::{PlanAmount, RunPlan};
pub use process::WatchError;
pub use run::{BenchOutcome, measure, run};
pub use sink::serve_sink;
pub use stream::TlsClientError;
pub use url::{InvalidUrl, Url, UrlAuthority};
pub use workload::{UnknownWorkload, WORKLOADS, Workload};
