//! [`Syncs`]: what is forced to the disk, and how often.
//!
//! Under strict durability a write is acknowledged only after the file and the folder that
//! names it are on the disk, or a log that has the same. A folder or a log whose fsync failed is in
//! an unknown state, and a second fsync may claim success for what was lost; from then
//! on no write is acknowledged.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::disk::Disk;

/// What an acknowledged write survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// A crash of the machine: files and folders, or a log that stands for them, are synced before
    /// the response.
    #[default]
    Strict,
    /// A crash of the process, not of the machine: nothing is synced, the operating system
    /// writes when it likes. After an unclean stop every open multipart upload is dropped,
    /// because it is unknown which of its bytes arrived.
    Relaxed,
}

/// How often a store has synced since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncCounts {
    /// Syncs of files.
    pub files: u64,
    /// Syncs of folders.
    pub folders: u64,
    /// Syncs of the log, each for all that had gathered.
    pub logs: u64,
}

#[derive(Debug)]
pub(super) struct Syncs {
    durability: Durability,
    disk: Disk,
    files: AtomicU64,
    folders: AtomicU64,
    logs: AtomicU64,
    failed: AtomicBool,
    #[cfg(test)]
    pub(super) fail_next: AtomicBool,
    /// The log finds no new space.
    #[cfg(test)]
    pub(super) log_is_full: AtomicBool,
    /// While it is held, the log is not synced.
    #[cfg(test)]
    pub(super) log_gate: std::sync::Mutex<()>,
}

impl Syncs {
    pub(super) fn new(durability: Durability, disk: Disk) -> Self {
        Self {
            durability,
            disk,
            files: AtomicU64::new(0),
            folders: AtomicU64::new(0),
            logs: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            #[cfg(test)]
            fail_next: AtomicBool::new(false),
            #[cfg(test)]
            log_is_full: AtomicBool::new(false),
            #[cfg(test)]
            log_gate: std::sync::Mutex::default(),
        }
    }

    pub(super) fn durability(&self) -> Durability {
        self.durability
    }

    pub(super) fn counts(&self) -> SyncCounts {
        SyncCounts {
            files: self.files.load(Ordering::Relaxed),
            folders: self.folders.load(Ordering::Relaxed),
            logs: self.logs.load(Ordering::Relaxed),
        }
    }

    pub(super) fn is_strict(&self) -> bool {
        self.durability == Durability::Strict
    }

    /// Refuses to continue after the sync of a folder, or of the log, has failed.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier sync failed, restart to go on"));
        }
        Ok(())
    }

    /// Syncs a file's bytes and times.
    pub(super) fn file(&self, file: &File) -> io::Result<()> {
        self.count(&self.files, || self.disk.sync(file))
    }

    /// Syncs a file's bytes and length.
    pub(super) fn data(&self, file: &File) -> io::Result<()> {
        self.count(&self.files, || self.disk.sync_data(file))
    }

    /// Syncs what was appended to the log.
    pub(super) fn log(&self, file: &File) -> io::Result<()> {
        #[cfg(test)]
        let _gate = self.log_gate.lock();
        self.count(&self.logs, || self.disk.sync_data(file))
    }

    /// From now on no write is acknowledged.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Syncs the names in a folder.
    pub(super) fn folder(&self, path: &Path) -> io::Result<()> {
        self.folder_by(|| self.disk.sync_folder(path))
    }

    fn folder_by(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.check()?;
        self.count(&self.folders, sync).inspect_err(|_| self.fail())?;
        // The kernel reports a failure once: if another sync received it meanwhile, the success of
        // this one means nothing.
        self.check()
    }

    fn count(&self, counter: &AtomicU64, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.durability == Durability::Relaxed {
            return Ok(());
        }
        #[cfg(test)]
        if self.fail_next.swap(false, Ordering::Relaxed) {
            return Err(io::Error::other("the test said so"));
        }
        counter.fetch_add(1, Ordering::Relaxed);
        sync()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_sync_during_which_another_failed_does_not_succeed() {
        let syncs = Syncs::new(Durability::Strict, Disk::default());
        syncs.folder_by(|| Ok(())).unwrap();
        let overlapping = || {
            syncs.folder_by(|| Err(io::Error::other("the disk"))).unwrap_err();
            Ok(())
        };
        syncs.folder_by(overlapping).unwrap_err();
    }
}
