//! Runs held against each other: medians over all their rounds, and ratios to the best peer.

use std::fmt::Write;

use crate::measured::{BenchRun, WorkloadResult};
use crate::text::{figure, is_bulk, is_client_bound};
use crate::workload::WORKLOADS;

/// Registries side by side.
#[derive(Debug)]
pub(crate) struct BenchComparison {
    pub(crate) registries: Vec<RegistryRuns>,
    pub(crate) rows: Vec<ReportRow>,
}

/// A registry: all runs with its label.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct RegistryRuns {
    pub(crate) label: String,
    /// Whether it is held against the best of the others.
    pub(crate) is_subject: bool,
}

/// A workload, with a cell for each registry.
#[derive(Debug)]
pub(crate) struct ReportRow {
    pub(crate) workload: String,
    pub(crate) is_bulk: bool,
    pub(crate) cells: Vec<ReportCell>,
}

/// What a registry came to in a workload: medians over its rounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ReportCell {
    pub(crate) rounds: usize,
    pub(crate) unsupported: bool,
    pub(crate) failed: u64,
    pub(crate) client_bound: bool,
    pub(crate) rate: Option<f64>,
    pub(crate) megabytes_per_second: Option<f64>,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) cpu_us_per_operation: Option<f64>,
    pub(crate) cpu_s_per_gigabyte: Option<f64>,
    pub(crate) peak_megabytes: Option<f64>,
}

impl BenchComparison {
    /// Of these runs; those whose label begins with `subject` are held against the others.
    pub(crate) fn of(runs: &[BenchRun], subject: &str) -> Self {
        let mut registries: Vec<RegistryRuns> = Vec::new();
        for BenchRun { label, .. } in runs {
            if registries.iter().all(|registry| registry.label != *label) {
                let is_subject = !subject.is_empty() && label.starts_with(subject);
                registries.push(RegistryRuns { label: label.clone(), is_subject });
            }
        }
        // Peers first, so that what is held against them stands together.
        registries.sort_by_key(|registry| registry.is_subject);
        let of = |label: &str, workload: &str| -> Vec<_> {
            let results = runs.iter().filter(|run| run.label == label).flat_map(|run| &run.results);
            results.filter(|measured| measured.workload == workload).collect()
        };
        let row = |workload: &str| ReportRow {
            workload: workload.to_owned(),
            is_bulk: is_bulk(workload),
            cells: registries.iter().map(|r| ReportCell::of(&of(&r.label, workload))).collect(),
        };
        let rows = WORKLOADS.iter().map(|workload| row(workload.name));
        let rows = rows.filter(|row| row.cells.iter().any(|cell| cell.rounds > 0)).collect();
        Self { registries, rows }
    }
}

impl BenchComparison {
    /// The most memory of each registry in any workload.
    fn peak(&self) -> ReportRow {
        let cells = (0..self.registries.len()).map(|number| {
            let cells = self.rows.iter().filter_map(|row| row.cells.get(number));
            let peak = cells.filter_map(|cell| cell.peak_megabytes).max_by(f64::total_cmp);
            ReportCell { peak_megabytes: peak, ..ReportCell::default() }
        });
        ReportRow { workload: "all workloads".to_owned(), is_bulk: false, cells: cells.collect() }
    }
}

impl ReportCell {
    fn of(rounds: &[&WorkloadResult]) -> Self {
        let median_of = |value: &dyn Fn(&WorkloadResult) -> Option<f64>| {
            median(rounds.iter().filter_map(|measured| value(measured)).collect())
        };
        let done = |measured: &WorkloadResult| measured.operations > 0;
        Self {
            rounds: rounds.len(),
            unsupported: rounds.iter().any(|measured| measured.unsupported.is_some()),
            failed: rounds.iter().map(|measured| measured.failed()).sum(),
            client_bound: rounds.iter().any(|measured| is_client_bound(measured)),
            rate: median_of(&WorkloadResult::rate),
            megabytes_per_second: median_of(&WorkloadResult::megabytes_per_second),
            p50_ms: median_of(&|measured| done(measured).then_some(measured.latency.p50_ms)),
            p99_ms: median_of(&|measured| done(measured).then_some(measured.latency.p99_ms)),
            cpu_us_per_operation: median_of(&WorkloadResult::server_cpu_us_per_operation),
            cpu_s_per_gigabyte: median_of(&WorkloadResult::server_cpu_s_per_gigabyte),
            peak_megabytes: median_of(&|m| m.server_peak_bytes.map(|bytes| bytes as f64 / 1e6)),
        }
    }
}

/// The value in the middle, or between the two that are; nothing if there is none.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values.get(middle).copied(),
        _ => Some((values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0),
    }
}

impl ReportRow {
    /// What counts in this workload, and its unit.
    pub(crate) fn speed(&self, cell: &ReportCell) -> Option<f64> {
        if self.is_bulk { cell.megabytes_per_second } else { cell.rate }
    }

