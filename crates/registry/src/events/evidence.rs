//! [`ChangeEvidence`]: what the store shows of changes.

use crate::{Event, Result};

/// What the store shows of one change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeState {
    /// It is the current one.
    Current,
    /// It was the current one: it is archived.
    Archived,
    /// Another came, and it is not archived: it never took effect, and never will.
    Superseded,
    /// It has not taken effect so far.
    Unknown,
}

/// What looks at the store.
pub trait ChangeEvidence: Send + Sync {
    /// The state of each event's change, in their order. All are about one tag, or about one manifest.
    ///
    /// The current change must be read once, and before what is archived: a writer that replaces a change
    /// archives it first. So no change is `Superseded` that took effect, and none is `Unknown` if a
    /// greater one is not.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error): nothing is known.
    fn find(&self, events: &[&Event]) -> impl Future<Output = Result<Vec<ChangeState>>> + Send;
}
