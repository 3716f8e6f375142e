//! Each recorded line is in exactly one of the audit log files, and whole.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const TASKS: usize = 16;
const LINES_PER_TASK: usize = 200;

fn open(path: &Path) -> (AuditLog, Arc<Metrics>) {
    let target = AuditTarget::File(path.to_owned());
    let metrics = Arc::new(Metrics::new());
    let options = AuditOptions { target, reads: true };
    (AuditLog::open(&options, &metrics).unwrap(), metrics)
}

fn entry(id: impl ToString) -> AuditRecord {
    AuditRecord { request_id: id.to_string(), ..AuditRecord::default() }
}

/// The request ids in a file, with their counts. Panics at a partial line.
fn count(path: &Path, counts: &mut BTreeMap<String, usize>) {
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        *counts.entry(line["request_id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
}

fn ids(path: &Path) -> Vec<String> {
    let mut counts = BTreeMap::new();
    count(path, &mut counts);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    counts.into_keys().collect()
}

fn counted(metrics: &Metrics, outcome: &str) -> u64 {
    let text = metrics.render(
        crate::metrics::MetricsForm::OpenMetrics,
        &jreg_registry::RegistryUsage {
            upload_slots_free: 0,
            upload_buffer: Default::default(),
            cache_hits: 0,
            cache_misses: 0,
            damaged_records_replaced: 0,
            clock_difference: std::time::Duration::ZERO,
            reserved_bytes: None,
        },
    );
    let line = format!("jreg_audit_lines_total{{outcome=\"{outcome}\"}} ");
    let count = text.lines().find_map(|found| found.strip_prefix(&line));
    count.map_or(0, |count| count.parse().unwrap())
}

/// A name could show a line on a terminal as something else than it is.
#[test]
fn format_control_characters_are_escaped() {
    let claimed = Some("a\u{202e}\u{2066}\u{200f}\u{feff}\u{85}\u{2028}b".to_owned());
    let record = AuditRecord { claimed: claimed.clone(), ..entry("1") };
    let line = String::from_utf8(super::line(&record)).unwrap();
    assert!(line.is_ascii() && line.ends_with("}\n"), "{line}");
    assert!(line.contains(r"a\u202e\u2066\u200f\ufeff\u0085\u2028b"), "{line}");
    let read: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(read["claimed"].as_str(), claimed.as_deref());
}

/// Rotation as by logrotate, with and without a signal, while two processes write.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rotation_loses_and_repeats_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let logs = [open(&path).0, open(&path).0];
    let is_over = Arc::new(AtomicBool::new(false));
    let (rotated, over, log) = (path.clone(), Arc::clone(&is_over), logs[0].clone());
    let rotating = tokio::spawn(async move {
        let mut rotations = 0;
        while !over.load(Ordering::SeqCst) {
            let old = rotated.with_extension(format!("{rotations}"));
            if std::fs::rename(&rotated, old).is_ok() {
                rotations += 1;
            }
            if rotations % 2 == 0 {
                log.reopen().await;
            }
            tokio::task::yield_now().await;
        }
        rotations
    });
    let writing = (0..TASKS).map(|task| {
        let log = logs[task % logs.len()].clone();
        tokio::spawn(async move {
            for line in 0..LINES_PER_TASK {
                log.record(&entry(format!("{task}-{line}"))).await;
            }
        })
    });
    for task in writing.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    is_over.store(true, Ordering::SeqCst);
    assert!(rotating.await.unwrap() > 1);
    let mut counts = BTreeMap::new();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        count(&file.unwrap().path(), &mut counts);
    }
    assert_eq!(counts.len(), TASKS * LINES_PER_TASK);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
}

#[tokio::test]
async fn a_line_is_there_once_it_was_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    std::fs::write(&path, "{\"request_id\":\"old\"}\n").unwrap();
    let (log, metrics) = open(&path);
    for id in ["a", "b"] {
        log.record(&entry(id)).await;
        assert!(ids(&path).contains(&id.to_owned()));
    }
    assert_eq!(ids(&path), ["a", "b", "old"], "what was there stays");
    assert_eq!((counted(&metrics, "written"), counted(&metrics, "failed")), (2, 0));
}

#[tokio::test]
async fn a_file_that_is_gone_is_made_again_and_one_that_cannot_be_is_still_written() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("logs");
    std::fs::create_dir(&inner).unwrap();
    let path = inner.join("audit.log");
    let (log, _) = open(&path);
    log.record(&entry("a")).await;
    std::fs::remove_file(&path).unwrap();
    log.record(&entry("b")).await;
    assert_eq!(ids(&path), ["b"]);
    let moved = folder.path().join("moved");
    std::fs::rename(&inner, &moved).unwrap();
    log.record(&entry("c")).await;
    assert_eq!(ids(&moved.join("audit.log")), ["b", "c"], "into the file that is open");
    std::fs::create_dir(&inner).unwrap();
    log.record(&entry("d")).await;
    assert_eq!(ids(&path), ["d"]);
}

#[tokio::test]
async fn a_command_without_an_end_record_was_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let (log, _) = open(&path);
    let begun = || {
        let operator = command::Operator::with_uid(7);
        command::AuditedCommand::new(&log, operator, "gc", serde_json::json!({ "force": true }))
    };
    drop(begun());
    begun().end(command::CommandOutcome::Done, None, Vec::new()).await;
    log.flush().await;
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let outcomes: Vec<_> = lines.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["stopped", "done"]);
    assert_eq!((&lines[0]["uid"], &lines[0]["asked"]["force"]), (&7.into(), &true.into()));
}

/// The device accepts nothing, like a full disk.
#[tokio::test]
async fn what_cannot_be_written_is_counted_and_stops_nothing() {
    let (log, metrics) = open(Path::new("/dev/full"));
    for id in 0..3 {
        log.record(&entry(id)).await;
    }
    assert_eq!((counted(&metrics, "written"), counted(&metrics, "failed")), (0, 3));
}

#[tokio::test]
async fn a_full_queue_makes_requests_wait_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let (log, _) = open(&path);
    let all = LINES_WAITING_MAX * 2;
    futures::future::join_all((0..all).map(|id| {
        let log = log.clone();
        async move { log.record(&entry(id)).await }
    }))
    .await;
    assert_eq!(ids(&path).len(), all);
}

#[tokio::test]
async fn without_a_setting_nothing_is_written_and_a_wrong_one_is_an_error() {
    let metrics = Arc::new(Metrics::new());
    let log = AuditLog::open(&AuditOptions::default(), &metrics).unwrap();
    assert!(!log.is_on());
    log.record(&entry("a")).await;
    let target = AuditTarget::File("/nowhere/audit.log".into());
    let options = AuditOptions { target, reads: true };
    let error = AuditLog::open(&options, &metrics).unwrap_err();
    assert_eq!(error.to_string(), "cannot open the audit log /nowhere/audit.log");
}
