//! [`ManifestGc`]: deletes untagged manifests, and unreferenced links.

use super::{ManifestObject, ManifestProcess, ManifestStore, OBJECTS, TagPointer};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;
use crate::set::NumberSet;

/// One run, without a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ManifestGc {
    at: ManifestGcStep,
    /// T0.
    cut: u8,
    /// Whether the tag points to the index.
    is_tagged: bool,
    /// Whether the child was read as a type without references.
    is_child_other: bool,
    /// The objects that exist, and those that are old as well.
    listed: NumberSet,
    old: NumberSet,
    /// Those to delete.
    candidates: NumberSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ManifestGcStep {
    Beginning,
    /// About to make that step of the listing.
    Listing(u8),
    /// C4: about to read a candidate again.
    Again,
    /// C4: about to delete this version.
    Deleting {
        object: ManifestObject,
        version: u8,
    },
}

/// What one request lists. The child and the referrer are on the same page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ManifestPage {
    Tags,
    Parents,
    Others,
    Links,
}

impl ManifestGc {
    pub(crate) fn run() -> ManifestProcess {
        let (listed, old, candidates) = (NumberSet::EMPTY, NumberSet::EMPTY, NumberSet::EMPTY);
        let at = ManifestGcStep::Beginning;
        ManifestProcess::ManifestGc(Self {
            at,
            cut: 0,
            is_tagged: false,
            is_child_other: false,
            listed,
            old,
            candidates,
        })
    }

    /// Candidates are deleted in any order.
    pub(crate) fn choices(&self) -> u8 {
        match self.at {
            ManifestGcStep::Again => self.candidates.len(),
            _ => 1,
        }
    }

    pub(crate) fn step(
        &mut self,
        store: &mut ManifestStore,
        context: &ProtocolContext,
        choice: u8,
    ) -> (Option<ManifestProcess>, Note) {
        match self.at {
            ManifestGcStep::Beginning => {
                self.cut = store.now;
                self.at = ManifestGcStep::Listing(0);
                (None, note("begins"))
            }
            ManifestGcStep::Listing(step) => self.list(store, context, usize::from(step)),
            ManifestGcStep::Again => self.read_again(store, context, choice),
            ManifestGcStep::Deleting { object, version } => {
                self.delete(store, context, object, version)
            }
        }
    }

    fn list(
        &mut self,
        store: &ManifestStore,
        context: &ProtocolContext,
        step: usize,
    ) -> (Option<ManifestProcess>, Note) {
        let order = order(context);
        let is_last = step + 1 == order.len();
        if is_last && !context.keeps(ProtocolRule::AgeAtStart) {
            self.cut = store.now;
        }
        let note = match order[step] {
            ManifestPage::Tags => {
                self.is_tagged = store.tag.value == TagPointer::Index;
                note("lists the tags")
            }
            ManifestPage::Parents => {
                self.see(store, context, &[ManifestObject::Index], "lists the index")
            }
            ManifestPage::Others => {
                self.is_child_other = store.is_child_other;
                self.see(
                    store,
                    context,
                    &[ManifestObject::Child, ManifestObject::Referrer],
                    "lists the others",
                )
            }
            ManifestPage::Links => {
                self.see(store, context, &[ManifestObject::Layer], "lists the layer's link")
            }
        };
        if !is_last {
            self.at = ManifestGcStep::Listing(u8::try_from(step).unwrap_or(u8::MAX) + 1);
            return (None, note);
        }
        self.candidates = self.decide(context);
        (self.is_tagged, self.is_child_other) = (false, false);
        (self.listed, self.old) = (NumberSet::EMPTY, NumberSet::EMPTY);
        self.at = ManifestGcStep::Again;
        (self.candidates.is_empty().then_some(ManifestProcess::Done), note)
    }

    fn see(
        &mut self,
        store: &ManifestStore,
        context: &ProtocolContext,
        objects: &[ManifestObject],
        what: &'static str,
    ) -> Note {
        for object in objects {
            let there = store.object(*object);
            if there.value {
                self.listed = self.listed.with(*object as u8);
            }
            if there.value && context.is_old(self.cut, there.modified) {
                self.old = self.old.with(*object as u8);
            }
        }
        note(what)
    }

