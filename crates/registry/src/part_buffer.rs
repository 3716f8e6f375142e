//! [`PartBuffer`]: the memory that a part of an upload is collected in.
//!
//! A part is large and lives for as long as its request to the store. The C library would keep
//! the memory of such blocks for later ones, in pieces that fit badly: with many uploads, a
//! process then takes twice the budget that they share. So a part has a mapping of its own, which
//! the system has back the moment the part is stored.

use bytes::{Bytes, BytesMut};
use memmap2::{MmapMut, MmapOptions};

/// What is smaller comes from the heap: a mapping is whole pages, and a system call.
const MAPPED_BYTES_MIN: usize = 256 * 1024;

/// From when on what still grows is in a mapping of all that it may become. Before that the system
/// might give it more than it was told to take, as it has pages of this size.
const GROWN_BYTES_MIN: usize = 2 * 1024 * 1024;

/// Bytes that are collected, and then handed over as one piece.
#[derive(Debug, Default)]
pub(crate) struct PartBuffer(Memory);

#[derive(Debug)]
enum Memory {
    Heap(BytesMut),
    Mapped { map: MmapMut, len: usize },
}

impl Default for Memory {
    fn default() -> Self {
        Self::Heap(BytesMut::new())
    }
}

impl PartBuffer {
    /// Makes room for so many bytes. More can be put in, at the price of a copy.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        if self.is_empty() && bytes >= MAPPED_BYTES_MIN {
            self.map(bytes);
        }
        if let Memory::Heap(heap) = &mut self.0 {
            heap.reserve(bytes);
        }
    }

    /// Makes room for so many bytes in all, of what may become `bytes_max`.
    pub(crate) fn grow(&mut self, bytes: usize, bytes_max: usize) {
        if bytes >= GROWN_BYTES_MIN && matches!(self.0, Memory::Heap(_)) {
            self.map(bytes_max);
        }
        if let Memory::Heap(heap) = &mut self.0 {
            heap.reserve(bytes.saturating_sub(heap.len()));
        }
    }

    /// Moves what there is into a mapping of so many bytes, if the system gives one.
    fn map(&mut self, bytes: usize) {
        let Ok(map) = MmapOptions::new().len(bytes.max(self.len())).map_anon() else { return };
        let before = std::mem::replace(&mut self.0, Memory::Mapped { map, len: 0 });
        if let Memory::Heap(heap) = before {
            self.extend_from_slice(&heap);
        }
    }

    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Memory::Heap(heap) => heap.len(),
            Memory::Mapped { len, .. } => *len,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn extend_from_slice(&mut self, piece: &[u8]) {
        match &mut self.0 {
            Memory::Heap(heap) => heap.extend_from_slice(piece),
            Memory::Mapped { map, len } => {
                let end = *len + piece.len();
                if let Some(room) = map.get_mut(*len..end) {
                    room.copy_from_slice(piece);
                    *len = end;
                } else {
                    let mut heap = BytesMut::with_capacity(end);
                    heap.extend_from_slice(&map[..*len]);
                    heap.extend_from_slice(piece);
                    self.0 = Memory::Heap(heap);
                }
            }
        }
    }

    /// What was collected, which from now on is the only owner of its memory.
    pub(crate) fn take(&mut self) -> Bytes {
        match std::mem::take(&mut self.0) {
            Memory::Heap(heap) => heap.freeze(),
            Memory::Mapped { map, len } => Bytes::from_owner(map).slice(..len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_comes_out_whatever_was_reserved() {
        let piece: Vec<u8> = (0..=250).collect();
        for reserved in [0, 1, MAPPED_BYTES_MIN - 1, MAPPED_BYTES_MIN, 2 * MAPPED_BYTES_MIN] {
            for pieces in [0, 1, 500, 2000, 3000] {
                let mut buffer = PartBuffer::default();
                buffer.reserve(reserved);
                for _ in 0..pieces {
                    buffer.extend_from_slice(&piece);
                }
                assert_eq!(buffer.len(), pieces * piece.len());
                let taken = buffer.take();
                assert!(taken == piece.repeat(pieces), "{pieces} pieces in {reserved} bytes");
                assert!(buffer.is_empty() && buffer.take().is_empty());
            }
        }
    }

    #[test]
    fn what_was_put_in_comes_out_however_it_grew() {
        let piece: Vec<u8> = (0..=250).collect();
        for bytes_max in [1, 1000, GROWN_BYTES_MIN - 1, GROWN_BYTES_MIN, 2 * GROWN_BYTES_MIN] {
            let (mut buffer, mut room, mut pieces) = (PartBuffer::default(), 100, 0);
            while buffer.len() + piece.len() <= bytes_max {
                while room < buffer.len() + piece.len() {
                    room *= 2;
                }
                buffer.grow(room, bytes_max);
                buffer.extend_from_slice(&piece);
                pieces += 1;
            }
            let is_mapped = matches!(buffer.0, Memory::Mapped { .. });
            assert_eq!(is_mapped, room >= GROWN_BYTES_MIN, "{room} bytes");
            assert!(buffer.take() == piece.repeat(pieces), "{pieces} pieces");
        }
    }

    /// If the empty buffer kept a share, the memory would stay for as long as the upload waits.
    #[test]
    fn memory_goes_with_what_was_taken() {
        let mut buffer = PartBuffer::default();
        buffer.reserve(MAPPED_BYTES_MIN - 1);
        buffer.extend_from_slice(b"some");
        let taken = buffer.take();
        assert!(taken.is_unique(), "the buffer has a share of what was taken");
    }
}
