//! [`PartMemory`]: the part that is being filled, and its room in the budget that all uploads
//! share. Room is taken as bytes arrive, and never for more than the part will have.

use bytes::Bytes;

use super::PARTS_AIM;
use crate::budget::{BudgetReservation, MemoryBudget};
use crate::part_buffer::PartBuffer;
use crate::{Error, Result};

/// The part that is being filled.
#[derive(Debug)]
pub(super) struct PartMemory {
    budget: MemoryBudget,
    buffer: PartBuffer,
    /// `None` before the part has begun.
    reservation: Option<BudgetReservation>,
    part_bytes: u64,
    /// How many bytes of the body are still to come, if that is known.
    left: Option<u64>,
}

/// The bytes of a part. Its room is free again when this is dropped.
#[derive(Debug)]
pub(super) struct FilledPart {
    pub(super) bytes: Bytes,
    pub(super) reservation: Option<BudgetReservation>,
}

impl PartMemory {
    pub(super) fn new(budget: MemoryBudget, buffer: PartBuffer, part_bytes: u64) -> Self {
        Self { budget, buffer, reservation: None, part_bytes, left: None }
    }

    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Maximum number of bytes that a blob in parts of this size may have.
    pub(super) fn blob_bytes_max(&self, parts_max: u64) -> u64 {
        let budget = self.budget.bytes_max();
        if self.part_bytes > budget {
            return budget.saturating_mul(PARTS_AIM);
        }
        self.parts_bytes(parts_max)
    }

    /// How many bytes so many parts have.
    pub(super) fn parts_bytes(&self, parts: u64) -> u64 {
        self.part_bytes.saturating_mul(parts)
    }

    /// Records how many bytes are expected, if known. Memory is reserved when they arrive: a client
    /// that sends nothing reserves none.
    pub(super) fn expect(&mut self, left: Option<u64>) {
        self.left = left;
    }

    pub(super) fn has_begun(&self) -> bool {
        self.reservation.is_some()
    }

    pub(super) fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    pub(super) fn reserved_bytes(&self) -> u64 {
        self.reservation.as_ref().map_or(0, BudgetReservation::bytes)
    }

    /// Waits until the budget has room for bytes that are at hand. With `is_ahead`, a new part
    /// takes all its room at once where there is plenty.
    pub(super) async fn reserve(&mut self, is_ahead: bool) -> Result<()> {
        match self.reservation {
            Some(_) => self.grow().await,
            None => self.begin(self.buffer.len() as u64, is_ahead).await,
        }
    }

    /// Takes room for a part of which so many bytes are stored already, and for what follows them.
    pub(super) async fn begin(&mut self, taken: u64, is_ahead: bool) -> Result<()> {
        let target = self.target(taken);
        // That saves copies, and a reused mapping needs no new pages.
        if is_ahead && let Some(reserved) = self.budget.try_take(target) {
            self.buffer.reserve(usize::try_from(target).unwrap_or_default());
            self.reservation = Some(reserved);
            return Ok(());
        }
        let reserved = self.budget.begin(taken, target).await?;
        self.make_room(reserved, target);
        Ok(())
    }

    /// How long the part will be of which so many bytes are there: a whole one, unless less is to
    /// come.
    fn target(&self, taken: u64) -> u64 {
        let whole = self.left.map_or(self.part_bytes, |left| taken.saturating_add(left));
        self.part_bytes.min(whole)
    }

    /// Reserves more of the part if all that was reserved is full.
    async fn grow(&mut self) -> Result<()> {
        if self.room() > 0 || self.part_room() == 0 {
            return Ok(());
        }
        // At least one more byte is at hand.
        let taken = self.buffer.len() as u64;
        let target = self.target(taken).max(taken + 1);
        let Some(mut reserved) = self.reservation.take() else { return Ok(()) };
        self.budget.grow(&mut reserved, target).await?;
        self.make_room(reserved, target);
        Ok(())
    }

    fn make_room(&mut self, reserved: BudgetReservation, target: u64) {
        let [bytes, target] =
            [reserved.bytes(), target].map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        self.buffer.grow(bytes, target);
        self.reservation = Some(reserved);
    }

    /// How much more fits the part.
    pub(super) fn part_room(&self) -> usize {
        let part_bytes = usize::try_from(self.part_bytes).unwrap_or(usize::MAX);
        part_bytes.saturating_sub(self.buffer.len())
    }

    /// How much more fits what is reserved of it.
    fn room(&self) -> usize {
        let reserved = usize::try_from(self.reserved_bytes()).unwrap_or(usize::MAX);
        self.part_room().min(reserved.saturating_sub(self.buffer.len()))
    }

    /// Takes as much of a frame of the body as there is room for, and returns it.
    pub(super) fn collect(&mut self, frame: &mut Bytes) -> Bytes {
        let piece = frame.split_to(self.room().min(frame.len()));
        self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
        self.buffer.extend_from_slice(&piece);
        piece
    }

    /// Takes bytes that were stored before.
    pub(super) fn load(&mut self, stored: &[u8]) {
        self.buffer.extend_from_slice(stored);
    }

    /// How many bytes were copied into the buffer.
    #[cfg(test)]
    fn copied(&self) -> usize {
        self.buffer.copied()
    }

    pub(super) fn take(&mut self) -> FilledPart {
        FilledPart { bytes: self.buffer.take(), reservation: self.reservation.take() }
    }

    pub(super) fn clear(&mut self) {
        self.buffer.clear();
        self.reservation = None;
    }
}

/// Refuses a blob that can never be stored before any of it is.
pub(super) fn check_size(size_bytes: u64, max_bytes: u64) -> Result<()> {
    match size_bytes > max_bytes {
        true => Err(Error::BlobTooLarge { max_bytes }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::part_buffer::MappingPool;

    const KIB: usize = 1024;
    const MIB: usize = 1024 * KIB;

    /// The mappings of a push of 20 MiB in frames of 128 KiB, and how many bytes were copied more than
    /// once.
    async fn push(pool: &MappingPool, part_bytes: usize) -> (usize, usize) {
        let budget = MemoryBudget::new(256 * MIB as u64, 0, Duration::from_secs(30));
        let made = pool.made();
        let mut memory = PartMemory::new(budget, pool.buffer(), part_bytes as u64);
        let (mut left, mut is_ahead, mut copied) = (20 * MIB, false, 0);
        while left > 0 {
            let mut frame = Bytes::from(vec![1; 128 * KIB]);
            while !frame.is_empty() {
                if memory.part_room() == 0 {
                    copied += memory.copied();
                    memory.take();
                    is_ahead = true;
                }
                memory.expect(Some(left as u64));
                memory.reserve(is_ahead).await.unwrap();
                left -= memory.collect(&mut frame).len();
            }
        }
        copied += memory.copied();
        memory.take();
        (pool.made() - made, copied - 20 * MIB)
    }

    /// Each byte is copied once, from the frame in which it came to its part; while the first part is
    /// small, its bytes are copied again as it grows. A part is one mapping.
    #[tokio::test]
    async fn bytes_of_a_push_are_copied_once() {
        let pool = MappingPool::new(256 * MIB as u64);
        // The parts of S3.
        assert_eq!(push(&pool, 16 * MIB).await, (2, 640 * KIB));
        // Those of a folder.
        let first = push(&pool, 256 * KIB).await;
        assert_eq!((first, push(&pool, 256 * KIB).await), ((1, 64 * KIB), (0, 64 * KIB)));
    }
}
