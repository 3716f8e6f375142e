//! [`MemoryReport`]: what the memory of this process consists of, as Linux counts it.

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;

/// The memory of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryReport {
    /// As `process_resident_memory_bytes`.
    pub resident_bytes: u64,
    /// The most that was resident since the start.
    pub peak_resident_bytes: u64,
    /// Memory that the system can only take by swapping; the rest is pages of files.
    pub anonymous_bytes: u64,
    pub threads: u64,
    /// What serves allocations.
    pub allocator: &'static str,
    /// Mappings by kind.
    pub mappings: BTreeMap<&'static str, MappedMemory>,
}

/// Mappings of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MappedMemory {
    pub mappings: u64,
    pub mapped_bytes: u64,
    pub resident_bytes: u64,
    pub anonymous_bytes: u64,
}

impl MemoryReport {
    /// That of this process; `None` on systems without /proc.
    pub fn read() -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let mappings = fs::read_to_string("/proc/self/smaps").ok()?;
        Some(Self::of(&status, &mappings))
    }

    fn of(status: &str, mappings: &str) -> Self {
        let field = |name: &str| status.lines().find_map(|line| number(line, name)).unwrap_or(0);
        Self {
            resident_bytes: field("VmRSS:") << 10,
            peak_resident_bytes: field("VmHWM:") << 10,
            anonymous_bytes: field("RssAnon:") << 10,
            threads: field("Threads:"),
            allocator: if cfg!(target_env = "musl") { "mimalloc" } else { "of the C library" },
            mappings: sums(mappings),
        }
    }
}

/// The number behind the name of a line.
fn number(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?.split_whitespace().next()?.parse().ok()
}

/// The sums of smaps (proc_pid_smaps(5)) by the kinds of mappings.
fn sums(smaps: &str) -> BTreeMap<&'static str, MappedMemory> {
    let mut sums: BTreeMap<_, MappedMemory> = BTreeMap::new();
    let mut sum = &mut MappedMemory::default();
    for line in smaps.lines() {
        if let Some(kind) = kind_of(line) {
            sum = sums.entry(kind).or_default();
            sum.mappings += 1;
        }
        for (name, bytes) in [
            ("Size:", &mut sum.mapped_bytes),
            ("Rss:", &mut sum.resident_bytes),
            ("Anonymous:", &mut sum.anonymous_bytes),
        ] {
            *bytes += number(line, name).unwrap_or(0) << 10;
        }
    }
    sums
}

/// The kind of the mapping that a line describes; `None` for the lines below that.
fn kind_of(line: &str) -> Option<&'static str> {
    let mut fields = line.split_whitespace();
    let (_, rights) = (fields.next().filter(|range| range.contains('-'))?, fields.next()?);
    let path = fields.nth(3).unwrap_or("");
    Some(match path {
        "[heap]" => "heap",
        "[stack]" => "stack of the main thread",
        // Of allocators, and stacks of threads.
        "" => "anonymous",
        _ if path.starts_with('[') => "of the kernel",
        _ if rights.contains('x') => "code",
        _ => "data of files",
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SMAPS: &str = "\
55555d980000-55555da60000 rw-p 00000000 00:00 0                          [heap]
Size:                896 kB
KernelPageSize:        4 kB
Rss:                 764 kB
Anonymous:           764 kB
7f49cebb5000-7f49d07bb000 r-xp 007b4000 fe:00 5640447                    /usr/bin/my registry
Size:              28696 kB
Rss:               10824 kB
Anonymous:             0 kB
7f49cddb5000-7f49cdfb5000 rw-p 00000000 00:00 0 
Size:               2048 kB
Rss:                  48 kB
Anonymous:            48 kB
7f49cdbae000-7f49cddae000 rw-p 00000000 00:00 0 
Size:               2048 kB
Rss:                  16 kB
Anonymous:            16 kB
";

    #[test]
    fn mappings_are_summed_up_by_kind() {
        let report = MemoryReport::of("VmHWM:\t  17 kB\nVmRSS:\t  16 kB\nThreads:\t8\n", SMAPS);
        assert_eq!((report.resident_bytes, report.peak_resident_bytes), (16 << 10, 17 << 10));
        assert_eq!((report.threads, report.mappings.len()), (8, 3));
        let anonymous = report.mappings["anonymous"];
        assert_eq!((anonymous.mappings, anonymous.mapped_bytes), (2, 4096 << 10));
        assert_eq!((anonymous.resident_bytes, anonymous.anonymous_bytes), (64 << 10, 64 << 10));
        assert_eq!(report.mappings["code"].resident_bytes, 10824 << 10);
        assert_eq!(report.mappings["heap"].anonymous_bytes, 764 << 10);
    }

    #[test]
    fn this_process_has_code_and_anonymous_memory() {
        let report = MemoryReport::read().unwrap();
        assert!(report.mappings["code"].resident_bytes > 0, "{report:?}");
        assert!(report.peak_resident_bytes >= report.anonymous_bytes, "{report:?}");
        let sum: u64 = report.mappings.values().map(|memory| memory.mapped_bytes).sum();
        assert!(sum > report.resident_bytes, "{report:?}");
    }
}
