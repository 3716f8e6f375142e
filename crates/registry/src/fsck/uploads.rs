//! Upload sessions, and the bytes that they name.

use futures::stream::{self, StreamExt};
use jreg_storage::{Key, Listed};

use super::read::{RecordState, read_state};
use super::repair::RepairPlan;
use super::{FindingKind, FindingSubject, FsckPhase, FsckRun, RepairStatus};
use crate::fingerprint;
use crate::keys::{self, UploadKey};
use crate::record::{Link, Location, StoredRecord, VersionedRecord};
use crate::session::{ClosedUpload, OpenUpload, REPLAY_MAX, SessionState, UploadSession};
use crate::window::WRITE_MAX;
use crate::{Result, UploadId};

impl FsckRun<'_> {
    /// Reads every session, and records the locations it references.
    pub(super) async fn check_uploads(&mut self) -> Result<()> {
        self.watch.phase(FsckPhase::Uploads);
        let core = self.core.clone();
        let mut pages = self.core.list_pages(keys::UPLOADS);
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
            let reads: Vec<_> =
                sessions.iter().map(|key| read_state::<UploadSession>(&core, key)).collect();
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

    async fn check_session(&mut self, key: &Key, found: RecordState<UploadSession>) -> Result<()> {
        let read = match found {
            RecordState::Absent => return Ok(()),
            RecordState::Valid(read) => read,
            RecordState::Unreadable(bad) => {
                let (kind, of) = (FindingKind::SessionUnreadable, FindingSubject::of(key));
                let repair =
                    self.report_unreadable(kind, &of, &bad, RepairPlan::Quarantine).await?;
                self.seen.may_name_any |= repair != RepairStatus::Done;
                return Ok(());
            }
        };
        for place in read.value.object_keys() {
            self.seen.named.insert(fingerprint::key(&place));
        }
        match &read.value.state {
            SessionState::Open(open) => self.check_open(key, &read, open).await,
            SessionState::Closed(closed) => self.check_closed(key, &read, closed).await,
            SessionState::Cancelled(_) => Ok(()),
        }
    }

    /// The bytes of an open session must exist, or the upload cannot continue.
    async fn check_open(
        &mut self,
        key: &Key,
        read: &VersionedRecord<UploadSession>,
        open: &OpenUpload,
    ) -> Result<()> {
        let Some(tail) = &open.tail else { return Ok(()) };
        let is_there = self.is_listed(tail) || self.is_whole(tail).await?;
        if is_there || self.core.read_etag(key).await?.as_ref() != Some(&read.etag) {
            return Ok(());
        }
        let state = SessionState::Cancelled(open.clone().into_abandoned());
        let cancelled = UploadSession { state, ..read.value.clone() }.encode();
        let swap = async { Ok(self.core.swap(key, Some(&read.etag), cancelled).await?.is_some()) };
        let repair = self.repair_by(swap).await;
        let detail = format!("{} does not have its {} bytes", tail.key, tail.size_bytes);
        let subject =
            FindingSubject { repository: Some(&read.value.repository), ..FindingSubject::of(key) };
        self.report(FindingKind::UploadBytesMissing, &subject, detail, repair);
        Ok(())
    }

    /// A request that finds a session closed may still make its bytes appear, for a while; later GC may
    /// have removed them.
    async fn check_closed(
        &mut self,
        key: &Key,
        read: &VersionedRecord<UploadSession>,
        closed: &ClosedUpload,
    ) -> Result<()> {
        let location = &closed.location;
        let is_settled = read.age() > REPLAY_MAX + WRITE_MAX;
        if !is_settled || self.is_listed(location) || self.is_whole(location).await? {
            return Ok(());
        }
        let link = keys::link(&closed.digest, &read.value.repository);
        let is_linked = match read_state::<Link>(&self.core, &link).await? {
            RecordState::Valid(link) => link.value.live() == Some(location),
            RecordState::Absent => false,
            RecordState::Unreadable(_) => true,
        };
        // The link has a finding of its own.
        if is_linked || self.core.read_etag(key).await?.as_ref() != Some(&read.etag) {
            return Ok(());
        }
        let detail = format!(
            "{} does not exist: GC has removed it since, or it was never completed",
            location.key
        );
        let subject = FindingSubject::content(key, &read.value.repository, &closed.digest);
        self.report(FindingKind::SessionBytesMissing, &subject, detail, RepairStatus::None);
        Ok(())
    }

    /// A session, open or not, may leave parts behind, which are removed with it.
    async fn check_tail(&mut self, entry: &Listed, id: &UploadId) -> Result<()> {
        let has_session = self.core.exists(&keys::upload(id)).await?;
        if !has_session && self.core.exists(&entry.key).await? {
            let detail = format!("{} bytes of an upload without a session", entry.size_bytes);
            self.report(
                FindingKind::UploadPartOrphan,
                &FindingSubject::of(&entry.key),
                detail,
                RepairStatus::None,
            );
        }
        Ok(())
    }

    /// Whether the listing has shown bytes of the right size at a location.
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
