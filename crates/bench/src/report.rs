//! Runs held against each other: medians over all their rounds, and the best peer of each row.

use std::collections::BTreeMap;

use crate::measured::{BenchRun, WorkloadResult};
use crate::text::is_client_bound;
use crate::workload::{WORKLOADS, Workload};

/// What the labels of runs mean.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReportLabels {
    /// Prefix of the labels that are compared with the best of the others; none if it is empty.
    pub(crate) subject: String,
    /// The registries that sync blobs.
    pub(crate) syncing: Vec<String>,
    /// The runs that show how fast the client can send.
    pub(crate) sink: String,
}

/// Registries side by side.
#[derive(Debug)]
pub(crate) struct BenchComparison {
    pub(crate) registries: Vec<RegistryRuns>,
    pub(crate) rows: Vec<ReportRow>,
    /// What the client can send at most, for each row in which that was measured.
    pub(crate) sink: Vec<(usize, ReportCell)>,
}

/// A registry: all runs with its label.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct RegistryRuns {
    pub(crate) label: String,
    /// Whether it is held against the best of the others.
    pub(crate) is_subject: bool,
    /// Whether it syncs blobs.
    pub(crate) syncs: bool,
}

/// A workload at one concurrency, with a cell for each registry.
#[derive(Debug)]
pub(crate) struct ReportRow {
    pub(crate) workload: String,
    /// How many operations ran at a time; none for what spans several rows.
    pub(crate) concurrency: Option<usize>,
    pub(crate) is_bulk: bool,
    pub(crate) is_bulk_push: bool,
    pub(crate) cells: Vec<ReportCell>,
}

/// What a registry came to in a workload: medians over its rounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ReportCell {
    pub(crate) rounds: usize,
    pub(crate) unsupported: bool,
    pub(crate) operations: u64,
    /// Operations that failed, by what failed. With any it is no baseline.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) client_bound: bool,
    pub(crate) rate: Option<f64>,
    pub(crate) megabytes_per_second: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) cpu_us_per_operation: Option<f64>,
    pub(crate) cpu_s_per_gigabyte: Option<f64>,
    pub(crate) client_cpu_s_per_gigabyte: Option<f64>,
    pub(crate) peak_megabytes: Option<f64>,
}

impl BenchComparison {
    /// Of these runs.
    pub(crate) fn of(runs: &[BenchRun], labels: &ReportLabels) -> Self {
        let registries = registries(runs, labels);
        let mut comparison = Self { registries, rows: Vec::new(), sink: Vec::new() };
        for workload in WORKLOADS {
            for concurrency in levels(runs, workload) {
                let of =
                    |label: &str| ReportCell::of(&results(runs, label, workload.name, concurrency));
                let cells: Vec<_> = comparison.registries.iter().map(|r| of(&r.label)).collect();
                let sink = of(&labels.sink);
                if sink.rounds > 0 {
                    comparison.sink.push((comparison.rows.len(), sink));
                }
                comparison.rows.push(ReportRow {
                    workload: workload.name.to_owned(),
                    concurrency: Some(concurrency),
                    is_bulk: workload.kind.is_bulk(),
                    is_bulk_push: workload.kind.is_bulk_push(),
                    cells,
                });
            }
        }
        comparison
    }

    /// The most memory of each registry in any workload.
    pub(crate) fn peak(&self) -> ReportRow {
        let cells = (0..self.registries.len()).map(|number| {
            let cells = self.rows.iter().filter_map(|row| row.cells.get(number));
            let peak = cells.filter_map(|cell| cell.peak_megabytes).max_by(f64::total_cmp);
            ReportCell { peak_megabytes: peak, ..ReportCell::default() }
        });
        ReportRow {
            workload: "all workloads".to_owned(),
            concurrency: None,
            is_bulk: false,
            is_bulk_push: false,
            cells: cells.collect(),
        }
    }

    /// The registry with the best value in a row, of those that the filter takes, and its value. One
    /// that responded with errors is no baseline.
    pub(crate) fn best<'a>(
        &'a self,
        row: &ReportRow,
        measure: &ReportMeasure,
        filter: impl Fn(&RegistryRuns) -> bool,
    ) -> Option<(&'a str, f64)> {
        let cells = self.registries.iter().zip(&row.cells);
        let taken = cells.filter(|(registry, cell)| filter(registry) && cell.failed() == 0);
        let values = taken.filter_map(|(registry, cell)| {
            Some((registry.label.as_str(), (measure.value)(row, cell)?))
        });
        // Of equal ones the first, so that no subject is ahead of a peer that is as good.
        values.reduce(|best, other| {
            let better = if measure.more_is_better { other.1 > best.1 } else { other.1 < best.1 };
            if better { other } else { best }
        })
    }
}

/// The registries of the runs: peers first, so that what is held against them stands together.
fn registries(runs: &[BenchRun], labels: &ReportLabels) -> Vec<RegistryRuns> {
    let mut registries: Vec<RegistryRuns> = Vec::new();
    for BenchRun { label, .. } in runs.iter().filter(|run| run.label != labels.sink) {
        if registries.iter().all(|registry| registry.label != *label) {
            let is_subject = !labels.subject.is_empty() && label.starts_with(&labels.subject);
            let syncs = labels.syncing.contains(label);
            registries.push(RegistryRuns { label: label.clone(), is_subject, syncs });
        }
    }
    registries.sort_by_key(|registry| registry.is_subject);
    registries
}

