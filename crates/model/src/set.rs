//! [`NumberSet`]: a few small numbers, in one byte of a state.

/// A set of numbers below eight: locations, or repositories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NumberSet(u8);

impl NumberSet {
    pub(crate) const EMPTY: Self = Self(0);

    pub(crate) fn has(self, member: u8) -> bool {
        self.0 & (1 << member) != 0
    }

    pub(crate) fn with(self, member: u8) -> Self {
        Self(self.0 | (1 << member))
    }

    pub(crate) fn without(self, member: u8) -> Self {
        Self(self.0 & !(1 << member))
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn len(self) -> u8 {
        self.members().map(|_| 1).sum()
    }

    /// The smallest member.
    pub(crate) fn first(self) -> Option<u8> {
        self.members().next()
    }

    pub(crate) fn members(self) -> impl Iterator<Item = u8> {
        (0..8).filter(move |member| self.has(*member))
    }
}
