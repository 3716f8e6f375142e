//! The safety rules by name, so that tests can break one at a time and expect a violation.
//!
//! In production every rule is in force: the check is compiled out.

/// A rule of writing or of GC, without which acknowledged content can be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// W1: an old record is touched before a write relies on it.
    Touch,
    /// W1 holds for a link that a mount or a commit finds at its destination, too.
    TouchDestination,
    /// W2: a referencing write is sent within its window.
    Window,
    /// W2 is checked again when the request is sent, however long the machine slept before.
    WindowAtSend,
    /// The window opens before the record or bytes relied on are read, or stored.
    WindowFirst,
    /// A push of an existing manifest writes a new version, unless another push has since.
    Rewrite,
    /// A manifest keeps its media type until it is deleted. This and [`EveryReading`] each catch what
    /// the other would.
    ///
    /// [`EveryReading`]: Self::EveryReading
    KeepType,
    /// The references of a manifest do not depend on its media type.
    EveryReading,
    /// W1 holds for the manifests that an index references, too.
    TouchChildren,
    /// A session is swapped to `closed` before its bytes are linked.
    CloseFirst,
    /// A session is swapped to `cancelled` before its bytes are deleted.
    CancelFirst,
    /// A closed session writes its link only for a while.
    ReplayWindow,
    /// A closed session never writes its link onto one that was deleted since it was closed.
    ReplayNotOntoDeleted,
    /// It does onto one that was deleted before.
    ReplayOntoOlder,
    /// What was deleted at the same reading of the store's clock counts as deleted since.
    ReplayOntoStrictlyOlder,
    /// GC ignores records younger than the grace.
    Grace,
    /// Ages are relative to T0, the beginning of the run, however long the run takes.
    AgeAtStart,
    /// A record is deleted on the version that was judged.
    OnVersion,
    /// Bytes go only when every link that named them no longer exists; that is looked at twice,
    /// either of which would mostly do.
    EveryLink,
    /// Bytes stay for a while after their last link, for readers of that link.
    BytesWait,
    /// Every listed manifest keeps its references, those to be deleted included.
    OneStep,
    /// An existing subject keeps its referrers.
    SubjectKeeps,
    /// Orphaned bytes are deleted only if an earlier sweep found them orphaned.
    SweepTwice,
    /// Sessions reference bytes, too.
    SweepSessions,
    /// A link that was deleted while a sweep listed the links may have been copied to a part that
    /// the sweep had already listed.
    SweepAgain,
    /// Links that a repair has quarantined keep their bytes.
    QuarantineKeeps,
    /// Deduplication touches the link whose location another link takes.
    DeduplicateTouches,
    /// Deduplication hashes the bytes at a location before a link references them.
    DeduplicateHashes,
    /// A commit that does not link its own bytes first checks that the others are complete.
    CheckBytes,
    /// The bytes of an upload are kept until a link references them or others.
    KeepOwnBytes,
    /// What replaces a change of a tag archives it first.
    Archive,
    /// The record of a deleted tag is archived before it is removed.
    ArchiveDeleted,
    /// A delete of a manifest copies it first.
    CopyFirst,
    /// Copies of deleted manifests keep what they reference.
    CopyKeeps,
    /// Replaced changes of tags keep the manifests that they point to.
    HistoryKeeps,
    /// A restore looks for the mark of a purge after it has written.
    LookForPurge,
    /// The hint of a tag is written with the reads of a push, before its manifest.
    HintWithReads,
    /// A version of the manifest that another push has written serves this one only if it is later than one that was
    /// read after the hint was written.
    ServeAfterHint,
    /// A push whose swap of a tag was lost writes the manifest again after it has read the tag.
    RenewAfterLostTag,
    /// A delete of a manifest swaps the tags of young hints that do not point to it.
    FenceTags,
    /// An immutable tag is judged again on the version that a swap replaces.
    ImmutableAtSwap,
    /// A swap that was lost is looked for before another is tried.
    LookForOwn,
    /// GC reads what a tag is now before it judges what it was last.
    NewestStays,
    /// The hint of an immutable tag is written before anything is read, and counts as the tag while it is young.
    ImmutableHint,
    /// So are hints at the children of an index.
    ChildHints,
    /// And at the manifests below them.
    NestedHints,
    /// The children of an index of an immutable tag are touched whatever their age.
    TouchYoungChild,
    /// A restore that finds a mark, and GC, remove only what a restore has created.
    UndoRestored,
}

/// Which rules are in force.
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

    /// Whether a rule is in force.
    #[cfg(feature = "broken-rules")]
    pub(crate) fn keep(self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    /// Whether a rule is in force: it is.
    #[cfg(not(feature = "broken-rules"))]
    #[inline]
    pub(crate) fn keep(self, _rule: Rule) -> bool {
        true
    }
}
