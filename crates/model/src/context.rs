//! [`ProtocolContext`]: what a process reads besides the store.

use crate::{ProtocolLimits, ProtocolRule, ProtocolRules};

/// The rules and the constants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProtocolContext {
    pub(crate) rules: ProtocolRules,
    pub(crate) limits: ProtocolLimits,
    /// How many repositories a listing finds.
    pub(crate) repositories: u8,
}

impl ProtocolContext {
    pub(crate) fn new(repositories: u8) -> Self {
        Self { rules: ProtocolRules::KEPT, limits: ProtocolLimits::default(), repositories }
    }

    pub(crate) fn keeps(&self, rule: ProtocolRule) -> bool {
        self.rules.keep(rule)
    }

    /// Whether a window has closed.
    pub(crate) fn is_late(&self, opened: u8, now: u8) -> bool {
        self.keeps(ProtocolRule::Window) && now > opened + self.limits.window
    }

    /// Whether a record is old enough to be deleted by a run whose T0 is `cut`.
    pub(crate) fn is_old(&self, cut: u8, modified: u8) -> bool {
        cut > modified + self.limits.grace || !self.keeps(ProtocolRule::Grace)
    }

    /// Whether this is the last repository that a listing finds.
    pub(crate) fn is_last(&self, repository: u8) -> bool {
        repository + 1 >= self.repositories
    }
}
