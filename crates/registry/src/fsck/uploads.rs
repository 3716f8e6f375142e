//! Sessions of uploads, and the bytes that they name.

use futures::stream::{self, StreamExt};
use jreg_storage::{Key, Listed};

use super::mend::Remedy;
use super::read::{Found, look};
use super::{CheckPhase, FindingKind, Repair, Run, Subject};
use crate::fingerprint;
use crate::keys::{self, UploadKey};
use crate::record::{Link, Location, Stored, Versioned};
use crate::session::{Closed, Open, REPLAY_MAX, Session, State};
use crate::window::WRITE_MAX;
use crate::{Result, UploadId};

impl Run<'_> {
    /// Reads every session, and notes which places it names.
    pub(super) async fn check_uploads(&mut self) -> Result<()> {
        self.watch.phase(CheckPhase::Uploads);
        let core = self.core.clone();
        let mut pages = self.core.pages(keys::UPLOADS);
        while let Some(page) = pages.next().await? {
            self.count(&page);
            let (mut sessions, mut tails) = (Vec::new(), Vec::new());
            for entry in &page.entries {
                match keys::upload_key(&entry.key) {
                    Some(UploadKey::Session(_)) => sessions.push(&entry.key),
                    Some(UploadKey::Tail(id, _)) => tails.push((entry, id)),
                    None => self.report_unknown(&entry.key).await?,
                }
            }
            let reads: Vec<_> = sessions.iter().map(|key| look::<Session>(&core, key)).collect();
            let mut reads = stream::iter(reads).buffered(self.width());
            for key in sessions {
                let Some(found) = reads.next().await else { break };
                self.check_session(key, found?).await?;
            }
            for (entry, id) in tails {
                let age = page.date.duration_since(entry.last_modified).unwrap_or_default();
                if age > WRITE_MAX {
                    self.check_tail(entry, &id).await?;
                }
            }
        }
        Ok(())
    }

    async fn check_session(&mut self, key: &Key, found: Found<Session>) -> Result<()> {
        let read = match found {
            Found::Absent => return Ok(()),
            Found::Good(read) => read,
            Found::Bad(bad) => {
                let (kind, of) = (FindingKind::SessionUnreadable, Subject::of(key));
                let repair = self.report_bad(kind, &of, &bad, Remedy::PutAside).await?;
                self.seen.may_name_any |= repair != Repair::Done;
                return Ok(());
            }
        };
        for place in read.value.places() {
            self.seen.named.insert(fingerprint::key(&place));
        }
        match &read.value.state {
            State::Open(open) => self.check_open(key, &read, open).await,
            State::Closed(closed) => self.check_closed(key, &read, closed).await,
            State::Cancelled(_) => Ok(()),
        }
    }

    /// The bytes of an upload that goes on must be there, or it cannot.
    async fn check_open(
        &mut self,
        key: &Key,
        read: &Versioned<Session>,
        open: &Open,
    ) -> Result<()> {
        let Some(tail) = &open.tail else { return Ok(()) };
        let is_there = self.is_listed(tail) || self.is_whole(tail).await?;
        if is_there || self.core.etag(key).await?.as_ref() != Some(&read.etag) {
            return Ok(());
        }
        let state = State::Cancelled(open.clone().leftover());
        let cancelled = Session { state, ..read.value.clone() }.encode();
        let swap = async { Ok(self.core.swap(key, Some(&read.etag), cancelled).await?.is_some()) };
        let repair = self.mend(swap).await;
        let detail = format!("{} does not have its {} bytes", tail.key, tail.size_bytes);
        let subject = Subject { repository: Some(&read.value.repository), ..Subject::of(key) };
        self.report(FindingKind::UploadBytesMissing, &subject, detail, repair);
        Ok(())
    }

    /// Whoever finds a session closed may make its bytes appear, for a while; later they may have
    /// been collected.
    async fn check_closed(
        &mut self,
        key: &Key,
        read: &Versioned<Session>,
        closed: &Closed,
    ) -> Result<()> {
        let location = &closed.location;
        let is_settled = read.age() > REPLAY_MAX + WRITE_MAX;
        if !is_settled || self.is_listed(location) || self.is_whole(location).await? {
            return Ok(());
        }
        let link = keys::link(&closed.digest, &read.value.repository);
        let is_linked = match look::<Link>(&self.core, &link).await? {
            Found::Good(link) => link.value.live() == Some(location),
            Found::Absent => false,
            Found::Bad(_) => true,
        };
        // Of what a link names, the link's own finding tells.
        if is_linked || self.core.etag(key).await?.as_ref() != Some(&read.etag) {
            return Ok(());
        }
        let detail =
            format!("{} is not there: it was collected since, or never put together", location.key);
        let subject = Subject::content(key, &read.value.repository, &closed.digest);
        self.report(FindingKind::SessionBytesMissing, &subject, detail, Repair::None);
        Ok(())
    }

    /// An upload that goes on, or that is over, may leave tails behind, which go with it.
    async fn check_tail(&mut self, entry: &Listed, id: &UploadId) -> Result<()> {
        let has_session = self.core.exists(&keys::upload(id)).await?;
        if !has_session && self.core.exists(&entry.key).await? {
            let detail = format!("{} bytes of an upload that has no session", entry.size_bytes);
            self.report(FindingKind::TailStray, &Subject::of(&entry.key), detail, Repair::None);
        }
        Ok(())
    }

    /// Whether the listing has shown bytes at a place, as many as there should be.
    pub(super) fn is_listed(&self, location: &Location) -> bool {
        self.seen.bytes.contains(fingerprint::sized(&location.key, location.size_bytes))
    }

    async fn is_whole(&self, location: &Location) -> Result<bool> {
        match self.core.store.head(&location.key).await {
            Ok(stat) => Ok(stat.size_bytes == location.size_bytes),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
