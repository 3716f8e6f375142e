//! [`DigestDelete`] and [`ChildDelete`]: DELETEs by digest.

use super::{INDEX, ImmutableProcess, ImmutableStore};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

type Stepped = (Option<ImmutableProcess>, Note);

/// Reads the manifest, finds its tags by their hints, then removes that version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DigestDelete {
    pub(super) digest: u8,
    at: DigestDeleteStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum DigestDeleteStep {
    Reading,
    Listing { version: u8 },
    ReadingTag { version: u8 },
    Removing { version: u8 },
}

/// Whether the hint may be of a push that has yet to set the tag.
fn is_young_hint(store: &ImmutableStore, context: &ProtocolContext, digest: u8) -> bool {
    let hint = store.hint(digest);
    let limits = &context.limits;
    let age_max = match context.keeps(ProtocolRule::HintAgeWithWindow) {
        true => limits.touch_age + limits.window,
        false => limits.touch_age,
    };
    let is_young = store.now - hint.modified < age_max;
    hint.value && is_young && context.keeps(ProtocolRule::YoungHintCounts)
}

fn refuse(store: &mut ImmutableStore) -> Stepped {
    store.is_refused = true;
    (Some(ImmutableProcess::Done), note("is refused"))
}

impl DigestDelete {
    pub(super) fn of(digest: u8) -> ImmutableProcess {
        ImmutableProcess::DigestDelete(Self { digest, at: DigestDeleteStep::Reading })
    }

    pub(super) fn step(
        &mut self,
        store: &mut ImmutableStore,
        context: &ProtocolContext,
    ) -> Stepped {
        let there = store.manifest(self.digest);
        match self.at {
            DigestDeleteStep::Reading if !there.value => {
                (Some(ImmutableProcess::Done), note("finds no manifest"))
            }
            DigestDeleteStep::Reading => {
                self.at = DigestDeleteStep::Listing { version: there.version };
                (None, note("reads the manifest"))
            }
            DigestDeleteStep::Listing { .. } if is_young_hint(store, context, self.digest) => {
                refuse(store)
            }
            DigestDeleteStep::Listing { version } => {
                self.at = match store.hint(self.digest).value {
                    true => DigestDeleteStep::ReadingTag { version },
                    false => DigestDeleteStep::Removing { version },
                };
                (None, note("lists the hints"))
            }
            DigestDeleteStep::ReadingTag { .. } if store.tag.value == Some(self.digest) => {
                refuse(store)
            }
            DigestDeleteStep::ReadingTag { version } => {
                self.at = DigestDeleteStep::Removing { version };
                (None, note("reads the tag"))
            }
            DigestDeleteStep::Removing { version } if version != there.version => {
                self.at = DigestDeleteStep::Reading;
                (None, note("finds another version of the manifest"))
            }
            DigestDeleteStep::Removing { .. } => {
                store.manifests[usize::from(self.digest)].delete(false);
                store.is_deleted = true;
                (Some(ImmutableProcess::Done), note("removes the manifest"))
            }
        }
    }
}

/// A DELETE of the child: it reads the child, looks for an index of an immutable tag, then removes
/// the version that it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChildDelete(ChildDeleteStep);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ChildDeleteStep {
    Reading,
    LookingForIndex { version: u8 },
    ReadingTag { version: u8 },
    Removing { version: u8 },
}

impl ChildDelete {
    pub(super) fn begin() -> ImmutableProcess {
        ImmutableProcess::ChildDelete(Self(ChildDeleteStep::Reading))
    }

    pub(super) fn step(
        &mut self,
        store: &mut ImmutableStore,
        context: &ProtocolContext,
    ) -> Stepped {
        let child = store.child;
        let limits = &context.limits;
        match self.0 {
            ChildDeleteStep::Reading if !child.value => {
                (Some(ImmutableProcess::Done), note("finds no manifest"))
            }
            ChildDeleteStep::Reading => {
                let is_young = store.now - child.modified < limits.touch_age + limits.window;
                if is_young && context.keeps(ProtocolRule::YoungChildStays) {
                    return refuse(store);
                }
                self.0 = ChildDeleteStep::LookingForIndex { version: child.version };
                (None, note("reads the child"))
            }
            ChildDeleteStep::LookingForIndex { version } => {
                let is_named = store.manifest(INDEX).value;
                if is_named && is_young_hint(store, context, INDEX) {
                    return refuse(store);
                }
                self.0 = match is_named {
                    true => ChildDeleteStep::ReadingTag { version },
                    false => ChildDeleteStep::Removing { version },
                };
                (None, note("looks for an index"))
            }
            ChildDeleteStep::ReadingTag { .. } if store.tag.value == Some(INDEX) => refuse(store),
            ChildDeleteStep::ReadingTag { version } => {
                self.0 = ChildDeleteStep::Removing { version };
                (None, note("reads the tag"))
            }
            ChildDeleteStep::Removing { version } if version != child.version => {
                self.0 = ChildDeleteStep::Reading;
                (None, note("finds another version of the child"))
            }
            ChildDeleteStep::Removing { .. } => {
                store.child.delete(false);
                store.is_deleted = true;
                (Some(ImmutableProcess::Done), note("removes the child"))
            }
        }
    }
}
