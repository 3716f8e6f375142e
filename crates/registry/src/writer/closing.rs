//! How an upload ends: closed with its digest, cancelled, or rewound.

use std::sync::Arc;

use jreg_oci::{Algorithm, Digest, Hasher};
use jreg_storage::{ErrorKind, Multipart, Put, SequenceOutcome, StoreChange};

use super::part_pipeline::StoredBytes;
use super::session_record::SavedProgress;
use super::{NEW_KEY, UploadWriter};
use crate::budget::BudgetReservation;
use crate::core::{Core, swap_mode};
use crate::keys;
use crate::pace::ReadPace;
use crate::record::{Link, Location, StoredRecord};
use crate::rules::Rule;
use crate::session::{AbandonedBytes, ClosedUpload, SessionState};
use crate::upload_bytes::is_absent_or_done;
use crate::window::WriteWindow;
use crate::{Error, Result};

/// How far closing an upload has come.
#[derive(Debug)]
pub(crate) enum CloseOutcome {
    /// A link references its bytes.
    Linked(Location),
    /// It is closed, and its bytes may be linked within the window.
    Closed(Box<ClosedUpload>, WriteWindow),
}

impl UploadWriter {
    /// The digest of all received bytes. If the session hashed with another algorithm than
    /// `wanted`, the bytes are completed where no record references them, and read back.
    pub(crate) async fn digest(&mut self, wanted: Algorithm) -> Result<Digest> {
        if self.hasher.algorithm() == wanted {
            return Ok(self.hasher.clone().finish());
        }
        let (location, parts) = self.store_rest().await?;
        if let Some(parts) = parts {
            self.complete_parts(&parts, &location).await?;
        }
        self.pipeline.set_stored(StoredBytes::Object(location.clone()));
        let progress = self.progress(Some(location.clone()));
        self.record.save(progress, None).await?;
        Ok(self.core.hash_bytes(&location, wanted, &ReadPace::new(0)).await?)
    }

    /// Puts the parts together, unless an earlier request has.
    async fn complete_parts(&self, parts: &Multipart, location: &Location) -> Result<()> {
        if self.core.complete_parts(parts).await? || self.core.is_stored(location).await? {
            return Ok(());
        }
        Err(self.record.unknown())
    }

    /// Marks the upload as closed, with its digest right, and links its bytes if the store makes
    /// all these changes durable at once. An upload that was never recorded stays so. Without
    /// `has_record` no repository had a record of the blob a moment ago.
    pub(crate) async fn close(
        &mut self,
        digest: &Digest,
        has_record: bool,
    ) -> Result<CloseOutcome> {
        let core = Arc::clone(&self.core);
        self.record.check_window()?;
        if core.store.capabilities().combines_changes && core.rules.keep(Rule::CloseFirst) {
            return self.close_and_link(digest, has_record).await;
        }
        let (location, parts) = self.store_rest().await?;
        let closed = ClosedUpload::new(digest.clone(), location, parts);
        let mut window = core.open_window();
        if !self.record.is_recorded() {
            window = self.record.unreferenced_since().unwrap_or(window);
        } else if core.rules.keep(Rule::CloseFirst) {
            self.record.check_window()?;
            self.record.swap(SessionState::Closed(closed.clone())).await?;
        }
        Ok(CloseOutcome::Closed(Box::new(closed), window))
    }

    async fn close_and_link(&mut self, digest: &Digest, has_record: bool) -> Result<CloseOutcome> {
        let core = Arc::clone(&self.core);
        let (closed, before, _room) = self.closing_changes(digest).await?;
        self.record.check_window()?;
        let window = core.open_window();
        let link = Link::Live(closed.location.clone()).encode();
        let key = keys::link(digest, self.record.repository());
        let deleted = match has_record {
            true => core.deleted_link(&key).await?,
            false => None,
        };
        let mode = swap_mode(deleted.as_ref());
        let put = Put::new(key, link, mode);
        match core.put_after(window, before, put).await {
            Ok(SequenceOutcome::All(_)) => Ok(CloseOutcome::Linked(closed.location)),
            // The bytes are not complete yet, or the repository has another link.
            Ok(SequenceOutcome::Stopped { error, .. })
                if error.is_conflict() || is_absent_or_done(error.kind()) =>
            {
                Ok(CloseOutcome::Closed(Box::new(closed), window))
            }
            Ok(SequenceOutcome::Stopped { error, .. }) => {
                let error = error.into();
                if !self.is_recorded() {
                    core.discard_unlinked(&closed.location, &error).await;
                }
                Err(error)
            }
            Err(Error::Store(error)) if error.is_conflict() && self.is_recorded() => {
                Err(self.record.superseded())
            }
            Err(error) => Err(self.record.part_error(error)),
        }
    }

    /// What closes an upload before its link is written: its closed session, if it has one, and what
    /// makes the object of its bytes, with the room that those take of the budget.
    async fn closing_changes(
        &mut self,
        digest: &Digest,
    ) -> Result<(ClosedUpload, Vec<StoreChange>, Option<BudgetReservation>)> {
        if !self.is_recorded() && !self.has_parts() {
            let (key, part) = (self.new_key(), self.pipeline.memory.take());
            let location = Location::new(key.clone(), part.bytes.len() as u64);
            let put = Put::new(key, part.bytes, NEW_KEY);
            let closed = ClosedUpload::new(digest.clone(), location, None);
            return Ok((closed, vec![StoreChange::Put(put)], part.reservation));
        }
        let (location, parts) = self.store_rest().await?;
        let closed = ClosedUpload::new(digest.clone(), location, parts.clone());
        let session = self
            .is_recorded()
            .then(|| StoreChange::Put(self.record.put(SessionState::Closed(closed.clone()))));
        let before = session.into_iter().chain(parts.map(StoreChange::Complete)).collect();
        Ok((closed, before, None))
    }

