//! Room of the shared budget for the part that a [`Writer`] fills: taken as bytes arrive, and never
//! for more than the part will hold.

use super::{PARTS_AIM, Writer};
use crate::budget::BudgetReservation;
use crate::{Error, Result};

impl Writer {
    /// Refuses what can never be stored before any of it is.
    pub(super) fn check_room(&self, left: Option<u64>) -> Result<()> {
        let budget = self.core.upload_bytes.bytes_max();
        let parts_max = self.core.store.capabilities().parts.parts_max;
        let max_bytes = if self.part_bytes > budget {
            budget.saturating_mul(PARTS_AIM)
        } else {
            self.part_bytes.saturating_mul(parts_max)
        };
        if self.offset().saturating_add(left.unwrap_or_default()) > max_bytes {
            return Err(Error::BlobTooLarge { max_bytes });
        }
        Ok(())
    }

    /// Remembers how many bytes are still to come, if that is known. Room is taken when they are
    /// there: a client that sends nothing holds nothing.
    pub(super) fn expect(&mut self, left: Option<u64>) {
        self.end = left.map(|left| self.offset().saturating_add(left));
    }

    /// Waits until the shared budget has room for bytes that are at hand.
    pub(super) async fn reserve(&mut self) -> Result<()> {
        match self.reserved {
            Some(_) => self.grow().await,
            None => self.begin_room(self.buffer.len() as u64).await,
        }
    }

    /// What is reserved, in bytes.
    pub(super) fn reserved_bytes(&self) -> u64 {
        self.reserved.as_ref().map_or(0, BudgetReservation::bytes)
    }

    /// Takes room for a part of which so many bytes are stored already, and for what follows them.
    pub(super) async fn begin_room(&mut self, taken: u64) -> Result<()> {
        let (budget, target) = (&self.core.upload_bytes, self.target(taken));
        // A request that has sent a part fills another at once, where memory is plentiful: that spares
        // copies, and a mapping that was used before needs no new pages.
        if self.sent > self.saved.offset
            && let Some(reserved) = budget.try_take(target)
        {
            self.buffer.reserve(usize::try_from(target).unwrap_or_default());
            self.reserved = Some(reserved);
            return Ok(());
        }
        let reserved = budget.begin(taken, target).await?;
        self.make_room(reserved, target);
        Ok(())
    }

    /// How long the part will be of which so many bytes are there: a whole one, unless less is to
    /// come.
    fn target(&self, taken: u64) -> u64 {
        let left = self.end.map(|end| end.saturating_sub(self.offset()));
        let whole = left.map_or(self.part_bytes, |left| taken.saturating_add(left));
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
        let Some(mut reserved) = self.reserved.take() else { return Ok(()) };
        self.core.upload_bytes.grow(&mut reserved, target).await?;
        self.make_room(reserved, target);
        Ok(())
    }

    fn make_room(&mut self, reserved: BudgetReservation, target: u64) {
        let [bytes, target] =
            [reserved.bytes(), target].map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        self.buffer.grow(bytes, target);
        self.reserved = Some(reserved);
    }

    /// How much more fits the part.
    pub(super) fn part_room(&self) -> usize {
        let part_bytes = usize::try_from(self.part_bytes).unwrap_or(usize::MAX);
        part_bytes.saturating_sub(self.buffer.len())
    }

    /// How much more fits what is reserved of it.
    pub(super) fn room(&self) -> usize {
        let reserved = usize::try_from(self.reserved_bytes()).unwrap_or(usize::MAX);
        self.part_room().min(reserved.saturating_sub(self.buffer.len()))
    }
}
