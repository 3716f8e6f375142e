//! [`NoObserver`]: for GC and fsck runs without an observer.

/// Ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;
