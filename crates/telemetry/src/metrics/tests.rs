//! What the text of the metrics is, and that pages, alerts and the dashboard name only what is in it.

#![allow(clippy::unwrap_used)]
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::*;

const USAGE: RegistryUsage = RegistryUsage {
    upload_slots_free: 500,
    upload_buffer: BudgetUsage { bytes_free: 1024, waiting: 2, waits: 9, refused: 3 },
    cache_hits: 7,
    cache_misses: 3,
    damaged_records_replaced: 4,
    clock_difference: Duration::from_millis(1500),
    reserved_bytes: Some(8 << 20),
};

fn has_line(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "no line {line:?} in:\n{text}");
}

#[test]
fn the_text_names_every_family_with_its_labels() {
    let metrics = Metrics::new();
    metrics.count_request(&FinishedRequest {
        endpoint: "blob_get",
        status: 206,
        duration: Duration::from_millis(3),
        received_bytes: 0,
        sent_bytes: 512,
        trace_id: Some([0x4b; 16]),
    });
    metrics.count_store_request("get", "not_found", Duration::from_secs(2));
    metrics.count_hedge("won");
    let text = metrics.render(MetricsForm::OpenMetrics, &USAGE);
    has_line(&text, "jreg_upload_slots_free 500");
    has_line(&text, "jreg_damaged_records_replaced_total 4");
    has_line(&text, "jreg_store_clock_difference_seconds 1.5");
    has_line(&text, "jreg_upload_buffer_free_bytes 1024");
    has_line(&text, r#"jreg_budget_waiting{budget="upload_buffer"} 2"#);
    has_line(&text, r#"jreg_budget_waits_total{budget="upload_buffer",outcome="served"} 4"#);
    has_line(&text, r#"jreg_budget_waits_total{budget="upload_buffer",outcome="refused"} 3"#);
    has_line(&text, r#"jreg_cache_lookups_total{outcome="hit"} 7"#);
    has_line(&text, r#"jreg_cache_lookups_total{outcome="miss"} 3"#);
    has_line(&text, r#"jreg_http_requests_total{endpoint="blob_get",status="206"} 1"#);
    has_line(&text, r#"jreg_http_sent_bytes_total{endpoint="blob_get"} 512"#);
    let bucket = r#"jreg_http_request_duration_seconds_bucket{le="0.005",endpoint="blob_get"} 1"#;
    has_line(&text, &format!(r#"{bucket} # {{trace_id="{}"}} 0.003"#, "4b".repeat(16)));
    has_line(&metrics.render(MetricsForm::Text, &USAGE), bucket);
    has_line(&text, r#"jreg_store_requests_total{operation="get",outcome="not_found"} 1"#);
    has_line(&text, r#"jreg_store_request_duration_seconds_sum{operation="get"} 2.0"#);
    has_line(&text, r#"jreg_store_hedges_total{outcome="won"} 1"#);
    let version = env!("CARGO_PKG_VERSION");
    has_line(&text, &format!(r#"jreg_build_info{{version="{version}"}} 1"#));
    has_line(&text, "jreg_connections_refused_total 0");
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn the_page_on_metrics_names_every_family() {
    let page = include_str!("../../../../docs/metrics.md");
    let metrics = Metrics::new();
    metrics.set_folder(PathBuf::from("/"));
    for line in metrics.render(MetricsForm::OpenMetrics, &USAGE).lines() {
        let Some(family) = line.strip_prefix("# TYPE ") else { continue };
        let (name, kind) = family.split_once(' ').unwrap();
        let suffix = if kind == "counter" { "_total" } else { "" };
        let row = format!("\n| `{name}{suffix}` |");
        assert!(page.contains(&row), "no row of {name}{suffix}");
    }
}

#[test]
fn a_raised_gauge_falls_when_its_guard_goes() {
    let metrics = Metrics::new();
    let guard = GaugeGuard::new(&metrics.uploads);
    has_line(&metrics.render(MetricsForm::OpenMetrics, &USAGE), "jreg_uploads_in_progress 1");
    drop(guard);
    has_line(&metrics.render(MetricsForm::OpenMetrics, &USAGE), "jreg_uploads_in_progress 0");
}

/// The names of all samples.
fn samples() -> BTreeSet<String> {
    let metrics = Metrics::new();
    metrics.set_folder(PathBuf::from("/"));
    let mut names = BTreeSet::new();
    for line in metrics.render(MetricsForm::Text, &USAGE).lines() {
        let Some(family) = line.strip_prefix("# TYPE ") else { continue };
        let (name, kind) = family.split_once(' ').unwrap();
        names.insert(name.to_owned());
        if kind == "histogram" {
            names.extend(["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")));
        }
    }
    names
}

/// Whether a sample of this name can be in the text: a family without one is left out.
fn is_registered(name: &str) -> bool {
    let sources = [
        include_str!("../metrics.rs"),
        include_str!("events.rs"),
        include_str!("mirror.rs"),
        include_str!("pulls.rs"),
        include_str!("usage.rs"),
        include_str!("retention.rs"),
    ];
    let mut base = name.strip_prefix("jreg_").unwrap_or_default();
    for suffix in ["_bucket", "_count", "_sum", "_total"] {
        base = base.strip_suffix(suffix).unwrap_or(base);
    }
    let unitless = ["_seconds", "_bytes"].iter().find_map(|unit| base.strip_suffix(unit));
    let quoted = [base, unitless.unwrap_or(base)].map(|name| format!("\"{name}\""));
    sources.iter().any(|source| quoted.iter().any(|name| source.contains(name)))
}

/// The words of a text that look like metrics.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("jreg_") || word.starts_with("process_")).collect()
}

/// Names of crates and of fields that begin like metrics.
const OTHERS: [&str; 5] = ["jreg_registry", "jreg_oci", "jreg_storage", "jreg_http", "jreg_net"];

#[test]
fn pages_alerts_and_the_dashboard_name_only_metrics_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let samples = samples();
    let mut files: Vec<PathBuf> = ["alerts.yaml", "dashboard.json"]
        .map(|name| root.join("deploy/helm/jreg/files").join(name))
        .into();
    files.extend(["docs/metrics.md", "docs/runbook.md", "docs/s3.md"].map(|page| root.join(page)));
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let unknown: Vec<_> = named(&text)
            .into_iter()
            .filter(|name| !samples.contains(*name) && !is_registered(name))
            .filter(|name| !OTHERS.contains(name))
            // `jreg_store_(writable|...)` of a regular expression.
            .filter(|name| !name.ends_with('_'))
            .collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", file.display());
    }
}

#[test]
fn each_alert_has_a_section_of_the_runbook() {
    let alerts = include_str!("../../../../deploy/helm/jreg/files/alerts.yaml");
    let runbook = include_str!("../../../../docs/runbook.md");
    let anchors: BTreeSet<String> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|title| title.to_lowercase().replace(' ', "-"))
        .collect();
    let links = alerts.lines().filter_map(|line| line.split_once("runbook.md#"));
    let links: Vec<_> = links.map(|(_, anchor)| anchor.trim()).collect();
    assert!(links.len() > 10);
    for anchor in links {
        assert!(anchors.contains(anchor), "no section {anchor}");
    }
    for line in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(runbook.contains(&format!("`{line}`")), "the runbook does not name {line}");
    }
}

#[test]
fn prometheus_own_format_has_help_for_every_sample() {
    let metrics = Metrics::new();
    let text = metrics.render(MetricsForm::Text, &USAGE);
    assert!(!text.contains("# UNIT") && !text.contains("# EOF"), "{text}");
    assert!(text.contains("# TYPE jreg_accept_errors_total counter\n"), "{text}");
    assert!(text.contains("# HELP jreg_accept_errors_total "), "{text}");
    let helped: BTreeSet<&str> =
        text.lines().filter_map(|l| l.strip_prefix("# HELP ")?.split(' ').next()).collect();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        assert!(helped.contains(name) || helped.contains(base.unwrap_or(name)), "{line}");
    }
}
