//! [`FolderLocks`]: which folders are there for good, and who may use one at the same time.
//!
//! Folders come with the first key below them and go with the last. Each is guarded by a lock
//! out of a fixed number (*stripes*):
//!
//! - creating, replacing or removing a **file** in a folder locks it *shared*, until the change is
//!   durable;
//! - reading the **names** locks it *exclusively*: a directory read that overlaps a rename can miss
//!   a name that was there all the time;
//! - creating a **folder** locks its parent exclusively;
//! - removing an empty folder locks its parent shared and the folder exclusively.
//!
//! *Known* folders exist, and are *settled* once they are durable, which the operations that need
//! it ensure ([`FolderLocks::settle`]): a file that is in the log brings its folders along. One is
//! forgotten only together with its removal, so a known folder exists as long as its lock is held.
//! The last rule needs two locks; parent and folder come from different sets of stripes (by the
//! parity of their depth), and the second is only tried, so there is no cycle to wait in. A write
//! of several files holds their folders shared, and takes the locks in one order: the even first,
//! then by index.

use std::collections::{BTreeSet, HashMap};
use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::disk::Disk;
use super::failure;
use super::name_cache::NamesCache;
use super::sync::Syncs;
use crate::{Error, ErrorKind, Result};

const FOLDER_STRIPES: usize = 256;
/// When this many folders are known, all are forgotten: that costs a sync each, and no more.
const KNOWN_MAX: usize = 16 * 1024;
/// How often a folder may vanish (with a neighbour's last key) before it can be used.
const ATTEMPTS_MAX: usize = 100;

/// A fixed number of locks for any number of names.
#[derive(Debug)]
pub(super) struct Stripes(Vec<RwLock<()>>);

impl Stripes {
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).map(|_| RwLock::default()).collect())
    }

    fn index(&self, name: &str) -> usize {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        usize::try_from(hasher.finish() % self.0.len() as u64).expect("a length is a usize")
    }

    fn of(&self, name: &str) -> &RwLock<()> {
        self.0.get(self.index(name)).expect("index is below the length")
    }

    /// The locks of some names in the order in which all are taken, each once.
    fn of_all<'n>(&self, names: impl Iterator<Item = &'n str>) -> Vec<&RwLock<()>> {
        let indexes: BTreeSet<_> = names.map(|name| self.index(name)).collect();
        indexes.into_iter().filter_map(|index| self.0.get(index)).collect()
    }

    pub(super) fn shared(&self, name: &str) -> RwLockReadGuard<'_, ()> {
        take_shared(self.of(name))
    }

    pub(super) fn exclusive(&self, name: &str) -> RwLockWriteGuard<'_, ()> {
        take_exclusive(self.of(name))
    }

    pub(super) fn all_exclusive<'n>(
        &self,
        names: impl Iterator<Item = &'n str>,
    ) -> Vec<RwLockWriteGuard<'_, ()>> {
        self.of_all(names).into_iter().map(take_exclusive).collect()
    }

    fn all_shared<'n>(&self, names: impl Iterator<Item = &'n str>) -> Vec<RwLockReadGuard<'_, ()>> {
        self.of_all(names).into_iter().map(take_shared).collect()
    }

    fn try_exclusive(&self, name: &str) -> Option<RwLockWriteGuard<'_, ()>> {
        self.of(name).try_write().ok()
    }
}

fn take_shared(lock: &RwLock<()>) -> RwLockReadGuard<'_, ()> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn take_exclusive(lock: &RwLock<()>) -> RwLockWriteGuard<'_, ()> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// The folders below a root, each named as keys are: `"a/b"`, and `""` for the root itself.
#[derive(Debug)]
pub(super) struct FolderLocks {
    root: PathBuf,
    disk: Disk,
    even: Stripes,
    odd: Stripes,
    /// The only file system (`st_dev`) on which a folder may be; `None`: any. The log is synced with it.
    device: Option<u64>,
    /// Whether they are settled.
    known: Mutex<HashMap<String, bool>>,
    /// The names in those that have many.
    pub(super) names: NamesCache,
}

