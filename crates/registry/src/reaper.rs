//! The reaper: removes what uploads leave behind once nobody can go on with them.
//!
//! An upload that was cut off leaves a session and bytes; one that was finished leaves its
//! session, for a client's retry. Both go when the upload's age is past its limit and past the
//! time that a write of it may still be on its way ([`WRITE_MAX`]). Any number of reapers may run
//! at the same time and stop anywhere: a session is given up by compare-and-swap before any of its
//! bytes are removed, and its record, which names them, goes last.

use std::time::SystemTime;

use futures::stream::{self, StreamExt};
use jreg_storage::{Key, ListRequest};
use serde::{Deserialize, Serialize};

use crate::core::{Core, WRITE_MAX};
use crate::keys::{self, UploadKey};
use crate::record::Stored;
use crate::session::{Leftover, REPLAY_MAX, Session, State};
use crate::{Registry, Result};

/// How many sessions are removed at the same time.
const REMOVALS_AT_ONCE: usize = 8;

/// What a run of the reaper did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reaped {
    /// Sessions of uploads that were never finished, which are gone with their bytes.
    pub unfinished: u64,
    /// Sessions of uploads that were finished or cancelled, which are gone.
    pub ended: u64,
    /// Sessions and tails that could not be removed. The next run tries again.
    pub failed: u64,
}

/// What became of one key.
enum Fate {
    Unfinished,
    Ended,
    /// It was a tail, or somebody else gave it up first.
    Nothing,
}

impl Registry {
    /// Removes the sessions of uploads that are past their age limit, with the bytes of those
    /// that were never finished. Costs a page of the listing (sessions are listed by age, so
    /// mostly one) and up to four requests for each session removed.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error) if the sessions cannot be listed.
    pub async fn reap_uploads(&self) -> Result<Reaped> {
        self.core().reap_uploads().await
    }
}

impl Core {
    pub(crate) async fn reap_uploads(&self) -> Result<Reaped> {
        let core = self;
        let mut reaped = Reaped::default();
        let mut request = ListRequest::below(keys::UPLOADS);
        loop {
            let page = core.store.list(&request).await?;
            let ours = page.entries.iter().filter_map(|entry| keys::upload_key(&entry.key));
            let (old, young): (Vec<_>, Vec<_>) =
                ours.partition(|key| core.is_past_use(key, page.date));
            let removals = old.into_iter().map(|key| core.reap(key));
            let mut removals = stream::iter(removals).buffer_unordered(REMOVALS_AT_ONCE);
            while let Some(fate) = removals.next().await {
                match fate {
                    Ok(Fate::Unfinished) => reaped.unfinished += 1,
                    Ok(Fate::Ended) => reaped.ended += 1,
                    Ok(Fate::Nothing) => {}
                    Err(_) => reaped.failed += 1,
                }
            }
            // The listing is in the order in which the uploads began.
            match page.next {
                Some(next) if young.is_empty() => request.start_after = Some(next),
                _ => return Ok(reaped),
            }
        }
    }

    fn is_past_use(&self, key: &UploadKey, now: SystemTime) -> bool {
        let age_max = self.options.limits.upload_age_max + WRITE_MAX;
        key.id().is_older_than(age_max, now)
    }

    async fn reap(&self, key: UploadKey) -> Result<Fate> {
        match key {
            UploadKey::Session(id) => self.reap_session(&keys::upload(&id)).await,
            UploadKey::Tail(_, key) => {
                self.store.delete(&key, None).await?;
                Ok(Fate::Nothing)
            }
        }
    }

    async fn reap_session(&self, key: &Key) -> Result<Fate> {
        let Some(session) = self.read::<Session>(key).await? else { return Ok(Fate::Nothing) };
        let age = session.age();
        let (leftover, fate) = match session.value.state {
            // Its link may still be on its way, and a sweep must see until then that it names
            // bytes.
            State::Closed(_) if age <= REPLAY_MAX + WRITE_MAX => return Ok(Fate::Nothing),
            State::Open(open) => {
                let leftover = open.leftover();
                let state = State::Cancelled(leftover.clone());
                let cancelled = Session { state, ..session.value };
                match self.swap(key, Some(&session.etag), cancelled.encode()).await? {
                    Some(_) => (leftover, Fate::Unfinished),
                    None => return Ok(Fate::Nothing),
                }
            }
            State::Cancelled(leftover) => (leftover, Fate::Ended),
            // Its object stays, and so do the bytes of one that was never completed: a link may
            // name them. Parts that never became the object do not.
            State::Closed(closed) => {
                let parts = || Leftover::new(closed.multipart, Vec::new());
                (closed.spare.unwrap_or_else(parts), Fate::Ended)
            }
        };
        leftover.discard(self).await?;
        // Nobody writes it any more, and no session ever comes back under this id.
        self.store.delete(key, None).await?;
        Ok(fate)
    }
}
