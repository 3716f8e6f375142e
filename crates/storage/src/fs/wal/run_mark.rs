//! The mark of the run whose log may be replayed: `.log-run`.
//!
//! A segment that is put back from a backup after a clean stop has changes that are older than the files.
//! So a run writes its number, durably, before its first batch, and a clean stop or a replay that has
//! ended closes the mark. A segment of another run is not replayed. Without a mark, which earlier
//! versions did not write, any is.

use std::io;
use std::path::Path;

use super::super::disk::Disk;
use super::super::failure;

const MARK: &str = ".log-run";
const MARK_NEW: &str = ".log-run.new";
const CLOSED: &str = "closed          ";
/// How much of the file is read.
const MARK_BYTES_MAX: u64 = 64;

/// Which log may be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunMark {
    /// Any: no run has left a mark.
    None,
    /// None: the last run has ended, or its log was replayed.
    Closed,
    /// That of this run.
    Open(u64),
}

impl RunMark {
    pub(super) fn read(root: &Path, disk: &Disk) -> io::Result<Self> {
        let path = root.join(MARK);
        let read = || disk.read_up_to(&disk.open(&path)?, MARK_BYTES_MAX);
        match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::None),
            Err(error) => Err(failure::at(&path, error)),
            Ok(bytes) => Ok(Self::parse(&bytes)),
        }
    }

    fn parse(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes).map(str::trim_end) {
            Ok("closed") => Self::Closed,
            Ok(run) => u64::from_str_radix(run, 16).map_or(Self::None, Self::Open),
            Err(_) => Self::None,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Open(run) => format!("{run:016x}\n"),
            Self::Closed | Self::None => format!("{CLOSED}\n"),
        }
    }

    /// Whether a log of this run may be replayed.
    pub(super) fn allows(self, run: u64) -> bool {
        match self {
            Self::None => true,
            Self::Closed => false,
            Self::Open(open) => open == run,
        }
    }

    /// Writes the mark durably: beside the one before, or over it if there is no space.
    pub(super) fn write(self, root: &Path, disk: &Disk) -> io::Result<()> {
        let (path, new, text) = (root.join(MARK), root.join(MARK_NEW), self.text());
        let written = (|| {
            let file = disk.create(&new)?;
            disk.write_at(&file, text.as_bytes(), 0)?;
            disk.sync(&file)?;
            disk.rename(&new, &path)
        })();
        if let Err(error) = written {
            // It may hold the very space that is missing.
            let _ = disk.unlink(&new);
            let file = disk.open_for_writing(&path).map_err(|_| error)?;
            disk.overwrite_at(&file, text.as_bytes(), 0)?;
            disk.sync(&file)?;
        }
        disk.sync_folder(root)
    }

    /// Notes that no log is left to replay. Without a mark there is nothing to note.
    pub(super) fn close(root: &Path, disk: &Disk) -> io::Result<()> {
        match Self::read(root, disk)? {
            Self::Open(_) => Self::Closed.write(root, disk),
            Self::None | Self::Closed => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_back_and_have_one_length() {
        for mark in [RunMark::Closed, RunMark::Open(0), RunMark::Open(7), RunMark::Open(u64::MAX)] {
            assert_eq!(RunMark::parse(mark.text().as_bytes()), mark);
            assert_eq!(mark.text().len(), 17);
        }
        for damaged in [&b""[..], b"closed and more", b"\xff", b"\0\0\0\0", b"no number"] {
            assert_eq!(RunMark::parse(damaged), RunMark::None);
        }
        assert!(RunMark::None.allows(1) && RunMark::Open(1).allows(1));
        assert!(!RunMark::Closed.allows(1) && !RunMark::Open(2).allows(1));
    }
}
