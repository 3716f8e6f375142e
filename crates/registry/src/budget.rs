//! [`Budget`]: the memory that all uploads of a process share.
//!
//! An upload that knows how much will come reserves it, up to a part, before it reads the first
//! byte. One that does not begins with a small share of a part and doubles it as bytes come: most
//! streams are short, and a whole part for each would keep nearly all of them waiting.
//!
//! If all room went to parts that are half full, none of them could ever be sent. So those that
//! still grow have no more than half of the room together, and whoever gets no more of that waits
//! for the rest of a whole part: it is there as soon as those that have one have sent it, and they
//! wait for nothing.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Error, Result};

/// The share of a part that a stream of unknown length begins with: 128 KiB of 16 MiB.
const FIRST_SHARE: u64 = 128;

/// The bytes of uploads that may be in memory.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    /// A permit for each byte.
    bytes: Arc<Semaphore>,
    /// A permit for each byte that uploads may hold which will want more.
    growing: Arc<Semaphore>,
    bytes_max: u64,
    growing_max: u64,
}

/// Some of it, until this is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    bytes: u64,
    /// A permit for each of them; of a part above 4 GiB, for as many as can be asked for at once.
    permits: OwnedSemaphorePermit,
    /// What this takes of the half for those that will want more.
    growing: Option<OwnedSemaphorePermit>,
}

impl Reserved {
    /// How many bytes are reserved.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Budget {
    /// Room for so many bytes, or as many as can be counted.
    pub(crate) fn new(bytes: u64) -> Self {
        let permits = usize::try_from(bytes).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let growing = permits / 2;
        Self {
            bytes: Arc::new(Semaphore::new(permits)),
            growing: Arc::new(Semaphore::new(growing)),
            bytes_max: permits as u64,
            growing_max: growing as u64,
        }
    }

    /// How many bytes there are: no part may be larger.
    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// How many bytes nobody has reserved.
    pub(crate) fn bytes_free(&self) -> usize {
        self.bytes.available_permits()
    }

    /// Waits for so many bytes. Whoever has them needs no more to get rid of them.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if there will never be as many.
    pub(crate) async fn take(&self, bytes: u64) -> Result<Reserved> {
        let bytes_max = self.bytes_max;
        if bytes > bytes_max {
            // Waiting for more than there will ever be would also keep all others waiting.
            return Err(Error::Busy { what: "this instance has no room for a part of the upload" });
        }
        // More than the others' half is only ever free if less grows.
        let growing = match bytes.saturating_sub(bytes_max - self.growing_max) {
            0 => None,
            over => Some(wait(&self.growing, over).await?),
        };
        Ok(Reserved { bytes, permits: wait(&self.bytes, bytes).await?, growing })
    }

    /// Some bytes after the first `taken`, which may become a part: without waiting if there are
    /// some, and otherwise the whole part.
    ///
    /// # Errors
    ///
    /// As [`Budget::take`].
    pub(crate) async fn begin(&self, taken: u64, part_bytes: u64) -> Result<Reserved> {
        let first = part_bytes.min(taken + (part_bytes / FIRST_SHARE).max(1));
        match self.grown(first, part_bytes) {
            Some((permits, growing)) => {
                Ok(Reserved { bytes: first, permits, growing: Some(growing) })
            }
            None => self.take(part_bytes).await,
        }
    }

    /// Makes what was begun twice as large: without waiting if there is room for that, and
    /// otherwise by waiting for the whole part.
    ///
    /// # Errors
    ///
    /// As [`Budget::take`].
    pub(crate) async fn grow(&self, reserved: &mut Reserved, part_bytes: u64) -> Result<()> {
        let left = part_bytes.saturating_sub(reserved.bytes());
        let more = left.min(reserved.bytes());
        if let Some(growing) = &mut reserved.growing
            && let Some((permits, also_growing)) = self.grown(more, part_bytes)
        {
            reserved.permits.merge(permits);
            growing.merge(also_growing);
            reserved.bytes += more;
        } else {
            reserved.permits.merge(wait(&self.bytes, left).await?);
            reserved.growing = None;
            reserved.bytes += left;
        }
        Ok(())
    }

    /// Room for one that will want more: none if its part could not be waited for then.
    fn grown(
        &self,
        bytes: u64,
        part_bytes: u64,
    ) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        // One permit could not count all of the part.
        if part_bytes > self.growing_max.min(u32::MAX.into()) {
            return None;
        }
        let permits = u32::try_from(bytes).ok()?;
        let growing = Arc::clone(&self.growing).try_acquire_many_owned(permits).ok()?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(permits).ok()?;
        Some((bytes, growing))
    }
}

async fn wait(permits: &Arc<Semaphore>, bytes: u64) -> Result<OwnedSemaphorePermit> {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    Arc::clone(permits).acquire_many_owned(bytes).await.map_err(|_| Error::Stopped)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::FutureExt;

    use super::*;

    const PART: u64 = 128;

    #[tokio::test]
    async fn what_grows_doubles_up_to_a_part() {
        let budget = Budget::new(2 * PART);
        let mut reserved = budget.begin(2, PART).await.unwrap();
        let mut sizes = vec![reserved.bytes()];
        while reserved.bytes() < PART {
            budget.grow(&mut reserved, PART).await.unwrap();
            sizes.push(reserved.bytes());
        }
        assert_eq!(sizes, [3, 6, 12, 24, 48, 96, PART]);
        drop(reserved);
        assert_eq!(budget.bytes_free() as u64, 2 * PART);
        assert_eq!(budget.growing.available_permits() as u64, PART);
    }

    /// Parts are larger for a blob of which it is known that it is huge.
    #[tokio::test]
    async fn part_of_all_the_room_waits_for_what_grows_and_not_the_other_way() {
        let budget = Budget::new(2 * PART);
        let mut first = budget.begin(0, PART).await.unwrap();
        let mut second = budget.begin(PART / 2, PART).await.unwrap();
        let mut all = Box::pin(budget.take(2 * PART));
        assert!((&mut all).now_or_never().is_none());
        budget.grow(&mut second, PART).now_or_never().expect("it waits for all").unwrap();
        drop(second);
        budget.grow(&mut first, PART).now_or_never().expect("it waits for all").unwrap();
        drop(first);
        let all = all.now_or_never().expect("nobody has any").unwrap();
        assert_eq!((all.bytes(), budget.bytes_free()), (2 * PART, 0));
    }

    /// Parts may be 5 GiB, and a permit counts to 4.
    #[tokio::test]
    async fn part_that_no_permit_can_count_is_reserved_as_a_whole() {
        const GIB: u64 = 1 << 30;
        let budget = Budget::new(16 * GIB);
        let reserved = budget.begin(0, 5 * GIB).await.unwrap();
        assert_eq!(reserved.bytes(), 5 * GIB);
        drop(reserved);
        assert_eq!(budget.bytes_free() as u64, 16 * GIB);
    }

    #[tokio::test]
    async fn nothing_grows_where_there_is_room_for_one_part() {
        let budget = Budget::new(PART);
        let reserved = budget.begin(0, PART).await.unwrap();
        assert_eq!(reserved.bytes(), PART);
        let refused = budget.begin(0, PART + 1).await.map(|_| ());
        assert!(matches!(refused, Err(Error::Busy { .. })), "{refused:?}");
    }
}
