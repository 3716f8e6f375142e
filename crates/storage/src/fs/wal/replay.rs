//! Replay after a crash: applies the log to the files.
//!
//! Each step may be the last before another crash, and the next start begins anew. The log is read
//! twice: once for how each file must be in the end, and then for the bytes of those that are not. So
//! of a long log only the names are in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::super::disk::{Disk, syncs_all};
use super::super::failure;
use super::entry::WalEntry;
use super::run_mark::RunMark;
use super::scan::{ReplayError, ReplaySegment, SegmentEnd};
use super::{SEGMENTS, TORN, remove_segments};

/// A file that is written before it takes the place of another.
const TEMPORARY: &str = ".tmp-replay";
/// How much of a torn batch is kept for diagnosis.
const TORN_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Where an object's bytes are in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EntrySpan {
    segment: usize,
    start: u64,
    bytes: u64,
}

/// How a file must be in the end.
#[derive(Debug, PartialEq, Eq)]
enum FinalState {
    Put(SystemTime, EntrySpan),
    Absent,
    /// It is this other file, unless that no longer exists: then it has its name already.
    Moved(String, u64, SystemTime),
}

type ReplayedFiles = BTreeMap<String, FinalState>;

/// Brings the files of a folder to the state that the log of an earlier run tells of, durably,
/// and removes the log.
///
/// # Errors
///
/// The folder cannot be written: the log stays, and the next try begins anew. Or the log is damaged, or
/// of an earlier run: nothing was changed.
pub(in crate::fs) fn replay(
    root: &Path,
    disk: &Disk,
    is_one_file_system: bool,
) -> Result<(), ReplayError> {
    let mut segments = Vec::new();
    for name in SEGMENTS {
        segments.extend(open_segment(&root.join(name), disk)?);
    }
    segments.sort_by_key(|segment| segment.first.segment);
    let mark = RunMark::read(root, disk)?;
    if let Some(stale) = segments.iter().find(|segment| !mark.allows(segment.first.run)) {
        return Err(ReplayError::Stale { path: stale.path.clone() });
    }
    if !segments.is_empty() {
        WalReplay { root, disk, is_one_file_system, segments: &segments }.run()?;
    }
    remove_segments(root, disk, names_by_age(&segments))?;
    if let Err(error) = RunMark::close(root, disk) {
        tracing::warn!(%error, "the end of the write-ahead log is not recorded");
    }
    Ok(())
}

