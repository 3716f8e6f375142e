//! Objects that are read and written whole: look-ups, conditional writes, deletes.
//!
//! A write goes to a temporary file in the key's folder, which takes the key's name in one step.
//! What is small is in the log before that; what is not is synced, and its folder after it. The key
//! is locked exclusively from the check until the new version is durable, and every look-up holds
//! it shared for a moment. So a compare-and-swap is atomic, and no version is returned that a crash
//! could still take back.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::disk::Disk;
use super::folders::parent;
use super::record_cache::{CachedFile, CachedLookup, RecordStamp};
use super::wal::{AppliedEntries, LOGGED_BYTES_MAX, PendingEntries, Wal, WalEntry, WalRefusal};
use super::{FsInner, failure, is_full};
use crate::{
    ETag, Error, ErrorKind, Key, PutMode, RECORD_BYTES_MAX, Record, Result, Stat, Written,
};

/// How many bytes of the hash make an etag.
const ETAG_BYTES: usize = 16;

/// A file that goes away unless it is given a name.
pub(super) struct TemporaryFile {
    path: PathBuf,
    file: File,
    disk: Disk,
    is_renamed: bool,
}

impl TemporaryFile {
    /// Gives it a name.
    pub(super) fn rename(&mut self, to: &Path) -> io::Result<()> {
        self.disk.rename(&self.path, to)?;
        self.is_renamed = true;
        Ok(())
    }

    /// Its metadata, which changes with its name. No path is looked up for it.
    fn metadata(&self) -> io::Result<Metadata> {
        self.disk.metadata_of(&self.file)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.is_renamed {
            // One that stays is swept by a listing of the next run.
            let _ = self.disk.unlink(&self.path);
        }
    }
}

/// The version of a record: a hash of its bytes. Inode and time would repeat.
pub(super) fn etag(bytes: &[u8]) -> ETag {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let mut hex = String::with_capacity(2 * ETAG_BYTES);
    for byte in Sha256::digest(bytes).iter().take(ETAG_BYTES) {
        hex.extend([byte >> 4, byte & 0xf].map(|digit| DIGITS[usize::from(digit)]));
    }
    ETag::new(hex)
}

pub(super) fn modified(key: &Key, metadata: &Metadata) -> Result<SystemTime> {
    metadata.modified().map_err(|error| failure::ambiguous(key, error))
}

impl FsInner {
    pub(super) fn path(&self, key: &Key) -> PathBuf {
        self.root.path().join(key.as_str())
    }

    /// Opens an object for reading.
    pub(super) fn open(&self, key: &Key) -> Result<(File, Metadata)> {
        let _held = self.keys.shared(key.as_str());
        self.open_held(key)
    }

    pub(super) fn open_held(&self, key: &Key) -> Result<(File, Metadata)> {
        let path = self.path(key);
        let open = || {
            let file = self.disk.open(&path)?;
            let metadata = self.disk.metadata_of(&file)?;
            Ok((file, metadata))
        };
        let opened = open().map_err(|error| failure::lookup(key, error));
        if opened.as_ref().is_err_and(Error::is_not_found) {
            self.check_folders(&path)?;
        }
        let (file, metadata) = opened?;
        if metadata.is_dir() {
            return Err(Error::new(ErrorKind::NotFound, key));
        }
        // Something took the place of an object, of which nothing is known.
        if !metadata.is_file() {
            return Err(super::listing::is_no_file(key));
        }
        Ok((file, metadata))
    }

    pub(super) fn head(&self, key: &Key) -> Result<Stat> {
        let (_, metadata) = self.open(key)?;
        let last_modified = modified(key, &metadata)?;
        Ok(Stat { size_bytes: metadata.len(), last_modified, date: self.clock.now() })
    }

    pub(super) fn get(&self, key: &Key) -> Result<Record> {
        let _held = self.keys.shared(key.as_str());
        let found = self.find(key)?;
        self.known.set(key, found.clone());
        self.record(key, found)
    }

