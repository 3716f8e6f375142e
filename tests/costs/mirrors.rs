//! Store requests of a mirror, and its requests to the registry that is mirrored.

use std::sync::Arc;
use std::time::Duration;

use jreg_storage::Store;
use jreg_testkit::upstream::{RequestKind, ScriptedUpstream};
use jreg_testkit::{Image, ServerSpec, StoreKind, TestServer};

use super::Home;
use crate::mirrors::{get, settings};

const PATH: &str = "/v2/docker.io/library/app";

/// A mirror whose store counts, in front of a registry that counts, too.
struct Scene {
    home: Home,
    upstream: ScriptedUpstream,
    server: TestServer,
    image: Image,
}

impl Scene {
    async fn start(home: Home) -> Self {
        let upstream = ScriptedUpstream::start().await;
        let image = Image::plain(1);
        upstream.add_image("library/app", Some("v1"), &image);
        let store: Arc<dyn Store> = match &home {
            Home::Memory(store) => store.clone(),
            Home::Bucket(server) => server.store(),
        };
        let mut settings = settings(&upstream, "fresh = \"1h\"", "");
        (settings.gc_interval, settings.s3_hedge_reads) = (None, false);
        let spec = ServerSpec { settings, ..ServerSpec::default() };
        let server = TestServer::start(spec.store(StoreKind::Given(store))).await;
        Self { home, upstream, server, image }
    }

    /// Sends a GET, and waits until nothing goes on behind it.
    async fn costs(&self, what: &str, target: &str, at_most: usize) {
        self.home.take();
        let response = get(&self.server.client(), &format!("{PATH}/{target}")).await;
        assert_eq!(response.status, 200, "{what}: {response}");
        let mut calls = self.home.take();
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let later = self.home.take();
            if later.is_empty() {
                break;
            }
            calls.extend(later);
        }
        assert!(calls.len() <= at_most, "{what}: {}, not {at_most}: {calls:#?}", calls.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_through_a_mirror_makes_few_requests() {
    for home in [Home::memory(), Home::bucket().await] {
        let scene = Scene::start(home).await;
        let blob = format!("blobs/{}", scene.image.blobs[1].digest());
        let digest = format!("manifests/{}", scene.image.manifest.digest());
        // The tag, the manifest and the mark of a purge are looked for, then the marker of the store is changed once; a
        // link for each of the three blobs is read, the catalog's entry and the manifest are read and written, and the
        // tag is written.
        scene.costs("a tag that is not stored", "manifests/v1", 13).await;
        // The tag, the manifest.
        scene.costs("a tag that is fresh", "manifests/v1", 2).await;
        scene.costs("a manifest that is stored", &digest, 1).await;
        // Its link, the mark of a purge twice, other links, the bytes, the link; and to be read from there.
        scene.costs("a blob that is not stored", &blob, 8).await;
        // Its link, and the bytes, for which a file is asked for first.
        scene.costs("a blob that is stored", &blob, 3).await;
        let counts = scene.upstream.counts();
        let of = |kind| counts.get(&kind).copied().unwrap_or_default();
        // One pull as Docker Hub counts it.
        assert_eq!(of(RequestKind::ManifestHead), 1, "{counts:?}");
        assert_eq!(of(RequestKind::ManifestGet), 1, "{counts:?}");
        assert_eq!((of(RequestKind::BlobHead), of(RequestKind::BlobGet)), (0, 1), "{counts:?}");
        scene.server.stop().await;
    }
}
