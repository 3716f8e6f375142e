//! Histories of tags, and copies of deleted manifests.

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use jreg_oci::{Digest, Manifest, RepositoryName};
use jreg_storage::Key;

use super::read::{RawState, RecordState, UnreadableCause, UnreadableRecord, read_raw, read_state};
use super::repair::RepairPlan;
use super::{FindingKind, FindingSubject, FsckPhase, FsckRun};
use crate::core::Core;
use crate::keys::{self, ParsedKey};
use crate::manifest_copy::ManifestCopy;
use crate::record::StoredRecord;
use crate::tag_record::TagRecord;
use crate::{ChangeId, Error, Result};

/// A change in the history of a tag, as it is archived.
struct ArchivedTag(TagRecord);

impl StoredRecord for ArchivedTag {
    fn decode(bytes: &Bytes) -> Result<Self, String> {
        TagRecord::decode_archived(bytes).map(Self)
    }

    fn encode(&self) -> Bytes {
        self.0.encode_archived()
    }

    fn encode_over(&self, _seen: &Bytes) -> Bytes {
        self.encode()
    }
}

/// What a key of the history, or of a deleted manifest, names.
enum KeptRecord {
    Entry(RepositoryName, Option<Digest>),
    Copy(RepositoryName, Digest),
    /// It is its key that counts.
    Mark,
    Unknown,
}

/// Reads a record; what is wrong with it.
async fn read(core: &Core, key: &Key) -> Result<(KeptRecord, Option<UnreadableRecord>)> {
    Ok(match ParsedKey::parse(key) {
        Some(ParsedKey::History(name, _, change, digest)) => {
            let bad = read_entry(core, key, change, digest.as_ref()).await?;
            (KeptRecord::Entry(name, digest), bad)
        }
        Some(ParsedKey::ManifestCopy(name, digest, _)) => {
            let bad = read_copy(core, key, &digest).await?;
            (KeptRecord::Copy(name, digest), bad)
        }
        Some(ParsedKey::PurgeMark(..)) => (KeptRecord::Mark, None),
        _ => (KeptRecord::Unknown, None),
    })
}

async fn read_entry(
    core: &Core,
    key: &Key,
    change: ChangeId,
    digest: Option<&Digest>,
) -> Result<Option<UnreadableRecord>> {
    let entry = match read_state::<ArchivedTag>(core, key).await? {
        RecordState::Absent => return Ok(None),
        RecordState::Unreadable(bad) => return Ok(Some(bad)),
        RecordState::Valid(read) => read.value.0,
    };
    let is_of_key =
        entry.change().id == change && entry.live().map(|target| &target.digest) == digest;
    match is_of_key {
        true => Ok(None),
        false => wrong(core, key, "it is about another change than its key".to_owned()).await,
    }
}

async fn read_copy(core: &Core, key: &Key, digest: &Digest) -> Result<Option<UnreadableRecord>> {
    let copy = match read_state::<ManifestCopy>(core, key).await? {
        RecordState::Absent => return Ok(None),
        RecordState::Unreadable(bad) => return Ok(Some(bad)),
        RecordState::Valid(read) => read.value,
    };
    let stored = match core.verified(key.clone(), digest, copy.manifest).await {
        Ok(stored) => stored,
        Err(Error::Damaged { reason, .. }) => return wrong(core, key, reason).await,
        Err(error) => return Err(error),
    };
    match Manifest::parse_stored(&stored.media_type, &stored.bytes) {
        Ok(_) => Ok(None),
        Err(error) => wrong(core, key, error.to_string()).await,
    }
}

/// A record whose content is wrong. It is written once, so that it is the one that was read.
async fn wrong(core: &Core, key: &Key, reason: String) -> Result<Option<UnreadableRecord>> {
    Ok(match read_raw(core, key).await? {
        RawState::Absent => None,
        RawState::Unreadable(bad) => Some(bad),
        RawState::Whole(record) => {
            let record = Some(record);
            Some(UnreadableRecord { reason, cause: UnreadableCause::Damaged, record })
        }
    })
}

impl FsckRun<'_> {
    /// Reads every entry of a history, and every copy of a deleted manifest.
    pub(super) async fn check_history(&mut self) -> Result<()> {
        self.watch.phase(FsckPhase::History);
        let core = self.core.clone();
        for prefix in [keys::HISTORY, keys::DELETED_MANIFESTS] {
            let mut pages = self.core.list_pages(prefix);
            while let Some(page) = pages.next().await? {
                self.count(&page);
                let reads: Vec<_> =
                    page.entries.iter().map(|entry| read(&core, &entry.key)).collect();
                let mut reads = stream::iter(reads).buffered(self.width());
                for entry in &page.entries {
                    let Some(found) = reads.next().await else { break };
                    let (kept, bad) = found?;
                    self.check_kept(&entry.key, &kept, bad).await?;
                }
            }
        }
        Ok(())
    }

    async fn check_kept(
        &mut self,
        key: &Key,
        kept: &KeptRecord,
        bad: Option<UnreadableRecord>,
    ) -> Result<()> {
        let (kind, of) = match kept {
            KeptRecord::Entry(name, digest) => {
                let repository = Some(name);
                let of = FindingSubject { key, repository, digest: digest.as_ref() };
                (FindingKind::HistoryUnreadable, of)
            }
            KeptRecord::Copy(name, digest) => {
                (FindingKind::CopyUnreadable, FindingSubject::content(key, name, digest))
            }
            KeptRecord::Mark => return Ok(()),
            KeptRecord::Unknown => return self.report_unknown(key).await,
        };
        if let Some(bad) = bad {
            self.report_unreadable(kind, &of, &bad, RepairPlan::Quarantine).await?;
        }
        Ok(())
    }
}
