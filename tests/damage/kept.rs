//! Records of what was: copies of deleted manifests, changes in the history of tags, records of deleted tags, marks of
//! purges; and of events: the queue, the log, the cursor of a sink. Each is damaged. No response is wrong, fsck
//! names it, GC deletes nothing that is kept, and after a repair all goes on.
//!
//! Quotas have no records: they are counted by reading manifests.

use std::sync::Arc;

use jreg_oci::{Digest, Reference, RepositoryName, Tag};
use jreg_registry::{
    Error, EventAction, EventInterest, FindingKind, FsckFinding, GcError, GcOptions, ManifestPush,
    NoObserver, PageRequest, Registry, Repository, Sequencer, SinkName, TouchPolicy, UploadChunk,
};
use jreg_testkit::{Image, Manifest};

use crate::damage::object::Damage;
use crate::damage::scenario::{Backend, DamageScenario, HOUR, sha256};
use crate::damage::{block_on, check};

const ALL: PageRequest = PageRequest { limit: 10, last: None };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeptObject {
    Copy,
    Entry,
    DeletedTag,
    Mark,
    QueuedEvent,
    LogSegment,
    Cursor,
}

/// What becomes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeptDamage {
    Bytes(Damage),
    /// JSON that is not of this program.
    Foreign,
}

const DAMAGES: [KeptDamage; 6] = [
    KeptDamage::Bytes(Damage::Cut),
    KeptDamage::Bytes(Damage::Emptied),
    KeptDamage::Bytes(Damage::Zeroed),
    KeptDamage::Bytes(Damage::Start),
    KeptDamage::Bytes(Damage::End),
    KeptDamage::Foreign,
];

impl KeptDamage {
    fn of(self, bytes: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Bytes(damage) => damage.of(bytes),
            Self::Foreign => Some(br#"{"unexpected":[1,{"of":"another program"}]}"#.to_vec()),
        }
    }
}

impl KeptObject {
    /// What a copy references is not known, nor what a tag points to whose record cannot be read.
    fn stops_collections(self) -> bool {
        matches!(self, Self::Copy | Self::DeletedTag)
    }

    fn finding(self) -> Option<FindingKind> {
        match self {
            Self::Copy => Some(FindingKind::CopyUnreadable),
            Self::Entry => Some(FindingKind::HistoryUnreadable),
            Self::DeletedTag => Some(FindingKind::TagUnreadable),
            // It is its key that counts.
            Self::Mark => None,
            Self::QueuedEvent | Self::LogSegment | Self::Cursor => {
                Some(FindingKind::EventUnreadable)
            }
        }
    }
}

#[derive(Debug)]
struct Everything;

impl EventInterest for Everything {
    fn wants(&self, _: EventAction, _: Option<&RepositoryName>) -> bool {
        true
    }
}

/// A store with each of these records.
struct KeptScenario {
    scenario: DamageScenario,
    registry: Registry,
    image: Digest,
    index: Digest,
    /// Deleted, with a copy.
    signature: Digest,
    /// Purged.
    purged: Digest,
}

fn sink() -> SinkName {
    "scanner".parse().unwrap()
}

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

async fn put(repository: &Repository, manifest: &Manifest, reference: &str) {
    let push = ManifestPush {
        reference: reference.parse().unwrap(),
        tags: Vec::new(),
        media_type: Some(manifest.media_type.parse().unwrap()),
        bytes: manifest.bytes.clone(),
        condition: None,
    };
    repository.manifest_put(push).await.unwrap();
}

impl KeptScenario {
    async fn new(home: Backend) -> Self {
        let scenario = DamageScenario::new(home).await;
        let registry = scenario.registry.with_events(Arc::new(Everything));
        let repository = registry.repository("team/app".parse().unwrap());
        let manifests: Vec<_> =
            scenario.references().iter().map(|(_, manifest)| Manifest::clone(manifest)).collect();
        let [image, index, signature] = [0, 1, 2].map(|n: usize| sha256(&manifests[n].bytes));
        put(&repository, &manifests[1], "v1").await;
        put(&repository, &manifests[0], "old").await;
        let old = Reference::Tag(tag("old"));
        repository.manifest_delete(&old, None).await.unwrap();
        repository.manifest_delete(&Reference::Digest(signature.clone()), None).await.unwrap();
        let other = Image::plain(9);
        for blob in &other.blobs {
            let digest = sha256(&blob.bytes);
            repository.blob_push(&digest, UploadChunk::of(blob.bytes.clone())).await.unwrap();
        }
        let purged = sha256(&other.manifest.bytes);
        put(&repository, &other.manifest, &purged.to_string()).await;
        repository.manifest_purge(&purged, false).await.unwrap();
        registry.sink_cursor(&sink()).await.unwrap();
        let mut sequencer = Sequencer::default();
        let pass = registry.sequence_events(&mut sequencer, &registry).await.unwrap();
        assert!(pass.appended > 0, "{pass:?}");
        put(&repository, &manifests[0], "v2").await;
        Self { scenario, registry, image, index, signature, purged }
    }