/// The folder of a key or of a folder.
pub(super) fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl FolderLocks {
    pub(super) fn new(root: PathBuf, device: Option<u64>, disk: Disk) -> Self {
        let (even, odd) = (Stripes::new(FOLDER_STRIPES), Stripes::new(FOLDER_STRIPES));
        let (known, names) = (Mutex::default(), NamesCache::default());
        Self { root, disk, even, odd, device, known, names }
    }

    /// Refuses what lies on another file system than the log.
    pub(super) fn check_device(&self, name: &str, metadata: &Metadata) -> Result<()> {
        if self.device.is_none_or(|device| device == metadata.dev()) {
            return Ok(());
        }
        let why = "it is on another file system than the store, whose log is not synced with it";
        Err(Error::with_source(ErrorKind::Refused, name, why))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        // Joining "" would end the path in a slash.
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }

    fn stripes(&self, folder: &str) -> &Stripes {
        let depth = if folder.is_empty() { 0 } else { folder.split('/').count() };
        if depth.is_multiple_of(2) { &self.even } else { &self.odd }
    }

    /// Holds a folder in which files change.
    pub(super) fn shared(&self, folder: &str) -> RwLockReadGuard<'_, ()> {
        self.stripes(folder).shared(folder)
    }

    /// Holds folders in which files change.
    fn all_shared<'n>(
        &self,
        folders: impl Iterator<Item = &'n str>,
    ) -> Vec<RwLockReadGuard<'_, ()>> {
        let (even, odd): (Vec<_>, Vec<_>) =
            folders.partition(|folder| std::ptr::eq(self.stripes(folder), &raw const self.even));
        let mut held = self.even.all_shared(even.into_iter());
        held.extend(self.odd.all_shared(odd.into_iter()));
        held
    }

    /// Holds a folder whose names are read, or in which a folder is made.
    pub(super) fn exclusive(&self, folder: &str) -> RwLockWriteGuard<'_, ()> {
        self.stripes(folder).exclusive(folder)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, bool>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_known(&self, folder: &str) -> bool {
        folder.is_empty() || self.known().contains_key(folder)
    }

    fn remember(&self, folder: &str) {
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.entry(folder.to_owned()).or_insert(false);
    }

    fn is_settled(&self, folder: &str) -> bool {
        folder.is_empty() || self.known().get(folder).is_some_and(|settled| *settled)
    }

    /// Makes the names in a folder durable, and those of the folder and of the ones above it. The
    /// folder is held, so all of them stay.
    pub(super) fn settle(&self, folder: &str, syncs: &Syncs) -> io::Result<()> {
        syncs.folder(&self.path(folder))?;
        let mut name = folder;
        while !self.is_settled(name) {
            let above = parent(name);
            syncs.folder(&self.path(above))?;
            if let Some(settled) = self.known().get_mut(name) {
                *settled = true;
            }
            name = above;
        }
        Ok(())
    }

    /// Does something in a folder that it makes if need be. The folder is held shared meanwhile.
    /// If `work` finds it missing (`NotFound`) it is made again.
    pub(super) fn within<T>(
        &self,
        folder: &str,
        mut work: impl FnMut(&Path) -> Result<T>,
    ) -> Result<T> {
        let path = self.path(folder);
        self.within_all(&[folder], || work(&path))
    }

    /// The same with several folders.
    pub(super) fn within_all<T>(
        &self,
        folders: &[&str],
        mut work: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        for _ in 0..ATTEMPTS_MAX {
            let held = self.all_shared(folders.iter().copied());
            if folders.iter().all(|folder| self.is_known(folder)) {
                match work() {
                    Err(error) if error.is_not_found() => {
                        folders.iter().for_each(|folder| self.forget_all(folder));
                    }
                    done => return done,
                }
            }
            drop(held);
            folders.iter().try_for_each(|folder| self.make(folder))?;
        }
        Err(vanishes(folders.first().copied().unwrap_or_default()))
    }

    /// Another process removed a folder; its parents may be missing too.
    fn forget_all(&self, folder: &str) {
        let mut known = self.known();
        let mut name = folder;
        while !name.is_empty() {
            known.remove(name);
            name = parent(name);
        }
    }

    fn make(&self, folder: &str) -> Result<()> {
        if self.is_known(folder) {
            return Ok(());
        }
        let above = parent(folder);
        for _ in 0..ATTEMPTS_MAX {
            let held = self.exclusive(above);
            if self.is_known(above) {
                match self.make_in_known(folder) {
                    Err(error) if error.is_not_found() => self.forget_all(above),
                    done => return done,
                }
            }
            drop(held);
            if above.is_empty() {
                break;
            }
            self.make(above)?;
        }
        Err(vanishes(folder))
    }

    fn make_in_known(&self, folder: &str) -> Result<()> {
        if self.is_known(folder) {
            return Ok(());
        }
        let path = self.path(folder);
        match self.disk.create_folder(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match self.disk.metadata(&path) {
                    Ok(found) if found.is_dir() => self.check_device(folder, &found)?,
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(failure::ambiguous(folder, error));
                    }
                    _ => return Err(failure::write(folder, io::ErrorKind::NotADirectory.into())),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(failure::lookup(folder, error));
            }
            Err(error) => {
                self.names.forget(parent(folder));
                return Err(failure::write(folder, error));
            }
        }
        self.names.add(parent(folder), &format!("{folder}/"));
        self.remember(folder);
        Ok(())
    }

    /// Removes a folder if it is empty, and then the one above it. A folder that is in use stays.
    /// That is not made durable: an empty folder that a crash brings back does no harm.
    pub(super) fn prune(&self, folder: &str) {
        let mut name = folder;
        while !name.is_empty() {
            let above = parent(name);
            let _above = self.shared(above);
            let Some(_held) = self.stripes(name).try_exclusive(name) else { return };
            match self.disk.remove_folder(&self.path(name)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return,
                Err(_) => {
                    self.known().remove(name);
                    self.names.forget(above);
                    return;
                }
            }
            self.known().remove(name);
            self.names.forget(name);
            self.names.remove(above, &format!("{name}/"));
            name = above;
        }
    }
}

fn vanishes(folder: &str) -> Error {
    Error::with_source(ErrorKind::Unavailable, folder, "the folder vanishes as often as it is made")
}
