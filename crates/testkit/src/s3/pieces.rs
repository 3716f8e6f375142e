//! Bytes as they came in: pieces that are shared, never copied.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use s3s::crypto::{Checksum as _, Md5};

/// Read out in pieces of at most this size, so that a body can be cut or held back within.
const PIECE_BYTES: usize = 64 * 1024;
static ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];

/// The bytes of an object, or of a part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pieces(Vec<Bytes>);

impl Pieces {
    /// Zeros, which take up hardly any memory however many they are.
    pub(crate) fn zeros(mut size_bytes: u64) -> Self {
        let mut pieces = Vec::new();
        while size_bytes > 0 {
            let room = usize::try_from(size_bytes).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let piece = Bytes::from_static(&ZEROS[..room]);
            size_bytes -= len(&piece);
            pieces.push(piece);
        }
        Self(pieces)
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.iter().map(len).sum()
    }

    pub(crate) fn md5(&self) -> [u8; 16] {
        let mut md5 = Md5::new();
        self.0.iter().for_each(|piece| md5.update(piece));
        md5.finalize()
    }

    /// All in one; copied if they were not.
    pub(crate) fn joined(&self) -> Bytes {
        match &*self.0 {
            [whole] => whole.clone(),
            pieces => pieces.iter().fold(BytesMut::new(), appended).freeze(),
        }
    }

    /// A part of the bytes, in pieces of moderate size.
    pub(crate) fn slice(&self, range: Range<u64>) -> Self {
        let mut slices = Vec::new();
        let mut start = 0;
        for piece in &self.0 {
            let end = start + len(piece);
            let from = range.start.clamp(start, end) - start;
            let to = range.end.clamp(start, end) - start;
            let mut slice = piece.slice(index(from)..index(to.max(from)));
            while !slice.is_empty() {
                slices.push(slice.split_to(slice.len().min(PIECE_BYTES)));
            }
            start = end;
        }
        Self(slices)
    }
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}

impl FromIterator<Bytes> for Pieces {
    fn from_iter<T: IntoIterator<Item = Bytes>>(pieces: T) -> Self {
        Self(pieces.into_iter().collect())
    }
}

impl<'a> FromIterator<&'a Pieces> for Pieces {
    fn from_iter<T: IntoIterator<Item = &'a Pieces>>(all: T) -> Self {
        all.into_iter().flat_map(|pieces| pieces.0.iter().cloned()).collect()
    }
}

impl IntoIterator for Pieces {
    type Item = Bytes;
    type IntoIter = std::vec::IntoIter<Bytes>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

fn appended(mut all: BytesMut, piece: &Bytes) -> BytesMut {
    all.extend_from_slice(piece);
    all
}

pub(crate) fn len(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).expect("a length fits 64 bits")
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("an offset into memory fits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_run_over_the_seams() {
        let pieces = Pieces::from_iter([Bytes::from_static(b"abc"), Bytes::from_static(b"defg")]);
        let text = |range| pieces.slice(range).joined();
        assert_eq!(&*text(0..7), b"abcdefg");
        assert_eq!(&*text(2..4), b"cd");
        assert_eq!(&*text(3..3), b"");
        assert_eq!(&*text(5..7), b"fg");
        assert_eq!(pieces.len(), 7);
    }

    #[test]
    fn the_md5_is_that_of_all_pieces() {
        let pieces = Pieces::from_iter([Bytes::from_static(b"ab"), Bytes::from_static(b"c")]);
        assert_eq!(pieces.md5(), Md5::checksum(b"abc"));
    }

    #[test]
    fn there_are_as_many_zeros_as_asked_for() {
        for size_bytes in [0, 1, 65_536, 3 * 65_536 + 5] {
            let zeros = Pieces::zeros(size_bytes).joined();
            assert_eq!(len(&zeros), size_bytes);
            assert!(zeros.iter().all(|byte| *byte == 0));
        }
    }
}
