//! Copying bytes from store to store, checked on their way.

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use jreg_oci::{Digest, Hasher};
use jreg_storage::{ByteRange, ByteStream, Key, Multipart, PutMode, Store};

use super::BackupError;

/// For an object of known length, parts are made so large that this many suffice.
const PARTS_AIM: u64 = 9_000;
const PART_STEP_BYTES: u64 = 1024 * 1024;
/// Parts of a store that takes any size are at least this large: each is a system call or two.
const PART_BYTES_MIN: u64 = 1024 * 1024;
/// Which claim writes: there is only one.
const CLAIM: u64 = 1;

/// A blob that is copied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StoredBlob {
    pub(super) key: Key,
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
}

/// What became of the copy of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CopyOutcome {
    Copied,
    /// It was there: keys of bytes are never used again.
    Present,
    /// The source does not have it.
    Gone,
    /// Its bytes are not those of its digest.
    Damaged(String),
}

/// Copies a blob, unless it is there.
pub(super) async fn copy_blob(
    from: &dyn Store,
    to: &dyn Store,
    blob: &StoredBlob,
) -> Result<CopyOutcome, BackupError> {
    match to.head(&blob.key).await {
        Ok(stat) if stat.size_bytes == blob.size_bytes => return Ok(CopyOutcome::Present),
        Ok(_) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    match from.head(&blob.key).await {
        Ok(stat) if stat.size_bytes == blob.size_bytes => {}
        Ok(stat) => {
            let reason = format!("it has {} bytes, not {}", stat.size_bytes, blob.size_bytes);
            return Ok(CopyOutcome::Damaged(reason));
        }
        Err(error) if error.is_not_found() => return Ok(CopyOutcome::Gone),
        Err(error) => return Err(error.into()),
    }
    let range = ByteRange { start: 0, end: blob.size_bytes };
    let stream = match from.read(&blob.key, range).await {
        Ok(stream) => stream,
        Err(error) if error.is_not_found() => return Ok(CopyOutcome::Gone),
        Err(error) => return Err(error.into()),
    };
    let mut hasher = Hasher::new(blob.digest.algorithm());
    let written =
        write(to, &blob.key, blob.size_bytes, stream, |chunk| hasher.update(chunk)).await?;
    let actual = hasher.finish();
    if actual == blob.digest {
        written.complete(to).await?;
        return Ok(CopyOutcome::Copied);
    }
    written.abort(to).await;
    Ok(CopyOutcome::Damaged(format!("its bytes have digest {actual}")))
}

/// Stores an object of any length.
pub(super) async fn put_object(to: &dyn Store, key: &Key, bytes: Bytes) -> Result<(), BackupError> {
    let size = bytes.len() as u64;
    let chunks = futures::stream::iter([Ok(bytes)]);
    write(to, key, size, Box::pin(chunks), |_| {}).await?.complete(to).await
}

/// Reads an object of any length.
pub(super) async fn read_object(
    from: &dyn Store,
    key: &Key,
    size_bytes: u64,
) -> Result<Bytes, BackupError> {
    let stream = from.read(key, ByteRange { start: 0, end: size_bytes }).await?;
    let append = |mut all: BytesMut, chunk: Bytes| async move {
        all.extend_from_slice(&chunk);
        Ok(all)
    };
    Ok(stream.try_fold(BytesMut::new(), append).await?.freeze())
}

/// Bytes that are not visible at their key yet.
enum WrittenBytes {
    Whole(Key, Bytes),
    Parts(Multipart),
}

impl WrittenBytes {
    async fn complete(self, to: &dyn Store) -> Result<(), BackupError> {
        match self {
            Self::Whole(key, bytes) => {
                // Every writer of this key writes the same bytes.
                to.put(&key, bytes, PutMode::Overwrite).await?;
            }
            Self::Parts(upload) => {
                to.sync_parts(&upload).await?;
                to.complete_multipart(&upload).await?;
            }
        }
        Ok(())
    }

    async fn abort(self, to: &dyn Store) {
        if let Self::Parts(upload) = self {
            // What stays is an incomplete upload, which the store's own rules remove.
            to.abort_multipart(&upload).await.ok();
        }
    }
}

async fn write(
    to: &dyn Store,
    key: &Key,
    size_bytes: u64,
    mut stream: ByteStream,
    mut see: impl FnMut(&[u8]),
) -> Result<WrittenBytes, BackupError> {
    let rules = to.capabilities().parts;
    let share = size_bytes.div_ceil(PARTS_AIM).next_multiple_of(PART_STEP_BYTES);
    let part_bytes = rules.part_bytes.max(PART_BYTES_MIN).max(share);
    let part_len = usize::try_from(part_bytes).unwrap_or(usize::MAX);
    let mut part = BytesMut::new();
    let mut upload: Option<Multipart> = None;
    loop {
        let chunk = match stream.try_next().await {
            Ok(chunk) => chunk,
            Err(error) => {
                abort(to, upload).await;
                return Err(error.into());
            }
        };
        let Some(mut chunk) = chunk else { break };
        see(&chunk);
        while !chunk.is_empty() {
            let room = part_len - part.len();
            part.extend_from_slice(&chunk.split_to(room.min(chunk.len())));
            let is_last = upload.is_none() && size_bytes <= part_bytes;
            if part.len() == part_len && !is_last {
                let bytes = part.split().freeze();
                upload = Some(put_part(to, key, part_bytes, upload, bytes).await?);
            }
        }
    }
    if upload.is_none() {
        return Ok(WrittenBytes::Whole(key.clone(), part.freeze()));
    }
    if !part.is_empty() {
        upload = Some(put_part(to, key, part_bytes, upload, part.freeze()).await?);
    }
    match upload {
        Some(upload) => Ok(WrittenBytes::Parts(upload)),
        None => Ok(WrittenBytes::Whole(key.clone(), Bytes::new())),
    }
}

/// Stores a part; the first begins the upload.
async fn put_part(
    to: &dyn Store,
    key: &Key,
    part_bytes: u64,
    upload: Option<Multipart>,
    bytes: Bytes,
) -> Result<Multipart, BackupError> {
    let mut upload = match upload {
        Some(upload) => upload,
        None => to.create_multipart(key, CLAIM, part_bytes).await?,
    };
    match to.put_part(&upload, upload.size_bytes(), bytes).await {
        Ok(part) => {
            upload.record(part);
            Ok(upload)
        }
        Err(error) => {
            abort(to, Some(upload)).await;
            Err(error.into())
        }
    }
}

async fn abort(to: &dyn Store, upload: Option<Multipart>) {
    if let Some(upload) = upload {
        WrittenBytes::Parts(upload).abort(to).await;
    }
}
