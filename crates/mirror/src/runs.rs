//! [`MirrorRuns`]: what the last fetches and evictions of each mirror did, in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use jreg_registry::EvictionReport;
use jreg_storage::Clock;

use crate::SyncReport;

/// What was done last for a mirror, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastRuns {
    pub sync: Option<(SystemTime, SyncReport)>,
    pub eviction: Option<(SystemTime, EvictionReport)>,
}

/// The last runs of all mirrors, by namespace.
pub(crate) struct MirrorRuns {
    clock: Arc<dyn Clock>,
    runs: Mutex<HashMap<String, LastRuns>>,
}

impl MirrorRuns {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, runs: Mutex::default() }
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<String, LastRuns>> {
        // A poisoned lock is fine: each change leaves it consistent.
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note_sync(&self, namespace: &str, report: SyncReport) {
        let at = self.clock.now();
        self.runs().entry(namespace.to_owned()).or_default().sync = Some((at, report));
    }

    pub(crate) fn note_eviction(&self, namespace: &str, report: EvictionReport) {
        let at = self.clock.now();
        self.runs().entry(namespace.to_owned()).or_default().eviction = Some((at, report));
    }

    pub(crate) fn of(&self, namespace: &str) -> LastRuns {
        self.runs().get(namespace).cloned().unwrap_or_default()
    }
}
