//! The safety rules by name, so that tests can break one at a time and see that something notices.
//!
//! In production every rule is kept: there is nothing to switch, and the check costs nothing.

/// A rule of writing or of collecting, without which something acknowledged can be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// W1: an old record is touched before anything relies on it.
    Touch,
    /// W1 holds for a link that a mount or a commit finds at its destination, too.
    TouchDestination,
    /// W2: a referencing write is sent within its window.
    Window,
    /// W2 holds when the request leaves, however long its writer slept before.
    WindowAtSend,
    /// The window opens before what is relied on is read, or stored.
    WindowFirst,
    /// A push of a manifest that is there writes a new version, unless another push has since.
    Rewrite,
    /// A manifest keeps its media type until it is deleted. This and [`EveryReading`] each catch what
    /// the other would.
    ///
    /// [`EveryReading`]: Self::EveryReading
    KeepType,
    /// What a manifest refers to does not depend on its media type.
    EveryReading,
    /// W1 holds for the manifests that an index references, too.
    TouchChildren,
    /// A session is swapped to `closed` before its bytes are linked.
    CloseFirst,
    /// A session is swapped to `cancelled` before its bytes are removed.
    CancelFirst,
    /// A closed session writes its link only for a while.
    ReplayWindow,
    /// What is younger than the grace is left alone.
    Grace,
    /// How old something is counts from the beginning of the run, however long that takes.
    AgeAtStart,
    /// A record is removed on the version that was judged.
    OnVersion,
    /// Bytes go only when every link that named them no longer exists; that is looked at twice,
    /// either of which would mostly do.
    EveryLink,
    /// Bytes stay for a while after their last link, for readers of that link.
    BytesWait,
    /// Every manifest that is listed keeps what it names, those to be removed included.
    OneStep,
    /// A subject that is there keeps its referrers.
    SubjectKeeps,
    /// Orphan bytes are removed only if an earlier sweep found them so.
    SweepTwice,
    /// Sessions name bytes, too.
    SweepSessions,
    /// A link that went while a sweep looked at the links may have been copied to where the sweep
    /// had looked before.
    SweepAgain,
    /// Links that a repair has quarantined keep the bytes that they name.
    QuarantineKeeps,
    /// Deduplication touches the link whose location another link takes.
    DeduplicateTouches,
    /// Deduplication hashes the bytes at a location before it makes a link name them.
    DeduplicateHashes,
    /// A commit that does not link its own bytes first checks whether the others are complete.
    CheckBytes,
    /// The bytes of an upload are kept until a link references them or others.
    KeepOwnBytes,
}

/// Which rules are kept.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    #[cfg(feature = "broken-rules")]
    broken: Option<Rule>,
}

impl Rules {
    #[cfg(feature = "broken-rules")]
    pub(crate) fn without(rule: Rule) -> Self {
        Self { broken: Some(rule) }
    }

    /// Whether a rule is kept.
    #[cfg(feature = "broken-rules")]
    pub(crate) fn keep(self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    /// Whether a rule is kept: it is.
    #[cfg(not(feature = "broken-rules"))]
    #[inline]
    pub(crate) fn keep(self, _rule: Rule) -> bool {
        true
    }
}
