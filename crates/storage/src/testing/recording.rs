//! [`RecordingStore`]: a store that remembers its calls, so that a test can count and read them.
//!
//! It belongs around the innermost store: what it counts is what a real store would be asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Call, InterceptedStore, Interceptor};
use crate::{ByteStream, Result, Store};

/// A store that logs its calls.
pub type RecordingStore = InterceptedStore<CallLog>;

/// The calls of a [`RecordingStore`], in the order in which they began.
#[derive(Debug, Default)]
pub struct CallLog(Mutex<Vec<Call>>);

impl CallLog {
    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecordingStore {
    /// A store with an empty log.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self::with(inner, CallLog::default())
    }

    /// Takes the calls since the last time, failed ones included.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.interceptor.calls())
    }

    /// How many calls the log holds.
    pub fn count(&self) -> usize {
        self.interceptor.calls().len()
    }
}

#[async_trait]
impl Interceptor for CallLog {
    type Plan = ();

    async fn before(&self, call: &Call) -> Result<()> {
        self.calls().push(call.clone());
        Ok(())
    }

    async fn after(&self, _call: &Call, _plan: &()) -> Result<()> {
        Ok(())
    }

    fn stream(&self, _call: &Call, _plan: &(), stream: ByteStream) -> ByteStream {
        stream
    }
}
