//! [`PartBuffer`]: the memory that a part of an upload is collected in.
//!
//! A part is large and lives for as long as its request to the store. The C library would keep
//! the memory of such blocks for later ones, in pieces that fit badly: with many uploads, a
//! process then takes twice the budget that they share. So a part has a mapping of its own.
//!
//! New pages cost a fault each, a fifth of the processor time of a blob of 1 MiB. So the mapping of a
//! part that is stored serves the next one of its size, as long as others are in use; with the last
//! of them, the system has all of it back but what one upload to a folder needs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use memmap2::{MmapMut, MmapOptions};

/// Smaller buffers come from the heap: a mapping is whole pages, and a system call.
const MAPPED_BYTES_MIN: usize = 256 * 1024;

/// From this size on a growing buffer is a mapping of its maximum size. Below it the system might
/// commit more than was reserved, as it has pages of this size.
const GROWN_BYTES_MIN: usize = 2 * 1024 * 1024;

/// How many bytes of mappings wait for the next part, beside those in use, at most.
const SPARE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How many of them stay when no part is in use: one client that pushes to a folder alone would take new
/// pages for each blob. It has four parts of 256 KiB in flight, and fills another.
const IDLE_BYTES_MAX: usize = 5 * 256 * 1024;
/// They are at most the budget of the uploads divided by this.
const SPARE_SHARE: u64 = 8;

/// The mappings of a process's uploads.
#[derive(Clone, Debug)]
pub(crate) struct MappingPool(Arc<Mutex<SpareMappings>>);

#[derive(Debug, Default)]
struct SpareMappings {
    /// How many mappings parts have now.
    in_use: usize,
    /// The oldest first.
    spare: VecDeque<MmapMut>,
    /// The sizes of those together.
    spare_bytes: usize,
    spare_bytes_max: usize,
    /// How many mappings were made.
    #[cfg(test)]
    made: usize,
}

/// A mapping in use, which is unused afterwards.
#[derive(Debug)]
struct PooledMapping {
    /// `None` only while it is dropped.
    map: Option<MmapMut>,
    mappings: MappingPool,
}

impl MappingPool {
    /// Those of uploads that may have so many bytes in memory.
    pub(crate) fn new(budget_bytes: u64) -> Self {
        let spare_bytes_max = SPARE_BYTES_MAX.min(budget_bytes / SPARE_SHARE);
        let spare_bytes_max = usize::try_from(spare_bytes_max).unwrap_or(usize::MAX);
        Self(Arc::new(Mutex::new(SpareMappings { spare_bytes_max, ..SpareMappings::default() })))
    }

    pub(crate) fn buffer(&self) -> PartBuffer {
        PartBuffer {
            memory: BufferMemory::default(),
            mappings: self.clone(),
            #[cfg(test)]
            copied: 0,
        }
    }

    /// How many mappings were made.
    #[cfg(test)]
    pub(crate) fn made(&self) -> usize {
        self.lock().made
    }

    fn lock(&self) -> MutexGuard<'_, SpareMappings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A mapping of so many bytes, all of which may be in memory already, if the system gives one.
    /// Its content is undefined.
    fn map(&self, bytes: usize) -> Option<PooledMapping> {
        let spare = self.lock().take(bytes);
        match spare {
            Some(map) => Some(PooledMapping { map: Some(map), mappings: self.clone() }),
            None => self.map_new(bytes),
        }
    }

    /// A mapping of which no more is in memory than was written to, if the system gives one.
    fn map_new(&self, bytes: usize) -> Option<PooledMapping> {
        let map = MmapOptions::new().len(bytes).map_anon().ok()?;
        let mut mappings = self.lock();
        mappings.in_use += 1;
        #[cfg(test)]
        (mappings.made += 1);
        drop(mappings);
        Some(PooledMapping { map: Some(map), mappings: self.clone() })
    }
}

impl SpareMappings {
    fn take(&mut self, bytes: usize) -> Option<MmapMut> {
        // A larger one would take more memory than was reserved.
        let at = self.spare.iter().rposition(|map| map.len() == bytes)?;
        let map = self.spare.remove(at)?;
        self.spare_bytes -= map.len();
        self.in_use += 1;
        Some(map)
    }

