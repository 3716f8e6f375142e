//! Listings: the keys below a prefix in byte order, from unordered folders.
//!
//! The names in a folder are sorted as they appear in keys, a folder's with a `/` at its end (`a-b`
//! comes before `a/b`), so that a walk from name to name meets the keys in their order. Folders
//! that cannot contribute are not read. Of a folder at most [`NAMES_MAX`] names (or the page's
//! limit, if that is larger) are kept at a time; one with more is re-read for the rest.

use std::collections::BinaryHeap;
use std::fmt::Display;
use std::fs::{DirEntry, File};
use std::ops::Bound;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType};

use super::{FsInner, failure, name_cache};
use crate::{Error, ErrorKind, Key, ListPage, ListRequest, Listed, Result};

/// How many names of a folder are kept in memory at least.
const NAMES_MAX: usize = 1024;

/// A page as it grows.
struct PageBuilder<'r> {
    request: &'r ListRequest,
    entries: Vec<Listed>,
    prefixes: Vec<String>,
    /// Something was found that the limit did not admit.
    cut: bool,
}

/// Some of the names in a folder, in order.
struct FolderNames {
    /// Full keys of files, and of folders with a `/` at the end.
    sorted: Vec<String>,
    /// Whether the folder has more after these.
    more: bool,
}

impl PageBuilder<'_> {
    /// Whether a file, or anything below a folder, can be on the page.
    fn wants(&self, name: &str) -> bool {
        let prefix = self.request.prefix.as_str();
        let fits = name.starts_with(prefix) || is_folder(name) && prefix.starts_with(name);
        fits && self.request.start_after.as_deref().is_none_or(|after| {
            name > after || is_folder(name) && !self.folds(name) && after.starts_with(name)
        })
    }

    /// No name in a folder that is smaller than this can be on the page.
    fn first(&self, folder: &str) -> &str {
        let below = |text: &str| {
            let Some(rest) = text.strip_prefix(folder) else { return 0 };
            folder.len() + rest.find('/').unwrap_or(rest.len())
        };
        let prefix = self.request.prefix.as_str();
        let after = self.request.start_after.as_deref().unwrap_or("");
        let prefix = prefix.get(..below(prefix)).unwrap_or("");
        prefix.max(after.get(..below(after)).unwrap_or(""))
    }

    /// Whether no name after this one can be on the page.
    fn is_past(&self, name: &str) -> bool {
        let prefix = self.request.prefix.as_str();
        name > prefix && !name.starts_with(prefix)
    }

    /// Whether a folder is shown as a common prefix.
    fn folds(&self, name: &str) -> bool {
        let prefix = self.request.prefix.as_str();
        self.request.delimiter
            && is_folder(name)
            && name.len() > prefix.len()
            && name.starts_with(prefix)
    }

    /// Whether there is room for another name, which is noted.
    fn has_room(&mut self) -> bool {
        self.cut = self.entries.len() + self.prefixes.len() >= self.request.limit.max(1);
        !self.cut
    }

    /// The last name of a page that has no room for all.
    fn next(&self) -> Option<String> {
        let entry = self.entries.last().map(|entry| entry.key.as_str());
        let last = entry.max(self.prefixes.last().map(String::as_str));
        last.filter(|_| self.cut).map(str::to_owned)
    }
}

fn is_folder(name: &str) -> bool {
    name.ends_with('/')
}

impl FsInner {
    pub(super) fn list(&self, request: &ListRequest) -> Result<ListPage> {
        // Before anything is read: what is written from now on is not older than the response.
        let date = self.clock.now();
        let (entries, prefixes) = (Vec::new(), Vec::new());
        let mut page = PageBuilder { request, entries, prefixes, cut: false };
        let folder =
            request.prefix.rfind('/').and_then(|end| request.prefix.get(..=end)).unwrap_or("");
        if Key::is_valid(&format!("{folder}x")) {
            self.walk(folder, &mut page)?;
        }
        let next = page.next();
        Ok(ListPage { entries: page.entries, prefixes: page.prefixes, next, date })
    }

