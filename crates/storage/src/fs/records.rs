//! Objects that are read and written whole: look-ups, conditional writes, deletes.
//!
//! A write goes to a temporary file in the key's folder, which is synced and then takes the
//! key's name in one step: `link(2)` for a Create, `rename(2)` otherwise. From that step until
//! the folder is synced the key is held exclusively, and every look-up holds it shared for a
//! moment. So a compare-and-swap is one step to everybody, and nobody is told of a version that
//! a crash could still take back.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::folders::parent;
use super::{Inner, failure};
use crate::{
    ETag, Error, ErrorKind, Key, PutMode, RECORD_BYTES_MAX, Record, Result, Stat, Written,
};

/// How many bytes of the hash make an etag.
const ETAG_BYTES: usize = 16;

/// A file that goes away unless it is given a name.
struct Temporary {
    path: PathBuf,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already after a rename. One that stays is swept by a listing of the next run.
        let _ = fs::remove_file(&self.path);
    }
}

/// The version of a record: a hash of its bytes. Inode and time would repeat.
fn etag(bytes: &[u8]) -> ETag {
    let mut hex = String::with_capacity(2 * ETAG_BYTES);
    for byte in Sha256::digest(bytes).iter().take(ETAG_BYTES) {
        write!(hex, "{byte:02x}").expect("a string takes what is written to it");
    }
    ETag::new(hex)
}

pub(super) fn modified(key: &Key, metadata: &Metadata) -> Result<SystemTime> {
    metadata.modified().map_err(|error| failure::ambiguous(key, error))
}

impl Inner {
    pub(super) fn path(&self, key: &Key) -> PathBuf {
        self.root.path().join(key.as_str())
    }

    /// Opens an object for reading.
    pub(super) fn open(&self, key: &Key) -> Result<(File, Metadata)> {
        let _held = self.keys.shared(key.as_str());
        self.open_held(key)
    }

