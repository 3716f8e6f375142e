//! Multipart uploads: one hidden file next to the key, which takes the key's name at the end.
//!
//! Parts are written at their offsets, by many at once, and need no names: no byte is copied or
//! read back. Each upload has a lock that says which claim may write: a write of a part
//! holds it shared, a resumption, completion or abort holds it exclusively, so a superseded
//! claim's last write is over before the next claim's first.
//!
//! The file comes with the first part, as a temporary one, which the next run of the store removes. With the first
//! [`Store::sync_parts`](crate::Store::sync_parts), after which a record may name the upload, it gets
//! the name that the upload's id says, and stays.
//!
//! It is kept open from one part to the next: opening it again would cost more than a part of some
//! hundred KiB does. [`OPEN_MAX`] bounds the descriptors.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
#[cfg(test)]
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use uuid::Uuid;

use super::disk::Disk;
use super::folders::parent;
use super::wal::{LOGGED_BYTES_MAX, WalEntry, WalRefusal};
use super::{FsInner, failure};
use crate::{Error, ErrorKind, Key, Multipart, OpenFile, Part, Result};

/// What the name of an upload's file starts with. The epoch and a UUID follow.
pub(super) const STAGING: &str = ".upload-";
/// Maximum number of files of uploads that are kept open between two parts. Those of further uploads
/// are opened for each part.
const OPEN_MAX: usize = 128;

/// How many bytes of an upload are written to the disk at once before they are synced.
const WRITE_BACK_BYTES: u64 = 8 * 1024 * 1024;

/// The uploads that this run has met.
#[derive(Debug, Default)]
pub(super) struct FsUploads {
    by_id: Mutex<HashMap<String, Arc<UploadClaims>>>,
    /// Number of files that are kept open.
    open: Arc<AtomicUsize>,
}

/// The largest claim on an upload, and its file.
#[derive(Debug)]
pub(super) struct UploadClaims {
    file: Mutex<StagingFile>,
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

/// The file of an upload.
#[derive(Debug)]
struct StagingFile {
    /// Its name below the root.
    name: String,
    kind: StagingName,
    open: Option<Arc<KeptFile>>,
}

/// What the name of an upload's file means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StagingName {
    /// There is no file before the first part.
    Absent,
    /// The next run removes it: no record can name the upload.
    Temporary,
    /// It is the one that the upload's id says.
    Lasting,
}

/// A file that is kept open, and counted.
#[derive(Debug)]
pub(super) struct KeptFile {
    file: File,
    /// Whether it is one of the [`OPEN_MAX`].
    counted_in: Option<Arc<AtomicUsize>>,
}

