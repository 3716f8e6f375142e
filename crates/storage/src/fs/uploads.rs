//! Multipart uploads: one hidden file next to the key, which takes the key's name at the end.
//!
//! Parts are written at their offsets, by many at once, and need no names: no byte is copied or
//! read back. Each upload has a lock that says which claim may write: a write of a part
//! holds it shared, a resumption, completion or abort holds it exclusively, so a superseded
//! claim's last write is over before the next claim's first.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
#[cfg(test)]
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use bytes::Bytes;
use uuid::Uuid;

use super::disk::Disk;
use super::folders::parent;
use super::records::taken;
use super::wal::{LOGGED_BYTES_MAX, WalEntry, WalRefusal};
use super::{FsInner, failure};
use crate::{Error, ErrorKind, Key, Multipart, Part, Result};

/// What the name of an upload's file starts with. The epoch and a UUID follow.
pub(super) const STAGING: &str = ".upload-";

/// The uploads that this run has met, by id.
#[derive(Debug, Default)]
pub(super) struct FsUploads(Mutex<HashMap<String, Arc<UploadClaims>>>);

/// The largest claim on an upload.
#[derive(Debug)]
struct UploadClaims {
    path: PathBuf,
    largest: RwLock<u64>,
    /// Where the last byte that is worth keeping ends.
    end: AtomicU64,
    /// Whether the file's name is durable without the log.
    is_settled: AtomicBool,
    /// Counts the changes of the bytes.
    changes: AtomicU64,
    /// How many of them are durable.
    synced_changes: AtomicU64,
    /// Whether a sync failed, so that it is unknown which bytes are durable.
    is_lost: AtomicBool,
}

impl UploadClaims {
    fn shared(&self) -> RwLockReadGuard<'_, u64> {
        self.largest.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, u64> {
        self.largest.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the bytes have changed.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Lets a claim in, which shuts smaller ones out.
    fn enter(&self, upload: &Multipart) -> Result<RwLockReadGuard<'_, u64>> {
        let mut largest = self.shared();
        if *largest < upload.writer {
            drop(largest);
            supersede(&mut self.exclusive(), upload, upload.writer)?;
            largest = self.shared();
        }
        if upload.writer < *largest {
            return Err(Error::new(ErrorKind::Precondition, &upload.key));
        }
        Ok(largest)
    }

    /// Frees what a write left behind that failed: on a full disk nothing else could be written,
    /// not even what ends an upload. Parts that others wrote behind it stay.
    fn cut(&self, disk: &Disk, file: &File, writer: u64) {
        let largest = self.exclusive();
        if *largest == writer {
            // If it cannot be cut now, the next claim cuts it.
            let _ = disk.set_length(file, self.end.load(Ordering::Relaxed));
        }
    }
}

fn supersede(largest: &mut u64, upload: &Multipart, writer: u64) -> Result<()> {
    if writer < *largest {
        return Err(Error::new(ErrorKind::Precondition, &upload.key));
    }
    *largest = writer;
    Ok(())
}

