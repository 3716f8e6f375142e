//! The format marker, unknown keys, and what earlier repairs have quarantined.

use jreg_storage::{Key, ListRequest, PutMode};
use serde::{Deserialize, Serialize};

use super::read::{RawState, RecordState, UnreadableCause, UnreadableRecord, read_raw, read_state};
use super::repair::RepairPlan;
use super::{FindingKind, FindingSubject, FsckPhase, FsckRun, RepairStatus};
use crate::format::FormatMarker;
use crate::keys::ParsedKey;
use crate::record::{AuthRecord, JsonRecord};
use crate::{FORMAT_VERSION, Result, keys};

/// A record of which only the form is checked.
#[derive(Serialize, Deserialize)]
struct AnyRecord(serde_json::Map<String, serde_json::Value>);

impl JsonRecord for AnyRecord {}

impl FsckRun<'_> {
    pub(super) async fn check_keys(&mut self) -> Result<()> {
        self.watch.phase(FsckPhase::Keys);
        self.check_roots().await?;
        let mut pages = self.core.list_pages(keys::QUARANTINE);
        while let Some(page) = pages.next().await? {
            self.count(&page);
            for entry in &page.entries {
                let detail = format!("{} bytes that a repair has quarantined", entry.size_bytes);
                let subject = FindingSubject::of(&entry.key);
                self.report(FindingKind::Quarantined, &subject, detail, RepairStatus::None);
            }
        }
        // Notes can be lost without harm.
        let mut pages = self.core.list_pages(keys::NOTES);
        while let Some(page) = pages.next().await? {
            self.count(&page);
        }
        self.check_events().await?;
        self.check_mirror_records().await?;
        self.check_marker().await
    }

    async fn check_events(&mut self) -> Result<()> {
        let mut pages = self.core.list_pages(keys::EVENTS);
        while let Some(page) = pages.next().await? {
            self.count(&page);
            for entry in &page.entries {
                if ParsedKey::parse(&entry.key).is_none() {
                    self.report_unknown(&entry.key).await?;
                } else if let RecordState::Unreadable(bad) =
                    read_state::<AnyRecord>(&self.core, &entry.key).await?
                {
                    let subject = FindingSubject::of(&entry.key);
                    let (kind, repair) = (FindingKind::EventUnreadable, RepairPlan::Quarantine);
                    self.report_unreadable(kind, &subject, &bad, repair).await?;
                }
            }
        }
        Ok(())
    }

    /// Tags of mirrors and claims are a cache: one that cannot be read is asked for again.
    async fn check_mirror_records(&mut self) -> Result<()> {
        for prefix in [keys::MIRROR, keys::FILLS] {
            let mut pages = self.core.list_pages(prefix);
            while let Some(page) = pages.next().await? {
                self.count(&page);
                for entry in &page.entries {
                    if !ParsedKey::parse(&entry.key).is_some_and(|key| key.is_of_mirror()) {
                        self.report_unknown(&entry.key).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn check_marker(&mut self) -> Result<()> {
        let key = keys::format();
        let subject = FindingSubject::of(&key);
        let bad = match read_raw(&self.core, &key).await? {
            RawState::Absent => {
                let create = async {
                    self.core
                        .store
                        .put(&key, FormatMarker::new().encode(), PutMode::Create)
                        .await?;
                    Ok(true)
                };
                let repair = self.repair_by(create).await;
                let detail = "the format marker of the store is missing";
                self.report(FindingKind::FormatMissing, &subject, detail, repair);
                return Ok(());
            }
            RawState::Whole(record) => {
                match FormatMarker::decode(&record.bytes).map(|marker| marker.format) {
                    Some(FORMAT_VERSION) => return Ok(()),
                    Some(version) => {
                        let reason = format!("it names the format version {version}");
                        UnreadableRecord { reason, cause: UnreadableCause::Newer, record: None }
                    }
                    None => {
                        let reason = "it has no format version".to_owned();
                        UnreadableRecord {
                            reason,
                            cause: UnreadableCause::Damaged,
                            record: Some(record),
                        }
                    }
                }
            }
            RawState::Unreadable(bad) => bad,
        };
        let remedy = RepairPlan::Rewrite(FormatMarker::new().encode());
        self.report_unreadable(FindingKind::FormatDamaged, &subject, &bad, remedy).await?;
        Ok(())
    }

    /// Finds keys below unknown prefixes.
    async fn check_roots(&mut self) -> Result<()> {
        let mut request = ListRequest { delimiter: true, ..ListRequest::below("") };
        let (mut unknown, mut has_pulls) = (Vec::new(), false);
        loop {
            let page = self.core.store.list(&request).await?;
            self.count(&page);
            for entry in &page.entries {
                if entry.key != keys::format() {
                    self.report_unknown(&entry.key).await?;
                }
            }
            has_pulls |= page.prefixes.iter().any(|prefix| prefix == keys::PULLS);
            let is_ours = |prefix: &String| keys::ROOTS.contains(&prefix.as_str());
            unknown.extend(page.prefixes.into_iter().filter(|prefix| !is_ours(prefix)));
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => break,
            }
        }
        if has_pulls {
            self.check_pulls().await?;
        }
        let mut pages = self.core.list_pages(keys::AUTH);
        while let Some(page) = pages.next().await? {
            self.count(&page);
            for entry in &page.entries {
                match ParsedKey::parse(&entry.key) {
                    None => self.report_unknown(&entry.key).await?,
                    Some(_) => self.check_auth_record(&entry.key).await?,
                }
            }
        }
        for prefix in unknown {
            let mut pages = self.core.list_pages(prefix);
            while let Some(page) = pages.next().await? {
                self.count(&page);
                for entry in &page.entries {
                    self.report_unknown(&entry.key).await?;
                }
            }
        }
        Ok(())
    }

    /// Its content may be a secret: no part of it is in a finding, and nothing of it is copied.
    async fn check_auth_record(&mut self, key: &Key) -> Result<()> {
        let RecordState::Unreadable(mut bad) = read_state::<AuthRecord>(&self.core, key).await?
        else {
            return Ok(());
        };
        if bad.cause == UnreadableCause::Damaged {
            "it is no record, or does not match its checksum".clone_into(&mut bad.reason);
        }
        let of = FindingSubject::of(key);
        self.report_unreadable(FindingKind::AuthUnreadable, &of, &bad, RepairPlan::Keep).await?;
        Ok(())
    }

    /// Reports an unknown key, if it still exists.
    pub(super) async fn report_unknown(&mut self, key: &Key) -> Result<()> {
        if self.core.exists(key).await? {
            let detail = "no known version of jreg writes such a key";
            self.report(
                FindingKind::UnknownKey,
                &FindingSubject::of(key),
                detail,
                RepairStatus::None,
            );
        }
        Ok(())
    }
}
