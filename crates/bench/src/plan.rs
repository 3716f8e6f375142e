//! What a run is to be.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::{BenchCredentials, TokenCache};
use crate::client::BenchTarget;
use crate::content::ContentSource;
use crate::error::BenchError;
use crate::fixtures::content_bytes_max;
use crate::stream::connector;
use crate::url::Url;
use crate::workload::Workload;

/// How much of a workload is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PlanAmount {
    /// What begins within this time.
    Duration(Duration),
    /// So many operations.
    Count(u64),
}

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct RunPlan {
    /// The registry.
    pub url: Url,
    /// What it is called.
    pub label: String,
    /// What to measure.
    pub workloads: Vec<Workload>,
    /// How many operations run at a time.
    pub concurrency: usize,
    /// How many run at a time in workloads that move bulk, a result for each; if there is none,
    /// `concurrency`.
    pub bulk_concurrency: Vec<usize>,
    /// How much of each workload.
    pub amount: PlanAmount,
    /// For how long each is done first without counting.
    pub warmup: Duration,
    /// How often all of it is done.
    pub rounds: u32,
    /// What the names of repositories begin with.
    pub namespace: String,
    /// How many tags `tag-page` has.
    pub tags: usize,
    /// How many repositories `catalog` has.
    pub repositories: usize,
    /// How many bytes a workload leaves in the registry, at most; each concurrent operation may be
    /// done once in any case.
    pub push_bytes_max: u64,
    /// How many bytes of memory are allocated, written to and freed before each workload.
    pub warm_bytes: usize,
    /// The longest that one request may take.
    pub timeout: Duration,
    /// Whether everything that is read is hashed, also while it counts.
    pub verify: bool,
    /// Whether the machine writes out what it holds back before each workload.
    pub sync: bool,
    /// What runs beside the workloads that want it: a line of the shell.
    pub gc_command: Option<String>,
    /// The process of the server.
    pub pid: Option<u32>,
    /// Who the client is.
    pub credentials: Option<BenchCredentials>,
    /// Certificates to trust beside those of the machine.
    pub ca: Option<std::path::PathBuf>,
    /// What all content follows from.
    pub seed: u64,
}

/// A plan with what it needs.
pub(crate) struct RunSetup {
    pub(crate) plan: RunPlan,
    pub(crate) server: Arc<BenchTarget>,
    pub(crate) source: Arc<ContentSource>,
}

impl RunPlan {
    pub(crate) fn duration(&self) -> Duration {
        match self.amount {
            PlanAmount::Duration(duration) => duration,
            PlanAmount::Count(_) => Duration::ZERO,
        }
    }

    pub(crate) fn count(&self) -> Option<u64> {
        match self.amount {
            PlanAmount::Count(count) => Some(count),
            PlanAmount::Duration(_) => None,
        }
    }

    /// The concurrency of each measurement of a workload.
    pub(crate) fn levels(&self, workload: Workload) -> Vec<usize> {
        let max = workload.kind.concurrency_max();
        let fits = |level: &usize| workload.kind.is_bulk() && *level <= max;
        let levels: Vec<_> = self.bulk_concurrency.iter().copied().filter(fits).collect();
        match levels.is_empty() {
            true => vec![if workload.kind.is_bulk() {
                self.concurrency.min(max)
            } else {
                self.concurrency
            }],
            false => levels,
        }
    }

    /// How many workers the run needs.
    pub(crate) fn concurrency_max(&self) -> usize {
        self.bulk_concurrency.iter().copied().fold(self.concurrency, usize::max)
    }

    pub(crate) fn set_up(self) -> Result<RunSetup, BenchError> {
        let size = self.workloads.iter().map(|workload| content_bytes_max(workload.kind)).max();
        let source = ContentSource::new(self.seed, size.unwrap_or_default());
        // A registry without TLS may still redirect to a store that has it.
        let tls = match connector(self.ca.as_deref()) {
            Ok(tls) => Some(tls),
            Err(_) if !self.url.authority.tls && self.ca.is_none() => None,
            Err(error) => return Err(error.into()),
        };
        let server = BenchTarget {
            authority: self.url.authority.clone(),
            tls,
            credentials: self.credentials.clone(),
            tokens: TokenCache::default(),
            timeout: self.timeout,
        };
        Ok(RunSetup { plan: self, server: Arc::new(server), source: Arc::new(source) })
    }
}
