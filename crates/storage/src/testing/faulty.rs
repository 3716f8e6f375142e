//! [`FaultyStore`]: a store that fails where a test says, before the call is applied or after.
//!
//! It belongs where the real fault would be: around the innermost store for a fault of the store,
//! so that everything above must cope.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::StreamExt;

use super::{Call, InterceptedStore, Interceptor};
use crate::{ByteStream, Error, ErrorKind, Result, Store};

/// A store with scripted faults.
pub type FaultyStore = InterceptedStore<Faults>;

/// A fault to come: which call it hits, and what it does to it.
pub struct Fault {
    effect: FaultEffect,
    kind: ErrorKind,
    matches: Box<dyn Fn(&Call) -> bool + Send + Sync>,
    /// How many matching calls are still spared.
    spared: u64,
    /// Whether it stays after it has hit.
    stays: bool,
}

/// What a fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FaultEffect {
    Fail,
    LoseResponse,
    CutStream { after_bytes: u64 },
}

impl Fault {
    fn new(effect: FaultEffect, kind: ErrorKind) -> Self {
        Self { effect, kind, matches: Box::new(|_| true), spared: 0, stays: false }
    }

    /// The next call fails and is not applied.
    pub fn fail(kind: ErrorKind) -> Self {
        Self::new(FaultEffect::Fail, kind)
    }

    /// The next call is applied, and its response is lost.
    pub fn lose_response(kind: ErrorKind) -> Self {
        Self::new(FaultEffect::LoseResponse, kind)
    }

    /// The next stream that is opened breaks after so many bytes.
    pub fn cut_stream(after_bytes: u64, kind: ErrorKind) -> Self {
        Self::new(FaultEffect::CutStream { after_bytes }, kind).on(|call| call.operation == "read")
    }

    /// Hits only calls like this, as well as what was said before.
    pub fn on(mut self, matches: impl Fn(&Call) -> bool + Send + Sync + 'static) -> Self {
        let before = self.matches;
        self.matches = Box::new(move |call| before(call) && matches(call));
        self
    }

    /// Hits only the `n`-th call that it could hit, counted from 1 and from now.
    pub fn nth(mut self, n: u64) -> Self {
        self.spared = n.saturating_sub(1);
        self
    }

    /// Hits every such call from then on, not only one.
    pub fn from_then_on(mut self) -> Self {
        self.stays = true;
        self
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { effect, kind, matches: _, spared, stays } = self;
        write!(f, "{effect:?} as {kind:?} (spared {spared}, stays {stays})")
    }
}

/// The faults of a [`FaultyStore`].
#[derive(Debug, Default)]
pub struct Faults {
    faults: Mutex<Vec<Fault>>,
    calls: AtomicU64,
    hits: AtomicU64,
}

/// What a hit does to its call.
#[derive(Clone, Copy, Debug)]
pub struct FaultHit {
    effect: FaultEffect,
    kind: ErrorKind,
}

impl FaultHit {
    fn error(self, call: &Call) -> Error {
        Error::with_source(self.kind, &call.key, "a fault that the test asked for")
    }
}

impl Faults {
    fn faults(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first fault that hits this call. Every fault counts every call that it could hit.
    fn hit(&self, call: &Call) -> Option<FaultHit> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut hit = None;
        self.faults().retain_mut(|fault| {
            if !(fault.matches)(call) {
                return true;
            }
            if fault.spared > 0 {
                fault.spared -= 1;
                return true;
            }
            if hit.is_some() {
                return true;
            }
            hit = Some(FaultHit { effect: fault.effect, kind: fault.kind });
            fault.stays
        });
        self.hits.fetch_add(u64::from(hit.is_some()), Ordering::Relaxed);
        hit
    }
}

impl FaultyStore {
    /// A store without a fault so far.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self::with(inner, Faults::default())
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.interceptor.faults().push(fault);
    }

    /// From now on every read (and listing) of what starts with `prefix` fails.
    pub fn fail_reads(&self, prefix: &str, kind: ErrorKind) {
        let prefix = prefix.to_owned();
        let of_prefix = move |call: &Call| call.is_read() && call.key.starts_with(&prefix);
        self.inject(Fault::fail(kind).on(of_prefix).from_then_on());
    }

    /// Takes all faults back.
    pub fn heal(&self) {
        self.interceptor.faults().clear();
    }

    /// How many calls there have been, those that failed included.
    pub fn calls(&self) -> u64 {
        self.interceptor.calls.load(Ordering::Relaxed)
    }

    /// How many calls a fault has hit.
    pub fn hits(&self) -> u64 {
        self.interceptor.hits.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Interceptor for Faults {
    type Plan = Option<FaultHit>;

    async fn before(&self, call: &Call) -> Result<Self::Plan> {
        match self.hit(call) {
            Some(hit) if hit.effect == FaultEffect::Fail => Err(hit.error(call)),
            plan => Ok(plan),
        }
    }

    async fn after(&self, call: &Call, plan: &Self::Plan) -> Result<()> {
        match plan {
            Some(hit) if hit.effect == FaultEffect::LoseResponse => Err(hit.error(call)),
            _ => Ok(()),
        }
    }

    fn stream(&self, call: &Call, plan: &Self::Plan, stream: ByteStream) -> ByteStream {
        match plan {
            Some(FaultHit { effect: FaultEffect::CutStream { after_bytes }, kind }) => {
                let hit = FaultHit { effect: FaultEffect::Fail, kind: *kind };
                cut(stream, *after_bytes, hit.error(call))
            }
            _ => stream,
        }
    }
}

/// Ends a stream with an error after some bytes.
fn cut(stream: ByteStream, after_bytes: u64, error: Error) -> ByteStream {
    let mut left = usize::try_from(after_bytes).unwrap_or(usize::MAX);
    let kept = stream.filter_map(move |chunk| {
        let shortened = chunk.map(|mut chunk| {
            chunk.truncate(left);
            left -= chunk.len();
            chunk
        });
        let step = match shortened {
            Ok(chunk) if chunk.is_empty() => None,
            other => Some(other),
        };
        std::future::ready(step)
    });
    kept.chain(futures::stream::once(std::future::ready(Err(error)))).boxed()
}
