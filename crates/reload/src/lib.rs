//! [`ReloadedFiles`]: files that are reloaded when they change. Invalid content never replaces
//! valid content.
//!
//! A file that is written in place may be valid when half of it is there: a policy without its last rules, or a
//! rule without its condition, may allow more. So a change is loaded when the next look finds the files as they were.
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

use rustix::fs::OFlags;

/// Parses the texts of the files.
type ParseFiles<T> = Box<dyn Fn(&[String]) -> Result<T, FileFault> + Send + Sync>;

/// One or more files and the value parsed from them.
pub struct ReloadedFiles<T> {
    paths: Vec<PathBuf>,
    bytes_max: usize,
    parse: ParseFiles<T>,
    current: RwLock<Arc<T>>,
    seen: Mutex<SeenStamps>,
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

type FileStamps = Vec<Option<ReloadStamp>>;

/// What looks have found.
struct SeenStamps {
    /// At the last read, successful or not.
    read: FileStamps,
    /// A change that is not loaded yet, and the number of looks since the first one that found a change.
    changing: Option<(FileStamps, u32)>,
}

/// Number of looks that find another change each before it is logged.
const CHANGING_LOOKS_MAX: u32 = 30;

/// Why a file cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// The content is invalid.
    #[error("{}: {why}", path.display())]
    Wrong { path: PathBuf, why: String },
}

impl FileError {
    /// The error with its cause.
    fn explained(&self) -> String {
        match self {
            Self::Unreadable { source, .. } => format!("{self}: {source}"),
            Self::Wrong { .. } => self.to_string(),
        }
    }
}

/// Result of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// No file has changed.
    Unchanged,
    /// A file has changed since the last look, and may still be being written.
    Changing,
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
            ReloadOutcome::Unchanged | ReloadOutcome::Changing => None,
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
            seen: Mutex::new(SeenStamps { read: seen, changing: None }),
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

    /// Looks at the files, and loads a change that the look before found, too. Blocks on disk I/O.
    pub fn reload(&self) -> ReloadOutcome {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.paths);
        if stamps == seen.read {
            seen.changing = None;
            return ReloadOutcome::Unchanged;
        }
        if !seen.is_settled(&stamps) {
            return self.wait(&mut seen, stamps);
        }
        let loaded = read(&self.paths, self.bytes_max, &self.parse);
        let after = self::stamps(&self.paths);
        if after != stamps {
            return self.wait(&mut seen, after);
        }
        let path = self.changed(&seen.read, &stamps);
        *seen = SeenStamps { read: stamps, changing: None };
        match loaded {
            Ok(value) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                self.generation.fetch_add(1, Ordering::Release);
                tracing::info!(path, "configuration file reloaded");
                ReloadOutcome::Done
            }
            Err(error) => {
                let error = error.explained();
                tracing::error!(error, "cannot use the changed file; keeping the previous version");
                ReloadOutcome::Failed
            }
        }
    }

    /// Leaves a change to the next look.
    fn wait(&self, seen: &mut SeenStamps, stamps: FileStamps) -> ReloadOutcome {
        let looks = seen.changing.as_ref().map_or(0, |(_, looks)| looks.saturating_add(1));
        if looks == CHANGING_LOOKS_MAX {
            let path = self.changed(&seen.read, &stamps);
            tracing::warn!(
                path,
                "a configuration file keeps changing; keeping the previous version"
            );
        }
        seen.changing = Some((stamps, looks));
        ReloadOutcome::Changing
    }

    /// The first file that has changed.
    fn changed(&self, old: &FileStamps, new: &FileStamps) -> String {
        let place = new.iter().zip(old).position(|(new, old)| new != old);
        let path = place.and_then(|place| self.paths.get(place));
        path.map(|path| path.display().to_string()).unwrap_or_default()
    }
}

impl SeenStamps {
    /// Whether the look before found the same.
    fn is_settled(&self, stamps: &FileStamps) -> bool {
        self.changing.as_ref().is_some_and(|(before, _)| before == stamps)
    }
}

fn stamp(path: &Path) -> io::Result<ReloadStamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path)?;
    let modified = metadata.modified()?;
    Ok(ReloadStamp { modified, bytes: metadata.len(), file: metadata.ino() })
}

fn stamps(paths: &[PathBuf]) -> FileStamps {
    paths.iter().map(|path| stamp(path).ok()).collect()
}

