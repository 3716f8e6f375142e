//! What an error of the operating system means to a caller of the store.

use std::fmt::Display;
use std::io;
use std::path::Path;

use crate::{Error, ErrorKind};

/// A failed look-up. A missing file, or a file where a folder would have to be, is absence;
/// nothing else is.
pub(super) fn lookup(key: impl Display, source: io::Error) -> Error {
    let kind = match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorKind::NotFound,
        other => common(other),
    };
    Error::with_source(kind, key, source)
}

/// A failed write that has had no effect. A file where a folder would have to be is refused: a
/// folder cannot hold one key below another.
pub(super) fn write(key: impl Display, source: io::Error) -> Error {
    Error::with_source(common(source.kind()), key, source)
}

/// A failure after which the write may or may not have happened.
pub(super) fn ambiguous(key: impl Display, source: io::Error) -> Error {
    Error::with_source(ErrorKind::Unavailable, key, source)
}

/// An error of opening a folder, with the file that it is about.
pub(super) fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn common(kind: io::ErrorKind) -> ErrorKind {
    use io::ErrorKind as Io;
    match kind {
        Io::StorageFull | Io::QuotaExceeded => ErrorKind::Full,
        // A disk with an error becomes read-only (EROFS): that is a disk that cannot be reached,
        // not a lack of permission.
        Io::PermissionDenied
        | Io::FileTooLarge
        | Io::InvalidFilename
        | Io::NotADirectory
        | Io::IsADirectory => ErrorKind::Refused,
        _ => ErrorKind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are Linux's.
    #[test]
    fn each_error_number_has_its_kind() {
        const ENOENT: i32 = 2;
        const EIO: i32 = 5;
        const EACCES: i32 = 13;
        const ENOTDIR: i32 = 20;
        const EMFILE: i32 = 24;
        const ENOSPC: i32 = 28;
        const EROFS: i32 = 30;
        const ELOOP: i32 = 40;
        const EDQUOT: i32 = 122;
        use ErrorKind::{Full, NotFound, Refused, Unavailable};
        for (number, looked_up, written) in [
            (ENOENT, NotFound, Unavailable),
            (ENOTDIR, NotFound, Refused),
            (EACCES, Refused, Refused),
            (ENOSPC, Full, Full),
            (EDQUOT, Full, Full),
            (EROFS, Unavailable, Unavailable),
            (EIO, Unavailable, Unavailable),
            (EMFILE, Unavailable, Unavailable),
            (ELOOP, Unavailable, Unavailable),
        ] {
            let error = || io::Error::from_raw_os_error(number);
            assert_eq!(lookup("a", error()).kind(), looked_up, "{}", error());
            assert_eq!(write("a", error()).kind(), written, "{}", error());
            assert_eq!(ambiguous("a", error()).kind(), Unavailable, "{}", error());
        }
    }
}
