//! The reaper: removes expired upload sessions and their bytes.
//!
//! An interrupted upload leaves a session and bytes, which are deleted when the upload's age is
//! past its limit and past the time that a write of it may still be in flight ([`WRITE_MAX`]). A
//! finished one leaves its session, for a client's retry, which is deleted as soon as no retry can
//! write the link any more ([`CLOSED_USE_MAX`]): so there are no more sessions than uploads of an
//! hour or two, and interrupted ones. Any number of reapers may run at the same time and stop
//! anywhere: a session is abandoned by compare-and-swap before any of its bytes are removed, and
//! its record, which references them, is deleted last.

use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::stream::{self, StreamExt};
use jreg_storage::{Key, ListRequest, Listed};
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::fingerprint::ListedVersion;
use crate::keys::{self, UploadKey};
use crate::record::{StoredRecord, VersionedRecord};
use crate::session::{AbandonedBytes, REPLAY_MAX, SessionState, UploadSession};
use crate::window::WRITE_MAX;
use crate::{Error, Registry, Result};

/// For how long the record of a finished upload is of use: a retry may write the link, and that write
/// may be in flight.
pub(crate) const CLOSED_USE_MAX: Duration =
    Duration::from_secs(REPLAY_MAX.as_secs() + WRITE_MAX.as_secs());

/// Maximum number of unfinished sessions that are remembered, so that no run reads them again.
const UNFINISHED_MAX: usize = 100_000;

/// How many sessions are removed at the same time.
const REMOVALS_AT_ONCE: usize = 8;

/// The result of a run of the reaper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaperReport {
    /// Sessions of unfinished uploads, which were deleted with their bytes.
    pub unfinished: u64,
    /// Sessions of finished or cancelled uploads, which were deleted.
    pub ended: u64,
    /// Sessions and tails that could not be removed. The next run tries again.
    pub failed: u64,
}

/// What became of one key.
enum ReapOutcome {
    Unfinished,
    Ended,
    /// It was a tail, or another reaper or request gave it up first.
    Nothing,
    /// This version of a session is that of an upload that is not finished.
    Stays(Option<ListedVersion>),
}

/// The task for a key.
enum ReapTask {
    /// Its upload has expired: it is deleted.
    Reap(UploadKey),
    /// It is deleted if it is the session of a finished upload.
    ReapClosed(Key, Option<ListedVersion>),
}

impl Registry {
    /// Removes the sessions of uploads that are past their age limit, with the bytes of those
    /// that were never finished. Costs a page of the listing (sessions are listed by age, so
    /// mostly one) and up to four requests for each session removed.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error) if the sessions cannot be listed.
    pub async fn reap_uploads(&self) -> Result<ReaperReport> {
        self.core().check_required().await?;
        self.core().reap_uploads().await
    }
}

impl Core {
    pub(crate) async fn reap_uploads(&self) -> Result<ReaperReport> {
        let core = self;
        let mut reaped = ReaperReport::default();
        let mut request = ListRequest::below(keys::UPLOADS);
        loop {
            let page = core.store.list(&request).await?;
            let ours = page
                .entries
                .iter()
                .filter_map(|entry| keys::upload_key(&entry.key).map(|key| (entry, key)));
            let ours: Vec<_> = ours.collect();
            let has_young = ours.iter().any(|(_, key)| is_in_use(key, page.date));
            let tasks =
                ours.into_iter().filter_map(|(entry, key)| core.task_for(entry, key, page.date));
            let removals: Vec<_> = tasks.map(|task| core.reap(task)).collect();
            let mut removals = stream::iter(removals).buffer_unordered(REMOVALS_AT_ONCE);
            while let Some(outcome) = removals.next().await {
                match outcome {
                    Ok(ReapOutcome::Unfinished) => reaped.unfinished += 1,
                    Ok(ReapOutcome::Ended) => reaped.ended += 1,
                    Ok(ReapOutcome::Nothing) => {}
                    Ok(ReapOutcome::Stays(version)) => core.remember_unfinished(version),
                    Err(_) => reaped.failed += 1,
                }
            }
            // The listing is in the order in which the uploads began.
            match page.next {
                Some(next) if !has_young => request.start_after = Some(next),
                _ => return Ok(reaped),
            }
        }
    }

    fn is_expired(&self, key: &UploadKey, now: SystemTime) -> bool {
        let age_max = self.options.limits.upload_age_max + WRITE_MAX;
        key.id().is_older_than(age_max, now)
    }

