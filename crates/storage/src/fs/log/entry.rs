//! What the log's entries say, and how they are written down.
//!
//! | bytes | |
//! | --- | --- |
//! | 8 | the first of the SHA-256 of all that follows |
//! | 8 | the number of the segment: what an earlier use of the file left ends the log |
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

const SUM_BYTES: usize = 8;
const HEAD_BYTES: usize = SUM_BYTES + 8 + 4;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const KEEP: u8 = 3;
const RENAME: u8 = 4;

/// What happens to a file. Paths are relative to the root, with `/` between names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fs) enum Change {
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

impl Change {
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
        HEAD_BYTES + 1 + 12 + 8 + 4 + self.paths().map(str::len).sum::<usize>() + bytes
    }

    /// Writes its entry behind others.
    pub(super) fn encode(&self, segment: u64, entries: &mut Vec<u8>) {
        let start = entries.len();
        entries.extend_from_slice(&[0; SUM_BYTES]);
        entries.extend_from_slice(&segment.to_le_bytes());
        let rest = u32::try_from(self.entry_bytes() - HEAD_BYTES).unwrap_or(u32::MAX);
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
        let sum = sum(entries.get(start + SUM_BYTES..).unwrap_or_default());
        if let Some(place) = entries.get_mut(start..start + SUM_BYTES) {
            place.copy_from_slice(&sum);
        }
    }
}

fn sum(bytes: &[u8]) -> [u8; SUM_BYTES] {
    let mut first = [0; SUM_BYTES];
    first.iter_mut().zip(Sha256::digest(bytes)).for_each(|(to, from)| *to = from);
    first
}

/// The whole entries of a file, and the number of its segment. What is torn, or of another
/// segment than the first entry, ends them.
pub(super) fn decode(file: &[u8]) -> (u64, Vec<Change>) {
    let mut rest = Reader(file);
    let (mut segment, mut changes) = (None, Vec::new());
    while let Some((of, change)) = rest.entry() {
        if *segment.get_or_insert(of) != of {
            break;
        }
        changes.push(change);
    }
    (segment.unwrap_or(0), changes)
}

struct Reader<'f>(&'f [u8]);

impl<'f> Reader<'f> {
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

    fn entry(&mut self) -> Option<(u64, Change)> {
        let expected: [u8; SUM_BYTES] = self.array()?;
        let summed = self.0;
        let segment = u64::from_le_bytes(self.array()?);
        let length = usize::try_from(u32::from_le_bytes(self.array()?)).ok()?;
        let body = self.take(length)?;
        if sum(summed.get(..HEAD_BYTES - SUM_BYTES + length)?) != expected {
            return None;
        }
        Some((segment, Reader(body).change()?))
    }

    fn change(mut self) -> Option<Change> {
        let [kind] = self.array()?;
        let seconds = u64::from_le_bytes(self.array()?);
        let nanos = u32::from_le_bytes(self.array()?);
        let size_bytes = u64::from_le_bytes(self.array()?);
        let (path, to) = (self.text()?, self.text()?);
        let modified = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))?;
        Some(match kind {
            PUT => Change::Put { path, modified, bytes: Bytes::copy_from_slice(self.0) },
            DELETE => Change::Delete { path },
            KEEP => Change::Keep { path },
            RENAME => Change::Rename { path, to, size_bytes, modified },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn changes() -> Vec<Change> {
        let modified = SystemTime::UNIX_EPOCH + Duration::new(1_800_000_000, 123);
        let path = || "a/b".to_owned();
        vec![
            Change::Put { path: path(), modified, bytes: "12345".into() },
            Change::Rename { path: path(), to: "c".to_owned(), size_bytes: 5, modified },
            Change::Delete { path: path() },
            Change::Keep { path: path() },
        ]
    }

    fn encoded(segment: u64) -> Vec<u8> {
        let mut entries = Vec::new();
        for change in changes() {
            let before = entries.len();
            change.encode(segment, &mut entries);
            assert_eq!(entries.len() - before, change.entry_bytes());
        }
        entries
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        assert_eq!(decode(&encoded(7)), (7, changes()));
        assert_eq!(decode(&[]), (0, Vec::new()));
    }

    #[test]
    fn what_is_torn_at_any_byte_ends_the_log() {
        let whole = encoded(7);
        for end in 0..whole.len() {
            let mut torn = whole.get(..end).unwrap().to_vec();
            torn.resize(whole.len() + 100, 0xaa);
            let (_, found) = decode(&torn);
            assert!(found.len() < changes().len(), "{end}");
            assert_eq!(found, changes().get(..found.len()).unwrap());
        }
    }

    #[test]
    fn a_changed_byte_ends_the_log() {
        let whole = encoded(7);
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            *changed.get_mut(place).unwrap() ^= 1;
            let (_, found) = decode(&changed);
            assert!(found.len() < changes().len(), "{place}");
        }
    }

    #[test]
    fn entries_of_an_earlier_use_of_the_file_do_not_count() {
        let mut entries = encoded(8);
        entries.extend(encoded(7));
        assert_eq!(decode(&entries), (8, changes()));
    }
}
