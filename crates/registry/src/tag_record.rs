//! The record of a tag: what it points to, or that it was deleted; and by which change.
//!
//! A deleted tag leaves a record until a GC run has archived it: what a later push replaces is a change
//! like any other, and a bucket keeps no condition on what is absent. A listing tells the two kinds
//! by their length.

use std::time::SystemTime;

use bytes::Bytes;
use jreg_oci::{Digest, MediaType};
use jreg_storage::Listed;
use serde::{Deserialize, Serialize};

use crate::record::{JsonRecord, StoredRecord, encode_with, unknown_fields, verify_checksum};
use crate::{ChangeId, ChangeOrigin};

/// The length of the record of a deleted tag, which no other record of a tag has.
pub(crate) const DELETED_TAG_BYTES: usize = 512;

/// Whether a listing shows the record of a deleted tag.
pub(crate) fn is_deleted_tag(listed: &Listed) -> bool {
    listed.size_bytes == DELETED_TAG_BYTES as u64
}

/// A tag as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TagRecord {
    Live(TagTarget),
    /// To every reader of the tag it is absent.
    Deleted(DeletedTag),
}

/// What a tag points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TagTarget {
    pub(crate) digest: Digest,
    pub(crate) media_type: MediaType,
    pub(crate) size: u64,
    /// When it was last pushed, also with the same digest: in seconds of the Unix epoch, by the clock of
    /// the instance that served the push.
    pub(crate) pushed: u64,
    /// When the tag began to exist, in seconds of the Unix epoch. Unknown in records of earlier versions.
    pub(crate) created: Option<u64>,
    /// The change that made it point there.
    pub(crate) change: TagChangeFields,
}

/// That a tag was deleted, by this change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeletedTag {
    pub(crate) change: TagChangeFields,
}

/// A change in the record that it made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TagChangeFields {
    pub(crate) id: ChangeId,
    /// The change that it replaced.
    pub(crate) previous: Option<ChangeId>,
    pub(crate) origin: ChangeOrigin,
}

/// The fields as they are stored: one pass over the record reads all of either kind.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TagFields {
    /// By which the change of a record of an earlier version is named.
    #[serde(skip_serializing)]
    nonce: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<MediaType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<ChangeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<ChangeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
}

/// The `state` of a deleted tag; that of a live one has none.
const DELETED: &str = "deleted";

impl JsonRecord for TagFields {}

/// What is archived of a tag's record: what never changes within a change. So every writer that archives one writes
/// the same bytes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct ArchivedFields(TagFields);

impl JsonRecord for ArchivedFields {
    const HAS_NONCE: bool = false;
}

impl TagRecord {
    /// What a delete of a manifest leaves where a push may be about to create a tag that points to it: the push
    /// finds it, and looks at the manifest again. It is no change, and in no history.
    pub(crate) fn placeholder() -> Self {
        Self::Deleted(DeletedTag { change: TagChangeFields::default() })
    }

    pub(crate) fn is_placeholder(&self) -> bool {
        matches!(self, Self::Deleted(deleted) if deleted.change.id == ChangeId::default())
    }

    pub(crate) fn change(&self) -> &TagChangeFields {
        match self {
            Self::Live(target) => &target.change,
            Self::Deleted(deleted) => &deleted.change,
        }
    }

    pub(crate) fn live(&self) -> Option<&TagTarget> {
        match self {
            Self::Live(target) => Some(target),
            Self::Deleted(_) => None,
        }
    }

    pub(crate) fn into_live(self) -> Option<TagTarget> {
        match self {
            Self::Live(target) => Some(target),
            Self::Deleted(_) => None,
        }
    }

    fn fields(&self) -> TagFields {
        let change = self.change();
        let fields = TagFields {
            change: Some(change.id),
            previous: change.previous,
            actor: change.origin.actor().map(str::to_owned),
            request: change.origin.request_id().map(str::to_owned),
            ..TagFields::default()
        };
        match self {
            Self::Live(target) => TagFields {
                digest: Some(target.digest.clone()),
                media_type: Some(target.media_type.clone()),
                size: Some(target.size),
                time: Some(target.pushed),
                created: target.created,
                ..fields
            },
            Self::Deleted(_) => TagFields { state: Some(DELETED.to_owned()), ..fields },
        }
    }

    /// The record of this change in the history of its tag.
    pub(crate) fn encode_archived(&self) -> Bytes {
        let fields = TagFields { time: None, ..self.fields() };
        ArchivedFields(fields).encode()
    }

    /// The change in a record of a history.
    pub(crate) fn decode_archived(bytes: &Bytes) -> Result<Self, String> {
        let ArchivedFields(mut fields) = ArchivedFields::decode(bytes)?;
        let since = fields.change.unwrap_or_default().time();
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        fields.time = Some(since.as_secs());
        fields.try_into()
    }

    fn encode_with(&self, further: &[u8]) -> Bytes {
        let fields = self.fields();
        match self {
            Self::Live(_) => {
                let record = encode_with(&fields, further, 0);
                match record.len() {
                    DELETED_TAG_BYTES => encode_with(&fields, further, DELETED_TAG_BYTES + 1),
                    _ => record,
                }
            }
            // What is not known of a deleted record must not make it longer.
            Self::Deleted(_) => encode_with(&fields, &[], DELETED_TAG_BYTES),
        }
        .into()
    }
}

impl TryFrom<TagFields> for TagRecord {
    type Error = String;

