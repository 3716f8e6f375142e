//! Warnings of quotas, each once; and deleted content that ends early where it exceeds one alone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jreg_lifecycle::{CurrentRules, LifecycleRules};
use jreg_oci::{Digest, Reference, RepositoryName};
use jreg_registry::{
    Event, EventAction, EventInterest, GcActionKind, GcOptions, PageRequest, Registry,
    RegistryOptions, Sequencer, UploadChunk,
};

use crate::bench::{Actions, Bench, HOUR, digest, push_of};
use crate::usage::image;

const DAY: Duration = Duration::from_secs(24 * 3600);
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Warnings;

impl EventInterest for Warnings {
    fn wants(&self, action: EventAction, _: Option<&RepositoryName>) -> bool {
        action == EventAction::QuotaWarning
    }
}

fn rules(limit: u64) -> CurrentRules {
    let text = format!("[[quota]]\nrepositories = ['team/**']\nbytes = {limit}\nwarn = '50%'\n");
    CurrentRules::new(Arc::new(LifecycleRules::parse(&format!("{text}[end]\n")).unwrap()))
}

/// Another instance, which remembers nothing.
async fn instance(bench: &Bench, limit: u64) -> Registry {
    let (store, clock) = (bench.gate.clone(), bench.clock.clone());
    let registry = Registry::open(store, clock, RegistryOptions::default()).await.unwrap();
    registry.with_rules(rules(limit)).with_events(Arc::new(Warnings))
}

fn layer(number: u8) -> Bytes {
    vec![number; 700].into()
}

/// The bytes of an image, but for those of the config, of which all have the same.
fn image_bytes() -> u64 {
    (image(&Bytes::from_static(b"{}"), &[&layer(1)]).len() + 700) as u64
}

/// Pushes an image with one layer. Returns its digest, and how many warnings the response has.
async fn push(registry: &Registry, number: u8) -> (Digest, usize) {
    let repository = registry.repository("team/a".parse().unwrap());
    let (config, layer) = (Bytes::from_static(b"{}"), layer(number));
    for blob in [&config, &layer] {
        repository.blob_push(&digest(blob), UploadChunk::of(blob.clone())).await.unwrap();
    }
    let manifest = image(&config, &[&layer]);
    let pushed = repository.manifest_put(push_of(&format!("v{number}"), &manifest)).await.unwrap();
    settle().await;
    (pushed.digest, pushed.nearly_used.len())
}

async fn delete(registry: &Registry, digest: &Digest) {
    let repository = registry.repository("team/a".parse().unwrap());
    repository.manifest_delete(&Reference::Digest(digest.clone()), None).await.unwrap();
}

/// Lets what runs beside a request end.
async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

/// The events since the last time.
async fn events(registry: &Registry, sequencer: &mut Sequencer, seen: &mut u64) -> Vec<Event> {
    registry.sequence_events(sequencer, registry).await.unwrap();
    let mut events = Vec::new();
    while let Some(number) = registry.next_event_segment(*seen).await.unwrap() {
        events.extend(registry.event_segment(number).await.unwrap().unwrap().events.clone());
        *seen = number;
    }
    events
}

#[tokio::test]
async fn a_quota_that_is_nearly_used_is_said_once_by_whichever_instance() {
    let bench = Bench::new().await;
    let limit = 6 * image_bytes();
    let (one, two) = (instance(&bench, limit).await, instance(&bench, limit).await);
    let (mut sequencer, mut seen) = (Sequencer::default(), 0);
    let mut images = Vec::new();
    for number in 0..2 {
        let (image, warnings) = push(&one, number).await;
        assert_eq!(warnings, 0);
        images.push(image);
    }
    assert_eq!(events(&one, &mut sequencer, &mut seen).await, []);
    for number in 2..4 {
        let (image, warnings) = push(&one, number).await;
        assert_eq!(warnings, 1);
        images.push(image);
    }
    let warned = events(&one, &mut sequencer, &mut seen).await;
    let [event] = &warned[..] else { panic!("{warned:?}") };
    assert_eq!(event.action, EventAction::QuotaWarning);
    assert_eq!((&event.detail["pool"], &event.detail["limit"]), (&1.into(), &limit.into()));
    assert_eq!(event.detail["reason"], "used");
    assert!(event.detail["used"].as_u64().unwrap() >= limit / 2);
    let usage = one.quota_usage().remove(0);
    assert!(usage.is_warned && usage.used > event.detail["used"].as_u64(), "{usage:?}");
    // Neither another instance nor a restart says it again.
    assert_eq!(push(&two, 3).await.1, 1);
    assert_eq!(push(&instance(&bench, limit).await, 3).await.1, 1);
    assert_eq!(events(&one, &mut sequencer, &mut seen).await, []);
    // It goes down and up again.
    for image in &images[1..] {
        delete(&one, image).await;
    }
    bench.clock.advance(2 * MINUTE);
    // It lets the pool be counted.
    push(&two, 9).await;
    assert_eq!(push(&two, 9).await.1, 0);
    for number in 1..4 {
        push(&two, number).await;
    }
    let warned = events(&one, &mut sequencer, &mut seen).await;
    assert_eq!(warned.len(), 1, "{warned:?}");
}

