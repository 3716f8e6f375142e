//! Runs workloads: one after the other, each with all workers beside each other, and counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::join_all;

use crate::client::ByteCounter;
use crate::error::BenchError;
use crate::failure::OperationError;
use crate::fixtures::Fixtures;
use crate::gc_command::GcCommand;
use crate::histogram::Histogram;
use crate::job::WorkloadJob;
use crate::measured::{BenchRun, FORMAT, Latency, WorkloadResult};
use crate::operation::LoadWorker;
use crate::plan::{PlanAmount, RunPlan, RunSetup};
use crate::process::WatchedProcess;
use crate::warm::warm_memory;
use crate::workload::Workload;

/// A worker whose operations fail so often in a row does no more of a workload: a server that no
/// longer exists is not asked for as long as there is time.
const FAILURES_IN_A_ROW_MAX: u32 = 20;

/// A warm-up leaves this share of the bytes in the registry that a workload may leave.
const WARMUP_BYTES_SHARE: u64 = 8;

/// Does what was planned. `tell` is told what is being done.
pub(crate) async fn run(
    setup: RunSetup,
    tell: &mut dyn FnMut(&str),
) -> Result<BenchRun, BenchError> {
    let RunSetup { plan, server, source } = setup;
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let workers = 0..u64::try_from(plan.concurrency_max()).unwrap_or(1);
    let mut workers: Vec<_> = workers.map(|n| LoadWorker::new(&server, &source, n)).collect();
    let says = greet(&mut workers).await.map_err(BenchError::Unreachable)?;
    let repository = format!("{}/{:016x}", plan.namespace, source.seed());
    let mut driver = LoadDriver {
        fixtures: Fixtures::new(repository, plan.tags, plan.repositories),
        watched: plan.pid.map(WatchedProcess::new).transpose()?,
        own: WatchedProcess::own(),
        workers,
        plan: &plan,
    };
    let mut results = Vec::new();
    for round in 1..=plan.rounds {
        for workload in &plan.workloads {
            for concurrency in plan.levels(*workload) {
                tell(&format!("round {round} of {}: {workload} ×{concurrency}", plan.rounds));
                let measured = driver.measure(*workload, concurrency).await?;
                let workload = workload.name.to_owned();
                results.push(WorkloadResult { workload, round, concurrency, ..measured });
            }
        }
    }
    Ok(BenchRun {
        format: FORMAT,
        label: plan.label.clone(),
        url: server.authority.to_string(),
        server: says,
        client: concat!("jreg ", env!("CARGO_PKG_VERSION")).to_owned(),
        began_unix_s: began.as_secs(),
        seed: source.seed(),
        concurrency: plan.concurrency,
        duration_s: plan.duration().as_secs_f64(),
        count: plan.count(),
        tags: plan.tags,
        repositories: plan.repositories,
        results,
    })
}

/// Asks whether there is a registry, and who it says it is.
async fn greet(workers: &mut [LoadWorker]) -> Result<Option<String>, OperationError> {
    let Some(worker) = workers.first_mut() else { return Ok(None) };
    let request =
        crate::client::BenchRequest::new("GET", "/v2/", crate::auth::RequestedAccess::Catalog);
    let response = worker.client.send(request, &mut crate::wire::BodySink::Count).await?;
    match response.status {
        200 => Ok(response.server),
        status => Err(OperationError::Status(status)),
    }
}

struct LoadDriver<'a> {
    plan: &'a RunPlan,
    fixtures: Fixtures,
    workers: Vec<LoadWorker>,
    watched: Option<WatchedProcess>,
    own: Option<WatchedProcess>,
}

