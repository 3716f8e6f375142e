//! When the bytes of a purged manifest go.

use std::sync::Arc;
use std::time::Duration;

use jreg_lifecycle::{CurrentRules, LifecycleRules};
use jreg_oci::{Digest, Reference};
use jreg_registry::{Error, GcOptions, NoObserver, PageRequest, Registry, RegistryOptions};

use crate::bench::{Bench, BenchStoreKind, MINUTE, digest};

const DAY: Duration = Duration::from_secs(24 * 3600);
const SECRET: &str = "a secret";

async fn sweep(bench: &Bench) -> usize {
    let options = GcOptions { sweep_now: true, share_max_percent: 100, ..GcOptions::default() };
    bench.registry.collect_garbage(&options, &NoObserver).await.unwrap();
    bench.keys("blobs/").await.len()
}

/// Pushes an image with a secret, and lets it grow old; returns its digest.
async fn push(bench: &Bench) -> Digest {
    bench.push("a", &SECRET.into()).await;
    let (media_type, config) =
        ("application/vnd.oci.image.config.v1+json", digest(SECRET.as_bytes()));
    let image = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"{media_type}","digest":"{config}","size":8}},"layers":[]}}"#
    );
    bench.put_manifest("a", "v1", &image).await.unwrap();
    bench.clock.advance(3 * DAY);
    digest(image.as_bytes())
}

#[tokio::test]
async fn bytes_of_a_purged_manifest_go_with_the_second_of_two_sweeps_a_grace_apart() {
    for kind in [BenchStoreKind::Local, BenchStoreKind::Remote] {
        let bench = Bench::at(kind, RegistryOptions::default()).await;
        let image = push(&bench).await;
        bench.repository("a").manifest_purge(&image, true).await.unwrap();
        assert_eq!(sweep(&bench).await, 1, "{kind:?}");
        bench.clock.advance(DAY - MINUTE);
        assert_eq!(sweep(&bench).await, 1, "{kind:?}: too early");
        bench.clock.advance(2 * MINUTE);
        assert_eq!(sweep(&bench).await, 0, "{kind:?}");
    }
}

/// Without the purge, they stay for as long as the manifest can be restored.
#[tokio::test]
async fn bytes_of_a_deleted_manifest_stay_for_as_long_as_it_can_be_restored() {
    for kind in [BenchStoreKind::Local, BenchStoreKind::Remote] {
        let bench = Bench::at(kind, RegistryOptions::default()).await;
        let image = push(&bench).await;
        let reference = Reference::Digest(image.clone());
        bench.repository("a").manifest_delete(&reference, None).await.unwrap();
        for _ in 0..29 {
            assert_eq!(sweep(&bench).await, 1, "{kind:?}");
            bench.clock.advance(DAY);
        }
        bench.repository("a").manifest_restore(&image, true).await.unwrap();
    }
}

/// The tag comes between the check of a purge and its delete: nothing is purged, and the manifest can be deleted and
/// restored.
#[tokio::test]
async fn a_purge_that_an_immutable_tag_stops_leaves_no_mark() {
    let bench = Bench::new().await;
    let image = push(&bench).await;
    bench.repository("a").manifest_delete(&"v1".parse().unwrap(), None).await.unwrap();
    let rules = "[[immutable]]\nrepositories = ['a']\ntags = ['v*']\n";
    let rules =
        CurrentRules::new(Arc::new(LifecycleRules::parse(&format!("{rules}[end]\n")).unwrap()));
    let purging = bench.registry.with_rules(rules).repository("a".parse().unwrap());
    let mut held = bench.gate.hold(|call| call.operation == "put" && call.key.ends_with("/purged"));
    let of = image.clone();
    let purge = tokio::spawn(async move { purging.manifest_purge(&of, false).await });
    held.reached(1).await;
    let store = bench.faults.clone();
    let other =
        Registry::open(store, bench.clock.clone(), RegistryOptions::default()).await.unwrap();
    let other = other.repository("a".parse().unwrap());
    other.tag_restore(&"v2".parse().unwrap(), &image, None).await.unwrap();
    held.release();
    let stopped = purge.await.unwrap();
    assert!(matches!(stopped, Err(Error::Immutable(_))), "{stopped:?}");
    assert!(bench.keys("deleted/").await.iter().all(|key| !key.as_str().ends_with("/purged")));
    bench.repository("a").manifest_delete(&Reference::Digest(image.clone()), None).await.unwrap();
    bench.repository("a").manifest_restore(&image, true).await.unwrap();
}

#[tokio::test]
async fn a_purge_says_by_which_changes_tags_were_deleted() {
    let bench = Bench::new().await;
    let image = push(&bench).await;
    let purged = bench.repository("a").manifest_purge(&image, true).await.unwrap();
    let page = PageRequest { limit: 10, last: None };
    let tag = "v1".parse().unwrap();
    let history = bench.repository("a").tag_history(&tag, &page).await.unwrap().items;
    assert_eq!(purged.changes.get(&tag), Some(&history[0].change));
    assert_eq!((history[0].digest.as_ref(), purged.tags_removed), (None, vec![tag]));
}
