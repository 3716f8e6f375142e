//! [`RestoreGc`]: deletes expired records and copies, untagged manifests, and unreferenced links.

use super::{KeptManifest, LayerLink, RestoreProcess, RestoreStore};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;
use crate::set::NumberSet;

/// One run, without a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RestoreGc {
    at: RestoreGcStep,
    /// T0.
    cut: u8,
    seen: ListedRoots,
    /// Those to delete.
    candidates: NumberSet,
}

/// What a run has listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct ListedRoots {
    is_tagged: bool,
    /// The manifest is listed, and then it is read.
    is_listed: bool,
    is_read: bool,
    is_purged: bool,
    /// A manifest that shares the layer.
    has_other: bool,
    /// An entry or a copy is a root.
    has_entry: bool,
    has_copy: bool,
    /// What is old or has expired.
    old: NumberSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum RestoreGcStep {
    Beginning,
    Listing(u8),
    /// C4: about to read a candidate again, or to remove it plainly.
    Again,
    /// C4: about to delete this version.
    Deleting {
        object: KeptObject,
        version: u8,
    },
}

/// What GC deletes, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
enum KeptObject {
    Entry,
    Manifest,
    FirstCopy,
    SecondCopy,
    Layer,
    Purged,
}

const KEPT_OBJECTS: [KeptObject; 6] = [
    KeptObject::Entry,
    KeptObject::Manifest,
    KeptObject::FirstCopy,
    KeptObject::SecondCopy,
    KeptObject::Layer,
    KeptObject::Purged,
];

/// What one request lists or reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RootPage {
    Tags,
    Manifests,
    ManifestBodies,
    History,
    Copies,
}

impl RestoreGc {
    pub(super) fn run() -> RestoreProcess {
        RestoreProcess::RestoreGc(Self {
            at: RestoreGcStep::Beginning,
            cut: 0,
            seen: ListedRoots::default(),
            candidates: NumberSet::EMPTY,
        })
    }

    /// Candidates are deleted in any order.
    pub(super) fn choices(&self) -> u8 {
        match self.at {
            RestoreGcStep::Again => u8::try_from(self.next_objects().count()).unwrap_or(u8::MAX),
            _ => 1,
        }
    }

    /// The candidates that may be next: the purged record goes after the copies.
    fn next_objects(&self) -> impl Iterator<Item = KeptObject> {
        let candidates = self.candidates;
        let copies = [KeptObject::FirstCopy, KeptObject::SecondCopy];
        let has_copy = copies.iter().any(|copy| candidates.has(*copy as u8));
        KEPT_OBJECTS.into_iter().filter(move |object| {
            candidates.has(*object as u8) && (*object != KeptObject::Purged || !has_copy)
        })
    }

    pub(super) fn step(
        &mut self,
        store: &mut RestoreStore,
        context: &ProtocolContext,
        choice: u8,
    ) -> (Option<RestoreProcess>, Note) {
        match self.at {
            RestoreGcStep::Beginning => {
                self.cut = store.now;
                self.at = RestoreGcStep::Listing(0);
                (None, note("begins"))
            }
            RestoreGcStep::Listing(step) => self.list(store, context, usize::from(step)),
            RestoreGcStep::Again => {
                let object = self.next_objects().nth(usize::from(choice));
                let Some(object) = object else {
                    return (Some(RestoreProcess::Done), note("has no candidate"));
                };
                self.read_again(store, context, object)
            }
            RestoreGcStep::Deleting { object, version } => self.delete(store, object, version),
        }
    }

    fn list(
        &mut self,
        store: &RestoreStore,
        context: &ProtocolContext,
        step: usize,
    ) -> (Option<RestoreProcess>, Note) {
        let order = order(context);
        let note = self.see(store, context, order[step]);
        if step + 1 < order.len() {
            self.at = RestoreGcStep::Listing(u8::try_from(step).unwrap_or(u8::MAX) + 1);
            return (None, note);
        }
        // The links are listed last, and each that may be deleted is read again.
        if is_old(store, context, self.cut, KeptObject::Layer) {
            self.seen.old = self.seen.old.with(KeptObject::Layer as u8);
        }
        self.candidates = self.decide(context);
        self.seen = ListedRoots::default();
        self.at = RestoreGcStep::Again;
        (self.candidates.is_empty().then_some(RestoreProcess::Done), note)
    }

    fn see(&mut self, store: &RestoreStore, context: &ProtocolContext, page: RootPage) -> Note {
        let counts_expiring = context.keeps(ProtocolRule::ExpiringCount);
        let seen = &mut self.seen;
        let objects: &[KeptObject] = match page {
            RootPage::Manifests => &[KeptObject::Manifest, KeptObject::Purged],
            RootPage::History => &[KeptObject::Entry],
            RootPage::Copies => &[KeptObject::FirstCopy, KeptObject::SecondCopy],
            RootPage::Tags | RootPage::ManifestBodies => &[],
        };
        for object in objects.iter().filter(|it| is_old(store, context, self.cut, **it)) {
            seen.old = seen.old.with(*object as u8);
        }
        match page {
            RootPage::Tags => {
                seen.is_tagged = store.tag.value;
                note("lists the tags")
            }
            RootPage::Manifests => {
                seen.is_listed = store.is_live();
                seen.is_purged = store.manifest.value == KeptManifest::Purged;
                seen.has_other = store.other.value;
                note("lists the manifests")
            }
            RootPage::ManifestBodies => {
                seen.is_read = seen.is_listed && store.is_live();
                note("reads the manifests")
            }
            RootPage::History => {
                let is_old = seen.old.has(KeptObject::Entry as u8);
                seen.has_entry = store.entry.value && (!is_old || counts_expiring);
                note("lists the history")
            }
            RootPage::Copies => {
                let counts = |object: KeptObject| {
                    store.copies[copy_of(object)].value
                        && (!seen.old.has(object as u8) || counts_expiring)
                };
                seen.has_copy = objects.iter().any(|object| counts(*object));
                note("lists the copies")
            }
        }
    }

