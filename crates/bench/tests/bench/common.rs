//! What the tests of the benchmark share.

use std::time::Duration;

use jreg_bench::{BenchRun, PlanAmount, RunPlan, measure};

/// Runs a test.
pub(crate) fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// A small run: four operations of each workload, without a warm-up.
pub(crate) fn plan(url: &str) -> RunPlan {
    RunPlan {
        url: url.parse().unwrap(),
        label: "test".to_owned(),
        workloads: Vec::new(),
        concurrency: 3,
        bulk_concurrency: Vec::new(),
        amount: PlanAmount::Count(4),
        warmup: Duration::ZERO,
        rounds: 1,
        namespace: "bench/test".to_owned(),
        tags: 130,
        repositories: 4,
        push_bytes_max: u64::MAX,
        warm_bytes: 0,
        timeout: Duration::from_secs(60),
        verify: false,
        sync: false,
        gc_command: None,
        pid: None,
        credentials: None,
        ca: None,
        seed: 7,
    }
}

/// A small run of these workloads, one operation after the other.
pub(crate) async fn one_by_one(
    url: &str,
    workloads: &str,
    change: impl FnOnce(&mut RunPlan),
) -> BenchRun {
    let mut plan = plan(url);
    plan.concurrency = 1;
    plan.workloads = workloads.split(',').map(|name| name.parse().unwrap()).collect();
    change(&mut plan);
    measure(plan, &mut |_| {}).await.unwrap()
}