    /// Reads what is at a key, which is held.
    fn find(&self, key: &Key) -> Result<CachedLookup> {
        let (file, metadata) = match self.open_held(key) {
            Ok(open) => open,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let last_modified = modified(key, &metadata)?;
        let bytes = self.read_record(key, &file, metadata.len())?;
        Ok(Some(CachedFile {
            etag: etag(&bytes),
            bytes,
            last_modified,
            stamp: RecordStamp::of(&metadata),
        }))
    }

    /// A record from what was found.
    pub(super) fn record(&self, key: &Key, found: CachedLookup) -> Result<Record> {
        let CachedFile { bytes, etag, last_modified, .. } =
            found.ok_or_else(|| Error::new(ErrorKind::NotFound, key))?;
        Ok(Record { bytes, etag, last_modified, date: self.clock.now() })
    }

    /// The version that is there, if any. The key must be held.
    fn current(&self, key: &Key) -> Result<Option<ETag>> {
        let found = match self.known.get(key, &self.path(key)) {
            Some(found) => found,
            None => self.find(key)?,
        };
        Ok(found.map(|record| record.etag))
    }

    fn check_version(&self, key: &Key, version: &ETag) -> Result<()> {
        match self.current(key)? {
            Some(current) if current == *version => Ok(()),
            _ => Err(Error::new(ErrorKind::Precondition, key)),
        }
    }

    pub(super) fn put(&self, key: &Key, bytes: &Bytes, mode: &PutMode) -> Result<Written> {
        let etag = etag(bytes);
        self.put_object(key, bytes, mode, Some(&etag))?;
        Ok(Written { etag, date: self.clock.now() })
    }

    /// Puts a record of this version, or an object whose version is not needed: the writer of
    /// a large one has hashed it for its digest, and once more would cost as much again.
    pub(super) fn put_object(
        &self,
        key: &Key,
        bytes: &Bytes,
        mode: &PutMode,
        version: Option<&ETag>,
    ) -> Result<()> {
        self.check_syncs(key)?;
        self.check_mode(key, mode)?;
        self.folders.within(parent(key.as_str()), |folder| {
            match &self.log {
                Some(log) if bytes.len() as u64 <= LOGGED_BYTES_MAX => {
                    if self.put_logged(log, (key, folder), (bytes, version), mode)? {
                        return Ok(());
                    }
                }
                Some(_) | None => {}
            }
            self.put_synced((key, folder), (bytes, version), mode)
        })
    }

    /// Puts an object by way of the log, unless that is full.
    fn put_logged(
        &self,
        log: &Wal,
        (key, folder): (&Key, &Path),
        (bytes, version): (&Bytes, Option<&ETag>),
        mode: &PutMode,
    ) -> Result<bool> {
        let modified = self.clock.now();
        let mut temporary = self.write_temporary((key, folder), bytes, mode, modified)?;
        let _held = self.keys.exclusive(key.as_str());
        self.check_held(key, mode)?;
        let path = key.to_string();
        let put = WalEntry::Put { path, modified, bytes: bytes.clone() };
        let logged = match log.write(vec![put]) {
            Ok(logged) => logged,
            Err(WalRefusal::Full) => return Ok(false),
            Err(WalRefusal::Failed(error)) => return Err(failure::ambiguous(key, error)),
        };
        let renamed = temporary.rename(&self.path(key));
        drop(logged);
        self.appeared(key, &renamed);
        let Err(error) = renamed else {
            self.read_next(key, bytes, version, &temporary);
            return Ok(true);
        };
        self.retract(log, key, &[key.as_str()])?;
        Err(taken(key, &self.path(key), error))
    }

    /// A record that was just written is what is read next.
    pub(super) fn read_next(
        &self,
        key: &Key,
        bytes: &Bytes,
        version: Option<&ETag>,
        written: &TemporaryFile,
    ) {
        let Some(etag) = version.cloned() else { return };
        let Ok(metadata) = written.metadata() else { return };
        let Ok(last_modified) = metadata.modified() else { return };
        let (bytes, stamp) = (bytes.clone(), RecordStamp::of(&metadata));
        self.known.set(key, Some(CachedFile { bytes, etag, last_modified, stamp }));
    }

    /// Puts an object by its own syncs.
    fn put_synced(
        &self,
        (key, folder): (&Key, &Path),
        (bytes, version): (&Bytes, Option<&ETag>),
        mode: &PutMode,
    ) -> Result<()> {
        let now = self.clock.now();
        let mut temporary = self.write_temporary((key, folder), bytes, mode, now)?;
        self.syncs.file(&temporary.file).map_err(|error| failure::write(key, error))?;
        let _held = self.keys.exclusive(key.as_str());
        self.check_held(key, mode)?;
        let path = self.path(key);
        let renamed = temporary.rename(&path);
        self.appeared(key, &renamed);
        renamed.map_err(|error| taken(key, &path, error))?;
        self.settle(key, [key.as_str()])?;
        let is_record = bytes.len() as u64 <= LOGGED_BYTES_MAX;
        self.read_next(key, bytes, version.filter(|_| is_record), &temporary);
        Ok(())
    }

    /// Makes durable what was done to files in a key's folder by other means than the log.
    pub(super) fn settle<'p>(
        &self,
        key: &Key,
        paths: impl IntoIterator<Item = &'p str>,
    ) -> Result<()> {
        if !self.syncs.is_strict() {
            return Ok(());
        }
        let settled = self.folders.settle(parent(key.as_str()), &self.syncs);
        let kept = settled.and_then(|()| match &self.log {
            Some(log) => log.keep(paths),
            None => Ok(()),
        });
        kept.map_err(|error| failure::ambiguous(key, error))
    }

