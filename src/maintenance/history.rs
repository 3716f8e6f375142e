//! `jreg tag`, `jreg manifest` and `jreg purge`: the history of tags, deleted manifests, restores, and
//! removal for good.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use jreg_oci::{Digest, RepositoryName, Tag};
use jreg_registry::{
    ChangeOrigin, DeletedManifest, MaySetTag, PageRequest, PurgeReport, ReferencePrecondition,
    Registry, Repository, Result, TagHistoryEntry, TagTransition,
};
use jreg_storage::error_chain;
use jreg_telemetry::audit::TagChangeAudit;
use serde::{Deserialize, Serialize};

use super::print::count;

/// How many items are asked for at a time.
const PAGE_ITEMS: usize = 1000;
/// Maximum number of pages: more than there are in any history.
const PAGES_MAX: usize = 10_000;

/// An operation on what is kept of the past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum HistoryRequest {
    TagHistory {
        repository: RepositoryName,
        tag: Tag,
    },
    TagRestore {
        repository: RepositoryName,
        tag: Tag,
        digest: Digest,
        /// What the tag must point to.
        from: Option<Digest>,
    },
    ListDeleted {
        repository: RepositoryName,
    },
    ManifestRestore {
        repository: RepositoryName,
        digest: Digest,
        /// Whether its tags are set again.
        tags: bool,
    },
    Purge {
        repository: RepositoryName,
        digest: Digest,
        force: bool,
    },
}

/// Result of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "did", rename_all = "kebab-case")]
pub enum HistoryReport {
    TagHistory {
        repository: RepositoryName,
        tag: Tag,
        history: Vec<TagHistoryInfo>,
        /// The last known pull, to the minute.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pulled: Option<String>,
    },
    TagRestore {
        repository: RepositoryName,
        changes: Vec<TagChangeInfo>,
    },
    ListDeleted {
        repository: RepositoryName,
        manifests: Vec<DeletedManifestInfo>,
    },
    ManifestRestore {
        repository: RepositoryName,
        digest: Digest,
        changes: Vec<TagChangeInfo>,
        /// Tags that exist again, and stay what they are.
        tags_kept: Vec<Tag>,
        /// Why not every tag was set.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failed: Option<String>,
    },
    Purge {
        repository: RepositoryName,
        digest: Digest,
        changes: Vec<TagChangeInfo>,
        purged: PurgeReport,
        /// Minimum time between the two sweeps after which bytes are gone.
        sweeps_apart_s: u64,
    },
}

/// One change in the history of a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagHistoryInfo {
    pub change: String,
    pub time: String,
    /// What the tag pointed to from then on; `None`: it was deleted.
    pub digest: Option<Digest>,
    /// When the next change replaced it.
    pub until: Option<String>,
    pub actor: Option<String>,
    pub request_id: Option<String>,
}

/// A deleted manifest that can be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedManifestInfo {
    pub digest: Digest,
    pub media_type: String,
    pub size: u64,
    /// When it was deleted.
    pub time: String,
    pub actor: Option<String>,
    pub tags: Vec<Tag>,
}

/// What became of a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagChangeInfo {
    pub tag: Tag,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
    pub before: Option<Digest>,
    pub after: Option<Digest>,
}

impl HistoryRequest {
    pub(super) fn changes(&self) -> bool {
        self.audited().is_some()
    }

    /// The name in the audit log, if it changes content.
    pub(super) fn audited(&self) -> Option<&'static str> {
        match self {
            Self::TagHistory { .. } | Self::ListDeleted { .. } => None,
            Self::TagRestore { .. } => Some("tag_restore"),
            Self::ManifestRestore { .. } => Some("manifest_restore"),
            Self::Purge { .. } => Some("purge"),
        }
    }
}

impl HistoryReport {
    /// What became of tags, for the audit log.
    pub(super) fn audited_changes(&self) -> Vec<TagChangeAudit> {
        let text = |digest: &Option<Digest>| digest.as_ref().map(ToString::to_string);
        let audited = self.changes().iter().map(|TagChangeInfo { tag, change, before, after }| {
            let (tag, change) = (tag.to_string(), change.clone());
            TagChangeAudit { tag, change, before: text(before), after: text(after) }
        });
        audited.collect()
    }

    fn changes(&self) -> &[TagChangeInfo] {
        match self {
            Self::TagHistory { .. } | Self::ListDeleted { .. } => &[],
            Self::TagRestore { changes, .. }
            | Self::ManifestRestore { changes, .. }
            | Self::Purge { changes, .. } => changes,
        }
    }

