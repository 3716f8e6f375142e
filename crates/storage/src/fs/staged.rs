//! The files of uploads that are not completed, as a listing of their own: no key names them.

use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;

use super::uploads::STAGING;
use super::{FsInner, failure};
use crate::{Multipart, Result, StagedUpload};

impl FsInner {
    /// The files of uploads below a folder of the root.
    pub(super) fn staged_uploads(&self, folder: &str) -> Result<Vec<StagedUpload>> {
        self.check_root(folder)?;
        let being_written = self.uploads.temporary_names();
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(self.root.path().join(&folder)) {
                Ok(entries) => entries,
                // It was empty, and another thread has removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failure::ambiguous(folder, error)),
            };
            for entry in entries {
                let entry = entry.map_err(|error| failure::ambiguous(folder.as_str(), error))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = format!("{folder}/{name}");
                if name.starts_with('.') {
                    let id = name.strip_prefix(STAGING).map(str::to_owned);
                    let may_be_named = id.is_some();
                    let id = id.or_else(|| being_written.get(&path).cloned());
                    found.extend(id.and_then(|id| staged(&folder, id, &entry, may_be_named)));
                } else if is_folder(&entry, &self.root.path().join(&path)) {
                    folders.push(path);
                }
            }
        }
        Ok(found)
    }
}

/// A folder, or a symbolic link to one on another disk.
fn is_folder(entry: &DirEntry, path: &Path) -> bool {
    match entry.file_type() {
        Ok(kind) if kind.is_symlink() => path.is_dir(),
        Ok(kind) => kind.is_dir(),
        Err(_) => false,
    }
}

/// An upload's file; `None` if it was completed or removed meanwhile.
fn staged(folder: &str, id: String, entry: &DirEntry, may_be_named: bool) -> Option<StagedUpload> {
    let metadata = entry.metadata().ok()?;
    let key = format!("{folder}/{id}").parse().ok()?;
    let upload = Multipart { key, id, writer: 0, part_bytes: 0, parts: Vec::new() };
    let last_modified = metadata.modified().ok()?;
    Some(StagedUpload { upload, size_bytes: metadata.len(), last_modified, may_be_named })
}