    fn open_held(&self, key: &Key) -> Result<(File, Metadata)> {
        let open = || {
            let file = File::open(self.path(key))?;
            let metadata = file.metadata()?;
            Ok((file, metadata))
        };
        let (file, metadata) = open().map_err(|error| failure::lookup(key, error))?;
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::NotFound, key));
        }
        Ok((file, metadata))
    }

    pub(super) fn head(&self, key: &Key) -> Result<Stat> {
        let (_, metadata) = self.open(key)?;
        let last_modified = modified(key, &metadata)?;
        Ok(Stat { size_bytes: metadata.len(), last_modified, date: self.clock.now() })
    }

    pub(super) fn get(&self, key: &Key) -> Result<Record> {
        let (file, metadata) = self.open(key)?;
        let (last_modified, date) = (modified(key, &metadata)?, self.clock.now());
        let bytes = read_record(key, file, metadata.len())?;
        let etag = etag(&bytes);
        Ok(Record { bytes, etag, last_modified, date })
    }

    /// The version that is there, if any. The key must be held.
    fn current(&self, key: &Key) -> Result<Option<ETag>> {
        match self.open_held(key) {
            Ok((file, metadata)) => Ok(Some(etag(&read_record(key, file, metadata.len())?))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn check_version(&self, key: &Key, version: &ETag) -> Result<()> {
        match self.current(key)? {
            Some(current) if current == *version => Ok(()),
            _ => Err(Error::new(ErrorKind::Precondition, key)),
        }
    }

    pub(super) fn put(&self, key: &Key, bytes: &[u8], mode: &PutMode) -> Result<Written> {
        self.check_syncs(key)?;
        self.check_mode(key, mode)?;
        self.folders.within(parent(key.as_str()), &self.syncs, |folder| {
            let temporary = self.write_temporary(key, folder, bytes)?;
            let _held = self.keys.exclusive(key.as_str());
            self.publish(key, &temporary.path, mode)?;
            self.syncs.folder(folder).map_err(|error| failure::ambiguous(key, error))
        })?;
        Ok(Written { etag: etag(bytes), date: self.clock.now() })
    }

    /// Looks before anything is written: a lost swap leaves no folder behind, and a key that is
    /// taken is so on a full disk too.
    fn check_mode(&self, key: &Key, mode: &PutMode) -> Result<()> {
        let _held = self.keys.shared(key.as_str());
        match mode {
            PutMode::Match(version) => self.check_version(key, version),
            PutMode::Create if fs::symlink_metadata(self.path(key)).is_ok() => {
                Err(taken(key, &self.path(key), io::ErrorKind::AlreadyExists.into()))
            }
            PutMode::Create | PutMode::Overwrite => Ok(()),
        }
    }

    fn write_temporary(&self, key: &Key, folder: &Path, bytes: &[u8]) -> Result<Temporary> {
        let path = folder.join(self.temporary_name());
        let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(failure::lookup(key, error));
            }
            Err(error) => return Err(failure::write(key, error)),
        };
        let temporary = Temporary { path };
        file.write_all(bytes)
            .and_then(|()| file.set_modified(self.clock.now()))
            .and_then(|()| self.syncs.file(&file))
            .map_err(|error| failure::write(key, error))?;
        Ok(temporary)
    }

    fn publish(&self, key: &Key, new: &Path, mode: &PutMode) -> Result<()> {
        let path = self.path(key);
        let done = match mode {
            PutMode::Create => fs::hard_link(new, &path),
            PutMode::Overwrite => fs::rename(new, &path),
            PutMode::Match(version) => {
                self.check_version(key, version)?;
                fs::rename(new, &path)
            }
        };
        done.map_err(|error| taken(key, &path, error))
    }

    pub(super) fn delete(&self, key: &Key, version: Option<&ETag>) -> Result<()> {
        self.check_syncs(key)?;
        let folder = parent(key.as_str());
        {
            let _folder_held = self.folders.shared(folder);
            let _held = self.keys.exclusive(key.as_str());
            if let Some(version) = version {
                self.check_version(key, version)?;
            }
            self.remove(key)?;
            self.sync_removal(key, folder)?;
        }
        self.folders.prune(folder);
        Ok(())
    }

    /// Removes several objects, with one sync for each folder.
    pub(super) fn delete_many(&self, keys: &[Key]) -> Result<()> {
        let mut by_folder = BTreeMap::<&str, Vec<&Key>>::new();
        for key in keys {
            self.check_syncs(key)?;
            by_folder.entry(parent(key.as_str())).or_default().push(key);
        }
        for (folder, keys) in by_folder {
            self.delete_in(folder, &keys)?;
            self.folders.prune(folder);
        }
        Ok(())
    }

    fn delete_in(&self, folder: &str, keys: &[&Key]) -> Result<()> {
        let _folder_held = self.folders.shared(folder);
        for key in keys {
            let _held = self.keys.exclusive(key.as_str());
            self.remove(key)?;
        }
        keys.first().map_or(Ok(()), |key| self.sync_removal(key, folder))
    }

    fn remove(&self, key: &Key) -> Result<()> {
        match fs::remove_file(self.path(key)) {
            // A folder is no object.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(()),
            Err(error) => match failure::lookup(key, error) {
                error if error.is_not_found() => Ok(()),
                error => Err(error),
            },
            Ok(()) => Ok(()),
        }
    }

    /// Makes the absence of a name durable. Without its folder it is.
    pub(super) fn sync_removal(&self, key: &Key, folder: &str) -> Result<()> {
        let path = self.folders.path(folder);
        if !path.is_dir() {
            return Ok(());
        }
        self.syncs.folder(&path).map_err(|error| failure::ambiguous(key, error))
    }

    pub(super) fn check_syncs(&self, key: &Key) -> Result<()> {
        self.syncs.check().map_err(|error| failure::write(key, error))
    }
}

/// A name that could not be given: because an object has it, or a folder, or for another reason.
pub(super) fn taken(key: &Key, path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::AlreadyExists if !path.is_dir() => {
            Error::with_source(ErrorKind::AlreadyExists, key, error)
        }
        io::ErrorKind::AlreadyExists => failure::write(key, io::ErrorKind::IsADirectory.into()),
        io::ErrorKind::NotFound => failure::ambiguous(key, error),
        _ => failure::write(key, error),
    }
}

/// Reads a file of a known size whole.
fn read_record(key: &Key, file: File, size_bytes: u64) -> Result<Bytes> {
    if size_bytes > RECORD_BYTES_MAX {
        return Err(Error::new(ErrorKind::TooLarge, key));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size_bytes).unwrap_or(0));
    file.take(size_bytes)
        .read_to_end(&mut bytes)
        .map_err(|error| failure::ambiguous(key, error))?;
    if (bytes.len() as u64) < size_bytes {
        return Err(failure::ambiguous(key, io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etag_is_half_a_sha256() {
        assert_eq!(etag(b"").as_str(), "e3b0c44298fc1c149afbf4c8996fb924");
        assert_ne!(etag(b"a"), etag(b"b"));
    }
}
