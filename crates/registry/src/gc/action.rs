//! [`GcAction`]: one decision of a run; and the [`GcSink`] that applies it, or only reports it.

use jreg_oci::{Digest, RepositoryName};
use jreg_storage::{ETag, ErrorKind, Key};
use serde::{Deserialize, Serialize};

use super::observer::GcObserver;
use crate::Result;
use crate::core::Core;
use crate::record::{Link, Location, StoredRecord};
use crate::rules::Rule;

/// What GC does to an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum GcActionKind {
    /// A link is removed.
    RemoveLink,
    /// A link is moved to the same bytes at another location.
    DeduplicateLink {
        /// The location from now on.
        to: String,
    },
    /// Orphaned bytes are deleted.
    RemoveBytes,
    /// An unreferenced manifest is removed.
    RemoveManifest,
    /// A tag is removed whose manifest has been absent for the grace.
    RemoveTag,
    /// The archived record of a deleted tag is removed.
    RemoveDeletedTag,
    /// A replaced change of a tag is removed from its history.
    RemoveHistory,
    /// The copy of a deleted manifest is removed.
    RemoveCopy,
    /// The same before its time: copies alone hold more than a quota allows.
    EndCopy,
    /// The mark of a purge is removed.
    RemovePurgeMark,
    /// A hint is deleted whose tag or manifest no longer exists.
    RemoveHint,
    /// The entry of a referrer that no longer exists is deleted.
    RemoveReferrer,
    /// A repository without a manifest is taken off the catalog.
    RemoveCatalogEntry,
}

/// One decision of a GC run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcAction {
    /// The kind of action.
    #[serde(flatten)]
    pub kind: GcActionKind,
    /// Key of the object.
    pub key: String,
    /// In this repository, if it is in one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub repository: Option<RepositoryName>,
    /// Of this digest, if it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<Digest>,
    /// How many bytes of blobs or manifests it is about.
    pub size_bytes: u64,
}

/// The result of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GcOutcome {
    /// It was applied; in a dry run: it would have been.
    Done,
    /// The object was changed since it was judged: it stays.
    Changed,
    /// It would exceed the share of the links that one run may remove.
    Withheld,
    /// The store failed. The next run retries.
    Failed,
}

/// Where actions go.
#[derive(Debug)]
pub(super) enum GcSink {
    /// They are applied.
    Applying,
    /// They are only reported.
    Printing,
}

/// The conditional write that applies an action to a record.
pub(super) enum GcStep<'a> {
    /// The version of the record that was judged.
    Remove(&'a ETag),
    /// The same, and where the link is to lead.
    Relink(&'a ETag, &'a Location),
}

impl GcSink {
    /// Applies an action, or only reports it.
    pub(super) async fn perform(
        &self,
        core: &Core,
        watch: &dyn GcObserver,
        action: &GcAction,
        key: &Key,
        step: GcStep<'_>,
    ) -> GcOutcome {
        self.perform_by(watch, action, apply(core, action, key, step)).await
    }

    /// The same by steps of its own, which say whether they were done.
    pub(super) async fn perform_by(
        &self,
        watch: &dyn GcObserver,
        action: &GcAction,
        steps: impl Future<Output = Result<bool>>,
    ) -> GcOutcome {
        let outcome = match self {
            Self::Printing => GcOutcome::Done,
            Self::Applying => match steps.await {
                Ok(true) => GcOutcome::Done,
                Ok(false) => GcOutcome::Changed,
                Err(_) => GcOutcome::Failed,
            },
        };
        watch.action(action, outcome);
        outcome
    }

    /// Removes objects, unconditionally: their keys are never used again.
    pub(super) async fn remove_objects(
        &self,
        core: &Core,
        watch: &dyn GcObserver,
        actions: &[GcAction],
        keys: &[Key],
    ) -> GcOutcome {
        let outcome = match self {
            Self::Printing => GcOutcome::Done,
            Self::Applying => match core.store.delete_many(keys).await {
                Ok(()) => GcOutcome::Done,
                Err(_) => GcOutcome::Failed,
            },
        };
        for action in actions {
            watch.action(action, outcome);
        }
        outcome
    }
}

/// `false`: the record is not the version that was judged any more.
async fn apply(core: &Core, action: &GcAction, key: &Key, step: GcStep<'_>) -> Result<bool> {
    let forget = || {
        if let (Some(name), Some(digest)) = (&action.repository, &action.digest) {
            core.cache.forget(name, digest);
        }
    };
    forget();
    let done = match step {
        GcStep::Relink(seen, to) => {
            let link = Link::Live(to.clone()).encode();
            core.swap(key, Some(seen), link).await.map(|written| written.is_some())
        }
        GcStep::Remove(_) if !core.rules.keep(Rule::OnVersion) => {
            core.store.delete(key, None).await.map(|()| true).map_err(Into::into)
        }
        GcStep::Remove(seen) if action.kind == GcActionKind::RemoveLink => {
            core.retire(key, seen).await
        }
        GcStep::Remove(seen) => core.remove_if_can(key, seen).await,
    };
    forget();
    done
}

impl Core {
    /// Removes the version of a link that was read; where the store cannot, marks the link as deleted.
    pub(crate) async fn retire(&self, key: &Key, seen: &ETag) -> Result<bool> {
        match self.store.capabilities().deletes_versions {
            true => self.remove(key, seen).await,
            false => {
                let deleted = Link::Deleted.encode();
                Ok(self.swap(key, Some(seen), deleted).await?.is_some())
            }
        }
    }

    /// Removes the version of a record that was read, unless the store cannot: then it stays.
    async fn remove_if_can(&self, key: &Key, seen: &ETag) -> Result<bool> {
        match self.remove(key, seen).await {
            Err(crate::Error::Store(error)) if error.kind() == ErrorKind::Refused => Ok(false),
            removed => removed,
        }
    }
}
