//! [`Context`]: what a process looks at beside the store.

use crate::{Limits, Rule, Rules};

/// The rules and the constants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub(crate) rules: Rules,
    pub(crate) limits: Limits,
    /// How many repositories a listing finds.
    pub(crate) repositories: u8,
}

impl Context {
    pub(crate) fn new(repositories: u8) -> Self {
        Self { rules: Rules::KEPT, limits: Limits::default(), repositories }
    }

    pub(crate) fn keeps(&self, rule: Rule) -> bool {
        self.rules.keep(rule)
    }

    /// Whether a window has closed.
    pub(crate) fn is_late(&self, opened: u8, now: u8) -> bool {
        self.keeps(Rule::Window) && now > opened + self.limits.window
    }

    /// Whether a record is old enough to be collected by a run that began at `cut`.
    pub(crate) fn is_old(&self, cut: u8, modified: u8) -> bool {
        cut > modified + self.limits.grace || !self.keeps(Rule::Grace)
    }

    /// Whether this is the last repository that a listing finds.
    pub(crate) fn is_last(&self, repository: u8) -> bool {
        repository + 1 >= self.repositories
    }
}
