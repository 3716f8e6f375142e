//! Lists: the referrers of a manifest, and the tags of a repository, as the mirrored registry has them.
//!
//! **Must:** a failure of the mirrored registry is never an empty list. Entries that are stored here are not
//! added to the list of another day: a signature that was revoked would come back.

use std::sync::Arc;
use std::time::Duration;

use jreg_client::{PageQuery, UpstreamError};
use jreg_oci::{Descriptor, Digest, RepositoryName, Tag};
use jreg_registry::PageRequest;
use jreg_storage::Clock;
use quick_cache::sync::Cache;

use crate::error::{failure, outcome_of};
use crate::shared::SharedRequests;
use crate::{
    DecisionInput, LocalState, MirrorAction, MirrorError, MirrorRepository, OnGone,
    RequestedMethod, RequestedReference, UpstreamOutcome, decide,
};

/// Maximum number of lists of referrers that are remembered.
const LISTS_MAX: usize = 1024;
/// The largest list that is remembered, in bytes of its JSON.
const REMEMBERED_BYTES_MAX: usize = 64 * 1024;

const WARNING: &str = "the registry that is mirrored does not confirm this list now";

type ListKey = (RepositoryName, Digest);

/// The referrers of a subject.
#[derive(Clone, Debug)]
pub struct MirroredReferrers {
    pub descriptors: Arc<[Descriptor]>,
    /// Why the list may be outdated.
    pub warning: Option<&'static str>,
}

/// A page of tags.
#[derive(Clone, Debug)]
pub struct MirroredTags {
    pub tags: Vec<Tag>,
    /// After which tag the next page begins, if there is one.
    pub next: Option<String>,
    /// Why the list may be outdated, or have only what is stored here.
    pub warning: Option<&'static str>,
}

/// Lists of referrers as they were last read.
#[derive(Debug)]
pub(crate) struct ReferrersMemo {
    clock: Arc<dyn Clock>,
    lists: Cache<ListKey, (Arc<[Descriptor]>, Duration)>,
    requests: SharedRequests<ListKey, Result<Arc<[Descriptor]>, UpstreamError>>,
}

impl ReferrersMemo {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, lists: Cache::new(LISTS_MAX), requests: SharedRequests::default() }
    }

    /// A list, with its age.
    fn get(&self, key: &ListKey) -> Option<(Arc<[Descriptor]>, Duration)> {
        let (list, read) = self.lists.get(key)?;
        Some((list, self.clock.monotonic().saturating_sub(read)))
    }

    fn set(&self, key: ListKey, list: &Arc<[Descriptor]>) {
        let bytes = serde_json::to_vec(&**list).map_or(usize::MAX, |json| json.len());
        match bytes <= REMEMBERED_BYTES_MAX {
            true => self.lists.insert(key, (Arc::clone(list), self.clock.monotonic())),
            false => {
                self.lists.remove(&key);
            }
        }
    }
}