    /// What has expired, and what is old and not in R.
    fn decide(&self, context: &ProtocolContext) -> NumberSet {
        let seen = &self.seen;
        let mut candidates = seen.old;
        let has_entry = seen.has_entry && context.keeps(ProtocolRule::HistoryKeeps);
        if seen.is_tagged || has_entry {
            candidates = candidates.without(KeptObject::Manifest as u8);
        }
        let has_copy = seen.has_copy && context.keeps(ProtocolRule::CopyKeeps);
        if seen.is_read || seen.has_other || has_copy {
            candidates = candidates.without(KeptObject::Layer as u8);
        }
        if seen.is_purged && context.keeps(ProtocolRule::PurgedHasNoCopies) {
            let copies = [KeptObject::FirstCopy, KeptObject::SecondCopy];
            candidates = copies.iter().fold(candidates, |all, copy| all.with(*copy as u8));
        }
        candidates
    }

    fn read_again(
        &mut self,
        store: &mut RestoreStore,
        context: &ProtocolContext,
        object: KeptObject,
    ) -> (Option<RestoreProcess>, Note) {
        let is_purged = store.manifest.value == KeptManifest::Purged;
        let is_old = is_old(store, context, self.cut, object);
        match object {
            KeptObject::Entry if is_old => {
                store.entry.delete(false);
                store.collected.entry = true;
            }
            KeptObject::FirstCopy | KeptObject::SecondCopy if is_old || is_purged => {
                store.copies[copy_of(object)].delete(false);
                store.collected.copy = true;
            }
            KeptObject::Manifest | KeptObject::Purged if is_old => {
                let version = store.manifest.version;
                self.at = RestoreGcStep::Deleting { object, version };
                return (None, note("reads the manifest again"));
            }
            KeptObject::Layer if is_old => {
                let version = store.layer.version;
                self.at = RestoreGcStep::Deleting { object, version };
                return (None, note("reads the layer's link again"));
            }
            _ => return (self.next(object), note("keeps a candidate")),
        }
        (self.next(object), note(removing(object)))
    }

    fn next(&mut self, done: KeptObject) -> Option<RestoreProcess> {
        self.candidates = self.candidates.without(done as u8);
        self.at = RestoreGcStep::Again;
        self.candidates.is_empty().then_some(RestoreProcess::Done)
    }

    fn delete(
        &mut self,
        store: &mut RestoreStore,
        object: KeptObject,
        version: u8,
    ) -> (Option<RestoreProcess>, Note) {
        let is_link = object == KeptObject::Layer;
        let there = if is_link { store.layer.version } else { store.manifest.version };
        if there != version {
            return (self.next(object), note("fails to delete"));
        }
        match object {
            KeptObject::Layer => {
                store.layer.delete(LayerLink::Absent);
                store.collected.layer = true;
            }
            KeptObject::Purged => {
                store.manifest.delete(KeptManifest::Absent);
                store.collected.purged = true;
            }
            _ => {
                store.manifest.delete(KeptManifest::Absent);
                store.collected.manifest = true;
            }
        }
        (self.next(object), note(removing(object)))
    }
}

fn copy_of(object: KeptObject) -> usize {
    usize::from(object == KeptObject::SecondCopy)
}

/// Whether an object is there, and old or expired.
fn is_old(store: &RestoreStore, context: &ProtocolContext, cut: u8, object: KeptObject) -> bool {
    let has_expired = |at: u8| cut > at + context.limits.keep;
    let manifest = store.manifest;
    match object {
        KeptObject::Entry => store.entry.value && store.ended.is_some_and(has_expired),
        KeptObject::FirstCopy | KeptObject::SecondCopy => {
            let copy = store.copies[copy_of(object)];
            copy.value && has_expired(copy.modified)
        }
        KeptObject::Manifest => store.is_live() && context.is_old(cut, manifest.modified),
        KeptObject::Purged => {
            manifest.value == KeptManifest::Purged && context.is_old(cut, manifest.modified)
        }
        KeptObject::Layer => store.has_layer() && context.is_old(cut, store.layer.modified),
    }
}

/// In which order a run lists: things move from what is listed first to what is listed later.
fn order(context: &ProtocolContext) -> [RootPage; 5] {
    use RootPage::{Copies, History, ManifestBodies, Manifests, Tags};
    if !context.keeps(ProtocolRule::TagsBeforeHistory) {
        return [History, Tags, Manifests, ManifestBodies, Copies];
    }
    if !context.keeps(ProtocolRule::ManifestsBeforeCopies) {
        return [Tags, Copies, Manifests, ManifestBodies, History];
    }
    if !context.keeps(ProtocolRule::ManifestsReadBeforeCopies) {
        return [Tags, Manifests, History, Copies, ManifestBodies];
    }
    if !context.keeps(ProtocolRule::ManifestsBeforeHistory) {
        return [Tags, History, Manifests, ManifestBodies, Copies];
    }
    if !context.keeps(ProtocolRule::HistoryBeforeCopies) {
        return [Tags, Manifests, ManifestBodies, Copies, History];
    }
    [Tags, Manifests, ManifestBodies, History, Copies]
}

fn removing(object: KeptObject) -> &'static str {
    match object {
        KeptObject::Entry => "removes the entry",
        KeptObject::Manifest => "deletes the manifest",
        KeptObject::FirstCopy | KeptObject::SecondCopy => "removes a copy",
        KeptObject::Layer => "deletes the layer's link",
        KeptObject::Purged => "removes the purged record",
    }
}
