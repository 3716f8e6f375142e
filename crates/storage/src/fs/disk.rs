//! [`Disk`]: every system call of the folder store, in one place.
//!
//! Files and folders are created here and nowhere else. Without the feature `testing` each method is the call
//! itself. With it a test sees each call before it is made, and
//! may delay it or make it fail (`SyscallHook`).

use std::fs::{self, File, Metadata, OpenOptions, ReadDir};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
#[cfg(feature = "testing")]
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::OFlags;

use super::owner::FolderOwner;

/// Opening a named pipe does not wait for its other end. For a file it means nothing.
pub(super) const NO_WAIT: i32 = OFlags::NONBLOCK.bits().cast_signed();

/// How many bytes one system call writes at most. Linux takes memory for the page cache in pieces of up
/// to the size of a write. Larger ones come from where memory lies that was free for long, which is cold
/// and, on a virtual machine, often not even there: the host takes back what is free in large pieces,
/// and gives it again at a fault. Of a push of 10 MiB, 38 % of the processor time was this copy with
/// writes of 256 KiB, and 6 % with these (issue 16).
const WRITE_BYTES: usize = 32 * 1024;

/// What a system call does, as far as its failures differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Syscall {
    /// Opens a file or folder that exists.
    Open,
    /// Creates a file.
    Create,
    /// Creates a folder.
    MakeFolder,
    /// Removes a folder.
    RemoveFolder,
    /// Removes the name of a file.
    Unlink,
    /// Renames a file.
    Rename,
    /// Gives a file another name (hard link).
    Link,
    /// Shares the blocks of another file (reflink).
    Reflink,
    /// Reads the metadata of a file or folder.
    Stat,
    /// Reads bytes.
    Read,
    /// Reads the names in a folder.
    ReadNames,
    /// Writes bytes that need space.
    Write,
    /// Writes bytes over allocated ones.
    Overwrite,
    /// Allocates space for bytes to come.
    Allocate,
    /// Sets the length of a file.
    SetLength,
    /// Sets the time of change of a file.
    SetTime,
    /// Syncs a file or folder.
    Sync,
    /// Starts to write bytes to the disk, without waiting for it.
    WriteBack,
    /// Syncs a file system.
    SyncAll,
}

