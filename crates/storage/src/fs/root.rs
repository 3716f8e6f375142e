//! [`FsRoot`]: the folder that a store owns, its lock, and what the run before left.
//!
//! One process owns the folder, by a lock on `.lock` that the operating system drops with the
//! process. `.run` holds the *epoch*, which is part of every multipart upload's id: it changes
//! when a run under relaxed durability did not stop cleanly and the operating system was started since, and the
//! uploads of the old epoch are gone with it. After a crash of the process alone the system still has their bytes.

use std::fs::{self, DirBuilder, File, FileType, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::disk::NO_WAIT;
use super::failure;
use super::linked::LinkedFolders;
use super::modes::FOLDER_MODE;
use super::owner::FolderOwner;
use super::sync::Durability;

const LOCK: &str = ".lock";
const LOCK_IN_CAPITALS: &str = ".LOCK";
const RUN: &str = ".run";
const RUN_NEW: &str = ".run.new";
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Why a folder cannot be used as a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FsOpenError {
    /// Another process, or another store in this one, owns the folder.
    #[error("folder {root:?} is in use by process {holder}")]
    InUse {
        /// The folder.
        root: PathBuf,
        /// The process id that the owner wrote.
        holder: String,
    },
    /// Names that differ only in case are one name here, but tags `V1` and `v1` differ.
    #[error("folder {root:?} is case-insensitive: use a case-sensitive file system")]
    CaseInsensitive {
        /// The folder.
        root: PathBuf,
    },
    /// Changes that were acknowledged cannot be read.
    #[error(
        "the write-ahead log is damaged: {path:?} at byte {offset}: {what}. Nothing was changed. The files lack changes that were acknowledged. Restore the folder from a backup, or move .log-0 and .log-1 elsewhere, start, and run `jreg fsck`: then the changes in them are lost (docs/fsck.md)"
    )]
    DamagedLog {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The log is older than the files.
    #[error(
        "the write-ahead log {path:?} is of an earlier run than the files, which ended since or has another log: it was put back from a backup, or an earlier version wrote it. Replaying it would undo newer changes. Nothing was changed. Restore the whole folder, or move .log-0 and .log-1 elsewhere and start (docs/fsck.md)"
    )]
    StaleLog {
        /// The file.
        path: PathBuf,
    },
    /// The files lack changes that only a start that writes can bring to them.
    #[error(
        "folder {root:?} was not stopped cleanly: its write-ahead log may have changes that its files lack. Start and stop jreg on it once without read-only, or copy it again from a folder that was stopped"
    )]
    NotReplayed {
        /// The folder.
        root: PathBuf,
    },
    /// The operating system refused.
    #[error("folder {root:?} cannot be used{}", advice(.root, .source))]
    Io {
        /// The folder.
        root: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

fn advice(root: &Path, source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            let user = rustix::process::geteuid().as_raw();
            let root = root.display();
            format!(
                ", it and all in it must belong to the user of this process: chown -R {user} {root}"
            )
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ", it is full: make room for a few bytes".to_owned()
        }
        _ => String::new(),
    }
}

/// An owned folder. Dropping it marks a clean stop and lets the lock go.
#[derive(Debug)]
pub(super) struct FsRoot {
    path: PathBuf,
    epoch: String,
    /// Whether the end of the run must be marked.
    marks_end: bool,
    /// Held for its lock; a folder that is only read may have none.
    _lock: Option<File>,
    /// The locked file, or the folder itself if that is only read.
    guarded: PathBuf,
    /// The device and inode of that.
    identity: (u64, u64),
    owner: Option<FolderOwner>,
    linked: LinkedFolders,
}

impl FsRoot {
    pub(super) fn open(
        path: &Path,
        durability: Durability,
        lock_wait: Duration,
    ) -> Result<Self, FsOpenError> {
        let io = |source| FsOpenError::Io { root: path.to_owned(), source };
        create_folder(path).map_err(io)?;
        let path = &path.canonicalize().map_err(io)?;
        let owner = FolderOwner::of(&fs::metadata(path).map_err(io)?);
        let lock = acquire(path, owner, lock_wait)?;
        if fs::symlink_metadata(path.join(LOCK_IN_CAPITALS)).is_ok() {
            return Err(FsOpenError::CaseInsensitive { root: path.clone() });
        }
        let linked = LinkedFolders::find(path).map_err(io)?;
        let epoch = begin_run(path, owner, durability).map_err(io)?;
        let marks_end = durability == Durability::Relaxed;
        let identity = identity(&lock.metadata().map_err(io)?);
        let (path, guarded) = (path.clone(), path.join(LOCK));
        Ok(Self { path, epoch, marks_end, _lock: Some(lock), guarded, identity, owner, linked })
    }

