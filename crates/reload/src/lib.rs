//! [`ReloadedFiles`]: files that are reloaded when they change. Invalid content never replaces
//! valid content.
//!
//! Files that must match, such as a certificate and its key, are loaded together.

#![allow(missing_docs, reason = "a comment that repeats a name is noise")]

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use jreg_storage::error_chain;
use rustix::fs::OFlags;

/// Parses the texts of the files.
type ParseFiles<T> = Box<dyn Fn(&[String]) -> Result<T, FileFault> + Send + Sync>;

/// One or more files and the value parsed from them.
pub struct ReloadedFiles<T> {
    paths: Vec<PathBuf>,
    bytes_max: usize,
    parse: ParseFiles<T>,
    current: RwLock<Arc<T>>,
    /// Stamps of the files at the last read, successful or not.
    seen: Mutex<Vec<Option<ReloadStamp>>>,
    generation: AtomicU64,
}

/// An error in one of several files.
#[derive(Debug)]
pub struct FileFault {
    /// Index of the file.
    pub file: usize,
    pub why: String,
}

/// Changes with the file: writing in place changes the time, replacing it the inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReloadStamp {
    modified: SystemTime,
    bytes: u64,
    file: u64,
}

/// Why a file cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// The content is invalid.
    #[error("{}: {why}", path.display())]
    Wrong { path: PathBuf, why: String },
}

/// Result of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// No file has changed.
    Unchanged,
    /// The new content is in use.
    Done,
    /// The previous content stays in use.
    Failed,
}

/// A file that was reloaded, or could not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileReload {
    /// What it is.
    pub file: &'static str,
    /// Whether the new content is in use.
    pub is_done: bool,
}

