//! [`CoalescedStore`]: concurrent reads of one record share a few requests.
//!
//! A reader must see every write that was acknowledged before it started, so it may not share a
//! request that was sent before: the store may have processed that one already. Readers therefore
//! only share a request that is still to be sent. The first reader of a key sends its own at once.
//! Readers that arrive while it is in flight gather, and one request is sent for all of them when
//! that one ends, or earlier, when the first of them has waited long enough: a request that hangs
//! does not delay later readers.
//!
//! Only [`Store::get`] is shared. It belongs around a store whose requests travel, above retries
//! and observers.

#![deny(clippy::missing_trait_methods)]

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::{Key, Record, Result, Store, forward_store};

/// Default of the longest time that a reader waits for others: less than a request
/// to a bucket takes, so that sharing never costs as much as a second one would.
pub const GATHER_MAX: Duration = Duration::from_millis(10);

/// How many locks the keys are spread over.
const SHARDS: usize = 64;

/// One request for all readers that wait for it.
type SharedRead = BoxFuture<'static, Result<Record>>;

/// A store whose concurrent reads of one record share requests.
#[derive(Debug)]
pub struct CoalescedStore {
    inner: Arc<dyn Store>,
    traffic: Arc<ReadTraffic>,
    gather_max: Duration,
}

impl CoalescedStore {
    /// Shares reads of `inner`. Readers gather for `gather_max` at most.
    pub fn new(inner: Arc<dyn Store>, gather_max: Duration) -> Self {
        Self { inner, traffic: Arc::default(), gather_max }
    }

    /// Admits a reader.
    fn admit(&self, key: &Key) -> Admission {
        let mut keys = self.traffic.shard(key);
        let number = self.traffic.requests.fetch_add(1, Ordering::Relaxed);
        let Some(busy) = keys.get_mut(key) else {
            let (ended, sent) = watch::channel(());
            keys.insert(key.clone(), KeyTraffic { sent: Some((number, sent)), gathering: None });
            return Admission::Alone(self.traffic.under_way(key, number, ended));
        };
        if let Some(gathering) = busy.gathering.as_ref().and_then(|(_, some)| some.upgrade()) {
            return Admission::Among(gathering);
        }
        let before = busy.sent.as_ref().map(|(_, sent)| sent.clone());
        let waiting =
            GatheringRead { traffic: Arc::clone(&self.traffic), key: key.clone(), number };
        let gathering = gather(Arc::clone(&self.inner), waiting, before, self.gather_max).shared();
        busy.gathering = gathering.downgrade().map(|some| (number, some));
        Admission::Among(gathering)
    }
}

fn gather(
    store: Arc<dyn Store>,
    waiting: GatheringRead,
    before: Option<watch::Receiver<()>>,
    gather_max: Duration,
) -> SharedRead {
    async move {
        if let Some(mut before) = before {
            // An error says that it has ended.
            timeout(gather_max, before.changed()).await.ok();
        }
        let under_way = waiting.close();
        store.get(&under_way.key).await
    }
    .boxed()
}

/// How a reader is served.
enum Admission {
    /// No other reader of this key.
    Alone(InFlightRead),
    /// Among the readers that wait for the next request.
    Among(Shared<SharedRead>),
}

/// The requests for one key.
struct KeyTraffic {
    /// The request that was sent last, with a channel that closes at its end.
    sent: Option<(u64, watch::Receiver<()>)>,
    /// The request that is not sent yet. Its readers keep it alive.
    gathering: Option<(u64, WeakShared<SharedRead>)>,
}

/// All keys with readers.
struct ReadTraffic {
    /// Gives every request a number of its own.
    requests: AtomicU64,
    shards: Vec<Mutex<HashMap<Key, KeyTraffic>>>,
    hasher: RandomState,
}

impl Default for ReadTraffic {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { requests: AtomicU64::new(0), shards, hasher: RandomState::new() }
    }
}

impl fmt::Debug for ReadTraffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadTraffic").field("keys", &self.keys()).finish()
    }
}

impl ReadTraffic {
    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, KeyTraffic>> {
        let hash = self.hasher.hash_one(key.as_str());
        let index = usize::try_from(hash % SHARDS as u64).expect("there are few shards");
        lock(self.shards.get(index).expect("the index is below their number"))
    }

    /// Number of keys with readers.
    fn keys(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn under_way(
        self: &Arc<Self>,
        key: &Key,
        number: u64,
        ended: watch::Sender<()>,
    ) -> InFlightRead {
        InFlightRead { traffic: Arc::clone(self), key: key.clone(), number, _ended: ended }
    }

    /// Updates the requests of a key, and removes the key if it has no reader any more.
    fn update(&self, key: &Key, change: impl FnOnce(&mut KeyTraffic)) {
        let mut keys = self.shard(key);
        let Some(busy) = keys.get_mut(key) else { return };
        change(busy);
        if busy.sent.is_none() && busy.gathering.is_none() {
            keys.remove(key);
        }
    }
}

fn lock(shard: &Mutex<HashMap<Key, KeyTraffic>>) -> MutexGuard<'_, HashMap<Key, KeyTraffic>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that was sent. Dropping this says that it has ended, or that no reader waits for it.
struct InFlightRead {
    traffic: Arc<ReadTraffic>,
    key: Key,
    number: u64,
    _ended: watch::Sender<()>,
}

impl Drop for InFlightRead {
    fn drop(&mut self) {
        self.traffic.update(&self.key, |busy| {
            busy.sent.take_if(|(number, _)| *number == self.number);
        });
    }
}

/// A request that is not sent yet. Dropping this says that no reader waits for it any more.
struct GatheringRead {
    traffic: Arc<ReadTraffic>,
    key: Key,
    number: u64,
}

impl GatheringRead {
    /// Admits no reader from now on: the request is about to be sent.
    fn close(self) -> InFlightRead {
        let (ended, sent) = watch::channel(());
        self.traffic.update(&self.key, |busy| {
            busy.gathering.take_if(|(number, _)| *number == self.number);
            busy.sent = Some((self.number, sent));
        });
        self.traffic.under_way(&self.key, self.number, ended)
    }
}

impl Drop for GatheringRead {
    fn drop(&mut self) {
        self.traffic.update(&self.key, |busy| {
            busy.gathering.take_if(|(number, _)| *number == self.number);
        });
    }
}

#[async_trait]
impl Store for CoalescedStore {
    forward_store! {
        inner:
        capabilities, health, clock, purge, head, read, put, put_after, delete, delete_many, list,
        create_multipart, resume_multipart, put_part, put_last_part, sync_parts, complete_multipart,
        abort_multipart, copy_in, staged_uploads, staged_file, file, presign,
    }

    async fn get(&self, key: &Key) -> Result<Record> {
        match self.admit(key) {
            Admission::Alone(_under_way) => self.inner.get(key).await,
            Admission::Among(gathering) => gathering.await,
        }
    }
}
