//! Explaining: every reason why something is kept, and when it goes if there is none.

use std::time::Duration;

use jreg_registry::{
    ContentKind, ExplainRequest, ExplainedContent, GcOptions, NoObserver, RetentionReason,
};
use jreg_storage::Clock;

use crate::bench::{Bench, HOUR, bytes, digest};
use crate::gc::{image, index, referrer};

async fn explain(
    bench: &Bench,
    repository: Option<&str>,
    digest: jreg_oci::Digest,
) -> Vec<ExplainedContent> {
    let repository = repository.map(|name| name.parse().unwrap());
    let request = ExplainRequest { digest, repository };
    bench.registry.explain(request, &GcOptions::default()).await.unwrap().holdings
}

fn seconds(bench: &Bench) -> u64 {
    bench.clock.now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn every_reason_is_named() {
    let bench = Bench::new().await;
    let (config, child) = (bytes(5), image(&bytes(5)));
    bench.push("a", &config).await;
    bench.push("b", &config).await;
    let (index, signature) = (index(&[&child]), referrer(&child, &config));
    let of = |manifest: &str| digest(manifest.as_bytes());
    bench.put_manifest("a", "v1", &child).await.unwrap();
    bench.put_manifest("a", "multi", &index).await.unwrap();
    bench.put_manifest("a", &of(&signature).to_string(), &signature).await.unwrap();
    let held = explain(&bench, Some("a"), of(&child)).await;
    let by_tag = RetentionReason::Tag { tag: "v1".parse().unwrap() };
    assert_eq!(held[0].reasons, [by_tag, RetentionReason::Manifest { digest: of(&index) }]);
    assert_eq!(held[0].goes_after, None);
    let held = explain(&bench, Some("a"), of(&signature)).await;
    assert_eq!(held[0].reasons, [RetentionReason::Subject { digest: of(&child) }]);
    let mut naming = [of(&child), of(&signature)];
    naming.sort_by_key(ToString::to_string);
    let naming = naming.map(|digest| RetentionReason::Manifest { digest });
    let held = explain(&bench, None, digest(&config)).await;
    assert_eq!(held.len(), 2);
    assert_eq!((held[0].kind, held[0].size_bytes), (ContentKind::Blob, 5));
    assert_eq!((&held[0].reasons[..], &held[1].reasons[..]), (&naming[..], &[][..]));
}

#[tokio::test]
async fn unreferenced_content_is_deleted_when_explained() {
    let bench = Bench::new().await;
    bench.push("a", &bytes(5)).await;
    let pushed = seconds(&bench);
    bench.clock.advance(HOUR);
    let held = explain(&bench, Some("a"), digest(&bytes(5))).await;
    assert_eq!(held[0].age_s, 3600);
    let goes_after = held[0].goes_after.unwrap();
    assert_eq!(goes_after, pushed + 24 * 3600 + 60);
    let collect = async || {
        let options = GcOptions::default();
        bench.registry.collect_garbage(&options, &NoObserver).await.unwrap().links.removed
    };
    bench.clock.advance(Duration::from_secs(goes_after - seconds(&bench)));
    assert_eq!(collect().await, 0);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(collect().await, 1);
    assert_eq!(explain(&bench, None, digest(&bytes(5))).await, []);
}

#[tokio::test]
async fn untagged_manifest_is_kept_or_deleted_by_the_settings() {
    let bench = Bench::new().await;
    bench.push("a", &bytes(5)).await;
    let manifest = image(&bytes(5));
    let digest = digest(manifest.as_bytes());
    bench.put_manifest("a", &digest.to_string(), &manifest).await.unwrap();
    let held = explain(&bench, None, digest.clone()).await;
    assert_eq!(held[0].reasons, [RetentionReason::UntaggedKept]);
    let request = ExplainRequest { digest, repository: None };
    let untagged = GcOptions { untagged: Some(HOUR), ..GcOptions::default() };
    let held = bench.registry.explain(request, &untagged).await.unwrap().holdings;
    assert_eq!(held[0].reasons, []);
    assert!(held[0].goes_after.is_some());
}
