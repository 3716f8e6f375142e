//! Content of other registries: what GC, fsck and explain make of manifests whose references were not fetched; what
//! is evicted, and what a purge blocks.

use std::time::Duration;

use jreg_oci::{MediaType, Reference};
use jreg_registry::{
    EvictionOptions, ExplainRequest, FsckOptions, GcOptions, MirrorRoom, NoObserver, Registry,
    Repository, RetentionReason, TouchPolicy,
};
use jreg_storage::{Key, Store};

use crate::bench::{Bench, HOUR, bytes, digest};

const NAME: &str = "docker.io/library/app";
const DAY: Duration = Duration::from_secs(24 * 3600);

fn mirrors(bench: &Bench) -> Registry {
    let wait_max = Duration::from_secs(1);
    bench.registry.for_mirrors(MirrorRoom { fills_max: 2, buffer_bytes: 1 << 20, wait_max })
}

fn repository(registry: &Registry) -> Repository {
    registry.repository(NAME.parse().unwrap())
}

/// An image of these blobs, none of which need be there.
fn image(layer: &[u8]) -> String {
    format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}]}}"#,
        digest(b"{}"),
        digest(layer),
        layer.len()
    )
}

async fn store(repository: &Repository, manifest: &str) -> jreg_oci::Digest {
    let digest = digest(manifest.as_bytes());
    let media_type = Some(MediaType::OCI_IMAGE_MANIFEST);
    let bytes = bytes::Bytes::copy_from_slice(manifest.as_bytes());
    repository.mirror_manifest(&digest, media_type, bytes).await.unwrap();
    digest
}

#[tokio::test]
async fn what_was_not_fetched_is_neither_missing_nor_in_the_way() {
    let bench = Bench::new().await;
    let registry = mirrors(&bench);
    let own = repository(&registry);
    let manifest = store(&own, &image(&bytes(5))).await;
    let marker = bench.faults.get(&"jreg.json".parse::<Key>().unwrap()).await.unwrap();
    assert!(String::from_utf8_lossy(&marker.bytes).contains("\"mirror\""));
    let options = FsckOptions { deep: true, ..FsckOptions::default() };
    let checked = bench.registry.fsck(&options, &NoObserver).await.unwrap();
    assert_eq!((checked.damage, checked.untidy, checked.notes), (0, 0, 0));
    let request = ExplainRequest { digest: manifest.clone(), repository: None };
    let untagged = GcOptions {
        untagged: Some(Duration::ZERO),
        history_keep: Duration::ZERO,
        ..GcOptions::default()
    };
    let held = bench.registry.explain(request, &untagged).await.unwrap().holdings;
    assert_eq!(held[0].reasons, [RetentionReason::Mirrored]);
    // With the prefix of the mirror it is not even read, without it is kept by what its header says.
    for mirrors in [Vec::new(), vec!["docker.io".parse().unwrap()]] {
        for _ in 0..3 {
            bench.clock.advance(2 * DAY);
            let options = GcOptions { mirrors: mirrors.clone(), ..untagged.clone() };
            bench.registry.collect_garbage(&options, &NoObserver).await.unwrap();
        }
    }
    let reference = Reference::Digest(manifest);
    assert!(own.manifest_get(&reference, TouchPolicy::Never).await.is_ok());
}

