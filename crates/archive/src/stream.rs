//! [`ArchiveStream`]: an archive from a pipe or a compressed file, which is read once.
//!
//! Blobs go to a [`BlobReceiver`] in the order in which they come, before it is known which image they are of: archives may
//! list their images last. Documents, which may be manifests, are kept until then: in memory, as far as
//! [`KEPT_MEMORY_BYTES_MAX`] goes. What the receiver cannot take, and more documents than that, goes to a temporary
//! file. At the end all of it is a [`SourceTree`] as of any archive.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use jreg_oci::{Digest, RepositoryName};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::tar_members::{MemberKind, MemberMap, TarMember, TarMembers};
use crate::tar_tree::read_at;
use crate::tree::ReceivedFile;
use crate::unpack::{UNPACKED_BYTES_MAX, UnpackedStream, first_bytes, is_compressed};
use crate::{
    ArchiveError, MANIFEST_BYTES_MAX, Result, SourceBlob, SourceContent, SourceTree, TarTree,
    docker, layout,
};

/// How many bytes of documents stay in memory; more of them go to the temporary file.
pub const KEPT_MEMORY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How much is read at a time, and how many of these are on their way to the receiver.
const CHUNK_BYTES: usize = 256 * 1024;
const CHUNKS_IN_FLIGHT: usize = 4;
/// So much of the beginning of a blob tells how it is compressed.
const START_BYTES: usize = 4;

/// Limits of archives that come as streams.
#[derive(Clone, Debug)]
pub struct Spool {
    /// A folder with room for what cannot be imported while it is read.
    pub folder: PathBuf,
    /// Maximum size of the archive without its compression.
    pub bytes_max: u64,
}

impl Default for Spool {
    fn default() -> Self {
        Self { folder: std::env::temp_dir(), bytes_max: UNPACKED_BYTES_MAX }
    }
}

/// Who stores blobs of an archive while it is read.
#[async_trait]
pub trait BlobReceiver: Debug + Send + Sync + 'static {
    /// Learns the repository of the first image that the archive lists.
    fn announce(&self, repository: &RepositoryName);

    /// Whether it can take blobs, by what it knows so far.
    fn takes_blobs(&self) -> bool;

    /// Stores a blob, and says its digest, which is a SHA-256 one if it was not known before the last byte. An error
    /// is for the images that need the blob: the archive is read on.
    async fn store(&self, digest: Option<&Digest>, blob: SourceBlob) -> Result<Digest, String>;

    /// Opens a blob that it stored.
    async fn open(&self, digest: &Digest) -> io::Result<BoxStream<'static, io::Result<Bytes>>>;
}

/// A file that is an archive.
#[derive(Debug)]
pub enum OpenedArchive {
    /// It can be read by position.
    Tree(TarTree),
    Stream(ArchiveStream),
}

/// Opens an archive that is a file; a compressed one, or a pipe, is a stream. Blocks the thread.
///
/// # Errors
///
/// [`ArchiveError`].
pub fn open_archive(path: &Path, spool: &Spool) -> Result<OpenedArchive> {
    let shown = path.display().to_string();
    let mut file = File::open(path).map_err(ArchiveError::io(&shown))?;
    if !file.metadata().map_err(ArchiveError::io(&shown))?.is_file() {
        return ArchiveStream::open(file, spool).map(OpenedArchive::Stream);
    }
    let start = first_bytes(&mut file).map_err(ArchiveError::io(&shown))?;
    file.rewind().map_err(ArchiveError::io(shown))?;
    match is_compressed(&start) {
        true => ArchiveStream::open(file, spool).map(OpenedArchive::Stream),
        false => TarTree::open(file).map(OpenedArchive::Tree),
    }
}

/// An archive that is read once.
#[derive(Debug)]
pub struct ArchiveStream {
    members: TarMembers<UnpackedStream>,
    /// The first member.
    next: Option<TarMember>,
    kept: KeptFiles,
    spool: Spool,
}