impl Drop for KeptFile {
    fn drop(&mut self) {
        if let Some(open) = &self.counted_in {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl UploadClaims {
    fn new(name: String, kind: StagingName, writer: u64, end: u64) -> Self {
        Self {
            file: Mutex::new(StagingFile { name, kind, open: None }),
            largest: RwLock::new(writer),
            end: AtomicU64::new(end),
            is_settled: AtomicBool::new(false),
            changes: AtomicU64::new(1),
            synced_changes: AtomicU64::new(0),
            is_lost: AtomicBool::new(false),
        }
    }

    fn file(&self) -> MutexGuard<'_, StagingFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of the file below the root.
    pub(super) fn name(&self) -> String {
        self.file().name.clone()
    }

    /// No part follows soon.
    fn close(&self) {
        self.file().open = None;
    }

    fn shared(&self) -> RwLockReadGuard<'_, u64> {
        self.largest.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn exclusive(&self) -> RwLockWriteGuard<'_, u64> {
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
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of an upload, which `new` makes if this run has not met it.
    fn claims(
        &self,
        upload: &Multipart,
        new: impl FnOnce() -> Result<UploadClaims>,
    ) -> Result<Arc<UploadClaims>> {
        if let Some(claims) = self.table().get(&upload.id) {
            return Ok(Arc::clone(claims));
        }
        let claims = Arc::new(new()?);
        Ok(Arc::clone(self.table().entry(upload.id.clone()).or_insert(claims)))
    }

    /// Keeps a file open for the next part, if there is a descriptor for it.
    fn keep(&self, file: File) -> Arc<KeptFile> {
        let is_kept = self.open.fetch_add(1, Ordering::Relaxed) < OPEN_MAX;
        if !is_kept {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        Arc::new(KeptFile { file, counted_in: is_kept.then(|| Arc::clone(&self.open)) })
    }

    /// The uploads whose files no record can name yet, by the names of these.
    pub(super) fn temporary_names(&self) -> HashMap<String, String> {
        let table = self.table();
        let named = table.iter().filter_map(|(id, claims)| {
            let staging = claims.file();
            (staging.kind == StagingName::Temporary).then(|| (staging.name.clone(), id.clone()))
        });
        named.collect()
    }

    /// Forgets an upload whose file no longer exists; its id never comes again.
    pub(super) fn forget(&self, upload: &Multipart) {
        self.table().remove(&upload.id);
    }

    /// Syncs the files of the uploads that are open, at a clean stop.
    pub(super) fn sync_all(&self, root: &Path) -> io::Result<()> {
        for claims in self.table().values() {
            let StagingFile { name, kind, .. } = &*claims.file();
            if *kind != StagingName::Lasting {
                continue;
            }
            match File::open(root.join(name)) {
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
        let name = name_in(parent(key.as_str()), &self.temporary_name());
        let claims = || Ok(UploadClaims::new(name, StagingName::Absent, writer, 0));
        self.uploads.claims(&upload, claims)?;
        Ok(upload)
    }

    /// Creates the file of an upload, with its first part.
    fn create_staging(&self, key: &Key, name: &str) -> Result<File> {
        let path = self.root.path().join(name);
        self.folders.within(parent(key.as_str()), |_| match self.disk.create_new(&path) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(failure::lookup(key, error))
            }
            Err(error) => Err(failure::write(key, error)),
        })
    }

    /// Where an upload's bytes are, below the root, once a record may name it. An id that this epoch
    /// did not give names nothing.
    fn lasting_name(&self, upload: &Multipart) -> Result<String> {
        let ours = upload
            .id
            .strip_prefix(self.root.epoch())
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|own| own.len() == 32 && own.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if !ours {
            return Err(Error::new(ErrorKind::NotFound, &upload.key));
        }
        Ok(name_in(parent(upload.key.as_str()), &format!("{STAGING}{}", upload.id)))
    }

    fn claims_of(&self, upload: &Multipart) -> Result<Arc<UploadClaims>> {
        self.uploads.claims(upload, || {
            let name = self.lasting_name(upload)?;
            let length = fs::metadata(self.root.path().join(&name)).map(|found| found.len());
            Ok(UploadClaims::new(
                name,
                StagingName::Lasting,
                upload.writer,
                length.unwrap_or_default(),
            ))
        })
    }

    pub(super) fn claims(&self, upload: &Multipart) -> Result<Arc<UploadClaims>> {
        let claims = self.claims_of(upload)?;
        if claims.is_lost.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::NotFound, &upload.key));
        }
        Ok(claims)
    }

    /// An upload's file, open for writing; its claims must be held. While it is kept open, the root is
    /// not checked: what completes the upload does that.
    fn open_staging(&self, upload: &Multipart, claims: &UploadClaims) -> Result<Arc<KeptFile>> {
        let mut staging = claims.file();
        if let Some(open) = &staging.open {
            return Ok(Arc::clone(open));
        }
        self.check_root(upload.key.as_str())?;
        let file = match staging.kind {
            StagingName::Absent => self.create_staging(&upload.key, &staging.name)?,
            StagingName::Temporary | StagingName::Lasting => {
                let opened = self.disk.open_for_writing(&self.root.path().join(&staging.name));
                let file = opened.map_err(|error| failure::lookup(&upload.key, error));
                file.inspect_err(|error| {
                    if error.is_not_found() {
                        self.uploads.forget(upload);
                    }
                })?
            }
        };
        if staging.kind == StagingName::Absent {
            staging.kind = StagingName::Temporary;
        }
        let kept = self.uploads.keep(file);
        staging.open = kept.counted_in.is_some().then(|| Arc::clone(&kept));
        Ok(kept)
    }

    /// Makes the file of an upload that has none share the blocks of another one. `false`: the file systems
    /// cannot, and it has none.
    pub(super) fn reflink_staging(&self, upload: &Multipart, source: &File) -> Result<bool> {
        let claims = self.claims(upload)?;
        let _held = claims.enter(upload)?;
        let open = self.open_staging(upload, &claims)?;
        let made = self.disk.reflink(source, &open.file);
        claims.changed();
        if made.map_err(|error| failure::write(&upload.key, error))? {
            return Ok(true);
        }
        let mut staging = claims.file();
        staging.open = None;
        let removed = self.disk.unlink(&self.root.path().join(&staging.name));
        removed.map_err(|error| failure::write(&upload.key, error))?;
        staging.kind = StagingName::Absent;
        Ok(false)
    }

    /// Makes the file of an upload that has none another name of a file, and says what that is. `None`: it is on
    /// another disk, or the file system has no hard links.
    pub(super) fn link_staging(
        &self,
        upload: &Multipart,
        source: &Path,
    ) -> Result<Option<Metadata>> {
        let claims = self.claims(upload)?;
        let _held = claims.enter(upload)?;
        let mut staging = claims.file();
        let path = self.root.path().join(&staging.name);
        let linked = self.folders.within(parent(upload.key.as_str()), |_| {
            match self.disk.hard_link(source, &path) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Err(failure::lookup(&upload.key, error))
                }
                Err(error) if is_not_linkable(&error) => Ok(false),
                Err(error) => Err(failure::write(&upload.key, error)),
            }
        })?;
        if !linked {
            return Ok(None);
        }
        staging.kind = StagingName::Temporary;
        claims.changed();
        // Of the name itself: it may have become one of a symbolic link.
        let metadata = self.disk.symlink_metadata(&path);
        metadata.map(Some).map_err(|error| failure::lookup(&upload.key, error))
    }

    /// An upload's file, with the recorded bytes in it, and its length.
    fn open_recorded(
        &self,
        upload: &Multipart,
        claims: &UploadClaims,
    ) -> Result<(Arc<KeptFile>, u64)> {
        let open = self.open_staging(upload, claims)?;
        let metadata = self.disk.metadata_of(&open.file);
        let length = metadata.map_err(|error| failure::ambiguous(&upload.key, error))?.len();
        if length < upload.size_bytes() {
            return Err(Error::new(ErrorKind::NotFound, &upload.key));
        }
        Ok((open, length))
    }

    pub(super) fn resume_multipart(&self, upload: &Multipart, writer: u64) -> Result<Multipart> {
        let claims = self.claims(upload)?;
        let mut largest = claims.exclusive();
        let (open, _) = self.open_recorded(upload, &claims)?;
        supersede(&mut largest, upload, writer)?;
        claims.changed();
        self.disk
            .set_length(&open.file, upload.size_bytes())
            .map_err(|error| failure::ambiguous(&upload.key, error))?;
        claims.end.store(upload.size_bytes(), Ordering::Relaxed);
        Ok(Multipart { writer, ..upload.clone() })
    }

    pub(super) fn put_part(&self, upload: &Multipart, offset: u64, bytes: &[u8]) -> Result<Part> {
        let claims = self.claims(upload)?;
        let size_bytes = bytes.len() as u64;
        let held = claims.enter(upload)?;
        let open = self.open_staging(upload, &claims)?;
        let written = self.write_at(&open.file, bytes, offset);
        // After the bytes: a sync that began before may have missed them.
        claims.changed();
        if let Err(error) = written {
            drop(held);
            claims.cut(&self.disk, &open.file, upload.writer);
            return Err(failure::write(&upload.key, error));
        }
        claims.end.fetch_max(offset + size_bytes, Ordering::Relaxed);
        self.write_back(&open.file, offset, size_bytes);
        Ok(Part { offset, size_bytes, etag: String::new() })
    }

    /// Starts to write what is to be synced, each time that a part completes [`WRITE_BACK_BYTES`].
    fn write_back(&self, file: &File, offset: u64, bytes: u64) {
        let (from, to) = (offset / WRITE_BACK_BYTES, (offset + bytes) / WRITE_BACK_BYTES);
        if self.syncs.is_strict() && from < to {
            let (from, to) = (from * WRITE_BACK_BYTES, to * WRITE_BACK_BYTES);
            // What it does not start, the sync does.
            let _ = self.disk.start_write_back(file, from, to - from);
        }
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
        self.sync_staging(upload, &claims, true)?;
        claims.close();
        Ok(())
    }

    /// Makes the bytes of an upload durable, and that it is there; with `lasts`, also for the next
    /// run. Its claims are held.
    fn sync_staging(&self, upload: &Multipart, claims: &UploadClaims, lasts: bool) -> Result<()> {
        // Before the bytes are looked at: what is written meanwhile is not synced by this.
        let changes = claims.changes.load(Ordering::Acquire);
        let is_synced = claims.synced_changes.load(Ordering::Acquire) == changes;
        let open = self.open_staging(upload, claims)?;
        let is_named = !lasts || claims.file().kind == StagingName::Lasting;
        if self.syncs.is_strict() && is_synced && is_named {
            return Ok(());
        }
        let synced = match self.log_staging(upload, &open.file, claims, lasts) {
            Ok(false) => self.settle_staging(upload, &open.file, claims, lasts),
            Ok(true) => Ok(()),
            Err(error) => Err(error),
        };
        synced.map_err(|error| self.give_up(upload, claims, error))?;
        claims.synced_changes.fetch_max(changes, Ordering::AcqRel);
        Ok(())
    }

    /// The name that an upload's file is to have.
    fn wanted_name(
        &self,
        upload: &Multipart,
        claims: &UploadClaims,
        lasts: bool,
    ) -> io::Result<String> {
        let staging = claims.file();
        match lasts && staging.kind != StagingName::Lasting {
            true => self.lasting_name(upload).map_err(io::Error::other),
            false => Ok(staging.name.clone()),
        }
    }

    /// Gives an upload's file a name, if it has another.
    fn name_staging(&self, claims: &UploadClaims, name: &str) -> io::Result<()> {
        let mut staging = claims.file();
        if staging.name != name {
            let [from, to] = [&staging.name, name].map(|name| self.root.path().join(name));
            self.disk.rename(&from, &to)?;
            name.clone_into(&mut staging.name);
            staging.kind = StagingName::Lasting;
            claims.is_settled.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Writes a small upload's bytes to the log, if there is room.
    fn log_staging(
        &self,
        upload: &Multipart,
        file: &File,
        claims: &UploadClaims,
        lasts: bool,
    ) -> io::Result<bool> {
        let Some(log) = &self.log else { return Ok(false) };
        let metadata = self.disk.metadata_of(file)?;
        if metadata.len() > LOGGED_BYTES_MAX {
            return Ok(false);
        }
        let read = self.disk.open(&self.root.path().join(claims.name()))?;
        let bytes = self.disk.read_up_to(&read, metadata.len())?.into();
        let modified = metadata.modified()?;
        let name = self.wanted_name(upload, claims, lasts)?;
        let _folder_held = self.folders.shared(parent(&name));
        match log.write(vec![WalEntry::Put { path: name.clone(), modified, bytes }]) {
            Ok(_logged) => self.name_staging(claims, &name).map(|()| true),
            Err(WalRefusal::Full) => Ok(false),
            Err(WalRefusal::Failed(error)) => Err(error),
        }
    }

    fn settle_staging(
        &self,
        upload: &Multipart,
        file: &File,
        claims: &UploadClaims,
        lasts: bool,
    ) -> io::Result<()> {
        self.syncs.data(file)?;
        let name = self.wanted_name(upload, claims, lasts)?;
        let _folder_held = self.folders.shared(parent(&name));
        self.name_staging(claims, &name)?;
        if claims.is_settled.load(Ordering::Acquire) {
            return self.log.as_ref().map_or(Ok(()), |log| log.keep([name.as_str()]));
        }
        self.settle(&upload.key, [name.as_str()]).map_err(io::Error::other)?;
        claims.is_settled.store(true, Ordering::Release);
        Ok(())
    }

    /// Removes an upload whose sync failed: it is unknown which of its bytes are on the disk,
    /// and a second sync may claim success for those that were lost.
    fn give_up(&self, upload: &Multipart, claims: &UploadClaims, error: io::Error) -> Error {
        claims.is_lost.store(true, Ordering::Release);
        claims.close();
        let removed = self.disk.unlink(&self.root.path().join(claims.name()));
        // While the file is there, this says that the upload is not.
        if removed.is_ok() {
            self.uploads.forget(upload);
        }
        failure::ambiguous(&upload.key, error)
    }

    /// Makes the file of an upload, which is held, what its object is to be, durably.
    pub(super) fn stage_completion(
        &self,
        upload: &Multipart,
        claims: &UploadClaims,
        modified: SystemTime,
    ) -> Result<Arc<KeptFile>> {
        let (open, length) = self.open_recorded(upload, claims)?;
        let size_bytes = upload.size_bytes();
        if length != size_bytes {
            claims.changed();
            self.disk
                .set_length(&open.file, size_bytes)
                .map_err(|error| failure::write(&upload.key, error))?;
        }
        self.sync_staging(upload, claims, false)?;
        self.disk
            .set_modified(&open.file, modified)
            .map_err(|error| failure::write(&upload.key, error))?;
        Ok(open)
    }

    /// Completes an upload without the log. The rename leaves no second name, as a link would, so a
    /// crash shows either the upload or the object. The held key keeps the name free meanwhile.
    pub(super) fn complete_unlogged(&self, upload: &Multipart) -> Result<()> {
        let key = &upload.key;
        let claims = self.claims(upload)?;
        let _claim_held = claims.exclusive();
        let open = self.stage_completion(upload, &claims, self.clock.now())?;
        // Its time of change is to survive, too.
        self.syncs.file(&open.file).map_err(|error| failure::ambiguous(key, error))?;
        let name = claims.name();
        self.folders.within(parent(key.as_str()), |_| {
            let _held = self.keys.exclusive(key.as_str());
            self.check_free(key)?;
            let renamed = self.disk.rename(&self.root.path().join(&name), &self.path(key));
            self.appeared(key, &renamed);
            renamed.map_err(|error| failure::write(key, error))?;
            self.settle(key, [name.as_str(), key.as_str()])
        })?;
        self.uploads.forget(upload);
        Ok(())
    }

    /// Opens the file of an upload for reading, with the parts that are in it by now. A claim on the
    /// upload is held meanwhile, so that its file is not renamed between the name and the open.
    pub(super) fn staged_file(&self, upload: &Multipart) -> Result<Arc<OpenFile>> {
        let claims = self.claims(upload)?;
        let _held = claims.shared();
        let staging = claims.file();
        if staging.kind == StagingName::Absent {
            return Err(Error::new(ErrorKind::NotFound, &upload.key));
        }
        let opened = self.disk.open(&self.root.path().join(&staging.name));
        let file = opened.map_err(|error| failure::lookup(&upload.key, error));
        let file = file.inspect_err(|error| {
            if error.is_not_found() {
                self.uploads.forget(upload);
            }
        })?;
        let metadata = self.disk.metadata_of(&file);
        let size_bytes = metadata.map_err(|error| failure::lookup(&upload.key, error))?.len();
        Ok(Arc::new(OpenFile { file, size_bytes }))
    }

    pub(super) fn abort_multipart(&self, upload: &Multipart) -> Result<()> {
        let Ok(claims) = self.claims_of(upload) else { return Ok(()) };
        let folder = parent(upload.key.as_str());
        {
            let _held = claims.exclusive();
            let _folder_held = self.folders.shared(folder);
            let (name, kind) = {
                let staging = claims.file();
                (staging.name.clone(), staging.kind)
            };
            if kind == StagingName::Absent {
                self.uploads.forget(upload);
                return Ok(());
            }
            let path = self.root.path().join(&name);
            match self.disk.unlink(&path).map_err(|error| failure::lookup(&upload.key, error)) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => self.uploads.forget(upload),
            }
            // The next run frees the bytes of another one, whatever the log has of it.
            if kind == StagingName::Lasting {
                let delete = WalEntry::Delete { path: name };
                let applied = self.log.as_ref().map(|log| log.submit(vec![delete]).applied());
                self.end_deletes(&upload.key, vec![applied])?;
            }
        }
        self.folders.prune(folder);
        Ok(())
    }
}

fn is_not_linkable(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
}

/// The name of a file in a folder below the root.
fn name_in(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}
