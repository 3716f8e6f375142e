//! [`ClientPush`] and [`ClientDelete`]: a client pushes the manifest, or deletes it.

use super::{MarkedManifest, PurgedProcess, PurgedStore};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

type Stepped = (Option<PurgedProcess>, Note);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientPush {
    /// The version that it has read, and whether the manifest was there.
    seen: Option<(u8, bool)>,
}

impl ClientPush {
    pub(super) fn begin() -> PurgedProcess {
        PurgedProcess::Push(Self { seen: None })
    }

    pub(super) fn step(&mut self, store: &mut PurgedStore, context: &ProtocolContext) -> Stepped {
        let there = store.manifest;
        let Some((version, was_there)) = self.seen else {
            self.seen = Some((there.version, store.is_there()));
            return (None, note("reads the manifest"));
        };
        let is_as_read = if was_there { version == there.version } else { !store.is_there() };
        if is_as_read {
            store.manifest.write(MarkedManifest::Pushed, store.now);
            store.is_pushed = true;
            return self.end(store, note("writes the manifest"));
        }
        let serves = match there.value {
            MarkedManifest::Absent => false,
            MarkedManifest::Pushed => true,
            MarkedManifest::Restored => !context.keeps(ProtocolRule::RestoredServesNoPush),
        };
        if serves {
            store.is_pushed = true;
            return self.end(store, note("is served by another push"));
        }
        self.seen = Some((there.version, store.is_there()));
        (None, note("reads the manifest again"))
    }

    fn end(&self, store: &mut PurgedStore, note: Note) -> Stepped {
        store.stays = store.purges == 0 && store.deletes == 0;
        (Some(PurgedProcess::Done), note)
    }
}

/// Reads the manifest, writes the copy, removes the version that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientDelete {
    has_begun: bool,
    opened: u8,
    seen: Option<u8>,
    is_copied: bool,
}

impl ClientDelete {
    pub(super) fn begin() -> PurgedProcess {
        PurgedProcess::Delete(Self { has_begun: false, opened: 0, seen: None, is_copied: false })
    }

    pub(super) fn step(&mut self, store: &mut PurgedStore, context: &ProtocolContext) -> Stepped {
        if !self.has_begun {
            self.has_begun = true;
            store.deletes += 1;
            store.stays = false;
        }
        let there = store.manifest;
        match self.seen {
            None if !store.is_there() => {
                store.deletes -= 1;
                (Some(PurgedProcess::Done), note("finds no manifest"))
            }
            None => {
                (self.opened, self.seen) = (store.now, Some(there.version));
                (None, note("reads the manifest"))
            }
            Some(_) if self.is_late(store, context) => {
                (self.seen, self.is_copied) = (None, false);
                (None, note("is too late, and begins again"))
            }
            Some(_) if !self.is_copied => {
                self.is_copied = true;
                store.copy.write(true, store.now);
                (None, note("writes the copy"))
            }
            Some(version) if version != there.version => {
                (self.seen, self.is_copied) = (None, false);
                (None, note("finds another version of the manifest"))
            }
            Some(_) => {
                store.remove_manifest();
                store.deletes -= 1;
                (Some(PurgedProcess::Done), note("removes the manifest"))
            }
        }
    }

    fn is_late(&self, store: &PurgedStore, context: &ProtocolContext) -> bool {
        let is_over = store.now > self.opened + context.limits.window;
        is_over && context.keeps(ProtocolRule::DeleteInWindow)
    }
}
