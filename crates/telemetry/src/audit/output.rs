//! [`AuditOutput`]: the destination of audit lines. A file is appended to and reopened after
//! rotation.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::AuditTarget;

/// Permissions of a new file.
const MODE: u32 = 0o640;

/// The destination.
#[derive(Debug)]
pub(super) struct AuditOutput {
    target: OutputTarget,
    /// The last line was written in part.
    is_torn: bool,
}

#[derive(Debug)]
enum OutputTarget {
    Stdout,
    Stderr,
    File(RotatedFile),
}

/// A file that may be renamed or removed at any time.
#[derive(Debug)]
pub(super) struct RotatedFile {
    path: PathBuf,
    file: File,
    identity: (u64, u64),
}

impl AuditOutput {
    /// Opens the configured destination; `None`: disabled. A file is created if absent.
    pub(super) fn open(target: &AuditTarget) -> io::Result<Option<Self>> {
        let target = match target {
            AuditTarget::Off => return Ok(None),
            AuditTarget::Stdout => OutputTarget::Stdout,
            AuditTarget::Stderr => OutputTarget::Stderr,
            AuditTarget::File(path) => {
                let (file, identity) = open(path)?;
                OutputTarget::File(RotatedFile { path: path.clone(), file, identity })
            }
        };
        Ok(Some(Self { target, is_torn: false }))
    }

    /// Writes lines; returns how many were written whole.
    pub(super) fn write(&mut self, lines: &[Vec<u8>], reopens: bool) -> (usize, io::Result<()>) {
        let is_torn = &mut self.is_torn;
        match &mut self.target {
            OutputTarget::Stdout => write_lines(&mut io::stdout().lock(), lines, is_torn),
            OutputTarget::Stderr => write_lines(&mut io::stderr().lock(), lines, is_torn),
            OutputTarget::File(rotated) => {
                // If that fails, the open file still takes the lines.
                let followed = rotated.follow(reopens);
                let (written, result) = write_lines(&mut rotated.file, lines, is_torn);
                (written, result.and(followed))
            }
        }
    }
}

