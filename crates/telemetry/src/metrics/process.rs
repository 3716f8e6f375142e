//! What the operating system says of the process (`process_*`, by the names that all Prometheus clients use)
//! and of the folder's disk.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Appends one family with one sample, as OpenMetrics text.
fn family(text: &mut String, name: &str, kind: &str, help: &str, value: f64) {
    let suffix = if kind == "counter" { "_total" } else { "" };
    // Writing to a string cannot fail.
    let _ = write!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}\n");
    for unit in ["seconds", "bytes"] {
        if name.ends_with(unit) {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
    }
    let _ = writeln!(text, "{name}{suffix} {value}");
}

/// Appends what is known of this process; on systems without /proc, nothing.
pub(super) fn append_process(text: &mut String) {
    let Some(stat) = ProcessStat::read() else { return };
    for (name, kind, help, value) in [
        ("process_cpu_seconds", "counter", "CPU time of user and system", Some(stat.cpu_s)),
        ("process_resident_memory_bytes", "gauge", "Resident memory", Some(stat.resident_bytes)),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory", Some(stat.virtual_bytes)),
        ("process_threads", "gauge", "Threads", Some(stat.threads)),
        ("process_open_fds", "gauge", "Open file descriptors", open_descriptors()),
        ("process_max_fds", "gauge", "Limit of open file descriptors", descriptor_limit()),
        (
            "process_start_time_seconds",
            "gauge",
            "Start of the process, in seconds of the Unix epoch",
            stat.started_s,
        ),
    ] {
        if let Some(value) = value {
            family(text, name, kind, help, value);
        }
    }
}

/// Appends the size and the free space of a folder's file system, and what of it is kept back for deletes.
pub(super) fn append_disk(text: &mut String, folder: &Path, reserved_bytes: Option<u64>) {
    if let Some(reserved) = reserved_bytes {
        let help = "Bytes of the storage folder that are kept back for deletes on a full disk";
        family(text, "jreg_store_disk_reserved_bytes", "gauge", help, as_f64(reserved));
    }
    let Ok(disk) = rustix::fs::statvfs(folder) else { return };
    let bytes = |blocks: u64| as_f64(blocks.saturating_mul(disk.f_frsize));
    let help = "Size of the file system of the storage folder";
    family(text, "jreg_store_disk_size_bytes", "gauge", help, bytes(disk.f_blocks));
    let help = "Free bytes of the file system of the storage folder";
    family(text, "jreg_store_disk_free_bytes", "gauge", help, bytes(disk.f_bavail));
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

/// The fields of /proc/self/stat that are shown (proc_pid_stat(5)).
struct ProcessStat {
    cpu_s: f64,
    threads: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
    started_s: Option<f64>,
}

impl ProcessStat {
    fn read() -> Option<Self> {
        let ticks_per_s = as_f64(rustix::param::clock_ticks_per_second());
        let page_bytes = as_f64(rustix::param::page_size() as u64);
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name of the program, in parentheses, may hold spaces.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // Numbered from 1, and the third is the first here.
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_s: (field(14)? + field(15)?) / ticks_per_s,
            threads: field(20)?,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_bytes,
            started_s: boot_time_s().zip(field(22)).map(|(boot, ticks)| boot + ticks / ticks_per_s),
        })
    }
}

fn boot_time_s() -> Option<f64> {
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split(' ').next()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some((now.as_secs_f64() - uptime).round())
}

fn open_descriptors() -> Option<f64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    // Without that of the folder itself.
    Some(as_f64(entries.count() as u64) - 1.0)
}

fn descriptor_limit() -> Option<f64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.map(as_f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_process_has_used_memory_and_started_in_the_past() {
        let mut text = String::new();
        append_process(&mut text);
        append_disk(&mut text, Path::new("/"), Some(4096));
        let of = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
            line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
        };
        assert!(of("process_resident_memory_bytes") > 1e6, "{text}");
        assert!(of("process_open_fds") >= 3.0, "{text}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - of("process_start_time_seconds");
        assert!((-2.0..3600.0).contains(&age), "{age}");
        assert!((4095.0..4097.0).contains(&of("jreg_store_disk_reserved_bytes")), "{text}");
        assert!(of("jreg_store_disk_size_bytes") >= of("jreg_store_disk_free_bytes"), "{text}");
    }
}