    /// Adds what a folder (`""`, or with a `/` at its end) holds to the page, until it is full.
    fn walk(&self, folder: &str, page: &mut PageBuilder<'_>) -> Result<()> {
        let mut after: Option<String> = None;
        // Looking files up from here spares the way from the root for each.
        let Some(opened) = self.open_folder(folder)? else { return Ok(()) };
        loop {
            let names = self.names(folder, page, after.as_deref())?;
            after = names.sorted.last().filter(|_| names.more).cloned();
            for name in names.sorted {
                self.visit(name, &opened, page)?;
                if page.cut {
                    return Ok(());
                }
            }
            if !names.more {
                return Ok(());
            }
        }
    }

    /// A folder, if it is there.
    fn open_folder(&self, folder: &str) -> Result<Option<File>> {
        let path = self.folders.path(folder.strip_suffix('/').unwrap_or(folder));
        match self.disk.open(&path).map_err(|error| failure::lookup(folder, error)) {
            Ok(file) => Ok(Some(file)),
            Err(error) => self.no_folder(&path, error).map(|()| None),
        }
    }

    /// A folder that was not found is absent, unless something else is in its place.
    fn no_folder(&self, folder: &Path, error: Error) -> Result<()> {
        absent_is((), error)?;
        self.check_folders(folder)
    }

    /// Fails if a path, or one above it, is a link that leads nowhere, or what no store makes: then nothing is known of
    /// what it should hold, and GC must not take that for absent.
    pub(super) fn check_folders(&self, path: &Path) -> Result<()> {
        for path in path.ancestors().take_while(|path| *path != self.root.path()) {
            let found = match self.disk.symlink_metadata(path) {
                Ok(found) => found,
                Err(error) => {
                    absent_is((), failure::lookup(path.display(), error))?;
                    continue;
                }
            };
            if found.is_symlink() {
                let led = self.root.meet_link(path);
                return led.map(drop).map_err(|error| failure::ambiguous(path.display(), error));
            }
            return match found.is_dir() || found.is_file() {
                true => Ok(()),
                false => Err(is_no_file(path.display())),
            };
        }
        Ok(())
    }

    fn visit(&self, name: String, folder: &File, page: &mut PageBuilder<'_>) -> Result<()> {
        if page.folds(&name) {
            if self.holds_a_key(&name)? && page.has_room() {
                page.prefixes.push(name);
            }
            return Ok(());
        }
        if is_folder(&name) {
            return self.walk(&name, page);
        }
        if let Some(listed) = listed(name, folder)?
            && page.has_room()
        {
            page.entries.push(listed);
        }
        Ok(())
    }

    /// The smallest names in a folder that a page wants, after one. A folder that no longer exists
    /// holds none.
    fn names(
        &self,
        folder: &str,
        page: &PageBuilder<'_>,
        after: Option<&str>,
    ) -> Result<FolderNames> {
        let max = page.request.limit.saturating_add(1).max(NAMES_MAX);
        if let Some(names) = self.names_known(folder, page, after, max) {
            return Ok(names);
        }
        let mut smallest = BinaryHeap::new();
        let mut more = false;
        self.each_name(folder, |name| {
            if page.wants(&name) && after.is_none_or(|after| name.as_str() > after) {
                smallest.push(name);
            }
            if smallest.len() > max {
                smallest.pop();
                more = true;
            }
            true
        })?;
        Ok(FolderNames { sorted: smallest.into_sorted_vec(), more })
    }

    /// The same of a folder whose names are remembered.
    fn names_known(
        &self,
        folder: &str,
        page: &PageBuilder<'_>,
        after: Option<&str>,
        max: usize,
    ) -> Option<FolderNames> {
        let mut names = FolderNames { sorted: Vec::new(), more: false };
        let first = page.first(folder);
        let from = match after {
            Some(after) if after >= first => Bound::Excluded(after),
            Some(_) | None => Bound::Included(first),
        };
        let cache = &self.folders.names;
        cache.each_from(folder.strip_suffix('/').unwrap_or(folder), from, |name| {
            if page.wants(name) {
                names.more = names.sorted.len() >= max;
                if !names.more {
                    names.sorted.push(name.to_owned());
                }
            }
            !names.more && !page.is_past(name)
        })?;
        Some(names)
    }