impl RotatedFile {
    /// Reopens the file if the path leads to another file, or to none.
    fn follow(&mut self, reopens: bool) -> io::Result<()> {
        let is_same =
            std::fs::metadata(&self.path).is_ok_and(|now| identity(&now) == self.identity);
        if is_same && !reopens {
            return Ok(());
        }
        (self.file, self.identity) = open(&self.path)?;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, (u64, u64))> {
    let mut options = OpenOptions::new();
    // Without waiting for the reader of a named pipe, which may never come.
    options.append(true).mode(MODE).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = match options.create_new(true).open(path) {
        Ok(file) => {
            belong(&file, path);
            file
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            check_link(path)?;
            let opened = options.create_new(false).create(true).open(path);
            opened.map_err(|error| match error.raw_os_error() {
                Some(code) if code == Errno::NXIO.raw_os_error() => {
                    io::Error::new(error.kind(), "it is a named pipe that no process reads")
                }
                _ => error,
            })?
        }
        Err(error) => return Err(error),
    };
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    let identity = identity(&file.metadata()?);
    Ok((file, identity))
}

/// Refuses a symbolic link that another user owns: that user would choose which file is appended
/// to. Links owned by root and by the current user are followed, for example to `/dev/stdout`.
fn check_link(path: &Path) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    let own = rustix::process::geteuid().as_raw();
    if !metadata.is_symlink() || is_trusted_owner(metadata.uid(), own) {
        return Ok(());
    }
    let (path, owner) = (path.display(), metadata.uid());
    let why = format!("{path} is a symbolic link of user {owner}: name the file itself");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

fn is_trusted_owner(owner: u32, own: u32) -> bool {
    owner == own || owner == 0
}

/// Changes the owner of a new file to that of its folder: a command run by root must not leave a
/// file that the server cannot open.
fn belong(file: &File, path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Ok(folder) = std::fs::metadata(folder.unwrap_or(Path::new("."))) {
        // Only root may change the owner; other users own the file already.
        let _ = std::os::unix::fs::fchown(file, Some(folder.uid()), Some(folder.gid()));
    }
}

fn identity(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Writes lines with as few calls as possible, so that lines of several processes do not mix. A
/// partial line is terminated before the next one.
fn write_lines(
    output: &mut impl Write,
    lines: &[Vec<u8>],
    is_torn: &mut bool,
) -> (usize, io::Result<()>) {
    let mut bytes = lines.concat();
    let end = usize::from(*is_torn && !bytes.is_empty());
    bytes.splice(..0, std::iter::repeat_n(b'\n', end));
    let mut rest = bytes.as_slice();
    let result = loop {
        if rest.is_empty() {
            break output.flush();
        }
        match output.write(rest) {
            Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    let mut room = (bytes.len() - rest.len()).saturating_sub(end);
    if rest.len() < bytes.len() {
        let last = bytes.get(bytes.len() - rest.len() - 1);
        *is_torn = last.is_some_and(|last| *last != b'\n');
    }
    let whole = |line: &&Vec<u8>| {
        let fits = line.len() <= room;
        room = if fits { room - line.len() } else { room };
        fits
    };
    let written = lines.iter().take_while(whole).count();
    (written, result)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Simulates a disk with limited space.
    struct SmallDisk(Vec<u8>, usize);

    impl Write for SmallDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.1.saturating_sub(self.0.len()));
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.extend(bytes.iter().take(count));
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn links_of_root_and_of_the_own_user_are_followed() {
        assert!(
            is_trusted_owner(0, 1000) && is_trusted_owner(1000, 1000) && is_trusted_owner(0, 0)
        );
        assert!(!is_trusted_owner(1000, 0) && !is_trusted_owner(1001, 1000));
        let folder = tempfile::tempdir().unwrap();
        let (log, link) = (folder.path().join("log"), folder.path().join("link"));
        std::fs::write(&log, "").unwrap();
        std::os::unix::fs::symlink(&log, &link).unwrap();
        assert!(open(&link).is_ok());
        // Only root can create a link that another user owns.
        if std::os::unix::fs::lchown(&link, Some(1), None).is_ok() {
            let refused = open(&link).unwrap_err().to_string();
            assert!(refused.contains("symbolic link of user 1"), "{refused}");
        }
    }

    /// Regression: a start waited for ever for the reader of a named pipe.
    #[test]
    fn fixed_a_named_pipe_without_a_reader_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let refused = open(&pipe).unwrap_err().to_string();
        assert!(refused.contains("no process reads"), "{refused}");
        let reader = File::options().read(true).write(true).open(&pipe).unwrap();
        let (mut written, _) = open(&pipe).unwrap();
        assert!(!fcntl_getfl(&written).unwrap().contains(OFlags::NONBLOCK));
        written.write_all(b"a line").unwrap();
        drop(reader);
    }

    #[test]
    fn half_a_line_is_ended_before_the_next_one() {
        let lines = [b"one\n".to_vec(), b"two\n".to_vec()];
        let (mut disk, mut is_torn) = (SmallDisk(Vec::new(), 6), false);
        let (written, result) = write_lines(&mut disk, &lines, &mut is_torn);
        assert!(result.is_err());
        assert_eq!((written, is_torn, disk.0.as_slice()), (1, true, &b"one\ntw"[..]));
        let (written, _) = write_lines(&mut disk, &lines, &mut is_torn);
        assert_eq!((written, is_torn), (0, true), "still full");
        disk.1 = 100;
        let (written, result) = write_lines(&mut disk, &lines, &mut is_torn);
        assert!(result.is_ok());
        assert_eq!((written, is_torn, disk.0.as_slice()), (2, false, &b"one\ntw\none\ntwo\n"[..]));
    }
}
