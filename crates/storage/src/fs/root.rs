//! [`Root`]: the folder that a store owns, its lock, and what the run before left.
//!
//! One process owns the folder, by a lock on `.lock` that the operating system drops with the
//! process. `.run` holds the *epoch*, which is part of every multipart upload's id: it changes
//! when a run under relaxed durability did not stop cleanly, and the uploads of the old epoch
//! are gone with it.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::sync::Durability;

const LOCK: &str = ".lock";
const LOCK_IN_CAPITALS: &str = ".LOCK";
const RUN: &str = ".run";
const RUN_NEW: &str = ".run.new";
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Why a folder cannot be used as a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another store in this one, owns the folder.
    #[error("folder {root:?} is in use by process {holder}")]
    InUse {
        /// The folder.
        root: PathBuf,
        /// The process id that the owner wrote.
        holder: String,
    },
    /// Names that differ only in case are one name here, but tags `V1` and `v1` differ.
    #[error("folder {root:?} does not tell upper from lower case, use a file system that does")]
    CaseInsensitive {
        /// The folder.
        root: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot open {path:?} as a store")]
    Io {
        /// The file or folder that could not be opened or made.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// An owned folder. Dropping it marks a clean stop and lets the lock go.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    epoch: String,
    is_clean: bool,
    /// Held for its lock.
    _lock: File,
    /// The device and inode of the locked file.
    identity: (u64, u64),
}

impl Root {
    pub(super) fn open(
        path: &Path,
        durability: Durability,
        lock_wait: Duration,
    ) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        create_folder(path).map_err(io)?;
        let path = &path.canonicalize().map_err(io)?;
        let lock = acquire(path, lock_wait)?;
        if fs::symlink_metadata(path.join(LOCK_IN_CAPITALS)).is_ok() {
            return Err(OpenError::CaseInsensitive { root: path.clone() });
        }
        let epoch = begin_run(path, durability).map_err(io)?;
        let identity = identity(&lock.metadata().map_err(io)?);
        Ok(Self { path: path.clone(), epoch, is_clean: true, _lock: lock, identity })
    }

    /// Checks that the path still leads to the folder whose lock is held. It does not when the
    /// folder was moved or removed, or its file system unmounted: then nothing that is found
    /// there, or not found, says anything of the store.
    pub(super) fn check(&self) -> io::Result<()> {
        let path = self.path.join(LOCK);
        match fs::metadata(&path) {
            Ok(metadata) if identity(&metadata) == self.identity => Ok(()),
            Ok(_) => Err(io::Error::other(format!("{path:?} is another file than the locked one"))),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("{path:?}, which is locked, is not there any more: {error}"),
            )),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the mark of a clean stop out.
    pub(super) fn stops_uncleanly(&mut self) {
        self.is_clean = false;
    }

    pub(super) fn epoch(&self) -> &str {
        &self.epoch
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if self.is_clean && self.check().is_ok() {
            // A mark that cannot be made leaves an unclean stop, which is the safe reading.
            let _ = write_run(&self.path, &self.epoch, "closed");
        }
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Creates a folder and its missing parents, each durably: it is done once.
fn create_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_folder(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(parent)?.sync_all(),
    }
}

/// Takes the lock, waiting for an owner that is about to stop.
#[expect(clippy::disallowed_methods, reason = "opening a root runs where it may block")]
fn acquire(root: &Path, lock_wait: Duration) -> Result<File, OpenError> {
    let path = root.join(LOCK);
    let io = |source| OpenError::Io { path: path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io)?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(source)) => return Err(io(source)),
            Err(TryLockError::WouldBlock) if started.elapsed() >= lock_wait => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(io)?;
                return Err(OpenError::InUse {
                    root: root.to_owned(),
                    holder: holder.trim().to_owned(),
                });
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_POLL),
        }
    }
    file.set_len(0).map_err(io)?;
    writeln!(file, "{}", std::process::id()).map_err(io)?;
    Ok(file)
}

/// Decides whether the epoch goes on, and marks the run as open.
fn begin_run(root: &Path, durability: Durability) -> io::Result<String> {
    let before = match fs::read_to_string(root.join(RUN)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        before => before.unwrap_or_default(),
    };
    let epoch = match before.trim_end().split_once(' ') {
        Some((epoch, "closed" | "strict")) if Uuid::try_parse(epoch).is_ok() => epoch.to_owned(),
        _ => Uuid::new_v4().simple().to_string(),
    };
    let state = match durability {
        Durability::Strict => "strict",
        Durability::Relaxed => "relaxed",
    };
    write_run(root, &epoch, state)?;
    Ok(epoch)
}

fn write_run(root: &Path, epoch: &str, state: &str) -> io::Result<()> {
    let new = root.join(RUN_NEW);
    let mut file = File::create(&new)?;
    writeln!(file, "{epoch} {state}")?;
    file.sync_all()?;
    fs::rename(&new, root.join(RUN))?;
    File::open(root)?.sync_all()
}