/// Whether a folder has a log, whose changes the files may lack.
///
/// # Errors
///
/// As of [`replay`].
pub(in crate::fs) fn has_changes(root: &Path, disk: &Disk) -> Result<bool, ReplayError> {
    for name in SEGMENTS {
        if open_segment(&root.join(name), disk)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn open_segment(path: &Path, disk: &Disk) -> Result<Option<ReplaySegment>, ReplayError> {
    ReplaySegment::open(path, disk).map_err(|error| match error {
        ReplayError::Io(error) => failure::at(path, error).into(),
        other => other,
    })
}

/// The files of the log, in the order in which they are removed: first the empty ones, then the
/// oldest. What is left after any step is replayed over files that have it already.
fn names_by_age(segments: &[ReplaySegment]) -> [&'static str; 2] {
    let newest = segments.last().and_then(|segment| segment.path.file_name());
    let [first, second] = SEGMENTS;
    if newest.is_some_and(|name| name == first) { [second, first] } else { [first, second] }
}

/// The log of an earlier run.
struct WalReplay<'r> {
    root: &'r Path,
    disk: &'r Disk,
    is_one_file_system: bool,
    /// The oldest first.
    segments: &'r [ReplaySegment],
}

impl WalReplay<'_> {
    fn run(&self) -> Result<(), ReplayError> {
        let (files, end) = self.read()?;
        if let (Some(bytes), Some(last)) = (end.torn_bytes, self.segments.last()) {
            self.keep_torn(last, &end, bytes);
        }
        // What is removed makes room for the rest.
        let (absent, present): (Vec<_>, Vec<_>) =
            files.iter().partition(|(_, last)| **last == FinalState::Absent);
        for (path, last) in absent.into_iter().chain(present) {
            self.apply(path, last).map_err(|error| failure::at(&self.root.join(path), error))?;
        }
        self.sync(&files)?;
        tracing::info!(files = files.len(), "write-ahead log replayed after an unclean stop");
        Ok(())
    }

    /// How each file must be, and where the log ends.
    fn read(&self) -> Result<(ReplayedFiles, SegmentEnd), ReplayError> {
        let mut files = BTreeMap::new();
        let mut last: Option<(&ReplaySegment, SegmentEnd)> = None;
        for (index, segment) in self.segments.iter().enumerate() {
            if let Some((older, end)) = &last {
                check_follows(older, end, segment)?;
            }
            let end = segment.each_change(self.disk, |change, end| {
                note(&mut files, change, |bytes| EntrySpan {
                    segment: index,
                    start: end - bytes,
                    bytes,
                });
            })?;
            last = Some((segment, end));
        }
        let end = last.map(|(_, end)| end);
        Ok((files, end.unwrap_or(SegmentEnd { offset: 0, next_batch: 0, torn_bytes: None })))
    }

    /// Keeps a copy of a torn batch. It was not acknowledged, as far as the log tells.
    fn keep_torn(&self, segment: &ReplaySegment, end: &SegmentEnd, bytes: u64) {
        let path = self.root.join(TORN);
        let copy = || {
            let mut torn = vec![0; usize::try_from(bytes.min(TORN_BYTES_MAX)).unwrap_or_default()];
            let there = self.disk.metadata_of(&segment.file)?.len().saturating_sub(end.offset);
            torn.truncate(usize::try_from(there).unwrap_or(usize::MAX));
            self.disk.read_exact_at(&segment.file, &mut torn, end.offset)?;
            self.disk.write_at(&self.disk.create(&path)?, &torn, 0)
        };
        let error = copy().err().map(|error: io::Error| error.to_string());
        tracing::warn!(offset = end.offset, bytes, copy = %path.display(), error, "the last batch of the write-ahead log is torn and is not replayed");
    }

    fn apply(&self, path: &str, last: &FinalState) -> io::Result<()> {
        let target = below(self.root, path)?;
        match last {
            // Where there is a folder by now, the object is absent.
            FinalState::Absent => match absent_is_none(self.disk.unlink(&target)) {
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(()),
                removed => removed.map(drop),
            },
            FinalState::Put(modified, span) => self.put(&target, *modified, *span),
            FinalState::Moved(from, size_bytes, modified) => {
                self.rename(&below(self.root, from)?, &target, *size_bytes, *modified)
            }
        }
    }

    fn rename(
        &self,
        from: &Path,
        to: &Path,
        size_bytes: u64,
        modified: SystemTime,
    ) -> io::Result<()> {
        let file = match self.disk.open_for_writing(from) {
            Ok(file) => file,
            Err(error) if is_absence(&error) => {
                if absent_is_none(self.disk.symlink_metadata(to))?.is_none() {
                    tracing::error!(path = %to.display(), "the write-ahead log references a missing object");
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.disk.set_length(&file, size_bytes)?;
        self.disk.set_modified(&file, modified)?;
        self.make_folder_of(to)?;
        self.disk.rename(from, to)
    }

    fn put(&self, target: &Path, modified: SystemTime, span: EntrySpan) -> io::Result<()> {
        let bytes = self.bytes(span)?;
        if self.is_there(target, modified, &bytes)? {
            return Ok(());
        }
        self.make_folder_of(target)?;
        // Beside it: the folder may be on another file system than the root.
        let temporary = target.with_file_name(TEMPORARY);
        let file = self.disk.create(&temporary)?;
        self.disk.write_at(&file, &bytes, 0)?;
        self.disk.set_modified(&file, modified)?;
        self.disk.rename(&temporary, target)
    }

    fn bytes(&self, span: EntrySpan) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(span.bytes).unwrap_or_default()];
        if let Some(segment) = self.segments.get(span.segment) {
            self.disk.read_exact_at(&segment.file, &mut bytes, span.start)?;
        }
        Ok(bytes)
    }

    /// Whether a file is as it must be: after a crash of the process alone nearly all are.
    fn is_there(&self, target: &Path, modified: SystemTime, bytes: &[u8]) -> io::Result<bool> {
        let Some(metadata) = absent_is_none(self.disk.metadata(target))? else { return Ok(false) };
        let length = bytes.len() as u64;
        if metadata.len() != length || metadata.modified()? != modified {
            return Ok(false);
        }
        Ok(self.disk.read_up_to(&self.disk.open(target)?, length)? == bytes)
    }

    fn make_folder_of(&self, target: &Path) -> io::Result<()> {
        target.parent().map_or(Ok(()), |folder| self.disk.create_folders(folder))
    }

    /// Makes the files durable as they are now.
    fn sync(&self, files: &ReplayedFiles) -> io::Result<()> {
        let root = self.disk.open(self.root)?;
        if self.is_one_file_system && syncs_all(&root)? {
            return self.disk.sync_all(&root);
        }
        let mut folders = BTreeSet::from([self.root.to_owned()]);
        for path in files.keys() {
            let target = below(self.root, path)?;
            if let Some(file) = absent_is_none(self.disk.open(&target))? {
                self.disk.sync(&file)?;
            }
            let above = target.ancestors().skip(1).take_while(|folder| *folder != self.root);
            folders.extend(above.map(Path::to_owned));
        }
        folders.iter().try_for_each(|folder| {
            let opened: Option<File> = absent_is_none(self.disk.open(folder))?;
            opened.map_or(Ok(()), |folder| self.disk.sync(&folder))
        })
    }
}

/// A segment is begun when the one before it is whole.
fn check_follows(
    older: &ReplaySegment,
    end: &SegmentEnd,
    newer: &ReplaySegment,
) -> Result<(), ReplayError> {
    let follows = newer.first.run == older.first.run
        && newer.first.segment == older.first.segment + 1
        && newer.first.batch == end.next_batch;
    if follows { Ok(()) } else { Err(older.damaged(end.offset, "batches are missing after it")) }
}

/// Notes what a change says of its files; `span` says where so many bytes at the end of its entry
/// are.
fn note(files: &mut ReplayedFiles, change: WalEntry, span: impl Fn(u64) -> EntrySpan) {
    match change {
        WalEntry::Put { path, modified, bytes } => {
            settle(files, path, Some(FinalState::Put(modified, span(bytes.len() as u64))));
        }
        WalEntry::Delete { path } => settle(files, path, Some(FinalState::Absent)),
        WalEntry::Keep { path } => settle(files, path, None),
        WalEntry::Rename { path, to, size_bytes, modified } => {
            let moved = match files.remove(&path) {
                Some(FinalState::Put(_, span)) => {
                    files.insert(path, FinalState::Absent);
                    let bytes = size_bytes.min(span.bytes);
                    FinalState::Put(modified, EntrySpan { bytes, ..span })
                }
                Some(FinalState::Absent | FinalState::Moved(..)) | None => {
                    FinalState::Moved(path, size_bytes, modified)
                }
            };
            settle(files, to, Some(moved));
        }
    }
}

/// Notes how a file must be, or that it is right as it is. If another was to take its place by a
/// rename, that one's old name goes all the same.
fn settle(files: &mut ReplayedFiles, path: String, last: Option<FinalState>) {
    let Some(last) = last else {
        files.remove(&path);
        return;
    };
    if let Some(FinalState::Moved(from, ..)) = files.insert(path, last) {
        files.insert(from, FinalState::Absent);
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if is_absence(&error) => Ok(None),
        other => other.map(Some),
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

    fn put(path: &str, bytes: &'static str) -> WalEntry {
        WalEntry::Put { path: path.to_owned(), modified: THEN, bytes: bytes.into() }
    }

    fn delete(path: &str) -> WalEntry {
        WalEntry::Delete { path: path.to_owned() }
    }

    fn rename(path: &str, to: &str) -> WalEntry {
        let (path, to) = (path.to_owned(), to.to_owned());
        WalEntry::Rename { path, to, size_bytes: 2, modified: THEN }
    }

    /// The bytes of change number `n` are at `100 * n`.
    fn sum<const N: usize>(changes: [WalEntry; N]) -> Vec<(String, FinalState)> {
        let mut files = BTreeMap::new();
        for (number, change) in changes.into_iter().enumerate() {
            let start = 100 * number as u64;
            note(&mut files, change, |bytes| EntrySpan { segment: 0, start, bytes });
        }
        files.into_iter().collect()
    }

    fn last(path: &str, last: FinalState) -> (String, FinalState) {
        (path.to_owned(), last)
    }

    #[test]
    fn the_last_word_counts() {
        let bytes = |start, bytes| FinalState::Put(THEN, EntrySpan { segment: 0, start, bytes });
        assert_eq!(sum([put("a", "1"), put("a", "22")]), [last("a", bytes(100, 2))]);
        assert_eq!(sum([put("a", "1"), delete("a")]), [last("a", FinalState::Absent)]);
        assert_eq!(sum([delete("a"), put("a", "1")]), [last("a", bytes(100, 1))]);
        assert_eq!(sum([put("a", "1"), WalEntry::Keep { path: "a".to_owned() }]), []);
        let moved = FinalState::Moved("a".to_owned(), 2, THEN);
        assert_eq!(sum([rename("a", "b")]), [last("b", moved)]);
        let both = [last("a", FinalState::Absent), last("b", bytes(0, 2))];
        assert_eq!(sum([put("a", "123"), rename("a", "b")]), both);
        let gone = [last("a", FinalState::Absent), last("b", FinalState::Absent)];
        assert_eq!(sum([rename("a", "b"), delete("b")]), gone);
    }

    #[test]
    fn the_log_cannot_write_outside_the_folder() {
        for path in ["../a", "/a", "a//b", "a/./b", ""] {
            assert!(below(Path::new("/root"), path).is_err(), "{path}");
        }
        assert_eq!(below(Path::new("/root"), "a/.b").ok(), Some(PathBuf::from("/root/a/.b")));
    }
}
