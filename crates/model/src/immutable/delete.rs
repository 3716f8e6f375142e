//! [`DigestDelete`] and [`ChildDelete`]: DELETEs by digest.

use super::{INDEX, ImmutableProcess, ImmutableStore};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;
use crate::record::ModelRecord;

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
    Listing {
        version: u8,
    },
    /// Of a young hint.
    ReadingHintedTag {
        version: u8,
    },
    ReadingTag {
        version: u8,
    },
    Removing {
        version: u8,
    },
}

/// Whether a hint may be of a push that has yet to set the tag.
fn is_young_hint(
    store: &ImmutableStore,
    context: &ProtocolContext,
    hint: ModelRecord<bool>,
) -> bool {
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
            DigestDeleteStep::Listing { version }
                if is_young_hint(store, context, store.hint(self.digest)) =>
            {
                self.at = DigestDeleteStep::ReadingHintedTag { version };
                (None, note("finds a young hint"))
            }
            DigestDeleteStep::ReadingHintedTag { version } => match store.tag.value {
                // It never moves there.
                Some(digest) if digest != self.digest => {
                    self.at = DigestDeleteStep::ReadingTag { version };
                    (None, note("reads the tag of the hint"))
                }
                _ => refuse(store),
            },
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

/// A DELETE of a manifest that the index needs: it reads that, lists the hints at it, looks for an index that
/// the tag points to, then removes the version that it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChildDelete {
    /// How far it is below the index.
    level: usize,
    at: ChildDeleteStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ChildDeleteStep {
    Reading,
    Listing {
        version: u8,
    },
    /// Of a young hint.
    ReadingHintedTag {
        version: u8,
    },
    ReadingTag {
        version: u8,
    },
    Removing {
        version: u8,
    },
}

impl ChildDelete {
    /// Of the child, or of the grandchild.
    pub(super) fn at_level(level: usize) -> ImmutableProcess {
        ImmutableProcess::ChildDelete(Self { level, at: ChildDeleteStep::Reading })
    }

    pub(super) fn name(&self) -> &'static str {
        match self.level {
            0 => "DELETE of the child",
            _ => "DELETE of the grandchild",
        }
    }

    pub(super) fn step(
        &mut self,
        store: &mut ImmutableStore,
        context: &ProtocolContext,
    ) -> Stepped {
        let child = store.needed[self.level];
        match self.at {
            ChildDeleteStep::Reading if !child.value => {
                (Some(ImmutableProcess::Done), note("finds no manifest"))
            }
            ChildDeleteStep::Reading => {
                self.at = ChildDeleteStep::Listing { version: child.version };
                (None, note("reads the child"))
            }
            ChildDeleteStep::Listing { version } => {
                self.at = match is_young_hint(store, context, store.needed_hints[self.level]) {
                    true => ChildDeleteStep::ReadingHintedTag { version },
                    false => ChildDeleteStep::ReadingTag { version },
                };
                (None, note("lists the hints at the child"))
            }
            // A tag that exists never moves to the index.
            ChildDeleteStep::ReadingHintedTag { .. } if store.tag.value.is_none() => refuse(store),
            ChildDeleteStep::ReadingHintedTag { version } => {
                self.at = ChildDeleteStep::ReadingTag { version };
                (None, note("reads the tag of the hint"))
            }
            ChildDeleteStep::ReadingTag { .. } if store.tag.value == Some(INDEX) => refuse(store),
            ChildDeleteStep::ReadingTag { version } => {
                self.at = ChildDeleteStep::Removing { version };
                (None, note("reads the tag"))
            }
            ChildDeleteStep::Removing { version } if version != child.version => {
                self.at = ChildDeleteStep::Reading;
                (None, note("finds another version of the child"))
            }
            ChildDeleteStep::Removing { .. } => {
                store.needed[self.level].delete(false);
                store.is_deleted = true;
                (Some(ImmutableProcess::Done), note("removes the child"))
            }
        }
    }
}
