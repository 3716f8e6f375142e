//! The bytes of blobs, as listings show them.

use super::{FindingKind, Repair, Run, Subject};
use crate::Result;
use crate::check::CheckPhase;
use crate::fingerprint;
use crate::keys::{self, Place};

impl Run<'_> {
    /// Notes which bytes are where.
    pub(super) async fn list_bytes(&mut self) -> Result<()> {
        self.watch.phase(CheckPhase::Bytes);
        let mut pages = self.pages(keys::BLOBS);
        while let Some(page) = pages.next().await? {
            self.count(&page);
            for entry in &page.entries {
                match Place::of(&entry.key) {
                    Some(_) => {
                        let bytes = fingerprint::sized(&entry.key, entry.size_bytes);
                        self.seen.bytes.insert(bytes);
                    }
                    None => self.report_unknown(&entry.key).await?,
                }
            }
        }
        self.seen.bytes.seal();
        Ok(())
    }

    /// Tells of a key that nobody knows, if it is still there.
    pub(super) async fn report_unknown(&mut self, key: &jreg_storage::Key) -> Result<()> {
        if self.core.exists(key).await? {
            let detail = "no version of jreg that this one knows writes such a key";
            self.report(FindingKind::UnknownKey, &Subject::of(key), detail, Repair::None);
        }
        Ok(())
    }
}
