//! How the log is written down: *batches*, each of them the entries that one sync made durable.
//!
//! A batch is a head and the entries behind it:
//!
//! | bytes | |
//! | --- | --- |
//! | 8 | `jregWAL` and a 2, the version |
//! | 8 | the first of the SHA-256 of the rest of the head |
//! | 8 | the first of the SHA-256 of the entries |
//! | 8 | a random number of the run that wrote it |
//! | 8 | the number of the segment |
//! | 8 | the number of the batch, counted through all segments of a run |
//! | 4 | the length of the entries |
//!
//! A batch is written only after the one before it is durable. So only the last one may be torn: if
//! a later one is found, what is wrong before it is damage. Heads of an earlier use of the file have
//! a smaller segment number.
//!
//! An entry:
//!
//! | bytes | |
//! | --- | --- |
//! | 4 | the length of what follows |
//! | 1 | the kind |
//! | 8, 4 | the time of the object's last change, in seconds and nanoseconds |
//! | 8 | for a rename the object's size |
//! | 2, n | the path |
//! | 2, n | for a rename the new path |
//! | rest | the object's bytes |
//!
//! Numbers are little-endian.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// What a batch begins with.
pub(super) const MAGIC: [u8; 8] = *b"jregWAL\x02";
/// The length of a batch's head.
pub(super) const HEAD_BYTES: usize = 8 + 2 * SUM_BYTES + 3 * 8 + 4;
/// What a segment begins with whose changes the files have durably.
pub(super) const FREE: [u8; 64] =
    *b"jreg: this part of the write-ahead log is free\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const SUM_BYTES: usize = 8;
const LENGTH_BYTES: usize = 4;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const KEEP: u8 = 3;
const RENAME: u8 = 4;

/// The head of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHead {
    /// The run that wrote it.
    pub(super) run: u64,
    /// The segment that it is in.
    pub(super) segment: u64,
    /// The batch.
    pub(super) batch: u64,
    /// The length of its entries.
    pub(super) bytes: u32,
    /// The sum of its entries.
    pub(super) sum: [u8; SUM_BYTES],
}

impl BatchHead {
    pub(super) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut rest = Vec::with_capacity(HEAD_BYTES);
        rest.extend_from_slice(&self.sum);
        for number in [self.run, self.segment, self.batch] {
            rest.extend_from_slice(&number.to_le_bytes());
        }
        rest.extend_from_slice(&self.bytes.to_le_bytes());
        let whole = [&MAGIC[..], &sum(&rest)[..], &rest[..]].concat();
        whole.try_into().unwrap_or([0; HEAD_BYTES])
    }

    /// Whether bytes may be a damaged head of this run: most of the magic number is there, or most of the
    /// run's.
    pub(super) fn is_like(&self, bytes: &[u8]) -> bool {
        let run = bytes.get(MAGIC.len() + 2 * SUM_BYTES..).unwrap_or_default();
        is_mostly(bytes, &MAGIC) || is_mostly(run, &self.run.to_le_bytes())
    }

    /// The head that bytes begin with, if it is whole.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut head = EntryReader(bytes.get(..HEAD_BYTES)?);
        let (magic, expected): ([u8; 8], _) = (head.array()?, head.array()?);
        if magic != MAGIC || sum(head.0) != expected {
            return None;
        }
        Some(Self {
            sum: head.array()?,
            run: u64::from_le_bytes(head.array()?),
            segment: u64::from_le_bytes(head.array()?),
            batch: u64::from_le_bytes(head.array()?),
            bytes: u32::from_le_bytes(head.array()?),
        })
    }
}

/// Whether most bytes are the same.
fn is_mostly(bytes: &[u8], expected: &[u8]) -> bool {
    let same = bytes.iter().zip(expected).filter(|(byte, expected)| byte == expected).count();
    2 * same > expected.len()
}

/// What happens to a file. Paths are relative to the root, with `/` between names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fs) enum WalEntry {
    /// It has these bytes.
    Put {
        /// The file.
        path: String,
        /// When it was written.
        modified: SystemTime,
        /// All of it.
        bytes: Bytes,
    },
    /// It is not there.
    Delete {
        /// The file.
        path: String,
    },
    /// What was said of it before counts no more: the file system itself is right.
    Keep {
        /// The file.
        path: String,
    },
    /// It has another name.
    Rename {
        /// The file.
        path: String,
        /// Its name from now on.
        to: String,
        /// Its length from now on.
        size_bytes: u64,
        /// When it was written.
        modified: SystemTime,
    },
}