    /// Opens a folder to read it, beside others that do the same; not while a process writes to it.
    pub(super) fn open_read_only(path: &Path) -> Result<Self, FsOpenError> {
        let io = |source| FsOpenError::Io { root: path.to_owned(), source };
        let path = path.canonicalize().map_err(io)?;
        let lock = acquire_shared(&path)?;
        let linked = LinkedFolders::find(&path).map_err(io)?;
        let identity = identity(&fs::metadata(&path).map_err(io)?);
        let (guarded, epoch) = (path.clone(), String::new());
        let (marks_end, owner) = (false, None);
        Ok(Self { path, epoch, marks_end, _lock: lock, guarded, identity, owner, linked })
    }

    /// Checks that the path still leads to the folder whose lock is held, and linked folders in it
    /// lead where they led. They do not when a folder was moved or removed, or its file system
    /// unmounted: then nothing that is found there, or not found, says anything of the store.
    pub(super) fn check(&self) -> io::Result<()> {
        let path = &self.guarded;
        match fs::metadata(path) {
            Ok(metadata) if identity(&metadata) == self.identity => self.linked.check(),
            Ok(_) => Err(io::Error::other(format!("{path:?} is another file than the opened one"))),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("{path:?}, which was opened, is not there any more: {error}"),
            )),
        }
    }

    /// The kind of what a symbolic link leads to that a listing met.
    pub(super) fn meet_link(&self, path: &Path) -> io::Result<Option<FileType>> {
        self.linked.meet(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the mark of a clean stop out.
    pub(super) fn stops_uncleanly(&mut self) {
        self.marks_end = false;
    }

    /// Whether all that is known of it is on one file system.
    pub(super) fn is_one_file_system(&self) -> bool {
        self.linked.are_on_one_file_system()
    }

    /// The file system (`st_dev`) that it is on.
    pub(super) fn device(&self) -> u64 {
        self.identity.0
    }

    /// To whom what is created in it is given.
    pub(super) fn owner(&self) -> Option<FolderOwner> {
        self.owner
    }

    pub(super) fn epoch(&self) -> &str {
        &self.epoch
    }
}

impl Drop for FsRoot {
    fn drop(&mut self) {
        if self.marks_end && self.check().is_ok() {
            // A mark that cannot be made leaves an unclean stop, which is the safe reading.
            let _ = write_run(&self.path, self.owner, &self.epoch, "closed");
        }
    }
}

pub(super) fn identity(metadata: &Metadata) -> (u64, u64) {
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
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(parent)?.sync_all(),
    }
}

/// Takes the lock, waiting for an owner that is about to stop.
#[expect(clippy::disallowed_methods, reason = "opening a root runs where it may block")]
fn acquire(
    root: &Path,
    owner: Option<FolderOwner>,
    lock_wait: Duration,
) -> Result<File, FsOpenError> {
    let path = root.join(LOCK);
    let io = |source| FsOpenError::Io { root: root.to_owned(), source };
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let opened = FolderOwner::create(owner, options, &path);
    let file = opened.map_err(|error| io(failure::at(&path, error)))?;
    let started = Instant::now();
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(source)) => return Err(io(source)),
            Err(TryLockError::WouldBlock) if started.elapsed() >= lock_wait => {
                let holder = holder(&file).map_err(io)?;
                return Err(FsOpenError::InUse { root: root.to_owned(), holder });
            }
            Err(TryLockError::WouldBlock) => {
                if !told {
                    told = true;
                    let (holder, wait_s) = (holder(&file).map_err(io)?, lock_wait.as_secs());
                    tracing::warn!(folder = %root.display(), holder, wait_s, "waiting for the folder: another process uses it");
                }
                std::thread::sleep(LOCK_POLL);
            }
        }
    }
    // For people only: on a full disk the owner of the lock is not recorded.
    let holder = format!("{}\n", std::process::id());
    let _ = file.set_len(0).and_then(|()| file.write_all_at(holder.as_bytes(), 0));
    Ok(file)
}