    /// After a change that is in the log could not be applied: takes its files out of the log, as they
    /// are. What the log has of them may be their only durable copy, so they are synced first. Their
    /// folders are held.
    pub(super) fn retract(&self, log: &Wal, key: &Key, paths: &[&str]) -> Result<()> {
        let synced = paths.iter().try_for_each(|path| {
            match self.disk.open(&self.root.path().join(path)) {
                Ok(file) => self.syncs.file(&file)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            self.folders.settle(parent(path), &self.syncs)
        });
        synced.and_then(|()| log.keep(paths.iter().copied())).map_err(|error| {
            // The next start replays what could not be applied.
            self.syncs.fail();
            failure::ambiguous(key, error)
        })
    }

    /// Checks the condition before anything is written, where that mostly saves more than it costs: what
    /// is to be created is mostly there if its folder is, and a swap mostly succeeds. A lost swap
    /// leaves no folder behind.
    pub(super) fn check_mode(&self, key: &Key, mode: &PutMode) -> Result<()> {
        let has_folder = self.folders.is_known(parent(key.as_str()));
        match mode {
            PutMode::Create if has_folder => self.check_now(key, mode),
            PutMode::Match(_) if !has_folder => self.check_now(key, mode),
            PutMode::Create | PutMode::Match(_) | PutMode::Overwrite => Ok(()),
        }
    }

    fn check_now(&self, key: &Key, mode: &PutMode) -> Result<()> {
        let _held = self.keys.shared(key.as_str());
        self.check_held(key, mode)
    }

    /// Whether a write of this mode may take place now. The key is held.
    pub(super) fn check_held(&self, key: &Key, mode: &PutMode) -> Result<()> {
        match mode {
            PutMode::Match(version) => return self.check_version(key, version),
            // A folder that has the name refuses the rename; in the log it would have to be retracted.
            PutMode::Overwrite if self.log.is_none() => return Ok(()),
            PutMode::Create | PutMode::Overwrite => {}
        }
        let path = self.path(key);
        match self.there(key)? {
            Some(metadata) if *mode == PutMode::Create || metadata.is_dir() => {
                Err(taken(key, &path, io::ErrorKind::AlreadyExists.into()))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Fails if something has a key's name. The key is held.
    pub(super) fn check_free(&self, key: &Key) -> Result<()> {
        match self.there(key)? {
            Some(_) => Err(taken(key, &self.path(key), io::ErrorKind::AlreadyExists.into())),
            None => Ok(()),
        }
    }

    /// What has a key's name, if anything has.
    pub(super) fn there(&self, key: &Key) -> Result<Option<Metadata>> {
        let found = self.disk.symlink_metadata(&self.path(key));
        match found.map_err(|error| failure::lookup(key, error)) {
            Err(error) if error.is_not_found() => Ok(None),
            found => found.map(Some),
        }
    }

    /// Writes the file that is to have a key's name. On a full disk a condition that fails is said first:
    /// it would fail with space, too.
    pub(super) fn write_temporary(
        &self,
        (key, folder): (&Key, &Path),
        bytes: &[u8],
        mode: &PutMode,
        modified: SystemTime,
    ) -> Result<TemporaryFile> {
        let written = self.write_unnamed((key, folder), bytes, modified);
        if is_full(&written) {
            self.check_now(key, mode)?;
        }
        written
    }

    fn write_unnamed(
        &self,
        (key, folder): (&Key, &Path),
        bytes: &[u8],
        modified: SystemTime,
    ) -> Result<TemporaryFile> {
        let path = folder.join(self.temporary_name());
        let file = match self.disk.create_new(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(failure::lookup(key, error));
            }
            Err(error) => return Err(failure::write(key, error)),
        };
        let temporary = TemporaryFile { path, file, disk: self.disk.clone(), is_renamed: false };
        self.disk
            .write_at(&temporary.file, bytes, 0)
            .and_then(|()| self.disk.set_modified(&temporary.file, modified))
            .map_err(|error| failure::write(key, error))?;
        Ok(temporary)
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
            let applied = self.submit_and_remove(key)?;
            self.end_deletes(key, vec![applied])?;
        }
        self.folders.prune(folder);
        Ok(())
    }

    /// Removes several objects, with one sync for each folder at most.
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
        let mut applied = Vec::new();
        for key in keys {
            let _held = self.keys.exclusive(key.as_str());
            applied.push(self.submit_and_remove(key)?);
        }
        keys.first().map_or(Ok(()), |key| self.end_deletes(key, applied))
    }

    /// Hands a delete to the log and applies it. So the next key may be locked before it is durable.
    fn submit_and_remove(&self, key: &Key) -> Result<Option<AppliedEntries>> {
        let pending = self.submit_delete(key)?;
        let removed = self.remove(key);
        let applied = pending.map(PendingEntries::applied);
        let Err(error) = removed else { return Ok(applied) };
        match (applied.map(AppliedEntries::wait), &self.log) {
            (Some(Ok(())), Some(log)) => self.retract(log, key, &[key.as_str()])?,
            (Some(Err(WalRefusal::Failed(error))), _) => {
                return Err(failure::ambiguous(key, error));
            }
            // The log has nothing of it.
            (Some(Ok(()) | Err(WalRefusal::Full)) | None, _) => {}
        }
        Err(error)
    }

    /// Hands a delete to the log. It may show before it is durable: there are no bytes that could
    /// come later than a name.
    fn submit_delete(&self, key: &Key) -> Result<Option<PendingEntries<'_>>> {
        let Some(log) = &self.log else { return Ok(None) };
        Ok(match self.there(key)? {
            Some(metadata) if !metadata.is_dir() => {
                self.folders.check_device(key.as_str(), &metadata)?;
                Some(log.submit(vec![WalEntry::Delete { path: key.to_string() }]))
            }
            Some(_) | None => None,
        })
    }