impl LoadDriver<'_> {
    async fn measure(
        &mut self,
        workload: Workload,
        concurrency: usize,
    ) -> Result<WorkloadResult, BenchError> {
        let job = match self.prepare(workload).await {
            Ok(job) => Arc::new(job),
            Err(failure) => return Ok(unmeasured(workload, &failure)),
        };
        if self.plan.sync {
            sync().await?;
        }
        warm_memory(self.plan.warm_bytes);
        self.verify(true);
        if !self.plan.warmup.is_zero() {
            let bytes = self.plan.push_bytes_max / WARMUP_BYTES_SHARE;
            self.phase(&job, &StartGate::for_time(self.plan.warmup, bytes), concurrency).await;
        }
        self.verify(self.plan.verify);
        self.connect(concurrency).await;
        if let Some(watched) = self.watched {
            watched.forget_peak();
        }
        let (server, own) = (Stopwatch::start(self.watched)?, Stopwatch::start(self.own)?);
        let began = Instant::now();
        let command = self.plan.gc_command.as_deref().filter(|_| workload.runs_gc);
        let gc_command = command.map(GcCommand::start);
        let each_once = job.leaves_bytes().saturating_mul(u64::try_from(concurrency).unwrap_or(1));
        let gate = StartGate::new(&self.plan.amount, self.plan.push_bytes_max.max(each_once));
        let mut tally = self.phase(&job, &gate, concurrency).await;
        let seconds = began.elapsed().as_secs_f64();
        let collections = match gc_command {
            Some(gc_command) => Some(tally.end(gc_command, self.plan.timeout).await?),
            None => None,
        };
        Ok(WorkloadResult {
            operations: tally.latencies.count(),
            seconds,
            requests: tally.traffic.requests,
            reconnects: tally.traffic.reconnects,
            received_bytes: tally.traffic.received,
            sent_bytes: tally.traffic.sent,
            errors: tally.errors,
            collections,
            latency: Latency::from(&tally.latencies),
            server_cpu_seconds: server.stop()?,
            server_peak_bytes: self.watched.map(WatchedProcess::peak_bytes).transpose()?,
            client_cpu_seconds: own.stop()?,
            ..WorkloadResult::default()
        })
    }

    /// Pushes what the workload needs, and does it once, with every byte checked.
    async fn prepare(&mut self, workload: Workload) -> Result<WorkloadJob, OperationError> {
        let job = self.fixtures.prepare(workload.kind, &mut self.workers).await?;
        if let Some(worker) = self.workers.first_mut() {
            worker.verifies = true;
            job.run(worker).await?;
        }
        Ok(job)
    }

    fn verify(&mut self, verifies: bool) {
        for worker in &mut self.workers {
            worker.verifies = verifies;
        }
    }

    /// Connects before the time runs. A failure shows when it does.
    async fn connect(&mut self, concurrency: usize) {
        join_all(self.workers.iter_mut().take(concurrency).map(async |worker: &mut LoadWorker| {
            worker.client.connect().await.ok();
            worker.take_traffic();
        }))
        .await;
    }

    /// Has this many workers do the job at the same time.
    async fn phase(
        &mut self,
        job: &Arc<WorkloadJob>,
        gate: &Arc<StartGate>,
        concurrency: usize,
    ) -> RunTally {
        let idle = self.workers.split_off(concurrency.min(self.workers.len()));
        let workers = std::mem::take(&mut self.workers);
        let tasks = workers.into_iter().map(|worker| {
            let (job, gate) = (Arc::clone(job), Arc::clone(gate));
            tokio::spawn(async move { work(worker, &job, &gate).await })
        });
        let mut sum = RunTally::default();
        for (worker, tally) in join_all(tasks).await.into_iter().flatten() {
            sum.add(tally);
            self.workers.push(worker);
        }
        self.workers.extend(idle);
        sum
    }
}

fn unmeasured(workload: Workload, failure: &OperationError) -> WorkloadResult {
    let name = failure.name();
    let unsupported = match failure {
        OperationError::Unpaged => true,
        failure => workload.kind.is_optional() && failure.is_absence(),
    };
    if unsupported {
        return WorkloadResult { unsupported: Some(name), ..WorkloadResult::default() };
    }
    WorkloadResult { errors: BTreeMap::from([(name, 1)]), ..WorkloadResult::default() }
}

/// Does operations for as long as the gate lets it.
async fn work(
    mut worker: LoadWorker,
    job: &WorkloadJob,
    gate: &StartGate,
) -> (LoadWorker, RunTally) {
    let mut tally = RunTally::default();
    let mut failures = 0;
    while failures < FAILURES_IN_A_ROW_MAX && gate.admits(job.leaves_bytes()) {
        let began = Instant::now();
        match job.run(&mut worker).await {
            Ok(()) => {
                let taken = began.elapsed().as_nanos();
                tally.latencies.record(u64::try_from(taken).unwrap_or(u64::MAX));
                failures = 0;
            }
            Err(failure) => {
                *tally.errors.entry(failure.name()).or_default() += 1;
                failures += 1;
            }
        }
    }
    tally.traffic = worker.take_traffic();
    (worker, tally)
}

