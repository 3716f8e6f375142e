//! [`GateStore`]: a store that holds calls back until a test lets them go.
//!
//! With it a test runs one chosen interleaving. It belongs around the store that the racing parties
//! share; each may have a gate of its own.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{Call, InterceptedStore, Interceptor};
use crate::{ByteStream, Result, Store};

/// A store with gates.
pub type GateStore = InterceptedStore<Gates>;

/// Where in a call a gate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GatePosition {
    Before,
    After,
}

struct Barrier {
    place: GatePosition,
    matches: Box<dyn Fn(&Call) -> bool + Send + Sync>,
    waiting: watch::Sender<usize>,
    /// Closed when the test lets the calls go.
    open: watch::Receiver<()>,
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {} waiting", self.place, *self.waiting.borrow())
    }
}

/// The gates of a [`GateStore`] store.
#[derive(Debug, Default)]
pub struct Gates(Mutex<Vec<Arc<Barrier>>>);

/// A closed gate. Dropping it opens it.
#[derive(Debug)]
pub struct HeldCalls {
    waiting: watch::Receiver<usize>,
    release: watch::Sender<()>,
}

impl HeldCalls {
    /// Waits until so many calls wait at the gate.
    pub async fn reached(&mut self, calls: usize) {
        self.waiting
            .wait_for(|waiting| *waiting >= calls)
            .await
            .expect("the gate outlives its store");
    }

    /// Lets the calls go, and those that come.
    pub fn release(self) {
        drop(self.release);
    }
}

impl Gates {
    fn barriers(&self) -> MutexGuard<'_, Vec<Arc<Barrier>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass(&self, call: &Call, place: GatePosition) {
        let met: Vec<_> = {
            let mut barriers = self.barriers();
            barriers.retain(|barrier| barrier.open.has_changed().is_ok());
            barriers.iter().filter(|b| b.place == place && (b.matches)(call)).cloned().collect()
        };
        for barrier in met {
            barrier.waiting.send_modify(|waiting| *waiting += 1);
            // An error says that the sender, which the test holds, no longer exists.
            while barrier.open.clone().changed().await.is_ok() {}
        }
    }
}

impl GateStore {
    /// A store whose gates are open.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self::with(inner, Gates::default())
    }

    /// Holds calls like this back before they are applied.
    pub fn hold(&self, matches: impl Fn(&Call) -> bool + Send + Sync + 'static) -> HeldCalls {
        self.close(GatePosition::Before, Box::new(matches))
    }

    /// Holds calls like this back after they were applied, before the response.
    pub fn hold_response(
        &self,
        matches: impl Fn(&Call) -> bool + Send + Sync + 'static,
    ) -> HeldCalls {
        self.close(GatePosition::After, Box::new(matches))
    }

    fn close(
        &self,
        place: GatePosition,
        matches: Box<dyn Fn(&Call) -> bool + Send + Sync>,
    ) -> HeldCalls {
        let ((waiting, waiting_seen), (release, open)) = (watch::channel(0), watch::channel(()));
        self.interceptor.barriers().push(Arc::new(Barrier { place, matches, waiting, open }));
        HeldCalls { waiting: waiting_seen, release }
    }
}

#[async_trait]
impl Interceptor for Gates {
    type Plan = ();

    async fn before(&self, call: &Call) -> Result<()> {
        self.pass(call, GatePosition::Before).await;
        Ok(())
    }

    async fn after(&self, call: &Call, _plan: &()) -> Result<()> {
        self.pass(call, GatePosition::After).await;
        Ok(())
    }

    fn stream(&self, _call: &Call, _plan: &(), stream: ByteStream) -> ByteStream {
        stream
    }
}
