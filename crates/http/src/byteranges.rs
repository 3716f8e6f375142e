//! [`RangeParts`]: a multipart/byteranges body (RFC 9110 section 14.6).
//!
//! Clients of zstd:chunked layers request up to 1,024 ranges that lie close together. Nearby ranges
//! are read with one store request, and the bytes between them are discarded. Scattered ranges are read
//! with larger gaps, so that a response takes at most [`READS_MAX`] store requests; if that would
//! discard too much, the whole blob is the response. The body is generated as it is sent: memory
//! holds the ranges and one chunk.

use bytes::Bytes;
use futures::{StreamExt, stream};
use jreg_net::server::Body;
use jreg_registry::{BlobReader, Error};
use jreg_storage::{ByteRange, ByteStream};

use crate::headers::content_range;

/// Maximum gap between two ranges that is read to save a store request: it takes less time than a
/// round trip.
const GAP_BYTES_MAX: u64 = 64 * 1024;
/// Maximum store requests for one response.
const READS_MAX: usize = 256;
/// Maximum bytes that one response reads and discards: so many, or as many times those of its ranges.
const DISCARDED_BYTES_MAX: u64 = 64 * 1024 * 1024;
const DISCARDED_FACTOR_MAX: u64 = 2;

/// The ranges, in the order of the response.
pub(crate) struct RangeParts {
    boundary: String,
    ranges: Vec<(u64, u64)>,
    size_bytes: u64,
    /// Maximum gap between two ranges that are read together.
    gap_bytes_max: u64,
}

/// A body being sent.
struct RangeSending {
    parts: RangeParts,
    reader: BlobReader,
    /// The range whose part header is sent next.
    next: usize,
    /// Bytes of the current part that are not sent.
    left: ByteRange,
    source: Option<RangeSource>,
    is_closed: bool,
}

/// Bytes from the store.
struct RangeSource {
    stream: ByteStream,
    /// Offset of `chunk` in the blob.
    position: u64,
    /// End offset of the stream.
    end: u64,
    chunk: Bytes,
}

impl RangeParts {
    /// Ranges of a blob of `size_bytes`: start and end (exclusive), each within the blob and not
    /// empty. `None`: the whole blob costs less.
    pub(crate) fn new(boundary: String, ranges: Vec<(u64, u64)>, size_bytes: u64) -> Option<Self> {
        let gap_bytes_max = gap_bytes_max(&ranges)?;
        Some(Self { boundary, ranges, size_bytes, gap_bytes_max })
    }

    /// Content-Length of the body.
    pub(crate) fn length(&self) -> u64 {
        let part = |&(start, end): &(u64, u64)| self.head(start, end).len() as u64 + end - start;
        self.ranges.iter().map(part).sum::<u64>() + self.closing().len() as u64
    }

    /// The body, read from the blob.
    pub(crate) fn into_body(self, reader: BlobReader) -> Body {
        let left = ByteRange { start: 0, end: 0 };
        let sending =
            RangeSending { parts: self, reader, next: 0, left, source: None, is_closed: false };
        Body::from_stream(stream::try_unfold(sending, |mut sending| async move {
            let piece = sending.next_piece().await?;
            Ok::<_, Error>(piece.map(|piece| (piece, sending)))
        }))
    }

    fn head(&self, start: u64, end: u64) -> String {
        let (boundary, range) = (&self.boundary, content_range(start, end, self.size_bytes));
        format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\
             Content-Range: {range}\r\n\r\n"
        )
    }

    fn closing(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }

    /// The range to read for a part: it extends over all nearby following parts.
    fn run(&self, index: usize) -> ByteRange {
        let mut later = self.ranges.iter().skip(index);
        let (start, mut end) = later.next().copied().unwrap_or_default();
        for (next_start, next_end) in later {
            if !(end..=end.saturating_add(self.gap_bytes_max)).contains(next_start) {
                break;
            }
            end = *next_end;
        }
        ByteRange { start, end }
    }
}

/// Maximum gap between two ranges that are read together, so that they take [`READS_MAX`] reads at most.
/// `None`: too many bytes would be discarded.
fn gap_bytes_max(ranges: &[(u64, u64)]) -> Option<u64> {
    // Ranges out of order are not merged: gaps would be read repeatedly, up to the whole blob each time.
    if !ranges.is_sorted() {
        return (ranges.len() <= READS_MAX).then_some(0);
    }
    let pairs = ranges.iter().zip(ranges.iter().skip(1));
    let mut gaps: Vec<u64> =
        pairs.map(|((_, end), (start, _))| start.saturating_sub(*end)).collect();
    gaps.sort_unstable();
    // All but the largest gaps are read.
    let largest = gaps.len().checked_sub(READS_MAX).and_then(|index| gaps.get(index));
    let gap_bytes_max = largest.map_or(GAP_BYTES_MAX, |gap| GAP_BYTES_MAX.max(*gap));
    let discarded: u64 = gaps.iter().take_while(|gap| **gap <= gap_bytes_max).sum();
    let wanted: u64 = ranges.iter().map(|(start, end)| end - start).sum();
    let discarded_max = DISCARDED_BYTES_MAX.max(wanted.saturating_mul(DISCARDED_FACTOR_MAX));
    (discarded <= discarded_max).then_some(gap_bytes_max)
}

impl RangeSending {
    async fn next_piece(&mut self) -> Result<Option<Bytes>, Error> {
        if !self.left.is_empty() {
            let bytes = self.bytes().await?;
            self.left.start += bytes.len() as u64;
            return Ok(Some(bytes));
        }
        if let Some(&(start, end)) = self.parts.ranges.get(self.next) {
            self.left = ByteRange { start, end };
            self.next += 1;
            return Ok(Some(self.parts.head(start, end).into()));
        }
        let closing = (!self.is_closed).then(|| self.parts.closing().into());
        self.is_closed = true;
        Ok(closing)
    }