/// What workers did.
#[derive(Debug, Default)]
struct RunTally {
    latencies: Histogram,
    errors: BTreeMap<String, u64>,
    traffic: ByteCounter,
}

impl RunTally {
    fn add(&mut self, other: Self) {
        self.latencies.merge(&other.latencies);
        for (name, count) in other.errors {
            *self.errors.entry(name).or_default() += count;
        }
        self.traffic.add(other.traffic);
    }

    /// Says how often a GC run ran to its end. Runs that failed are errors as others are.
    async fn end(&mut self, gc_command: GcCommand, timeout: Duration) -> Result<u64, BenchError> {
        let runs = gc_command.stop(timeout).await?;
        if runs.failed > 0 {
            self.errors.insert("collect".to_owned(), runs.failed);
        }
        Ok(runs.done)
    }
}

/// Says whether another operation may begin.
#[derive(Debug)]
struct StartGate {
    until: Option<Instant>,
    operations_left: AtomicU64,
    bytes_left: AtomicU64,
}

impl StartGate {
    fn new(amount: &PlanAmount, bytes: u64) -> Arc<Self> {
        match *amount {
            PlanAmount::Duration(duration) => Self::for_time(duration, bytes),
            PlanAmount::Count(count) => Arc::new(Self {
                until: None,
                operations_left: count.into(),
                bytes_left: bytes.into(),
            }),
        }
    }

    fn for_time(duration: Duration, bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            until: Some(Instant::now() + duration),
            operations_left: u64::MAX.into(),
            bytes_left: bytes.into(),
        })
    }

    /// Whether one may begin that leaves so many bytes in the registry.
    fn admits(&self, bytes: u64) -> bool {
        let in_time = self.until.is_none_or(|until| Instant::now() < until);
        in_time && take(&self.bytes_left, bytes) && take(&self.operations_left, 1)
    }
}

fn take(left: &AtomicU64, wanted: u64) -> bool {
    let less = |left: u64| left.checked_sub(wanted);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
}

/// Processor time of a process from a moment on.
struct Stopwatch(Option<(WatchedProcess, f64)>);

impl Stopwatch {
    fn start(process: Option<WatchedProcess>) -> Result<Self, BenchError> {
        let started = process.map(|process| Ok::<_, BenchError>((process, process.cpu_seconds()?)));
        started.transpose().map(Self)
    }

    fn stop(self) -> Result<Option<f64>, BenchError> {
        match self.0 {
            Some((process, before)) => Ok(Some(process.cpu_seconds()? - before)),
            None => Ok(None),
        }
    }
}

/// Has the machine write out what it holds back.
async fn sync() -> Result<(), BenchError> {
    let status = tokio::task::spawn_blocking(|| std::process::Command::new("sync").status()).await;
    match status {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Err(source)) => Err(BenchError::Sync(source)),
        _ => Err(BenchError::Sync(std::io::Error::other("it did not end well"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_counts_operations_and_bytes() {
        let gate = StartGate::new(&PlanAmount::Count(3), 10);
        assert!(gate.admits(4) && gate.admits(4));
        assert!(!gate.admits(4), "the bytes are spent");
        assert!(gate.admits(0) && !gate.admits(0), "the operations are");
    }

    #[test]
    fn a_gate_closes_when_the_time_is_over() {
        assert!(!StartGate::for_time(Duration::ZERO, u64::MAX).admits(0));
        assert!(StartGate::for_time(Duration::from_secs(3600), u64::MAX).admits(0));
    }

    #[test]
    fn what_is_optional_may_be_unsupported() {
        let measured = |name: &str, failure| {
            let workload = crate::workload::WORKLOADS.iter().find(|w| w.name == name);
            workload.map(|workload| unmeasured(*workload, &failure)).unwrap_or_default()
        };
        let without = measured("catalog", OperationError::Status(404));
        assert_eq!((without.unsupported.as_deref(), without.failed()), (Some("status 404"), 0));
        assert_eq!(measured("catalog", OperationError::Status(500)).failed(), 1);
        assert_eq!(measured("blob-head", OperationError::Status(404)).failed(), 1);
    }
}
