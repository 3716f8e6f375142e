//! After a crash: what the log says, done to the files.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;

use super::entry::{Change, decode};
use super::{SEGMENTS, remove_segments, sync_all};
use crate::fs::modes::{FILE_MODE, FOLDER_MODE};

/// A file that is written before it takes the place of another.
const TEMPORARY: &str = ".tmp-replay";

/// How a file must be in the end.
#[derive(Debug, PartialEq, Eq)]
enum Last {
    Put(SystemTime, Bytes),
    Absent,
    /// It is this other file, unless that is gone: then it has its name already.
    Moved(String, u64, SystemTime),
}

/// Brings the files of a folder to the state that the log of an earlier run tells of, durably,
/// and removes the log.
///
/// # Errors
///
/// The folder cannot be written: the log stays, and the next try begins anew.
pub(in crate::fs) fn replay(root: &Path) -> io::Result<()> {
    let mut segments = Vec::new();
    for name in SEGMENTS {
        match fs::read(root.join(name)) {
            Ok(bytes) => segments.push(decode(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if segments.is_empty() {
        return Ok(());
    }
    segments.sort_by_key(|(segment, _)| *segment);
    let changes = segments.into_iter().flat_map(|(_, changes)| changes);
    let last = summed_up(changes);
    let files = last.len();
    for (path, last) in last {
        apply(root, &path, last)?;
    }
    sync_all(&File::open(root)?)?;
    remove_segments(root)?;
    if files > 0 {
        tracing::info!(files, "replayed the log of a run that did not end orderly");
    }
    Ok(())
}

fn summed_up(changes: impl Iterator<Item = Change>) -> BTreeMap<String, Last> {
    let mut files = BTreeMap::new();
    for change in changes {
        match change {
            Change::Put { path, modified, bytes } => {
                settle(&mut files, path, Some(Last::Put(modified, bytes)));
            }
            Change::Delete { path } => settle(&mut files, path, Some(Last::Absent)),
            Change::Keep { path } => settle(&mut files, path, None),
            Change::Rename { path, to, size_bytes, modified } => {
                let moved = match files.remove(&path) {
                    Some(Last::Put(_, bytes)) => {
                        files.insert(path, Last::Absent);
                        let end = usize::try_from(size_bytes).unwrap_or(usize::MAX);
                        Last::Put(modified, bytes.slice(..end.min(bytes.len())))
                    }
                    Some(Last::Absent | Last::Moved(..)) | None => {
                        Last::Moved(path, size_bytes, modified)
                    }
                };
                settle(&mut files, to, Some(moved));
            }
        }
    }
    files
}

/// Notes how a file must be, or that it is right as it is. If another was to take its place by a
/// rename, that one's old name goes all the same.
fn settle(files: &mut BTreeMap<String, Last>, path: String, last: Option<Last>) {
    let Some(last) = last else {
        files.remove(&path);
        return;
    };
    if let Some(Last::Moved(from, ..)) = files.insert(path, last) {
        files.insert(from, Last::Absent);
    }
}

fn apply(root: &Path, path: &str, last: Last) -> io::Result<()> {
    let target = below(root, path)?;
    match last {
        Last::Absent => absent_is_fine(fs::remove_file(target)),
        Last::Put(modified, bytes) => put(root, &target, modified, &bytes),
        Last::Moved(from, size_bytes, modified) => {
            let from = below(root, &from)?;
            match File::options().write(true).open(&from) {
                Ok(file) => {
                    file.set_len(size_bytes)?;
                    file.set_modified(modified)?;
                    make_folder_of(&target)?;
                    fs::rename(&from, &target)
                }
                Err(error) => absent_is_fine(Err(error)),
            }
        }
    }
}

fn put(root: &Path, target: &Path, modified: SystemTime, bytes: &[u8]) -> io::Result<()> {
    if is_there(target, modified, bytes) {
        return Ok(());
    }
    let temporary = root.join(TEMPORARY);
    let mut options = File::options();
    let mut file =
        options.write(true).create(true).truncate(true).mode(FILE_MODE).open(&temporary)?;
    file.write_all(bytes)?;
    file.set_modified(modified)?;
    make_folder_of(target)?;
    fs::rename(&temporary, target)
}

/// Whether a file is as it must be: after a crash of the process alone nearly all are.
fn is_there(target: &Path, modified: SystemTime, bytes: &[u8]) -> bool {
    let is_alike = fs::metadata(target).is_ok_and(|metadata| {
        metadata.len() == bytes.len() as u64
            && metadata.modified().is_ok_and(|time| time == modified)
    });
    is_alike && fs::read(target).is_ok_and(|found| found == bytes)
}

fn make_folder_of(target: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(FOLDER_MODE);
    target.parent().map_or(Ok(()), |folder| builder.create(folder))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// The log's bytes are summed, and yet nothing outside the folder is touched on its word.
fn below(root: &Path, path: &str) -> io::Result<PathBuf> {
    let is_plain = path.split('/').all(|name| !matches!(name, "" | "." | ".."));
    if is_plain {
        return Ok(root.join(path));
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("the log names {path:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: SystemTime = SystemTime::UNIX_EPOCH;

    fn put(path: &str, bytes: &'static str) -> Change {
        Change::Put { path: path.to_owned(), modified: THEN, bytes: bytes.into() }
    }

    fn delete(path: &str) -> Change {
        Change::Delete { path: path.to_owned() }
    }

    fn rename(path: &str, to: &str) -> Change {
        let (path, to) = (path.to_owned(), to.to_owned());
        Change::Rename { path, to, size_bytes: 2, modified: THEN }
    }

    fn sum<const N: usize>(changes: [Change; N]) -> Vec<(String, Last)> {
        summed_up(changes.into_iter()).into_iter().collect()
    }

    fn last(path: &str, last: Last) -> (String, Last) {
        (path.to_owned(), last)
    }

    #[test]
    fn the_last_word_counts() {
        let bytes = |bytes: &'static str| Last::Put(THEN, bytes.into());
        assert_eq!(sum([put("a", "1"), put("a", "2")]), [last("a", bytes("2"))]);
        assert_eq!(sum([put("a", "1"), delete("a")]), [last("a", Last::Absent)]);
        assert_eq!(sum([delete("a"), put("a", "1")]), [last("a", bytes("1"))]);
        assert_eq!(sum([put("a", "1"), Change::Keep { path: "a".to_owned() }]), []);
        let moved = Last::Moved("a".to_owned(), 2, THEN);
        assert_eq!(sum([rename("a", "b")]), [last("b", moved)]);
        let both = [last("a", Last::Absent), last("b", bytes("12"))];
        assert_eq!(sum([put("a", "123"), rename("a", "b")]), both);
        let gone = [last("a", Last::Absent), last("b", Last::Absent)];
        assert_eq!(sum([rename("a", "b"), delete("b")]), gone);
    }

    #[test]
    fn nothing_outside_the_folder_is_named() {
        for path in ["../a", "/a", "a//b", "a/./b", ""] {
            assert!(below(Path::new("/root"), path).is_err(), "{path}");
        }
        assert_eq!(below(Path::new("/root"), "a/.b").ok(), Some(PathBuf::from("/root/a/.b")));
    }
}
