//! Bodies from files: the connection sends bytes directly from the file (`sendfile(2)`), without
//! copying them through this process.
//!
//! hyper writes bodies as buffers. A [`FileBody`] yields *placeholders*: buffers with a unique
//! address whose bytes are never read. For each it queues the file part that the placeholder
//! represents ([`FileQueue`]). The connection recognizes a placeholder by its address and sends the
//! next queued part instead. This works for HTTP/1.1 without TLS, where body buffers reach the
//! connection unchanged and in order; elsewhere there is no queue, and bodies are read.
//!
//! A file that is not in the page cache would block the thread, which serves other connections. So
//! each part is checked first, and loaded on a blocking thread if needed.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use jreg_profile::WorkName;
use jreg_storage::{ByteRange, OpenFile};
use tokio::task::JoinHandle;

/// What profiles call reading a file into the page cache.
const READING: WorkName = WorkName("read file", "");
/// Maximum size of a placeholder.
const PART_BYTES_MAX: usize = 1024 * 1024;
/// Read size for parts that are not in the page cache.
const READ_BYTES: usize = 128 * 1024;
/// Bodies up to this size are read at once, if they are in the page cache.
pub const SMALL_BYTES_MAX: u64 = 64 * 1024;

/// Never read or written: it reserves addresses, not memory.
static PLACEHOLDER: LazyLock<&'static [u8]> =
    LazyLock::new(|| Box::leak(vec![0; PART_BYTES_MAX].into_boxed_slice()));

/// Whether a buffer is a placeholder.
pub fn is_placeholder(buffer: &[u8]) -> bool {
    !buffer.is_empty() && PLACEHOLDER.as_ptr_range().contains(&buffer.as_ptr())
}

#[derive(Debug)]
struct FilePart {
    file: Arc<OpenFile>,
    range: ByteRange,
}

/// The file parts of the placeholders on their way to a connection, in order.
#[derive(Debug, Default)]
pub struct FileQueue(Mutex<VecDeque<FilePart>>);

impl FileQueue {
    /// The queue of a connection, if the system supports sending from files.
    pub fn offered() -> Option<Arc<Self>> {
        cfg!(target_os = "linux").then(Arc::default)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<FilePart>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends part of the next placeholder, of which `length` bytes are left.
    ///
    /// # Errors
    ///
    /// I/O errors, including `WouldBlock`; `UnexpectedEof` if the file has become shorter.
    pub fn send(&self, connection: impl AsFd, length: usize) -> io::Result<usize> {
        let mut parts = self.lock();
        let Some(part) = parts.front_mut() else {
            return Err(io::Error::other("a placeholder has no file"));
        };
        let wanted = usize::try_from(part.range.len()).unwrap_or(usize::MAX).min(length);
        let sent = send_file(connection, &part.file.file, part.range.start, wanted)?;
        if sent == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        part.range.start += sent as u64;
        if part.range.is_empty() {
            parts.pop_front();
        }
        Ok(sent)
    }
}

#[cfg(target_os = "linux")]
fn send_file(
    connection: impl AsFd,
    file: &std::fs::File,
    mut offset: u64,
    count: usize,
) -> io::Result<usize> {
    Ok(rustix::fs::sendfile(connection, file, Some(&mut offset), count)?)
}

#[cfg(not(target_os = "linux"))]
fn send_file(_: impl AsFd, _: &std::fs::File, _: u64, _: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Reads bytes of a file from the page cache. `None`: not all are cached, or the file system cannot
/// tell.
pub fn read_resident(file: &OpenFile, range: ByteRange) -> Option<Bytes> {
    let length = usize::try_from(range.len()).ok()?;
    let mut bytes = vec![0; length];
    let read = read_now(file, &mut bytes, range.start).ok()?;
    (read == length).then(|| bytes.into())
}

#[cfg(target_os = "linux")]
fn read_now(file: &OpenFile, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut buffers = [io::IoSliceMut::new(bytes)];
    let flags = rustix::io::ReadWriteFlags::NOWAIT;
    Ok(rustix::io::preadv2(&file.file, &mut buffers, offset, flags)?)
}

#[cfg(not(target_os = "linux"))]
fn read_now(_: &OpenFile, _: &mut [u8], _: u64) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A body that the connection sends from a file.
#[derive(Debug)]
pub struct FileBody {
    files: Arc<FileQueue>,
    file: Arc<OpenFile>,
    rest: ByteRange,
    /// Reads the next part into the page cache.
    reading: Option<JoinHandle<io::Result<()>>>,
}

impl FileBody {
    /// A body for a range of a file, sent over the connection of `files`. `None`: the file system
    /// cannot tell what is in the page cache.
    pub fn new(files: &Arc<FileQueue>, file: Arc<OpenFile>, rest: ByteRange) -> Option<Self> {
        let known = !rest.is_empty() && rest.end <= file.size_bytes;
        let first = known.then(|| read_now(&file, &mut [0], rest.start))?;
        if first.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
            return None;
        }
        Some(Self { files: Arc::clone(files), file, rest, reading: None })
    }

    fn next_part(&self) -> ByteRange {
        let end = self.rest.end.min(self.rest.start + PART_BYTES_MAX as u64);
        ByteRange { start: self.rest.start, end }
    }

    fn is_resident(&self, part: ByteRange) -> bool {
        let is_there = |offset| !matches!(read_now(&self.file, &mut [0], offset), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        is_there(part.start) && is_there(part.end - 1)
    }
}

fn read_through(file: &OpenFile, part: ByteRange) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut offset = part.start;
    while offset < part.end {
        match file.file.read_at(&mut buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => offset += read as u64,
        }
    }
    Ok(())
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let part = self.next_part();
        if self.reading.is_none() && !self.is_resident(part) {
            let file = Arc::clone(&self.file);
            let reading = jreg_profile::carry(READING, move || read_through(&file, part));
            self.reading = Some(tokio::task::spawn_blocking(reading));
        }
        if let Some(reading) = &mut self.reading {
            let read = ready!(Pin::new(reading).poll(task));
            self.reading = None;
            if let Err(error) = read.map_err(io::Error::other).and_then(|read| read) {
                self.rest.start = self.rest.end;
                return Poll::Ready(Some(Err(error)));
            }
        }
        self.rest.start = part.end;
        let length = usize::try_from(part.len()).unwrap_or(PART_BYTES_MAX);
        self.files.lock().push_back(FilePart { file: Arc::clone(&self.file), range: part });
        let placeholder = PLACEHOLDER.get(..length).unwrap_or_default();
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(placeholder)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len())
    }
}