impl MirrorRepository {
    /// All referrers of a subject.
    ///
    /// # Errors
    ///
    /// [`MirrorError`].
    pub async fn referrers(
        &self,
        subject: &Digest,
        may_fetch: bool,
    ) -> Result<MirroredReferrers, MirrorError> {
        if !self.is_allowed() {
            return Err(MirrorError::NameUnknown { name: self.name().clone() });
        }
        let memo = &self.shared.referrers;
        let key = (self.name().clone(), subject.clone());
        let remembered = memo.get(&key);
        let fresh = self.registry.options.fresh;
        if let Some((list, age)) = &remembered
            && *age < fresh
        {
            return Ok(MirroredReferrers { descriptors: Arc::clone(list), warning: None });
        }
        let stale_max = fresh.saturating_add(self.registry.options.stale_if_error);
        let stale = remembered.filter(|(_, age)| *age < stale_max).map(|(list, _)| list);
        if !may_fetch {
            return self.stale_list(stale, UpstreamOutcome::NotAsked, None);
        }
        let (client, upstream, of) =
            (self.registry.client.clone(), self.upstream.clone(), subject.clone());
        let request = || {
            let asking: futures::future::BoxFuture<'static, _> = Box::pin(async move {
                let listed = client.referrers(&upstream, &of, None).await;
                listed.map(|listed| Arc::from(listed.descriptors))
            });
            asking
        };
        match memo.requests.get(key.clone(), request).await {
            Some(Ok(descriptors)) => {
                memo.set(key, &descriptors);
                Ok(MirroredReferrers { descriptors, warning: None })
            }
            Some(Err(error)) => self.stale_list(stale, outcome_of(&error), Some(&error)),
            None => Err(MirrorError::Unavailable { error: "the request was stopped".to_owned() }),
        }
    }

    /// The list that was read before, where the table allows it.
    fn stale_list(
        &self,
        stale: Option<Arc<[Descriptor]>>,
        upstream: UpstreamOutcome,
        error: Option<&UpstreamError>,
    ) -> Result<MirroredReferrers, MirrorError> {
        let action = self.list_action(stale.is_some(), upstream);
        match (action, stale) {
            (MirrorAction::ServeStale, Some(descriptors)) => {
                Ok(MirroredReferrers { descriptors, warning: Some(WARNING) })
            }
            (action, _) => Err(self.list_failure(action, error)),
        }
    }

    fn list_action(&self, is_stored: bool, upstream: UpstreamOutcome) -> MirrorAction {
        decide(DecisionInput {
            local: if is_stored { LocalState::Stale } else { LocalState::Absent },
            upstream,
            reference: RequestedReference::Tag,
            method: RequestedMethod::Get,
            on_gone: OnGone::NotFound,
        })
    }

    fn list_failure(&self, action: MirrorAction, error: Option<&UpstreamError>) -> MirrorError {
        let absent = MirrorError::NameUnknown { name: self.name().clone() };
        failure(action, self.name(), error, absent)
    }

    /// A page of the tags.
    ///
    /// # Errors
    ///
    /// [`MirrorError`].
    pub async fn tags(
        &self,
        page: &PageRequest,
        may_fetch: bool,
    ) -> Result<MirroredTags, MirrorError> {
        if !self.is_allowed() {
            return Err(MirrorError::NameUnknown { name: self.name().clone() });
        }
        if page.limit == 0 {
            return Ok(MirroredTags { tags: Vec::new(), next: None, warning: None });
        }
        let (outcome, error) = match may_fetch {
            false => (UpstreamOutcome::NotAsked, None),
            true => {
                let n = u32::try_from(page.limit).unwrap_or(u32::MAX);
                let query = PageQuery::new(Some(n), page.last.as_deref());
                match self.registry.client.tags(&self.upstream, &query).await {
                    Ok(listed) => {
                        // Not every registry says it by name; then the order of the page counts.
                        let last = || listed.items.last().map(ToString::to_string);
                        let next =
                            listed.next.as_ref().and_then(|next| last_of(next).or_else(last));
                        return Ok(MirroredTags { tags: listed.items, next, warning: None });
                    }
                    Err(error) => (outcome_of(&error), Some(error)),
                }
            }
        };
        // Only tags that were pulled here: better than nothing.
        let stored = self.repository.mirror_tags(page).await?;
        let action = self.list_action(!stored.items.is_empty(), outcome);
        if action != MirrorAction::ServeStale {
            return Err(self.list_failure(action, error.as_ref()));
        }
        let next = stored.next;
        let warning = Some(
            "the registry that is mirrored does not respond now: only the tags that were pulled here are listed",
        );
        Ok(MirroredTags { tags: stored.items, next, warning })
    }
}

/// The `last` of a query.
fn last_of(query: &PageQuery) -> Option<String> {
    let mut pairs = query.as_str().split('&');
    let last = pairs.find_map(|pair| pair.strip_prefix("last="))?;
    // A tag has no character that is encoded.
    (!last.is_empty() && !last.contains(['%', '+'])).then(|| last.to_owned())
}
