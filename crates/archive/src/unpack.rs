//! The bytes of an archive that comes as a stream and may be compressed.
//!
//! A small archive may unpack to more than any disk has: there is a largest size, and an archive may only unpack to so
//! many times its own size.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use crate::ArchiveError;
use crate::tar_members::TarInput;

/// The most bytes that an archive is unpacked to, unless the caller says otherwise.
pub const UNPACKED_BYTES_MAX: u64 = 256 * 1024 * 1024 * 1024;
/// How many times as large as the archive what it is unpacked to may be, beyond `RATIO_FREE_BYTES`.
pub const UNPACKED_RATIO_MAX: u64 = 200;
/// So much is unpacked of any archive.
const RATIO_FREE_BYTES: u64 = 64 * 1024 * 1024;
const BUFFER_BYTES: usize = 256 * 1024;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// An archive without its compression, which is read once.
pub(crate) struct UnpackedStream(Box<dyn Read + Send>);

impl std::fmt::Debug for UnpackedStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UnpackedStream")
    }
}

impl UnpackedStream {
    /// Tells how a stream is compressed. Blocks the thread until its first bytes are there.
    ///
    /// # Errors
    ///
    /// I/O errors.
    pub(crate) fn open(mut stream: impl Read + Send + 'static, bytes_max: u64) -> io::Result<Self> {
        let start = first_bytes(&mut stream)?;
        let packed = Arc::new(AtomicU64::new(0));
        let whole = io::Cursor::new(start.clone()).chain(stream);
        let whole = CountedReader { inner: whole, count: Arc::clone(&packed) };
        let whole = BufReader::with_capacity(BUFFER_BYTES, whole);
        let unpacked: Box<dyn Read + Send> = if start.starts_with(GZIP) {
            Box::new(MultiGzDecoder::new(whole))
        } else if start.starts_with(ZSTD) {
            Box::new(ZstdFrames::Between(whole))
        } else {
            Box::new(whole)
        };
        Ok(Self(Box::new(LimitedReader { inner: unpacked, packed, unpacked: 0, bytes_max })))
    }

    /// Reads to the end what follows an archive: a damaged stream may say so only there, and the program that writes
    /// it is not cut off.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        io::copy(&mut self.0, &mut io::sink()).map(|_| ())
    }
}

impl TarInput for UnpackedStream {
    fn read_full(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.0.read(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn pass(&mut self, bytes: u64) -> io::Result<bool> {
        Ok(io::copy(&mut (&mut self.0).take(bytes), &mut io::sink())? == bytes)
    }
}

/// Whether a file begins as a compressed archive does.
pub(crate) fn is_compressed(start: &[u8]) -> bool {
    start.starts_with(GZIP) || start.starts_with(ZSTD)
}

/// The first bytes of a stream, fewer if it is shorter.
pub(crate) fn first_bytes(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(ZSTD.len());
    stream.take(ZSTD.len() as u64).read_to_end(&mut start)?;
    Ok(start)
}

/// Counts what is read of an archive.
struct CountedReader<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for CountedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Fails once an archive unpacks to more than it may.
struct LimitedReader<R> {
    inner: R,
    packed: Arc<AtomicU64>,
    unpacked: u64,
    bytes_max: u64,
}

impl<R: Read> Read for LimitedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.unpacked += read as u64;
        let packed = self.packed.load(Ordering::Relaxed);
        let ratio_max = RATIO_FREE_BYTES.max(packed.saturating_mul(UNPACKED_RATIO_MAX));
        let reason = if self.unpacked > self.bytes_max {
            format!("it unpacks to more than {} bytes", self.bytes_max)
        } else if self.unpacked > ratio_max {
            format!("it unpacks to more than {UNPACKED_RATIO_MAX} times its size")
        } else {
            return Ok(read);
        };
        Err(io::Error::other(ArchiveError::TooLarge { reason }))
    }
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