impl ArchiveStream {
    /// Reads the beginning of a stream, which may be compressed. Blocks the thread.
    ///
    /// # Errors
    ///
    /// [`ArchiveError`]: it is not an archive.
    pub fn open(stream: impl Read + Send + 'static, spool: &Spool) -> Result<Self> {
        let unpacked = UnpackedStream::open(stream, spool.bytes_max);
        let unpacked = unpacked.map_err(ArchiveError::io("the archive"))?;
        let mut members = TarMembers::new(unpacked);
        let next = members.next()?;
        Ok(Self { members, next, kept: KeptFiles::default(), spool: spool.clone() })
    }

    /// Reads the whole archive, whose blobs go to the receiver.
    ///
    /// # Errors
    ///
    /// [`ArchiveError`]. What the receiver cannot store is no error of the archive.
    pub async fn receive(self, receiver: Arc<dyn BlobReceiver>) -> Result<StreamedTree> {
        let runtime = Handle::current();
        let reading = tokio::task::spawn_blocking(move || {
            StreamReader { archive: self, receiver, runtime }.read()
        });
        let failed = |error| ArchiveError::io("the archive")(io::Error::other(error));
        reading.await.map_err(failed)?
    }
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum StreamedFile {
    Memory(Bytes),
    /// At this offset of the temporary file.
    Spooled {
        offset: u64,
        size_bytes: u64,
    },
    Received(ReceivedFile),
    /// The receiver could not store it.
    Failed {
        size_bytes: u64,
        reason: String,
    },
}

impl StreamedFile {
    fn size_bytes(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Received(file) => file.size_bytes,
            Self::Spooled { size_bytes, .. } | Self::Failed { size_bytes, .. } => *size_bytes,
        }
    }
}

/// Files that are kept until the archive was read.
#[derive(Debug, Default)]
struct KeptFiles {
    memory_bytes: u64,
    spool: Option<File>,
    spooled_bytes: u64,
}

/// Reads an archive in a thread of its own.
struct StreamReader {
    archive: ArchiveStream,
    receiver: Arc<dyn BlobReceiver>,
    runtime: Handle,
}

impl StreamReader {
    fn read(mut self) -> Result<StreamedTree> {
        let mut members = MemberMap::default();
        let mut next = self.archive.next.take();
        while let Some(TarMember { name, kind }) = next {
            // Before its bytes go anywhere.
            members.check_new(&name)?;
            match kind {
                MemberKind::Link(to) => members.add_link(name, to)?,
                MemberKind::File { size_bytes } => {
                    let file = self.file(&name, size_bytes)?;
                    members.add_file(name, file)?;
                }
            }
            next = self.archive.members.next()?;
        }
        let Self { mut archive, receiver, .. } = self;
        archive.members.finish(UnpackedStream::finish)?;
        let KeptFiles { spool, spooled_bytes, .. } = archive.kept;
        Ok(StreamedTree { members, spool: spool.map(Arc::new), spooled_bytes, receiver })
    }

    fn file(&mut self, name: &str, size_bytes: u64) -> Result<StreamedFile> {
        let mut start = chunk_of(size_bytes);
        self.archive.members.read(&mut start)?;
        let digest = digest_of(name);
        let is_blob = digest.is_some() || is_layer_name(name);
        if is_blob && !may_be_document(&start, size_bytes) && self.receiver.takes_blobs() {
            return self.send(digest, start, size_bytes);
        }
        let file = self.keep(start, size_bytes)?;
        if let StreamedFile::Memory(bytes) = &file
            && let Some(repository) = first_repository(name, bytes)
        {
            self.receiver.announce(&repository);
        }
        Ok(file)
    }

