//! [`FsckFinding`]: one thing that is wrong or notable; and how severe it is.

use jreg_oci::{Digest, RepositoryName};
use serde::{Deserialize, Serialize};

/// How severe a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Not a problem: mostly garbage that GC will delete.
    Note,
    /// Everything is served correctly, but a record is not as it should be.
    Untidy,
    /// Acknowledged content is missing or wrong.
    Damage,
}

impl Severity {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Untidy => "untidy",
            Self::Damage => "damage",
        }
    }
}

/// Whether a finding can be, or was, repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RepairStatus {
    /// There is no repair without losing data, or none is needed.
    None,
    /// `--repair` would repair it.
    Possible,
    /// It was repaired.
    Done,
    /// The repair failed: the store failed, or the object was changed concurrently.
    Failed,
}

impl RepairStatus {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Possible => "possible",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident, $name:literal, $severity:ident;)*) => {
        /// What fsck can find. docs/fsck.md has a row for each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum FindingKind {
            $($(#[doc = $doc])+ $kind,)*
        }

        impl FindingKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Its name, as it is written in reports.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }

            /// How severe it is.
            pub fn severity(self) -> Severity {
                match self {
                    $(Self::$kind => Severity::$severity,)*
                }
            }
        }
    };
}

kinds! {
    /// The mark of a registry's store is not there.
    FormatMissing, "format-missing", Damage;
    /// `jreg.json` has no format version.
    FormatDamaged, "format-damaged", Damage;
    /// A record of authentication that cannot be decoded: signing keys, an access token, one of ACME.
    AuthUnreadable, "auth-unreadable", Damage;
    /// A key that this version does not know.
    UnknownKey, "unknown-key", Untidy;
    /// The store lists an object that it fails to read.
    ReadFails, "read-fails", Damage;
    /// A record in a form that only a later version knows.
    RecordNewer, "record-newer", Damage;
    /// A link that cannot be decoded: the location of the blob's bytes is unknown.
    LinkUnreadable, "link-unreadable", Damage;
    /// A link to bytes that are not there.
    BytesMissing, "bytes-missing", Damage;
    /// A link to bytes of another size.
    BytesSize, "bytes-size", Damage;
    /// A link to bytes of another digest.
    BytesDigest, "bytes-digest", Damage;
    /// A manifest's record that cannot be decoded.
    ManifestUnreadable, "manifest-unreadable", Damage;
    /// A manifest whose bytes have another digest.
    ManifestDigest, "manifest-digest", Damage;
    /// A manifest whose bytes are right and are no manifest.
    ManifestInvalid, "manifest-invalid", Damage;
    /// A manifest whose header line contradicts its bytes.
    ManifestHeader, "manifest-header", Untidy;
    /// A manifest references a blob that is not in its repository.
    BlobMissing, "blob-missing", Damage;
    /// An index references a manifest that is not in its repository.
    ChildMissing, "child-missing", Damage;
    /// A manifest references content that is absent, which the reference policy allows.
    SparseReference, "sparse-reference", Note;
    /// A tag that cannot be decoded.
    TagUnreadable, "tag-unreadable", Damage;
    /// A tag whose manifest is not there.
    TagDangling, "tag-dangling", Damage;
    /// A tag without the hint by which a delete of its manifest finds it.
    HintMissing, "hint-missing", Untidy;
    /// A hint that cannot be decoded: a push of its tag fails.
    HintUnreadable, "hint-unreadable", Damage;
    /// A hint whose tag or manifest no longer exists.
    HintStray, "hint-stray", Note;
    /// An entry of a list of referrers that cannot be decoded: the list fails.
    ReferrerUnreadable, "referrer-unreadable", Damage;
    /// A manifest is not in the list of its subject's referrers.
    ReferrerMissing, "referrer-missing", Damage;
    /// An entry of a list of referrers that is not what its manifest says.
    ReferrerWrong, "referrer-wrong", Damage;
    /// An entry of a list of referrers whose manifest no longer exists.
    ReferrerStray, "referrer-stray", Note;
    /// A repository's entry in the catalog cannot be decoded: a push to it fails.
    CatalogUnreadable, "catalog-unreadable", Damage;
    /// A repository with manifests is not in the catalog.
    CatalogMissing, "catalog-missing", Damage;
    /// The catalog lists a repository without a manifest.
    CatalogStray, "catalog-stray", Note;
    /// An event, or a record about sending events, that cannot be decoded: the events are not sent.
    EventUnreadable, "event-unreadable", Damage;
    /// Pull times that cannot be decoded, or are missing: no tag expires by them until they were tracked again for as
    /// long.
    PullTimesLost, "pull-times-lost", Untidy;
    /// An upload's session that cannot be decoded.
    SessionUnreadable, "session-unreadable", Damage;
    /// An open upload session has lost bytes.
    UploadBytesMissing, "upload-bytes-missing", Damage;
    /// The bytes of a finished upload are absent, and no link references them.
    SessionBytesMissing, "session-bytes-missing", Note;
    /// An upload part without a session.
    UploadPartOrphan, "upload-part-orphan", Note;
    /// Bytes of a blob that neither a link nor a session references.
    BytesOrphan, "bytes-orphan", Note;
    /// An entry of a tag's history that cannot be decoded, or is not of its key: its page fails.
    HistoryUnreadable, "history-unreadable", Damage;
    /// A copy of a deleted manifest that cannot be decoded, or has other bytes: GC stops.
    CopyUnreadable, "copy-unreadable", Damage;
    /// A record that an earlier repair has quarantined.
    Quarantined, "quarantined", Note;
}

/// One thing that fsck, or GC, has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckFinding {
    /// Description of the finding.
    pub kind: FindingKind,
    /// The key of the object that it is about; of one that is missing, where it should be.
    pub key: String,
    /// In this repository, if it is in one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub repository: Option<RepositoryName>,
    /// Of this digest, if it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<Digest>,
    /// What exactly is wrong, as text.
    pub detail: String,
    /// Whether it can be, or was, repaired.
    pub repair: RepairStatus,
}

impl FsckFinding {
    /// How severe it is.
    pub fn severity(&self) -> Severity {
        self.kind.severity()
    }

    /// Whether it is wrong and was not repaired.
    pub fn is_left(&self) -> bool {
        self.severity() > Severity::Note && self.repair != RepairStatus::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_spelled_the_same_everywhere() {
        for kind in FindingKind::ALL {
            let json = serde_json::to_value(kind).expect("a kind is JSON");
            assert_eq!(json, kind.name());
        }
    }

    #[test]
    fn the_page_on_fsck_has_a_row_for_every_kind_and_no_other() {
        let page = include_str!("../../../../docs/fsck.md");
        // Another table is of options.
        let is_row = |line: &&str| line.starts_with("| `") && !line.starts_with("| `--");
        let rows = page.lines().filter(is_row);
        let rows: Vec<_> = rows.map(|row| row.split(" | ").collect::<Vec<_>>()).collect();
        let named: Vec<_> =
            rows.iter().map(|cells| (cells[0].trim_matches(['|', ' ', '`']), cells[1])).collect();
        let kinds: Vec<_> =
            FindingKind::ALL.iter().map(|kind| (kind.name(), kind.severity().name())).collect();
        assert_eq!(named, kinds);
    }
}
