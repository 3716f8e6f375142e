//! What repositories hold is counted by what is stored, and counting again costs little.

use bytes::Bytes;
use jreg_registry::{RepositoryUsage, UploadChunk};
use serde_json::json;

use crate::bench::{Bench, digest};

/// An image manifest of these blobs, whose descriptors have wrong sizes.
pub(crate) fn image(config: &Bytes, layers: &[&Bytes]) -> String {
    let descriptor = |media: &str, bytes: &Bytes| {
        let digest = digest(bytes).to_string();
        json!({"mediaType": media, "digest": digest, "size": 1})
    };
    let layers =
        layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer));
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": layers.collect::<Vec<_>>(),
    })
    .to_string()
}

async fn usage(bench: &Bench, name: &str) -> RepositoryUsage {
    let uploads = bench.registry.open_uploads().await.unwrap();
    bench.repository(name).storage_usage(&uploads).await.unwrap()
}

#[tokio::test]
async fn unique_bytes_of_manifests_and_their_blobs_are_counted() {
    let bench = Bench::new().await;
    let (config, base) = (Bytes::from_static(b"{}"), Bytes::from(vec![1; 700]));
    let (layer, loose) = (Bytes::from(vec![2; 500]), Bytes::from(vec![3; 77]));
    for name in ["a", "b"] {
        for blob in [&config, &base, &layer, &loose] {
            bench.push(name, blob).await;
        }
    }
    let (one, two) = (image(&config, &[&base]), image(&config, &[&base, &layer]));
    bench.put_manifest("a", "one", &one).await.unwrap();
    bench.put_manifest("a", "two", &two).await.unwrap();
    bench.put_manifest("b", "two", &two).await.unwrap();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(one.as_bytes()).to_string(),
            "size": one.len(),
        }],
    });
    bench.put_manifest("a", "index", &index.to_string()).await.unwrap();
    let repository = bench.repository("a");
    let id = repository.upload_start(None);
    repository.upload_append(&id, UploadChunk::of(Bytes::from(vec![9; 30]))).await.unwrap();
    let a = usage(&bench, "a").await;
    assert_eq!(a.manifests, 3);
    assert_eq!(a.manifest_bytes, (one.len() + two.len() + index.to_string().len()) as u64);
    assert_eq!((a.blobs, a.blob_bytes), (3, 1202), "what no manifest references is not counted");
    assert_eq!((a.uploads, a.upload_bytes), (1, 30));
    assert_eq!((a.deleted_manifests, a.deleted_bytes, a.unreadable), (0, 0, 0));
    let b = usage(&bench, "b").await;
    assert_eq!((b.manifests, b.blob_bytes, b.uploads), (1, 1202, 0));
    let nothing = usage(&bench, "none").await;
    assert_eq!((nothing.manifests, nothing.blob_bytes), (0, 0));
}

#[tokio::test]
async fn deleted_content_that_is_kept_is_counted_apart() {
    let bench = Bench::new().await;
    let (config, base) = (Bytes::from_static(b"{}"), Bytes::from(vec![1; 700]));
    let layer = Bytes::from(vec![2; 500]);
    for blob in [&config, &base, &layer] {
        bench.push("a", blob).await;
    }
    let (kept, deleted) = (image(&config, &[&base]), image(&config, &[&base, &layer]));
    bench.put_manifest("a", "kept", &kept).await.unwrap();
    bench.put_manifest("a", "gone", &deleted).await.unwrap();
    let reference = digest(deleted.as_bytes()).to_string().parse().unwrap();
    bench.repository("a").manifest_delete(&reference, None).await.unwrap();
    let a = usage(&bench, "a").await;
    assert_eq!((a.manifests, a.blob_bytes), (1, 702));
    assert_eq!((a.deleted_manifests, a.deleted_bytes), (1, 500 + deleted.len() as u64));
}

#[tokio::test]
async fn counting_again_costs_the_listings() {
    let bench = Bench::new().await;
    let config = Bytes::from_static(b"{}");
    bench.push("a", &config).await;
    for number in 0..20_u8 {
        let layer = Bytes::from(vec![number; 100]);
        bench.push("a", &layer).await;
        bench.put_manifest("a", &format!("t{number}"), &image(&config, &[&layer])).await.unwrap();
    }
    let another = bench.another("a").await;
    bench.calls.take();
    another.storage_usage(&Default::default()).await.unwrap();
    let calls = bench.calls.take();
    let count = |operation: &str| calls.iter().filter(|call| call.operation == operation).count();
    assert_eq!((count("list"), count("get")), (3, 60), "manifests and links: {calls:?}");
    another.storage_usage(&Default::default()).await.unwrap();
    let calls: Vec<_> = bench.calls.take().into_iter().map(|call| call.operation).collect();
    assert_eq!(calls, ["list", "list", "list"]);
}
