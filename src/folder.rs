//! Inspects a folder before it is opened as storage: a registry, empty, or another program's files,
//! which are left alone. Nothing here creates or changes a file.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The marker file of a registry (docs/format.md).
const MARK: &str = "jreg.json";
/// The marker file that the folder store writes first: an epoch and a word.
const RUN: &str = ".run";
/// Maximum length of that file, in bytes.
const RUN_BYTES_MAX: u64 = 64;
/// Names that file systems create in the root of a volume.
const OF_FILE_SYSTEMS: [&str; 2] = ["lost+found", ".snapshot"];
/// Prefixes of files and folders that an interrupted start may leave before the marker files.
const OF_STARTS: [&str; 5] = [".lock", ".run", ".log-", ".reserve", ".tmp-"];
/// Maximum number of names in a message.
const NAMES_SHOWN: usize = 5;
/// Maximum number of folders searched for an OCI layout, and their maximum depth.
const FOLDERS_SEARCHED: usize = 1000;
const DEPTH_SEARCHED: usize = 4;

#[derive(Debug, PartialEq, Eq)]
pub enum FolderContent {
    /// The folder does not exist.
    Absent,
    /// Empty, except for names of file systems and interrupted starts.
    Empty,
    Registry,
    /// Another program's files.
    Foreign(ForeignFolder),
}

/// A folder with another program's files.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct ForeignFolder {
    folder: PathBuf,
    /// The detected program.
    kind: Option<String>,
    /// The first names in it.
    names: Vec<String>,
    /// Number of further names.
    more: usize,
}

impl fmt::Display for ForeignFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folder {} is not empty and holds no {MARK}: ", self.folder.display())?;
        match &self.kind {
            Some(kind) => write!(
                f,
                "it looks like {kind}; name an empty folder with --storage, and copy the images with \
                 jreg import {} --storage FOLDER",
                self.folder.display()
            ),
            None => {
                write!(f, "it holds {}", self.names.join(", "))?;
                if self.more > 0 {
                    write!(f, " and {} more", self.more)?;
                }
                f.write_str("; name an empty folder with --storage")
            }
        }
    }
}

/// Inspects a folder.
///
/// # Errors
///
/// The folder cannot be read.
pub fn look(folder: &Path) -> io::Result<FolderContent> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FolderContent::Absent),
        Err(error) => return Err(error),
    };
    if folder.join(MARK).is_file() || is_run_mark(&folder.join(RUN)) {
        return Ok(FolderContent::Registry);
    }
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !is_incidental(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Ok(FolderContent::Empty);
    }
    names.sort();
    let kind = kind(folder, &names);
    let more = names.len().saturating_sub(NAMES_SHOWN);
    names.truncate(NAMES_SHOWN);
    // Control characters must not break the line.
    let names = names.iter().map(|name| name.escape_debug().to_string()).collect();
    Ok(FolderContent::Foreign(ForeignFolder { folder: folder.to_owned(), kind, names, more }))
}

/// Whether an interrupted start or the file system may have left something of this name in the root of a store.
pub fn is_incidental(name: &str) -> bool {
    OF_FILE_SYSTEMS.contains(&name) || OF_STARTS.iter().any(|start| name.starts_with(start))
}

/// Whether the folder store wrote this: `EPOCH WORD`.
fn is_run_mark(path: &Path) -> bool {
    let mut text = String::new();
    let read = File::open(path)
        .and_then(|file| file.take(RUN_BYTES_MAX).read_to_string(&mut text))
        .is_ok();
    let epoch = text.split_once(' ').map(|(epoch, _)| epoch);
    read && epoch.is_some_and(|epoch| uuid::Uuid::try_parse(epoch).is_ok())
}

/// The program whose storage layout a folder has.
fn kind(folder: &Path, names: &[String]) -> Option<String> {
    if folder.join("docker/registry/v2").is_dir() {
        return Some("the storage of distribution or Harbor (docker/registry/v2)".to_owned());
    }
    if folder.join("v2/repositories").is_dir() || folder.join("v2/blobs").is_dir() {
        return Some("the storage of angos, or a part of that of distribution (v2)".to_owned());
    }
    let layout = layout_below(folder)?;
    let layout = layout.strip_prefix(folder).unwrap_or(&layout).display().to_string();
    let program = match names.iter().any(|name| name == "cache.db" || name == "_trivy") {
        true => "the storage of zot",
        false if layout == "oci-layout" => "an OCI image layout",
        false => "OCI image layouts, as zot and olareg keep them",
    };
    Some(format!("{program} ({layout})"))
}