    /// Whether only a part was done.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self, Self::ManifestRestore { failed: Some(_), .. })
    }

    fn repository(&self) -> &RepositoryName {
        match self {
            Self::TagHistory { repository, .. }
            | Self::TagRestore { repository, .. }
            | Self::ListDeleted { repository, .. }
            | Self::ManifestRestore { repository, .. }
            | Self::Purge { repository, .. } => repository,
        }
    }

    /// Logs each change of a tag.
    pub(super) fn log(&self) {
        let repository = self.repository();
        for changed in self.changes().iter().filter(|changed| changed.before != changed.after) {
            let TagChangeInfo { tag, change, before, after } = changed;
            let [before, after] =
                [before, after].map(|digest| digest.as_ref().map(tracing::field::display));
            tracing::info!(
                target: "jreg::tag", %repository, %tag, change, before, after, "tag changed"
            );
        }
    }
}

/// Performs the operation. `grace`: the time between two sweeps.
pub(super) async fn run(
    registry: &Registry,
    request: HistoryRequest,
    grace: Duration,
) -> Result<HistoryReport> {
    match request {
        HistoryRequest::TagHistory { repository, tag } => {
            let history = tag_history(&registry.repository(repository.clone()), &tag).await?;
            let pulled = match history.first().and_then(|current| current.digest.as_ref()) {
                Some(digest) => registry.last_pull(&repository, &tag, digest).await?,
                None => None,
            };
            let pulled = pulled.map(rfc3339);
            Ok(HistoryReport::TagHistory { repository, tag, history, pulled })
        }
        HistoryRequest::TagRestore { repository, tag, digest, from } => {
            let condition = from.map(|from| ReferencePrecondition::IsOneOf(vec![from]));
            let of = changing(registry, &repository, "tag restore");
            let changed = of.tag_restore(&tag, &digest, condition).await?;
            let changes = vec![changed.into()];
            Ok(HistoryReport::TagRestore { repository, changes })
        }
        HistoryRequest::ListDeleted { repository } => {
            let manifests = list_deleted(&registry.repository(repository.clone())).await?;
            Ok(HistoryReport::ListDeleted { repository, manifests })
        }
        HistoryRequest::ManifestRestore { repository, digest, tags } => {
            let of = changing(registry, &repository, "manifest restore");
            let (all, mut set): (MaySetTag<'_>, _) = (&|_| true, Vec::new());
            let restored = of.manifest_restore_if(&digest, tags.then_some(all), &mut set).await;
            let (tags_kept, failed) = match restored {
                Ok(restored) => (restored.tags_kept, None),
                Err(error) if set.is_empty() => return Err(error),
                Err(error) => (Vec::new(), Some(error_chain(&error))),
            };
            let changes = set.into_iter().map(Into::into).collect();
            Ok(HistoryReport::ManifestRestore { repository, digest, changes, tags_kept, failed })
        }
        HistoryRequest::Purge { repository, digest, force } => {
            let of = changing(registry, &repository, "purge");
            let mut purged = of.manifest_purge(&digest, force).await?;
            purged.tags_removed.sort();
            let removed = purged.tags_removed.iter().map(|tag| TagChangeInfo {
                tag: tag.clone(),
                change: purged.changes.get(tag).map(ToString::to_string),
                before: Some(digest.clone()),
                after: None,
            });
            let (changes, sweeps_apart_s) = (removed.collect(), grace.as_secs());
            Ok(HistoryReport::Purge { repository, digest, changes, purged, sweeps_apart_s })
        }
    }
}

fn changing(registry: &Registry, name: &RepositoryName, command: &str) -> Repository {
    registry.repository(name.clone()).changed_by(ChangeOrigin::program(command))
}

/// Every change that is still known.
async fn tag_history(of: &Repository, tag: &Tag) -> Result<Vec<TagHistoryInfo>> {
    let (mut history, mut last) = (Vec::new(), None);
    for _ in 0..PAGES_MAX {
        let page = of.tag_history(tag, &PageRequest { limit: PAGE_ITEMS, last }).await?;
        history.extend(page.items.into_iter().map(TagHistoryInfo::from));
        last = page.next;
        if last.is_none() {
            break;
        }
    }
    Ok(history)
}

/// Every deleted manifest that can be restored.
async fn list_deleted(of: &Repository) -> Result<Vec<DeletedManifestInfo>> {
    let (mut manifests, mut last) = (Vec::new(), None);
    for _ in 0..PAGES_MAX {
        let page = of.deleted_manifests(&PageRequest { limit: PAGE_ITEMS, last }).await?;
        manifests.extend(page.items.into_iter().map(DeletedManifestInfo::from));
        last = page.next;
        if last.is_none() {
            break;
        }
    }
    Ok(manifests)
}

impl From<TagHistoryEntry> for TagHistoryInfo {
    fn from(entry: TagHistoryEntry) -> Self {
        Self {
            change: entry.change.to_string(),
            time: rfc3339(entry.change.time()),
            digest: entry.digest,
            until: entry.until.map(rfc3339),
            actor: entry.origin.actor().map(str::to_owned),
            request_id: entry.origin.request_id().map(str::to_owned),
        }
    }
}

impl From<DeletedManifest> for DeletedManifestInfo {
    fn from(deleted: DeletedManifest) -> Self {
        Self {
            time: rfc3339(deleted.deleted_at()),
            actor: deleted.origin.actor().map(str::to_owned),
            media_type: deleted.media_type.to_string(),
            digest: deleted.digest,
            size: deleted.size,
            tags: deleted.tags,
        }
    }
}

impl From<TagTransition> for TagChangeInfo {
    fn from(transition: TagTransition) -> Self {
        let TagTransition { tag, change, before, after } = transition;
        Self { tag, change: Some(change.to_string()), before, after }
    }
}

pub(crate) fn rfc3339(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The result as text.
pub(super) fn plain(report: &HistoryReport) -> String {
    match report {
        HistoryReport::TagHistory { history, pulled, .. } => {
            let mut text: String = history.iter().map(history_line).collect();
            if let Some(pulled) = pulled {
                let _ = writeln!(text, "{pulled}  last pull");
            }
            text
        }
        HistoryReport::TagRestore { changes, .. } => changes.iter().map(change_line).collect(),
        HistoryReport::ListDeleted { manifests, .. } => {
            manifests.iter().map(deleted_line).collect()
        }
        HistoryReport::ManifestRestore { repository, digest, changes, tags_kept, failed } => {
            let mut text = format!("{repository}@{digest} is restored\n");
            if let Some(failed) = failed {
                text = format!("{repository}@{digest}: not all tags are set: {failed}\n");
            }
            text.extend(changes.iter().map(change_line));
            for tag in tags_kept {
                let _ = writeln!(text, "{tag}: exists again, and stays what it is");
            }
            text
        }
        HistoryReport::Purge { repository, digest, changes, purged, sweeps_apart_s } => {
            let changes: String = changes.iter().map(change_line).collect();
            purge_lines(repository, digest, purged, *sweeps_apart_s) + &changes
        }
    }
}

fn history_line(entry: &TagHistoryInfo) -> String {
    let digest = entry.digest.as_ref().map_or_else(|| "deleted".to_owned(), ToString::to_string);
    let actor = entry.actor.as_deref().unwrap_or("-");
    let current = if entry.until.is_none() { "  (current)" } else { "" };
    format!("{}  {digest:<71}  {actor}{current}\n", entry.time)
}

fn change_line(changed: &TagChangeInfo) -> String {
    let text = |digest: &Option<Digest>, none: &str| {
        digest.as_ref().map_or_else(|| none.to_owned(), ToString::to_string)
    };
    let (before, after) = (text(&changed.before, "absent"), text(&changed.after, "deleted"));
    match changed.before == changed.after {
        true => format!("{}: points to {after} already\n", changed.tag),
        false => format!("{}: {before} -> {after}\n", changed.tag),
    }
}

fn deleted_line(deleted: &DeletedManifestInfo) -> String {
    let tags: Vec<&str> = deleted.tags.iter().map(Tag::as_str).collect();
    let tags = if tags.is_empty() { "-".to_owned() } else { tags.join(",") };
    let actor = deleted.actor.as_deref().unwrap_or("-");
    format!("{}  {}  {tags}  {actor}\n", deleted.time, deleted.digest)
}

/// What is gone, what stays and why, and when bytes go.
fn purge_lines(
    repository: &RepositoryName,
    digest: &Digest,
    purged: &PurgeReport,
    sweeps_apart_s: u64,
) -> String {
    let mut text = match purged.manifest_removed {
        true => format!("{repository}@{digest} is deleted"),
        false => format!("{repository}@{digest} was deleted before"),
    };
    // Writing to a string cannot fail.
    let copies = count(purged.copies_removed, "copy", "copies");
    let _ = writeln!(text, " and cannot be restored; {copies} removed");
    for blob in &purged.blobs_removed {
        let _ = match purged.elsewhere.get(blob) {
            None => writeln!(text, "removed  {blob}"),
            Some(others) => {
                let others: Vec<&str> = others.iter().map(RepositoryName::as_str).collect();
                writeln!(text, "removed  {blob}: its bytes stay for {}", others.join(", "))
            }
        };
    }
    for (stays, by) in &purged.referenced {
        let _ = writeln!(text, "stays    {stays}: {by} references it");
    }
    if purged.blobs_removed.len() > purged.elsewhere.len() {
        let hours = sweeps_apart_s.div_ceil(3600);
        let _ = writeln!(
            text,
            "Clients get none of what is removed from now on. Its bytes are deleted by the second of two \
             sweeps that are {hours} h apart or more: run jreg gc --sweep now, and again after that time"
        );
    }
    text
}
