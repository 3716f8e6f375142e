//! Files of results, and what is made of them.

use std::collections::BTreeMap;
use std::path::Path;

use clap::Parser;
use jreg_bench::{BenchArgs, BenchOutcome, BenchRun, FORMAT, Latency, WorkloadResult};

use crate::common::block_on;
use crate::fake::{FakeRegistry, response};

/// What the command prints, and how it goes.
fn command(args: &[&str]) -> Result<(BenchOutcome, String), String> {
    let mut out = Vec::new();
    let verdict = command_to(args, &mut out)?;
    Ok((verdict, String::from_utf8(out).unwrap()))
}

fn command_to(args: &[&str], out: &mut Vec<u8>) -> Result<BenchOutcome, String> {
    let args = std::iter::once("jreg-bench").chain(args.iter().copied());
    let args = BenchArgs::try_parse_from(args).unwrap();
    let verdict = jreg_bench::run(args, out, &mut std::io::sink());
    verdict.map_err(|error| error.to_string())
}

/// A result whose figures all follow from one.
fn measured(workload: &str, round: u32, rate: f64) -> WorkloadResult {
    let operations = 1000;
    WorkloadResult {
        workload: workload.to_owned(),
        round,
        concurrency: 16,
        operations,
        seconds: 1000.0 / rate,
        requests: operations,
        received_bytes: operations * 1_000_000,
        latency: Latency { p99_ms: 1000.0 / rate, ..Latency::default() },
        server_cpu_seconds: Some(800.0 / rate),
        server_peak_bytes: Some(50_000_000),
        client_cpu_seconds: Some(100.0 / rate),
        ..WorkloadResult::default()
    }
}

fn run(label: &str, results: Vec<WorkloadResult>) -> BenchRun {
    BenchRun {
        format: FORMAT,
        label: label.to_owned(),
        url: "http://127.0.0.1:5000".to_owned(),
        server: Some("x & <y>".to_owned()),
        client: "jreg 0.1.0".to_owned(),
        began_unix_s: 1_700_000_000,
        seed: 7,
        concurrency: 16,
        duration_s: 5.0,
        count: None,
        tags: 600,
        repositories: 200,
        results,
    }
}

/// Two rounds of one peer in two files, one of another that lacks something, and ours.
fn runs() -> Vec<BenchRun> {
    let without = WorkloadResult {
        workload: "catalog".to_owned(),
        round: 1,
        concurrency: 16,
        unsupported: Some("status 404".to_owned()),
        ..WorkloadResult::default()
    };
    let failing = WorkloadResult {
        errors: BTreeMap::from([("status 500".to_owned(), 2)]),
        client_cpu_seconds: Some(1.0),
        seconds: 1.0,
        ..measured("catalog", 1, 1000.0)
    };
    vec![
        run("jreg", vec![measured("blob-head", 1, 3000.0), measured("blob-get-1m", 1, 900.0)]),
        run("one", vec![measured("blob-head", 1, 1000.0), measured("blob-get-1m", 1, 300.0)]),
        run("one", vec![measured("blob-head", 1, 1500.0), without]),
        run("two & more", vec![measured("blob-head", 1, 2000.0), failing]),
    ]
}

fn written(folder: &Path, runs: &[BenchRun]) -> Vec<String> {
    let write = |(number, run): (usize, &BenchRun)| {
        let path = folder.join(format!("{number}.json"));
        std::fs::write(&path, serde_json::to_string(run).unwrap()).unwrap();
        path.display().to_string()
    };
    runs.iter().enumerate().map(write).collect()
}

#[test]
fn results_are_read_as_they_were_written() {
    for run in runs() {
        let text = serde_json::to_string(&run).unwrap();
        assert_eq!(serde_json::from_str::<BenchRun>(&text).unwrap(), run);
    }
}

const GOLDEN: &str = include_str!("report.md");

#[test]
fn a_report_has_medians_and_ratios_to_the_best_peer() {
    let folder = tempfile::tempdir().unwrap();
    let files = written(folder.path(), &runs());
    let args: Vec<_> = std::iter::once("report").chain(files.iter().map(String::as_str)).collect();
    let (verdict, markdown) = command(&args).unwrap();
    assert_eq!(verdict, BenchOutcome::Done);
    assert_eq!(markdown, GOLDEN, "{markdown}");
}

