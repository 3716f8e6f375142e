//! [`DiskReserve`]: space that is kept back for what frees space.
//!
//! On a full disk a delete that writes a record first (a link that says that its blob is deleted, a tag's history,
//! the copy of a manifest, what garbage collection notes) could not free anything. Such a write takes space from here, a
//! step at a time, and tries again. The space is allocated again once the write is done, as far as there is any.
//! A file system may also have no inode left for one more file while it has space: so a few empty files
//! are kept back, too.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::disk::Disk;

/// The file; the names of the empty ones begin with this, and a number follows.
const RESERVE: &str = ".reserve";
/// How much is kept back: enough for a copy of the largest manifest, or for some hundred deletes of tags.
const RESERVE_BYTES: u64 = 8 * 1024 * 1024;
/// How much is freed at a time: enough for a record, its folders, and a block of their names each.
const STEP_BYTES: u64 = 128 * 1024;
/// The least that is taken back at a time: a block.
const STEP_BYTES_MIN: u64 = 4 * 1024;
/// How many empty files are kept back, of which one is freed at a time.
const SPARE_FILES: usize = 16;

/// The space that is kept back. There may be less of it: nothing fails for want of it alone.
#[derive(Debug)]
pub(super) struct DiskReserve {
    disk: Disk,
    root: PathBuf,
    held: Mutex<ReservedSpace>,
    /// Whether there may be less of it than there is to be.
    is_short: AtomicBool,
}

#[derive(Debug)]
struct ReservedSpace {
    file: Option<File>,
    /// How many empty files there are: those with the smallest numbers.
    spare_files: usize,
}

impl DiskReserve {
    /// Keeps space back in a folder.
    pub(super) fn open(root: &Path, disk: &Disk) -> Self {
        let path = root.join(RESERVE);
        let file = disk.open_for_writing(&path).or_else(|_| disk.create(&path));
        let reserve = Self {
            disk: disk.clone(),
            root: root.to_owned(),
            held: Mutex::new(ReservedSpace { file: file.ok(), spare_files: 0 }),
            is_short: AtomicBool::new(true),
        };
        reserve.refill();
        reserve
    }

    /// Keeps nothing back: the folder is only read.
    pub(super) fn none(root: &Path, disk: &Disk) -> Self {
        Self {
            disk: disk.clone(),
            root: root.to_owned(),
            held: Mutex::new(ReservedSpace { file: None, spare_files: 0 }),
            is_short: AtomicBool::new(false),
        }
    }

    /// Gives all of it up, for a start that finds no space.
    pub(super) fn remove(root: &Path, disk: &Disk) -> io::Result<()> {
        for number in 0..SPARE_FILES {
            absent_is_fine(disk.unlink(&reserved_file(root, number)))?;
        }
        absent_is_fine(disk.unlink(&root.join(RESERVE)))
    }

    fn lock(&self) -> MutexGuard<'_, ReservedSpace> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a step of it up for a write of so many bytes, or as many steps as that takes. `false`: there is none
    /// left.
    pub(super) fn release(&self, bytes: u64) -> bool {
        let mut held = self.lock();
        self.is_short.store(true, Ordering::Relaxed);
        self.release_bytes(&held, bytes) || self.release_file(&mut held)
    }

    fn release_bytes(&self, held: &ReservedSpace, bytes: u64) -> bool {
        let Some(file) = &held.file else { return false };
        let Ok(metadata) = self.disk.metadata_of(file) else { return false };
        let left =
            metadata.len().saturating_sub(bytes.next_multiple_of(STEP_BYTES).max(STEP_BYTES));
        metadata.len() > 0 && self.disk.set_length(file, left).is_ok()
    }

    /// How many bytes are kept back now. `None`: none are to be.
    pub(super) fn bytes(&self) -> Option<u64> {
        let held = self.lock();
        let file = held.file.as_ref()?;
        self.disk.metadata_of(file).ok().map(|metadata| metadata.len())
    }

    fn release_file(&self, held: &mut ReservedSpace) -> bool {
        let Some(last) = held.spare_files.checked_sub(1) else { return false };
        held.spare_files = last;
        self.disk.unlink(&reserved_file(&self.root, last)).is_ok()
    }

    /// Takes space back, as much as there is.
    pub(super) fn refill(&self) {
        if !self.is_short.load(Ordering::Relaxed) {
            return;
        }
        let mut held = self.lock();
        let is_whole = self.refill_files(&mut held) && self.refill_bytes(&held);
        self.is_short.store(!is_whole, Ordering::Relaxed);
    }

    /// Whether all files are there.
    fn refill_files(&self, held: &mut ReservedSpace) -> bool {
        while held.spare_files < SPARE_FILES {
            match self.disk.create_new(&reserved_file(&self.root, held.spare_files)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return false,
                _ => held.spare_files += 1,
            }
        }
        true
    }

    /// Whether all bytes are there.
    fn refill_bytes(&self, held: &ReservedSpace) -> bool {
        let Some(file) = &held.file else { return false };
        let Ok(metadata) = self.disk.metadata_of(file) else { return false };
        let (mut length, mut step) = (metadata.len(), RESERVE_BYTES);
        while length < RESERVE_BYTES && step >= STEP_BYTES_MIN {
            let bytes = step.min(RESERVE_BYTES - length);
            match self.allocate(file, length, bytes) {
                Ok(()) => length += bytes,
                Err(_) => step = bytes / 2,
            }
        }
        length >= RESERVE_BYTES
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

fn reserved_file(root: &Path, number: usize) -> PathBuf {
    root.join(format!("{RESERVE}-{number}"))
}

fn absent_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
