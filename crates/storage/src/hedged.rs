//! [`HedgedStore`]: a slow small read is hedged: a second request is sent, and the first response counts.
//!
//! A bucket serves most reads soon, and a few of them much later for reasons that a second request
//! would not meet. *Slow* means more than 1.5 times the recent 95th percentile; that much more,
//! since at a bucket that is even, one of twenty is no outlier. Where the whole bucket is slow, a
//! second request would only add to its load; so there is never more than one such request for
//! every twenty reads.
//!
//! Both requests are sent after the reader came, so that either response shows every write that was
//! acknowledged before. Writes, listings and streams are never hedged.
//!
//! It belongs around a store whose requests travel, above what observes them (which sees each) and
//! below what shares them.

#![deny(clippy::missing_trait_methods)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{BoxFuture, Either, select};
use tokio::time::{Instant, timeout};

use crate::{ErrorKind, Key, Record, Result, Stat, Store, StoreObserver, forward_store};

/// No read is slow before this.
const DELAY_MIN: Duration = Duration::from_millis(20);

/// Every read is slow after this, and while too little is known of others.
const DELAY_MAX: Duration = Duration::from_secs(1);

/// How many latencies are kept, and how many are needed before reads are hedged.
const REMEMBERED_MAX: usize = 128;
const REMEMBERED_MIN: usize = 32;

/// After how many reads the delay is reckoned anew.
const RECKONED_EVERY: u64 = 16;

/// Number of reads for each that may be hedged.
const READS_PER_HEDGE: u64 = 20;

/// How many hedges can be saved up for a bad moment.
const SAVED_MAX: u64 = 10;

/// What became of a slow read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hedge {
    /// It was hedged, and the second request was faster.
    Won,
    /// It was hedged, and the first request was faster.
    Lost,
    /// It was not hedged: too many others were.
    Withheld,
}

/// A store whose slow reads of records are hedged.
#[derive(Debug)]
pub struct HedgedStore {
    inner: Arc<dyn Store>,
    observer: Arc<dyn StoreObserver>,
    pace: Mutex<HedgePace>,
}

impl HedgedStore {
    /// Hedges the reads of records of `inner`, and reports the outcome to `observer`.
    pub fn new(inner: Arc<dyn Store>, observer: Arc<dyn StoreObserver>) -> Self {
        Self { inner, observer, pace: Mutex::default() }
    }

    async fn hedged<'a, T>(&'a self, ask: impl Fn() -> BoxFuture<'a, Result<T>>) -> Result<T> {
        let started = Instant::now();
        let delay = self.pace().begin();
        let mut first = ask();
        let outcome = match timeout(delay, &mut first).await {
            Ok(outcome) => outcome,
            Err(_) if self.pace().spend() => {
                let (outcome, hedge) = race(first, ask()).await;
                self.observer.hedge(hedge);
                outcome
            }
            Err(_) => {
                self.observer.hedge(Hedge::Withheld);
                first.await
            }
        };
        if says_it(&outcome) {
            self.pace().note(started.elapsed());
        }
        outcome
    }

    fn pace(&self) -> MutexGuard<'_, HedgePace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first response that says what is there; a failure waits for the other.
async fn race<'a, T>(
    first: BoxFuture<'a, Result<T>>,
    second: BoxFuture<'a, Result<T>>,
) -> (Result<T>, Hedge) {
    match select(first, second).await {
        Either::Left((outcome, _)) if says_it(&outcome) => (outcome, Hedge::Lost),
        Either::Left((_, second)) => (second.await, Hedge::Won),
        Either::Right((outcome, _)) if says_it(&outcome) => (outcome, Hedge::Won),
        Either::Right((_, first)) => (first.await, Hedge::Lost),
    }
}

/// Whether a response is definite: the record, or its absence.
fn says_it<T>(outcome: &Result<T>) -> bool {
    match outcome {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::TooLarge),
    }
}

/// How fast the store is, and how many reads may still be hedged.
#[derive(Debug)]
struct HedgePace {
    latest: VecDeque<Duration>,
    noted: u64,
    delay: Duration,
    /// The reads for which no hedge was spent yet.
    saved: u64,
}

impl Default for HedgePace {
    fn default() -> Self {
        Self { latest: VecDeque::new(), noted: 0, delay: DELAY_MAX, saved: 0 }
    }
}

impl HedgePace {
    /// Counts a read, and says when it will be slow.
    fn begin(&mut self) -> Duration {
        self.saved = (self.saved + 1).min(SAVED_MAX * READS_PER_HEDGE);
        self.delay
    }

    /// Takes what one hedge costs, if it is there.
    fn spend(&mut self) -> bool {
        let rest = self.saved.checked_sub(READS_PER_HEDGE);
        self.saved = rest.unwrap_or(self.saved);
        rest.is_some()
    }

    fn note(&mut self, took: Duration) {
        if self.latest.len() == REMEMBERED_MAX {
            self.latest.pop_front();
        }
        self.latest.push_back(took);
        self.noted += 1;
        if self.latest.len() >= REMEMBERED_MIN && self.noted.is_multiple_of(RECKONED_EVERY) {
            let slow = self.usual() + self.usual() / 2;
            self.delay = slow.clamp(DELAY_MIN, DELAY_MAX);
        }
    }

    /// The 95th percentile of the latencies.
    fn usual(&self) -> Duration {
        let mut all: Vec<_> = self.latest.iter().copied().collect();
        let index = all.len() * 19 / 20;
        *all.select_nth_unstable(index).1
    }
}

#[async_trait]
impl Store for HedgedStore {
    forward_store! {
        inner:
        capabilities, health, clock, purge, read, put, put_after, delete, delete_many, list,
        create_multipart, resume_multipart, put_part, put_last_part, sync_parts, complete_multipart,
        abort_multipart, copy_in, staged_uploads, staged_file, file, presign,
    }

    async fn get(&self, key: &Key) -> Result<Record> {
        self.hedged(|| self.inner.get(key)).await
    }

    async fn head(&self, key: &Key) -> Result<Stat> {
        self.hedged(|| self.inner.head(key)).await
    }
}
