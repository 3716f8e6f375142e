//! The mark of the format, keys that nobody knows, and what earlier checks have put aside.

use jreg_storage::{Key, ListRequest, PutMode};

use super::mend::Remedy;
use super::read::{Bad, Cause, Raw, look_raw};
use super::{CheckPhase, FindingKind, Repair, Run, Subject};
use crate::keys::Place;
use crate::registry::{format_marker, marked_format};
use crate::{FORMAT_VERSION, Result, keys};

impl Run<'_> {
    pub(super) async fn check_keys(&mut self) -> Result<()> {
        self.watch.phase(CheckPhase::Keys);
        self.check_roots().await?;
        let mut pages = self.core.pages(keys::QUARANTINE);
        while let Some(page) = pages.next().await? {
            self.count(&page);
            for entry in &page.entries {
                let detail = format!("{} bytes that a repair put aside", entry.size_bytes);
                let subject = Subject::of(&entry.key);
                self.report(FindingKind::Quarantined, &subject, detail, Repair::None);
            }
        }
        // Whatever lies among the notes is nobody's loss.
        let mut pages = self.core.pages(keys::NOTES);
        while let Some(page) = pages.next().await? {
            self.count(&page);
        }
        self.check_marker().await
    }

    async fn check_marker(&mut self) -> Result<()> {
        let key = keys::format();
        let subject = Subject::of(&key);
        let bad = match look_raw(&self.core, &key).await? {
            Raw::Absent => {
                let create = async {
                    self.core.store.put(&key, format_marker(), PutMode::Create).await?;
                    Ok(true)
                };
                let repair = self.mend(create).await;
                let detail = "the store is not marked as a registry's";
                self.report(FindingKind::FormatMissing, &subject, detail, repair);
                return Ok(());
            }
            Raw::Whole(record) => match marked_format(&record.bytes) {
                Some(FORMAT_VERSION) => return Ok(()),
                Some(version) => {
                    let reason = format!("it names the format version {version}");
                    Bad { reason, cause: Cause::Newer, record: None }
                }
                None => {
                    let reason = "it names no format version".to_owned();
                    Bad { reason, cause: Cause::Damaged, record: Some(record) }
                }
            },
            Raw::Bad(bad) => bad,
        };
        let remedy = Remedy::Rewrite(format_marker());
        self.report_bad(FindingKind::FormatDamaged, &subject, &bad, remedy).await?;
        Ok(())
    }

    /// Looks for keys that start like none of ours.
    async fn check_roots(&mut self) -> Result<()> {
        let mut request = ListRequest { delimiter: true, ..ListRequest::below("") };
        let mut unknown = Vec::new();
        loop {
            let page = self.core.store.list(&request).await?;
            self.count(&page);
            for entry in &page.entries {
                if entry.key != keys::format() {
                    self.report_unknown(&entry.key).await?;
                }
            }
            let is_ours = |prefix: &String| keys::ROOTS.contains(&prefix.as_str());
            unknown.extend(page.prefixes.into_iter().filter(|prefix| !is_ours(prefix)));
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => break,
            }
        }
        let mut pages = self.core.pages(keys::AUTH);
        while let Some(page) = pages.next().await? {
            self.count(&page);
            for entry in page.entries.iter().filter(|entry| Place::of(&entry.key).is_none()) {
                self.report_unknown(&entry.key).await?;
            }
        }
        for prefix in unknown {
            let mut pages = self.core.pages(prefix);
            while let Some(page) = pages.next().await? {
                self.count(&page);
                for entry in &page.entries {
                    self.report_unknown(&entry.key).await?;
                }
            }
        }
        Ok(())
    }

    /// Tells of a key that nobody knows, if it is still there.
    pub(super) async fn report_unknown(&mut self, key: &Key) -> Result<()> {
        if self.core.exists(key).await? {
            let detail = "no version of jreg that this one knows writes such a key";
            self.report(FindingKind::UnknownKey, &Subject::of(key), detail, Repair::None);
        }
        Ok(())
    }
}