impl FileReload {
    /// `None` if nothing has changed.
    pub fn new(file: &'static str, outcome: ReloadOutcome) -> Option<Self> {
        match outcome {
            ReloadOutcome::Unchanged => None,
            ReloadOutcome::Done => Some(Self { file, is_done: true }),
            ReloadOutcome::Failed => Some(Self { file, is_done: false }),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for ReloadedFiles<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl<T> ReloadedFiles<T> {
    /// Loads a file.
    pub fn open(
        path: impl Into<PathBuf>,
        bytes_max: usize,
        parse: impl Fn(&str) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        let parse = move |texts: &[String]| {
            let text = texts.first().map_or("", String::as_str);
            parse(text).map_err(|why| FileFault { file: 0, why })
        };
        Self::open_all(vec![path.into()], bytes_max, parse)
    }

    /// Loads several files. `bytes_max` applies to each.
    pub fn open_all(
        paths: Vec<PathBuf>,
        bytes_max: usize,
        parse: impl Fn(&[String]) -> Result<T, FileFault> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        let seen = stamps(&paths);
        let current = read(&paths, bytes_max, &parse)?;
        Ok(Self {
            paths,
            bytes_max,
            parse: Box::new(parse),
            current: RwLock::new(Arc::new(current)),
            seen: Mutex::new(seen),
            generation: AtomicU64::new(0),
        })
    }

    /// The last valid content.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Number of successful reloads.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Reloads the files if one has changed. Blocks on disk I/O.
    pub fn reload(&self) -> ReloadOutcome {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the read, so that a concurrent change is seen next time.
        let stamps = stamps(&self.paths);
        if stamps == *seen {
            return ReloadOutcome::Unchanged;
        }
        let changed = stamps.iter().zip(&*seen).position(|(new, old)| new != old);
        let path = changed.and_then(|place| self.paths.get(place));
        let path = path.map(|path| path.display().to_string()).unwrap_or_default();
        *seen = stamps;
        match read(&self.paths, self.bytes_max, &self.parse) {
            Ok(value) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                self.generation.fetch_add(1, Ordering::Release);
                tracing::info!(path, "configuration file reloaded");
                ReloadOutcome::Done
            }
            Err(error) => {
                let error = error_chain(&error);
                tracing::error!(error, "cannot use the changed file; keeping the previous version");
                ReloadOutcome::Failed
            }
        }
    }
}

fn stamp(path: &Path) -> io::Result<ReloadStamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path)?;
    let modified = metadata.modified()?;
    Ok(ReloadStamp { modified, bytes: metadata.len(), file: metadata.ino() })
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<ReloadStamp>> {
    paths.iter().map(|path| stamp(path).ok()).collect()
}

fn read<T>(
    paths: &[PathBuf],
    bytes_max: usize,
    parse: impl Fn(&[String]) -> Result<T, FileFault>,
) -> Result<T, FileError> {
    let texts: Result<Vec<_>, _> = paths.iter().map(|path| text(path, bytes_max)).collect();
    parse(&texts?).map_err(|FileFault { file, why }| FileError::Wrong {
        path: paths.get(file).cloned().unwrap_or_default(),
        why,
    })
}

fn text(path: &Path, bytes_max: usize) -> Result<String, FileError> {
    read_regular(path, bytes_max).map_err(|source| match source.kind() {
        io::ErrorKind::FileTooLarge => {
            let why = format!("it is larger than {bytes_max} bytes");
            FileError::Wrong { path: path.to_owned(), why }
        }
        _ => FileError::Unreadable { path: path.to_owned(), source },
    })
}

/// Reads a file of at most `bytes_max` bytes. What is no regular file is refused: a named pipe would hold up the
/// thread until another process writes to it, for ever if none does.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidInput`] for what is no regular file, [`io::ErrorKind::FileTooLarge`], and I/O errors.
pub fn read_regular(path: &Path, bytes_max: usize) -> io::Result<String> {
    let mut options = File::options();
    let file = options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    bounded_text(file, bytes_max)
}

/// Reads what a command names, at most `bytes_max` bytes: a file, or a pipe of the shell, whose end it waits for.
/// The length of a device is not known before.
///
/// # Errors
///
/// [`io::ErrorKind::FileTooLarge`], and I/O errors.
pub fn read_bounded(path: &Path, bytes_max: usize) -> io::Result<String> {
    bounded_text(File::open(path)?, bytes_max)
}

fn bounded_text(file: File, bytes_max: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    let read = file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    if read > bytes_max {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    // Without the bytes, which may be secret.
    String::from_utf8(bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_command_names_is_read_up_to_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_bounded(&path, 5).unwrap(), "12345");
        for (path, max) in [(&*path, 4), (Path::new("/dev/zero"), 1 << 20)] {
            assert_eq!(read_bounded(path, max).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        }
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(read_bounded(&path, 5).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_is_wrong_never_replaces_what_was_right() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        let parse = |text: &str| text.trim().parse::<u32>().map_err(|error| error.to_string());
        assert!(matches!(ReloadedFiles::open(&path, 10, parse), Err(FileError::Unreadable { .. })));
        std::fs::write(&path, "1").unwrap();
        let file = ReloadedFiles::open(&path, 10, parse).unwrap();
        assert_eq!(
            (file.reload(), *file.get(), file.generation()),
            (ReloadOutcome::Unchanged, 1, 0)
        );
        for (text, reload, value) in [
            ("22", ReloadOutcome::Done, 22),
            ("xyz", ReloadOutcome::Failed, 22),
            ("9999999999999", ReloadOutcome::Failed, 22),
            ("3333", ReloadOutcome::Done, 3333),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!((file.reload(), *file.get()), (reload, value), "{text}");
            assert_eq!(file.reload(), ReloadOutcome::Unchanged, "said once");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!((file.reload(), *file.get()), (ReloadOutcome::Failed, 3333));
        let other = folder.path().join("other");
        std::fs::write(&other, "4444").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!((file.reload(), *file.get(), file.generation()), (ReloadOutcome::Done, 4444, 3));
    }

    /// Regression: a file that was a named pipe for a moment was never reloaded again, without a word.
    #[test]
    fn fixed_a_named_pipe_is_refused_and_what_replaces_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        let parse = |text: &str| text.trim().parse::<u32>().map_err(|error| error.to_string());
        let pipe = || {
            let made = std::process::Command::new("mkfifo").arg(&path).status();
            assert!(made.unwrap().success());
        };
        pipe();
        let error = ReloadedFiles::open(&path, 10, parse).unwrap_err();
        assert!(error_chain(&error).contains("it is no regular file"), "{}", error_chain(&error));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "1").unwrap();
        let file = ReloadedFiles::open(&path, 10, parse).unwrap();
        std::fs::remove_file(&path).unwrap();
        pipe();
        assert_eq!((file.reload(), *file.get()), (ReloadOutcome::Failed, 1));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "22").unwrap();
        assert_eq!((file.reload(), *file.get()), (ReloadOutcome::Done, 22));
    }

    #[test]
    fn files_that_belong_together_are_right_together_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let paths = vec![folder.path().join("a"), folder.path().join("b")];
        let equal = |texts: &[String]| match texts {
            [a, b] if a == b => Ok(a.clone()),
            _ => Err(FileFault { file: 1, why: "it is not like the other".to_owned() }),
        };
        std::fs::write(&paths[0], "1").unwrap();
        std::fs::write(&paths[1], "22").unwrap();
        let error = ReloadedFiles::open_all(paths.clone(), 10, equal).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: it is not like the other", paths[1].display()));
        std::fs::write(&paths[0], "22").unwrap();
        let files = ReloadedFiles::open_all(paths.clone(), 10, equal).unwrap();
        std::fs::write(&paths[0], "333").unwrap();
        assert_eq!(
            (files.reload(), &**files.get()),
            (ReloadOutcome::Failed, "22"),
            "half a change"
        );
        std::fs::write(&paths[1], "333").unwrap();
        assert_eq!((files.reload(), &**files.get()), (ReloadOutcome::Done, "333"));
        assert_eq!(files.reload(), ReloadOutcome::Unchanged);
    }
}
