//! Tables for people.

use std::fmt::Write;

use crate::measured::{BenchRun, WorkloadResult};
use crate::workload::WORKLOADS;

/// From here on the client was busy all the time, and what was measured is the client.
const CLIENT_BOUND_SHARE: f64 = 0.95;

/// A table whose columns are as wide as they must be; the first is flush left, the others right.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (number, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a string cannot fail.
            let _ = match number {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What a run measured.
pub(crate) fn table(run: &BenchRun) -> String {
    let watched = run.results.iter().any(|measured| measured.server_cpu_seconds.is_some());
    let mut head = vec![
        "workload",
        "clients",
        "operations",
        "rate/s",
        "MB/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "max ms",
    ];
    if watched {
        head.extend(["CPU µs/op", "CPU s/GB", "peak MB"]);
    }
    head.extend(["client", "errors"]);
    let mut rows = vec![head.into_iter().map(str::to_owned).collect()];
    rows.extend(run.results.iter().map(|measured| row(run, measured, watched)));
    let mut text = aligned(&rows);
    text.push_str(&failures(run));
    if run.results.iter().any(is_client_bound) {
        text.push_str(
            "\nWhere the client was busy all the time (!), the server can do more than this.\n",
        );
    }
    text
}

fn row(run: &BenchRun, measured: &WorkloadResult, watched: bool) -> Vec<String> {
    let name = match run.results.iter().any(|measured| measured.round > 1) {
        true => format!("{} {}", measured.workload, measured.round),
        false => measured.workload.clone(),
    };
    if let Some(why) = &measured.unsupported {
        return vec![name, format!("not supported ({why})")];
    }
    let latency = &measured.latency;
    let (clients, operations) = (measured.concurrency.to_string(), measured.operations.to_string());
    let mut row = vec![name, clients, operations, figure(measured.rate())];
    row.push(figure(measured.megabytes_per_second()));
    row.extend([latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.max_ms].map(milliseconds));
    if watched {
        row.push(figure(measured.server_cpu_us_per_operation()));
        row.push(figure(
            measured.server_cpu_s_per_gigabyte().filter(|_| is_bulk(&measured.workload)),
        ));
        row.push(figure(measured.server_peak_bytes.map(|bytes| bytes as f64 / 1e6)));
    }
    let share = measured.client_share().map(|share| format!("{:.0} %", share * 100.0));
    let mark = if is_client_bound(measured) { "!" } else { "" };
    row.push(format!("{}{mark}", share.unwrap_or_default()));
    row.push(measured.failed().to_string());
    row
}

fn failures(run: &BenchRun) -> String {
    let mut text = String::new();
    for measured in run.results.iter().filter(|measured| measured.failed() > 0) {
        let counts = measured.errors.iter().map(|(name, count)| format!("{count} × {name}"));
        let counts: Vec<_> = counts.collect();
        // Writing to a string cannot fail.
        let WorkloadResult { workload, concurrency, .. } = measured;
        let _ = write!(text, "\n{workload} ×{concurrency}: failed: {}", counts.join(", "));
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// What took less says nothing of how busy the client was: processor time is counted in steps.
const CLIENT_BOUND_SECONDS_MIN: f64 = 0.2;

/// Whether it was the client that was measured.
pub(crate) fn is_client_bound(measured: &WorkloadResult) -> bool {
    measured.seconds >= CLIENT_BOUND_SECONDS_MIN
        && measured.client_share().is_some_and(|share| share >= CLIENT_BOUND_SHARE)
}

/// Whether bytes a second are what counts in a workload.
pub(crate) fn is_bulk(name: &str) -> bool {
    WORKLOADS.iter().any(|workload| workload.name == name && workload.kind.is_bulk())
}

/// What the workloads are.
pub(crate) fn workloads() -> String {
    let row = |(name, about): (&str, &str)| format!("{name:<22}{about}\n");
    WORKLOADS.iter().map(|workload| row((workload.name, workload.about))).collect()
}

/// A figure with as many digits as say something; nothing if there is none.
pub(crate) fn figure(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.abs() >= 100.0 => thousands(&format!("{value:.0}")),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

fn milliseconds(value: f64) -> String {
    figure(Some(value))
}

/// Commas after each three digits.
fn thousands(digits: &str) -> String {
    let mut text = String::new();
    let len = digits.len();
    for (number, digit) in digits.chars().enumerate() {
        if number > 0 && (len - number).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_or_all_of_a_whole_number() {
        let shown =
            [0.034, 9.99, 12.34, 100.4, 25_990.0, 1_234_567.0].map(|value| figure(Some(value)));
        assert_eq!(shown, ["0.03", "9.99", "12.3", "100", "25,990", "1,234,567"]);
        assert_eq!(figure(None), "-");
    }

    #[test]
    fn a_client_is_bound_where_it_was_busy_for_long_enough_to_tell() {
        let bound = |seconds: f64, busy: f64| {
            let client_cpu_seconds = Some(seconds * busy);
            is_client_bound(&WorkloadResult {
                operations: 1,
                seconds,
                client_cpu_seconds,
                ..WorkloadResult::default()
            })
        };
        assert!(bound(1.0, 0.96) && !bound(1.0, 0.94));
        assert!(!bound(0.01, 2.0));
        assert!(!is_client_bound(&WorkloadResult {
            operations: 1,
            seconds: 1.0,
            ..WorkloadResult::default()
        }));
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text =
            aligned(&[row(["a", "long", "c"]), row(["long", "b", ""]), vec!["x".to_owned()]]);
        assert_eq!(text, "a     long  c\nlong     b\nx\n");
    }
}
