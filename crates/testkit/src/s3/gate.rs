//! A gate that requests wait at until a test lets them through: how a test has a request arrive
//! late without waiting for time to pass.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

/// A gate, closed at first; clones are of the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    arrived: watch::Sender<usize>,
    passes: Semaphore,
}

impl Gate {
    /// A closed gate.
    pub fn closed() -> Self {
        Self(Arc::new(Inner { arrived: watch::Sender::new(0), passes: Semaphore::new(0) }))
    }

    /// Waits until this many have come to the gate, let through or not, since it was made.
    pub async fn arrived(&self, count: usize) {
        let mut arrived = self.0.arrived.subscribe();
        arrived.wait_for(|arrived| *arrived >= count).await.expect("the gate keeps the sender");
    }

    /// Lets one through: the first of those that wait, or else the next to come.
    pub fn pass_one(&self) {
        self.0.passes.add_permits(1);
    }

    /// Lets all through, for good.
    pub fn open(&self) {
        self.0.passes.close();
    }

    pub(crate) async fn enter(&self) {
        self.0.arrived.send_modify(|arrived| *arrived += 1);
        // Refused means open.
        if let Ok(pass) = self.0.passes.acquire().await {
            pass.forget();
        }
    }
}
