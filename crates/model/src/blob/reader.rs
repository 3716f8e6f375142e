//! [`Reader`]: a client that knows the location of bytes, and reads them a little later.

use super::{BlobProcess, BlobStore, ProtocolContext};
use crate::checked::{Note, note};

/// A reader with a cached location, or a signed URL. (A reader that does not find the bytes reads
/// the link once more: that is not modelled.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reader {
    repository: u8,
    /// The location to read, and until when.
    told: Option<(u8, u8)>,
}

impl Reader {
    pub(crate) fn of(repository: u8) -> BlobProcess {
        BlobProcess::Reader(Self { repository, told: None })
    }

    pub(crate) fn told(&self) -> Option<u8> {
        self.told.map(|(location, _)| location)
    }

    pub(crate) fn until(&self) -> u8 {
        self.told.map_or(u8::MAX, |(_, until)| until)
    }

    pub(crate) fn choices(&self) -> u8 {
        u8::from(self.told.is_none())
    }

    pub(crate) fn step(
        &mut self,
        store: &BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        let Some(location) = store.link(self.repository).value.live() else {
            return (Some(BlobProcess::Failed), note("finds no live link"));
        };
        self.told = Some((location, store.now + context.limits.trust - 1));
        (None, note("gets the location").about(location))
    }
}
