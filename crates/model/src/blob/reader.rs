//! [`Reader`]: somebody who was told where the bytes are, and reads them a little later.

use super::{BlobWorld, Context, Process};
use crate::checked::{Note, note};

/// A reader with a location from memory, or a signed URL. (A reader who does not find the bytes
/// and may look at the link once more does so: he is not modelled.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reader {
    repository: u8,
    /// Where he was told to read, and until when.
    told: Option<(u8, u8)>,
}

impl Reader {
    pub(crate) fn of(repository: u8) -> Process {
        Process::Reader(Self { repository, told: None })
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

    pub(crate) fn step(&mut self, world: &BlobWorld, context: &Context) -> (Option<Process>, Note) {
        let Some(location) = world.link(self.repository).value.live() else {
            return (Some(Process::Failed), note("finds no live link"));
        };
        self.told = Some((location, world.now + context.limits.trust - 1));
        (None, note("is told to read at location").about(location))
    }
}