/// The concurrencies at which a workload was measured, in order.
fn levels(runs: &[BenchRun], workload: &Workload) -> Vec<usize> {
    let results = runs.iter().flat_map(|run| &run.results);
    let measured = results.filter(|result| result.workload == workload.name);
    let mut levels: Vec<_> = measured.map(|result| result.concurrency).collect();
    levels.sort_unstable();
    levels.dedup();
    levels
}

fn results<'a>(
    runs: &'a [BenchRun],
    label: &str,
    workload: &str,
    concurrency: usize,
) -> Vec<&'a WorkloadResult> {
    let results = runs.iter().filter(|run| run.label == label).flat_map(|run| &run.results);
    let is_of_row =
        |result: &&WorkloadResult| result.workload == workload && result.concurrency == concurrency;
    results.filter(is_of_row).collect()
}

impl ReportCell {
    fn of(rounds: &[&WorkloadResult]) -> Self {
        let median_of = |value: &dyn Fn(&WorkloadResult) -> Option<f64>| {
            median(rounds.iter().filter_map(|measured| value(measured)).collect())
        };
        let done = |measured: &WorkloadResult| measured.operations > 0;
        let mut errors = BTreeMap::new();
        for (name, count) in rounds.iter().flat_map(|measured| &measured.errors) {
            *errors.entry(name.clone()).or_default() += count;
        }
        Self {
            rounds: rounds.len(),
            unsupported: rounds.iter().any(|measured| measured.unsupported.is_some()),
            operations: rounds.iter().map(|measured| measured.operations).sum(),
            errors,
            client_bound: rounds.iter().any(|measured| is_client_bound(measured)),
            rate: median_of(&WorkloadResult::rate),
            megabytes_per_second: median_of(&WorkloadResult::megabytes_per_second),
            p99_ms: median_of(&|measured| done(measured).then_some(measured.latency.p99_ms)),
            cpu_us_per_operation: median_of(&WorkloadResult::server_cpu_us_per_operation),
            cpu_s_per_gigabyte: median_of(&WorkloadResult::server_cpu_s_per_gigabyte),
            client_cpu_s_per_gigabyte: median_of(&WorkloadResult::client_cpu_s_per_gigabyte),
            peak_megabytes: median_of(&|m| m.server_peak_bytes.map(|bytes| bytes as f64 / 1e6)),
        }
    }

    /// How many operations failed.
    pub(crate) fn failed(&self) -> u64 {
        self.errors.values().sum()
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

    /// Its workload, and the concurrency where that is more than one row.
    pub(crate) fn title(&self, rows: &[Self]) -> String {
        let same = rows.iter().filter(|row| row.workload == self.workload).count();
        match self.concurrency {
            Some(concurrency) if same > 1 => format!("{} ×{concurrency}", self.workload),
            _ => self.workload.clone(),
        }
    }

    fn cost(&self, cell: &ReportCell) -> Option<f64> {
        if self.is_bulk { cell.cpu_s_per_gigabyte } else { cell.cpu_us_per_operation }
    }

    fn cost_unit(&self) -> &'static str {
        if self.is_bulk { "s/GB" } else { "µs" }
    }
}

/// A figure by which registries are compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReportMeasure {
    pub(crate) title: &'static str,
    pub(crate) about: &'static str,
    pub(crate) unit: fn(&ReportRow) -> &'static str,
    pub(crate) value: fn(&ReportRow, &ReportCell) -> Option<f64>,
    pub(crate) more_is_better: bool,
}

impl ReportMeasure {
    /// Whether a ratio to the best peer, as it is printed, is worse than that peer.
    pub(crate) fn is_behind(&self, ratio: f64) -> bool {
        if self.more_is_better { ratio < 0.995 } else { ratio >= 1.005 }
    }
}

pub(crate) const SPEED: ReportMeasure = ReportMeasure {
    title: "Speed",
    about: "Operations per second, or megabytes (10⁶ bytes) per second; more is better.",
    unit: ReportRow::speed_unit,
    value: ReportRow::speed,
    more_is_better: true,
};

pub(crate) const LATENCY: ReportMeasure = ReportMeasure {
    title: "Latency",
    about: "99th percentile in milliseconds; less is better.",
    unit: |_| "ms",
    value: |_, cell| cell.p99_ms,
    more_is_better: false,
};

pub(crate) const COST: ReportMeasure = ReportMeasure {
    title: "Processor time of the server",
    about: "Microseconds per operation, or seconds per gigabyte; less is better.",
    unit: ReportRow::cost_unit,
    value: ReportRow::cost,
    more_is_better: false,
};

pub(crate) const MEMORY: ReportMeasure = ReportMeasure {
    title: "Memory of the server",
    about: "Megabytes at the peak, with what the process kept of the workloads before; less is better.",
    unit: |_| "MB",
    value: |_, cell| cell.peak_megabytes,
    more_is_better: false,
};

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
