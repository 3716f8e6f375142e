//! [`DiskReserve`]: space that is kept back for what frees space.
//!
//! On a full disk a delete that writes a record first (a link that says that its blob is deleted, what
//! garbage collection notes) could not free anything. Such a write takes space from here, a step at a
//! time, and tries again. The space is allocated again once the write is done, as far as there is any.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::disk::Disk;

/// The file.
const RESERVE: &str = ".reserve";
/// How much is kept back.
const RESERVE_BYTES: u64 = 1024 * 1024;
/// How much is given up at a time: enough for a record, its folders, and a block of their names each.
const STEP_BYTES: u64 = 128 * 1024;
/// The least that is taken back at a time: a block.
const STEP_BYTES_MIN: u64 = 4 * 1024;

/// The space that is kept back. There may be less of it: nothing fails for want of it alone.
#[derive(Debug)]
pub(super) struct DiskReserve {
    disk: Disk,
    file: Mutex<Option<File>>,
    /// Whether there may be less of it than there is to be.
    is_short: AtomicBool,
}

impl DiskReserve {
    /// Keeps space back in a folder.
    pub(super) fn open(root: &Path, disk: &Disk) -> Self {
        let path = root.join(RESERVE);
        let file = disk.open_for_writing(&path).or_else(|_| disk.create(&path));
        let reserve = Self {
            disk: disk.clone(),
            file: Mutex::new(file.ok()),
            is_short: AtomicBool::new(true),
        };
        reserve.refill();
        reserve
    }

    /// Gives all of it up, for a start that finds no space.
    pub(super) fn remove(root: &Path, disk: &Disk) -> io::Result<()> {
        disk.unlink(&root.join(RESERVE))
    }

    fn lock(&self) -> MutexGuard<'_, Option<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a step of it up. `false`: there is none left.
    pub(super) fn release(&self) -> bool {
        let held = self.lock();
        let Some(file) = &*held else { return false };
        let Ok(metadata) = self.disk.metadata_of(file) else { return false };
        self.is_short.store(true, Ordering::Relaxed);
        let left = metadata.len().saturating_sub(STEP_BYTES);
        metadata.len() > 0 && self.disk.set_length(file, left).is_ok()
    }

    /// Takes space back, as much as there is.
    pub(super) fn refill(&self) {
        if !self.is_short.load(Ordering::Relaxed) {
            return;
        }
        let held = self.lock();
        let Some(file) = &*held else { return };
        let Ok(metadata) = self.disk.metadata_of(file) else { return };
        let (mut length, mut step) = (metadata.len(), STEP_BYTES);
        while length < RESERVE_BYTES && step >= STEP_BYTES_MIN {
            let bytes = step.min(RESERVE_BYTES - length);
            match self.allocate(file, length, bytes) {
                Ok(()) => length += bytes,
                Err(_) => step /= 2,
            }
        }
        self.is_short.store(length < RESERVE_BYTES, Ordering::Relaxed);
    }

    /// Allocates so many bytes behind others, or nothing.
    fn allocate(&self, file: &File, length: u64, bytes: u64) -> io::Result<()> {
        let allocated = self.disk.allocate(file, length, bytes).and_then(|()| {
            if self.disk.metadata_of(file)?.len() >= length + bytes {
                return Ok(());
            }
            // A file system that cannot allocate without writing.
            let zeros = vec![0; usize::try_from(bytes).unwrap_or_default()];
            self.disk.write_at(file, &zeros, length)
        });
        allocated.inspect_err(|_| drop(self.disk.set_length(file, length)))
    }
}