    /// Waits until deletes in one folder are durable.
    pub(super) fn end_deletes(
        &self,
        key: &Key,
        deletes: Vec<Option<AppliedEntries>>,
    ) -> Result<()> {
        let mut is_full = self.log.is_none();
        for applied in deletes.into_iter().flatten() {
            match applied.wait() {
                Ok(()) => {}
                Err(WalRefusal::Full) => is_full = true,
                Err(WalRefusal::Failed(error)) => return Err(failure::ambiguous(key, error)),
            }
        }
        if is_full { self.sync_removal(key, parent(key.as_str())) } else { Ok(()) }
    }

    /// Notes that a key has, or may have, a new file.
    pub(super) fn appeared(&self, key: &Key, renamed: &io::Result<()>) {
        self.files.forget(key);
        self.known.forget(key);
        let folder = parent(key.as_str());
        match renamed {
            Ok(()) => self.folders.names.add(folder, key.as_str()),
            Err(_) => self.folders.names.forget(folder),
        }
    }

    fn remove(&self, key: &Key) -> Result<()> {
        self.files.forget(key);
        self.known.forget(key);
        let folder = parent(key.as_str());
        match self.disk.unlink(&self.path(key)) {
            Ok(()) => {
                self.folders.names.remove(folder, key.as_str());
                Ok(())
            }
            // A folder is no object.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(()),
            Err(error) => {
                self.folders.names.forget(folder);
                match failure::lookup(key, error) {
                    error if error.is_not_found() => Ok(()),
                    error => Err(error),
                }
            }
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

    /// Reads a file of a known size whole.
    fn read_record(&self, key: &Key, file: &File, size_bytes: u64) -> Result<Bytes> {
        if size_bytes > RECORD_BYTES_MAX {
            return Err(Error::new(ErrorKind::TooLarge, key));
        }
        let bytes = self
            .disk
            .read_up_to(file, size_bytes)
            .map_err(|error| failure::ambiguous(key, error))?;
        if (bytes.len() as u64) < size_bytes {
            return Err(failure::ambiguous(key, io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(bytes.into())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etag_is_half_a_sha256() {
        assert_eq!(etag(b"").as_str(), "e3b0c44298fc1c149afbf4c8996fb924");
        assert_ne!(etag(b"a"), etag(b"b"));
    }
}
