//! Reads a blob from a file as the client takes it.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, TryStreamExt, stream};
use jreg_net::server::files::read_resident;
use jreg_profile::WorkName;
use jreg_registry::{BlobReader, Error};
use jreg_storage::{ByteRange, ByteStream, ErrorKind, OpenFile};

/// What profiles call it.
const READING: WorkName = WorkName("read file", "");
/// Maximum read size, where the connection cannot send from the file itself.
const PIECE_BYTES_MAX: u64 = 64 * 1024;

/// Streams a range of a blob in a file. The file is opened on the first poll: a client that reads
/// nothing costs no descriptor and no memory. If the file has been removed meanwhile, the current
/// location is read.
pub(crate) fn read(
    reader: BlobReader,
    range: ByteRange,
) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    let reading = BlobReading { reader, rest: range, source: None };
    stream::try_unfold(reading, BlobReading::next)
}

struct BlobReading {
    reader: BlobReader,
    rest: ByteRange,
    source: Option<BlobSource>,
}

enum BlobSource {
    File(Arc<OpenFile>),
    Stream(ByteStream),
}

impl BlobReading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut source = match self.source.take() {
            Some(source) => source,
            None => BlobSource::open(&self.reader, self.rest).await?,
        };
        let Some(bytes) = source.next(self.rest).await? else { return Ok(None) };
        self.rest.start += bytes.len() as u64;
        self.source = Some(source);
        Ok(Some((bytes, self)))
    }
}

impl BlobSource {
    async fn open(reader: &BlobReader, range: ByteRange) -> Result<Self, Error> {
        match reader.file().await? {
            Some(file) if range.end <= file.size_bytes => Ok(Self::File(file)),
            Some(_) | None => Ok(Self::Stream(reader.read(range).await?)),
        }
    }

    async fn next(&mut self, rest: ByteRange) -> Result<Option<Bytes>, Error> {
        let file = match self {
            Self::Stream(stream) => return Ok(stream.try_next().await?),
            Self::File(file) => Arc::clone(file),
        };
        let piece =
            ByteRange { start: rest.start, end: rest.end.min(rest.start + PIECE_BYTES_MAX) };
        if let Some(bytes) = read_resident(&file, piece) {
            return Ok(Some(bytes));
        }
        let reading = jreg_profile::carry(READING, move || read_piece(&file, piece));
        let bytes = tokio::task::spawn_blocking(reading)
            .await
            .map_err(io::Error::other)
            .and_then(|read| read);
        bytes.map(Some).map_err(|error| {
            let key = "the file of a blob";
            jreg_storage::Error::with_source(ErrorKind::Unavailable, key, error).into()
        })
    }
}

fn read_piece(file: &OpenFile, piece: ByteRange) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(piece.len()).map_err(io::Error::other)?];
    file.file.read_exact_at(&mut bytes, piece.start)?;
    Ok(bytes.into())
}