/// Figures of a push at a concurrency, from its MB/s.
fn pushed(workload: &str, concurrency: usize, speed: f64) -> WorkloadResult {
    WorkloadResult {
        concurrency,
        received_bytes: 0,
        sent_bytes: 1_000_000_000,
        ..measured(workload, 1, speed)
    }
}

/// Two peers of which one syncs, one that fails, two of ours, and what the client can send.
fn pushes() -> Vec<BenchRun> {
    let of = |label: &str, speeds: [f64; 3]| {
        let [one, few, many] = speeds;
        let results = vec![
            pushed("push-known-4m", 1, one),
            pushed("push-known-4m", 4, few),
            pushed("push-docker-64m", 16, many),
        ];
        run(label, results)
    };
    let mut broken = of("broken", [9000.0; 3]);
    broken.results.truncate(1);
    broken.results[0].errors.insert("status 500".to_owned(), 7);
    vec![
        of("sink", [2000.0, 2000.0, 4000.0]),
        of("syncs", [100.0, 200.0, 300.0]),
        broken,
        of("does not", [200.0, 400.0, 200.0]),
        of("jreg", [150.0, 300.0, 600.0]),
        of("jreg-relaxed", [200.0, 500.0, 600.0]),
        run("jreg-login", vec![measured("blob-head", 1, 100.0)]),
    ]
}

fn report_of_pushes(args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let files = written(folder.path(), &pushes());
    let mut all = vec!["report"];
    all.extend(args);
    all.extend(files.iter().map(String::as_str));
    command(&all).unwrap().1
}

#[test]
fn a_report_begins_with_the_pushes_and_says_where_a_peer_is_better() {
    let markdown = report_of_pushes(&["--syncing", "syncs,other"]);
    assert_eq!(markdown, include_str!("pushes.md"), "{markdown}");
}

#[test]
fn a_registry_that_answers_errors_is_marked_and_no_baseline() {
    let markdown = report_of_pushes(&[]);
    assert!(markdown.contains("- broken, push-known-4m ×1: 7 × status 500 beside"), "{markdown}");
    let row = |title: &str| {
        let table = markdown.split(&format!("### {title}\n")).nth(1).unwrap();
        table.lines().find(|line| line.starts_with("| push-known-4m | 1 |")).unwrap().to_owned()
    };
    assert!(row("Speed").contains(" 9,000 ² |"), "{}", row("Speed"));
    assert!(row("Speed").contains(" 200 (1.00×) |"), "{}", row("Speed"));
    for title in ["Speed", "Pushes of 1 MiB and more", "Not the best: speed"] {
        assert!(!row(title).contains("broken"), "{}", row(title));
    }
}

