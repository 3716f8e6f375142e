//! [`Coalesced`]: many who read the same record at the same time are answered by few requests.
//!
//! A reader must see every write that was acknowledged before it came, so it may not take the
//! answer of a request that was sent before: the store may have answered that one already. What
//! readers share is therefore always a request that is still to be sent. The first reader of a
//! key sends its own at once. Those who come while it is under way gather, and one request is sent
//! for all of them when that one ends, or earlier, when the first of them has waited long enough:
//! a request that hangs does not hold up who comes after it.
//!
//! Only [`Store::get`] is shared. Its place is around a store whose requests travel, above
//! whatever repeats or observes them.

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

/// The longest that a reader waits for others to come, unless told otherwise: less than a request
/// to a bucket takes, so that sharing never costs as much as a second one would.
pub const GATHER_MAX: Duration = Duration::from_millis(10);

/// How many locks the keys are spread over.
const SHARDS: usize = 64;

/// One request for all who wait for it.
type Gathering = BoxFuture<'static, Result<Record>>;

/// A store whose concurrent reads of one record share requests.
#[derive(Debug)]
pub struct Coalesced {
    inner: Arc<dyn Store>,
    traffic: Arc<Traffic>,
    gather_max: Duration,
}

impl Coalesced {
    /// Shares reads of `inner`. Readers gather for `gather_max` at the most.
    pub fn new(inner: Arc<dyn Store>, gather_max: Duration) -> Self {
        Self { inner, traffic: Arc::default(), gather_max }
    }

    /// Where a reader that comes now belongs.
    fn admit(&self, key: &Key) -> Place {
        let mut keys = self.traffic.shard(key);
        let number = self.traffic.requests.fetch_add(1, Ordering::Relaxed);
        let Some(busy) = keys.get_mut(key) else {
            let (ended, sent) = watch::channel(());
            keys.insert(key.clone(), Busy { sent: Some((number, sent)), gathering: None });
            return Place::Alone(self.traffic.under_way(key, number, ended));
        };
        if let Some(gathering) = busy.gathering.as_ref().and_then(|(_, some)| some.upgrade()) {
            return Place::Among(gathering);
        }
        let before = busy.sent.as_ref().map(|(_, sent)| sent.clone());
        let waiting = Waiting { traffic: Arc::clone(&self.traffic), key: key.clone(), number };
        let gathering = gather(Arc::clone(&self.inner), waiting, before, self.gather_max).shared();
        busy.gathering = gathering.downgrade().map(|some| (number, some));
        Place::Among(gathering)
    }
}

fn gather(
    store: Arc<dyn Store>,
    waiting: Waiting,
    before: Option<watch::Receiver<()>>,
    gather_max: Duration,
) -> Gathering {
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

/// Where a reader belongs.
enum Place {
    /// Nobody else reads this key.
    Alone(UnderWay),
    /// Among those who wait for the next request.
    Among(Shared<Gathering>),
}

/// What goes on at a key that somebody reads.
struct Busy {
    /// The request that was sent last, and how to learn of its end.
    sent: Option<(u64, watch::Receiver<()>)>,
    /// The request that is not sent yet. Those who wait for it keep it alive.
    gathering: Option<(u64, WeakShared<Gathering>)>,
}

/// All keys that somebody reads.
struct Traffic {
    /// Gives every request a number of its own.
    requests: AtomicU64,
    shards: Vec<Mutex<HashMap<Key, Busy>>>,
    hasher: RandomState,
}

impl Default for Traffic {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { requests: AtomicU64::new(0), shards, hasher: RandomState::new() }
    }
}

impl fmt::Debug for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traffic").field("keys", &self.keys()).finish()
    }
}

impl Traffic {
    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Busy>> {
        let hash = self.hasher.hash_one(key.as_str());
        let index = usize::try_from(hash % SHARDS as u64).expect("there are few shards");
        lock(self.shards.get(index).expect("the index is below their number"))
    }

    /// How many keys somebody reads.
    fn keys(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn under_way(self: &Arc<Self>, key: &Key, number: u64, ended: watch::Sender<()>) -> UnderWay {
        UnderWay { traffic: Arc::clone(self), key: key.clone(), number, _ended: ended }
    }

    /// Changes what is known of a key, and forgets the key if nobody reads it any more.
    fn update(&self, key: &Key, change: impl FnOnce(&mut Busy)) {
        let mut keys = self.shard(key);
        let Some(busy) = keys.get_mut(key) else { return };
        change(busy);
        if busy.sent.is_none() && busy.gathering.is_none() {
            keys.remove(key);
        }
    }
}

fn lock(shard: &Mutex<HashMap<Key, Busy>>) -> MutexGuard<'_, HashMap<Key, Busy>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that is sent. Dropping this says that it has ended, or that nobody waits for it.
struct UnderWay {
    traffic: Arc<Traffic>,
    key: Key,
    number: u64,
    _ended: watch::Sender<()>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.traffic.update(&self.key, |busy| {
            busy.sent.take_if(|(number, _)| *number == self.number);
        });
    }
}

/// A request that is not sent yet. Dropping this says that nobody waits for it any more.
struct Waiting {
    traffic: Arc<Traffic>,
    key: Key,
    number: u64,
}

impl Waiting {
    /// Admits nobody from now on: the request is about to be sent.
    fn close(self) -> UnderWay {
        let (ended, sent) = watch::channel(());
        self.traffic.update(&self.key, |busy| {
            busy.gathering.take_if(|(number, _)| *number == self.number);
            busy.sent = Some((self.number, sent));
        });
        self.traffic.under_way(&self.key, self.number, ended)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.traffic.update(&self.key, |busy| {
            busy.gathering.take_if(|(number, _)| *number == self.number);
        });
    }
}

#[async_trait]
impl Store for Coalesced {
    forward_store! {
        inner:
        capabilities, health, purge, head, read, put, put_both, delete, delete_many, list,
        create_multipart, resume_multipart, put_part, sync_parts, complete_multipart,
        abort_multipart, file, presign,
    }

    async fn get(&self, key: &Key) -> Result<Record> {
        match self.admit(key) {
            Place::Alone(_under_way) => self.inner.get(key).await,
            Place::Among(gathering) => gathering.await,
        }
    }
}
