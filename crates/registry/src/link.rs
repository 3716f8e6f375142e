//! Links: which repository has which blob, and the location of its bytes.

use std::time::SystemTime;

use jreg_oci::{Digest, RepositoryName};
use jreg_storage::{ETag, Key, ListRequest, Listed};

use crate::Result;
use crate::attempts::SwapAttempts;
use crate::cache::CachedRecord;
use crate::core::Core;
use crate::damaged::{DamagedRecord, FoundRecord, absent_if_damaged};
use crate::keys;
use crate::page::{LIST_KEYS_MAX, list_requests_max};
use crate::record::{CHECK_BYTES, Link, Location, StoredRecord};
use crate::rules::Rule;
use crate::window::WriteWindow;

/// How the bytes of a new link came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkOrigin {
    /// They were pushed by this request, or another live link references them: they may revive a
    /// link that was deleted.
    Fresh,
    /// They were pushed by a request that may have ended long ago, and closed the upload at this time of
    /// the store's: a link that was deleted since stays so.
    Replay { closed_at: SystemTime },
}

/// How a link came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkOutcome {
    /// It references the location that was offered.
    Here,
    /// The repository has linked the blob already, at another location: this link does not
    /// reference the offered one, and never did.
    Elsewhere(Location),
    /// It was deleted since, or cannot be decoded, and the offer was a replay.
    Deleted,
}

/// What a search for another copy of a blob found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deduplication {
    /// The repository links the copy here.
    Linked(Location),
    /// No complete copy is known.
    NoCopy,
    /// No repository has a record of the blob, not even a deleted link.
    NoRecord,
}

fn link_outcome(link: Link, offer: &Location) -> LinkOutcome {
    match link {
        Link::Live(there) if there == *offer => LinkOutcome::Here,
        Link::Live(there) => LinkOutcome::Elsewhere(there),
        Link::Deleted => LinkOutcome::Deleted,
    }
}

/// Whether a listing shows a deleted link: it has no location, and a size that is smaller than that of
/// any live one, with a checksum or without.
pub(crate) fn is_deleted(listed: &Listed) -> bool {
    let bytes = Link::Deleted.encode().len();
    [bytes, bytes - CHECK_BYTES].contains(&usize::try_from(listed.size_bytes).unwrap_or_default())
}

impl Core {
    /// The repositories that have a blob. Links that a listing does not show as deleted count.
    pub(crate) async fn repositories_with_blob(
        &self,
        digest: &Digest,
    ) -> Result<Vec<RepositoryName>> {
        let mut names = Vec::new();
        let mut pages = self.list_pages(keys::links(digest));
        while let Some(page) = pages.next().await? {
            let live = page.entries.iter().filter(|link| !is_deleted(link));
            names.extend(live.filter_map(|link| keys::linking_repository(&link.key)));
        }
        Ok(names)
    }

