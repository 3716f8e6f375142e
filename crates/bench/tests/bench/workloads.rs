//! Every workload on a real server of ours: it is done, nothing fails, and what it promises to send
//! is sent.

use jreg_bench::{BenchRun, PlanAmount, RunPlan, WORKLOADS, Workload, WorkloadResult, measure};
use jreg_testkit::{ServerSpec, StoreKind, TestServer};

use crate::common::{block_on, plan};

async fn run(change: impl FnOnce(&mut RunPlan)) -> BenchRun {
    let server = TestServer::start(ServerSpec::default().store(StoreKind::Folder)).await;
    let mut plan = plan(&format!("http://{}", server.client().address()));
    change(&mut plan);
    let run = measure(plan, &mut |_| {}).await.unwrap();
    server.stop().await;
    run
}

fn clean(measured: &WorkloadResult, operations: u64) {
    assert_eq!(measured.errors.len(), 0, "{measured:?}");
    assert_eq!(measured.unsupported, None, "{measured:?}");
    assert_eq!(measured.operations, operations, "{measured:?}");
}

#[test]
fn every_workload_is_done_without_errors() {
    block_on(async {
        let run = run(|plan| {
            plan.workloads = WORKLOADS.to_vec();
            plan.verify = true;
            // Some move 100 MiB each time.
            plan.amount = PlanAmount::Count(2);
        })
        .await;
        assert_eq!(run.results.len(), WORKLOADS.len());
        for (measured, workload) in run.results.iter().zip(WORKLOADS) {
            assert_eq!(measured.workload, workload.name);
            clean(measured, 2);
            assert!(measured.latency.max_ms > 0.0 && measured.seconds > 0.0);
        }
    });
}

/// Name, requests an operation, bytes received and sent an operation, where these are certain.
const TRAFFIC: &[(&str, u64, Option<u64>, Option<u64>)] = &[
    ("manifest-head-tag", 1, Some(0), Some(0)),
    ("manifest-get-digest", 1, None, Some(0)),
    ("blob-head", 1, Some(0), Some(0)),
    ("blob-head-missing", 1, Some(0), Some(0)),
    ("blob-get-4k", 1, Some(4096), Some(0)),
    ("blob-get-1m", 1, Some(1_048_576), Some(0)),
    ("blob-get-range", 1, Some(65_536), Some(0)),
    ("tag-page", 1, None, Some(0)),
    ("catalog", 1, None, Some(0)),
    ("referrers", 1, None, Some(0)),
    // Manifest by tag and by digest, configuration, layers.
    ("image-pull-5", 8, None, Some(0)),
    ("image-pull-50", 53, None, Some(0)),
    ("tag-put", 1, Some(0), None),
    ("push-known-4k", 2, Some(0), Some(4096)),
    ("push-docker-4k", 3, Some(0), Some(4096)),
    ("push-docker-1m", 3, Some(0), Some(1_048_576)),
    // HEAD, POST, PATCH, PUT of each layer and of the configuration, and the manifest.
    ("image-push-5", 25, Some(0), None),
    ("image-push-50", 205, Some(0), None),
];

#[test]
fn an_operation_sends_the_requests_and_moves_the_bytes_that_it_promises() {
    block_on(async {
        let names = TRAFFIC.iter().map(|(name, ..)| name.parse::<Workload>().unwrap());
        let workloads = names.collect();
        let run = run(|plan| plan.workloads = workloads).await;
        for (name, requests, received, sent) in TRAFFIC {
            let measured = run.results.iter().find(|result| result.workload == *name).unwrap();
            clean(measured, 4);
            assert_eq!(measured.requests, 4 * requests, "{name}");
            let as_promised = |of: u64, promised: Option<u64>| promised.is_none_or(|p| of == 4 * p);
            assert!(as_promised(measured.received_bytes, *received), "{measured:?}");
            assert!(as_promised(measured.sent_bytes, *sent), "{measured:?}");
        }
    });
}

#[test]
fn rounds_repeat_the_workloads_in_their_order() {
    block_on(async {
        let workloads = ["blob-head", "push-known-4k"].map(|name| name.parse().unwrap()).to_vec();
        let run = run(|plan| (plan.workloads, plan.rounds) = (workloads, 3)).await;
        let order: Vec<_> = run
            .results
            .iter()
            .map(|measured| (measured.workload.as_str(), measured.round))
            .collect();
        let expected = [1, 2, 3].map(|round| [("blob-head", round), ("push-known-4k", round)]);
        assert_eq!(order, expected.concat());
    });
}

#[test]
fn a_time_ends_a_workload_and_so_do_the_bytes_that_it_may_leave() {
    block_on(async {
        let workloads = vec!["push-known-1m".parse().unwrap()];
        let run = run(|plan| {
            plan.workloads = workloads;
            plan.amount = PlanAmount::Duration(std::time::Duration::from_secs(3600));
            plan.push_bytes_max = 5 * 1_048_576;
        })
        .await;
        clean(&run.results[0], 5);
    });
}

#[test]
fn gc_runs_beside_workloads_that_request_it_and_its_failures_count() {
    block_on(async {
        for (command, errors) in [("true", 0), ("false", 1)] {
            let run = run(|plan| {
                plan.workloads = ["mix", "mix-gc"].map(|name| name.parse().unwrap()).into();
                plan.gc_command = Some(command.to_owned());
            })
            .await;
            let [without, beside] = &run.results[..] else { panic!("{run:?}") };
            clean(without, 4);
            assert_eq!(without.collections, None);
            assert_eq!((beside.operations, beside.failed() >= errors), (4, true), "{beside:?}");
            assert_eq!(beside.collections.unwrap() > 0, errors == 0, "{beside:?}");
            assert_eq!(beside.errors.contains_key("collect"), errors > 0, "{beside:?}");
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_is_watched() {
    block_on(async {
        let workloads = vec!["blob-head".parse().unwrap()];
        let run =
            run(|plan| (plan.workloads, plan.pid) = (workloads, Some(std::process::id()))).await;
        assert!(run.results[0].server_peak_bytes.unwrap() > 0);
        assert!(run.results[0].server_cpu_seconds.unwrap() >= 0.0);
    });
}

#[test]
fn a_process_that_is_not_there_ends_the_run() {
    block_on(async {
        let server = TestServer::start(ServerSpec::default()).await;
        let url = format!("http://{}", server.client().address());
        let plan = RunPlan { pid: Some(u32::MAX), ..plan(&url) };
        let error = measure(plan, &mut |_| {}).await.unwrap_err().to_string();
        assert!(error.contains("proc"), "{error}");
    });
}