    /// Passes a blob on as it comes.
    fn send(
        &mut self,
        digest: Option<Digest>,
        start: Vec<u8>,
        size_bytes: u64,
    ) -> Result<StreamedFile> {
        let (sender, chunks) = mpsc::channel::<io::Result<Bytes>>(CHUNKS_IN_FLIGHT);
        let stream = stream::unfold(chunks, |mut chunks| async {
            let chunk = chunks.recv().await?;
            Some((chunk, chunks))
        });
        let blob = SourceBlob { size_bytes, place: None, stream: stream.boxed() };
        let beginning = Bytes::copy_from_slice(start.get(..START_BYTES).unwrap_or(&start));
        let receiver = Arc::clone(&self.receiver);
        let storing =
            self.runtime.spawn(async move { receiver.store(digest.as_ref(), blob).await });
        let passed = self.pass_on(start, size_bytes, &sender);
        if passed.is_err() {
            // What came is not all of it.
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is damaged");
            let _ = sender.blocking_send(Err(error));
        }
        drop(sender);
        let stored = self.runtime.block_on(storing);
        passed?;
        Ok(match stored.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(digest) => {
                StreamedFile::Received(ReceivedFile { digest, size_bytes, start: beginning })
            }
            Err(reason) => StreamedFile::Failed { size_bytes, reason },
        })
    }

    /// Sends the bytes of a file. If the receiver takes no more they are passed over.
    fn pass_on(
        &mut self,
        start: Vec<u8>,
        size_bytes: u64,
        sender: &mpsc::Sender<io::Result<Bytes>>,
    ) -> Result<()> {
        let (mut chunk, mut left) = (start, size_bytes);
        loop {
            left -= chunk.len() as u64;
            let is_taken = chunk.is_empty() || sender.blocking_send(Ok(chunk.into())).is_ok();
            if !is_taken || left == 0 {
                return self.archive.members.pass(left);
            }
            chunk = chunk_of(left);
            self.archive.members.read(&mut chunk)?;
        }
    }

    fn keep(&mut self, start: Vec<u8>, size_bytes: u64) -> Result<StreamedFile> {
        let ArchiveStream { members, kept, spool, .. } = &mut self.archive;
        let all = kept.memory_bytes + size_bytes;
        if size_bytes <= MANIFEST_BYTES_MAX && all <= KEPT_MEMORY_BYTES_MAX {
            let (mut bytes, read) = (start, chunk_of(size_bytes).len());
            bytes.resize(usize::try_from(size_bytes).unwrap_or(read), 0);
            members.read(bytes.get_mut(read..).unwrap_or_default())?;
            members.pass(0)?;
            kept.memory_bytes = all;
            return Ok(StreamedFile::Memory(bytes.into()));
        }
        if kept.spool.is_none() {
            let file = tempfile::tempfile_in(&spool.folder);
            let failed = ArchiveError::io(spool.folder.display().to_string());
            kept.spool = Some(file.map_err(failed)?);
        }
        let offset = kept.spooled_bytes;
        let (mut chunk, mut left) = (start, size_bytes);
        if let Some(file) = &mut kept.spool {
            loop {
                file.write_all(&chunk).map_err(ArchiveError::io("the temporary file"))?;
                left -= chunk.len() as u64;
                if left == 0 {
                    break;
                }
                chunk = chunk_of(left);
                members.read(&mut chunk)?;
            }
        }
        members.pass(0)?;
        kept.spooled_bytes += size_bytes;
        Ok(StreamedFile::Spooled { offset, size_bytes })
    }
}

/// Room for the next bytes of a file of which so many are left.
fn chunk_of(left: u64) -> Vec<u8> {
    vec![0; usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES)]
}

/// The digest that a name gives: `blobs/ALGORITHM/HEX` in layouts, `blobs/ALGORITHM/HE/HEX/data` in storages of
/// distribution.
fn digest_of(name: &str) -> Option<Digest> {
    let mut parts = name.rsplit('/');
    let last = parts.next()?;
    let (hex, algorithm) = match last {
        "data" => (parts.next()?, parts.nth(1)?),
        hex => (hex, parts.next()?),
    };
    let is_blob = parts.next()? == "blobs";
    is_blob.then(|| format!("{algorithm}:{hex}").parse().ok()).flatten()
}

/// Whether a member without a digest in its name is a layer of `docker save`.
fn is_layer_name(name: &str) -> bool {
    [".tar", ".tar.gz", ".tgz", ".tar.zst"].iter().any(|end| name.ends_with(end))
}

/// Whether a file may be a manifest, or lists images.
fn may_be_document(start: &[u8], size_bytes: u64) -> bool {
    size_bytes <= MANIFEST_BYTES_MAX && matches!(start.trim_ascii_start(), [b'{' | b'[', ..] | [])
}

