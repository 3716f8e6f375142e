//! [`Collector`]: removes manifests that are untagged, and links that nothing refers to.

use super::{ManifestWorld, OBJECTS, Object, Process, Tag};
use crate::Rule;
use crate::checked::{Note, note};
use crate::context::Context;
use crate::set::Set;

/// One run, without a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Collector {
    at: ManifestCollectorStep,
    /// T0.
    cut: u8,
    /// Whether the tag points to the index.
    is_tagged: bool,
    /// Whether the child was read as referring to nothing.
    is_child_other: bool,
    /// The objects that are there, and those that are old as well.
    listed: Set,
    old: Set,
    /// Those that are to go.
    candidates: Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ManifestCollectorStep {
    Beginning,
    /// About to make that step of the listing.
    Listing(u8),
    /// C4: about to read a candidate again.
    Again,
    /// C4: about to delete this version.
    Deleting {
        object: Object,
        version: u8,
    },
}

/// What one request lists. The child and the referrer are on the same page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Tags,
    Parents,
    Others,
    Links,
}

impl Collector {
    pub(crate) fn run() -> Process {
        let (listed, old, candidates) = (Set::EMPTY, Set::EMPTY, Set::EMPTY);
        let at = ManifestCollectorStep::Beginning;
        Process::Collector(Self {
            at,
            cut: 0,
            is_tagged: false,
            is_child_other: false,
            listed,
            old,
            candidates,
        })
    }

    /// The candidates go in any order.
    pub(crate) fn choices(&self) -> u8 {
        match self.at {
            ManifestCollectorStep::Again => self.candidates.len(),
            _ => 1,
        }
    }

    pub(crate) fn step(
        &mut self,
        world: &mut ManifestWorld,
        context: &Context,
        choice: u8,
    ) -> (Option<Process>, Note) {
        match self.at {
            ManifestCollectorStep::Beginning => {
                self.cut = world.now;
                self.at = ManifestCollectorStep::Listing(0);
                (None, note("begins"))
            }
            ManifestCollectorStep::Listing(step) => self.list(world, context, usize::from(step)),
            ManifestCollectorStep::Again => self.read_again(world, context, choice),
            ManifestCollectorStep::Deleting { object, version } => {
                self.delete(world, context, object, version)
            }
        }
    }

    fn list(
        &mut self,
        world: &ManifestWorld,
        context: &Context,
        step: usize,
    ) -> (Option<Process>, Note) {
        let order = order(context);
        let is_last = step + 1 == order.len();
        if is_last && !context.keeps(Rule::CutFirst) {
            self.cut = world.now;
        }
        let note = match order[step] {
            Page::Tags => {
                self.is_tagged = world.tag.value == Tag::Index;
                note("lists the tags")
            }
            Page::Parents => self.see(world, context, &[Object::Index], "lists the index"),
            Page::Others => {
                self.is_child_other = world.is_child_other;
                self.see(world, context, &[Object::Child, Object::Referrer], "lists the others")
            }
            Page::Links => self.see(world, context, &[Object::Layer], "lists the layer's link"),
        };
        if !is_last {
            self.at = ManifestCollectorStep::Listing(u8::try_from(step).unwrap_or(u8::MAX) + 1);
            return (None, note);
        }
        self.candidates = self.decide(context);
        (self.is_tagged, self.is_child_other) = (false, false);
        (self.listed, self.old) = (Set::EMPTY, Set::EMPTY);
        self.at = ManifestCollectorStep::Again;
        (self.candidates.is_empty().then_some(Process::Done), note)
    }

    fn see(
        &mut self,
        world: &ManifestWorld,
        context: &Context,
        objects: &[Object],
        what: &'static str,
    ) -> Note {
        for object in objects {
            let there = world.object(*object);
            if there.value {
                self.listed = self.listed.with(*object as u8);
            }
            if there.value && context.is_old(self.cut, there.modified) {
                self.old = self.old.with(*object as u8);
            }
        }
        note(what)
    }

    /// What is old, and is not kept by anything.
    fn decide(&self, context: &Context) -> Set {
        let has_index = self.listed.has(Object::Index as u8);
        let has_child = self.listed.has(Object::Child as u8);
        let index = self.is_tagged;
        let (child, layer) = match context.keeps(Rule::OneStepReferences) {
            true => (has_index, has_child),
            false => (index && has_index, index && has_index && has_child),
        };
        let layer = layer && (!self.is_child_other || context.keeps(Rule::EveryReading));
        let referrer = has_index && context.keeps(Rule::SubjectKeeps);
        let keeps = [index, child, referrer, layer];
        let kept = OBJECTS.iter().zip(keeps).filter(|(_, keeps)| *keeps);
        kept.fold(self.old, |left, (object, _)| left.without(*object as u8))
    }

    fn read_again(
        &mut self,
        world: &ManifestWorld,
        context: &Context,
        choice: u8,
    ) -> (Option<Process>, Note) {
        let mut objects = OBJECTS.iter().filter(|object| self.candidates.has(**object as u8));
        let Some(object) = objects.nth(usize::from(choice)).copied() else {
            return (Some(Process::Done), note("has no candidate"));
        };
        let there = world.object(object);
        let is_old = context.is_old(self.cut, there.modified) || !context.keeps(Rule::AgeAgain);
        if there.value && is_old {
            self.at = ManifestCollectorStep::Deleting { object, version: there.version };
            return (None, note(looking(object)));
        }
        (self.next(object), note(sparing(object)))
    }

    fn next(&mut self, done: Object) -> Option<Process> {
        self.candidates = self.candidates.without(done as u8);
        self.at = ManifestCollectorStep::Again;
        self.candidates.is_empty().then_some(Process::Done)
    }

    fn delete(
        &mut self,
        world: &mut ManifestWorld,
        context: &Context,
        object: Object,
        version: u8,
    ) -> (Option<Process>, Note) {
        let there = world.object(object);
        let is_same = there.version == version || !context.keeps(Rule::DeleteOnVersion);
        if there.value && is_same {
            world.delete(object);
            world.collected = world.collected.with(object as u8);
            return (self.next(object), note(deleting(object)));
        }
        (self.next(object), note("fails to delete"))
    }
}

/// In which order a run lists. Children come after their parents.
fn order(context: &Context) -> [Page; 4] {
    use Page::{Links, Others, Parents, Tags};
    if !context.keeps(Rule::ReferencesBeforeLinks) {
        return [Links, Tags, Parents, Others];
    }
    if !context.keeps(Rule::TagsBeforeManifests) {
        return [Parents, Others, Tags, Links];
    }
    [Tags, Parents, Others, Links]
}

fn looking(object: Object) -> &'static str {
    match object {
        Object::Index => "looks again at the index",
        Object::Child => "looks again at the child",
        Object::Referrer => "looks again at the referrer",
        Object::Layer => "looks again at the layer's link",
    }
}

fn sparing(object: Object) -> &'static str {
    match object {
        Object::Index => "spares the index",
        Object::Child => "spares the child",
        Object::Referrer => "spares the referrer",
        Object::Layer => "spares the layer's link",
    }
}

fn deleting(object: Object) -> &'static str {
    match object {
        Object::Index => "deletes the index",
        Object::Child => "deletes the child",
        Object::Referrer => "deletes the referrer",
        Object::Layer => "deletes the layer's link",
    }
}