    /// Whether there is any object below a folder.
    fn holds_a_key(&self, folder: &str) -> Result<bool> {
        let mut folders = Vec::new();
        let mut found = false;
        self.each_name(folder, |name| {
            found = !is_folder(&name);
            if !found {
                folders.push(name);
            }
            !found
        })?;
        for below in folders {
            if found || self.holds_a_key(&below)? {
                return Ok(true);
            }
        }
        Ok(found)
    }

    /// Calls `see` for the full key of every file and folder that a key can name, until it
    /// says no. Nothing in the folder changes meanwhile. What an earlier run left is swept.
    fn each_name(&self, folder: &str, mut see: impl FnMut(String) -> bool) -> Result<()> {
        let name = folder.strip_suffix('/').unwrap_or(folder);
        let fail = |error| failure::lookup(folder, error);
        let _held = self.folders.exclusive(name);
        let mut all = Vec::new();
        let path = self.folders.path(name);
        let entries = match self.disk.names(&path) {
            Ok(entries) => entries,
            Err(error) => return self.no_folder(&path, fail(error)),
        };
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let Ok(component) = entry.file_name().into_string() else { continue };
            if self.is_left_over(&component)
                || self.is_expired_upload(&component, || entry.metadata())
            {
                // If it cannot be removed it stays invisible, and the next listing tries again.
                if !self.is_read_only {
                    let _ = self.disk.unlink(&entry.path());
                }
                continue;
            }
            let full = format!("{folder}{component}");
            if !Key::is_valid(&full) {
                continue;
            }
            let Some(is_folder) = self.is_folder_entry(&entry, folder)? else { continue };
            let full = if is_folder { full + "/" } else { full };
            if all.len() <= name_cache::REMEMBERED_MAX {
                all.push(full.clone());
            }
            if !see(full) {
                return Ok(());
            }
        }
        // Others may change a folder that is only read here.
        if !self.is_read_only {
            self.folders.names.keep(name, all);
        }
        Ok(())
    }

    /// Whether an entry is a folder (or a link to one); nothing if it is gone.
    /// Links are followed because look-ups follow them. What is neither file nor folder has taken the place of an
    /// object, of which reads say that nothing is known: without it, it would look deleted.
    fn is_folder_entry(&self, entry: &DirEntry, folder: &str) -> Result<Option<bool>> {
        let mut kind = entry.file_type().map_err(|error| failure::lookup(folder, error))?;
        if kind.is_symlink() {
            let met = self.root.meet_link(&entry.path());
            let Some(led) = met.map_err(|error| failure::ambiguous(folder, error))? else {
                return Ok(None);
            };
            kind = led;
        }
        Ok(Some(kind.is_dir()))
    }
}

/// Something took the place of an object or of a folder: what was there must not appear absent.
pub(super) fn is_no_file(key: impl Display) -> Error {
    Error::with_source(ErrorKind::Unavailable, key, "it is no regular file: remove it")
}

/// What a listing tells of a file in a folder, unless one of them is gone by now.
fn listed(name: String, folder: &File) -> Result<Option<Listed>> {
    let Ok(key) = Key::try_from(name) else { return Ok(None) };
    let file = key.as_str().rsplit_once('/').map_or(key.as_str(), |(_, file)| file);
    let stat = match rustix::fs::statat(folder, file, AtFlags::empty()) {
        Ok(stat) => stat,
        Err(error) => return absent_is(None, failure::lookup(&key, error.into())),
    };
    if FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Ok(None);
    }
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let last_modified = SystemTime::UNIX_EPOCH
        .checked_add(Duration::new(seconds, nanos))
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
    Ok(Some(Listed { key, size_bytes, last_modified, etag: None }))
}

fn absent_is<T>(absent: T, error: Error) -> Result<T> {
    if error.is_not_found() { Ok(absent) } else { Err(error) }
}
