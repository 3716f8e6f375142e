//! [`Watched`]: a file that is read again when it changes. One that is wrong never takes the place
//! of one that was right.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use crate::logging::chain;

/// Makes a value of a file's text, or says what is wrong with it.
type Parse<T> = Box<dyn Fn(&str) -> Result<T, String> + Send + Sync>;

/// A file, and what it says.
pub(super) struct Watched<T> {
    path: PathBuf,
    bytes_max: usize,
    parse: Parse<T>,
    current: RwLock<Arc<T>>,
    /// How the file looked when it was last read, whether it was right or not.
    seen: Mutex<Option<Stamp>>,
    generation: AtomicU64,
}

/// What changes with a file. Writing in place changes the time, replacing it the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    bytes: u64,
    file: u64,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not say what it should.
    #[error("{}: {why}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// What came of looking at a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reload {
    Unchanged,
    Done,
    Failed,
}

impl<T: fmt::Debug> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<T> Watched<T> {
    /// Reads a file for the first time.
    pub(super) fn open(
        path: impl Into<PathBuf>,
        bytes_max: usize,
        parse: impl Fn(&str) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        let path = path.into();
        let seen = stamp(&path);
        let current = read(&path, bytes_max, &parse)?;
        Ok(Self {
            path,
            bytes_max,
            parse: Box::new(parse),
            current: RwLock::new(Arc::new(current)),
            seen: Mutex::new(seen.ok()),
            generation: AtomicU64::new(0),
        })
    }

    /// What the file said when it was last right.
    pub(super) fn get(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts the changes.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Looks at the file, and reads it if it looks different. Blocks as a disk does.
    pub(super) fn reload(&self) -> Reload {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = stamp(&self.path).ok();
        if stamp == *seen {
            return Reload::Unchanged;
        }
        *seen = stamp;
        match read(&self.path, self.bytes_max, &self.parse) {
            Ok(value) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                self.generation.fetch_add(1, Ordering::Release);
                tracing::info!(path = %self.path.display(), "read again");
                Reload::Done
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "the file is not used; what it said before still holds");
                Reload::Failed
            }
        }
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path)?;
    let modified = metadata.modified()?;
    Ok(Stamp { modified, bytes: metadata.len(), file: metadata.ino() })
}

fn read<T>(
    path: &Path,
    bytes_max: usize,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, FileError> {
    let unreadable = |source| FileError::Unreadable { path: path.to_owned(), source };
    let wrong = |why: String| FileError::Wrong { path: path.to_owned(), why };
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if bytes > bytes_max as u64 {
        return Err(wrong(format!("it is larger than {bytes_max} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    parse(&text).map_err(wrong)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_wrong_never_replaces_what_was_right() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        let parse = |text: &str| text.trim().parse::<u32>().map_err(|error| error.to_string());
        assert!(matches!(Watched::open(&path, 10, parse), Err(FileError::Unreadable { .. })));
        std::fs::write(&path, "1").unwrap();
        let file = Watched::open(&path, 10, parse).unwrap();
        assert_eq!((file.reload(), *file.get(), file.generation()), (Reload::Unchanged, 1, 0));
        for (text, reload, value) in [
            ("22", Reload::Done, 22),
            ("xyz", Reload::Failed, 22),
            ("9999999999999", Reload::Failed, 22),
            ("3333", Reload::Done, 3333),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!((file.reload(), *file.get()), (reload, value), "{text}");
            assert_eq!(file.reload(), Reload::Unchanged, "said once");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!((file.reload(), *file.get()), (Reload::Failed, 3333));
        let other = folder.path().join("other");
        std::fs::write(&other, "4444").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!((file.reload(), *file.get(), file.generation()), (Reload::Done, 4444, 3));
    }
}
