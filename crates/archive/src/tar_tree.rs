//! [`TarTree`]: the files in a tar archive, found once and then read by their position.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use crate::tar_members::{MemberKind, MemberMap, TarInput, TarMembers};
use crate::{ArchiveError, Result, SourceContent, SourceTree};

/// How much is read at a time.
const CHUNK_BYTES: u64 = 256 * 1024;

/// Where a file lies in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FilePosition {
    offset: u64,
    size_bytes: u64,
}

/// The files in a tar archive that is a file.
#[derive(Debug)]
pub struct TarTree {
    file: Arc<File>,
    members: MemberMap<FilePosition>,
}

/// An archive that is a file, of which only the headers are read.
struct FileInput<'f> {
    file: &'f File,
    length: u64,
    offset: u64,
}

impl TarInput for FileInput<'_> {
    fn read_full(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.length.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        let buffer = buffer.get_mut(..count).unwrap_or_default();
        self.file.read_exact_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }

    fn pass(&mut self, bytes: u64) -> io::Result<bool> {
        match self.offset.checked_add(bytes) {
            Some(end) if end <= self.length => {
                self.offset = end;
                Ok(true)
            }
            _ => {
                self.offset = self.length;
                Ok(false)
            }
        }
    }
}

impl TarTree {
    /// Finds the members of an archive. Blocks the thread.
    ///
    /// # Errors
    ///
    /// [`ArchiveError`].
    pub fn open(file: File) -> Result<Self> {
        let length = file.metadata().map_err(ArchiveError::io("the archive"))?.len();
        let mut archive = TarMembers::new(FileInput { file: &file, length, offset: 0 });
        let mut members = MemberMap::default();
        while let Some(member) = archive.next()? {
            match member.kind {
                MemberKind::Link(to) => members.add_link(member.name, to)?,
                MemberKind::File { size_bytes } => {
                    let position = FilePosition { offset: archive.offset(), size_bytes };
                    members.add_file(member.name, position)?;
                    archive.pass(size_bytes)?;
                }
            }
        }
        Ok(Self { file: Arc::new(file), members })
    }
}

/// Reads a chunk, and says where the next one begins.
fn read_chunk(file: &File, offset: u64, end: u64) -> io::Result<Bytes> {
    let length = (end - offset).min(CHUNK_BYTES);
    let mut chunk = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact_at(&mut chunk, offset)?;
    Ok(chunk.into())
}

/// So many bytes of a file from a position on, in chunks.
pub(crate) fn read_at(
    file: Arc<File>,
    start: u64,
    size_bytes: u64,
) -> BoxStream<'static, io::Result<Bytes>> {
    let end = start + size_bytes;
    let chunks = stream::try_unfold(start, move |offset| {
        let file = Arc::clone(&file);
        async move {
            if offset == end {
                return Ok(None);
            }
            let reading = tokio::task::spawn_blocking(move || read_chunk(&file, offset, end));
            let chunk = reading.await.map_err(io::Error::other)??;
            let next = offset + chunk.len() as u64;
            Ok(Some((chunk, next)))
        }
    });
    chunks.boxed()
}

#[async_trait]
impl SourceTree for TarTree {
    async fn names(&self, folder: &str) -> Result<Vec<String>> {
        Ok(self.members.names(folder))
    }

    async fn open(&self, path: &str) -> Result<Option<SourceContent>> {
        let Some(&FilePosition { offset, size_bytes }) = self.members.find(path) else {
            return Ok(None);
        };
        let stream = read_at(Arc::clone(&self.file), offset, size_bytes);
        Ok(Some(SourceContent { size_bytes, place: None, stream }))
    }

    async fn size(&self, path: &str) -> Result<Option<u64>> {
        Ok(self.members.find(path).map(|position| position.size_bytes))
    }
}

#[cfg(test)]
mod tests;
