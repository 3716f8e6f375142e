//! Every workload on a real server of ours: it is done, nothing fails, and what it promises to send
//! is sent.

use jreg_bench::{
    BenchRun, PlanAmount, RunPlan, WORKLOADS, Workload, WorkloadResult, measure, serve_sink,
};
use jreg_testkit::{ServerSpec, StoreKind, TestServer};

use crate::common::{block_on, plan};

async fn run(change: impl FnOnce(&mut RunPlan)) -> BenchRun {
    let server = Box::pin(TestServer::start(ServerSpec::default().store(StoreKind::Folder))).await;
    let mut plan = plan(&format!("http://{}", server.client().address()));
    change(&mut plan);
    let run = Box::pin(measure(plan, &mut |_| {})).await.unwrap();
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
    ("push-known-1m16", 2, Some(0), Some(1_048_592)),
    ("push-docker-1m16", 3, Some(0), Some(1_048_592)),
    ("push-known-4m", 2, Some(0), Some(4 << 20)),
    ("push-docker-10m", 3, Some(0), Some(10 << 20)),
    ("blob-get-1m16", 1, Some(1_048_592), Some(0)),
    ("blob-get-4m", 1, Some(4 << 20), Some(0)),
    ("image-pull-nginx", 10, None, Some(0)),
    ("image-push-nginx", 33, Some(0), None),
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
fn each_concurrent_operation_is_done_once_whatever_it_leaves() {
    block_on(async {
        let run = run(|plan| {
            plan.workloads = vec!["push-known-10m".parse().unwrap()];
            plan.amount = PlanAmount::Duration(std::time::Duration::from_secs(3600));
            plan.push_bytes_max = 1;
        })
        .await;
        clean(&run.results[0], 3);
    });
}

#[test]
fn workloads_that_move_bulk_are_measured_at_each_concurrency() {
    block_on(async {
        let names = ["blob-head", "blob-get-1m", "image-pull-nginx", "push-docker-1m"];
        let run = run(|plan| {
            plan.workloads = names.map(|name| name.parse().unwrap()).into();
            plan.bulk_concurrency = vec![1, 4, 8];
            plan.amount = PlanAmount::Count(8);
            plan.warm_bytes = 1 << 20;
        })
        .await;
        let measured: Vec<_> =
            run.results.iter().map(|r| (r.workload.as_str(), r.concurrency)).collect();
        let expected = [
            ("blob-head", 3),
            ("blob-get-1m", 1),
            ("blob-get-1m", 4),
            ("blob-get-1m", 8),
            ("image-pull-nginx", 1),
            ("image-pull-nginx", 4),
            ("push-docker-1m", 1),
            ("push-docker-1m", 4),
            ("push-docker-1m", 8),
        ];
        assert_eq!(measured, expected);
        for result in &run.results {
            clean(result, 8);
        }
    });
}

#[test]
fn everything_that_pushes_can_be_sent_to_a_sink() {
    block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plan = plan(&format!("http://{}", listener.local_addr().unwrap()));
        let sink = tokio::spawn(serve_sink(listener));
        let names = ["push-known-4k", "push-docker-1m16", "image-push-5", "image-push-nginx"];
        let workloads = names.map(|name| name.parse().unwrap()).into();
        let run = measure(RunPlan { workloads, ..plan }, &mut |_| {}).await.unwrap();
        for result in &run.results {
            clean(result, 4);
        }
        assert_eq!(run.results[1].sent_bytes, 4 * 1_048_592);
        sink.abort();
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