impl WalEntry {
    /// The files that this is about.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        let (path, to) = match self {
            Self::Put { path, .. } | Self::Delete { path } | Self::Keep { path } => (path, None),
            Self::Rename { path, to, .. } => (path, Some(to)),
        };
        [Some(path), to].into_iter().flatten().map(String::as_str)
    }

    /// How long its entry is.
    pub(super) fn entry_bytes(&self) -> usize {
        let bytes = if let Self::Put { bytes, .. } = self { bytes.len() } else { 0 };
        LENGTH_BYTES + 1 + 12 + 8 + 4 + self.paths().map(str::len).sum::<usize>() + bytes
    }

    /// Writes its entry behind others.
    pub(super) fn encode(&self, entries: &mut Vec<u8>) {
        let rest = u32::try_from(self.entry_bytes() - LENGTH_BYTES).unwrap_or(u32::MAX);
        entries.extend_from_slice(&rest.to_le_bytes());
        let empty = Bytes::new();
        let (kind, modified, size, bytes) = match self {
            Self::Put { modified, bytes, .. } => (PUT, *modified, 0, bytes),
            Self::Delete { .. } => (DELETE, SystemTime::UNIX_EPOCH, 0, &empty),
            Self::Keep { .. } => (KEEP, SystemTime::UNIX_EPOCH, 0, &empty),
            Self::Rename { size_bytes, modified, .. } => (RENAME, *modified, *size_bytes, &empty),
        };
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        entries.push(kind);
        entries.extend_from_slice(&since.as_secs().to_le_bytes());
        entries.extend_from_slice(&since.subsec_nanos().to_le_bytes());
        entries.extend_from_slice(&size.to_le_bytes());
        let mut paths = self.paths();
        for path in [paths.next(), paths.next()] {
            let path = path.unwrap_or_default();
            // A key is far shorter.
            let length = u16::try_from(path.len()).unwrap_or(u16::MAX);
            entries.extend_from_slice(&length.to_le_bytes());
            entries.extend_from_slice(path.as_bytes());
        }
        entries.extend_from_slice(bytes);
    }
}

pub(super) fn sum(bytes: &[u8]) -> [u8; SUM_BYTES] {
    let mut first = [0; SUM_BYTES];
    first.iter_mut().zip(Sha256::digest(bytes)).for_each(|(to, from)| *to = from);
    first
}

/// The changes of a batch, each with where its entry ends: an object's bytes end there, too. `None`:
/// they are not what this version writes.
pub(super) fn decode(entries: &[u8]) -> Option<Vec<(WalEntry, usize)>> {
    let mut rest = EntryReader(entries);
    let mut changes = Vec::new();
    while !rest.0.is_empty() {
        let change = rest.entry()?;
        changes.push((change, entries.len() - rest.0.len()));
    }
    Some(changes)
}

struct EntryReader<'f>(&'f [u8]);

impl<'f> EntryReader<'f> {
    fn take(&mut self, count: usize) -> Option<&'f [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn text(&mut self) -> Option<String> {
        let length = u16::from_le_bytes(self.array()?);
        String::from_utf8(self.take(length.into())?.to_vec()).ok()
    }

    fn entry(&mut self) -> Option<WalEntry> {
        let length = usize::try_from(u32::from_le_bytes(self.array()?)).ok()?;
        EntryReader(self.take(length)?).change()
    }

    fn change(mut self) -> Option<WalEntry> {
        let [kind] = self.array()?;
        let seconds = u64::from_le_bytes(self.array()?);
        let nanos = u32::from_le_bytes(self.array()?);
        let size_bytes = u64::from_le_bytes(self.array()?);
        let (path, to) = (self.text()?, self.text()?);
        let modified = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))?;
        Some(match kind {
            PUT => WalEntry::Put { path, modified, bytes: Bytes::copy_from_slice(self.0) },
            DELETE => WalEntry::Delete { path },
            KEEP => WalEntry::Keep { path },
            RENAME => WalEntry::Rename { path, to, size_bytes, modified },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn changes() -> Vec<WalEntry> {
        let modified = SystemTime::UNIX_EPOCH + Duration::new(1_800_000_000, 123);
        let path = || "a/b".to_owned();
        vec![
            WalEntry::Put { path: path(), modified, bytes: "12345".into() },
            WalEntry::Rename { path: path(), to: "c".to_owned(), size_bytes: 5, modified },
            WalEntry::Delete { path: path() },
            WalEntry::Keep { path: path() },
        ]
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        let (mut entries, mut expected) = (Vec::new(), Vec::new());
        for change in changes() {
            let before = entries.len();
            change.encode(&mut entries);
            assert_eq!(entries.len() - before, change.entry_bytes());
            expected.push((change, entries.len()));
        }
        assert_eq!(decode(&entries), Some(expected));
        assert_eq!(decode(&[]), Some(Vec::new()));
        entries.pop();
        assert_eq!(decode(&entries), None);
    }

    #[test]
    fn head_with_any_changed_byte_is_none() {
        let head = BatchHead { run: 1, segment: 2, batch: 3, bytes: 4, sum: sum(b"1234") };
        let whole = head.encode();
        assert_eq!(BatchHead::decode(&whole), Some(head));
        for place in 0..whole.len() {
            let mut changed = whole;
            *changed.get_mut(place).unwrap() ^= 1;
            assert_eq!(BatchHead::decode(&changed), None, "{place}");
            assert_eq!(BatchHead::decode(whole.get(..place).unwrap()), None, "{place}");
        }
        assert_eq!(BatchHead::decode(&FREE), None);
    }
}