/// The first `oci-layout` in a folder or below it: repositories with several path components are
/// nested.
fn layout_below(folder: &Path) -> Option<PathBuf> {
    let mut folders = vec![(folder.to_owned(), 0)];
    let mut searched = 0;
    while let Some((folder, depth)) = folders.pop() {
        let layout = folder.join("oci-layout");
        if layout.is_file() {
            return Some(layout);
        }
        searched += 1;
        if searched >= FOLDERS_SEARCHED || depth >= DEPTH_SEARCHED {
            continue;
        }
        let below = fs::read_dir(&folder).into_iter().flatten().flatten();
        let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        let below = below.filter(is_folder).map(|entry| (entry.path(), depth + 1));
        folders.extend(below.take(FOLDERS_SEARCHED));
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A folder with these files; a name that ends in `/` is a folder.
    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            match name.strip_suffix('/') {
                Some(_) => fs::create_dir_all(path).unwrap(),
                None => {
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(path, "").unwrap();
                }
            }
        }
        folder
    }

    fn complaint(names: &[&str]) -> String {
        let folder = folder(names);
        match look(folder.path()).unwrap() {
            FolderContent::Foreign(foreign) => foreign.to_string(),
            other => panic!("{names:?}: {other:?}"),
        }
    }

    #[test]
    fn empty_folders_and_registries_are_told_from_the_rest() {
        let of = |names: &[&str]| look(folder(names).path()).unwrap();
        let above = folder(&[]);
        assert_eq!(look(&above.path().join("absent")).unwrap(), FolderContent::Absent);
        for names in [
            &[][..],
            &["lost+found/"],
            &[".lock", "lost+found/"],
            &[".run", ".log-0", ".reserve", ".tmp-1"],
        ] {
            assert_eq!(of(names), FolderContent::Empty, "{names:?}");
        }
        for names in [&["jreg.json"][..], &["jreg.json", "docker/registry/v2/"]] {
            assert_eq!(of(names), FolderContent::Registry, "{names:?}");
        }
        // After a power failure jreg.json may exist only in the WAL.
        let cut = folder(&["auth/keys", ".log-0"]);
        fs::write(cut.path().join(".run"), format!("{} strict\n", "0".repeat(32))).unwrap();
        assert_eq!(look(cut.path()).unwrap(), FolderContent::Registry);
        assert!(look(&folder(&["file"]).path().join("file")).is_err());
    }

    #[test]
    fn the_storage_of_another_registry_is_named() {
        for (names, what) in [
            (
                &["docker/registry/v2/blobs/"][..],
                "the storage of distribution or Harbor (docker/registry/v2)",
            ),
            (
                &["v2/repositories/a/"],
                "the storage of angos, or a part of that of distribution (v2)",
            ),
            (&["oci-layout", "index.json", "blobs/"], "an OCI image layout (oci-layout)"),
            (
                &["a/b/oci-layout", "a/b/index.json"],
                "OCI image layouts, as zot and olareg keep them (a/b/oci-layout)",
            ),
            (&["cache.db", "a/oci-layout"], "the storage of zot (a/oci-layout)"),
        ] {
            let told = complaint(names);
            let expected = format!("it looks like {what}; name an empty folder with --storage");
            assert!(told.contains(&expected) && told.contains("jreg import /"), "{told}");
        }
    }

    #[test]
    fn of_other_folders_the_first_names_are_told() {
        let told = complaint(&["passwd", "hosts", "a\nb"]);
        assert!(told.contains("it holds a\\nb, hosts, passwd; name an empty"), "{told}");
        let told = complaint(&["a", "b", "c", "d", "e", "f", "g"]);
        assert!(told.contains("it holds a, b, c, d, e and 2 more"), "{told}");
        // A foreign file among those of an interrupted start.
        assert!(complaint(&[".profile"]).contains("it holds .profile"));
    }
}
