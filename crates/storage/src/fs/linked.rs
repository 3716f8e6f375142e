//! [`LinkedFolders`]: the folders of a store that are mount points or symbolic links to elsewhere.
//!
//! They may be unmounted without the root, and then look empty: GC would take the images there for
//! deleted. So they are found at the start, and each operation checks that they are unchanged, as
//! it does for the root. A start looks only so deep; symbolic links that are deeper, or that are made
//! later, are watched from the first listing on that meets them. GC lists what it judges.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, FileType};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use super::root::identity;

/// How deep and how many folders a start checks: on a disk that has not read them before each may
/// take milliseconds.
const DEPTH_MAX: usize = 2;
const FOLDERS_MAX: usize = 1000;

/// The folders, each with the device and inode of what it leads to.
#[derive(Debug)]
pub(super) struct LinkedFolders {
    device: u64,
    folders: Vec<(PathBuf, (u64, u64))>,
    /// Those that listings met: at most [`FOLDERS_MAX`].
    met: RwLock<HashMap<PathBuf, (u64, u64)>>,
}

impl LinkedFolders {
    /// Finds them among the outermost folders.
    ///
    /// # Errors
    ///
    /// A link leads nowhere, or the root cannot be read.
    pub(super) fn find(root: &Path) -> io::Result<Self> {
        let (device, inode) = identity(&fs::metadata(root)?);
        let mut found = Self { device, folders: Vec::new(), met: RwLock::default() };
        let mut seen = HashSet::from([(device, inode)]);
        let mut coming = VecDeque::from([(root.to_owned(), device, 1)]);
        while let Some((folder, device, depth)) = coming.pop_front() {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten().take(FOLDERS_MAX) {
                let kind = entry.file_type()?;
                let is_key = entry.file_name().to_str().is_some_and(|name| !name.starts_with('.'));
                if !is_key || !(kind.is_dir() || kind.is_symlink()) || seen.len() > FOLDERS_MAX {
                    continue;
                }
                let path = entry.path();
                let metadata = fs::metadata(&path).map_err(|error| leads_nowhere(&path, error))?;
                if !metadata.is_dir() {
                    continue;
                }
                let identity = identity(&metadata);
                if kind.is_symlink() || identity.0 != device {
                    found.folders.push((path.clone(), identity));
                }
                if seen.insert(identity) && depth < DEPTH_MAX {
                    coming.push_back((path, identity.0, depth + 1));
                }
            }
        }
        Ok(found)
    }

    /// Whether all of them are on the root's file system.
    pub(super) fn are_on_one_file_system(&self) -> bool {
        self.folders.iter().all(|(_, (device, _))| *device == self.device)
    }

    /// Checks that each leads where it led.
    pub(super) fn check(&self) -> io::Result<()> {
        for (path, expected) in &self.folders {
            leads_to(path, *expected)?;
        }
        let met = self.met.read().unwrap_or_else(PoisonError::into_inner);
        met.iter().try_for_each(|(path, expected)| leads_to(path, *expected))
    }

    /// The kind of what a symbolic link leads to that a listing met; nothing if the link is gone by now.
    /// If it is a folder it is watched from now on.
    ///
    /// # Errors
    ///
    /// It leads nowhere.
    pub(super) fn meet(&self, path: &Path) -> io::Result<Option<FileType>> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(_) if is_gone(path) => return Ok(None),
            Err(error) => return Err(leads_nowhere(path, error)),
        };
        let mut met = self.met.write().unwrap_or_else(PoisonError::into_inner);
        if metadata.is_dir() && !met.contains_key(path) {
            if met.len() < FOLDERS_MAX {
                met.insert(path.to_owned(), identity(&metadata));
            } else {
                tracing::warn!(?path, max = FOLDERS_MAX, "too many symbolic links to watch");
            }
        }
        Ok(Some(metadata.file_type()))
    }
}

fn is_gone(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn leads_to(path: &Path, expected: (u64, u64)) -> io::Result<()> {
    let found = fs::metadata(path).map_err(|error| leads_nowhere(path, error))?;
    match identity(&found) == expected {
        true => Ok(()),
        false => Err(io::Error::other(format!("{path:?} leads to another folder"))),
    }
}

fn leads_nowhere(path: &Path, error: io::Error) -> io::Error {
    let text = format!("{path:?} leads nowhere ({error}): mount what it leads to, or remove it");
    io::Error::new(error.kind(), text)
}
