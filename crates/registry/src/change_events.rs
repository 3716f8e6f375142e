//! The events of changes: each is queued before its change is sent, and carries it. Without a sink that
//! wants it nothing is written.
//!
//! A push queues the events of its tags beside its other writes, in the wave before the tags. That of the
//! manifest, which is in that wave itself, it queues while it reads, and withdraws it if the manifest turns
//! out to be there.

use jreg_oci::{Digest, Tag};

use crate::damaged::FoundRecord;
use crate::keys;
use crate::record::ManifestHeader;
use crate::tag::{TagVersion, TaggedManifest};
use crate::tag_record::TagRecord;
use crate::window::WriteWindow;
use crate::{ChangeId, Event, EventAction, Repository, Result};

/// The program that deletes tags by the rules of retention, as it is named in changes.
const RETENTION: &str = "jreg:retention";

impl Repository {
    fn event(&self, action: EventAction, change: ChangeId) -> Event {
        Event {
            repository: Some(self.name.clone()),
            actor: self.origin.actor().map(str::to_owned),
            request: self.origin.request_id().map(str::to_owned),
            ..Event::of_change(action, change)
        }
    }

    /// Queues the event of a push that is about to set a tag, after the push of its manifest. Returns the change that it carries; `None`:
    /// no sink wants it.
    pub(crate) async fn queue_tag_set(
        &self,
        window: WriteWindow,
        tag: &Tag,
        seen: &TagVersion,
        target: &TaggedManifest,
        pushed: Option<ChangeId>,
    ) -> Result<Option<ChangeId>> {
        let action = set_action(seen, target.is_restore);
        if !self.core.events.wants(action, Some(&self.name)) {
            return Ok(None);
        }
        let previous = seen.valid().map(|record| record.value.change().id);
        // After that of the manifest, which a reader of the events may need first.
        let change = ChangeId::after(previous.max(pushed), self.core.clock.now());
        let event = Event {
            tag: Some(tag.clone()),
            digest: Some(target.digest.clone()),
            media_type: Some(target.media_type.clone()),
            size: Some(target.size),
            previous_digest: seen.target().map(|target| target.digest.clone()),
            ..self.event(action, change)
        };
        self.core.queue_event(Some(window), &event).await?;
        Ok(Some(change))
    }

    /// The event of a change of a tag; `None`: it is no change.
    pub(crate) fn tag_event(
        &self,
        tag: &Tag,
        seen: &TagVersion,
        next: &TagRecord,
        is_restore: bool,
    ) -> Option<Event> {
        let change = next.change().id;
        if seen.valid().is_some_and(|record| record.value.change().id == change) {
            return None;
        }
        let before = seen.target();
        let event = match next.live() {
            Some(target) => Event {
                digest: Some(target.digest.clone()),
                media_type: Some(target.media_type.clone()),
                size: Some(target.size),
                previous_digest: before.map(|before| before.digest.clone()),
                ..self.event(set_action(seen, is_restore), change)
            },
            None => {
                let action = match self.origin.actor() {
                    Some(RETENTION) => EventAction::TagExpire,
                    _ => EventAction::TagDelete,
                };
                Event {
                    digest: before.map(|before| before.digest.clone()),
                    ..self.event(action, change)
                }
            }
        };
        Some(Event { tag: Some(tag.clone()), ..event })
    }

    /// The change by which a manifest may come into being, if a sink wants the event of that.
    pub(crate) fn new_push_event(&self) -> Option<ChangeId> {
        let is_wanted = self.core.events.wants(EventAction::ManifestPush, Some(&self.name));
        is_wanted.then(|| ChangeId::after(None, self.core.clock.now()))
    }

    /// Queues the event of a manifest that may come into being by this change.
    pub(crate) async fn queue_manifest_push(
        &self,
        window: WriteWindow,
        digest: &Digest,
        header: &ManifestHeader,
        change: Option<ChangeId>,
    ) -> Result<()> {
        let Some(change) = change else { return Ok(()) };
        let event = Event {
            digest: Some(digest.clone()),
            media_type: Some(header.media_type.clone()),
            size: Some(header.size),
            ..self.event(EventAction::ManifestPush, change)
        };
        self.core.queue_event(Some(window), &event).await
    }

    /// Withdraws the event of a change that was not made. If that fails, the sequencer finds out.
    pub(crate) async fn withdraw_event(&self, change: ChangeId) {
        if let Err(error) = self.core.store.delete_many(&[keys::queued_event(change)]).await {
            tracing::debug!(%change, %error, "cannot withdraw an event");
        }
    }

    /// Queues the event of a manifest that is about to be deleted. It is named by the change by which the
    /// manifest came into being; one of an earlier version by the delete.
    pub(crate) async fn queue_manifest_delete(
        &self,
        window: WriteWindow,
        digest: &Digest,
        header: Option<&ManifestHeader>,
    ) -> Result<()> {
        let delete = ChangeId::after(None, self.core.clock.now());
        let change = header.and_then(|header| header.change).unwrap_or(delete);
        let event = Event {
            digest: Some(digest.clone()),
            media_type: header.map(|header| header.media_type.clone()),
            size: header.map(|header| header.size),
            time_ms: delete.time_ms(),
            ..self.event(EventAction::ManifestDelete, change)
        };
        self.core.queue_event(Some(window), &event).await
    }
}

fn set_action(seen: &TagVersion, is_restore: bool) -> EventAction {
    if is_restore {
        return EventAction::TagRestore;
    }
    match (seen, seen.target()) {
        // It was there, whatever it pointed to.
        (FoundRecord::Damaged(_), _) | (_, Some(_)) => EventAction::TagMove,
        (FoundRecord::Absent | FoundRecord::Valid(_), None) => EventAction::TagCreate,
    }
}
