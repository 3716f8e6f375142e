//! The deep pass: the bytes of every blob that a link names are read and hashed.
//!
//! Links are walked in the order of their keys, so those of one blob come together, and bytes that
//! several of them name are read once. After every few links the run notes how far it is, with the
//! bad ones so far, so that a later check goes on there and still knows of them.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use jreg_oci::{Digest, Hasher};
use jreg_storage::{ByteRange, ETag, Key};
use serde::{Deserialize, Serialize};

use super::links::{BadBytes, HeldAt};
use super::manifests::Scope;
use super::read::{Found, Patience, look};
use super::{CheckPhase, CheckWatch, FindingKind, Repair, Run};
use crate::Result;
use crate::core::Core;
use crate::fingerprint;
use crate::keys::{self, Place};
use crate::pace::Pace;
use crate::record::{JsonRecord, Link, Location, Stored, Versioned};

/// After how many links a run notes how far it is.
const LINKS_PER_NOTE: usize = 64;

/// How old a note may be to be believed: what was hashed before it is no longer new.
const NOTE_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How many bad links a note names. With more the position is not noted any more.
const BAD_MAX: usize = 1000;

/// How far a deep pass is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// The last link that was done; `None`: there is nothing to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    /// The links that were bad, and are so still.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    bad: BTreeSet<Key>,
}

impl JsonRecord for Position {}

/// What reading some bytes has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Right,
    Bad(BadBytes),
    /// They are not there, or fewer: a cheap pass tells of that.
    Gone,
}

/// Bytes whose verdict is known: those of the digest that came last.
#[derive(Debug, Default)]
struct Known {
    digest: Option<Digest>,
    verdicts: Vec<(Location, Verdict)>,
}

impl Known {
    fn of(&self, held: &HeldAt) -> Option<&Verdict> {
        let is_same = self.digest.as_ref() == Some(&held.digest);
        let mut verdicts = self.verdicts.iter().filter(|_| is_same);
        verdicts.find(|(location, _)| *location == held.location).map(|(_, verdict)| verdict)
    }

    fn add(&mut self, held: &HeldAt, verdict: Verdict) {
        if self.digest.as_ref() != Some(&held.digest) {
            *self = Self { digest: Some(held.digest.clone()), verdicts: Vec::new() };
        }
        self.verdicts.push((held.location.clone(), verdict));
    }
}

/// A deep pass.
struct Pass {
    core: Core,
    pace: Pace,
    known: Known,
    position: Position,
    /// The version of the note that this pass goes on from.
    noted: Option<ETag>,
}

impl Run<'_> {
    /// Reads and hashes the bytes of every blob.
    pub(super) async fn hash_blobs(&mut self) -> Result<()> {
        self.watch.phase(CheckPhase::Hashing);
        let mut pass = self.begin_pass().await?;
        self.done.resumed = pass.position.after.is_some();
        let bad: Vec<_> = std::mem::take(&mut pass.position.bad).into_iter().collect();
        for links in bad.chunks(LINKS_PER_NOTE) {
            self.hash_links(&mut pass, links).await?;
        }
        let mut pages = self.core.pages(keys::LINKS);
        if let Some(after) = &pass.position.after {
            pages = pages.after(after.clone());
        }
        while let Some(page) = pages.next().await? {
            let links: Vec<_> = page.entries.into_iter().map(|entry| entry.key).collect();
            for links in links.chunks(LINKS_PER_NOTE) {
                self.hash_links(&mut pass, links).await?;
                pass.position.after = links.last().map(Key::to_string);
                pass.note().await?;
            }
        }
        pass.position = Position::default();
        pass.note().await?;
        if !self.seen.let_go.is_empty() {
            self.check_manifests(Scope::WhatWasLetGo).await?;
        }
        Ok(())
    }

    async fn begin_pass(&self) -> Result<Pass> {
        let core = self.core.clone();
        let key = keys::note("fsck");
        let (position, noted) = match look::<Position>(&core, &key).await? {
            Found::Good(read) if !self.options.restart && read.age() <= NOTE_AGE_MAX => {
                (read.value, Some(read.etag))
            }
            Found::Good(read) => (Position::default(), Some(read.etag)),
            Found::Absent => (Position::default(), None),
            // It is only a note.
            Found::Bad(bad) => (Position::default(), bad.record.map(|record| record.etag)),
        };
        let pace = Pace::new(self.options.bytes_per_second);
        Ok(Pass { core, pace, known: Known::default(), position, noted })
    }

    /// Reads some links, and the bytes that they name.
    async fn hash_links(&mut self, pass: &mut Pass, links: &[Key]) -> Result<()> {
        let core = pass.core.clone();
        let reads: Vec<_> = links.iter().map(|key| read_link(&core, key)).collect();
        let mut reads = stream::iter(reads).buffered(self.width());
        let mut held = Vec::new();
        while let Some(link) = reads.next().await {
            held.extend(link?);
        }
        drop(reads);
        let verdicts = self.hash_distinct(pass, &held).await?;
        for (held, verdict) in held.iter().zip(verdicts) {
            if let Verdict::Bad(bad) = verdict {
                self.report_hashed(pass, held, bad).await?;
            }
        }
        Ok(())
    }

    /// The verdict on the bytes of each link, reading those that several name once.
    async fn hash_distinct(&mut self, pass: &mut Pass, held: &[HeldAt]) -> Result<Vec<Verdict>> {
        let is_same = |one: &HeldAt, other: &HeldAt| {
            one.digest == other.digest && one.location == other.location
        };
        let is_first =
            |index: usize, one: &HeldAt| !held.iter().take(index).any(|other| is_same(one, other));
        let distinct: Vec<_> = held
            .iter()
            .enumerate()
            .filter(|(index, one)| pass.known.of(one).is_none() && is_first(*index, one))
            .map(|(_, one)| one)
            .collect();
        let (watch, pace) = (self.watch, &pass.pace);
        let jobs = distinct.iter().map(|one| verify(&pass.core, one, pace, watch));
        let jobs: Vec<_> = jobs.collect();
        // Several that share a narrow pace would each wait for so long that a store may hang up.
        let is_paced = self.options.bytes_per_second > 0;
        let mut jobs = stream::iter(jobs).buffered(if is_paced { 1 } else { self.width() });
        let mut fresh = Vec::new();
        while let Some(verdict) = jobs.next().await {
            fresh.push(verdict?);
        }
        drop(jobs);
        self.done.hashed += fresh.len() as u64;
        self.done.hashed_bytes += distinct.iter().map(|one| one.location.size_bytes).sum::<u64>();
        let known = &mut pass.known;
        let mut fresh: Vec<_> = distinct.into_iter().zip(fresh).collect();
        let mut verdicts = Vec::with_capacity(held.len());
        for one in held {
            if let Some(index) = fresh.iter().position(|(other, _)| is_same(one, other)) {
                let (first, verdict) = fresh.swap_remove(index);
                known.add(first, verdict);
            }
            verdicts.push(known.of(one).cloned().unwrap_or(Verdict::Gone));
        }
        Ok(verdicts)
    }

    async fn report_hashed(&mut self, pass: &mut Pass, held: &HeldAt, bad: BadBytes) -> Result<()> {
        match self.report_bytes(held, bad).await? {
            None => {}
            Some(Repair::Done) => {
                self.seen.let_go.insert(fingerprint::content(&held.name, &held.digest));
            }
            Some(_) => {
                pass.position.bad.insert(keys::link(&held.digest, &held.name));
            }
        }
        Ok(())
    }
}