/// The repository of the first image, if a file of this name lists images.
fn first_repository(name: &str, bytes: &[u8]) -> Option<RepositoryName> {
    match name {
        "index.json" => layout::first_repository(bytes),
        docker::LIST => docker::first_repository(bytes),
        _ => None,
    }
}

/// An archive that was read, whose blobs the receiver has.
#[derive(Debug)]
pub struct StreamedTree {
    members: MemberMap<StreamedFile>,
    spool: Option<Arc<File>>,
    spooled_bytes: u64,
    receiver: Arc<dyn BlobReceiver>,
}

impl StreamedTree {
    /// How many bytes went to the temporary file.
    pub fn spooled_bytes(&self) -> u64 {
        self.spooled_bytes
    }
}

#[async_trait]
impl SourceTree for StreamedTree {
    async fn names(&self, folder: &str) -> Result<Vec<String>> {
        Ok(self.members.names(folder))
    }

    async fn open(&self, path: &str) -> Result<Option<SourceContent>> {
        let Some(file) = self.members.find(path) else { return Ok(None) };
        let size_bytes = file.size_bytes();
        let stream = match (file, &self.spool) {
            (StreamedFile::Memory(bytes), _) => stream::iter([Ok(bytes.clone())]).boxed(),
            (StreamedFile::Spooled { offset, .. }, Some(spool)) => {
                read_at(Arc::clone(spool), *offset, size_bytes)
            }
            (StreamedFile::Received(file), _) => {
                let (receiver, digest) = (Arc::clone(&self.receiver), file.digest.clone());
                stream::once(async move { receiver.open(&digest).await }).try_flatten().boxed()
            }
            (StreamedFile::Failed { reason, .. }, _) => {
                return Err(ArchiveError::io(path)(io::Error::other(reason.clone())));
            }
            (StreamedFile::Spooled { .. }, None) => return Ok(None),
        };
        Ok(Some(SourceContent { size_bytes, place: None, stream }))
    }

    async fn size(&self, path: &str) -> Result<Option<u64>> {
        Ok(self.members.find(path).map(StreamedFile::size_bytes))
    }

    fn received(&self, path: &str) -> Option<&ReceivedFile> {
        match self.members.find(path)? {
            StreamedFile::Received(file) => Some(file),
            _ => None,
        }
    }
}

/// A receiver that takes nothing: everything is kept.
#[derive(Debug)]
pub struct NoReceiver;

#[async_trait]
impl BlobReceiver for NoReceiver {
    fn announce(&self, _: &RepositoryName) {}

    fn takes_blobs(&self) -> bool {
        false
    }

    async fn store(&self, _: Option<&Digest>, _: SourceBlob) -> Result<Digest, String> {
        Err("nothing is stored".to_owned())
    }

    async fn open(&self, _: &Digest) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        Err(io::Error::from(io::ErrorKind::NotFound))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_blobs_give_their_digests() {
        let (hex, long) = ("a".repeat(64), "b".repeat(128));
        for (name, expected) in [
            (format!("blobs/sha256/{hex}"), Some(format!("sha256:{hex}"))),
            (format!("team/app/blobs/sha512/{long}"), Some(format!("sha512:{long}"))),
            (
                format!("docker/registry/v2/blobs/sha256/aa/{hex}/data"),
                Some(format!("sha256:{hex}")),
            ),
            (format!("blobs/sha256/{long}"), None),
            (format!("sha256/{hex}"), None),
            (format!("x/sha256/{hex}"), None),
            ("blobs/sha256/".to_owned(), None),
            ("index.json".to_owned(), None),
            ("data".to_owned(), None),
        ] {
            let digest = digest_of(&name).map(|digest| digest.to_string());
            assert_eq!(digest, expected, "{name}");
        }
        assert!(is_layer_name("one/layer.tar") && is_layer_name(&format!("{hex}.tar.gz")));
        assert!(!is_layer_name("VERSION") && !is_layer_name("one/json"));
    }
}
