//! Links: which repository holds which blob, and where its bytes lie.

use jreg_oci::{Digest, RepositoryName};

use crate::cache::Seen;
use crate::core::{ATTEMPTS_MAX, Core, Window};
use crate::keys;
use crate::record::{Link, Location, Stored};
use crate::rules::Rule;
use crate::{Error, Result};

/// How the bytes of a new link came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// They were pushed by this request, or are held by another live link: they may revive a
    /// link that was deleted.
    Fresh,
    /// They were pushed by a request that may have been answered long ago: a link that was
    /// deleted since stays so.
    Replay,
}

/// How a link came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Linked {
    /// It names the location that was offered.
    Here,
    /// The repository held the blob already, at another location: what was offered is not named
    /// by this link, and never was.
    Elsewhere(Location),
    /// It was deleted, and the offer was a replay.
    Deleted,
}

fn linked(link: Link, offer: &Location) -> Linked {
    match link {
        Link::Live(there) if there == *offer => Linked::Here,
        Link::Live(there) => Linked::Elsewhere(there),
        Link::Deleted => Linked::Deleted,
    }
}

impl Core {
    /// Where a repository's blob lies, for serving: from the cache if it is trusted.
    pub(crate) async fn find_link(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Seen<Location>>> {
        if let Some(link) = self.cached_link(name, digest) {
            return Ok(Some(link));
        }
        let (now, at) = (self.clock.monotonic(), self.clock.now());
        let ticket = self.cache.ticket(name, digest);
        let Some(read) = self.read::<Link>(&keys::link(digest, name)).await? else {
            return Ok(None);
        };
        let age = read.age();
        let Link::Live(location) = read.value else { return Ok(None) };
        let link = Seen::new(location, age, at);
        self.cache.add_link(ticket, now, name, digest, link.clone());
        Ok(Some(link))
    }

    /// Where a repository's blob lies, as far as it is known without asking the store.
    pub(crate) fn cached_link(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Option<Seen<Location>> {
        self.cache.link(self.clock.monotonic(), name, digest)
    }

    /// W1 for a repository's hold on a blob: where it lies, once that link is young.
    pub(crate) async fn hold_link(
        &self,
        window: Window,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Location>> {
        let (now, at) = (self.clock.monotonic(), self.clock.now());
        let ticket = self.cache.ticket(name, digest);
        let key = keys::link(digest, name);
        let held = self.hold::<Link>(window, &key, |link| link.live().is_some()).await?;
        let Some(held) = held else { return Ok(None) };
        let age = held.age();
        let Link::Live(location) = held.value else { return Ok(None) };
        self.cache.add_link(ticket, now, name, digest, Seen::new(location.clone(), age, at));
        Ok(Some(location))
    }

    /// Makes a repository hold a blob at `offer`, unless it holds it already. The caller has
    /// made sure that the bytes are there and stay there until the window closes.
    pub(crate) async fn link(
        &self,
        window: Window,
        name: &RepositoryName,
        digest: &Digest,
        offer: &Location,
        origin: Origin,
    ) -> Result<Linked> {
        let key = keys::link(digest, name);
        let link = Link::Live(offer.clone());
        let mut seen = None;
        for attempt in 0..ATTEMPTS_MAX {
            self.check(window)?;
            if self.swap(&key, seen.as_ref(), link.encode()).await?.is_some() {
                return Ok(Linked::Here);
            }
            match self.read::<Link>(&key).await? {
                Some(there) if there.value.live().is_some() => {
                    if !self.rules.keep(Rule::TouchHeld) {
                        return Ok(linked(there.value, offer));
                    }
                    if let Some(held) = self.renew(window, &key, there).await? {
                        return Ok(linked(held.value, offer));
                    }
                }
                Some(_) if origin == Origin::Replay => return Ok(Linked::Deleted),
                Some(deleted) => seen = Some(deleted.etag),
                None => seen = None,
            }
            self.back_off(attempt).await;
        }
        Err(Error::Busy { what: "the blob is being changed by too many others" })
    }

    /// A repository that holds a blob, with where it lies, made sure of by W1: `preferred` if it
    /// is one of them.
    pub(crate) async fn donor(
        &self,
        window: Window,
        digest: &Digest,
        preferred: &RepositoryName,
    ) -> Result<Option<(RepositoryName, Location)>> {
        let mut holders = self.holders(digest).await?;
        holders.sort_by_key(|holder| holder != preferred);
        for holder in holders {
            if let Some(location) = self.hold_link(window, &holder, digest).await? {
                return Ok(Some((holder, location)));
            }
        }
        Ok(None)
    }

    /// Some repositories that hold a blob, or did until it was deleted there: at most
    /// [`mount_candidates_max`](crate::Limits).
    pub(crate) async fn holders(&self, digest: &Digest) -> Result<Vec<RepositoryName>> {
        let limit = self.options.limits.mount_candidates_max.max(1);
        let links = self.list(keys::links(digest), None, limit).await?;
        Ok(links.entries.iter().filter_map(|link| keys::link_holder(&link.key)).collect())
    }
}