/// Keeps writers out while a folder is read. A copy of a folder may have no lock.
fn acquire_shared(root: &Path) -> Result<Option<File>, FsOpenError> {
    let io = |source| FsOpenError::Io { root: root.to_owned(), source };
    let file = match File::open(root.join(LOCK)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::Error(source)) => Err(io(source)),
        Err(TryLockError::WouldBlock) => {
            let holder = holder(&file).map_err(io)?;
            Err(FsOpenError::InUse { root: root.to_owned(), holder })
        }
    }
}

/// The process id that the owner of the lock wrote.
fn holder(file: &File) -> io::Result<String> {
    let mut text = [0; 32];
    let length = file.read_at(&mut text, 0)?;
    Ok(String::from_utf8_lossy(text.get(..length).unwrap_or_default()).trim().to_owned())
}

/// Decides whether the epoch continues, and marks the run as open.
///
/// The mark of a run that ended cleanly under relaxed durability is as good under strict
/// durability: whatever happens, its uploads are on the disk. So a strict run writes only a new
/// epoch, and starts on a full disk.
fn begin_run(
    root: &Path,
    owner: Option<FolderOwner>,
    durability: Durability,
) -> io::Result<String> {
    let path = root.join(RUN);
    let before = match read_run(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failure::at(&path, error));
        }
        before => before.unwrap_or_default(),
    };
    // The uploads of an unclean relaxed run are not on the disk yet: a strict run must not continue them.
    let relaxed = boot_id().map(|boot| format!("relaxed {boot}"));
    let is_same_boot =
        |state: &str| durability == Durability::Relaxed && relaxed.as_deref() == Some(state);
    let kept = match before.trim_end().split_once(' ') {
        Some((epoch, state)) if Uuid::try_parse(epoch).is_ok() => {
            (matches!(state, "closed" | "strict") || is_same_boot(state)).then_some(epoch)
        }
        _ => None,
    };
    let is_dropped = kept.is_none() && !before.is_empty();
    if is_dropped {
        tracing::warn!(folder = %root.display(), "a run with relaxed durability was not stopped: its unfinished uploads are dropped");
    }
    let (epoch, state) = match (durability, kept) {
        (Durability::Strict, Some(epoch)) => return Ok(epoch.to_owned()),
        (Durability::Strict, None) => (new_epoch(), "strict".to_owned()),
        (Durability::Relaxed, kept) => {
            let state = relaxed.unwrap_or_else(|| "relaxed".to_owned());
            (kept.map_or_else(new_epoch, str::to_owned), state)
        }
    };
    write_run(root, owner, &epoch, &state).map_err(|error| failure::at(&path, error))?;
    Ok(epoch)
}

/// What tells one start of the operating system from the next; `None`: this system does not say.
fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Uuid::try_parse(id.trim()).ok().map(|id| id.simple().to_string())
}

fn new_epoch() -> String {
    Uuid::new_v4().simple().to_string()
}

/// Reads the mark, or nothing from a named pipe in its place.
fn read_run(path: &Path) -> io::Result<String> {
    io::read_to_string(OpenOptions::new().read(true).custom_flags(NO_WAIT).open(path)?)
}

fn write_run(root: &Path, owner: Option<FolderOwner>, epoch: &str, state: &str) -> io::Result<()> {
    let text = format!("{epoch} {state}\n");
    let new = root.join(RUN_NEW);
    let written = write_whole(&new, owner, &text).and_then(|()| fs::rename(&new, root.join(RUN)));
    if let Err(error) = written {
        // It may hold the very space that is missing.
        let _ = fs::remove_file(&new);
        overwrite(&root.join(RUN), &text).map_err(|_| error)?;
    }
    File::open(root)?.sync_all()
}

fn write_whole(path: &Path, owner: Option<FolderOwner>, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true);
    let mut file = FolderOwner::create(owner, options, path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Writes over a small file in place, which needs no space. Half a mark is read as none, and that
/// is an unclean stop: the safe reading.
fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(NO_WAIT).open(path)?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)?;
    file.sync_all()
}
