//! [`ProtocolRule`]: each rule of the protocol, as a switch.

/// One rule. The letters and numbers are those of the protocol's clauses: W of a writer, C of GC
/// (docs/garbage-collection.md). A rule that the registry can disable in tests, too, has its name
/// there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ProtocolRule {
    // Writing.
    /// W1: a record that a write will depend on is touched if it is of age T or more.
    Touch,
    /// W1: this touch is a swap on the version that was read.
    TouchOnVersion,
    /// W2: a referencing write is sent before the window that its first read opened has closed.
    Window,
    /// W3: a HEAD by a client that may push touches what it finds.
    HeadTouches,
    /// W3: a HEAD is served from the cache only while the cached record is younger than T.
    HeadFromYoungMemory,
    /// A mount does W1 on its destination, if there is a link already.
    TouchDestination,
    /// A writer deletes its own bytes again only if every link write that referenced them has
    /// definitely failed: a lost response is not a failure.
    OwnBytesOnly,

    // Uploads.
    /// The record of an upload references bytes only within the window that opened before they were
    /// stored.
    RecordInWindow,
    /// The window of a commit opens before its bytes are stored or its session is closed, that of
    /// a replay before the session is read.
    WindowFirst,
    /// The closing PUT swaps the session to `closed` before it writes the link.
    CloseFirst,
    /// A cancel swaps the session to `cancelled` before any byte is deleted.
    CancelFirst,
    /// The reaper removes the record of a `closed` session only once no write of its link can be in
    /// flight any more.
    ReapClosedLate,
    /// A `closed` session may write its link again only for a while.
    ///
    /// [`CompleteInTime`](Self::CompleteInTime) catches what this would: a violation needs both to
    /// be broken. This one saves a late request the completion.
    ReplayWindow,
    /// A `closed` session never writes its link again onto one that was deleted since it was closed.
    ReplayNotOntoDeleted,
    /// It does onto one that was deleted before: else a retry of the closing PUT is refused for a
    /// delete that the push came after.
    ReplayOntoOlder,
    /// What was deleted at the very reading of the store's clock at which it was closed counts as
    /// deleted since.
    ReplayOntoStrictlyOlder,
    /// It does so on the version that was read.
    ReplayOnVersion,
    /// Completing the multipart upload of a `closed` session may take longer than a window. A new
    /// window is opened after it only for as long as a replay might write the link.
    CompleteInTime,
    /// A push keeps its own bytes until a link to a copy of them is written.
    KeepOwnBytes,
    /// A push that finds a link checks that its bytes exist, and links its own if they do not.
    CheckBytes,

    // GC of blobs.
    /// C1: T0 is taken before anything is listed.
    AgeAtStart,
    /// C3: only what was older than G at T0 is a candidate.
    Grace,
    /// C4: the age is checked again in the read whose version is deleted.
    ///
    /// A run that deleted the version of its listing would not have to.
    RecheckAge,
    /// C4: the delete is on the version just read.
    OnVersion,
    /// C5: a location is queued only if *every* link to it was deleted in this run.
    ///
    /// This and [`RelistLinks`](Self::RelistLinks) each catch what the other would: a violation needs
    /// both to be broken. This one costs nothing, and keeps the queue short.
    EveryLink,
    /// C5: its bytes are deleted only after a wait that is longer than any reader uses a cached
    /// location.
    BytesWait,
    /// C5: the links are listed once more after the wait.
    ///
    /// With all other rules kept nothing is found by it. It is the defence if one of
    /// [`EveryLink`](Self::EveryLink) and [`DeduplicateOnlyOld`](Self::DeduplicateOnlyOld) is not,
    /// and if the store's listing shows less than it promises.
    RelistLinks,
    /// C3, C5 and the sweep: a link that was deleted by the API still references its location for
    /// GC, until GC deletes it for its age.
    ///
    /// A listing reads one link after the other. Without this rule a blob that is mounted from a
    /// repository that is yet to be read to one that has been, and deleted in the first, has no
    /// link in that listing, though it had one all the time.
    DeletedKeepsLocation,

    // Deduplication.
    /// Before a link is swapped to another's location, W1 is done on that other link.
    DeduplicateTouches,
    /// Only a link older than G is moved.
    ///
    /// A mount that has just touched the link relies on its location, and this keeps deduplication
    /// away from it. A violation needs [`RelistLinks`](Self::RelistLinks) to be broken as well.
    DeduplicateOnlyOld,
    /// The move is a swap on the version that was read.
    DeduplicateOnVersion,
    /// The bytes of the other location are hashed before a link is swapped to it.
    DeduplicateHashes,

    // Sweeping.
    /// Bytes are deleted only if two sweeps found them orphaned.
    SweepTwice,
    /// The second sweep begins G after the *end* of the first; broken: after its beginning.
    SweepApart,
    /// An upload's session references its bytes.
    SweepSessions,
    /// Bytes are listed before sessions, and sessions before links.
    SweepOrder,

    // Manifests.
    /// R is everything that any listed manifest references, reachable from a tag or not.
    OneStep,
    /// A push of an index touches its children.
    TouchChildren,
    /// A push writes the manifest even if it is there already, unless another push has written it
    /// after this push read it: then that version serves both.
    Rewrite,
    /// A manifest keeps the media type that it was first pushed with until it is deleted.
    ///
    /// This and [`EveryReading`](Self::EveryReading) each catch what the other would: a violation
    /// needs both to be broken. This one is for clients, too, who would see a tag change.
    KeepType,
    /// What a manifest refers to does not depend on its media type: it is all that any reading of
    /// its bytes finds.
    EveryReading,
    /// A manifest that exists keeps its referrers.
    SubjectKeeps,
    /// Tags are listed before manifests.
    ///
    /// Defence in depth: a push that sets a tag also writes the manifest, so what a listing in
    /// another order misses is young. With this rule, what is found untagged was so at one moment.
    TagsBeforeManifests,
    /// Manifests are listed before links.
    ///
    /// Defence in depth: T0 is before both, and C4 reads a link again. With this rule a listed link
    /// is judged by references that are no newer.
    ReferencesBeforeLinks,

    // Deleting.
    /// A delete by the API leaves a tombstone, over which no delayed Create is applied.
    Tombstone,
    /// GC removes a tombstone only once it is older than B.
    TombstoneAge,

    // Changes of a tag.
    /// The change that a swap replaces is archived before it.
    Archive,
    /// All that a request does to a tag, archiving too, is sent within the window that its first read
    /// has opened.
    ///
    /// Later an entry may have expired that it would bring back, and a deleted record is gone that
    /// would keep its Create from taking effect twice.
    ChangeInWindow,
    /// After a lost swap the change is archived that was found then.
    ArchiveAgain,
    /// The ULID of a change is greater than that of the change it replaces, whatever the clock says.
    ChangeGreater,
    /// A request whose swap got no response looks for its own change, in the record and in the
    /// history, before it makes another one.
    FindOwnChange,
    /// A page of the history reads the current record before it lists the entries.
    CurrentFirst,
    /// A page drops the entries that are not older than the current change.
    DropFromCurrent,
    /// GC archives a deleted record before it removes it.
    ArchiveDeleted,
    /// GC removes a deleted record only once it is older than G.
    DeletedRecordAge,
    /// GC reads the current record before it lists the entries, and an entry of a digest without a
    /// change after it has not ended.
    GcCurrentFirst,
    /// Expired entries are removed from the oldest one on.
    OldestFirst,

    // Keeping and restoring.
    /// An entry of the history keeps the manifest that the tag pointed to.
    HistoryKeeps,
    /// A copy of a deleted manifest keeps what it references.
    CopyKeeps,
    /// C2: tags are listed before the history.
    TagsBeforeHistory,
    /// C2: manifests are listed before the copies of deleted ones.
    ManifestsBeforeCopies,
    /// C2: manifests are not only listed but also read before the copies are listed.
    ManifestsReadBeforeCopies,
    /// C2: manifests are listed before the history.
    ///
    /// Not needed: nothing moves from the one to the other, and an entry's references are those of its
    /// manifest.
    ManifestsBeforeHistory,
    /// C2: the history is listed before the copies.
    ///
    /// Not needed: an entry has a manifest, which is listed before the copies, or is deleted, and then
    /// says nothing.
    HistoryBeforeCopies,
    /// C2: entries and copies that expire in a run still count in its R.
    ExpiringCount,
    /// A DELETE of a manifest writes a copy of it before it removes the manifest.
    CopyFirst,
    /// It does both within a window, or begins again with another copy.
    DeleteInWindow,
    /// W1: restoring a manifest or a tag touches the references.
    RestoreTouches,
    /// A restore reads the manifest's key before it reads the copy.
    ManifestBeforeCopy,
    /// A purge leaves a record at the manifest's own key, over which nothing is restored. Broken: a
    /// marker at a key of its own, for which a restore looks after it has written.
    PurgedRecord,
    /// A restore looks for that marker, and undoes itself.
    LookForPurge,
    /// GC removes the copies of a manifest that was purged, before it removes the purged record.
    PurgedHasNoCopies,
    /// A purge that deletes a link lists the manifests again once no push can rely on it any more, and
    /// gives the link back if it is referenced.
    PurgeListsAgain,

    // Immutable tags.
    /// A push judges the tag again after a lost swap, on the version that it swaps next.
    ImmutableAtSwap,
    /// The hint of an immutable tag is written before anything is read.
    ///
    /// So a version of the manifest that the push relies on is one that a DELETE has read after the hint.
    HintBeforeReads,
    /// So are hints at the children of an index.
    ChildHints,
    /// A push of an index to an immutable tag touches its children whatever their age, so that a DELETE which
    /// has listed the hints before fails on the version.
    TouchYoungChild,
    /// For a DELETE by digest a young hint counts as the tag.
    YoungHintCounts,
    /// A hint is young for T + B: a push that relies on it has until then to set the tag.
    HintAgeWithWindow,
    /// An index needs what the indexes below it need: these have hints, and are touched, too.
    NestedHints,

    // Deleting a manifest beside pushes of its tags.
    /// The hint of a tag is written with the reads of a push, before its manifest.
    HintWithReads,
    /// A version of the manifest that another push has written serves only if it is later than one that was read
    /// after the hint was written.
    ServeAfterHint,
    /// A push whose swap of the tag was lost writes the manifest again after it has read the tag.
    RenewAfterLostTag,
    /// A DELETE lists the hints after it has read the version of the manifest that it removes.
    HintsAfterManifest,
    /// It writes a tag with a young hint again that does not point to the manifest: the swap of a push that has read
    /// the tag before is lost.
    FenceTags,
    /// A hint is young for T + B.
    FenceForWindow,
    /// Tags are removed before their manifest.
    UntagFirst,

    // Purging with a mark.
    /// A purge writes its mark before it removes a copy or the manifest.
    MarkFirst,
    /// It does all within a window from the mark on, or begins again.
    PurgeInWindow,
    /// The header of a manifest says that a restore has created it.
    RestoredIsMarked,
    /// A restore looks for a mark after it has written.
    LookForMark,
    /// If it finds one it removes only what a restore has created.
    UndoOnlyRestored,
    /// A push is not served by what a restore has created: it writes over it.
    RestoredServesNoPush,
    /// GC removes beside a mark what a restore has created.
    GcUndoesRestored,
    /// Who removes what a restore has created writes the mark again before, within a window: a DELETE may have read
    /// that, and write a copy of it.
    UndoTouchesMark,
    /// GC removes the copies beside a mark, before the mark.
    MarkedHasNoCopies,
    /// GC removes a mark only once it is older than G.
    MarkAge,
    /// GC removes the version of the mark that it has judged: another purge may have written it again.
    MarkOnVersion,
}