    fn try_from(fields: TagFields) -> Result<Self, String> {
        let change = |id| TagChangeFields {
            id,
            previous: fields.previous,
            origin: ChangeOrigin::stored(fields.actor, fields.request),
        };
        let missing = |field: &str| format!("it has no {field}");
        match fields.state.as_deref() {
            None => {
                let pushed = fields.time.ok_or_else(|| missing("time"))?;
                let earlier = || ChangeId::of_earlier_version(pushed, &fields.nonce);
                Ok(Self::Live(TagTarget {
                    digest: fields.digest.ok_or_else(|| missing("digest"))?,
                    media_type: fields.media_type.ok_or_else(|| missing("mediaType"))?,
                    size: fields.size.ok_or_else(|| missing("size"))?,
                    pushed,
                    created: fields.created,
                    change: change(fields.change.unwrap_or_else(earlier)),
                }))
            }
            Some(DELETED) => {
                let id = fields.change.ok_or_else(|| missing("change"))?;
                Ok(Self::Deleted(DeletedTag { change: change(id) }))
            }
            Some(other) => Err(format!("the state {other:?} of a tag is not known")),
        }
    }
}

impl StoredRecord for TagRecord {
    fn decode(bytes: &Bytes) -> Result<Self, String> {
        verify_checksum(bytes)?;
        let fields: TagFields = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        fields.try_into()
    }

    fn encode(&self) -> Bytes {
        self.encode_with(&[])
    }

    fn encode_over(&self, seen: &Bytes) -> Bytes {
        self.encode_with(&unknown_fields::<TagFields>(seen))
    }
}

#[cfg(test)]
mod tests {
    use jreg_oci::Algorithm;

    use super::*;

    fn change() -> TagChangeFields {
        let first = ChangeId::after(None, SystemTime::now());
        let id = ChangeId::after(Some(first), SystemTime::now());
        let origin = ChangeOrigin::request("alice", "0190c3");
        TagChangeFields { id, previous: Some(first), origin }
    }

    fn target(media_type: &str) -> TagTarget {
        TagTarget {
            digest: Digest::of(Algorithm::Sha256, b""),
            media_type: media_type.parse().expect(media_type),
            size: 7,
            pushed: 1_700_000_000,
            created: Some(1_600_000_000),
            change: change(),
        }
    }

    #[test]
    fn a_tag_comes_back_as_it_was() {
        for tag in [
            TagRecord::Live(target("application/x")),
            TagRecord::Deleted(DeletedTag { change: change() }),
            TagRecord::placeholder(),
        ] {
            let has_change = tag.change().id != ChangeId::default();
            assert_eq!(tag.is_placeholder(), !has_change);
            assert_eq!(TagRecord::decode(&tag.encode()), Ok(tag));
        }
    }

    #[test]
    fn only_a_deleted_tag_has_the_length_of_one() {
        let longest = ChangeOrigin::request(&"x".repeat(1000), &"y".repeat(1000));
        let longest = TagChangeFields { origin: longest, ..change() };
        for change in [TagChangeFields::default(), change(), longest] {
            let deleted = TagRecord::Deleted(DeletedTag { change });
            assert_eq!(deleted.encode().len(), DELETED_TAG_BYTES);
            assert_eq!(deleted.encode_over(&deleted.encode()).len(), DELETED_TAG_BYTES);
        }
        let mut lengths = Vec::new();
        for length in 1..128 {
            let mut live = target(&format!("application/{}", "x".repeat(length)));
            live.change.origin = ChangeOrigin::request(&"x".repeat(60), "id");
            let live = TagRecord::Live(live);
            lengths.push(live.encode().len());
            assert_eq!(TagRecord::decode(&live.encode()), Ok(live));
        }
        assert!(lengths.contains(&(DELETED_TAG_BYTES - 1)), "{lengths:?}");
        assert!(!lengths.contains(&DELETED_TAG_BYTES), "{lengths:?}");
    }

    #[test]
    fn a_tag_of_an_earlier_version_is_read_and_keeps_what_this_version_does_not_know() {
        let old = format!(
            r#"{{"nonce":"00112233445566778899aabbccddeeff","digest":"{}","mediaType":"application/x","size":7,"time":1700000000,"later":[1, "x"]}}"#,
            Digest::of(Algorithm::Sha256, b"")
        );
        let old = Bytes::from(old);
        let read = TagRecord::decode(&old).expect("a tag");
        let live = read.live().expect("live");
        assert_eq!(live.pushed, 1_700_000_000);
        assert_eq!(live.change.id, TagRecord::decode(&old).expect("a tag").change().id);
        let again = read.encode_over(&old);
        let json: serde_json::Value = serde_json::from_slice(&again).expect("json");
        assert_eq!(json["later"], serde_json::json!([1, "x"]));
        assert_ne!(json["nonce"], "00112233445566778899aabbccddeeff");
        assert_eq!(TagRecord::decode(&again), Ok(read));
    }

    #[test]
    fn every_writer_that_archives_a_change_writes_the_same() {
        let pushed = target("application/x");
        let later = TagTarget { pushed: pushed.pushed + 1, ..pushed.clone() };
        let (pushed, later) = (TagRecord::Live(pushed), TagRecord::Live(later));
        assert_eq!(pushed.encode_archived(), later.encode_archived());
        let read = TagRecord::decode_archived(&pushed.encode_archived()).expect("a change");
        assert_eq!(read.change(), pushed.change());
        let deleted = TagRecord::Deleted(DeletedTag { change: change() });
        assert_eq!(TagRecord::decode_archived(&deleted.encode_archived()), Ok(deleted));
    }

    #[test]
    fn a_state_that_is_not_known_is_damage() {
        let record = r#"{"nonce":"n","state":"frozen","change":"01JD4Z0000000000000000000A"}"#;
        let error = TagRecord::decode(&Bytes::from_static(record.as_bytes())).expect_err("frozen");
        assert_eq!(error, "the state \"frozen\" of a tag is not known");
    }
}
