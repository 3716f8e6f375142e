//! Archives that cannot be read by position, unpacked to a temporary file: compressed ones, and streams.
//!
//! A small archive may unpack to more than any disk has: the file has a largest size, and may only be so
//! many times as large as what it was unpacked from.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use crate::{ArchiveError, Result, TarTree};

/// The most bytes that an archive is unpacked to, unless the caller says otherwise.
pub const SPOOL_BYTES_MAX: u64 = 256 * 1024 * 1024 * 1024;
/// How many times as large as the archive what it is unpacked to may be, beyond `RATIO_FREE_BYTES`.
pub const SPOOL_RATIO_MAX: u64 = 200;
/// So much is unpacked of any archive.
const RATIO_FREE_BYTES: u64 = 64 * 1024 * 1024;
const BUFFER_BYTES: usize = 256 * 1024;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Where archives are unpacked, and how much of them.
#[derive(Clone, Debug)]
pub struct Spool {
    /// A folder with room for the unpacked archive.
    pub folder: PathBuf,
    pub bytes_max: u64,
}

impl Default for Spool {
    fn default() -> Self {
        Self { folder: std::env::temp_dir(), bytes_max: SPOOL_BYTES_MAX }
    }
}

/// Counts what is read of an archive.
struct CountedReader<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for CountedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// Opens an archive that is a file, which is unpacked if it is compressed. Blocks the thread.
///
/// # Errors
///
/// [`ArchiveError`].
pub fn open_archive(path: &Path, spool: &Spool) -> Result<TarTree> {
    let shown = path.display().to_string();
    let mut file = File::open(path).map_err(ArchiveError::io(&shown))?;
    let start = first_bytes(&mut file).map_err(ArchiveError::io(&shown))?;
    if !is_compressed(&start) && file.metadata().map_err(ArchiveError::io(&shown))?.is_file() {
        return TarTree::open(file);
    }
    file.rewind().map_err(ArchiveError::io(shown))?;
    spool_stream(file, spool)
}

/// Unpacks a stream, which may be compressed. Blocks the thread.
///
/// # Errors
///
/// [`ArchiveError`].
pub fn spool_stream(mut stream: impl Read, spool: &Spool) -> Result<TarTree> {
    let start = first_bytes(&mut stream).map_err(ArchiveError::io("the archive"))?;
    let count = Rc::new(Cell::new(0));
    let whole = io::Cursor::new(start.clone()).chain(stream);
    let whole = CountedReader { inner: whole, count: Rc::clone(&count) };
    let spooled = tempfile::tempfile_in(&spool.folder);
    let mut spooled = spooled.map_err(ArchiveError::io(spool.folder.display().to_string()))?;
    if start.starts_with(GZIP) {
        copy(&mut MultiGzDecoder::new(whole), &mut spooled, spool, &count)?;
    } else if start.starts_with(ZSTD) {
        let mut frames = ZstdFrames::Between(BufReader::new(whole));
        copy(&mut frames, &mut spooled, spool, &count)?;
    } else {
        let mut whole = whole;
        copy(&mut whole, &mut spooled, spool, &count)?;
    }
    TarTree::open(spooled)
}

/// The frames of a zstd stream, one after the other: some programs write several.
enum ZstdFrames<R: BufRead> {
    Between(R),
    Within(Box<StreamingDecoder<R, FrameDecoder>>),
    Ended,
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            *self = match std::mem::replace(self, Self::Ended) {
                Self::Ended => return Ok(0),
                Self::Between(mut source) => match source.fill_buf()?.is_empty() {
                    true => Self::Ended,
                    false => {
                        let frame = StreamingDecoder::new(source).map_err(io::Error::other)?;
                        Self::Within(Box::new(frame))
                    }
                },
                Self::Within(mut frame) => match frame.read(buffer)? {
                    0 => Self::Between(frame.into_inner()),
                    read => {
                        *self = Self::Within(frame);
                        return Ok(read);
                    }
                },
            };
        }
    }
}

fn copy(from: &mut impl Read, to: &mut File, spool: &Spool, packed: &Cell<u64>) -> Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut unpacked: u64 = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return to.flush().map_err(ArchiveError::io("the temporary file")),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let reason = error.to_string();
                return Err(ArchiveError::Damaged { offset: packed.get(), reason });
            }
        };
        unpacked += read as u64;
        if unpacked > spool.bytes_max {
            let reason = format!("it unpacks to more than {} bytes", spool.bytes_max);
            return Err(ArchiveError::TooLarge { reason });
        }
        let allowed = RATIO_FREE_BYTES.max(packed.get().saturating_mul(SPOOL_RATIO_MAX));
        if unpacked > allowed {
            let reason = format!("it unpacks to more than {SPOOL_RATIO_MAX} times its size");
            return Err(ArchiveError::TooLarge { reason });
        }
        let chunk = buffer.get(..read).unwrap_or_default();
        to.write_all(chunk).map_err(ArchiveError::io("the temporary file"))?;
    }
}

fn is_compressed(start: &[u8]) -> bool {
    start.starts_with(GZIP) || start.starts_with(ZSTD)
}

/// The first bytes of a stream, fewer if it is shorter.
fn first_bytes(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(ZSTD.len());
    stream.take(ZSTD.len() as u64).read_to_end(&mut start)?;
    Ok(start)
}
