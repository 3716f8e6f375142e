//! [`FolderOwner`]: to whom the files of a store belong.
//!
//! If root runs a command on the folder of another user, that user must be able to read and write what it
//! leaves: else the server, which is that user's, would not start any more. The folder is under that user's control,
//! so no symbolic link in it is followed to a file that is then given away, nor is a file that has another name.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use rustix::fs::OFlags;

use super::disk::NO_WAIT;
use super::modes::{FILE_MODE, FOLDER_MODE};

const NO_FOLLOW: i32 = OFlags::NOFOLLOW.bits().cast_signed();

/// The user and the group of a folder that belongs to another user than root, which runs this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct FolderOwner {
    user: u32,
    group: u32,
}

impl FolderOwner {
    /// The owner of a folder. `None`: what this process creates is as it should be.
    pub(super) fn of(folder: &Metadata) -> Option<Self> {
        let is_foreign = rustix::process::geteuid().is_root() && folder.uid() != 0;
        is_foreign.then(|| Self { user: folder.uid(), group: folder.gid() })
    }

    /// Opens a file that may be missing, for its owner.
    pub(super) fn create(
        owner: Option<Self>,
        options: &mut OpenOptions,
        path: &Path,
    ) -> io::Result<File> {
        let options = options.mode(FILE_MODE);
        let Some(owner) = owner else { return options.custom_flags(NO_WAIT).open(path) };
        let file = options.custom_flags(NO_WAIT | NO_FOLLOW).open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_file() && metadata.nlink() == 1 {
            owner.give(&file);
        }
        Ok(file)
    }

    /// Creates a folder, for its owner.
    pub(super) fn create_folder(owner: Option<Self>, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(FOLDER_MODE).create(path)?;
        if let Some(owner) = owner {
            let mut options = OpenOptions::new();
            owner.give(&options.read(true).custom_flags(NO_WAIT | NO_FOLLOW).open(path)?);
        }
        Ok(())
    }

    /// A system that does not allow it leaves the file as it is, which root can use.
    fn give(self, file: &File) {
        let _ = fchown(file, Some(self.user), Some(self.group));
    }
}