    /// Where a repository's blob lies, for serving: from the cache if it is trusted.
    pub(crate) async fn find_link(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<CachedRecord<Location>>> {
        if let Some(link) = self.cached_link(name, digest) {
            return Ok(Some(link));
        }
        let (now, at) = (self.clock.monotonic(), self.clock.now());
        let ticket = self.cache.take_ticket(name, digest);
        let Some(read) = self.read::<Link>(&keys::link(digest, name)).await? else {
            return Ok(None);
        };
        let age = read.age();
        let Link::Live(location) = read.value else { return Ok(None) };
        let link = CachedRecord::new(location, age, at);
        self.cache.add_link(ticket, now, name, digest, link.clone());
        Ok(Some(link))
    }

    /// The location of a repository's blob, if it is cached.
    pub(crate) fn cached_link(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Option<CachedRecord<Location>> {
        self.cache.link(self.clock.monotonic(), name, digest)
    }

    /// W1 for a repository's link to a blob: its location, once that link is young. `None` also
    /// where the bytes are known to be missing or wrong.
    pub(crate) async fn touch_link(
        &self,
        window: WriteWindow,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Location>> {
        match self.touch_live_link(window, name, digest).await? {
            Some(location) if self.can_rely_on(&location).await? => Ok(Some(location)),
            _ => Ok(None),
        }
    }

    /// The same for a link to which another is about to be added, or which is acknowledged as if it
    /// had just been written: checks in the store that the bytes are there.
    pub(crate) async fn touch_complete_link(
        &self,
        window: WriteWindow,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Location>> {
        match self.touch_live_link(window, name, digest).await? {
            Some(location) if self.has_bytes(&location).await? => Ok(Some(location)),
            _ => Ok(None),
        }
    }

    /// The same for a link whose bytes another repository is to get: not where they were never hashed.
    pub(crate) async fn touch_shareable_link(
        &self,
        window: WriteWindow,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Location>> {
        let held = self.touch_complete_link(window, name, digest).await?;
        Ok(held.filter(|location| !location.is_unverified))
    }

    async fn touch_live_link(
        &self,
        window: WriteWindow,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Location>> {
        let (now, at) = (self.clock.monotonic(), self.clock.now());
        let ticket = self.cache.take_ticket(name, digest);
        let key = keys::link(digest, name);
        let held = self.touch_record::<Link>(window, &key, |link| link.live().is_some()).await;
        let Some(held) = absent_if_damaged(held)? else {
            // It may be cached, from before it was damaged or removed.
            self.cache.forget(name, digest);
            return Ok(None);
        };
        let age = held.age();
        let Link::Live(location) = held.value else { return Ok(None) };
        self.cache.add_link(
            ticket,
            now,
            name,
            digest,
            CachedRecord::new(location.clone(), age, at),
        );
        Ok(Some(location))
    }

    /// The version of a link that was deleted, to be revived at once by what closes an upload: a retry
    /// that found the upload closed, and the link not yet written, would take it for deleted since.
    pub(crate) async fn deleted_link(&self, key: &Key) -> Result<Option<ETag>> {
        let found = self.find_record::<Link>(key).await?;
        Ok(found.valid().filter(|link| link.value.live().is_none()).map(|link| link.etag.clone()))
    }

    /// Links a blob at `offer` to a repository, unless it is linked already and those bytes are
    /// complete. A damaged link is replaced, except by a replay: it may have been deleted since. The caller
    /// ensures that the bytes of the offer exist until the window closes.
    pub(crate) async fn create_link(
        &self,
        window: WriteWindow,
        name: &RepositoryName,
        digest: &Digest,
        offer: &Location,
        origin: LinkOrigin,
    ) -> Result<LinkOutcome> {
        let key = keys::link(digest, name);
        let link = Link::Live(offer.clone());
        let mut seen = None;
        let mut damaged: Option<DamagedRecord> = None;
        let mut attempts = SwapAttempts::new("the blob is being changed by too many others");
        loop {
            attempts.next().await?;
            if self.write_link(window, &key, name, digest, seen.as_ref(), &link).await? {
                damaged.inspect(|damaged| self.damage.note_replaced(&key, damaged));
                return Ok(LinkOutcome::Here);
            }
            let found = self.find_record::<Link>(&key).await?;
            seen = found.etag().cloned();
            let FoundRecord::Valid(there) = found else {
                damaged = found.damaged();
                if damaged.is_some() && origin != LinkOrigin::Fresh {
                    return Ok(LinkOutcome::Deleted);
                }
                continue;
            };
            damaged = None;
            match there.value.live().cloned() {
                None if self.can_revive(there.last_modified, origin) => {}
                None => return Ok(LinkOutcome::Deleted),
                Some(at) if at != *offer && !self.has_bytes(&at).await? => {}
                Some(_) if !self.rules.keep(Rule::TouchDestination) => {
                    return Ok(link_outcome(there.value, offer));
                }
                Some(_) => {
                    if let Some(held) = self.touch_version(window, &key, there).await? {
                        return Ok(link_outcome(held.value, offer));
                    }
                }
            }
        }
    }

    /// Whether a link that was deleted at this time of the store's may become live. To a replay, what was
    /// deleted before its upload was closed is what it was for that push.
    fn can_revive(&self, deleted_at: SystemTime, origin: LinkOrigin) -> bool {
        let LinkOrigin::Replay { closed_at } = origin else { return true };
        let keep = |rule| self.rules.keep(rule);
        let is_older = deleted_at < closed_at
            || deleted_at == closed_at && !keep(Rule::ReplayOntoStrictlyOlder);
        is_older && keep(Rule::ReplayOntoOlder) || !keep(Rule::ReplayNotOntoDeleted)
    }

    /// `false`: another writer was first.
    async fn write_link(
        &self,
        window: WriteWindow,
        key: &Key,
        name: &RepositoryName,
        digest: &Digest,
        seen: Option<&ETag>,
        link: &Link,
    ) -> Result<bool> {
        // The replaced link may be cached, if its bytes were incomplete.
        let forget = || seen.is_some().then(|| self.cache.forget(name, digest));
        forget();
        let swapped = self.swap_within(window, key, seen, link.encode()).await;
        forget();
        Ok(swapped?.is_some())
    }

    /// Links a blob to a repository at a location that it or another repository links already, and
    /// says where. A copy that another request changes meanwhile, or a store that fails, counts as none:
    /// deduplication never fails a push, as the caller has bytes of its own.
    pub(crate) async fn deduplicate(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Deduplication {
        let window = self.open_window();
        let Ok(found) = self.find_linking(digest).await else { return Deduplication::NoCopy };
        let Some(mut repositories) = found else { return Deduplication::NoRecord };
        repositories.sort_by_key(|repository| repository != name);
        for repository in repositories {
            let held = self.touch_shareable_link(window, &repository, digest).await;
            let Ok(Some(location)) = held else { continue };
            if repository == *name {
                return Deduplication::Linked(location);
            }
            match self.create_link(window, name, digest, &location, LinkOrigin::Fresh).await {
                Ok(LinkOutcome::Here) => return Deduplication::Linked(location),
                Ok(LinkOutcome::Elsewhere(there)) => return Deduplication::Linked(there),
                Ok(LinkOutcome::Deleted) | Err(_) => return Deduplication::NoCopy,
            }
        }
        Deduplication::NoCopy
    }

    /// Some repositories that link a blob: at most [`mount_candidates_max`](crate::RegistryLimits).
    pub(crate) async fn linking_repositories(
        &self,
        digest: &Digest,
    ) -> Result<Vec<RepositoryName>> {
        Ok(self.find_linking(digest).await?.unwrap_or_default())
    }

    /// The same; `None` if no repository has a record of the blob, not even a deleted link.
    async fn find_linking(&self, digest: &Digest) -> Result<Option<Vec<RepositoryName>>> {
        let limit = self.options.limits.mount_candidates_max.max(1);
        let mut request = ListRequest { limit, ..ListRequest::below(keys::links(digest)) };
        for _ in 0..list_requests_max(limit) {
            let listing = self.store.list(&request).await?;
            let is_first = request.start_after.is_none();
            if is_first && listing.entries.is_empty() && listing.next.is_none() {
                return Ok(None);
            }
            let live = listing.entries.iter().filter(|link| !is_deleted(link));
            let repositories: Vec<_> =
                live.filter_map(|link| keys::linking_repository(&link.key)).take(limit).collect();
            match listing.next {
                Some(next) if repositories.is_empty() => {
                    let start_after = Some(next);
                    request = ListRequest { start_after, limit: LIST_KEYS_MAX, ..request };
                }
                _ => return Ok(Some(repositories)),
            }
        }
        Ok(Some(Vec::new()))
    }
}
