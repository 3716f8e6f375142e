//! Reading the log of an earlier run, batch by batch, and telling a torn end from damage.
//!
//! A power cut may tear the last batch, which was not acknowledged. Anything else that is wrong is
//! damage, and changes that were acknowledged may be lost with it: then the store does not start, and
//! nothing is removed. A file that ends in a batch is damage too: a batch is written only where the file
//! is long enough already, durably.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::super::disk::Disk;
use super::GROWTH_BYTES;
use super::entry::{BatchHead, FREE, HEAD_BYTES, MAGIC, WalEntry, decode, sum};

/// How many bytes are searched at a time for a batch.
const SEARCHED_BYTES: u64 = 1024 * 1024;

/// Why a log cannot be replayed.
#[derive(Debug)]
pub(in crate::fs) enum ReplayError {
    /// The system refused.
    Io(io::Error),
    /// It is damaged.
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where it is wrong.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// It is of a run before the last one that ended.
    Stale {
        /// The segment.
        path: PathBuf,
    },
}

impl From<io::Error> for ReplayError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A segment that has changes.
#[derive(Debug)]
pub(super) struct ReplaySegment {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) first: BatchHead,
    length: u64,
}

/// Where a segment ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SegmentEnd {
    /// Where the last whole batch ends.
    pub(super) offset: u64,
    /// The batch that would come next.
    pub(super) next_batch: u64,
    /// How long a torn batch is that begins there.
    pub(super) torn_bytes: Option<u64>,
}

impl ReplaySegment {
    /// Opens a segment. `None`: there is none, or it is free.
    pub(super) fn open(path: &Path, disk: &Disk) -> Result<Option<Self>, ReplayError> {
        let file = match disk.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let length = disk.metadata_of(&file)?.len();
        let start = read(&file, disk, 0, (FREE.len() as u64).min(length))?;
        if start == FREE {
            return Ok(None);
        }
        if let Some(first) = BatchHead::decode(&start) {
            return Ok(Some(Self { path: path.to_owned(), file, first, length }));
        }
        let is_unused = start.iter().all(|byte| *byte == 0)
            && find_head(&file, disk, 0, length, |_| true)?.is_none();
        if is_unused {
            return Ok(None);
        }
        let what = "its first batch is unreadable";
        Err(ReplayError::Damaged { path: path.to_owned(), offset: 0, what })
    }

    pub(super) fn damaged(&self, offset: u64, what: &'static str) -> ReplayError {
        ReplayError::Damaged { path: self.path.clone(), offset, what }
    }

    /// Calls `see` for each change, with where its entry ends in the file.
    pub(super) fn each_change(
        &self,
        disk: &Disk,
        mut see: impl FnMut(WalEntry, u64),
    ) -> Result<SegmentEnd, ReplayError> {
        let mut end = SegmentEnd { offset: 0, next_batch: self.first.batch, torn_bytes: None };
        while let Some(head) = self.head_at(disk, &end)? {
            let start = end.offset + HEAD_BYTES as u64;
            let Some(entries) = self.entries(disk, start, &head)? else {
                end.torn_bytes = Some(HEAD_BYTES as u64 + u64::from(head.bytes));
                break;
            };
            let changes = decode(&entries)
                .ok_or_else(|| self.damaged(end.offset, "another version wrote it"))?;
            changes.into_iter().for_each(|(change, end)| see(change, start + end as u64));
            end.offset = start + u64::from(head.bytes);
            end.next_batch += 1;
        }
        self.check_end(disk, &end)?;
        if end.offset + HEAD_BYTES as u64 > self.length && !self.length.is_multiple_of(GROWTH_BYTES)
        {
            return Err(self.damaged(end.offset, "the file is cut"));
        }
        if end.torn_bytes.is_none() && self.has_damaged_head(disk, &end)? {
            end.torn_bytes = Some(self.length - end.offset);
        }
        Ok(end)
    }

    /// The head of the next batch, if it is there.
    fn head_at(&self, disk: &Disk, end: &SegmentEnd) -> io::Result<Option<BatchHead>> {
        if end.offset + HEAD_BYTES as u64 > self.length {
            return Ok(None);
        }
        let bytes = read(&self.file, disk, end.offset, HEAD_BYTES as u64)?;
        let head = BatchHead::decode(&bytes);
        Ok(head.filter(|head| self.is_own(head) && head.batch == end.next_batch))
    }

    /// Whether the next batch was written, but its head is not whole. Where none was written there may
    /// be anything that an earlier use of the segment left.
    fn has_damaged_head(&self, disk: &Disk, end: &SegmentEnd) -> io::Result<bool> {
        let length = (HEAD_BYTES as u64).min(self.length - end.offset);
        let bytes = read(&self.file, disk, end.offset, length)?;
        Ok(BatchHead::decode(&bytes).is_none() && self.first.is_like(&bytes))
    }

    fn is_own(&self, head: &BatchHead) -> bool {
        (head.run, head.segment) == (self.first.run, self.first.segment)
    }

    /// The entries of a batch, if they are whole.
    fn entries(
        &self,
        disk: &Disk,
        start: u64,
        head: &BatchHead,
    ) -> Result<Option<Vec<u8>>, ReplayError> {
        if start + u64::from(head.bytes) > self.length {
            return Err(self.damaged(start, "the file is cut"));
        }
        let entries = read(&self.file, disk, start, u64::from(head.bytes))?;
        Ok((sum(&entries) == head.sum).then_some(entries))
    }

    /// What comes after the last whole batch is at most one torn batch.
    fn check_end(&self, disk: &Disk, end: &SegmentEnd) -> Result<(), ReplayError> {
        let is_later = |head: &BatchHead| self.is_own(head) && head.batch > end.next_batch;
        match find_head(&self.file, disk, end.offset, self.length, is_later)? {
            Some(_) => Err(self.damaged(end.offset, "whole batches follow it")),
            None => Ok(()),
        }
    }
}

fn read(file: &File, disk: &Disk, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    disk.read_exact_at(file, &mut bytes, offset)?;
    Ok(bytes)
}

/// Where a wanted head is in a part of a file.
fn find_head(
    file: &File,
    disk: &Disk,
    mut from: u64,
    to: u64,
    is_wanted: impl Fn(&BatchHead) -> bool,
) -> io::Result<Option<u64>> {
    let overlap = HEAD_BYTES as u64 - 1;
    while from + overlap < to {
        let bytes = read(file, disk, from, (SEARCHED_BYTES + overlap).min(to - from))?;
        let found = starts(&bytes).find(|start| {
            let head = bytes.get(*start..).and_then(BatchHead::decode);
            head.is_some_and(|head| is_wanted(&head))
        });
        if let Some(start) = found {
            return Ok(Some(from + start as u64));
        }
        from += SEARCHED_BYTES;
    }
    Ok(None)
}

/// Where a head may begin.
fn starts(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.windows(MAGIC.len()).enumerate().filter(|(_, at)| *at == MAGIC).map(|(start, _)| start)
}
