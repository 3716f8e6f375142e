//! The sweep: bytes that nothing has ever named, or that only something named which is gone.
//!
//! A process that dies between storing bytes and linking them leaves such bytes, and so does a
//! blob that is deleted by the API, or whose link was moved to other bytes. Their age cannot be
//! read from them: a store may give the time at which a multipart upload was begun. So two sweeps
//! at least a grace apart must both find that neither a session nor a link names them. Bytes are
//! listed first, then sessions, then links: a link that is written while that goes on names bytes
//! that were listed before and a session that was. A blob may also be handed on: mounted to where
//! the listing of the links has passed, then deleted where it has not. So where a link has just
//! gone, all links to its blob are looked at again. And where a link names bytes that are not there, it
//! may have rotted: what may be its bytes stays.

use futures::stream::{self, StreamExt};
use jreg_storage::Listed;

use super::action::{Action, ActionKind};
use super::manifests::{recall, remember};
use super::memo::{Kind, Memo};
use super::watch::Phase;
use super::{Result, Run, last_key, seconds};
use crate::check::LostBytes;
use crate::fingerprint::{self, Fingerprints, Version};
use crate::keys::{self, Place, UploadKey};
use crate::record::Versioned;
use crate::rules::Rule;
use crate::session::Session;

/// The places of bytes that were listed, and which of them are named.
#[derive(Debug, Default)]
pub(super) struct Places {
    listed: Fingerprints,
    named: Vec<bool>,
    /// Something could not be read that may name any of them: nothing is removed.
    is_uncertain: bool,
    /// What links name that was not listed.
    pub(super) lost: LostBytes,
}

impl Places {
    /// Something names this place: `Some(0)` none, `None` perhaps any.
    pub(super) fn tick_off(&mut self, place: Option<u64>) {
        match place {
            None => self.is_uncertain = true,
            Some(place) => {
                let index = self.listed.index(place);
                if let Some(named) = index.and_then(|index| self.named.get_mut(index)) {
                    *named = true;
                }
            }
        }
    }

    /// Whether a place is named that was not listed.
    pub(super) fn lacks(&self, place: u64) -> bool {
        place != 0 && self.listed.index(place).is_none()
    }

    /// Whether everything that may name bytes could be read.
    pub(super) fn is_certain(&self) -> bool {
        !self.is_uncertain
    }

    fn is_unnamed(&self, place: u64) -> bool {
        let index = self.listed.index(place);
        index.and_then(|index| self.named.get(index)).is_some_and(|named| !named)
    }
}

impl Run<'_> {
    /// Lists bytes, then sessions.
    pub(super) async fn list_bytes(&mut self) -> Result<Places> {
        self.watch.phase(Phase::Bytes);
        let mut places = Places::default();
        let mut pages = self.core.pages(keys::BLOBS);
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                if let Some(Place::Blob(_)) = Place::of(&entry.key) {
                    self.done.blobs.scan(entry.size_bytes);
                    places.listed.insert(fingerprint::key(&entry.key));
                }
            }
            self.watch.progress(page.entries.len() as u64);
        }
        places.listed.seal();
        places.named = vec![false; places.listed.len()];
        if self.core.rules.keep(Rule::SweepSessions) {
            self.read_sessions(&mut places).await?;
        }
        Ok(places)
    }

    /// Ticks off what sessions name, in whatever state they are.
    async fn read_sessions(&mut self, places: &mut Places) -> Result<()> {
        let core = self.core.clone();
        let mut memo = Memo::open(&core, Kind::Sessions, !self.options.dry_run).await?;
        let mut pages = self.core.pages(keys::UPLOADS);
        while let Some(page) = pages.next().await? {
            let mut unread = Vec::new();
            for entry in &page.entries {
                let Some(UploadKey::Session(_)) = keys::upload_key(&entry.key) else { continue };
                let version = Version::of(entry, page.date);
                match recall(&mut memo, &entry.key, version).await {
                    Some(named) => named.iter().for_each(|place| places.tick_off(Some(*place))),
                    None => unread.push((entry.key.clone(), version)),
                }
            }
            let reads = unread.into_iter().map(|(key, version)| {
                let core = self.core.clone();
                async move { (version, core.read::<Session>(&key).await) }
            });
            let mut reads = stream::iter(reads).buffer_unordered(self.width());
            while let Some((version, session)) = reads.next().await {
                match session {
                    Ok(Some(Versioned { value, .. })) => {
                        let named: Vec<_> = value.places().iter().map(fingerprint::key).collect();
                        named.iter().for_each(|place| places.tick_off(Some(*place)));
                        remember(&mut memo, version, &named);
                    }
                    Ok(None) => {}
                    Err(crate::Error::Damaged { .. }) => places.tick_off(None),
                    Err(error) => return Err(error.into()),
                }
            }
            memo.end_page(last_key(&page.entries)).await?;
        }
        Ok(memo.finish().await?)
    }

    /// Removes the bytes that this sweep and one a grace ago or more found unnamed; notes the
    /// others.
    pub(super) async fn sweep(&mut self, places: Places) -> Result<()> {
        self.watch.phase(Phase::Sweep);
        let core = self.core.clone();
        let mut memo = Memo::open(&core, Kind::Unnamed, !self.options.dry_run).await?;
        let mut pages = self.core.pages(keys::BLOBS);
        while let Some(page) = pages.next().await? {
            let mut free = Vec::new();
            for entry in &page.entries {
                if !places.is_unnamed(fingerprint::key(&entry.key)) {
                    continue;
                }
                let version = Version::of_key(&entry.key);
                let since = memo.get(&entry.key, version).await;
                let since = since.and_then(|values| values.first().copied());
                if self.is_past_grace(since) {
                    free.push(entry);
                } else {
                    self.done.blobs.young += 1;
                    // From now on, and not from when this run began: what was listed since then
                    // may have been named until a moment ago.
                    memo.put(version, &[since.unwrap_or(seconds(page.date))]);
                }
            }
            if !free.is_empty() {
                let quarantined = self.quarantined().await?;
                free.retain(|Listed { key, size_bytes, .. }| {
                    !quarantined.may_name(key, *size_bytes) && !places.lost.may_be(key, *size_bytes)
                });
            }
            self.remove_unnamed(&free).await;
            self.watch.progress(page.entries.len() as u64);
            memo.end_page(last_key(&page.entries)).await?;
        }
        Ok(memo.finish().await?)
    }

    /// Whether a grace has passed between an earlier run and this one.
    pub(super) fn is_past_grace(&self, since: Option<u64>) -> bool {
        match since {
            Some(since) => {
                let passed = seconds(self.began).saturating_sub(since);
                passed >= self.options.grace.as_secs()
            }
            None => !self.core.rules.keep(Rule::SweepTwice),
        }
    }

    async fn remove_unnamed(&mut self, entries: &[&Listed]) {
        let actions: Vec<_> = entries
            .iter()
            .map(|entry| Action {
                kind: ActionKind::RemoveBytes,
                key: entry.key.to_string(),
                repository: None,
                digest: match Place::of(&entry.key) {
                    Some(Place::Blob(digest)) => digest,
                    _ => None,
                },
                size_bytes: entry.size_bytes,
            })
            .collect();
        let keys: Vec<_> = entries.iter().map(|entry| entry.key.clone()).collect();
        self.remove_bytes(&actions, &keys).await;
    }
}
