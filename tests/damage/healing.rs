//! Records that cannot be decoded: reads fail and change nothing, pushing again heals without a
//! repair, and a delete by name removes them.

use jreg_oci::{Reference, Tag};
use jreg_registry::{Error, FsckFinding, ReferencePrecondition, TouchPolicy};

use crate::damage::object::{Damage, Object};
use crate::damage::scenario::{Backend, DamageScenario, HOUR, pull, sha256};
use crate::damage::{block_on, check};

const RECORDS: [Object; 8] = [
    Object::Link,
    Object::Manifest,
    Object::Index,
    Object::Signature,
    Object::Tag,
    Object::Hint,
    Object::Referrer,
    Object::Catalog,
];
const DAMAGES: [Damage; 4] = [Damage::Cut, Damage::Emptied, Damage::Zeroed, Damage::Start];

fn each(objects: &[Object], test: impl AsyncFn(DamageScenario, Object, &str)) {
    for home in [Backend::Folder, Backend::Bucket] {
        for (object, damage) in objects.iter().flat_map(|of| DAMAGES.map(|by| (*of, by))) {
            block_on(async {
                let scenario = DamageScenario::new(home).await;
                // Old records are touched by a push, so it must decode them.
                scenario.advance(2 * HOUR);
                scenario.damage(object, damage);
                test(scenario, object, &format!("{home:?}: {object:?} {damage:?}")).await;
            });
        }
    }
}

async fn nothing_is_left(scenario: &DamageScenario, context: &str) {
    let left: Vec<_> =
        check(scenario, false).await.into_iter().filter(FsckFinding::is_left).collect();
    assert_eq!(left, [], "{context}");
}

fn tag(name: &str) -> Reference {
    name.parse().unwrap()
}

#[test]
fn pushing_again_heals_without_a_repair() {
    each(&RECORDS, async |scenario, object, context| {
        let before = scenario.registry.usage().damaged_records_replaced;
        if object == Object::Hint {
            // A push that does not change a tag does not look at its hint.
            scenario.damaged().manifest_delete(&tag("v1"), None).await.unwrap();
        }
        scenario.push_again().await;
        scenario.everything_is_right(context).await;
        nothing_is_left(&scenario, context).await;
        // In a bucket a hint is written over whatever is there.
        let is_counted = object != Object::Hint || context.starts_with("Folder");
        let replaced = scenario.registry.usage().damaged_records_replaced - before;
        assert_eq!(replaced, u64::from(is_counted), "{context}");
    });
}

#[test]
fn reads_of_a_damaged_record_fail_and_change_nothing() {
    each(&[Object::Link, Object::Tag, Object::Manifest], async |scenario, object, context| {
        let before = scenario.keys().await;
        for _ in 0..3 {
            let (digest, _) = scenario.blob(Object::StreamedBytes);
            let read = match object {
                Object::Link => pull(&scenario.damaged(), &digest).await.map(drop),
                _ => {
                    let (repository, v1) = (scenario.damaged(), tag("v1"));
                    repository.manifest_get(&v1, TouchPolicy::Never).await.map(drop)
                }
            };
            assert!(matches!(read, Err(Error::Damaged { .. })), "{context}: {read:?}");
        }
        assert_eq!(scenario.keys().await, before, "{context}");
        assert_eq!(scenario.registry.usage().damaged_records_replaced, 0, "{context}");
    });
}

#[test]
fn damaged_record_counts_as_absent_for_a_client_that_may_push() {
    each(&[Object::Link, Object::Tag, Object::Manifest], async |scenario, object, context| {
        let repository = scenario.damaged();
        let (digest, _) = scenario.blob(Object::StreamedBytes);
        match object {
            Object::Link => {
                let stat = repository.blob_stat(&digest, TouchPolicy::IfOld).await;
                assert!(matches!(stat, Err(Error::BlobUnknown { .. })), "{context}: {stat:?}");
                let source = repository.name().clone();
                let other = scenario.registry.repository("other".parse().unwrap());
                assert_eq!(other.blob_mount(&digest, &source).await.unwrap(), None, "{context}");
            }
            _ => {
                let stat = repository.manifest_get(&tag("v1"), TouchPolicy::IfOld).await;
                assert!(matches!(stat, Err(Error::ManifestUnknown { .. })), "{context}: {stat:?}");
            }
        }
    });
}

#[test]
fn mount_onto_a_damaged_link_heals_it() {
    each(&[Object::Link], async |scenario, _, context| {
        let (digest, bytes) = scenario.blob(Object::StreamedBytes);
        let source = scenario.registry.repository("source".parse().unwrap());
        let chunk = jreg_registry::UploadChunk::of(bytes.clone());
        source.blob_push(&digest, chunk).await.unwrap();
        let repository = scenario.damaged();
        let mounted = repository.blob_mount(&digest, source.name()).await.unwrap();
        assert!(mounted.is_some(), "{context}");
        assert!(pull(&repository, &digest).await.unwrap() == bytes, "{context}");
        nothing_is_left(&scenario, context).await;
    });
}

