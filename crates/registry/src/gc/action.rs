//! [`Action`]: one thing that a run has decided to do; and the [`Sink`] that does it, or only says
//! so.

use jreg_oci::{Digest, RepositoryName};
use jreg_storage::{ETag, ErrorKind, Key};
use serde::{Deserialize, Serialize};

use super::watch::Watch;
use crate::Result;
use crate::core::Core;
use crate::record::{Link, Location, Stored};
use crate::rules::Rule;

/// What is done to an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum ActionKind {
    /// The repository's hold on a blob is removed.
    RemoveLink,
    /// The repository's hold on a blob is moved to the same bytes at another place.
    FoldLink {
        /// Where the bytes lie from now on.
        to: String,
    },
    /// Bytes that nothing names are removed.
    RemoveBytes,
    /// A manifest that nothing keeps is removed.
    RemoveManifest,
    /// A tag is removed whose manifest has been absent for the grace.
    RemoveTag,
    /// A hint is removed whose tag or manifest is gone.
    RemoveHint,
    /// The entry of a referrer that is gone is removed.
    RemoveReferrer,
    /// A repository without a manifest is taken off the catalog.
    RemoveCatalogEntry,
}

/// One thing that a collector has decided to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// What.
    #[serde(flatten)]
    pub kind: ActionKind,
    /// To the object at this key.
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

/// What became of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done; in a dry run: it would have been.
    Done,
    /// Somebody has changed the object since it was judged: it stays.
    Changed,
    /// It would exceed the share of the links that one run may remove.
    Withheld,
    /// The store failed. The next run tries again.
    Failed,
}

/// Where actions go.
#[derive(Debug)]
pub(super) enum Sink {
    /// They are applied.
    Applying,
    /// They are only shown.
    Printing,
}

/// What an action needs beside what it shows.
pub(super) enum Deed<'a> {
    /// The version of the record that was judged.
    Remove(&'a ETag),
    /// The same, and where the link is to lead.
    Fold(&'a ETag, &'a Location),
}

impl Sink {
    /// Does it, or only says so.
    pub(super) async fn perform(
        &self,
        core: &Core,
        watch: &dyn Watch,
        action: &Action,
        key: &Key,
        deed: Deed<'_>,
    ) -> Outcome {
        let outcome = match self {
            Self::Printing => Outcome::Done,
            Self::Applying => match apply(core, action, key, deed).await {
                Ok(true) => Outcome::Done,
                Ok(false) => Outcome::Changed,
                Err(_) => Outcome::Failed,
            },
        };
        watch.action(action, outcome);
        outcome
    }

    /// Removes bytes, of which nobody can make others.
    pub(super) async fn remove_bytes(
        &self,
        core: &Core,
        watch: &dyn Watch,
        actions: &[Action],
        keys: &[Key],
    ) -> Outcome {
        let outcome = match self {
            Self::Printing => Outcome::Done,
            Self::Applying => match core.store.delete_many(keys).await {
                Ok(()) => Outcome::Done,
                Err(_) => Outcome::Failed,
            },
        };
        for action in actions {
            watch.action(action, outcome);
        }
        outcome
    }
}

/// `false`: the version that was judged is there no more.
async fn apply(core: &Core, action: &Action, key: &Key, deed: Deed<'_>) -> Result<bool> {
    let forget = || {
        if let (Some(name), Some(digest)) = (&action.repository, &action.digest) {
            core.cache.forget(name, digest);
        }
    };
    forget();
    let done = match deed {
        Deed::Fold(seen, to) => {
            let link = Link::Live(to.clone()).encode();
            core.swap(key, Some(seen), link).await.map(|written| written.is_some())
        }
        Deed::Remove(_) if !core.rules.keep(Rule::OnVersion) => {
            core.store.delete(key, None).await.map(|()| true).map_err(Into::into)
        }
        Deed::Remove(seen) if action.kind == ActionKind::RemoveLink => core.retire(key, seen).await,
        Deed::Remove(seen) => core.remove_if_can(key, seen).await,
    };
    forget();
    done
}

impl Core {
    /// Removes the version of a link that was seen; where the store cannot, the link becomes one
    /// that stands for nothing.
    pub(crate) async fn retire(&self, key: &Key, seen: &ETag) -> Result<bool> {
        match self.store.capabilities().deletes_versions {
            true => self.remove(key, seen).await,
            false => {
                let deleted = Link::Deleted.encode();
                Ok(self.swap(key, Some(seen), deleted).await?.is_some())
            }
        }
    }

    /// Removes the version of a record that was seen, unless the store cannot: then it stays.
    async fn remove_if_can(&self, key: &Key, seen: &ETag) -> Result<bool> {
        match self.remove(key, seen).await {
            Err(crate::Error::Store(error)) if error.kind() == ErrorKind::Refused => Ok(false),
            removed => removed,
        }
    }
}
