//! What a run measured, as it is kept in a file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;

/// The version of the format of a file; another one is refused.
pub const FORMAT: u32 = 2;

/// A run: one registry, some workloads, one round or several.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BenchRun {
    /// [`FORMAT`].
    pub format: u32,
    /// What the registry is called in tables.
    pub label: String,
    /// Where it is.
    pub url: String,
    /// What it says that it is (the header `BenchTarget`).
    pub server: Option<String>,
    /// What measured it.
    pub client: String,
    /// When it began, in seconds since 1970.
    pub began_unix_s: u64,
    /// What all content of the run follows from.
    pub seed: u64,
    /// How many operations ran at a time in workloads that do not move bulk.
    pub concurrency: usize,
    /// How long each workload was to run, in seconds, unless it was counted.
    pub duration_s: f64,
    /// How many operations each workload was to do, unless it ran for a time.
    pub count: Option<u64>,
    /// Tags in the repository of `tag-page`.
    pub tags: usize,
    /// Repositories that `catalog` pushed.
    pub repositories: usize,
    /// What was measured, in the order of time.
    pub results: Vec<WorkloadResult>,
}

/// What a workload came to, in one round.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadResult {
    /// Its name.
    pub workload: String,
    /// Which round it was, from 1.
    pub round: u32,
    /// How many operations ran at a time.
    pub concurrency: usize,
    /// Operations that were done, without those that failed.
    pub operations: u64,
    /// From the beginning of the first operation to the end of the last.
    pub seconds: f64,
    /// Requests that were sent.
    pub requests: u64,
    /// Connections that were made because the server had closed one.
    pub reconnects: u64,
    /// Bytes of bodies that came with a 2xx.
    pub received_bytes: u64,
    /// Bytes of bodies that were accepted with a 2xx.
    pub sent_bytes: u64,
    /// Operations that failed, by what failed.
    pub errors: BTreeMap<String, u64>,
    /// Why it was not measured: the registry does not have what is optional.
    pub unsupported: Option<String>,
    /// How often the command of `--gc-command` ran meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collections: Option<u64>,
    /// How long operations took.
    pub latency: Latency,
    /// What the server's process ran, in seconds (`--pid`).
    pub server_cpu_seconds: Option<f64>,
    /// The most memory that the server's process had at once (`--pid`).
    pub server_peak_bytes: Option<u64>,
    /// What this client ran, in seconds; near `seconds`, it is the client that was measured.
    pub client_cpu_seconds: Option<f64>,
}

/// How long operations took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// The mean.
    pub mean_ms: f64,
    /// The median.
    pub p50_ms: f64,
    /// What 95 % do not exceed.
    pub p95_ms: f64,
    /// What 99 % do not exceed.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl From<&Histogram> for Latency {
    fn from(histogram: &Histogram) -> Self {
        let ms = |nanoseconds: u64| nanoseconds as f64 / 1e6;
        Self {
            mean_ms: ms(histogram.mean()),
            p50_ms: ms(histogram.permille(500)),
            p95_ms: ms(histogram.permille(950)),
            p99_ms: ms(histogram.permille(990)),
            max_ms: ms(histogram.max()),
        }
    }
}

impl WorkloadResult {
    /// Operations a second; nothing if none was done.
    pub fn rate(&self) -> Option<f64> {
        self.per_second(self.operations as f64)
    }

    /// Megabytes (10⁶) of bodies a second, in both directions.
    pub fn megabytes_per_second(&self) -> Option<f64> {
        self.per_second(self.bytes() / 1e6)
    }

    /// Microseconds of the server's processor that an operation takes.
    pub fn server_cpu_us_per_operation(&self) -> Option<f64> {
        let cpu = self.server_cpu_seconds?;
        (self.operations > 0).then(|| cpu * 1e6 / self.operations as f64)
    }

    /// Seconds of the server's processor that a gigabyte (10⁹) of bodies takes.
    pub fn server_cpu_s_per_gigabyte(&self) -> Option<f64> {
        let cpu = self.server_cpu_seconds?;
        (self.operations > 0 && self.bytes() > 0.0).then(|| cpu * 1e9 / self.bytes())
    }

    /// How busy the client was, 1 for one whole core.
    pub fn client_share(&self) -> Option<f64> {
        self.per_second(self.client_cpu_seconds?)
    }

    /// Seconds of the client's processor that a gigabyte (10⁹) of bodies takes.
    pub fn client_cpu_s_per_gigabyte(&self) -> Option<f64> {
        let cpu = self.client_cpu_seconds?;
        (self.operations > 0 && self.bytes() > 0.0).then(|| cpu * 1e9 / self.bytes())
    }

    /// How many operations failed.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    fn bytes(&self) -> f64 {
        (self.received_bytes + self.sent_bytes) as f64
    }

    fn per_second(&self, what: f64) -> Option<f64> {
        (self.operations > 0 && self.seconds > 0.0).then(|| what / self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_follow_from_what_was_counted() {
        let measured = WorkloadResult {
            operations: 200,
            seconds: 2.0,
            received_bytes: 3_000_000_000,
            sent_bytes: 1_000_000_000,
            server_cpu_seconds: Some(1.0),
            client_cpu_seconds: Some(0.5),
            ..WorkloadResult::default()
        };
        assert_eq!(measured.rate(), Some(100.0));
        assert_eq!(measured.megabytes_per_second(), Some(2000.0));
        assert_eq!(measured.server_cpu_us_per_operation(), Some(5000.0));
        assert_eq!(measured.server_cpu_s_per_gigabyte(), Some(0.25));
        assert_eq!(measured.client_share(), Some(0.25));
        assert_eq!(measured.client_cpu_s_per_gigabyte(), Some(0.125));
    }

    #[test]
    fn nothing_done_has_no_figures() {
        let none = WorkloadResult {
            seconds: 1.0,
            server_cpu_seconds: Some(1.0),
            ..WorkloadResult::default()
        };
        assert_eq!(none.rate(), None);
        assert_eq!(none.megabytes_per_second(), None);
        assert_eq!(none.server_cpu_us_per_operation(), None);
        assert_eq!(none.server_cpu_s_per_gigabyte(), None);
    }

    #[test]
    fn latencies_are_in_milliseconds() {
        let mut histogram = Histogram::default();
        histogram.record(2_000_000);
        let Latency { mean_ms, p50_ms, p99_ms, max_ms, .. } = Latency::from(&histogram);
        assert_eq!([mean_ms, p50_ms, p99_ms, max_ms], [2.0; 4]);
    }
}
