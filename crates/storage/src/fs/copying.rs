//! Objects that are made of files elsewhere on the disk, of which no byte is copied.
//!
//! The file of an upload becomes a reflink of the other one, or another name of it; then the upload is completed
//! as any. So what a crash leaves is what one of an upload leaves.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::root::identity;
use super::{FsInner, failure};
use crate::{CopiedObject, CopyMethod, CopySource, Error, ErrorKind, Key, Multipart, Part, Result};

/// What the group and others may not do to a file that becomes an object.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// What its owner must be able to do.
const OWN_BITS: u32 = 0o600;

impl FsInner {
    pub(super) fn copy_in(&self, key: &Key, source: &CopySource) -> Result<Option<CopiedObject>> {
        let CopySource::File { path, may_link } = source else { return Ok(None) };
        // Whether it can be read at all, its reader will find out.
        let Ok(opened) = self.disk.open(path) else { return Ok(None) };
        let metadata = self.disk.metadata_of(&opened);
        let metadata = metadata.map_err(|error| failure::lookup(key, error))?;
        // An upload has at least one byte.
        if !metadata.is_file() || metadata.len() == 0 {
            return Ok(None);
        }
        let mut upload = self.create_multipart(key, 1, 0)?;
        let made = self.fill_staging(&upload, path, &opened, *may_link && is_ours(&metadata));
        let completed = made.and_then(|made| {
            let Some((size_bytes, method)) = made else { return Ok(None) };
            upload.record(Part { offset: 0, size_bytes, etag: String::new() });
            self.complete_multipart(&upload)?;
            Ok(Some(CopiedObject { size_bytes, method }))
        });
        if !matches!(completed, Ok(Some(_))) {
            self.abort_multipart(&upload)?;
        }
        completed
    }

    /// Makes the file of an upload, without copying a byte. `None`: it cannot be.
    fn fill_staging(
        &self,
        upload: &Multipart,
        path: &Path,
        source: &File,
        may_link: bool,
    ) -> Result<Option<(u64, CopyMethod)>> {
        if self.reflink_staging(upload, source)? {
            return Ok(Some((self.staged_length(upload)?, CopyMethod::Reflink)));
        }
        if !may_link {
            return Ok(None);
        }
        // The name of a symbolic link would be one more name of that, and not of the file.
        let Ok(path) = fs::canonicalize(path) else { return Ok(None) };
        let Some(linked) = self.link_staging(upload, &path)? else { return Ok(None) };
        let metadata = self.disk.metadata_of(source);
        let metadata = metadata.map_err(|error| failure::lookup(&upload.key, error))?;
        // The name may lead to another file by now.
        match linked.is_file() && identity(&linked) == identity(&metadata) {
            true => Ok(Some((linked.len(), CopyMethod::HardLink))),
            false => Err(Error::with_source(ErrorKind::Refused, &upload.key, "the file changes")),
        }
    }

    fn staged_length(&self, upload: &Multipart) -> Result<u64> {
        Ok(self.staged_file(upload)?.size_bytes)
    }
}

/// Whether no other user can change a file, and the store can do with it what it does with its own.
fn is_ours(metadata: &Metadata) -> bool {
    let is_owner = metadata.uid() == rustix::process::geteuid().as_raw();
    is_owner && metadata.mode() & WRITABLE_BY_OTHERS == 0 && metadata.mode() & OWN_BITS == OWN_BITS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::sync::atomic::Ordering;

    use futures::TryStreamExt;

    use super::*;
    use crate::{ByteRange, FsOptions, FsStore, ListRequest, Store};

    const BYTES: &[u8] = b"bytes of another program";

    fn open() -> (tempfile::TempDir, FsStore, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let store = FsStore::open(home.path().join("store"), FsOptions::default()).unwrap();
        let path = home.path().join("source");
        fs::write(&path, BYTES).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        (home, store, path)
    }

    fn source(path: &Path, may_link: bool) -> CopySource {
        CopySource::File { path: path.to_owned(), may_link }
    }

    async fn is_empty(store: &FsStore) -> bool {
        store.list(&ListRequest::below("bulk/")).await.unwrap().entries.is_empty()
    }

    #[tokio::test]
    async fn a_file_becomes_an_object_and_stays() {
        let (_home, store, path) = open();
        let key: Key = "bulk/a/object".parse().unwrap();
        let made = store.copy_in(&key, &source(&path, true)).await.unwrap().unwrap();
        assert_eq!(made.size_bytes, BYTES.len() as u64);
        assert!(matches!(made.method, CopyMethod::HardLink | CopyMethod::Reflink));
        let range = ByteRange { start: 0, end: made.size_bytes };
        let read: Vec<_> = store.read(&key, range).await.unwrap().try_collect().await.unwrap();
        assert_eq!(read.concat(), BYTES);
        store.delete(&key, None).await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), BYTES);
    }

    #[tokio::test]
    async fn a_symbolic_link_gives_its_file() {
        let (home, store, path) = open();
        let link = home.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let key: Key = "bulk/object".parse().unwrap();
        store.copy_in(&key, &source(&link, true)).await.unwrap().unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(store.get(&key).await.unwrap().bytes, BYTES);
    }

    #[tokio::test]
    async fn what_cannot_be_shared_is_left_alone() {
        let (home, store, path) = open();
        let key: Key = "bulk/object".parse().unwrap();
        let copied = async |source| store.copy_in(&key, &source).await.unwrap();
        let reflinks = copied(source(&path, false)).await.is_some();
        store.delete(&key, None).await.unwrap();
        if !reflinks {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).unwrap();
            assert_eq!(copied(source(&path, true)).await, None, "others can write it");
        }
        let empty = home.path().join("empty");
        fs::write(&empty, b"").unwrap();
        for path in [&empty, &home.path().join("absent"), &home.path().to_owned()] {
            assert_eq!(copied(source(path, true)).await, None, "{path:?}");
        }
        assert!(is_empty(&store).await);
        let staged = store.staged_uploads("bulk/").await.unwrap();
        assert!(staged.is_empty(), "{staged:?}");
        let object = CopySource::Object {
            service: "aws".to_owned(),
            bucket: "bucket".to_owned(),
            key: "key".to_owned(),
            size_bytes: 1,
        };
        assert_eq!(copied(object).await, None);
    }

    #[tokio::test]
    async fn a_copy_that_fails_leaves_nothing_and_the_source() {
        let (home, store, path) = open();
        store.inner.syncs.fail_next.store(true, Ordering::Relaxed);
        let key: Key = "bulk/object".parse().unwrap();
        store.copy_in(&key, &source(&path, true)).await.unwrap_err();
        assert!(is_empty(&store).await);
        assert_eq!(fs::read(&path).unwrap(), BYTES);
        assert_eq!(fs::metadata(&path).unwrap().nlink(), 1);
        drop(home);
    }
}
