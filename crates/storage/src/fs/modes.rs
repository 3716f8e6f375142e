//! File modes: only the user that runs the store can read or change what lies in its folder.
//!
//! Files and folders are created with [`FILE_MODE`] and [`FOLDER_MODE`], so no umask makes them
//! wider. [`restrict`] narrows what an earlier version created under a wider umask. A folder that
//! no other user can enter protects everything below it, so only the root, the files in the root
//! and the folders with secrets are checked: starting takes the same time however much is stored.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Mode of every folder that a store creates.
pub(super) const FOLDER_MODE: u32 = 0o700;
/// Mode of every file that a store creates.
pub(super) const FILE_MODE: u32 = 0o600;

/// Every permission of the group and of others.
const SHARED_BITS: u32 = 0o077;
/// Maximum number of names that one start checks.
const NAMES_MAX: usize = 100_000;

/// What [`restrict`] did.
#[derive(Debug, Default)]
pub(super) struct Restricted {
    /// Files and folders whose mode was changed.
    pub(super) changed: u64,
    /// The first one whose mode could not be changed, and why.
    pub(super) failed: Option<(PathBuf, io::Error)>,
    looked_at: usize,
}

/// Takes all permissions of the group and of others from a folder, the files in it, and everything
/// below those of its folders that hold secrets. Symbolic links are not followed.
pub(super) fn restrict(root: &Path, private_folders: &[&str]) -> Restricted {
    let mut done = Restricted::default();
    done.visit(root, &mut Vec::new());
    let mut folders = Vec::new();
    for path in done.names(root) {
        let is_private = path.file_name().and_then(|name| name.to_str());
        match is_private.is_some_and(|name| private_folders.contains(&name)) {
            true => done.visit(&path, &mut folders),
            false => done.visit_file(&path),
        }
    }
    while let Some(folder) = folders.pop() {
        for path in done.names(&folder) {
            done.visit(&path, &mut folders);
        }
    }
    done
}

impl Restricted {
    /// The paths in a folder, up to the limit of all.
    fn names(&mut self, folder: &Path) -> Vec<PathBuf> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                self.note(folder, error);
                return Vec::new();
            }
        };
        let left = NAMES_MAX.saturating_sub(self.looked_at);
        let paths: Vec<_> = entries.flatten().map(|entry| entry.path()).take(left).collect();
        self.looked_at += paths.len();
        paths
    }

    /// Narrows the mode of a file or folder; the latter is recorded, to be read.
    fn visit(&mut self, path: &Path, folders: &mut Vec<PathBuf>) {
        let Some(metadata) = self.look(path) else { return };
        self.narrow(path, &metadata);
        if metadata.is_dir() {
            folders.push(path.to_owned());
        }
    }

    /// The same for a file alone.
    fn visit_file(&mut self, path: &Path) {
        if let Some(metadata) = self.look(path).filter(Metadata::is_file) {
            self.narrow(path, &metadata);
        }
    }

    /// What has this name, if it is a file or a folder.
    fn look(&mut self, path: &Path) -> Option<Metadata> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => (metadata.is_file() || metadata.is_dir()).then_some(metadata),
            Err(error) => {
                self.note(path, error);
                None
            }
        }
    }

    fn narrow(&mut self, path: &Path, metadata: &Metadata) {
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & SHARED_BITS == 0 {
            return;
        }
        match fs::set_permissions(path, Permissions::from_mode(mode & !SHARED_BITS)) {
            Ok(()) => self.changed += 1,
            Err(error) => self.note(path, error),
        }
    }

    fn note(&mut self, path: &Path, error: io::Error) {
        if error.kind() != io::ErrorKind::NotFound {
            self.failed.get_or_insert_with(|| (path.to_owned(), error));
        }
    }

    /// Logs the changes, if there were any.
    pub(super) fn log(&self, root: &Path) {
        let folder = root.display();
        if self.changed > 0 {
            tracing::warn!(
                %folder, changed = self.changed,
                "file modes narrowed to 0700 and 0600: other users could read the storage folder"
            );
        }
        if let Some((path, error)) = &self.failed {
            tracing::warn!(
                path = %path.display(), %error,
                "cannot narrow a file mode: other users may read the storage folder; make its \
                 owner the user that runs jreg and its mode 0700"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn make(path: &Path, is_folder: bool, mode: u32) {
        if is_folder {
            fs::create_dir(path).unwrap()
        } else {
            fs::write(path, "1").unwrap()
        }
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn root_its_files_and_secrets_become_private_and_links_are_not_followed() {
        let above = tempfile::tempdir().unwrap();
        let (root, outside) = (above.path().join("root"), above.path().join("outside"));
        make(&root, true, 0o2775);
        make(&outside, false, 0o644);
        let (secrets, content) = (root.join("auth"), root.join("blobs"));
        for folder in [&secrets, &secrets.join("robots"), &content] {
            make(folder, true, 0o755);
        }
        for file in ["jreg.json", ".log-0", "auth/keys", "auth/robots/1", "blobs/1"] {
            make(&root.join(file), false, 0o644);
        }
        make(&secrets.join("narrow"), false, 0o400);
        symlink(&outside, root.join("link")).unwrap();
        symlink(&outside, secrets.join("link")).unwrap();

        let done = restrict(&root, &["auth"]);
        assert_eq!((done.changed, done.failed.is_none()), (7, true));
        assert_eq!(mode(&root), 0o2700);
        for folder in ["auth", "auth/robots"] {
            assert_eq!(mode(&root.join(folder)), 0o700, "{folder}");
        }
        for file in ["jreg.json", ".log-0", "auth/keys", "auth/robots/1"] {
            assert_eq!(mode(&root.join(file)), 0o600, "{file}");
        }
        assert_eq!(mode(&secrets.join("narrow")), 0o400);
        assert_eq!((mode(&content), mode(&content.join("1"))), (0o755, 0o644), "the root shields");
        assert_eq!(mode(&outside), 0o644);
        assert_eq!(restrict(&root, &["auth"]).changed, 0, "once is enough");
    }
}