fn gc() -> GcOptions {
    GcOptions { sweep_now: true, share_max_percent: 100, ..GcOptions::default() }
}

#[tokio::test]
async fn the_oldest_deleted_manifests_end_early_where_they_exceed_a_quota_alone() {
    let bench = Bench::new().await;
    let limit = 5 * image_bytes() / 2;
    let one = instance(&bench, limit).await;
    let (mut sequencer, mut seen) = (Sequencer::default(), 0);
    let mut images = Vec::new();
    for number in 0..6 {
        let image = push(&one, number).await.0;
        // Each waits for room: it is deleted before the next.
        delete(&one, &image).await;
        images.push(image);
        bench.clock.advance(HOUR);
    }
    let collect = async |registry: &Registry| {
        let actions = Actions::default();
        registry.collect_garbage(&gc(), &actions).await.unwrap();
        let ended = actions.take().into_iter();
        let ended = ended.filter(|action| action.kind == GcActionKind::EndCopy);
        ended.filter_map(|action| action.digest).collect::<Vec<_>>()
    };
    assert_eq!(collect(&one).await, [], "none is older than the grace");
    bench.clock.advance(2 * DAY);
    events(&one, &mut sequencer, &mut seen).await;
    // Two images with their layers fit, and no third.
    let dry = Actions::default();
    let options = GcOptions { dry_run: true, ..gc() };
    instance(&bench, limit).await.collect_garbage(&options, &dry).await.unwrap();
    assert_eq!(dry.take().iter().filter(|action| action.kind == GcActionKind::EndCopy).count(), 4);
    assert_eq!(events(&one, &mut sequencer, &mut seen).await, []);
    let mut ended = collect(&one).await;
    ended.sort();
    let mut oldest = images[..4].to_vec();
    oldest.sort();
    assert_eq!(ended, oldest);
    let warned = events(&one, &mut sequencer, &mut seen).await;
    let [event] = &warned[..] else { panic!("{warned:?}") };
    assert_eq!(
        (&event.detail["reason"], &event.detail["ended"]),
        (&"deleted-content".into(), &4.into())
    );
    let repository = bench.repository("team/a");
    let page = PageRequest { limit: 100, last: None };
    assert_eq!(repository.deleted_manifests(&page).await.unwrap().items.len(), 2);
    assert_eq!(collect(&one).await, []);
    // What is left can be restored, with its blobs.
    for _ in 0..3 {
        bench.clock.advance(2 * DAY);
        collect(&one).await;
    }
    repository.manifest_restore(&images[5], true).await.unwrap();
    let gone = repository.manifest_restore(&images[0], true).await;
    assert!(matches!(gone, Err(jreg_registry::Error::ManifestUnknown { .. })), "{gone:?}");
}

#[tokio::test]
async fn deleted_content_that_a_manifest_of_the_pool_references_does_not_count() {
    let bench = Bench::new().await;
    let one = instance(&bench, 2 * image_bytes()).await;
    let image = push(&one, 1).await.0;
    // The same layer is in use by another manifest of the pool.
    let repository = one.repository("team/b".parse().unwrap());
    let (config, layer) = (Bytes::from_static(b"{}"), layer(1));
    for blob in [&config, &layer] {
        repository.blob_push(&digest(blob), UploadChunk::of(blob.clone())).await.unwrap();
    }
    let manifest = crate::usage::image(&config, &[&layer, &config]);
    let free = bench.repository("team/b");
    free.manifest_put(push_of("v1", &manifest)).await.unwrap();
    delete(&one, &image).await;
    bench.clock.advance(2 * DAY);
    let actions = Actions::default();
    instance(&bench, image_bytes() - 100).await.collect_garbage(&gc(), &actions).await.unwrap();
    assert!(actions.take().iter().all(|action| action.kind != GcActionKind::EndCopy));
}
