//! [`Recording`]: begins and ends measuring, one at a time.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::WorkName;
use crate::tree::{self, process_time_ns};

static RUNS: AtomicBool = AtomicBool::new(false);
static LAST: AtomicU64 = AtomicU64::new(0);

/// Why no recording was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordingError {
    #[error("another recording runs")]
    Busy,
}

/// Measures until it is finished or dropped.
#[derive(Debug)]
pub struct Recording {
    began: Instant,
    began_at: SystemTime,
    process_ns: u64,
    threads: BTreeMap<String, u64>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkProfile {
    pub began_at: SystemTime,
    pub duration: Duration,
    /// Processor time of the process.
    pub process: Duration,
    /// The most expensive first.
    pub work: Vec<ProfiledWork>,
    /// By the names of threads, the most expensive first. Those that ended meanwhile are missing.
    pub threads: Vec<ThreadTime>,
}

/// A kind of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfiledWork {
    /// From the outermost work to this.
    pub names: Vec<WorkName>,
    /// Number of polls and calls.
    pub runs: u64,
    /// Processor time without that of the work within it.
    pub own: Duration,
}

/// Processor time of the threads of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadTime {
    pub name: String,
    pub time: Duration,
}

impl Recording {
    /// Begins to measure.
    ///
    /// # Errors
    ///
    /// [`RecordingError::Busy`] while another recording runs.
    pub fn begin() -> Result<Self, RecordingError> {
        if RUNS.swap(true, Ordering::AcqRel) {
            return Err(RecordingError::Busy);
        }
        let (began, began_at) = (Instant::now(), SystemTime::now());
        let recording =
            Self { began, began_at, process_ns: process_time_ns(), threads: thread_times() };
        tree::begin(LAST.fetch_add(1, Ordering::Relaxed) + 1);
        Ok(recording)
    }

    /// Ends measuring.
    pub fn finish(self) -> WorkProfile {
        let mut work: BTreeMap<Vec<WorkName>, (u64, u64)> = BTreeMap::new();
        for time in tree::end() {
            let (runs, own_ns) = work.entry(time.names).or_default();
            *runs += time.runs;
            *own_ns += time.own_ns;
        }
        let work = work.into_iter().map(|(names, (runs, own_ns))| ProfiledWork {
            names,
            runs,
            own: Duration::from_nanos(own_ns),
        });
        let mut work: Vec<_> = work.collect();
        work.sort_by_key(|work| std::cmp::Reverse(work.own));
        WorkProfile {
            began_at: self.began_at,
            duration: self.began.elapsed(),
            process: Duration::from_nanos(process_time_ns().saturating_sub(self.process_ns)),
            work,
            threads: grown(&self.threads, &thread_times()),
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Empty if it was finished.
        drop(tree::end());
        RUNS.store(false, Ordering::Release);
    }
}

impl WorkProfile {
    /// Processor time outside marked work.
    pub fn other(&self) -> Duration {
        self.process.saturating_sub(self.work.iter().map(|work| work.own).sum())
    }
}

/// By what the times of threads have grown.
fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<ThreadTime> {
    let grown = after.iter().map(|(name, ns)| {
        let before = before.get(name).copied().unwrap_or_default();
        ThreadTime { name: name.clone(), time: Duration::from_nanos(ns.saturating_sub(before)) }
    });
    let mut grown: Vec<_> = grown.filter(|thread| !thread.time.is_zero()).collect();
    grown.sort_by_key(|thread| std::cmp::Reverse(thread.time));
    grown
}

/// Processor time of the living threads by their names; empty where the system has no /proc.
fn thread_times() -> BTreeMap<String, u64> {
    let mut times = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).ok();
        // A thread may end meanwhile.
        let Some((name, stat)) = read("comm").zip(read("schedstat")) else { continue };
        let ns = stat.split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
        *times.entry(name.trim_end().to_owned()).or_default() += ns.unwrap_or_default();
    }
    times
}
