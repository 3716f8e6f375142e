//! [`Event`]: one thing that happened; and [`EventInterest`]: which ones are written down.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_oci::{Digest, MediaType, RepositoryName, Tag};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::ChangeId;

/// Maximum bytes of the details of an event.
const DETAIL_BYTES_MAX: usize = 64 * 1024;

macro_rules! actions {
    ($($(#[doc = $doc:literal])+ $action:ident, $name:literal;)*) => {
        /// What an event says has happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum EventAction {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $action,)*
        }

        impl EventAction {
            /// Every action.
            pub const ALL: &'static [Self] = &[$(Self::$action,)*];

            /// Its name in settings, records and ids.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$action => $name,)*
                }
            }
        }
    };
}

actions! {
    /// A manifest came into being in a repository.
    ManifestPush, "manifest.push";
    /// A manifest was deleted from a repository.
    ManifestDelete, "manifest.delete";
    /// A tag that was absent points to a manifest.
    TagCreate, "tag.create";
    /// A tag points to another manifest.
    TagMove, "tag.move";
    /// A tag was deleted.
    TagDelete, "tag.delete";
    /// A tag was set to a manifest that it pointed to earlier, by a restore.
    TagRestore, "tag.restore";
    /// Retention deleted a tag.
    TagExpire, "tag.expire";
    /// A quota is nearly used.
    QuotaWarning, "quota.warning";
    /// A GC run ended.
    GcReport, "gc.report";
    /// An fsck run ended.
    FsckReport, "fsck.report";
    /// A file of settings was reloaded.
    Reload, "reload";
    /// An access token was created.
    TokenCreate, "token.create";
    /// An access token was revoked.
    TokenRevoke, "token.revoke";
    /// Content was pulled, some number of times.
    PullSummary, "pull.summary";
}

/// What an event that is about no change of content says: the fields are docs/events.md's.
pub type EventDetail = serde_json::Map<String, serde_json::Value>;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub action: EventAction,
    /// The change of the tag; of a manifest, the change by which it came into being.
    pub change: ChangeId,
    /// When, in milliseconds of the Unix epoch, by the clock of the instance that made the change.
    pub time_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// The manifest; of a deleted tag, the one that it pointed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What the tag pointed to before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_digest: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The size of the manifest in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The id of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub detail: EventDetail,
}

impl Event {
    /// An event of a change, of which only the change is known so far.
    pub fn of_change(action: EventAction, change: ChangeId) -> Self {
        Self {
            action,
            change,
            time_ms: change.time_ms(),
            repository: None,
            tag: None,
            digest: None,
            previous_digest: None,
            media_type: None,
            size: None,
            actor: None,
            request: None,
            detail: EventDetail::new(),
        }
    }

    /// An event that needs no confirmation, since it is written once it has happened.
    pub fn of_fact(action: EventAction, now: SystemTime, detail: EventDetail) -> Self {
        let fits = serde_json::to_vec(&detail).is_ok_and(|json| json.len() <= DETAIL_BYTES_MAX);
        let detail = if fits { detail } else { EventDetail::new() };
        Self { detail, ..Self::of_change(action, ChangeId::after(None, now)) }
    }

    /// The id: the same however often it is sent.
    pub fn id(&self) -> String {
        format!("{}-{}", self.change, self.action.name())
    }

    /// When it happened.
    pub fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.time_ms)
    }

    /// Whether it is about a change of content, which must be confirmed.
    pub(crate) fn is_change(&self) -> bool {
        self.repository.is_some() && self.action.is_change()
    }
}

impl EventAction {
    /// Whether the store shows whether it took effect.
    fn is_change(self) -> bool {
        match self {
            Self::ManifestPush
            | Self::ManifestDelete
            | Self::TagCreate
            | Self::TagMove
            | Self::TagDelete
            | Self::TagRestore
            | Self::TagExpire => true,
            Self::QuotaWarning
            | Self::GcReport
            | Self::FsckReport
            | Self::Reload
            | Self::TokenCreate
            | Self::TokenRevoke
            | Self::PullSummary => false,
        }
    }
}

/// Says which events any sink wants. Others are not written.
pub trait EventInterest: Debug + Send + Sync + 'static {
    fn wants(&self, action: EventAction, repository: Option<&RepositoryName>) -> bool;
}

/// Whether events are written. Without interest none is.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventOutbox {
    pub(crate) interest: Option<Arc<dyn EventInterest>>,
    /// Told of each event that was queued.
    pub(crate) arrivals: Arc<Notify>,
}

impl EventOutbox {
    /// Whether a sink wants such an event.
    pub(crate) fn wants(&self, action: EventAction, repository: Option<&RepositoryName>) -> bool {
        self.interest.as_ref().is_some_and(|interest| interest.wants(action, repository))
    }
}