    /// Takes back a mapping that was in use; what this returns is to be dropped.
    fn give_back(&mut self, map: MmapMut) -> Vec<MmapMut> {
        self.in_use -= 1;
        let mut dropped = Vec::new();
        // What could never be kept does not drive out the others.
        if map.len() > self.spare_bytes_max {
            dropped.push(map);
        } else {
            self.spare_bytes += map.len();
            self.spare.push_back(map);
        }
        let bytes_max = match self.in_use {
            0 => self.spare_bytes_max.min(IDLE_BYTES_MAX),
            _ => self.spare_bytes_max,
        };
        while self.spare_bytes > bytes_max
            && let Some(oldest) = self.spare.pop_front()
        {
            self.spare_bytes -= oldest.len();
            dropped.push(oldest);
        }
        dropped
    }
}

impl Drop for PooledMapping {
    fn drop(&mut self) {
        let Some(map) = self.map.take() else { return };
        // The lock is not held while the system unmaps it.
        let dropped = self.mappings.lock().give_back(map);
        drop(dropped);
    }
}

impl AsRef<[u8]> for PooledMapping {
    fn as_ref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl AsMut<[u8]> for PooledMapping {
    fn as_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or_default()
    }
}

/// Bytes that are gathered into one buffer.
#[derive(Debug)]
pub(crate) struct PartBuffer {
    memory: BufferMemory,
    mappings: MappingPool,
    /// How many bytes were copied into it since it was empty.
    #[cfg(test)]
    copied: usize,
}

#[derive(Debug)]
enum BufferMemory {
    Heap(BytesMut),
    Mapped { map: PooledMapping, len: usize },
}

impl Default for BufferMemory {
    fn default() -> Self {
        Self::Heap(BytesMut::new())
    }
}

