//! What a process of this machine takes: processor time, and memory at its peak. Linux only.

use std::fs;
use std::io;

use thiserror::Error;

/// A process, by its id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WatchedProcess {
    pid: u32,
}

/// Why a process cannot be watched.
#[derive(Debug, Error)]
pub enum WatchError {
    /// Not Linux.
    #[error("--pid reads /proc, which only Linux has")]
    NoProc,
    /// No such process, or it is another process's.
    #[error("cannot read /proc/{pid}/{file}")]
    Unreadable {
        /// Whose.
        pid: u32,
        /// Which file.
        file: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not what proc(5) says.
    #[error("/proc/{pid}/{file} is not what it should be")]
    Unexpected {
        /// Whose.
        pid: u32,
        /// Which file.
        file: &'static str,
    },
}

/// The unit of processor times in /proc: a hundredth of a second on every architecture, whatever
/// the kernel counts in itself (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

impl WatchedProcess {
    /// Fails if it cannot be watched.
    pub(crate) fn new(pid: u32) -> Result<Self, WatchError> {
        if !cfg!(target_os = "linux") {
            return Err(WatchError::NoProc);
        }
        let watched = Self { pid };
        watched.cpu_seconds()?;
        watched.peak_bytes()?;
        Ok(watched)
    }

    /// This process itself, where it can be watched.
    pub(crate) fn own() -> Option<Self> {
        Self::new(std::process::id()).ok()
    }

    /// How long it ran so far, all threads together, also those that have ended.
    pub(crate) fn cpu_seconds(self) -> Result<f64, WatchError> {
        let text = self.read("stat")?;
        cpu_ticks(&text)
            .map(|ticks| ticks as f64 / TICKS_PER_SECOND)
            .ok_or(WatchError::Unexpected { pid: self.pid, file: "stat" })
    }

    /// How much of it was in memory at once, since it began or since
    /// [`forget_peak`](Self::forget_peak).
    pub(crate) fn peak_bytes(self) -> Result<u64, WatchError> {
        let text = self.read("status")?;
        peak_bytes(&text).ok_or(WatchError::Unexpected { pid: self.pid, file: "status" })
    }

    /// Has the peak counted from now on. Another process's process is left as it is: its peak is
    /// then that of its life.
    pub(crate) fn forget_peak(self) {
        let _ = fs::write(format!("/proc/{}/clear_refs", self.pid), "5");
    }

    fn read(self, file: &'static str) -> Result<String, WatchError> {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid))
            .map_err(|source| WatchError::Unreadable { pid: self.pid, file, source })
    }
}

/// User and system time in /proc/PID/stat: the 12th and 13th field after the name, which may hold
/// anything, also brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

fn peak_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b) 9) S 1 7 7 0 -1 4194560 107 0 0 0 12 30 0 0 20 0 1 0 100 1 1";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn the_peak_is_found() {
        assert_eq!(peak_bytes("Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t   12 kB\n"), Some(12 * 1024));
        assert_eq!(peak_bytes("Name:\tx\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_watched_and_one_that_is_not_there_is_not() {
        let own = WatchedProcess::own().unwrap();
        assert!(own.peak_bytes().unwrap() > 0);
        let error = WatchedProcess::new(u32::MAX).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /proc/4294967295/stat");
    }
}
