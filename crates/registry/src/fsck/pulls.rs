//! Pull times. What cannot be read, or is missing, is no damage to content, but retention must not take it for tags that
//! are not pulled.

use serde::de::DeserializeOwned;

use super::read::{RecordState, UnreadableCause, UnreadableRecord, read_state};
use super::repair::RepairPlan;
use super::{FindingKind, FindingSubject, FsckRun};
use crate::Result;
use crate::keys::{self, ParsedKey, PullsKey};
use crate::lease::LeaseRecord;
use crate::pulls::{PullsObject, PullsShard, PullsSince};
use crate::record::{JsonRecord, StoredRecord};

impl FsckRun<'_> {
    pub(super) async fn check_pulls(&mut self) -> Result<()> {
        let mut pages = self.core.list_pages(keys::PULLS);
        while let Some(page) = pages.next().await? {
            self.count(&page);
            for entry in &page.entries {
                let key = &entry.key;
                let bad = match ParsedKey::parse(key) {
                    Some(ParsedKey::Pulls(PullsKey::Object)) => {
                        self.bad::<PullsObject>(key).await?
                    }
                    Some(ParsedKey::Pulls(PullsKey::Shard(_))) => {
                        self.bad::<PullsShard>(key).await?
                    }
                    Some(ParsedKey::Pulls(PullsKey::Since)) => self.bad::<PullsSince>(key).await?,
                    Some(ParsedKey::Pulls(PullsKey::Lease)) => self.bad::<LeaseRecord>(key).await?,
                    _ => {
                        self.report_unknown(key).await?;
                        None
                    }
                };
                if let Some(bad) = bad {
                    self.report_lost_pulls(key, &bad).await?;
                }
            }
        }
        self.find_missing_shards().await
    }

    async fn bad<T: JsonRecord + DeserializeOwned>(
        &self,
        key: &jreg_storage::Key,
    ) -> Result<Option<UnreadableRecord>> {
        Ok(match read_state::<T>(&self.core, key).await? {
            RecordState::Unreadable(bad) => Some(bad),
            RecordState::Absent | RecordState::Valid(_) => None,
        })
    }

    async fn report_lost_pulls(
        &mut self,
        key: &jreg_storage::Key,
        bad: &UnreadableRecord,
    ) -> Result<()> {
        let remedy = match ParsedKey::parse(key) {
            Some(ParsedKey::Pulls(PullsKey::Shard(_))) => {
                RepairPlan::Rewrite(PullsShard::default().encode())
            }
            Some(ParsedKey::Pulls(PullsKey::Since)) => {
                RepairPlan::Rewrite(self.core.restarted_pulls().await?.encode())
            }
            // It is free, and written anew.
            Some(ParsedKey::Pulls(PullsKey::Lease)) => RepairPlan::Keep,
            _ => RepairPlan::Quarantine,
        };
        // Before what is lost is replaced.
        if self.options.repair && bad.cause == UnreadableCause::Damaged {
            self.core.reset_pulls_since().await?;
        }
        let of = FindingSubject::of(key);
        self.report_unreadable(FindingKind::PullTimesLost, &of, bad, remedy).await?;
        Ok(())
    }

    /// Finds shards that were written and are not there.
    async fn find_missing_shards(&mut self) -> Result<()> {
        let core = self.core.clone();
        let RecordState::Valid(since) =
            read_state::<PullsSince>(&core, &keys::pulls_since()).await?
        else {
            return Ok(());
        };
        let present = core.present_shards().await?;
        for shard in since.value.missing_of(present) {
            let key = keys::pulls_shard(shard);
            if core.exists(&key).await? {
                continue;
            }
            let repair = self.repair_by(async {
                core.reset_pulls_since().await?;
                Ok(core.swap(&key, None, PullsShard::default().encode()).await?.is_some())
            });
            let repair = repair.await;
            let detail = "a shard of pull times that was written is missing";
            self.report(FindingKind::PullTimesLost, &FindingSubject::of(&key), detail, repair);
        }
        Ok(())
    }
}
