//! A gate that requests wait at until a test lets them through: how a test has a request arrive
//! late without waiting for time to pass.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

/// Maximum time to wait. Reached only by a test that fails.
const ARRIVAL_MAX: Duration = Duration::from_secs(60);

/// A gate, closed at first; clones are of the same gate.
#[derive(Clone, Debug)]
pub struct S3Gate(Arc<GateState>);

#[derive(Debug)]
struct GateState {
    arrived: watch::Sender<usize>,
    waiting: watch::Sender<Waiting>,
    passes: Semaphore,
}

#[derive(Debug, Default)]
struct Waiting {
    now: usize,
    most: usize,
}

impl S3Gate {
    /// A closed gate.
    pub fn closed() -> Self {
        Self(Arc::new(GateState {
            arrived: watch::Sender::new(0),
            passes: Semaphore::new(0),
            waiting: watch::Sender::default(),
        }))
    }

    /// Waits until this many have come to the gate, let through or not, since it was made. Panics
    /// if they do not come within a minute: that fails a test instead of stopping it.
    pub async fn arrived(&self, count: usize) {
        let mut arrived = self.0.arrived.subscribe();
        let enough = arrived.wait_for(|arrived| *arrived >= count);
        match tokio::time::timeout(ARRIVAL_MAX, enough).await {
            Ok(enough) => drop(enough.expect("the gate keeps the sender")),
            Err(_) => panic!("{count} were awaited at the gate, {} came", *self.0.arrived.borrow()),
        }
    }

    /// The most that ever waited at the same time.
    pub fn most_waiting(&self) -> usize {
        self.0.waiting.borrow().most
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
        self.0.waiting.send_modify(|waiting| {
            waiting.now += 1;
            waiting.most = waiting.most.max(waiting.now);
        });
        self.0.arrived.send_modify(|arrived| *arrived += 1);
        // Refused means open.
        if let Ok(pass) = self.0.passes.acquire().await {
            pass.forget();
        }
        self.0.waiting.send_modify(|waiting| waiting.now -= 1);
    }
}
