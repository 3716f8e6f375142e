//! [`Rule`]: each rule of the protocol, as a switch.

/// One rule. The letters and numbers are those of the protocol's clauses: W of a writer, C of a
/// collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rule {
    // Writing.
    /// W1: what a write will depend on is written again if it is of age T or more.
    Touch,
    /// W1: this touch is a swap on the version that was read.
    TouchOnVersion,
    /// W2: a referencing write is sent before the window that its first read opened has closed.
    Window,
    /// W3: a HEAD by somebody who may push touches what it finds.
    HeadTouches,
    /// W3: a HEAD is answered from memory only while what is remembered is younger than T.
    HeadFromYoungMemory,
    /// A mount does W1 on its destination, if there is a link already.
    HoldDestination,
    /// A writer takes its own bytes back only if every link write that named them has definitely
    /// failed: an answer that was lost is not a failure.
    OwnBytesOnly,

    // Uploads.
    /// The record of an upload names bytes only within the window that opened before they were
    /// stored.
    RecordInWindow,
    /// The window of a commit opens before its bytes are stored or its session is closed, that of
    /// a replay before the session is read.
    WindowFirst,
    /// The closing PUT swaps the session to `closed` before it writes the link.
    Seal,
    /// Whoever cancels swaps the session to `cancelled` before any byte is removed.
    CancelFirst,
    /// The reaper removes the record of a `closed` session only once no write of its link can be
    /// on its way any more.
    ReapClosedLate,
    /// A `closed` session may write its link again only for a while.
    ///
    /// [`CompleteInTime`](Self::CompleteInTime) catches what this would: harm needs both to be
    /// broken. This one spares a late request the completion.
    ReplayWindow,
    /// A `closed` session never writes its link again onto one that was deleted.
    ReplayNotOntoDeleted,
    /// Putting the parts of a `closed` session together may take longer than a window. A new window
    /// is opened after it only for as long as a replay might write the link.
    CompleteInTime,
    /// A push keeps its own bytes until a link names a copy of them.
    KeepOwnBytes,
    /// A push that finds a link looks whether its bytes are there, and links its own if they are not.
    CheckBytes,

    // Collecting blobs.
    /// C1: T0 is taken before anything is listed.
    CutFirst,
    /// C3: only what was older than G at T0 is a candidate.
    Grace,
    /// C4: the age is looked at again in the read whose version is deleted.
    ///
    /// A collector that deleted the version of its listing would not have to.
    AgeAgain,
    /// C4: the delete is on the version just read.
    DeleteOnVersion,
    /// C5: a location goes only if *every* link that named it was lost in this run.
    ///
    /// This and [`ListAgain`](Self::ListAgain) each catch what the other would: harm needs both to
    /// be broken. This one costs nothing, and keeps the queue short.
    EveryLink,
    /// C5: its bytes go only after a wait that is longer than anybody trusts what he was told.
    Wait,
    /// C5: the links are listed once more after the wait.
    ///
    /// With all other rules kept nothing is found by it. It is what still helps if one of
    /// [`EveryLink`](Self::EveryLink) and [`FoldOnlyOld`](Self::FoldOnlyOld) is not, and if the
    /// store's listing shows less than it promises.
    ListAgain,
    /// C3, C5 and the sweep: a link that was deleted by the API goes on naming its location, for
    /// collectors alone, until one of them removes it for its age.
    ///
    /// A listing reads one link after the other. Without this rule a blob that is mounted from a
    /// repository that is yet to be read to one that has been, and deleted in the first, has no
    /// name in that listing, though it had one all the time.
    DeletedKeepsPlace,

    // Folding duplicates.
    /// Before a link is swapped to another's location, W1 is done on that other link.
    FoldHoldsTheOther,
    /// Only a link older than G is folded.
    ///
    /// A mount that has just made sure of the link relies on its location, and this keeps the fold
    /// away from it. Harm needs [`ListAgain`](Self::ListAgain) to be broken as well.
    FoldOnlyOld,
    /// The fold is a swap on the version that was read.
    FoldOnVersion,
    /// The bytes of the other location are hashed before a link is swapped to it.
    FoldHashes,

    // Sweeping.
    /// Bytes go only if two sweeps found nothing that names them.
    SweepTwice,
    /// The second sweep begins G after the *end* of the first; broken: after its beginning.
    SweepApart,
    /// An upload's session names its bytes.
    SweepSessions,
    /// Bytes are listed before sessions, and sessions before links.
    SweepOrder,

    // Manifests.
    /// R is what any listed manifest refers to, reachable from a tag or not.
    OneStepReferences,
    /// A push of an index touches its children.
    TouchChildren,
    /// A push writes the manifest even if it is there already, unless another push has written it
    /// after this push looked at it: then that version serves both.
    RewriteOnRepush,
    /// A manifest keeps the media type that it was first pushed with until it is deleted.
    ///
    /// This and [`EveryReading`](Self::EveryReading) each catch what the other would: harm needs
    /// both to be broken. This one is for clients, too, who would see a tag change.
    KeepType,
    /// What a manifest refers to does not depend on its media type: it is all that any reading of
    /// its bytes finds.
    EveryReading,
    /// A manifest that is there keeps its referrers.
    SubjectKeeps,
    /// Tags are listed before manifests.
    ///
    /// Nothing goes wrong without it: whoever points a tag to a manifest writes that manifest
    /// again, so what a listing in another order misses is young. It is there so that what is
    /// found untagged was so at one moment.
    TagsBeforeManifests,
    /// Manifests are listed before links.
    ///
    /// Nothing goes wrong without it: T0 is before both, and C4 looks at a link again. It is there
    /// so that a link that is listed was judged by references that are no newer.
    ReferencesBeforeLinks,

    // Deleting.
    /// A delete by the API leaves a tombstone, which no delayed Create lands on.
    Tombstone,
    /// The collector removes a tombstone only once it is older than B.
    TombstoneAge,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 43] = [
        Self::Touch,
        Self::TouchOnVersion,
        Self::Window,
        Self::HeadTouches,
        Self::HeadFromYoungMemory,
        Self::HoldDestination,
        Self::OwnBytesOnly,
        Self::RecordInWindow,
        Self::WindowFirst,
        Self::Seal,
        Self::CancelFirst,
        Self::ReapClosedLate,
        Self::ReplayWindow,
        Self::ReplayNotOntoDeleted,
        Self::CompleteInTime,
        Self::KeepOwnBytes,
        Self::CheckBytes,
        Self::CutFirst,
        Self::Grace,
        Self::AgeAgain,
        Self::DeleteOnVersion,
        Self::EveryLink,
        Self::Wait,
        Self::ListAgain,
        Self::DeletedKeepsPlace,
        Self::FoldHoldsTheOther,
        Self::FoldOnlyOld,
        Self::FoldOnVersion,
        Self::FoldHashes,
        Self::SweepTwice,
        Self::SweepApart,
        Self::SweepSessions,
        Self::SweepOrder,
        Self::OneStepReferences,
        Self::TouchChildren,
        Self::RewriteOnRepush,
        Self::KeepType,
        Self::EveryReading,
        Self::SubjectKeeps,
        Self::TagsBeforeManifests,
        Self::ReferencesBeforeLinks,
        Self::Tombstone,
        Self::TombstoneAge,
    ];
}

/// Which rules are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    broken: u64,
}

impl Rules {
    /// All of them are kept.
    pub const KEPT: Self = Self { broken: 0 };

    /// One fewer is kept.
    #[must_use]
    pub fn without(self, rule: Rule) -> Self {
        Self { broken: self.broken | (1 << rule as u8) }
    }

    pub(crate) fn keep(self, rule: Rule) -> bool {
        self.broken & (1 << rule as u8) == 0
    }
}
