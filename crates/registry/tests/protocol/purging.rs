//! When the bytes of a purged manifest go.

use std::time::Duration;

use jreg_oci::{Digest, Reference};
use jreg_registry::{GcOptions, NoObserver, RegistryOptions};

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