#[test]
fn a_chart_is_well_formed_and_has_a_bar_for_each_figure() {
    let folder = tempfile::tempdir().unwrap();
    let chart = folder.path().join("chart.svg");
    let files = written(folder.path(), &runs());
    let mut args = vec!["report", "--svg", chart.to_str().unwrap()];
    args.extend(files.iter().map(String::as_str));
    command(&args).unwrap();
    let svg = std::fs::read_to_string(chart).unwrap();
    let mut reader = quick_xml::Reader::from_str(&svg);
    let (mut depth, mut bars, mut texts) = (0_i32, Vec::new(), Vec::new());
    loop {
        use quick_xml::events::Event;
        match reader.read_event().unwrap() {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth -= 1,
            Event::Empty(element) => {
                let width = element.try_get_attribute("width").unwrap().unwrap();
                bars.push(String::from_utf8(width.value.to_vec()).unwrap());
            }
            Event::Text(text) => texts.push(text.decode().unwrap().into_owned()),
            Event::GeneralRef(entity) => texts.push(format!("&{};", entity.decode().unwrap())),
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0);
    // The ground, and three registries for each of three workloads, those without figures empty.
    assert_eq!(bars.len(), 1 + 3 * 3);
    assert_eq!(bars.iter().filter(|width| *width == "0.0").count(), 3);
    for said in ["blob-head (/s)", "blob-get-1m (MB/s)", "not supported", "&amp;"] {
        assert!(texts.iter().any(|text| text == said), "{said}: {texts:?}");
    }
}

#[test]
fn files_that_are_no_results_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let report = |text: &str| {
        let path = folder.path().join("x.json");
        std::fs::write(&path, text).unwrap();
        command(&["report", path.to_str().unwrap()]).unwrap_err()
    };
    assert!(report("{}").ends_with("x.json holds no results of jreg-bench"));
    assert!(
        report(r#"{"format":1}"#).ends_with("has format 1; this version of jreg-bench reads 2")
    );
    let missing = folder.path().join("missing.json");
    let error = command(&["report", missing.to_str().unwrap()]).unwrap_err();
    assert!(error.starts_with("cannot read") && error.ends_with("missing.json"), "{error}");
}

#[test]
fn the_list_names_every_workload() {
    let (_, list) = command(&["--list"]).unwrap();
    for workload in jreg_bench::WORKLOADS {
        assert!(list.lines().any(|line| line.starts_with(&format!("{} ", workload.name))));
    }
}

#[test]
fn a_file_that_cannot_be_written_costs_no_results() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("missing/run.json");
    let mut out = Vec::new();
    let error = on_fake_to(404, &["--json", file.to_str().unwrap()], &mut out).unwrap_err();
    assert!(error.starts_with("cannot write") && error.ends_with("run.json"), "{error}");
    assert!(String::from_utf8(out).unwrap().contains("blob-head-missing"));
}

/// Runs the command on a fake, which needs a thread that is not the command's.
fn on_fake(status: u16, args: &[&str]) -> Result<(BenchOutcome, String), String> {
    let mut out = Vec::new();
    let verdict = on_fake_to(status, args, &mut out)?;
    Ok((verdict, String::from_utf8(out).unwrap()))
}

fn on_fake_to(status: u16, args: &[&str], out: &mut Vec<u8>) -> Result<BenchOutcome, String> {
    let (send, receive) = std::sync::mpsc::channel();
    let (done, ended) = tokio::sync::oneshot::channel::<()>();
    let serving = std::thread::spawn(move || {
        block_on(async {
            let fake = FakeRegistry::misbehaving(move |asked| {
                asked.target.contains("/blobs/sha256").then(|| response(status, ""))
            })
            .await;
            send.send(fake.url()).unwrap();
            ended.await.ok();
        });
    });
    let url = receive.recv().unwrap();
    let mut all =
        vec![url.as_str(), "--only", "blob-head-missing", "--count", "3", "--warmup", "0s"];
    all.extend(args);
    let outcome = command_to(&all, out);
    drop(done);
    serving.join().unwrap();
    outcome
}

#[test]
fn a_run_prints_a_table_and_says_whether_all_went_well() {
    let (verdict, table) = on_fake(404, &[]).unwrap();
    assert_eq!(verdict, BenchOutcome::Done);
    assert!(table.starts_with("workload"), "{table}");
    let line = table.lines().find(|line| line.starts_with("blob-head-missing")).unwrap();
    assert_eq!(line.split_whitespace().skip(1).take(2).collect::<Vec<_>>(), ["16", "3"]);
    let (verdict, table) = on_fake(500, &[]).unwrap();
    assert_eq!(verdict, BenchOutcome::Failed);
    assert!(table.contains("blob-head-missing ×16: failed: 1 × status 500"), "{table}");
}

#[test]
fn a_run_is_written_as_json() {
    let (_, json) = on_fake(404, &["--json", "-", "--label", "it"]).unwrap();
    let run: BenchRun = serde_json::from_str(&json).unwrap();
    assert_eq!((run.label.as_str(), run.results[0].operations), ("it", 3));
    let folder = tempfile::tempdir().unwrap();
    let (file, chart) = (folder.path().join("run.json"), folder.path().join("run.svg"));
    let args = ["--json", file.to_str().unwrap(), "--svg", chart.to_str().unwrap()];
    let (_, table) = on_fake(404, &args).unwrap();
    assert!(table.starts_with("workload"));
    let run: BenchRun = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(run.count, Some(3));
    assert!(std::fs::read_to_string(chart).unwrap().contains("blob-head-missing (/s)"));
}