    fn repository(&self) -> Repository {
        self.registry.repository("team/app".parse().unwrap())
    }

    async fn key(&self, object: KeptObject) -> String {
        let keys = self.scenario.keys().await;
        let is_it = |key: &&String| match object {
            KeptObject::Copy => key.starts_with("deleted/") && key.contains(&self.signature.hex()),
            KeptObject::Mark => key.starts_with("deleted/") && key.contains(&self.purged.hex()),
            KeptObject::Entry => key.starts_with("history/") && key.contains("/v1/"),
            KeptObject::DeletedTag => key.ends_with("/_tags/old"),
            KeptObject::QueuedEvent => key.starts_with("events/queue/"),
            KeptObject::LogSegment => key.starts_with("events/log/"),
            KeptObject::Cursor => key.starts_with("events/sinks/"),
        };
        let found = keys.iter().find(is_it);
        found.unwrap_or_else(|| panic!("no {object:?} in {keys:#?}")).clone()
    }

    /// Responses are right, or fail because of the damage.
    async fn responses_are_right_or_fail(&self, damaged: Option<KeptObject>, context: &str) {
        let repository = self.repository();
        let history = repository.tag_history(&tag("v1"), &ALL).await;
        match (damaged, history) {
            (Some(KeptObject::Entry), history) => assert_damaged(history, context),
            (_, history) => {
                let shown = history.unwrap().items.into_iter().map(|item| item.digest.unwrap());
                let expected = [self.index.clone(), self.image.clone()];
                assert_eq!(shown.collect::<Vec<_>>(), expected, "{context}");
            }
        }
        let deleted = repository.deleted_manifests(&ALL).await;
        match (damaged, deleted) {
            (Some(KeptObject::Copy), deleted) => {
                // Its header may be whole, and is right then.
                match deleted {
                    Ok(page) => {
                        let listed = page.items.into_iter().map(|deleted| deleted.digest);
                        assert_eq!(
                            listed.collect::<Vec<_>>(),
                            std::slice::from_ref(&self.signature),
                            "{context}"
                        );
                    }
                    deleted => assert_damaged(deleted, context),
                }
                let restored = repository.manifest_restore(&self.signature, false).await;
                assert_damaged(restored, context);
            }
            (_, deleted) => {
                let listed = deleted.unwrap().items.into_iter().map(|deleted| deleted.digest);
                assert_eq!(
                    listed.collect::<Vec<_>>(),
                    std::slice::from_ref(&self.signature),
                    "{context}"
                );
            }
        }
        let restored = repository.manifest_restore(&self.purged, false).await;
        assert!(matches!(restored, Err(Error::ManifestUnknown { .. })), "{context}: {restored:?}");
        let old = repository.manifest_get(&Reference::Tag(tag("old")), TouchPolicy::Never).await;
        match old {
            Err(Error::ManifestUnknown { .. }) => assert_ne!(damaged, Some(KeptObject::DeletedTag)),
            Err(Error::Damaged { .. }) => assert_eq!(damaged, Some(KeptObject::DeletedTag)),
            other => panic!("{context}: {other:?}"),
        }
    }

    /// Events are read, or what is damaged of them is named.
    async fn events_go_on(&self, damaged: Option<KeptObject>, context: &str) {
        let log = self.registry.event_segment(1).await;
        match damaged {
            Some(KeptObject::LogSegment) => assert_damaged(log, context),
            _ => assert!(!log.unwrap().unwrap().events.is_empty(), "{context}"),
        }
        let cursor = self.registry.sink_cursor(&sink()).await.unwrap().cursor;
        // A new sink begins where the log ended then; one whose cursor is damaged, where the log begins.
        assert!(cursor.position.segment <= 1 && cursor.position.index == 0, "{context}");
        let (_, image) = &self.scenario.references()[0];
        put(&self.repository(), image, "v3").await;
        let mut sequencer = Sequencer::default();
        let pass = self.registry.sequence_events(&mut sequencer, &self.registry).await.unwrap();
        let lost = usize::from(damaged == Some(KeptObject::QueuedEvent));
        assert_eq!(pass.damaged, lost, "{context}");
        assert!(pass.appended > 0, "{context}: {pass:?}");
        let next = self.registry.event_segment(2).await.unwrap().unwrap();
        assert!(!next.events.is_empty(), "{context}");
    }