async fn read_link(core: &Core, key: &Key) -> Result<Option<HeldAt>> {
    let Some(Place::Link(digest, name)) = Place::of(key) else { return Ok(None) };
    Ok(match look::<Link>(core, key).await? {
        Found::Good(Versioned { value: Link::Live(location), etag, .. }) => {
            Some(HeldAt { name, digest, location, etag })
        }
        _ => None,
    })
}

impl Pass {
    /// Notes how far it is. If another check was faster, its note is as good.
    async fn note(&mut self) -> Result<()> {
        if self.position.bad.len() > BAD_MAX {
            return Ok(());
        }
        let key = keys::note("fsck");
        let record = self.position.encode();
        self.noted = match self.core.swap(&key, self.noted.as_ref(), record).await? {
            Some(written) => Some(written.etag),
            None => self.core.etag(&key).await?,
        };
        Ok(())
    }
}

/// Reads bytes and hashes them; if they seem wrong, once more.
async fn verify(
    core: &Core,
    held: &HeldAt,
    pace: &Pace,
    watch: &dyn CheckWatch,
) -> Result<Verdict> {
    let mut patience = Patience::new();
    let mut was_other = false;
    let verdict = loop {
        match hash(core, held, pace, watch).await {
            Ok(actual) if actual == held.digest => break Verdict::Right,
            Ok(actual) if was_other => {
                let detail = format!("its bytes have digest {actual}");
                break Verdict::Bad(BadBytes { kind: FindingKind::BytesDigest, detail });
            }
            Ok(_) => was_other = true,
            Err(error) if is_gone(&error) => break Verdict::Gone,
            Err(error) => {
                if let Some(detail) = patience.lose(core, error).await? {
                    break Verdict::Bad(BadBytes { kind: FindingKind::ReadFails, detail });
                }
            }
        }
    };
    watch.progress(1, 0);
    Ok(verdict)
}

fn is_gone(error: &jreg_storage::Error) -> bool {
    use jreg_storage::ErrorKind::{NotFound, OutOfRange};
    matches!(error.kind(), NotFound | OutOfRange)
}

async fn hash(
    core: &Core,
    held: &HeldAt,
    pace: &Pace,
    watch: &dyn CheckWatch,
) -> jreg_storage::Result<Digest> {
    let range = ByteRange { start: 0, end: held.location.size_bytes };
    let mut stream = core.store.read(&held.location.key, range).await?;
    let mut hasher = Hasher::new(held.digest.algorithm());
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        hasher.update(&chunk);
        watch.progress(0, chunk.len() as u64);
        pace.took(chunk.len() as u64).await;
    }
    Ok(hasher.finish())
}