#[test]
fn damaged_tag_link_and_manifest_can_be_deleted() {
    each(
        &[Object::Tag, Object::Link, Object::Manifest, Object::Signature],
        async |scenario, object, context| {
            let repository = scenario.damaged();
            let key = scenario.key(object).unwrap();
            match object {
                Object::Tag => repository.manifest_delete(&tag("v1"), None).await.unwrap(),
                Object::Link => {
                    let (digest, _) = scenario.blob(Object::StreamedBytes);
                    repository.blob_delete(&digest).await.unwrap();
                    let read = pull(&repository, &digest).await;
                    assert!(matches!(read, Err(Error::BlobUnknown { .. })), "{context}");
                }
                _ => {
                    let index = usize::from(object == Object::Signature) * 2;
                    let (digest, _) = scenario.references()[index].clone();
                    repository.manifest_delete(&digest, None).await.unwrap();
                    let entries = scenario.listed_referrers().await.unwrap();
                    // Bytes that are whole name the subject.
                    let is_whole = context.contains("Start");
                    assert!(!is_whole || object == Object::Manifest || entries.is_empty());
                }
            }
            if object == Object::Tag {
                let read = repository.manifest_get(&tag("v1"), TouchPolicy::Never).await;
                assert!(matches!(read, Err(Error::ManifestUnknown { .. })), "{context}");
            } else if object != Object::Link {
                assert!(!scenario.keys().await.iter().any(|at| at == key), "{context}");
            }
            assert_eq!(scenario.registry.usage().damaged_records_replaced, 1, "{context}");
            scenario.push_again().await;
            scenario.everything_is_right(context).await;
            nothing_is_left(&scenario, context).await;
        },
    );
}

#[test]
fn manifest_stays_while_a_damaged_tag_may_point_to_it() {
    each(&[Object::Tag], async |scenario, _, context| {
        let repository = scenario.damaged();
        let (digest, manifest) = scenario.references()[0].clone();
        let may_not = |_: &Tag| false;
        for may in [&may_not as &(dyn Fn(&Tag) -> bool + Send + Sync), &|_: &Tag| true] {
            let deleted = repository.manifest_delete_if(&digest, None, may, &mut Vec::new()).await;
            assert!(matches!(deleted, Err(Error::TagDamaged { .. })), "{context}: {deleted:?}");
        }
        let read = repository.manifest_get(&digest, TouchPolicy::Never).await.unwrap();
        assert_eq!(read.bytes, manifest.bytes, "{context}");
    });
}

#[test]
fn conditions_hold_on_a_damaged_tag_only_if_it_must_exist() {
    each(&[Object::Tag], async |scenario, _, context| {
        let repository = scenario.damaged();
        let digest = sha256(&scenario.references()[0].1.bytes);
        for refused in [ReferencePrecondition::Absent, ReferencePrecondition::IsOneOf(vec![digest])]
        {
            let deleted = repository.manifest_delete(&tag("v1"), Some(refused)).await;
            assert!(matches!(deleted, Err(Error::PreconditionFailed { .. })), "{context}");
        }
        let exists = Some(ReferencePrecondition::Exists);
        repository.manifest_delete(&tag("v1"), exists).await.unwrap();
    });
}

/// The bytes with one text in place of another of the same length, up to the first line feed only.
fn with(bytes: &[u8], from: &str, to: &str, has_checksum: bool) -> Vec<u8> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let (header, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let mut changed = header.replacen(from, to, 1);
    assert_ne!(changed, header, "{from}");
    if !has_checksum {
        let check = changed.rfind(",\"check\"").unwrap();
        changed.replace_range(check.., "}");
    }
    let end = if text.contains('\n') { "\n" } else { "" };
    format!("{changed}{end}{rest}").into_bytes()
}

/// A manifest that was stored as an image was served as an index.
#[test]
fn record_that_rotted_into_another_is_damaged_and_heals() {
    let index = "application/vnd.oci.image.index.v1+json";
    let image = "application/vnd.oci.image.manifest.v1+json";
    let rots = [
        (Object::Manifest, image, index, true),
        (Object::Manifest, image, index, false),
        (Object::Manifest, "image.manifest", "image.mbnifest", true),
        (Object::Signature, "\"subject\"", "\"subjecu\"", true),
        (Object::Tag, "\"size\":", "\"size\":1", true),
        (Object::Tag, image, index, true),
        (Object::Link, "\"size\":", "\"size\":1", true),
        (Object::Referrer, "signature", "tignature", true),
    ];
    for home in [Backend::Folder, Backend::Bucket] {
        for (object, from, to, has_checksum) in rots {
            block_on(async {
                let context = &format!("{home:?}: {object:?} {from} {has_checksum}");
                let scenario = DamageScenario::new(home).await;
                scenario.advance(2 * HOUR);
                scenario.change(object, |bytes| Some(with(bytes, from, to, has_checksum)));
                let (repository, digest) = (scenario.damaged(), &scenario.references());
                let read = match object {
                    Object::Link => {
                        let (digest, _) = scenario.blob(Object::StreamedBytes);
                        pull(&repository, &digest).await.map(drop)
                    }
                    Object::Referrer => scenario.listed_referrers().await.map(drop),
                    Object::Signature => {
                        repository.manifest_get(&digest[2].0, TouchPolicy::Never).await.map(drop)
                    }
                    _ => repository.manifest_get(&tag("v1"), TouchPolicy::Never).await.map(drop),
                };
                assert!(matches!(read, Err(Error::Damaged { .. })), "{context}: {read:?}");
                let key = scenario.key(object).unwrap();
                let found = check(&scenario, false).await;
                assert!(found.iter().any(|found| found.key == key && found.is_left()), "{context}");
                scenario.push_again().await;
                scenario.everything_is_right(context).await;
                nothing_is_left(&scenario, context).await;
            });
        }
    }
}
