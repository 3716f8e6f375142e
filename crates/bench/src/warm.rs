//! Has the host of a virtual machine provide memory before it is measured: a page that the host has
//! taken back costs many times as much at its first use, in any process.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Write};
use std::path::Path;

use crate::rng::BenchRng;

/// How much is allocated or written at once.
const BLOCK_BYTES: usize = 16 * 1024 * 1024;
/// The file that is written and removed.
const FILE_NAME: &str = "jreg-bench-warm";

/// Allocates this much memory, writes to each page of it, and frees it.
pub(crate) fn warm_memory(bytes: usize) {
    let mut blocks = Vec::new();
    let mut left = bytes;
    while left > 0 {
        let size = left.min(BLOCK_BYTES);
        // Not zeros: those would be allocated without being written.
        blocks.push(black_box(vec![1_u8; size]));
        left -= size;
    }
}

/// Writes a file of this size to the folder, and removes it.
pub(crate) fn warm_file(folder: &Path, bytes: u64) -> io::Result<()> {
    let path = folder.join(FILE_NAME);
    let written = write(&path, bytes);
    let removed = fs::remove_file(&path);
    written.and(removed)
}

fn write(path: &Path, bytes: u64) -> io::Result<()> {
    let block = BenchRng::new(bytes, 0).bytes(BLOCK_BYTES);
    let mut file = File::create_new(path)?;
    let mut left = bytes;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
        file.write_all(block.get(..size).unwrap_or_default())?;
        left = left.saturating_sub(u64::try_from(size).unwrap_or(left));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_is_written_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = u64::try_from(BLOCK_BYTES).unwrap() + 5;
        write(&folder.path().join("x"), bytes).unwrap();
        assert_eq!(fs::metadata(folder.path().join("x")).unwrap().len(), bytes);
        warm_file(folder.path(), bytes).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(warm_file(&folder.path().join("none"), 1).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_touched_and_freed() {
        let peak = || crate::process::WatchedProcess::own().unwrap().peak_bytes().unwrap();
        let before = peak();
        warm_memory(300 << 20);
        assert!(peak() >= before.max(300 << 20));
    }
}