impl PartBuffer {
    /// Makes room for so many bytes. More can be put in, at the price of a copy.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        if self.is_empty() && bytes >= MAPPED_BYTES_MIN {
            self.move_to(self.mappings.map(bytes));
        }
        if let BufferMemory::Heap(heap) = &mut self.memory {
            heap.reserve(bytes);
        }
    }

    /// Makes room for so many bytes in all, of what may become `bytes_max`.
    pub(crate) fn grow(&mut self, bytes: usize, bytes_max: usize) {
        if matches!(self.memory, BufferMemory::Heap(_)) {
            if bytes >= bytes_max.max(MAPPED_BYTES_MIN) {
                // All of it is reserved, so all of it may be in memory.
                self.move_to(self.mappings.map(bytes));
            } else if bytes >= GROWN_BYTES_MIN {
                self.move_to(self.mappings.map_new(bytes_max.max(self.len())));
            }
        }
        if let BufferMemory::Heap(heap) = &mut self.memory {
            // A heap that grows is copied, as it is mostly not the last block.
            #[cfg(test)]
            (self.copied += if heap.capacity() < bytes { heap.len() } else { 0 });
            heap.reserve(bytes.saturating_sub(heap.len()));
        }
    }

    /// Moves what there is into a mapping, if the system gave one.
    fn move_to(&mut self, map: Option<PooledMapping>) {
        let Some(map) = map else { return };
        let before = std::mem::replace(&mut self.memory, BufferMemory::Mapped { map, len: 0 });
        if let BufferMemory::Heap(heap) = before {
            self.extend_from_slice(&heap);
        }
    }

    pub(crate) fn len(&self) -> usize {
        match &self.memory {
            BufferMemory::Heap(heap) => heap.len(),
            BufferMemory::Mapped { len, .. } => *len,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[cfg(test)]
    pub(crate) fn copied(&self) -> usize {
        self.copied
    }

    pub(crate) fn extend_from_slice(&mut self, piece: &[u8]) {
        #[cfg(test)]
        (self.copied += piece.len());
        match &mut self.memory {
            BufferMemory::Heap(heap) => heap.extend_from_slice(piece),
            BufferMemory::Mapped { map, len } => {
                let end = *len + piece.len();
                if let Some(room) = map.as_mut().get_mut(*len..end) {
                    room.copy_from_slice(piece);
                    *len = end;
                } else {
                    let mut heap = BytesMut::with_capacity(end);
                    heap.extend_from_slice(&map.as_ref()[..*len]);
                    heap.extend_from_slice(piece);
                    self.memory = BufferMemory::Heap(heap);
                }
            }
        }
    }

    /// Drops the gathered bytes.
    pub(crate) fn clear(&mut self) {
        self.memory = BufferMemory::default();
    }

    /// The gathered bytes, which from now on own their memory alone.
    pub(crate) fn take(&mut self) -> Bytes {
        #[cfg(test)]
        (self.copied = 0);
        match std::mem::take(&mut self.memory) {
            BufferMemory::Heap(heap) => heap.freeze(),
            BufferMemory::Mapped { map, len } => Bytes::from_owner(map).slice(..len),
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
                let mut buffer = mappings().buffer();
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
            let (mut buffer, mut room, mut pieces) = (mappings().buffer(), 100, 0);
            while buffer.len() + piece.len() <= bytes_max {
                while room < buffer.len() + piece.len() {
                    room *= 2;
                }
                buffer.grow(room, bytes_max);
                buffer.extend_from_slice(&piece);
                pieces += 1;
            }
            let is_mapped = matches!(buffer.memory, BufferMemory::Mapped { .. });
            assert_eq!(is_mapped, room >= GROWN_BYTES_MIN, "{room} bytes");
            assert!(buffer.take() == piece.repeat(pieces), "{pieces} pieces");
        }
    }

    const MIB: usize = 1024 * 1024;

    fn mappings() -> MappingPool {
        MappingPool::new(256 * MIB as u64)
    }

    /// The mappings in use, and the sizes of those that wait.
    fn counts(mappings: &MappingPool) -> (usize, Vec<usize>) {
        let spares = mappings.lock();
        assert_eq!(spares.spare_bytes, spares.spare.iter().map(|map| map.len()).sum::<usize>());
        (spares.in_use, spares.spare.iter().map(|map| map.len()).collect())
    }

    fn full(mappings: &MappingPool, bytes: usize, with: u8) -> Bytes {
        let mut buffer = mappings.buffer();
        buffer.reserve(bytes);
        buffer.extend_from_slice(&vec![with; bytes]);
        buffer.take()
    }

    #[test]
    fn a_mapping_serves_the_next_part_of_its_size_while_others_are_in_use() {
        let mappings = mappings();
        let stays = full(&mappings, MIB, 1);
        let first = full(&mappings, MIB, 2);
        let place = first.as_ptr();
        drop(first);
        assert_eq!(counts(&mappings), (1, vec![MIB]));
        // A smaller part takes no more memory than it reserved.
        let others = [full(&mappings, MIB + 1, 4), full(&mappings, MIB - 1, 5)];
        assert_eq!(counts(&mappings), (3, vec![MIB]));
        let mut second = mappings.buffer();
        second.reserve(MIB);
        second.extend_from_slice(&[3; 100]);
        let second = second.take();
        assert_eq!((second.as_ptr(), &second[..]), (place, &[3; 100][..]), "and no more is seen");
        drop((second, others));
        assert_eq!(counts(&mappings), (1, vec![MIB, MIB + 1, MIB - 1]));
        assert!(stays.iter().all(|byte| *byte == 1));
        drop(stays);
        assert_eq!(counts(&mappings), (0, vec![MIB]), "the last alone is as large as may stay");
    }

    #[test]
    fn no_more_is_kept_than_allowed_and_the_latest_of_it() {
        let mappings = mappings();
        let stays = full(&mappings, MAPPED_BYTES_MIN, 1);
        let parts: Vec<_> = (0..6).map(|_| full(&mappings, 4 * MIB, 2)).collect();
        drop(parts);
        assert_eq!(counts(&mappings), (1, vec![4 * MIB; 4]));
        drop(full(&mappings, 16 * MIB + 1, 3));
        assert_eq!(counts(&mappings), (1, vec![4 * MIB; 4]));
        drop(full(&mappings, 7 * MIB, 3));
        assert_eq!(counts(&mappings), (1, vec![4 * MIB, 4 * MIB, 7 * MIB]));
        drop(stays);
        assert_eq!(counts(&mappings), (0, vec![MAPPED_BYTES_MIN]));
    }

    #[test]
    fn of_a_small_budget_little_is_kept() {
        let mappings = MappingPool::new(8 * MIB as u64);
        let _stays = full(&mappings, MAPPED_BYTES_MIN, 1);
        let parts = [full(&mappings, MIB, 2), full(&mappings, MIB, 2)];
        drop(parts);
        assert_eq!(counts(&mappings), (1, vec![MIB]));
    }

    /// If the empty buffer kept a share, the memory would stay for as long as the upload waits.
    #[test]
    fn memory_is_freed_with_the_taken_bytes() {
        let mut buffer = mappings().buffer();
        buffer.reserve(MAPPED_BYTES_MIN - 1);
        buffer.extend_from_slice(b"some");
        let taken = buffer.take();
        assert!(taken.is_unique(), "the buffer has a share of what was taken");
    }
}