/// What a system call is made on.
#[derive(Clone, Copy, Debug)]
pub enum SyscallTarget<'c> {
    /// A path; the old one of a rename.
    Path(&'c Path),
    /// An open file or folder.
    File(&'c File),
}

/// What a test does before each system call of a store.
#[cfg(feature = "testing")]
pub trait SyscallHook: std::fmt::Debug + Send + Sync {
    /// Sees a call that is about to be made. A test may wait here.
    ///
    /// # Errors
    ///
    /// The call is to fail with this error. A write has written half of its bytes by then.
    fn before(&self, call: Syscall, target: SyscallTarget<'_>) -> io::Result<()>;

    /// How long a segment of the write-ahead log becomes before it is closed, if not as long as in
    /// production: a test need not write that much.
    fn segment_bytes(&self) -> Option<u64> {
        None
    }
}

/// The system calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    /// To whom what is created is given.
    owner: Option<FolderOwner>,
    #[cfg(feature = "testing")]
    hook: Option<Arc<dyn SyscallHook>>,
}

impl Disk {
    #[cfg(feature = "testing")]
    pub(super) fn with(hook: Arc<dyn SyscallHook>) -> Self {
        Self { owner: None, hook: Some(hook) }
    }

    /// The same for a folder of this owner.
    pub(super) fn owned_by(self, owner: Option<FolderOwner>) -> Self {
        Self { owner, ..self }
    }

    #[cfg(feature = "testing")]
    fn before(&self, call: Syscall, target: SyscallTarget<'_>) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook.before(call, target))
    }

    #[cfg(not(feature = "testing"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "a test may make it fail")]
    #[inline]
    fn before(&self, _: Syscall, _: SyscallTarget<'_>) -> io::Result<()> {
        Ok(())
    }

    /// How long a segment of the write-ahead log becomes, unless a test wants it shorter.
    #[cfg_attr(not(feature = "testing"), expect(clippy::unused_self, reason = "a test may"))]
    pub(super) fn segment_bytes(&self, usual: u64) -> u64 {
        #[cfg(feature = "testing")]
        if let Some(bytes) = self.hook.as_ref().and_then(|hook| hook.segment_bytes()) {
            return bytes;
        }
        usual
    }

    /// Opens a file or folder for reading. A named pipe that is in its place must not hold the thread until it has a
    /// writer.
    pub(super) fn open(&self, path: &Path) -> io::Result<File> {
        self.before(Syscall::Open, SyscallTarget::Path(path))?;
        OpenOptions::new().read(true).custom_flags(NO_WAIT).open(path)
    }

    /// Opens a file for writing.
    pub(super) fn open_for_writing(&self, path: &Path) -> io::Result<File> {
        self.before(Syscall::Open, SyscallTarget::Path(path))?;
        OpenOptions::new().write(true).custom_flags(NO_WAIT).open(path)
    }

    /// Creates a file for writing that must not exist.
    pub(super) fn create_new(&self, path: &Path) -> io::Result<File> {
        self.before(Syscall::Create, SyscallTarget::Path(path))?;
        let mut options = OpenOptions::new();
        FolderOwner::create(self.owner, options.write(true).create_new(true), path)
    }

    /// Creates a file for writing, or empties the one that exists.
    pub(super) fn create(&self, path: &Path) -> io::Result<File> {
        self.before(Syscall::Create, SyscallTarget::Path(path))?;
        let mut options = OpenOptions::new();
        FolderOwner::create(self.owner, options.write(true).create(true).truncate(true), path)
    }

    pub(super) fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.before(Syscall::MakeFolder, SyscallTarget::Path(path))?;
        FolderOwner::create_folder(self.owner, path)
    }

    /// Creates a folder and those above it. Others may create them at the same time.
    pub(super) fn create_folders(&self, path: &Path) -> io::Result<()> {
        match self.ensure_folder(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.create_folders(path.parent().ok_or(error)?)?;
                self.ensure_folder(path)
            }
            done => done,
        }
    }

    fn ensure_folder(&self, path: &Path) -> io::Result<()> {
        match self.create_folder(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            done => done,
        }
    }

    pub(super) fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.before(Syscall::RemoveFolder, SyscallTarget::Path(path))?;
        fs::remove_dir(path)
    }

    pub(super) fn unlink(&self, path: &Path) -> io::Result<()> {
        self.before(Syscall::Unlink, SyscallTarget::Path(path))?;
        fs::remove_file(path)
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.before(Syscall::Rename, SyscallTarget::Path(from))?;
        fs::rename(from, to)
    }

    pub(super) fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.before(Syscall::Link, SyscallTarget::Path(to))?;
        fs::hard_link(from, to)
    }

    /// Makes an empty file the same as another one, whose blocks both share from then on. `false`: the file
    /// systems cannot.
    pub(super) fn reflink(&self, from: &File, to: &File) -> io::Result<bool> {
        self.before(Syscall::Reflink, SyscallTarget::File(to))?;
        #[cfg(target_os = "linux")]
        {
            use rustix::io::Errno;
            match rustix::fs::ioctl_ficlone(to, from) {
                Ok(()) => Ok(true),
                Err(
                    Errno::OPNOTSUPP
                    | Errno::XDEV
                    | Errno::INVAL
                    | Errno::NOTTY
                    | Errno::NOSYS
                    | Errno::PERM
                    | Errno::ACCESS,
                ) => Ok(false),
                Err(error) => Err(error.into()),
            }
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = from;
            Ok(false)
        }
    }

    pub(super) fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.before(Syscall::Stat, SyscallTarget::Path(path))?;
        fs::metadata(path)
    }

    /// Metadata of a name itself, where it is a symbolic link.
    pub(super) fn symlink_metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.before(Syscall::Stat, SyscallTarget::Path(path))?;
        fs::symlink_metadata(path)
    }

    pub(super) fn metadata_of(&self, file: &File) -> io::Result<Metadata> {
        self.before(Syscall::Stat, SyscallTarget::File(file))?;
        file.metadata()
    }

    pub(super) fn names(&self, folder: &Path) -> io::Result<ReadDir> {
        self.before(Syscall::ReadNames, SyscallTarget::Path(folder))?;
        fs::read_dir(folder)
    }

    /// Reads a file to its end, or up to so many bytes.
    pub(super) fn read_up_to(&self, file: &File, bytes_max: u64) -> io::Result<Vec<u8>> {
        self.before(Syscall::Read, SyscallTarget::File(file))?;
        let mut bytes = Vec::with_capacity(usize::try_from(bytes_max).unwrap_or_default());
        file.take(bytes_max).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn read_exact_at(
        &self,
        file: &File,
        bytes: &mut [u8],
        offset: u64,
    ) -> io::Result<()> {
        self.before(Syscall::Read, SyscallTarget::File(file))?;
        file.read_exact_at(bytes, offset)
    }

    /// Writes bytes that need space, [`WRITE_BYTES`] at a time.
    pub(super) fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut offset = offset;
        for piece in bytes.chunks(WRITE_BYTES) {
            self.write(Syscall::Write, file, piece, offset)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Writes over bytes for which there is space.
    pub(super) fn overwrite_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write(Syscall::Overwrite, file, bytes, offset)
    }

    fn write(&self, call: Syscall, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = self.before(call, SyscallTarget::File(file)) {
            file.write_all_at(bytes.get(..bytes.len() / 2).unwrap_or_default(), offset)?;
            return Err(error);
        }
        file.write_all_at(bytes, offset)
    }

    /// Allocates space, if the file system can. One that cannot says so when it is written.
    pub(super) fn allocate(&self, file: &File, offset: u64, bytes: u64) -> io::Result<()> {
        self.before(Syscall::Allocate, SyscallTarget::File(file))?;
        #[cfg(target_os = "linux")]
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), offset, bytes) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
        #[cfg(not(target_os = "linux"))]
        file.set_len(offset + bytes)
    }

    pub(super) fn set_length(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.before(Syscall::SetLength, SyscallTarget::File(file))?;
        file.set_len(bytes)
    }

    pub(super) fn set_modified(&self, file: &File, modified: SystemTime) -> io::Result<()> {
        self.before(Syscall::SetTime, SyscallTarget::File(file))?;
        file.set_modified(modified)
    }

    /// Starts to write bytes of a file to the disk, if the system can, so that a later sync finds less
    /// to do. The advice is about pages that are clean, of which these are none; the ones that are not
    /// are written by it.
    pub(super) fn start_write_back(&self, file: &File, offset: u64, bytes: u64) -> io::Result<()> {
        self.before(Syscall::WriteBack, SyscallTarget::File(file))?;
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(
            file,
            offset,
            std::num::NonZeroU64::new(bytes),
            rustix::fs::Advice::DontNeed,
        )?;
        #[cfg(not(target_os = "linux"))]
        let _ = (file, offset, bytes);
        Ok(())
    }

    /// Syncs a file's bytes and metadata, or a folder's names.
    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        self.before(Syscall::Sync, SyscallTarget::File(file))?;
        file.sync_all()
    }

    /// Syncs a file's bytes and length.
    pub(super) fn sync_data(&self, file: &File) -> io::Result<()> {
        self.before(Syscall::Sync, SyscallTarget::File(file))?;
        file.sync_data()
    }

    /// Opens and syncs a folder.
    pub(super) fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.sync(&self.open(path)?)
    }

    /// Writes everything that is on the file system of a folder to the disk.
    pub(super) fn sync_all(&self, folder: &File) -> io::Result<()> {
        self.before(Syscall::SyncAll, SyscallTarget::File(folder))?;
        #[cfg(target_os = "linux")]
        rustix::fs::syncfs(folder)?;
        #[cfg(not(target_os = "linux"))]
        folder.sync_all()?;
        Ok(())
    }
}

/// Numbers of file systems (`statfs(2)`) that write everything to the disk on `syncfs(2)`, in
/// order: ext2 to ext4, XFS, Btrfs, F2FS, ZFS, bcachefs, overlayfs, JFS, ReiserFS, NILFS2, tmpfs,
/// ramfs. FUSE, 9p, SMB and others return without telling the server, and what is not known is
/// not trusted.
#[cfg(target_os = "linux")]
const SYNCING_FILE_SYSTEMS: [u64; 12] = [
    0xEF53,
    0x5846_5342,
    0x9123_683E,
    0xF2F5_2010,
    0x2FC1_2FC1,
    0xCA45_1A4E,
    0x794C_7630,
    0x3153_464A,
    0x5265_4973,
    0x3434,
    0x0102_1994,
    0x8584_58F6,
];

/// Whether `syncfs(2)` writes the file system of a folder to its disk.
pub(super) fn syncs_all(folder: &File) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    {
        // Its type differs between machines; all numbers have 32 bits.
        let number = rustix::fs::fstatfs(folder)?.f_type as u64 & 0xFFFF_FFFF;
        Ok(SYNCING_FILE_SYSTEMS.contains(&number))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = folder;
        Ok(false)
    }
}