fn read<T>(
    paths: &[PathBuf],
    bytes_max: usize,
    parse: impl Fn(&[String]) -> Result<T, FileFault>,
) -> Result<T, FileError> {
    let texts: Result<Vec<_>, _> =
        paths.iter().map(|path| read_regular_text(path, bytes_max)).collect();
    parse(&texts?).map_err(|FileFault { file, why }| FileError::Wrong {
        path: paths.get(file).cloned().unwrap_or_default(),
        why,
    })
}

/// The text of a file of at most `bytes_max` bytes ([`read_regular`]).
///
/// # Errors
///
/// [`FileError`].
pub fn read_regular_text(path: &Path, bytes_max: usize) -> Result<String, FileError> {
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

    /// Two looks at files that do not change between them.
    fn reload<T>(files: &ReloadedFiles<T>) -> ReloadOutcome {
        match files.reload() {
            ReloadOutcome::Changing => files.reload(),
            outcome => outcome,
        }
    }

    /// Regression: a policy that was written slowly was loaded without the rules and conditions that were to come.
    #[test]
    fn fixed_a_file_is_not_loaded_while_it_is_being_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        std::fs::write(&path, "allow\ndeny\n").unwrap();
        let file = ReloadedFiles::open(&path, 100, |text| Ok(text.to_owned())).unwrap();
        for part in
            ["", "allow all\n", "allow all\nif it is safe\n", "allow all\nif it is safe\ndeny\n"]
        {
            std::fs::write(&path, part).unwrap();
            assert_eq!((file.reload(), &**file.get()), (ReloadOutcome::Changing, "allow\ndeny\n"));
        }
        assert_eq!(file.reload(), ReloadOutcome::Done);
        assert_eq!(&**file.get(), "allow all\nif it is safe\ndeny\n");
        assert_eq!(file.reload(), ReloadOutcome::Unchanged);
        std::fs::write(&path, "a").unwrap();
        assert_eq!(file.reload(), ReloadOutcome::Changing);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            (file.reload(), file.reload()),
            (ReloadOutcome::Changing, ReloadOutcome::Failed)
        );
        assert_eq!(file.generation(), 1);
    }

    /// What is written between the look and the read is not loaded either.
    #[test]
    fn a_file_that_changes_while_it_is_read_is_not_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        std::fs::write(&path, "1").unwrap();
        let (writes, written) = (AtomicU64::new(0), path.clone());
        let parse = move |text: &str| {
            // The second time it is parsed, its writer goes on.
            if writes.fetch_add(1, Ordering::SeqCst) == 1 {
                std::fs::write(&written, "333").unwrap();
            }
            Ok(text.to_owned())
        };
        let file = ReloadedFiles::open(&path, 10, parse).unwrap();
        std::fs::write(&path, "22").unwrap();
        for outcome in [ReloadOutcome::Changing, ReloadOutcome::Changing] {
            assert_eq!((file.reload(), &**file.get()), (outcome, "1"));
        }
        assert_eq!((file.reload(), &**file.get()), (ReloadOutcome::Done, "333"));
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
            (reload(&file), *file.get(), file.generation()),
            (ReloadOutcome::Unchanged, 1, 0)
        );
        for (text, outcome, value) in [
            ("22", ReloadOutcome::Done, 22),
            ("xyz", ReloadOutcome::Failed, 22),
            ("9999999999999", ReloadOutcome::Failed, 22),
            ("3333", ReloadOutcome::Done, 3333),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!((reload(&file), *file.get()), (outcome, value), "{text}");
            assert_eq!(file.reload(), ReloadOutcome::Unchanged, "said once");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!((reload(&file), *file.get()), (ReloadOutcome::Failed, 3333));
        let other = folder.path().join("other");
        std::fs::write(&other, "4444").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!((reload(&file), *file.get(), file.generation()), (ReloadOutcome::Done, 4444, 3));
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
        assert!(error.explained().contains("it is no regular file"), "{}", error.explained());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "1").unwrap();
        let file = ReloadedFiles::open(&path, 10, parse).unwrap();
        std::fs::remove_file(&path).unwrap();
        pipe();
        assert_eq!((reload(&file), *file.get()), (ReloadOutcome::Failed, 1));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "22").unwrap();
        assert_eq!((reload(&file), *file.get()), (ReloadOutcome::Done, 22));
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
            (reload(&files), &**files.get()),
            (ReloadOutcome::Failed, "22"),
            "half a change"
        );
        std::fs::write(&paths[1], "333").unwrap();
        assert_eq!((reload(&files), &**files.get()), (ReloadOutcome::Done, "333"));
        assert_eq!(files.reload(), ReloadOutcome::Unchanged);
    }
}