    /// Some of the remaining bytes of a part, at least one.
    async fn bytes(&mut self) -> Result<Bytes, Error> {
        let ByteRange { start, end } = self.left;
        let fits = |source: &RangeSource| (source.position..source.end).contains(&start);
        let mut source = match self.source.take().filter(fits) {
            Some(source) => source,
            None => {
                let run = self.parts.run(self.next.saturating_sub(1));
                // All bytes of a part come from the same location.
                let run = ByteRange { start, end: run.end.max(end) };
                let stream = self.reader.read(run).await?;
                RangeSource { stream, position: start, end: run.end, chunk: Bytes::new() }
            }
        };
        let bytes = source.take(start, end).await?;
        self.source = Some(source);
        bytes.ok_or_else(|| Error::Damaged {
            key: self.reader.blob().digest.to_string(),
            reason: "the blob is shorter than recorded".to_owned(),
        })
    }
}

impl RangeSource {
    /// Available bytes of the blob from `start` to at most `end`; `None` if the stream has ended.
    async fn take(&mut self, start: u64, end: u64) -> Result<Option<Bytes>, Error> {
        loop {
            let skipped = usize::try_from(start - self.position).unwrap_or(usize::MAX);
            if skipped < self.chunk.len() {
                let wanted = usize::try_from(end - start).unwrap_or(usize::MAX);
                drop(self.chunk.split_to(skipped));
                let bytes = self.chunk.split_to(wanted.min(self.chunk.len()));
                self.position = start + bytes.len() as u64;
                return Ok(Some(bytes));
            }
            self.position += self.chunk.len() as u64;
            let Some(chunk) = self.stream.next().await else { return Ok(None) };
            self.chunk = chunk?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(ranges: &[(u64, u64)]) -> RangeParts {
        RangeParts::new("B".to_owned(), ranges.to_vec(), 10).expect("few ranges")
    }

    #[test]
    fn parts_have_heads_of_the_length_that_is_announced() {
        let parts = parts(&[(0, 2), (4, 5)]);
        let heads = [parts.head(0, 2), parts.head(4, 5)];
        assert_eq!(
            heads[0],
            "\r\n--B\r\nContent-Type: application/octet-stream\r\n\
             Content-Range: bytes 0-1/10\r\n\r\n"
        );
        assert!(heads[1].contains("Content-Range: bytes 4-4/10\r\n"));
        let length = heads[0].len() + 2 + heads[1].len() + 1 + "\r\n--B--\r\n".len();
        assert_eq!(parts.length(), length as u64);
    }

    /// How many reads ranges of some bytes with a gap after each take, and what they discard.
    fn reads(count: u64, bytes: u64, gap: impl Fn(u64) -> u64) -> Option<(usize, u64)> {
        let mut start = 0;
        let ranges = (0..count).map(|number| {
            let range = (start, start + bytes);
            start = range.1 + gap(number);
            range
        });
        let ranges: Vec<_> = ranges.collect();
        let parts = RangeParts::new("B".to_owned(), ranges, start)?;
        let (mut reads, mut end, mut read) = (0, 0, 0);
        for (index, range) in parts.ranges.iter().enumerate() {
            if range.1 > end {
                let run = parts.run(index);
                (reads, end, read) = (reads + 1, run.end, read + run.end - run.start);
            }
        }
        Some((reads, read - count * bytes))
    }

    #[test]
    fn scattered_ranges_take_few_reads_or_the_whole_blob() {
        let mib = 1024 * 1024;
        assert_eq!(reads(1024, 1000, |_| 1000), Some((1, 1023 * 1000)));
        let (count, _) = reads(256, 1, |_| 512 * mib).expect("few ranges");
        assert_eq!(count, 256);
        // The smallest gaps are read.
        let (count, discarded) =
            reads(1024, mib, |number| (number + 1) * 2000).expect("small gaps");
        assert!(count <= READS_MAX && discarded < 1024 * mib, "{count} {discarded}");
        let (count, _) = reads(1024, mib, |_| mib).expect("small gaps");
        assert_eq!(count, 1, "equal gaps");
        assert_eq!(reads(1024, 1, |_| mib), None);
        assert_eq!(reads(2048, 1, |_| 64 * 1024), None);
        let scattered: Vec<_> = (0..257).rev().map(|at| (at * mib, at * mib + 1)).collect();
        assert_eq!(gap_bytes_max(&scattered), None);
        assert_eq!(gap_bytes_max(&scattered[1..]), Some(0));
    }

    #[test]
    fn parts_that_follow_each_other_closely_are_read_at_once() {
        let far = 20 + GAP_BYTES_MAX;
        for (ranges, index, expected) in [
            (&[(0, 10)][..], 0, (0, 10)),
            (&[(0, 10), (10, 20), (20, 30)], 0, (0, 30)),
            (&[(0, 10), (15, 20), (far, far + 1)], 0, (0, far + 1)),
            (&[(0, 10), (15, 20), (far + 1, far + 2)], 0, (0, 20)),
            (&[(0, 10), (15, 20), (far + 1, far + 2)], 1, (15, 20)),
            (&[(15, 20), (0, 10)], 0, (15, 20)),
            (&[(15, 20), (25, 30), (0, 10)], 0, (15, 20)),
        ] {
            let run = parts(ranges).run(index);
            assert_eq!((run.start, run.end), expected, "{ranges:?} from {index}");
        }
    }
}