#[tokio::test]
async fn what_is_not_pulled_is_evicted_and_its_blobs_go_with_gc() {
    let bench = Bench::new().await;
    let registry = mirrors(&bench).with_pull_tracking(true);
    registry.update_pulls_since().await.unwrap();
    let own = repository(&registry);
    let (old, used, tagged) = (image(&bytes(5)), image(&bytes(6)), image(&bytes(7)));
    let (old, used, tagged) =
        (store(&own, &old).await, store(&own, &used).await, store(&own, &tagged).await);
    let tag = "v1".parse().unwrap();
    bench.clock.advance(40 * DAY);
    // Pulls: by digest, and of a tag that is checked.
    let reference = Reference::Digest(used.clone());
    let pulled = own.manifest_get(&reference, TouchPolicy::Never).await.unwrap();
    own.record_pull(&reference, &pulled);
    registry.flush_pulls().await.unwrap();
    let seen = own.mirror_tag(&tag).await.unwrap();
    own.set_mirror_tag(&tag, &tagged, &seen).await.unwrap();
    bench.clock.advance(HOUR);
    let prefix = "docker.io".parse().unwrap();
    let options = EvictionOptions { prefix, keep: Some(30 * DAY), bytes_max: None };
    let evicted = registry.evict(&options).await.unwrap();
    assert_eq!((evicted.manifests, evicted.evicted), (3, 1));
    let there = async |digest| {
        own.manifest_get(&Reference::Digest(digest), TouchPolicy::Never).await.is_ok()
    };
    assert!(!there(old).await && there(used.clone()).await && there(tagged.clone()).await);
    // What was used last stays where there is room for one.
    let options = EvictionOptions { keep: None, bytes_max: Some(600), ..options };
    let evicted = registry.evict(&options).await.unwrap();
    assert_eq!((evicted.manifests, evicted.evicted), (2, 1));
}

/// A pull that was missed must not look like a manifest that is never pulled.
#[tokio::test]
async fn nothing_goes_for_its_age_until_pulls_have_been_tracked_for_as_long() {
    let bench = Bench::new().await;
    let registry = mirrors(&bench);
    let own = repository(&registry);
    store(&own, &image(&bytes(5))).await;
    let prefix = "docker.io".parse().unwrap();
    let options = EvictionOptions { prefix, keep: Some(30 * DAY), bytes_max: None };
    bench.clock.advance(40 * DAY);
    assert_eq!(registry.evict(&options).await.unwrap().evicted, 0, "pulls are not tracked");
    let registry = registry.with_pull_tracking(true);
    registry.update_pulls_since().await.unwrap();
    bench.clock.advance(29 * DAY);
    assert_eq!(registry.evict(&options).await.unwrap().evicted, 0);
    bench.clock.advance(2 * DAY);
    assert_eq!(registry.evict(&options).await.unwrap().evicted, 1);
}

#[tokio::test]
async fn a_purge_blocks_what_it_removes() {
    let bench = Bench::new().await;
    let registry = mirrors(&bench);
    let own = repository(&registry);
    let manifest = store(&own, &image(&bytes(5))).await;
    let layer = digest(&bytes(5));
    assert!(!own.is_blocked(&manifest).await.unwrap());
    let local = repository(&bench.registry);
    local.manifest_purge(&manifest, false).await.unwrap();
    assert!(own.is_blocked(&manifest).await.unwrap());
    assert!(own.is_blocked(&layer).await.unwrap());
    assert!(own.manifest_get(&Reference::Digest(manifest), TouchPolicy::Never).await.is_err());
}

#[tokio::test]
async fn a_tag_of_a_mirror_is_as_old_as_its_last_check() {
    let bench = Bench::new().await;
    let registry = mirrors(&bench);
    let own = repository(&registry);
    let (tag, one, other) = ("v1".parse().unwrap(), digest(b"1"), digest(b"2"));
    let absent = own.mirror_tag(&tag).await.unwrap();
    assert_eq!(absent.tag, None);
    own.set_mirror_tag(&tag, &one, &absent).await.unwrap();
    bench.clock.advance(HOUR);
    let seen = own.mirror_tag(&tag).await.unwrap();
    assert_eq!(seen.tag.as_ref().unwrap().age, HOUR);
    own.set_mirror_tag(&tag, &other, &seen).await.unwrap();
    // One that was slower changes nothing.
    own.set_mirror_tag(&tag, &one, &seen).await.unwrap();
    let now = own.mirror_tag(&tag).await.unwrap().tag.unwrap();
    assert_eq!((now.digest, now.age), (other, Duration::ZERO));
    own.remove_mirror_tag(&tag).await.unwrap();
    assert_eq!(own.mirror_tag(&tag).await.unwrap(), absent);
}
