//! [`MemoryBudget`]: memory that all request bodies of one kind share: those of uploads, or those of
//! manifests.
//!
//! A body reserves memory for bytes that have arrived, never for announced ones: a client that
//! sends nothing reserves nothing. It begins with a small share of what it may need (its target: a
//! part, or all of it if that is less) and multiplies it as bytes arrive.
//!
//! If all room went to bodies that are half full, none of them could ever be stored. So those that
//! still grow have no more than a quarter of the room together, and a body that gets no more of that
//! waits for the rest of its target: it is free as soon as those that have theirs have stored it,
//! and they wait for their client alone.
//!
//! - A small body has a lane of its own, which large ones never take.
//! - No wait is longer than `wait_max`: then the request is refused ([`Error::Busy`]).
//! - Waiting and refused requests are counted ([`BudgetUsage`]).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Error, Result};

/// The share of its target that a body begins with: 128 KiB of 16 MiB.
const FIRST_SHARE: u64 = 128;
/// The share of the room that a body begins with, if that is more: 64 KiB of 256 MiB, so that a
/// thousand bodies can begin.
const FIRST_ROOM_SHARE: u64 = 4096;
/// What is smaller grows by [`GROWTH_SMALL`], which copies less; the rest doubles.
const GROWTH_SMALL_BYTES_MAX: u64 = 1024 * 1024;
const GROWTH_SMALL: u64 = 4;
const GROWTH: u64 = 2;
/// The share of the room that bodies may have which still grow.
const GROWING_SHARE: usize = 4;
/// A body that is not larger may take room of the lane of small bodies.
const LANE_BODY_BYTES_MAX: u64 = 64 * 1024;
/// The lane's share of the room, where there is as much room as [`LANE_ROOM_BYTES_MIN`].
const LANE_SHARE: u64 = 16;
const LANE_ROOM_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// What stays free of the room divided by this when bodies reserve what they have not received.
const AHEAD_SHARE: u64 = 2;

/// The bytes of bodies that may be in memory.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    /// A permit for each byte.
    bytes: Arc<Semaphore>,
    /// A permit for each byte of bodies that still grow.
    growing: Arc<Semaphore>,
    /// A permit for each byte of the lane of small bodies.
    lane: Arc<Semaphore>,
    bytes_max: u64,
    growing_max: u64,
    first_bytes_min: u64,
    wait_max: Duration,
    counts: Arc<BudgetCounters>,
}

#[derive(Debug, Default)]
struct BudgetCounters {
    waiting: AtomicUsize,
    waits: AtomicU64,
    refused: AtomicU64,
}

/// How a [`MemoryBudget`] is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetUsage {
    /// Bytes that are free, those of the lane of small bodies among them.
    pub bytes_free: usize,
    /// Requests that wait for room now.
    pub waiting: usize,
    /// Requests that have waited for room since the start, those that were refused among them.
    pub waits: u64,
    /// Requests that were refused because no room was free in time.
    pub refused: u64,
}

/// Counts a request that waits, until it is dropped.
struct BudgetWaitGuard<'a>(&'a BudgetCounters);

impl<'a> BudgetWaitGuard<'a> {
    fn new(counts: &'a BudgetCounters) -> Self {
        counts.waiting.fetch_add(1, Ordering::Relaxed);
        counts.waits.fetch_add(1, Ordering::Relaxed);
        Self(counts)
    }
}

impl Drop for BudgetWaitGuard<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Room of a [`MemoryBudget`], until this is dropped.
#[derive(Debug)]
pub struct BudgetReservation {
    bytes: u64,
    /// A permit for each byte that is not of the lane; above 4 GiB, as many as one wait can take.
    permits: Option<OwnedSemaphorePermit>,
    /// What this takes of the share for bodies that still grow.
    growing: Option<OwnedSemaphorePermit>,
    lane: Option<OwnedSemaphorePermit>,
}

impl BudgetReservation {
    /// How many bytes are reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn add(&mut self, permits: OwnedSemaphorePermit, growing: Option<OwnedSemaphorePermit>) {
        self.permits = merged(self.permits.take(), Some(permits));
        self.growing = merged(self.growing.take(), growing);
    }
}

/// How much of a [`MemoryBudget`] is reserved for one body while its client is waited for, and whether
/// other requests are queued for room meanwhile. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ReservationGauge(Arc<GaugeState>);

#[derive(Debug, Default)]
struct GaugeState {
    budget: OnceLock<MemoryBudget>,
    bytes: AtomicU64,
    /// How many requests had waited at the last check.
    waits: AtomicU64,
}