    pub(crate) fn speed_unit(&self) -> &'static str {
        if self.is_bulk { "MB/s" } else { "/s" }
    }

    fn cost(&self, cell: &ReportCell) -> Option<f64> {
        if self.is_bulk { cell.cpu_s_per_gigabyte } else { cell.cpu_us_per_operation }
    }

    fn cost_unit(&self) -> &'static str {
        if self.is_bulk { "s/GB" } else { "µs" }
    }
}

/// A table of the comparison.
struct ReportTable {
    title: &'static str,
    about: &'static str,
    unit: fn(&ReportRow) -> &'static str,
    value: fn(&ReportRow, &ReportCell) -> Option<f64>,
    more_is_better: bool,
    /// Whether it ends with the peak through all workloads.
    has_peak_row: bool,
}

const TABLES: &[ReportTable] = &[
    ReportTable {
        title: "Speed",
        about: "Operations per second, or megabytes (10⁶ bytes) per second; more is better.",
        unit: ReportRow::speed_unit,
        value: ReportRow::speed,
        more_is_better: true,
        has_peak_row: false,
    },
    ReportTable {
        title: "Latency",
        about: "99th percentile in milliseconds; less is better.",
        unit: |_| "ms",
        value: |_, cell| cell.p99_ms,
        more_is_better: false,
        has_peak_row: false,
    },
    ReportTable {
        title: "Processor time of the server",
        about: "Microseconds per operation, or seconds per gigabyte; less is better.",
        unit: ReportRow::cost_unit,
        value: ReportRow::cost,
        more_is_better: false,
        has_peak_row: false,
    },
    ReportTable {
        title: "Memory of the server",
        about: "Megabytes at the peak; less is better.",
        unit: |_| "MB",
        value: |_, cell| cell.peak_megabytes,
        more_is_better: false,
        has_peak_row: true,
    },
];

/// The comparison as Markdown.
pub(crate) fn markdown(comparison: &BenchComparison) -> String {
    let mut text = String::new();
    for table in TABLES {
        let filled =
            |row: &ReportRow| row.cells.iter().any(|cell| (table.value)(row, cell).is_some());
        if comparison.rows.iter().any(filled) {
            write_table(&mut text, comparison, table);
        }
    }
    let cells = || comparison.rows.iter().flat_map(|row| &row.cells);
    if cells().any(|cell| cell.client_bound) {
        text.push_str("¹ The client was busy all the time: the server can do more than this.\n");
    }
    if cells().any(|cell| cell.failed > 0) {
        text.push_str("² Some operations failed, and count for nothing here.\n");
    }
    text
}

fn write_table(text: &mut String, comparison: &BenchComparison, table: &ReportTable) {
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(text, "### {}\n\n{}", table.title, table.about);
    let are = |subject: bool| comparison.registries.iter().any(|r| r.is_subject == subject);
    if are(true) && are(false) {
        text.push_str("In brackets: the ratio to the best peer.\n");
    }
    text.push_str("\n| workload | |");
    for registry in &comparison.registries {
        let _ = write!(text, " {} |", registry.label);
    }
    let _ = writeln!(text, "\n| --- | --- |{}", " ---: |".repeat(comparison.registries.len()));
    for row in &comparison.rows {
        write_row(text, comparison, table, row);
    }
    if table.has_peak_row {
        write_row(text, comparison, table, &comparison.peak());
    }
    text.push('\n');
}

fn write_row(
    text: &mut String,
    comparison: &BenchComparison,
    table: &ReportTable,
    row: &ReportRow,
) {
    let _ = write!(text, "| {} | {} |", row.workload, (table.unit)(row));
    let best = best_peer(comparison, table, row);
    for (registry, cell) in comparison.registries.iter().zip(&row.cells) {
        let value = (table.value)(row, cell);
        if value.is_none() && cell.unsupported {
            text.push_str(" no |");
            continue;
        }
        let _ = write!(text, " {}", figure(value));
        if value.is_some() && cell.client_bound && table.more_is_better {
            text.push_str(" ¹");
        }
        if cell.failed > 0 {
            text.push_str(" ²");
        }
        if let (true, Some(value), Some(best)) = (registry.is_subject, value, best)
            && best > 0.0
        {
            let _ = write!(text, " ({:.2}×)", value / best);
        }
        text.push_str(" |");
    }
    text.push('\n');
}

fn best_peer(comparison: &BenchComparison, table: &ReportTable, row: &ReportRow) -> Option<f64> {
    let peers = comparison.registries.iter().zip(&row.cells).filter(|(r, _)| !r.is_subject);
    let values = peers.filter_map(|(_, cell)| (table.value)(row, cell));
    match table.more_is_better {
        true => values.max_by(f64::total_cmp),
        false => values.min_by(f64::total_cmp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_middle_ones() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 3.0, 5.0]), Some(4.0));
    }
}