    /// `None`: it stays, as the listing shows.
    fn task_for(&self, entry: &Listed, key: UploadKey, now: SystemTime) -> Option<ReapTask> {
        if self.is_expired(&key, now) {
            return Some(ReapTask::Reap(key));
        }
        let age = now.duration_since(entry.last_modified).unwrap_or_default();
        let version = ListedVersion::of(entry, now);
        let can_be_expired = matches!(key, UploadKey::Session(_)) && age > CLOSED_USE_MAX;
        let is_known = version.is_some_and(|version| self.unfinished().contains(&version));
        (can_be_expired && !is_known).then(|| ReapTask::ReapClosed(entry.key.clone(), version))
    }

    fn unfinished(&self) -> MutexGuard<'_, HashSet<ListedVersion>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember_unfinished(&self, version: Option<ListedVersion>) {
        let Some(version) = version else { return };
        let mut unfinished = self.unfinished();
        if unfinished.len() >= UNFINISHED_MAX {
            unfinished.clear();
        }
        unfinished.insert(version);
    }

    async fn reap(&self, task: ReapTask) -> Result<ReapOutcome> {
        match task {
            ReapTask::Reap(UploadKey::Session(id)) => self.reap_session(&keys::upload(&id)).await,
            ReapTask::Reap(UploadKey::Tail(_, key)) => {
                self.store.delete(&key, None).await?;
                Ok(ReapOutcome::Nothing)
            }
            ReapTask::ReapClosed(key, version) => self.reap_closed(&key, version).await,
        }
    }

    /// Removes the session of a finished upload that is not of use any more.
    async fn reap_closed(&self, key: &Key, version: Option<ListedVersion>) -> Result<ReapOutcome> {
        match self.read::<UploadSession>(key).await {
            Ok(Some(session)) if matches!(session.value.state, SessionState::Closed(_)) => {
                self.reap_version(key, session).await
            }
            Ok(Some(_)) => Ok(ReapOutcome::Stays(version)),
            Ok(None) => Ok(ReapOutcome::Nothing),
            // The run that finds it past use says so.
            Err(Error::Damaged { .. }) => Ok(ReapOutcome::Stays(version)),
            Err(error) => Err(error),
        }
    }

    async fn reap_session(&self, key: &Key) -> Result<ReapOutcome> {
        match self.read::<UploadSession>(key).await? {
            Some(session) => self.reap_version(key, session).await,
            None => Ok(ReapOutcome::Nothing),
        }
    }

    /// Gives up the version of a session that was read, and removes it. One of an upload that may still
    /// begin anew under its id is removed only by the reaper that gave it up: a session that
    /// comes after is another.
    async fn reap_version(
        &self,
        key: &Key,
        session: VersionedRecord<UploadSession>,
    ) -> Result<ReapOutcome> {
        let age = session.age();
        let UploadSession { repository, state } = session.value;
        let (bytes, outcome, is_given_up) = match state {
            // Its link may still be in flight, and a sweep must see until then that it references
            // bytes.
            SessionState::Closed(_) if age <= CLOSED_USE_MAX => return Ok(ReapOutcome::Nothing),
            SessionState::Open(open) => (open.into_abandoned(), ReapOutcome::Unfinished, false),
            SessionState::Cancelled(bytes) => (bytes, ReapOutcome::Ended, true),
            // Its object stays, and so do the bytes of one that was never completed: a link may
            // name them. Parts that never became the object do not.
            SessionState::Closed(closed) => {
                let parts = || AbandonedBytes::new(closed.multipart, Vec::new());
                (closed.replaced.unwrap_or_else(parts), ReapOutcome::Ended, false)
            }
        };
        if !is_given_up {
            let cancelled =
                UploadSession { repository, state: SessionState::Cancelled(bytes.clone()) };
            if self.swap(key, Some(&session.etag), cancelled.encode()).await?.is_none() {
                return Ok(ReapOutcome::Nothing);
            }
        }
        bytes.discard(self).await?;
        // No request writes this one any more, and no new upload uses its id before it is deleted.
        self.store.delete(key, None).await?;
        Ok(outcome)
    }
}

/// Whether no session that is listed from here on can be over: sessions are listed in the order in
/// which their uploads began.
fn is_in_use(key: &UploadKey, now: SystemTime) -> bool {
    !key.id().is_older_than(CLOSED_USE_MAX, now)
}