impl ReservationGauge {
    /// Says that so many bytes are reserved now.
    pub fn set(&self, budget: &MemoryBudget, bytes: u64) {
        let of = self.0.budget.get_or_init(|| budget.clone());
        if self.0.bytes.swap(bytes, Ordering::Relaxed) != bytes {
            self.0.waits.store(of.counts.waits.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// How many bytes are reserved for which others are queued, or have been since the last call or
    /// the last change of the room; 0 if none has.
    pub fn contended_bytes(&self) -> u64 {
        let Some(budget) = self.0.budget.get() else { return 0 };
        let usage = budget.usage();
        let before = self.0.waits.swap(usage.waits, Ordering::Relaxed);
        if usage.waiting == 0 && usage.waits == before {
            return 0;
        }
        self.0.bytes.load(Ordering::Relaxed)
    }
}

fn merged(
    first: Option<OwnedSemaphorePermit>,
    second: Option<OwnedSemaphorePermit>,
) -> Option<OwnedSemaphorePermit> {
    match (first, second) {
        (Some(mut first), Some(second)) => {
            first.merge(second);
            Some(first)
        }
        (first, second) => first.or(second),
    }
}

impl MemoryBudget {
    /// Room for so many bytes, or as many as can be counted, for which no request waits longer than
    /// `wait_max`. A body of `body_bytes_max` fits, if it is not larger than all of it.
    pub fn new(bytes: u64, body_bytes_max: u64, wait_max: Duration) -> Self {
        let lane = bytes / LANE_SHARE;
        let has_lane = bytes >= LANE_ROOM_BYTES_MIN && bytes - lane >= body_bytes_max;
        let lane = if has_lane { lane } else { 0 };
        let permits = permit_count(bytes - lane);
        let growing = permits / GROWING_SHARE;
        Self {
            bytes: Arc::new(Semaphore::new(permits)),
            growing: Arc::new(Semaphore::new(growing)),
            lane: Arc::new(Semaphore::new(permit_count(lane))),
            bytes_max: permits as u64,
            growing_max: growing as u64,
            first_bytes_min: (bytes / FIRST_ROOM_SHARE).max(1),
            wait_max,
            counts: Arc::default(),
        }
    }

    /// How many bytes one body can have: no part may be larger.
    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// How it is used.
    pub fn usage(&self) -> BudgetUsage {
        let counts = &self.counts;
        BudgetUsage {
            bytes_free: self.bytes.available_permits() + self.lane.available_permits(),
            waiting: counts.waiting.load(Ordering::Relaxed),
            waits: counts.waits.load(Ordering::Relaxed),
            refused: counts.refused.load(Ordering::Relaxed),
        }
    }

    /// Waits for so many bytes. A request that has them needs no more to store them.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if there will never be as many, or are not in time.
    pub async fn take(&self, bytes: u64) -> Result<BudgetReservation> {
        let bytes_max = self.bytes_max;
        if bytes > bytes_max {
            // Waiting for more than there will ever be would also keep all others waiting.
            return Err(Error::Busy { what: "this instance has no room for a part of the upload" });
        }
        if let Some(lane) = self.try_lane(bytes) {
            return Ok(lane);
        }
        // More than the others' share is only ever free if less grows.
        let growing = match bytes.saturating_sub(bytes_max - self.growing_max) {
            0 => None,
            over => Some(self.acquire(&self.growing, over).await?),
        };
        let permits = Some(self.acquire(&self.bytes, bytes).await?);
        Ok(BudgetReservation { bytes, permits, growing, lane: None })
    }

    /// So many bytes at once, as long as no request waits for room and half of it stays free.
    pub(crate) fn try_take(&self, bytes: u64) -> Option<BudgetReservation> {
        let free = self.bytes.available_permits() as u64;
        let is_waited_for = self.counts.waiting.load(Ordering::Relaxed) > 0;
        if is_waited_for || free < bytes.saturating_add(self.bytes_max / AHEAD_SHARE) {
            return None;
        }
        let permits = u32::try_from(bytes).ok()?;
        let permits = Arc::clone(&self.bytes).try_acquire_many_owned(permits).ok()?;
        Some(BudgetReservation { bytes, permits: Some(permits), growing: None, lane: None })
    }

    /// Room for the first `taken` bytes of `target`, and some more: without waiting if there is
    /// some, and otherwise for all of the target.
    ///
    /// # Errors
    ///
    /// As [`MemoryBudget::take`].
    pub async fn begin(&self, taken: u64, target: u64) -> Result<BudgetReservation> {
        let share = (target / FIRST_SHARE).max(self.first_bytes_min);
        let first = target.min(taken.saturating_add(share));
        if first == target {
            return self.take(target).await;
        }
        if let Some((permits, growing)) = self.try_grow(first, target) {
            let (permits, growing) = (Some(permits), Some(growing));
            return Ok(BudgetReservation { bytes: first, permits, growing, lane: None });
        }
        match self.try_lane(first.min(LANE_BODY_BYTES_MAX).max(taken)) {
            Some(lane) => Ok(lane),
            None => self.take(target).await,
        }
    }

    /// Grows a reservation: without waiting if there is room, and otherwise by waiting for the rest
    /// of the target.
    ///
    /// # Errors
    ///
    /// As [`MemoryBudget::take`].
    pub async fn grow(&self, reserved: &mut BudgetReservation, target: u64) -> Result<()> {
        let bytes = reserved.bytes();
        let left = target.saturating_sub(bytes);
        let growth = if bytes < GROWTH_SMALL_BYTES_MAX { GROWTH_SMALL } else { GROWTH };
        let more = left.min(bytes.saturating_mul(growth - 1));
        let is_growing = reserved.growing.is_some() || reserved.lane.is_some();
        if is_growing && let Some((permits, growing)) = self.try_grow(more, target) {
            reserved.add(permits, Some(growing));
            reserved.bytes += more;
        } else {
            reserved.add(self.acquire(&self.bytes, left).await?, None);
            reserved.growing = None;
            reserved.bytes += left;
        }
        Ok(())
    }

    /// Room of the lane of small bodies, if the body is one and there is some.
    fn try_lane(&self, bytes: u64) -> Option<BudgetReservation> {
        let permits = u32::try_from(bytes).ok().filter(|_| bytes <= LANE_BODY_BYTES_MAX)?;
        let lane = Arc::clone(&self.lane).try_acquire_many_owned(permits).ok()?;
        Some(BudgetReservation { bytes, permits: None, growing: None, lane: Some(lane) })
    }

    /// Room for a body that will want more: none if its target could not be waited for then.
    fn try_grow(
        &self,
        bytes: u64,
        target: u64,
    ) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        // One permit could not count all of the target.
        if target > (self.bytes_max - self.growing_max).min(u32::MAX.into()) {
            return None;
        }
        let permits = u32::try_from(bytes).ok()?;
        let growing = Arc::clone(&self.growing).try_acquire_many_owned(permits).ok()?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(permits).ok()?;
        Some((bytes, growing))
    }

    async fn acquire(&self, permits: &Arc<Semaphore>, bytes: u64) -> Result<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Ok(permits) = Arc::clone(permits).try_acquire_many_owned(bytes) {
            return Ok(permits);
        }
        let _waiting = BudgetWaitGuard::new(&self.counts);
        let waiting = Arc::clone(permits).acquire_many_owned(bytes);
        match tokio::time::timeout(self.wait_max, waiting).await {
            Ok(permits) => permits.map_err(|_| Error::Stopped),
            Err(_) => {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                Err(Error::Busy { what: "other requests have all the memory that bodies share" })
            }
        }
    }
}

fn permit_count(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::FutureExt;

    use super::*;

    const PART: u64 = 128;
    const MIB: u64 = 1024 * 1024;
    const WAIT_MAX: Duration = Duration::from_secs(30);

    fn budget(bytes: u64) -> MemoryBudget {
        MemoryBudget::new(bytes, 0, WAIT_MAX)
    }

    #[tokio::test]
    async fn what_grows_multiplies_up_to_a_part() {
        let budget = budget(8 * PART);
        let mut reserved = budget.begin(2, PART).await.unwrap();
        let mut sizes = vec![reserved.bytes()];
        while reserved.bytes() < PART {
            budget.grow(&mut reserved, PART).await.unwrap();
            sizes.push(reserved.bytes());
        }
        assert_eq!(sizes, [3, 12, 48, PART]);
        drop(reserved);
        assert_eq!(budget.usage().bytes_free as u64, 8 * PART);
        assert_eq!(budget.growing.available_permits() as u64, 2 * PART);
    }

    /// An idle upload of 16 MiB held 16 MiB: 16 of them stopped every push.
    #[tokio::test]
    async fn fixed_bodies_that_have_just_begun_leave_room_for_a_thousand_others() {
        let budget = budget(256 * MIB);
        let mut idle = Vec::new();
        for _ in 0..512 {
            idle.push(budget.begin(0, 16 * MIB).await.unwrap());
        }
        assert!(idle.iter().map(BudgetReservation::bytes).sum::<u64>() <= 64 * MIB);
        let part = budget.take(16 * MIB).now_or_never().expect("it waits").unwrap();
        assert_eq!((part.bytes(), budget.usage().waits), (16 * MIB, 0));
    }

    #[tokio::test]
    async fn small_bodies_do_not_wait_for_large_ones() {
        let budget = budget(256 * MIB);
        let _large = budget.take(budget.bytes_max()).await.unwrap();
        let small = budget.take(1024).now_or_never().expect("it waits").unwrap();
        let stream = budget.begin(0, 16 * MIB).now_or_never().expect("it waits").unwrap();
        assert_eq!((small.bytes(), stream.bytes()), (1024, LANE_BODY_BYTES_MAX));
        assert!(budget.take(LANE_BODY_BYTES_MAX + 1).now_or_never().is_none());
        drop((small, stream));
        assert_eq!(budget.usage().bytes_free as u64, 256 * MIB - budget.bytes_max());
    }

    #[tokio::test(start_paused = true)]
    async fn waits_are_bounded_and_counted() {
        let budget = budget(2 * PART);
        let all = budget.take(2 * PART).await.unwrap();
        let mut second = Box::pin(budget.take(1));
        assert!((&mut second).now_or_never().is_none());
        let usage = BudgetUsage { bytes_free: 0, waiting: 1, waits: 1, refused: 0 };
        assert_eq!(budget.usage(), usage);
        let began = tokio::time::Instant::now();
        assert!(matches!(second.await, Err(Error::Busy { .. })));
        assert_eq!(began.elapsed().as_secs(), WAIT_MAX.as_secs());
        assert_eq!(budget.usage(), BudgetUsage { waiting: 0, refused: 1, ..usage });
        drop(all);
        assert!(budget.take(2 * PART).now_or_never().expect("room was lost").is_ok());
    }

    /// Parts are larger for a blob of which it is known that it is huge.
    #[tokio::test]
    async fn part_of_all_the_room_waits_for_what_grows_and_not_the_other_way() {
        let budget = budget(2 * PART);
        let mut first = budget.begin(0, PART).await.unwrap();
        let mut second = budget.begin(PART / 4, PART).await.unwrap();
        let mut all = Box::pin(budget.take(2 * PART));
        assert!((&mut all).now_or_never().is_none());
        budget.grow(&mut second, PART).now_or_never().expect("it waits for all").unwrap();
        drop(second);
        budget.grow(&mut first, PART).now_or_never().expect("it waits for all").unwrap();
        drop(first);
        let all = all.now_or_never().expect("none is reserved").unwrap();
        assert_eq!((all.bytes(), budget.usage().bytes_free), (2 * PART, 0));
    }

    /// Parts may be 5 GiB, and a permit counts to 4.
    #[tokio::test]
    async fn part_that_no_permit_can_count_is_reserved_as_a_whole() {
        const GIB: u64 = 1 << 30;
        let budget = budget(16 * GIB);
        let reserved = budget.take(5 * GIB).await.unwrap();
        assert_eq!(reserved.bytes(), 5 * GIB);
        drop(reserved);
        assert_eq!(budget.usage().bytes_free as u64, 16 * GIB);
    }

    #[tokio::test]
    async fn half_of_the_room_is_for_what_has_arrived() {
        let budget = budget(8 * PART);
        let ahead: Vec<_> = std::iter::from_fn(|| budget.try_take(PART)).collect();
        assert_eq!(ahead.len(), 4);
        let all = budget.take(4 * PART).await.unwrap();
        drop(ahead);
        assert!(budget.take(5 * PART).now_or_never().is_none(), "it only begins to wait");
        let mut waiting = Box::pin(budget.take(5 * PART));
        assert!((&mut waiting).now_or_never().is_none());
        drop(all);
        assert!(budget.try_take(1).is_none(), "others wait");
    }

    #[tokio::test]
    async fn what_a_body_holds_is_contended_once_others_wait() {
        let budget = budget(2 * PART);
        let holding = ReservationGauge::default();
        assert_eq!(holding.contended_bytes(), 0);
        let all = budget.take(2 * PART).await.unwrap();
        holding.set(&budget, all.bytes());
        assert_eq!(holding.contended_bytes(), 0);
        let mut second = Box::pin(budget.take(1));
        assert!((&mut second).now_or_never().is_none());
        assert_eq!(holding.contended_bytes(), 2 * PART);
        assert_eq!(holding.contended_bytes(), 2 * PART, "it still waits");
        drop(second);
        assert_eq!(holding.contended_bytes(), 0);
        assert!(budget.take(1).now_or_never().is_none());
        assert_eq!(holding.contended_bytes(), 2 * PART, "it waited in between");
        assert!(budget.take(1).now_or_never().is_none());
        holding.set(&budget, PART);
        assert_eq!(holding.contended_bytes(), 0, "before the room changed");
    }

    #[tokio::test]
    async fn nothing_grows_where_there_is_room_for_one_part() {
        let budget = budget(PART);
        let reserved = budget.begin(0, PART).await.unwrap();
        assert_eq!(reserved.bytes(), PART);
        let refused = budget.begin(0, PART + 1).await.map(|_| ());
        assert!(matches!(refused, Err(Error::Busy { .. })), "{refused:?}");
    }
}