impl ProtocolRule {
    /// All of them.
    pub const ALL: [Self; 98] = [
        Self::Touch,
        Self::TouchOnVersion,
        Self::Window,
        Self::HeadTouches,
        Self::HeadFromYoungMemory,
        Self::TouchDestination,
        Self::OwnBytesOnly,
        Self::RecordInWindow,
        Self::WindowFirst,
        Self::CloseFirst,
        Self::CancelFirst,
        Self::ReapClosedLate,
        Self::ReplayWindow,
        Self::ReplayNotOntoDeleted,
        Self::ReplayOntoOlder,
        Self::ReplayOntoStrictlyOlder,
        Self::ReplayOnVersion,
        Self::CompleteInTime,
        Self::KeepOwnBytes,
        Self::CheckBytes,
        Self::AgeAtStart,
        Self::Grace,
        Self::RecheckAge,
        Self::OnVersion,
        Self::EveryLink,
        Self::BytesWait,
        Self::RelistLinks,
        Self::DeletedKeepsLocation,
        Self::DeduplicateTouches,
        Self::DeduplicateOnlyOld,
        Self::DeduplicateOnVersion,
        Self::DeduplicateHashes,
        Self::SweepTwice,
        Self::SweepApart,
        Self::SweepSessions,
        Self::SweepOrder,
        Self::OneStep,
        Self::TouchChildren,
        Self::Rewrite,
        Self::KeepType,
        Self::EveryReading,
        Self::SubjectKeeps,
        Self::TagsBeforeManifests,
        Self::ReferencesBeforeLinks,
        Self::Tombstone,
        Self::TombstoneAge,
        Self::Archive,
        Self::ChangeInWindow,
        Self::ArchiveAgain,
        Self::ChangeGreater,
        Self::FindOwnChange,
        Self::CurrentFirst,
        Self::DropFromCurrent,
        Self::ArchiveDeleted,
        Self::DeletedRecordAge,
        Self::GcCurrentFirst,
        Self::OldestFirst,
        Self::HistoryKeeps,
        Self::CopyKeeps,
        Self::TagsBeforeHistory,
        Self::ManifestsBeforeCopies,
        Self::ManifestsReadBeforeCopies,
        Self::ManifestsBeforeHistory,
        Self::HistoryBeforeCopies,
        Self::ExpiringCount,
        Self::CopyFirst,
        Self::DeleteInWindow,
        Self::RestoreTouches,
        Self::ManifestBeforeCopy,
        Self::PurgedRecord,
        Self::LookForPurge,
        Self::PurgedHasNoCopies,
        Self::PurgeListsAgain,
        Self::ImmutableAtSwap,
        Self::HintBeforeReads,
        Self::ChildHints,
        Self::TouchYoungChild,
        Self::YoungHintCounts,
        Self::HintAgeWithWindow,
        Self::NestedHints,
        Self::HintWithReads,
        Self::ServeAfterHint,
        Self::RenewAfterLostTag,
        Self::HintsAfterManifest,
        Self::FenceTags,
        Self::FenceForWindow,
        Self::UntagFirst,
        Self::MarkFirst,
        Self::PurgeInWindow,
        Self::RestoredIsMarked,
        Self::LookForMark,
        Self::UndoOnlyRestored,
        Self::RestoredServesNoPush,
        Self::GcUndoesRestored,
        Self::UndoTouchesMark,
        Self::MarkedHasNoCopies,
        Self::MarkAge,
        Self::MarkOnVersion,
    ];
}

/// Which rules are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolRules {
    broken: u128,
}

impl ProtocolRules {
    /// All rules are in force.
    pub const KEPT: Self = Self { broken: 0 };

    /// The same with one rule broken.
    #[must_use]
    pub fn without(self, rule: ProtocolRule) -> Self {
        Self { broken: self.broken | (1_u128 << rule as u8) }
    }

    pub(crate) fn keep(self, rule: ProtocolRule) -> bool {
        self.broken & (1_u128 << rule as u8) == 0
    }
}
