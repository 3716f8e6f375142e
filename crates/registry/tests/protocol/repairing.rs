//! Repairs: what is said before them, and what they keep.

use jreg_registry::{CheckOptions, CollectOptions, FindingKind, Rule, Unwatched};
use jreg_storage::Store;

use crate::bench::{HOUR, bytes, digest, image_with_many_layers};
use crate::checking::{
    Findings, LOOSE, cheap, check, deep, healthy, link_key, place, put, quarantined, remove,
    repairing, tag_key,
};

/// Before anything is put aside it is told, with the images that a person would miss.
#[tokio::test]
async fn a_repair_names_the_images_before_it_removes() {
    let bench = healthy().await;
    let at = place(&bench, &digest(&bytes(LOOSE))).await;
    put(&bench, &at, "wrong!").await;
    put(&bench, &tag_key("v1"), "rubbish").await;
    let found = Findings::default();
    bench.registry.check(&deep(), &found).await.unwrap();
    assert_eq!(found.announced(), [], "nothing is repaired");
    found.take();
    let before = bench.keys("links/").await;
    let repair = CheckOptions { deep: true, ..repairing() };
    bench.registry.check(&repair, &found).await.unwrap();
    let (tag, blob) = (tag_key("v1").to_string(), at.to_string());
    // The index, by its tag, needs the manifest that needs the blob.
    let expected = [(tag, vec!["a:v1".to_owned()]), (blob, vec!["a:all".to_owned()])];
    assert_eq!(found.announced(), expected);
    assert_eq!(bench.keys("links/").await, before);
}

/// An image with more layers than a push may have now needs them, too.
#[tokio::test]
async fn a_repair_names_images_beyond_the_limits_of_a_push() {
    let bench = healthy().await;
    let blob = digest(&bytes(LOOSE));
    bench.store_manifest("a", "old", &image_with_many_layers(&blob)).await;
    let at = place(&bench, &blob).await;
    put(&bench, &at, "wrong!").await;
    let found = Findings::default();
    let repair = CheckOptions { deep: true, ..repairing() };
    bench.registry.check(&repair, &found).await.unwrap();
    let images = vec!["a:all".to_owned(), "a:old".to_owned()];
    assert!(found.announced().contains(&(at.to_string(), images)));
}

/// Corrupt bytes do not become absent ones: the link that named them is put aside, and keeps them
/// until a person has removed it.
#[tokio::test]
async fn bytes_that_a_repair_has_let_go_stay_while_their_link_is_in_quarantine() {
    for broken in [None, Some(Rule::QuarantineKeeps)] {
        let bench = healthy().await;
        let blob = digest(&bytes(LOOSE));
        let (at, link) = (place(&bench, &blob).await, link_key(&blob));
        put(&bench, &at, "wrong!").await;
        let (done, _) = check(&bench, &CheckOptions { deep: true, ..repairing() }).await;
        assert_eq!(done.repaired, 1);
        assert_eq!(quarantined(&bench).await, [link.as_str()]);
        let registry = bench.registry.clone();
        let registry = broken.map_or(registry.clone(), |rule| registry.without(rule));
        let collect = async || {
            let options = CollectOptions { sweep_now: true, ..CollectOptions::default() };
            for _ in 0..3 {
                bench.clock.advance(options.grace + 2 * HOUR);
                registry.collect(&options, &Unwatched).await.unwrap();
            }
            bench.faults.head(&at).await.is_ok()
        };
        assert_eq!(collect().await, broken.is_none(), "{broken:?}");
        if broken.is_none() {
            let found = check(&bench, &cheap()).await.1;
            assert!(found.iter().all(|found| found.kind != FindingKind::BytesOrphan), "{found:?}");
            for copy in bench.keys("quarantine/").await {
                remove(&bench, &copy).await;
            }
            assert!(!collect().await, "then they are garbage");
        }
    }
}