    /// Marks the upload as closed with a copy of its bytes that a link references, and removes its
    /// own: no link ever referenced them, and now none ever will. If another request took the
    /// upload over, its bytes are that one's.
    ///
    /// # Errors
    ///
    /// [`Error::UploadSuperseded`], [`Error::Store`].
    pub(crate) async fn close_deduplicated(
        &mut self,
        digest: &Digest,
        copy: Location,
    ) -> Result<()> {
        let own = self.abandon_bytes().await?;
        if self.is_recorded() {
            let closed = ClosedUpload::new(digest.clone(), copy, None);
            let closed = ClosedUpload { replaced: Some(own.clone()), ..closed };
            self.record.swap(SessionState::Closed(closed)).await?;
        }
        own.discard(&self.core).await
    }

    /// Without [`Rule::KeepOwnBytes`]: trusts that another copy will still be there.
    pub(crate) async fn free_before_link(&mut self) -> Result<()> {
        match self.core.rules.keep(Rule::KeepOwnBytes) {
            true => Ok(()),
            false => self.abandon_bytes().await?.discard(&self.core).await,
        }
    }

    /// After an error that a retry meets again, like that of a full disk: frees what this request
    /// stored beyond the session's record, or all of it if the upload began with this request. What
    /// cannot be freed now is left to the next request or the reaper.
    pub(crate) async fn free_after(&mut self, error: &Error) {
        self.abort_unrecorded().await;
        if !self.is_recorded() || !is_definite(error) {
            return;
        }
        self.pipeline.memory.clear();
        let SavedProgress { offset, tail, .. } = self.record.saved();
        let (offset, tail_bytes) = (*offset, tail.as_ref().map_or(0, |tail| tail.size_bytes));
        let in_parts = offset.saturating_sub(tail_bytes);
        self.pipeline.truncate(in_parts, self.record.claim).await.ok();
        if self.begun_at == 0 && offset > 0 {
            self.rewind().await.ok();
        }
    }

    /// Frees the bytes of an upload of which no record was ever sent, if this request has failed: no
    /// other will. If this fails, the next run of the store frees them.
    async fn abort_unrecorded(&mut self) {
        if !self.record.may_be_recorded()
            && let Ok(bytes) = self.abandon_bytes().await
        {
            bytes.discard(&self.core).await.ok();
        }
    }

    /// Stores the rest in memory, and returns the location of the whole, or where it will be once
    /// its multipart upload is completed.
    async fn store_rest(&mut self) -> Result<(Location, Option<Multipart>)> {
        if !self.has_parts() {
            let location = match self.pipeline.take_tail() {
                Some(object) => object,
                None => self.put_object(self.new_key()).await?,
            };
            return Ok((location, None));
        }
        self.load_tail().await?;
        if !self.pipeline.memory.is_empty() {
            self.send_part().await?;
        }
        match self.is_recorded() {
            true => self.land_all().await?,
            false => self.land_parts().await?,
        }
        let parts = self.pipeline.parts().cloned().ok_or(Error::Stopped)?;
        let location = Location::new(parts.key.clone(), self.offset());
        Ok((location, Some(parts)))
    }

    /// Gives the upload up: first the session, then the bytes.
    pub(crate) async fn cancel(&mut self) -> Result<()> {
        let bytes = self.abandon_bytes().await?;
        self.record.swap(SessionState::Cancelled(bytes.clone())).await?;
        bytes.discard(&self.core).await
    }

    /// Deletes an upload whose id no client knows: first the bytes, so that this helps a full
    /// store, then the session.
    pub(crate) async fn abandon(&mut self) -> Result<()> {
        if !self.is_recorded() {
            self.abort_unrecorded().await;
            return Ok(());
        }
        self.abandon_bytes().await?.discard(&self.core).await?;
        self.record.swap(SessionState::Cancelled(AbandonedBytes::default())).await
    }

    /// Resets the upload to empty, and deletes the received bytes.
    pub(crate) async fn rewind(&mut self) -> Result<()> {
        if !self.is_recorded() {
            self.abort_unrecorded().await;
            return Ok(());
        }
        let bytes = self.abandon_bytes().await?;
        let hash = Hasher::new(self.hasher.algorithm()).state();
        self.record.save(SavedProgress { offset: 0, hash, tail: None }, None).await?;
        bytes.discard(&self.core).await
    }

    /// The upload's bytes, once none of them is in flight.
    pub(super) async fn abandon_bytes(&mut self) -> Result<AbandonedBytes> {
        self.pipeline.drain().await?;
        self.record.forget_reference();
        let (parts, tail) = self.pipeline.take_stored().into_parts_and_tail();
        let saved = self.record.take_tail().filter(|saved| tail.as_ref() != Some(saved));
        let objects = tail.into_iter().chain(saved).map(|tail| tail.key).collect();
        Ok(AbandonedBytes::new(parts, objects))
    }
}

impl Core {
    /// Removes bytes without a session after the only write that would have linked them has failed, if
    /// it definitely has. If this fails, they are left to the sweep.
    pub(crate) async fn discard_unlinked(&self, bytes: &Location, error: &Error) {
        if is_definite(error) {
            self.discard_orphan(Some(bytes.clone())).await;
        }
    }
}

/// Whether nothing was written, and a retry would fail too: the store is full, or the blob is too
/// large.
pub(super) fn is_definite(error: &Error) -> bool {
    match error {
        Error::Store(error) => matches!(error.kind(), ErrorKind::Full | ErrorKind::TooLarge),
        Error::BlobTooLarge { .. } => true,
        _ => false,
    }
}