    /// What is old and unreferenced.
    fn decide(&self, context: &ProtocolContext) -> NumberSet {
        let has_index = self.listed.has(ManifestObject::Index as u8);
        let has_child = self.listed.has(ManifestObject::Child as u8);
        let index = self.is_tagged;
        let (child, layer) = match context.keeps(ProtocolRule::OneStep) {
            true => (has_index, has_child),
            false => (index && has_index, index && has_index && has_child),
        };
        let layer = layer && (!self.is_child_other || context.keeps(ProtocolRule::EveryReading));
        let referrer = has_index && context.keeps(ProtocolRule::SubjectKeeps);
        let keeps = [index, child, referrer, layer];
        let kept = OBJECTS.iter().zip(keeps).filter(|(_, keeps)| *keeps);
        kept.fold(self.old, |left, (object, _)| left.without(*object as u8))
    }

    fn read_again(
        &mut self,
        store: &ManifestStore,
        context: &ProtocolContext,
        choice: u8,
    ) -> (Option<ManifestProcess>, Note) {
        let mut objects = OBJECTS.iter().filter(|object| self.candidates.has(**object as u8));
        let Some(object) = objects.nth(usize::from(choice)).copied() else {
            return (Some(ManifestProcess::Done), note("has no candidate"));
        };
        let there = store.object(object);
        let is_old =
            context.is_old(self.cut, there.modified) || !context.keeps(ProtocolRule::RecheckAge);
        if there.value && is_old {
            self.at = ManifestGcStep::Deleting { object, version: there.version };
            return (None, note(looking(object)));
        }
        (self.next(object), note(sparing(object)))
    }

    fn next(&mut self, done: ManifestObject) -> Option<ManifestProcess> {
        self.candidates = self.candidates.without(done as u8);
        self.at = ManifestGcStep::Again;
        self.candidates.is_empty().then_some(ManifestProcess::Done)
    }

    fn delete(
        &mut self,
        store: &mut ManifestStore,
        context: &ProtocolContext,
        object: ManifestObject,
        version: u8,
    ) -> (Option<ManifestProcess>, Note) {
        let there = store.object(object);
        let is_same = there.version == version || !context.keeps(ProtocolRule::OnVersion);
        if there.value && is_same {
            store.delete(object);
            store.collected = store.collected.with(object as u8);
            return (self.next(object), note(deleting(object)));
        }
        (self.next(object), note("fails to delete"))
    }
}

/// In which order a run lists. Children come after their parents.
fn order(context: &ProtocolContext) -> [ManifestPage; 4] {
    use ManifestPage::{Links, Others, Parents, Tags};
    if !context.keeps(ProtocolRule::ReferencesBeforeLinks) {
        return [Links, Tags, Parents, Others];
    }
    if !context.keeps(ProtocolRule::TagsBeforeManifests) {
        return [Parents, Others, Tags, Links];
    }
    [Tags, Parents, Others, Links]
}

fn looking(object: ManifestObject) -> &'static str {
    match object {
        ManifestObject::Index => "reads again the index",
        ManifestObject::Child => "reads again the child",
        ManifestObject::Referrer => "reads again the referrer",
        ManifestObject::Layer => "reads again the layer's link",
    }
}

fn sparing(object: ManifestObject) -> &'static str {
    match object {
        ManifestObject::Index => "keeps the index",
        ManifestObject::Child => "keeps the child",
        ManifestObject::Referrer => "keeps the referrer",
        ManifestObject::Layer => "keeps the layer's link",
    }
}

fn deleting(object: ManifestObject) -> &'static str {
    match object {
        ManifestObject::Index => "deletes the index",
        ManifestObject::Child => "deletes the child",
        ManifestObject::Referrer => "deletes the referrer",
        ManifestObject::Layer => "deletes the layer's link",
    }
}
