//! The objects, the kinds of damage, and the expected findings.

use jreg_registry::FindingKind;

/// An object of the damaged repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    /// The config of the image, pushed in one request: the signature has the same.
    KnownBytes,
    /// The layer of the image.
    StreamedBytes,
    /// The link to the layer.
    Link,
    /// The image.
    Manifest,
    /// An index of the image.
    Index,
    /// A manifest whose subject is the image.
    Signature,
    /// The tag of the image.
    Tag,
    /// The hint of that tag.
    Hint,
    /// The signature's entry in the list of the image's referrers.
    Referrer,
    Catalog,
    /// Of an upload in progress.
    Session,
    /// The stored bytes of that upload.
    UploadBytes,
    Marker,
    /// The tag of the index; not damaged.
    IndexTag,
    /// The hint of that tag; not damaged.
    IndexHint,
}

/// A kind of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    Cut,
    Emptied,
    /// Every byte is zero.
    Zeroed,
    /// The first bytes are changed.
    Start,
    /// The last bytes are changed.
    End,
    Removed,
}

impl Damage {
    pub(crate) const ALL: [Self; 6] =
        [Self::Cut, Self::Emptied, Self::Zeroed, Self::Start, Self::End, Self::Removed];

    /// The damaged bytes; `None`: the object is deleted.
    pub(crate) fn of(self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = bytes.to_vec();
        let others = 3.min(bytes.len());
        let end = bytes.len() - others;
        match self {
            Self::Cut => bytes.truncate(bytes.len() / 2),
            Self::Emptied => bytes.clear(),
            Self::Zeroed => bytes.fill(0),
            Self::Start => bytes[..others].iter_mut().for_each(|byte| *byte ^= 0x55),
            Self::End => bytes[end..].iter_mut().for_each(|byte| *byte ^= 0x55),
            Self::Removed => return None,
        }
        Some(bytes)
    }

    pub(crate) fn keeps_size(self) -> bool {
        matches!(self, Self::Zeroed | Self::Start | Self::End)
    }
}

impl Object {
    /// The damaged objects.
    pub(crate) const ALL: [Self; 13] = [
        Self::KnownBytes,
        Self::StreamedBytes,
        Self::Link,
        Self::Manifest,
        Self::Index,
        Self::Signature,
        Self::Tag,
        Self::Hint,
        Self::Referrer,
        Self::Catalog,
        Self::Session,
        Self::UploadBytes,
        Self::Marker,
    ];

    pub(crate) fn is_manifest(self) -> bool {
        matches!(self, Self::Manifest | Self::Index | Self::Signature)
    }

    /// GC must not delete anything while a manifest is unreadable, or what the store requires of a
    /// program is unknown.
    pub(crate) fn stops_collections(self, damage: Damage) -> bool {
        (self.is_manifest() && damage != Damage::Removed) || self == Self::Marker
    }

    /// What a check must say, and of which object.
    pub(crate) fn finding(self, damage: Damage) -> Option<(FindingKind, Self)> {
        let is_gone = damage == Damage::Removed;
        let kind = match self {
            Self::KnownBytes | Self::StreamedBytes if is_gone => FindingKind::BytesMissing,
            Self::KnownBytes | Self::StreamedBytes if damage.keeps_size() => {
                FindingKind::BytesDigest
            }
            Self::KnownBytes | Self::StreamedBytes => FindingKind::BytesSize,
            Self::Link if is_gone => return Some((FindingKind::BlobMissing, Self::Manifest)),
            Self::Link => FindingKind::LinkUnreadable,
            Self::Manifest if is_gone => return Some((FindingKind::TagDangling, Self::Tag)),
            Self::Index if is_gone => return Some((FindingKind::TagDangling, Self::IndexTag)),
            Self::Signature if is_gone => {
                return Some((FindingKind::ReferrerStray, Self::Referrer));
            }
            Self::Manifest | Self::Index | Self::Signature if damage == Damage::End => {
                FindingKind::ManifestDigest
            }
            Self::Manifest | Self::Index | Self::Signature => FindingKind::ManifestUnreadable,
            Self::Tag if is_gone => return Some((FindingKind::HintStray, Self::Hint)),
            Self::Tag => FindingKind::TagUnreadable,
            Self::Hint if is_gone => FindingKind::HintMissing,
            Self::Hint => FindingKind::HintUnreadable,
            Self::Referrer if is_gone => FindingKind::ReferrerMissing,
            Self::Referrer => FindingKind::ReferrerUnreadable,
            Self::Catalog if is_gone => FindingKind::CatalogMissing,
            Self::Catalog => FindingKind::CatalogUnreadable,
            Self::Session if is_gone => {
                return Some((FindingKind::BytesOrphan, Self::UploadBytes));
            }
            Self::Session => FindingKind::SessionUnreadable,
            // Only a link makes the digest known.
            Self::UploadBytes if damage.keeps_size() => return None,
            Self::UploadBytes => return Some((FindingKind::UploadBytesMissing, Self::Session)),
            Self::Marker if is_gone => FindingKind::FormatMissing,
            Self::Marker => FindingKind::FormatDamaged,
            Self::IndexTag | Self::IndexHint => return None,
        };
        Some((kind, self))
    }

    /// What GC may delete when this object is absent: nothing else references it.
    pub(crate) fn may_go_with_it(self, damage: Damage) -> &'static [Self] {
        match self {
            _ if damage != Damage::Removed => &[],
            // A tag without its manifest is deleted.
            Self::Manifest => &[Self::Link, Self::StreamedBytes, Self::Tag, Self::Hint],
            Self::Index => &[Self::IndexTag, Self::IndexHint],
            Self::Signature => &[Self::Referrer],
            Self::Link => &[Self::StreamedBytes],
            Self::Tag => &[Self::Hint],
            Self::Session => &[Self::UploadBytes],
            _ => &[],
        }
    }
}
