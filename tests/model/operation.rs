//! Operations, their outcomes, and the trait that runs them.

use std::fmt;

use bytes::Bytes;
use jreg_testkit::sha256;
use proptest::prelude::*;

use crate::fixtures::Fixtures;
use crate::model::fixtures::{BLOBS, MANIFESTS, REPOSITORIES, TAGS, TYPES};

/// Number of concurrent uploads.
pub(crate) const SLOTS: usize = 3;

/// What a manifest is named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Tag(usize),
    Digest(usize),
}

/// A precondition on a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum If {
    Always,
    Absent,
    Present,
    Is(usize),
}

/// An operation. Numbers refer to the [`Fixtures`]; uploads have numbered slots.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    PushBlob {
        repository: usize,
        blob: usize,
    },
    PushWrongBytes {
        repository: usize,
        blob: usize,
    },
    Mount {
        repository: usize,
        from: usize,
        blob: usize,
    },
    DeleteBlob {
        repository: usize,
        blob: usize,
    },
    ReadBlob {
        repository: usize,
        blob: usize,
        start: usize,
    },
    Begin {
        slot: usize,
        repository: usize,
        blob: usize,
    },
    /// Sends the next bytes; `place`: with or without Content-Range, valid or not.
    Append {
        slot: usize,
        len: usize,
        place: Place,
    },
    /// Sends the rest and finishes, with the right digest or another.
    Finish {
        slot: usize,
        right: bool,
    },
    Cancel {
        slot: usize,
    },
    Status {
        slot: usize,
    },
    PutManifest {
        repository: usize,
        manifest: usize,
        by_tag: Option<usize>,
        tags: Vec<usize>,
        condition: If,
    },
    GetManifest {
        repository: usize,
        by: By,
    },
    DeleteManifest {
        repository: usize,
        by: By,
        condition: If,
    },
    Tags {
        repository: usize,
        limit: usize,
        last: Option<usize>,
    },
    Catalog {
        limit: usize,
        last: Option<usize>,
    },
    Referrers {
        repository: usize,
        subject: usize,
        artifact_type: Option<usize>,
    },
    Restart,
}

/// The Content-Range of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Unsaid,
    Right,
    Wrong,
}

/// Outcome of an operation.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// The mount found no source.
    Missed,
    Bytes(Bytes),
    Names(Vec<String>),
    Offset(usize),
    /// Refused, with the specification's error code, or the HTTP status code.
    Refused(String),
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Missed => f.write_str("missed"),
            Self::Bytes(bytes) => write!(f, "{} bytes ({})", bytes.len(), sha256(bytes)),
            Self::Names(names) => write!(f, "{names:?}"),
            Self::Offset(offset) => write!(f, "offset {offset}"),
            Self::Refused(code) => write!(f, "refused ({code})"),
        }
    }
}

impl Outcome {
    pub(crate) fn refused(code: &str) -> Self {
        Self::Refused(code.to_owned())
    }
}

/// Runs operations.
#[allow(async_fn_in_trait)]
pub(crate) trait Driver {
    async fn apply(&mut self, fixtures: &Fixtures, operation: &Operation) -> Outcome;
}

fn any_if() -> impl Strategy<Value = If> {
    prop_oneof![6 => Just(If::Always), 1 => Just(If::Absent), 1 => Just(If::Present),
        2 => (0..MANIFESTS).prop_map(If::Is)]
}

fn any_by() -> impl Strategy<Value = By> {
    prop_oneof![(0..TAGS.len()).prop_map(By::Tag), (0..MANIFESTS).prop_map(By::Digest)]
}

fn any_place() -> impl Strategy<Value = Place> {
    prop_oneof![Just(Place::Unsaid), Just(Place::Right), Just(Place::Wrong)]
}

pub(crate) fn any_operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let repository = 0..REPOSITORIES.len();
    let (blob, manifest, slot) = (0..BLOBS, 0..MANIFESTS, 0..SLOTS);
    let blobs = prop_oneof![
        6 => (repository.clone(), blob.clone()).prop_map(|(repository, blob)| PushBlob { repository, blob }),
        1 => (repository.clone(), blob.clone()).prop_map(|(repository, blob)| PushWrongBytes { repository, blob }),
        2 => (repository.clone(), repository.clone(), blob.clone())
            .prop_map(|(repository, from, blob)| Mount { repository, from, blob }),
        2 => (repository.clone(), blob.clone()).prop_map(|(repository, blob)| DeleteBlob { repository, blob }),
        1 => (repository.clone(), blob.clone(), 0..50_000_usize)
            .prop_map(|(repository, blob, start)| ReadBlob { repository, blob, start }),
    ];
    let uploads = prop_oneof![
        3 => (slot.clone(), repository.clone(), blob).prop_map(|(slot, repository, blob)| Begin { slot, repository, blob }),
        // Never one byte: `Range: 0-0` does not distinguish it from none.
        4 => (slot.clone(), prop_oneof![Just(0), 2..60_000_usize], any_place()).prop_map(|(slot, len, place)| Append { slot, len, place }),
        3 => (slot.clone(), prop::bool::weighted(0.8)).prop_map(|(slot, right)| Finish { slot, right }),
        1 => slot.clone().prop_map(|slot| Cancel { slot }),
        1 => slot.prop_map(|slot| Status { slot }),
    ];
    let tags = proptest::collection::vec(0..TAGS.len(), 0..3);
    let manifests = prop_oneof![
        8 => (repository.clone(), manifest.clone(), proptest::option::of(0..TAGS.len()), tags, any_if())
            .prop_map(|(repository, manifest, by_tag, tags, condition)| PutManifest { repository, manifest, by_tag, tags, condition }),
        3 => (repository.clone(), any_by(), any_if())
            .prop_map(|(repository, by, condition)| DeleteManifest { repository, by, condition }),
        1 => (repository.clone(), 0..4_usize, proptest::option::of(0..TAGS.len()))
            .prop_map(|(repository, limit, last)| Tags { repository, limit, last }),
        1 => (0..3_usize, proptest::option::of(0..REPOSITORIES.len())).prop_map(|(limit, last)| Catalog { limit, last }),
        1 => (repository, manifest, 0..TYPES.len())
            .prop_map(|(repository, subject, kind)| Referrers { repository, subject, artifact_type: Some(kind) }),
    ];
    prop_oneof![8 => blobs, 8 => uploads, 10 => manifests, 1 => Just(Restart)]
}

/// Reads all visible state.
pub(crate) fn audit(fixtures: &Fixtures) -> Vec<Operation> {
    let mut looks = vec![Operation::Catalog { limit: 100, last: None }];
    for repository in 0..REPOSITORIES.len() {
        looks.push(Operation::Tags { repository, limit: 100, last: None });
        looks.extend((0..fixtures.blobs.len()).map(|blob| Operation::ReadBlob {
            repository,
            blob,
            start: 0,
        }));
        looks.extend(
            (0..TAGS.len()).map(|tag| Operation::GetManifest { repository, by: By::Tag(tag) }),
        );
        for manifest in 0..fixtures.manifests.len() {
            looks.push(Operation::GetManifest { repository, by: By::Digest(manifest) });
            looks.push(Operation::Referrers { repository, subject: manifest, artifact_type: None });
        }
    }
    looks.extend((0..SLOTS).map(|slot| Operation::Status { slot }));
    looks
}
