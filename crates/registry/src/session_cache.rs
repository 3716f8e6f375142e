//! [`SessionCache`]: the sessions that this process wrote last.
//!
//! docker, podman and crane send the bytes in one request and close the upload in the next, mostly
//! through the same instance: that saves the closing request the read of the session. It is only a
//! guess at the version to swap, so an outdated one costs a failed swap.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use jreg_storage::ETag;
use quick_cache::unsync::Cache as Lru;

use crate::UploadId;
use crate::session::UploadSession;

/// How many sessions are kept: some 500 bytes each.
const SESSIONS_MAX: usize = 4096;

/// Sessions by the id of their upload, with the version at which they were written.
pub(crate) struct SessionCache {
    sessions: Mutex<Lru<UploadId, (UploadSession, ETag)>>,
}

impl SessionCache {
    pub(crate) fn new() -> Self {
        Self { sessions: Mutex::new(Lru::new(SESSIONS_MAX)) }
    }

    pub(crate) fn keep(&self, id: &UploadId, session: UploadSession, etag: ETag) {
        self.with(|sessions| sessions.insert(id.clone(), (session, etag)));
    }

    /// It is removed, so that it is tried once.
    pub(crate) fn take(&self, id: &UploadId) -> Option<(UploadSession, ETag)> {
        self.with(|sessions| sessions.remove(id)).map(|(_, kept)| kept)
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut Lru<UploadId, (UploadSession, ETag)>) -> T) -> T {
        // A poisoned lock is fine: every change leaves it consistent.
        use_it(&mut self.sessions.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for SessionCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCache").finish_non_exhaustive()
    }
}