    /// Runs GC with everything older than the grace, and nothing older than is kept of history.
    async fn nothing_kept_is_collected(&self, stops: bool, context: &str) {
        let options = GcOptions {
            untagged: Some(HOUR),
            share_max_percent: 100,
            sweep_now: true,
            ..GcOptions::default()
        };
        let before = self.scenario.keys().await;
        for _ in 0..3 {
            self.scenario.advance(26 * HOUR);
            let run = self.registry.collect_garbage(&options, &NoObserver).await;
            match run {
                Err(GcError::Damaged { .. }) => assert!(stops, "{context}"),
                Err(error) => panic!("{context}: {error}"),
                Ok(_) => assert!(!stops, "{context}"),
            }
        }
        let after = self.scenario.keys().await;
        let is_kept = |key: &&String| {
            ["history/", "deleted/", "events/"].iter().any(|root| key.starts_with(root))
                || key.contains("/_manifests/")
                || key.contains("/_tags/v")
        };
        let is_mark = |key: &&String| key.ends_with("/purged");
        let lost: Vec<_> = before
            .iter()
            .filter(is_kept)
            .filter(|key| !is_mark(key) && !after.contains(key))
            .collect();
        assert!(lost.is_empty(), "{context}: {lost:?}");
    }
}

#[track_caller]
fn assert_damaged<T: std::fmt::Debug>(outcome: jreg_registry::Result<T>, context: &str) {
    assert!(matches!(outcome, Err(Error::Damaged { .. })), "{context}: {outcome:?}");
}

async fn one(home: Backend, object: KeptObject, damage: KeptDamage) {
    let context = &format!("{home:?}: {object:?} {damage:?}");
    let kept = KeptScenario::new(home).await;
    let key = kept.key(object).await;
    kept.scenario.change_at(&key, |bytes| damage.of(bytes));
    let found = check(&kept.scenario, false).await;
    let named: Vec<_> = found.iter().filter(|found| found.key == key).collect();
    match object.finding() {
        Some(kind) => {
            assert!(named.iter().any(|found| found.kind == kind), "{context}: {found:#?}")
        }
        None => assert!(named.is_empty(), "{context}: {named:?}"),
    }
    kept.responses_are_right_or_fail(object.finding().map(|_| object), context).await;
    kept.nothing_kept_is_collected(object.stops_collections(), context).await;
    kept.responses_are_right_or_fail(object.finding().map(|_| object), context).await;
    kept.events_go_on(Some(object), context).await;
    // What is put aside is missing, and says so.
    check(&kept.scenario, true).await;
    let left: Vec<_> =
        check(&kept.scenario, false).await.into_iter().filter(FsckFinding::is_left).collect();
    let is_of_it = |found: &&FsckFinding| found.key == key;
    assert_eq!(left.iter().find(is_of_it), None, "{context}");
    kept.repository().tag_history(&tag("v1"), &ALL).await.unwrap();
    kept.repository().deleted_manifests(&ALL).await.unwrap();
    kept.nothing_kept_is_collected(false, context).await;
}

fn each(object: KeptObject) {
    for home in [Backend::Folder, Backend::Bucket] {
        for damage in DAMAGES {
            block_on(one(home, object, damage));
        }
    }
}

#[test]
fn without_damage_all_is_right() {
    for home in [Backend::Folder, Backend::Bucket] {
        block_on(async {
            let kept = KeptScenario::new(home).await;
            kept.responses_are_right_or_fail(None, "whole").await;
            kept.nothing_kept_is_collected(false, "whole").await;
            kept.events_go_on(None, "whole").await;
            let left = check(&kept.scenario, false).await;
            assert_eq!(left.iter().find(|found| found.is_left()), None);
        });
    }
}

#[test]
fn copy_of_a_deleted_manifest() {
    each(KeptObject::Copy);
}

#[test]
fn entry_of_a_history() {
    each(KeptObject::Entry);
}

#[test]
fn record_of_a_deleted_tag() {
    each(KeptObject::DeletedTag);
}

#[test]
fn mark_of_a_purge() {
    each(KeptObject::Mark);
}

#[test]
fn event_in_the_queue() {
    each(KeptObject::QueuedEvent);
}

#[test]
fn segment_of_the_event_log() {
    each(KeptObject::LogSegment);
}

#[test]
fn cursor_of_a_sink() {
    each(KeptObject::Cursor);
}
