//! [`SharedRequests`]: concurrent requests for the same thing share one.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use jreg_telemetry::trace;

type SharedResult<V> = Shared<BoxFuture<'static, Option<V>>>;

/// Requests in flight by what they are for.
#[derive(Debug)]
pub(crate) struct SharedRequests<K, V> {
    in_flight: Arc<Mutex<HashMap<K, SharedResult<V>>>>,
}

impl<K, V> Default for SharedRequests<K, V> {
    fn default() -> Self {
        Self { in_flight: Arc::default() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K, V> SharedRequests<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// The result of the request in flight for `key`, or of this one. It goes on if its clients leave.
    /// `None`: it panicked.
    pub(crate) async fn get(
        &self,
        key: K,
        request: impl FnOnce() -> BoxFuture<'static, V>,
    ) -> Option<V> {
        let shared = {
            let mut in_flight = lock(&self.in_flight);
            match in_flight.get(&key) {
                Some(shared) => shared.clone(),
                None => {
                    let work = tokio::spawn(trace::within(trace::current(), request()));
                    let (map, own) = (Arc::clone(&self.in_flight), key.clone());
                    let ended = async move {
                        let result = work.await.ok();
                        lock(&map).remove(&own);
                        result
                    };
                    let shared = ended.boxed().shared();
                    // Also if no caller waits for it.
                    tokio::spawn(shared.clone());
                    in_flight.insert(key, shared.clone());
                    shared
                }
            }
        };
        shared.await
    }
}