impl FsUploads {
    fn table(&self) -> MutexGuard<'_, HashMap<String, Arc<UploadClaims>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claims(&self, upload: &Multipart, path: PathBuf) -> Arc<UploadClaims> {
        let new = || {
            let end = AtomicU64::new(fs::metadata(&path).map_or(0, |metadata| metadata.len()));
            Arc::new(UploadClaims {
                path,
                largest: RwLock::new(upload.writer),
                end,
                is_settled: AtomicBool::new(false),
                changes: AtomicU64::new(1),
                synced_changes: AtomicU64::new(0),
                is_lost: AtomicBool::new(false),
            })
        };
        self.table().entry(upload.id.clone()).or_insert_with(new).clone()
    }

    /// Forgets an upload whose file no longer exists; its id never comes again.
    fn forget(&self, upload: &Multipart) {
        self.table().remove(&upload.id);
    }

    /// Syncs the files of the uploads that are open, at a clean stop.
    pub(super) fn sync_all(&self) -> io::Result<()> {
        for claims in self.table().values() {
            match File::open(&claims.path) {
                Ok(file) => file.sync_all()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl FsInner {
    pub(super) fn create_multipart(
        &self,
        key: &Key,
        writer: u64,
        part_bytes: u64,
    ) -> Result<Multipart> {
        self.check_syncs(key)?;
        let id = format!("{}-{}", self.root.epoch(), Uuid::new_v4().simple());
        let upload = Multipart { key: key.clone(), id, writer, part_bytes, parts: Vec::new() };
        let path = self.staging_path(&upload)?;
        self.folders.within(parent(key.as_str()), |_| {
            match self.disk.create_new(&path) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(failure::lookup(key, error));
                }
                Err(error) => return Err(failure::write(key, error)),
            }
            match &self.log {
                // A record that names the upload is synced with the log, and so is this.
                Some(log) => {
                    let path = self.staging_name(&upload)?;
                    let (modified, bytes) = (self.clock.now(), Bytes::new());
                    log.note(WalEntry::Put { path, modified, bytes });
                    Ok(())
                }
                None => self.settle(key, []),
            }
        })?;
        self.uploads.claims(&upload, path);
        Ok(upload)
    }

    /// Where an upload's bytes are. An id that this epoch did not give names nothing.
    fn staging_path(&self, upload: &Multipart) -> Result<PathBuf> {
        Ok(self.root.path().join(self.staging_name(upload)?))
    }

    /// The same below the root.
    fn staging_name(&self, upload: &Multipart) -> Result<String> {
        let ours = upload
            .id
            .strip_prefix(self.root.epoch())
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|own| own.len() == 32 && own.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if !ours {
            return Err(Error::new(ErrorKind::NotFound, &upload.key));
        }
        let name = format!("{STAGING}{}", upload.id);
        Ok(match parent(upload.key.as_str()) {
            "" => name,
            folder => format!("{folder}/{name}"),
        })
    }

    fn claims(&self, upload: &Multipart) -> Result<Arc<UploadClaims>> {
        let claims = self.uploads.claims(upload, self.staging_path(upload)?);
        if claims.is_lost.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::NotFound, &upload.key));
        }
        Ok(claims)
    }

    /// Opens an upload's file; its claims must be held.
    fn open_staging(&self, upload: &Multipart) -> Result<File> {
        let opened = self.disk.open_for_writing(&self.staging_path(upload)?);
        opened.map_err(|error| failure::lookup(&upload.key, error)).inspect_err(|error| {
            if error.is_not_found() {
                self.uploads.forget(upload);
            }
        })
    }

    /// Opens an upload's file and checks that the recorded bytes are in it.
    fn open_recorded(&self, upload: &Multipart) -> Result<File> {
        let file = self.open_staging(upload)?;
        let metadata =
            self.disk.metadata_of(&file).map_err(|error| failure::ambiguous(&upload.key, error))?;
        if metadata.len() < upload.size_bytes() {
            return Err(Error::new(ErrorKind::NotFound, &upload.key));
        }
        Ok(file)
    }

    pub(super) fn resume_multipart(&self, upload: &Multipart, writer: u64) -> Result<Multipart> {
        let claims = self.claims(upload)?;
        let mut largest = claims.exclusive();
        let file = self.open_recorded(upload)?;
        supersede(&mut largest, upload, writer)?;
        claims.changed();
        self.disk
            .set_length(&file, upload.size_bytes())
            .map_err(|error| failure::ambiguous(&upload.key, error))?;
        claims.end.store(upload.size_bytes(), Ordering::Relaxed);
        Ok(Multipart { writer, ..upload.clone() })
    }

    pub(super) fn put_part(&self, upload: &Multipart, offset: u64, bytes: &[u8]) -> Result<Part> {
        let claims = self.claims(upload)?;
        let size_bytes = bytes.len() as u64;
        let held = claims.enter(upload)?;
        let file = self.open_staging(upload)?;
        let written = self.write_at(&file, bytes, offset);
        // After the bytes: a sync that began before may have missed them.
        claims.changed();
        if let Err(error) = written {
            drop(held);
            claims.cut(&self.disk, &file, upload.writer);
            return Err(failure::write(&upload.key, error));
        }
        claims.end.fetch_max(offset + size_bytes, Ordering::Relaxed);
        Ok(Part { offset, size_bytes, etag: String::new() })
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some(fits) = self.room.lock().unwrap_or_else(PoisonError::into_inner).take() {
            file.write_all_at(bytes.get(..fits).unwrap_or(bytes), offset)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.write_at(file, bytes, offset)
    }

    pub(super) fn sync_parts(&self, upload: &Multipart) -> Result<()> {
        let claims = self.claims(upload)?;
        let _held = claims.shared();
        self.sync_staging(upload, &claims)
    }

    /// Makes the bytes of an upload durable, and that it is there. Its claims are held.
    fn sync_staging(&self, upload: &Multipart, claims: &UploadClaims) -> Result<()> {
        // Before the bytes are looked at: what is written meanwhile is not synced by this.
        let changes = claims.changes.load(Ordering::Acquire);
        let is_synced = claims.synced_changes.load(Ordering::Acquire) == changes;
        let file = self.open_staging(upload)?;
        if self.syncs.is_strict() && is_synced {
            return Ok(());
        }
        let synced = match self.log_staging(upload, &file) {
            Ok(false) => self.settle_staging(upload, &file, claims),
            Ok(true) => Ok(()),
            Err(error) => Err(error),
        };
        synced.map_err(|error| self.give_up(upload, claims, error))?;
        claims.synced_changes.fetch_max(changes, Ordering::AcqRel);
        Ok(())
    }

    /// Writes a small upload's bytes to the log, if there is room.
    fn log_staging(&self, upload: &Multipart, file: &File) -> io::Result<bool> {
        let (Some(log), metadata) = (&self.log, self.disk.metadata_of(file)?) else {
            return Ok(false);
        };
        if metadata.len() > LOGGED_BYTES_MAX {
            return Ok(false);
        }
        let path = self.staging_name(upload).map_err(io::Error::other)?;
        let read = self.disk.open(&self.root.path().join(&path))?;
        let bytes = self.disk.read_up_to(&read, metadata.len())?.into();
        let modified = metadata.modified()?;
        match log.write(vec![WalEntry::Put { path, modified, bytes }]) {
            Ok(_) => Ok(true),
            Err(WalRefusal::Full) => Ok(false),
            Err(WalRefusal::Failed(error)) => Err(error),
        }
    }

    fn settle_staging(
        &self,
        upload: &Multipart,
        file: &File,
        claims: &UploadClaims,
    ) -> io::Result<()> {
        self.syncs.data(file)?;
        let name = self.staging_name(upload).map_err(io::Error::other)?;
        if claims.is_settled.load(Ordering::Acquire) {
            return self.log.as_ref().map_or(Ok(()), |log| log.keep([name.as_str()]));
        }
        let _folder_held = self.folders.shared(parent(upload.key.as_str()));
        self.settle(&upload.key, [name.as_str()]).map_err(io::Error::other)?;
        claims.is_settled.store(true, Ordering::Release);
        Ok(())
    }

    /// Removes an upload whose sync failed: it is unknown which of its bytes are on the disk,
    /// and a second sync may claim success for those that were lost.
    fn give_up(&self, upload: &Multipart, claims: &UploadClaims, error: io::Error) -> Error {
        claims.is_lost.store(true, Ordering::Release);
        let removed = self.staging_path(upload).map(|path| self.disk.unlink(&path));
        // While the file is there, this says that the upload is not.
        if matches!(removed, Ok(Ok(()))) {
            self.uploads.forget(upload);
        }
        failure::ambiguous(&upload.key, error)
    }

    pub(super) fn complete_multipart(&self, upload: &Multipart) -> Result<()> {
        self.check_syncs(&upload.key)?;
        let claims = self.claims(upload)?;
        let _held = claims.exclusive();
        let file = self.open_recorded(upload)?;
        let (size_bytes, modified) = (upload.size_bytes(), self.clock.now());
        let metadata = self.disk.metadata_of(&file);
        let length = metadata.map_err(|error| failure::ambiguous(&upload.key, error))?.len();
        if length != size_bytes {
            claims.changed();
            self.disk
                .set_length(&file, size_bytes)
                .map_err(|error| failure::write(&upload.key, error))?;
        }
        self.sync_staging(upload, &claims)?;
        self.disk
            .set_modified(&file, modified)
            .map_err(|error| failure::write(&upload.key, error))?;
        self.publish_upload(upload, &file, modified)?;
        self.uploads.forget(upload);
        Ok(())
    }

    /// Renames the upload's file to its key. Unlike a link that leaves no second name, so a
    /// crash shows either the upload or the object. The held key keeps the name free meanwhile.
    fn publish_upload(&self, upload: &Multipart, file: &File, modified: SystemTime) -> Result<()> {
        let (key, name) = (&upload.key, self.staging_name(upload)?);
        let path = self.path(key);
        let _folder_held = self.folders.shared(parent(key.as_str()));
        let _held = self.keys.exclusive(key.as_str());
        if self.there(key)?.is_some() {
            return Err(taken(key, &path, io::ErrorKind::AlreadyExists.into()));
        }
        let rename = || self.disk.rename(&self.root.path().join(&name), &path);
        let to = key.to_string();
        let change =
            WalEntry::Rename { path: name.clone(), to, size_bytes: upload.size_bytes(), modified };
        let logged = match self.log.as_ref().map(|log| log.write(vec![change])) {
            Some(Ok(logged)) => logged,
            Some(Err(WalRefusal::Failed(error))) => return Err(failure::ambiguous(key, error)),
            Some(Err(WalRefusal::Full)) | None => {
                // Its time of change is to survive, too.
                self.syncs.file(file).map_err(|error| failure::ambiguous(key, error))?;
                let renamed = rename();
                self.appeared(key, &renamed);
                renamed.map_err(|error| failure::write(key, error))?;
                return self.settle(key, [name.as_str(), key.as_str()]);
            }
        };
        let renamed = rename();
        drop(logged);
        self.appeared(key, &renamed);
        let Err(error) = renamed else { return Ok(()) };
        if let Some(log) = &self.log {
            self.retract(log, key, &[name.as_str(), key.as_str()])?;
        }
        Err(failure::write(key, error))
    }

    pub(super) fn abort_multipart(&self, upload: &Multipart) -> Result<()> {
        let Ok(name) = self.staging_name(upload) else { return Ok(()) };
        let folder = parent(upload.key.as_str());
        {
            let claims = self.uploads.claims(upload, self.staging_path(upload)?);
            let _held = claims.exclusive();
            let _folder_held = self.folders.shared(folder);
            let path = self.root.path().join(&name);
            match self.disk.unlink(&path).map_err(|error| failure::lookup(&upload.key, error)) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => self.uploads.forget(upload),
            }
            let delete = WalEntry::Delete { path: name };
            let applied = self.log.as_ref().map(|log| log.submit(vec![delete]).applied());
            self.end_deletes(&upload.key, vec![applied])?;
        }
        self.folders.prune(folder);
        Ok(())
    }
}
